"""What tasks are to each other, asked of the database. Nothing here writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from cq.database import tasks
from cq.states import ACTIVE, DISOWNS, ERROR, Status

if TYPE_CHECKING:
    from cq.models import Task


# Which subtasks decide.


def counted_subtasks(task: Task[Any]) -> QuerySet[Task[Any]]:
    """The subtasks that decide: those of the last run, and those made from outside."""
    last = Q(parent_run=None) if task.status in DISOWNS else counts(task.claim_no)
    return tasks().filter(last, parent_id=task.id)


def counts(run: Any) -> Q:
    """Whether a subtask decides, given its parent's last run."""
    return Q(parent_run=None) | Q(parent_run=run)


def counts_above() -> Q:
    """The same, asked of subtasks of several parents."""
    last = Q(parent_run=F("parent__claim_no")) & ~Q(parent__status__in=DISOWNS)
    return Q(parent_run=None) | last


# What can end.


def may_complete(task_id: UUID) -> bool:
    """A look without a lock: the last of racing subtasks, whose end is committed, is told yes."""
    return completable().filter(id=task_id).exists()


def completable() -> QuerySet[Task[Any]]:
    """WAITING tasks that have nothing unfinished under them."""
    unfinished = tasks().filter(
        counts(OuterRef("claim_no")), parent_id=OuterRef("id"), status__in=ACTIVE
    )
    returned = tasks().filter(id=OuterRef("returned_id"), status__in=ACTIVE)
    return tasks().filter(~Exists(unfinished), ~Exists(returned), status=Status.WAITING)


def failing() -> QuerySet[Task[Any]]:
    """WAITING tasks with `fail_fast` of which a subtask has ended in ERROR."""
    bad = tasks().filter(counts(OuterRef("claim_no")), parent_id=OuterRef("id"), status__in=ERROR)
    return tasks().filter(Exists(bad), status=Status.WAITING, fail_fast=True)


def error_below(parent: Task[Any], returned: Task[Any] | None) -> str:
    bad = counted_subtasks(parent).filter(status__in=ERROR).order_by("finished", "id")
    first = bad.first()
    if first is not None:
        text = f"{bad.count()} of {counted_subtasks(parent).count()} subtasks did not succeed; "
        return f"{text}first {first.func_name} {first.id}, {first.status}: {first.error}"[:2000]
    if returned is not None and returned.status != Status.SUCCESS:
        return f"the task it returned, {returned.func_name} {returned.id}, is {returned.status}"
    if parent.returned_id and returned is None:
        return "the task it returned is gone"
    return ""


def result_of_members(container: Task[Any]) -> Any:
    """A group's: the list in order, None where a member failed. A chain's: its last link's."""
    members = counted_subtasks(container).filter(member_no__isnull=False).order_by("member_no")
    if container.container == "chain":
        last = members.last()
        return None if last is None else last.result
    found = members.values_list("status", "result")
    return [result if status == Status.SUCCESS else None for status, result in found]


# What is made for nobody any more.


def strays() -> QuerySet[Task[Any]]:
    """What still runs, or waits to, though its parent, or the run of it that made it, is over."""
    return tasks().filter(is_stray(), parent_id__isnull=False, status__in=ACTIVE)


def strays_behind() -> QuerySet[Task[Any]]:
    """Successors that a run chained to its own task, which is to run again, and will chain its own."""
    repeats = Q(claim_no=OuterRef("previous_run"), status__in=(Status.QUEUED, Status.RETRY))
    over = repeats | Q(claim_no__gt=OuterRef("previous_run"))
    previous = Exists(tasks().filter(over, id=OuterRef("previous_id")))
    return tasks().filter(previous, previous_run__isnull=False, status=Status.PENDING)


def is_stray() -> Exists:
    """Whether a row's parent is REVOKED, or disowns what the run made that made the row."""
    disowned = Q(claim_no=OuterRef("parent_run"), status__in=DISOWNS)
    over = Q(status=Status.REVOKED) | disowned | Q(claim_no__gt=OuterRef("parent_run"))
    return Exists(tasks().filter(over, id=OuterRef("parent_id")))
