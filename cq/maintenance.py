"""The periodic repair: dead leases, unsettled tasks, tasks nobody can run, rows to prune.

Any number of workers may do all of it at any time: every step is guarded and idempotent.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

from cq import bell, database, graph, lifecycle, registry, settling
from cq.conf import settings
from cq.database import tasks
from cq.states import ACTIVE, DONE, Status

if TYPE_CHECKING:
    from cq.models import Task, Worker

logger = logging.getLogger("cq.maintenance")

PAGE = 200
PRUNING = 1.0  # seconds
MENDING = 1.0  # seconds
WORKERS_KEPT = timedelta(hours=1)
"""A worker that was only stopped for a while must find its row when it goes on."""


def sweep(*, rescues: bool = True, strays: bool = True) -> None:
    """All of it once. Without `rescues`, tasks of silent workers are left alone.

    `strays` looks at all unfinished subtasks there are, and so is not for every sweep.
    """
    steps = [settle_unsettled, break_rings, refuse_unrunnable, prune, forget_workers]
    if strays:
        steps.insert(0, settling.revoke_strays)
    if rescues:
        steps.insert(0, rescue_silent)
    for step in steps:
        with _guarded("step", step.__name__):
            step()


@contextlib.contextmanager
def _guarded(what: str, name: object) -> Iterator[None]:
    """One bad row keeps nobody from the others, nor one step from the next. An outage ends the sweep."""
    try:
        yield
    except Exception as error:
        if database.passing(error) and not database.is_held(error):
            raise
        logger.exception("the sweep goes on without the %s %s", what, name)


def forget_workers() -> int:
    """Delete the rows of those that are gone for good."""
    gone = workers().filter(seen__lt=database.later(Now(), -WORKERS_KEPT))
    return gone.delete()[0]


def workers() -> QuerySet[Worker]:
    """All workers, on the database where they live."""
    return database.worker_model()._base_manager.using(database.alias())


def alive() -> QuerySet[Worker]:
    """Workers whose lease holds, by the database's clock."""
    return workers().filter(seen__gte=database.later(Now(), -settings().lease))


def rescue_silent() -> int:
    """Take back the tasks of workers whose lease is over. Returns how many."""
    holder = alive().filter(id=OuterRef("worker_id"))
    orphans = tasks().filter(~Exists(holder), status=Status.RUNNING)
    returned = _take_back(orphans.filter(started=None), alone=True)
    return returned + _each(orphans.filter(started__isnull=False), _rescue)


def rescue_from(dead: UUID, begun: Collection[UUID]) -> int:
    """Take back the tasks of a worker that is known to be dead, and to have begun these of them."""
    held = tasks().filter(status=Status.RUNNING, worker_id=dead)
    returned = _take_back(held.filter(started=None).exclude(id__in=begun), alone=False)
    return returned + _each(held.filter(Q(started__isnull=False) | Q(id__in=begun)), _rescue)


def _take_back(unbegun: QuerySet[Task[Any]], *, alone: bool) -> int:
    returned = 0
    while queues := lifecycle.take_back(unbegun, alone=alone):
        returned += len(queues)
        for queue in set(queues):
            bell.ring(queue)
    return returned


def _rescue(task: Task[Any]) -> bool:
    status = settling.end(task, lifecycle.rescue)
    if status is None:
        return False
    logger.warning("rescued %s %s from a dead worker: %s", task.func_name, task.id, status)
    if status == Status.QUEUED:
        bell.ring(task.queue)
    settling.settle(task.id)
    return True


def settle_unsettled() -> int:
    """What an end meant for others, where whoever wrote it died before saying so."""
    # Not by a join: a predecessor that was deleted leaves an id behind, without a constraint.
    ahead = tasks().filter(id=OuterRef("previous_id"), status__in=ACTIVE)
    pending = tasks().filter(~Exists(ahead), status=Status.PENDING)
    return sum(
        (
            _each(graph.completable(), _settle, within="completable"),
            _each(graph.failing(), _settle, within="failing"),
            _each(pending, _settle_pending, within="pending"),
        )
    )


def _settle(task: Task[Any]) -> bool:
    settling.settle(task.id)
    return True


def _settle_pending(task: Task[Any]) -> bool:
    if task.previous_id is not None and tasks().filter(id=task.previous_id).exists():
        settling.settle(task.previous_id)
    elif task.force_chain:  # its predecessor is gone, and nobody knows any more how it ended
        if settling.release(task) == Status.WAITING:
            settling.settle(task.id)
    elif lifecycle.skip(task):
        settling.settle(task.id)
    return True


def break_rings() -> int:
    """Tasks that wait for each other, as each returned the other before it saw that the other had."""
    waits = tasks().filter(id=OuterRef("returned_id"), status__in=(Status.WAITING, Status.PENDING))
    # By their ids: when the first of a ring has failed, it is none any more for whoever looks next.
    rings = tasks().filter(Exists(waits), status=Status.WAITING)
    return _each(rings, _break_ring, within="rings")


def _break_ring(task: Task[Any]) -> bool:
    if not _is_in_ring(task) or settling.end(task, lifecycle.break_ring) is None:
        return False
    logger.error("%s %s returned a task that waits for it", task.func_name, task.id)
    settling.settle(task.id)
    return True


def _is_in_ring(task: Task[Any]) -> bool:
    """Whether what it returned can't end before it does.

    Nothing on the way still runs or will run, and so it stays like this.
    """
    found: set[UUID] = set()
    work = [task]
    while work:
        one = work.pop()
        if one.id in found:
            continue
        found.add(one.id)
        work += tasks().filter(previous_id=one.id, status=Status.PENDING)
        work += tasks().filter(returned_id=one.id, status=Status.WAITING)
        above = tasks().filter(id=one.parent_id, status=Status.WAITING)
        work += [row for row in above if one.parent_run in (None, row.claim_no)]
    return task.returned_id in found


def refuse_unrunnable() -> int:
    """QUEUED tasks that expired, or whose function no live worker has known for the grace.

    Of the latter those that would be claimed next: what stands further behind has its time.
    """
    expired = tasks().filter(status=Status.QUEUED, expires_at__lte=Now(), failures=0, rescues=0)
    refused = _each(expired, partial(_refuse, "expired before it began"), within="expired")
    functions = list(alive().values_list("functions", flat=True))
    if not functions:  # between two workers, nobody can say what the next one knows
        return refused
    known = set(registry.names()).union(*functions)
    waited = f"it waited for {settings().unknown_task_grace.total_seconds():g} s"
    for head in graph.heads(PAGE):
        found = head.values_list("id", "func_name")
        ids = [task_id for task_id, name in found if name not in known]
        # Not by their status, too, for which PostgreSQL might look through all that is QUEUED.
        old = database.later(Now(), -settings().unknown_task_grace)
        unknown = tasks().filter(id__in=ids, ready_at__lt=old).exclude(func_name__in=known)
        refused += _each(unknown, partial(_refuse_unknown, waited))
    return refused


def _refuse_unknown(waited: str, task: Task[Any]) -> bool:
    return _refuse(f"unknown task {task.func_name!r}: no worker has it registered; {waited}", task)


def _refuse(error: str, task: Task[Any]) -> bool:
    if settling.end(task, lambda row: lifecycle.refuse(row, error)) is None:
        return False
    logger.error("%s %s: %s", task.func_name, task.id, error)
    settling.settle(task.id)
    return True


def prune() -> int:
    """Delete top tasks, with all under them, whose time to be kept is over. Returns how many rows.

    In small transactions, for a second or so: what is left is for the next sweep.
    """
    until, pruned = time.monotonic() + PRUNING, 0
    while True:
        ids, rows = _prune_page()
        pruned += rows
        if ids < PAGE or time.monotonic() > until:
            return pruned


POINTERS = ("previous", "returned")


def _prune_page() -> tuple[int, int]:
    """How many top tasks there were to go, and how many rows went."""
    unfinished = tasks().filter(status__in=ACTIVE)
    needed = []
    for pointer in POINTERS:
        below = {f"{pointer}__root_id": OuterRef("id"), f"{pointer}__parent__isnull": False}
        needed.append(unfinished.filter(**{f"{pointer}_id": OuterRef("id")}))
        needed.append(unfinished.filter(**below))
    old = tasks().filter(
        *map(graph.lacks, needed), prune_at__lte=Now(), parent=None, status__in=DONE
    )
    found = list(old.order_by("prune_at").values_list("id", flat=True)[:PAGE])
    if not found:
        return 0, 0
    with transaction.atomic(using=database.alias()):
        # Locked, and looked at again: retry() may have revived one, and somebody added to another.
        rows = old.filter(id__in=found)
        still = database.lock(tasks().filter(id__in=found).order_by("id"), skip=True)
        free = list(still.values_list("id", flat=True))
        ids = list(rows.filter(id__in=free).values_list("id", flat=True))
        return len(found), _delete_trees(ids) if ids else 0


def _delete_trees(ids: list[UUID]) -> int:
    lines = database.line_model()._base_manager.using(database.alias())
    lines.filter(root_id__in=ids)._raw_delete(database.alias())
    below, tops = tasks().filter(root_id__in=ids, parent__isnull=False), tasks().filter(id__in=ids)
    outside = tasks().exclude(root_id__in=ids)
    for pointer in POINTERS:  # one to what is gone says nothing
        pointing = graph.has(outside.filter(**{f"{pointer}_id": OuterRef("id")}))
        for rows in (below, tops):
            kept = list(rows.filter(pointing).order_by().values_list("id", flat=True))
            outside.filter(**{f"{pointer}_id__in": kept}).update(**{pointer: None})
    return sum(rows._raw_delete(database.alias()) for rows in (below, tops))


_left_at: dict[str, UUID] = {}
"""Where a step stopped whose time was over."""


def _each(rows: QuerySet[Task[Any]], mend: Callable[[Task[Any]], bool], *, within: str = "") -> int:
    """Mend the rows, page by page of ids: those that can't be helped do not starve those behind them.

    `within`: for a second or so, since whoever sweeps has a heartbeat to renew; the next call of
    that name goes on there. Returns how many there were to mend.
    """
    until, mended = time.monotonic() + MENDING, 0
    last = _left_at.pop(within, None)
    while True:
        page = rows.order_by("id") if last is None else rows.order_by("id").filter(id__gt=last)
        ids = list(page.values_list("id", flat=True)[:PAGE])
        for task_id in ids:
            with _guarded("task", task_id):
                # One by one, since a row that can't be read would take its page with it.
                task = rows.filter(id=task_id).first()
                mended += task is not None and mend(task)
        if len(ids) < PAGE:
            return mended
        last = ids[-1]
        if within and time.monotonic() > until:
            _left_at[within] = last
            return mended
