"""What tasks are to each other, asked of the database. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.lookups import IsNull

from cq.database import tasks
from cq.states import ACTIVE, DISOWNS, ERROR, Status

if TYPE_CHECKING:
    from cq.models import Task


def lacks(rows: QuerySet[Task[Any]], *order: str) -> IsNull:
    """That there is no such row, which is asked of one row after the other.

    PostgreSQL makes a join of NOT EXISTS, and where it expects to find much reads all that there
    is. `order` names the index that it is to look in.
    """
    return IsNull(_first(rows, *order), True)


def has(rows: QuerySet[Task[Any]], *order: str) -> IsNull:
    """That there is such a row; see `lacks`."""
    return IsNull(_first(rows, *order), False)


def _first(rows: QuerySet[Task[Any]], *order: str) -> Subquery:
    return Subquery(rows.order_by(*order).values("id")[:1])


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

UNFINISHED = (
    Q(status__in=ACTIVE, status__range=(Status.PENDING, Status.SCHEDULED)),
    Q(status__gte=Status.WAITING),
)
"""ACTIVE, as an index has it: in order of the alphabet, between these stands all that has succeeded."""


def may_complete(task_id: UUID) -> bool:
    """A look without a lock: the last of racing subtasks, whose end is committed, is told yes."""
    return completable().filter(id=task_id).exists()


def completable() -> QuerySet[Task[Any]]:
    """WAITING tasks that have nothing unfinished under them."""
    under = tasks().filter(counts(OuterRef("claim_no")), parent_id=OuterRef("id"))
    nothing = [lacks(under.filter(some), "parent_id", "status") for some in UNFINISHED]
    returned = tasks().filter(id=OuterRef("returned_id"), status__in=ACTIVE)
    return tasks().filter(*nothing, lacks(returned), status=Status.WAITING)


def failing() -> QuerySet[Task[Any]]:
    """WAITING tasks with `fail_fast` of which a subtask has ended in ERROR."""
    bad = tasks().filter(counts(OuterRef("claim_no")), parent_id=OuterRef("id"), status__in=ERROR)
    any_bad = has(bad, "parent_id", "status")
    return tasks().filter(any_bad, status=Status.WAITING, fail_fast=True)


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


# What is next.


def heads(limit: int) -> Iterator[QuerySet[Task[Any]]]:
    """Of each queue, what is to be claimed next: looked at where all that is QUEUED would be too much.

    The queues are found by leaps over the index, whether or not anybody knows them.
    """
    queued, queue = tasks().filter(status=Status.QUEUED), ""
    while True:
        behind = queued.filter(queue__gt=queue).order_by("queue").values_list("queue", flat=True)
        following = behind.first()
        if following is None:
            return
        queue = following
        yield queued.filter(queue=queue).order_by("-priority", "ready_at", "id")[:limit]


def next_due(limit: int) -> QuerySet[Task[Any]]:
    """The SCHEDULED and RETRY tasks whose time comes next."""
    waiting = tasks().filter(status__in=(Status.SCHEDULED, Status.RETRY))
    return waiting.order_by("ready_at")[:limit]


# What is made for nobody any more.


def strays() -> QuerySet[Task[Any]]:
    """What still runs, or waits to, though its parent, or the run of it that made it, is over."""
    return tasks().filter(is_stray(), parent_id__isnull=False, status__in=ACTIVE)


def strays_behind() -> QuerySet[Task[Any]]:
    """Successors that a run chained to its own task, which is to run again, and will chain its own."""
    again = (Status.QUEUED, Status.RETRY, Status.PENDING)
    repeats = Q(claim_no=OuterRef("previous_run"), status__in=again)
    over = repeats | Q(claim_no__gt=OuterRef("previous_run"))
    previous = Exists(tasks().filter(over, id=OuterRef("previous_id")))
    return tasks().filter(previous, previous_run__isnull=False, status=Status.PENDING)


def is_stray() -> Exists:
    """Whether a row's parent is REVOKED, or disowns what the run made that made the row."""
    disowned = Q(claim_no=OuterRef("parent_run"), status__in=DISOWNS)
    over = Q(status=Status.REVOKED) | disowned | Q(claim_no__gt=OuterRef("parent_run"))
    return Exists(tasks().filter(over, id=OuterRef("parent_id")))
