"""What an end means for others: parent, successors, errorbacks, siblings, those that returned it.

Every step is idempotent and, but for revoking, takes one task-row lock at a time; the sweep calls them again where
whoever ended a task died before saying so.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from cq import bell, context, database, graph, lifecycle, logs, revoking, submission
from cq.conf import settings
from cq.database import tasks
from cq.lifecycle import Outcome
from cq.states import ACTIVE, ANSWERED, DISOWNS, DONE, ERROR, Status
from cq.submission import Place

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.settling")

TRIES = 6

LOOK = 200  # tasks of each queue
STRAYS = 5000  # revoked at a time: whoever sweeps has a heartbeat to renew


# Ends, with what has to be in their transaction.


def finish(task: Task[Any], outcome: Outcome) -> bool:
    """`lifecycle.finish()`, and the errorbacks of a bad end; in the caller's transaction."""
    concerns_others = lifecycle.finish(task, outcome)
    if outcome.status in ANSWERED:
        _answer(task.id)
    return concerns_others


def end(task: Task[Any], move: Callable[[Task[Any]], Status | None]) -> Status | None:
    """`move(task)`, which gives the status it got, and the errorbacks of a bad end."""
    # SQLite: a write after a read is refused at once where another has written meanwhile.
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=database.alias()):
        database.bound_waits()
        status = move(task)
        if status in ANSWERED:
            _answer(task.id)
    return status


def _answer(task_id: UUID) -> None:
    """Insert the errorbacks of a task that has ended badly, under the same parent, which can't end yet."""
    failed: Any = tasks().filter(id=task_id).exclude(errorbacks=[]).first()
    if failed is None:
        return
    for kept in failed.errorbacks:
        if kept["run"] in (None, failed.claim_no):
            answer(failed, kept["call"])


def answer(failed: Task[Any], call: Mapping[str, Any]) -> Task[Any]:
    """One errorback of a task that has ended badly."""
    return submission.make(*as_answer(failed, call))


def as_answer(failed: Task[Any], call: Mapping[str, Any]) -> tuple[dict[str, Any], Place]:
    """What an errorback's row says, told the error as it is now, and where it stands."""
    kind, _, message = failed.error.partition(": ")
    if not failed.traceback:  # no exception's, but said by cq
        kind, message = str(failed.status), failed.error
    error = {"type": kind, "message": message, "traceback": failed.traceback}
    place = Place(
        parent=failed.parent, parent_run=failed.parent_run, previous=failed, is_errorback=True
    )
    return {**call, "args": [error, *call["args"]]}, place


# After the commit.


def settle(task_id: UUID) -> None:
    """Release the successors of what ended, complete what waited for it, upwards."""
    settle_all([task_id])


def settle_all(ids: Iterable[UUID]) -> None:
    """The same, of several."""
    work = deque(ids)
    while work:
        task = tasks().filter(id=work.popleft()).first()
        if task is None:
            continue
        if not task.atomic and (task.status in DISOWNS or task.claim_no > 1):
            work.extend(abandon([task.id]))
        if task.status == Status.WAITING:
            work.extend(_settle_waiting(task))
        if task.status not in DONE:
            continue
        work.extend(release_successors(task))
        if task.parent_id is None:
            logs.store(task.id)
        above = tasks().filter(Q(id=task.parent_id) | Q(returned_id=task.id, status=Status.WAITING))
        for waiter in above:
            if waiter.status == Status.WAITING:
                work.extend(_settle_waiting(waiter))
            elif waiter.fail_fast and task.status in ERROR:
                work.extend(_fail_fast(waiter))


def settle_after(ids: Iterable[UUID]) -> None:
    """The same, of what is concerned by what the caller's transaction does, once that is committed.

    Before, nobody else could see it, and what ends meanwhile would be left WAITING; nor could an
    atomic run commit that `fail_fast` had revoked in its own transaction.
    """
    run = context.current()
    if run is not None and run.task.atomic and run.how != "inline":
        run.concerned.extend(ids)
    elif database.depth() and not settings().serial:
        later = partial(settle_all, list(ids))
        transaction.on_commit(later, using=database.alias(), robust=True)
    else:
        settle_all(ids)


def _settle_waiting(waiter: Task[Any]) -> list[UUID]:
    """Complete it, or revoke what it will not wait for. Returns what is to be settled after that."""
    if graph.may_complete(waiter.id) and end(waiter, lifecycle.complete) is not None:
        return [waiter.id]
    return _fail_fast(waiter) if waiter.fail_fast else []


def completable(ids: Collection[UUID]) -> list[UUID]:
    """Those of these parents that may be complete: most subtasks that end are not the last."""
    return list(graph.completable().filter(id__in=ids).values_list("id", flat=True))


def complete_above(parent_id: UUID) -> None:
    """After a subtask that concerns nobody but its parent."""
    if graph.may_complete(parent_id):
        settle(parent_id)


def try_to(step: Callable[[UUID], object], task_id: UUID) -> None:
    """`step(task_id)`, a few times while the database is to blame; what fails is left to the sweep."""
    for tries in range(TRIES):
        try:
            step(task_id)
        except Exception as error:
            if not database.passing(error) or tries == TRIES - 1:
                logger.exception("%s of %s failed; the sweep will do it", step, task_id)
                return
            database.discard(database.connection()) if database.depth() == 0 else None
            database.pause(tries)
        else:
            return


def release_successors(task: Task[Any]) -> list[UUID]:
    """Of a task that has ended: its successors become claimable, or SKIPPED.

    Returns those that have to be settled: the skipped ones, and groups and chains.
    """
    concerned = []
    pending = tasks().filter(previous_id=task.id, is_errorback=False, status=Status.PENDING)
    for successor in pending:
        if task.status == Status.SUCCESS or successor.force_chain:
            if release(successor) == Status.WAITING:
                concerned.append(successor.id)
        elif lifecycle.skip(successor):
            concerned.append(successor.id)
    return concerned


def release(task: Task[Any]) -> Status | None:
    """From PENDING, and ring for it; a group or chain gets its members."""
    with transaction.atomic(using=database.alias()):
        database.bound_waits()
        status = lifecycle.release(task)
        if status is None:
            return None
        task.status = status
        if status == Status.WAITING:
            submission.fill(task, task.members)
        else:
            bell.announce([task])
    return status


def open_container(task_id: UUID) -> bool:
    """SCHEDULED to WAITING, of a group or chain whose time has come."""
    task = tasks().filter(id=task_id).first()
    if task is None:
        return False
    with transaction.atomic(using=database.alias()):
        database.bound_waits()
        if not lifecycle.open_container(task):
            return False
        task.status = Status.WAITING
        submission.fill(task, task.members)
    settle(task.id)
    return True


# Revoking.


def revoke(task_id: UUID) -> bool:
    """The task, all under it, and its successors with all under them. False: it has ended already."""
    revoked = revoking.revoke(task_id)
    settle_after(_concerned(revoked))
    return bool(revoked)


def revoke_strays() -> int:
    """What is under a REVOKED task, or was made by a run that is over and counts no more.

    Looked for among all that is under way, and what comes next; and so many at a time: what stands
    further behind is found by a later sweep, or at its claim.
    """
    revoked = _revoke_behind(graph.strays_behind())
    parents = list(dict.fromkeys(_parents_of_strays()))
    for start in range(0, len(parents), revoking.PARENTS):
        strays = graph.strays().filter(parent_id__in=parents[start : start + revoking.PARENTS])
        left = max(0, STRAYS - len(revoked))
        ids = list(strays.order_by().values_list("id", flat=True)[:left])
        revoked += revoking.revoke_trees(tasks().filter(id__in=ids))
    settle_all(_concerned(revoked))
    return len(revoked)


def _parents_of_strays() -> Iterator[UUID]:
    under_way = (Status.RUNNING, Status.WAITING, Status.PENDING)
    yield from graph.strays().filter(status__in=under_way).values_list("parent_id", flat=True)
    for rows in (*graph.heads(LOOK), graph.next_due(LOOK)):
        ids = list(rows.values_list("id", flat=True))
        yield from graph.strays().filter(id__in=ids).values_list("parent_id", flat=True)


def abandon(ids: Sequence[UUID]) -> list[UUID]:
    """Revoke what earlier runs of these made, as nobody waits for it. Returns what to settle."""
    revoked: list[UUID] = []
    for start in range(0, len(ids), lifecycle.BATCH):
        batch = ids[start : start + lifecycle.BATCH]
        revoked += _revoke_behind(graph.strays_behind().filter(previous_id__in=batch))
        revoked += revoking.revoke_trees(graph.strays().filter(parent_id__in=batch))
    return _concerned(revoked)


def _revoke_behind(strays: QuerySet[Task[Any]]) -> list[UUID]:
    """Stray successors, with those behind them: unlike others that are revoked, nobody misses them."""
    revoked: list[UUID] = []
    for task_id in list(strays.values_list("id", flat=True)):
        revoked += revoking.revoke(task_id, disowned=True, wait=False)
    return revoked


def _fail_fast(parent: Task[Any]) -> list[UUID]:
    """Once a subtask has ended in ERROR: revoke its unfinished siblings. Returns what to settle.

    Not errorbacks, nor successors that run after any end.
    """
    counted = graph.counted_subtasks(parent)
    if not counted.filter(status__in=ERROR).exists():
        return []
    spared = Q(is_errorback=True) | Q(force_chain=True, previous_id__isnull=False)
    unfinished = counted.exclude(spared).filter(status__in=ACTIVE)
    # First those that only a sibling's end could release: so that this end does not skip them.
    revoked = revoking.revoke_trees(unfinished.filter(status=Status.PENDING))
    return _concerned(revoked + revoking.revoke_trees(unfinished))


def _concerned(revoked: Sequence[UUID]) -> list[UUID]:
    """What has to be settled after a revoke: few of these, and what waits for any of them."""
    found: list[UUID] = []
    for start in range(0, len(revoked), lifecycle.BATCH):
        batch = revoked[start : start + lifecycle.BATCH]
        rows = tasks().filter(id__in=batch)
        behind = tasks().filter(previous_id__in=batch, status=Status.PENDING)
        found += rows.filter(parent=None).values_list("id", flat=True)
        found += behind.values_list("previous_id", flat=True)
        waits = Q(id__in=rows.values("parent_id")) | Q(returned_id__in=batch)
        found += tasks().filter(waits, status=Status.WAITING).values_list("id", flat=True)
    return list(dict.fromkeys(found))
