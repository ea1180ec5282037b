"""The only writer of `Task.status`: guarded UPDATEs along the table in states, each won by one caller."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from cq import database, graph
from cq.conf import settings
from cq.database import tasks
from cq.exceptions import Fenced
from cq.signature import without_secrets
from cq.states import ACTIVE, BIRTH, DONE, ERROR, REVIVALS, TRANSITIONS, Status

if TYPE_CHECKING:
    from cq.models import Task

BATCH = 500
NO_RUN = -1
"""As `parent_run`: of no run of the parent that counts."""

# Entering one of these, a row forgets its sensitive arguments; after the others they may be needed.
_FORGETS = frozenset({Status.SUCCESS, Status.WAITING, Status.REVOKED, Status.SKIPPED})


@dataclass(kw_only=True)
class Outcome:
    """How a run ended: what is written with the task's own effects."""

    status: Status
    result: Any = None
    error: str = ""
    traceback: str = ""
    delay: timedelta | None = None
    returned: Task[Any] | None = None
    concerns_others: bool = False
    begun: bool = True
    """Whether its function was called: only then was there an attempt."""
    errorbacks: list[dict[str, Any]] = field(default_factory=list)
    """Signatures that the run added for the case of a bad end."""
    changes: dict[str, Any] = field(default_factory=dict)


# Birth.


def insert(task: Task[Any]) -> None:
    """One INSERT, no SELECT, no lock, in the caller's transaction."""
    _born(task)
    task.save(force_insert=True, using=database.alias())


def insert_many(new: Sequence[Task[Any]]) -> None:
    """Bulk INSERTs, in the caller's transaction."""
    for task in new:
        _born(task)
    tasks().bulk_create(new, batch_size=BATCH)


def _born(task: Task[Any]) -> None:
    assert task.status in BIRTH, task.status


# From PENDING, when the predecessor has ended.


def release(task: Task[Any]) -> Status | None:
    """PENDING to QUEUED, or to SCHEDULED where its time lies ahead; a container to WAITING.

    Who releases a container fills it, in the same transaction. None: another did it.
    """
    row = tasks().filter(id=task.id)
    if "run_after" in task.delays:
        ahead = database.later(Now(), timedelta(seconds=task.delays["run_after"]))
        return _release(row, task, Status.SCHEDULED, ahead)
    if task.run_after is not None:
        later = _release(row.filter(run_after__gt=Now()), task, Status.SCHEDULED, F("run_after"))
        if later is not None:
            return later
    return _release(row, task, Status.WAITING if task.container else Status.QUEUED, Now())


def _release(
    row: QuerySet[Task[Any]], task: Task[Any], target: Status, ready_at: Any
) -> Status | None:
    changes = {"ready_at": ready_at}
    if target == Status.WAITING:
        changes["members"] = []
    if "expires" in task.delays:
        changes["expires_at"] = database.later(ready_at, timedelta(seconds=task.delays["expires"]))
    return target if _move(row, (Status.PENDING,), target, **changes) else None


def skip(task: Task[Any]) -> bool:
    """PENDING to SKIPPED: its predecessor ended badly."""
    row = tasks().filter(id=task.id)
    with transaction.atomic(using=database.alias(), savepoint=False):
        database.bound_waits()
        # Under a lock where it may be given errorbacks, which it forgets the secrets of.
        found = database.lock(row).first() if task.linked else task
        return found is not None and bool(_move(row, (Status.PENDING,), Status.SKIPPED, found))


# From SCHEDULED and RETRY, when their time has come.


def make_due(limit: int = 1000) -> set[str]:
    """SCHEDULED and RETRY to QUEUED, of what is due. Returns the queues of what moved.

    Reads first: where nothing is due, nothing is locked. What somebody else holds is left to the
    next step.
    """
    waiting = (Status.SCHEDULED, Status.RETRY)
    due = tasks().filter(status__in=waiting, ready_at__lte=Now(), container="")
    due = due.order_by("ready_at")
    found = list(due.values_list("id", "queue")[:limit])
    if not found:
        return set()
    ids = [found_id for found_id, _ in found]
    with transaction.atomic(using=database.alias()):
        rows = tasks().filter(id__in=ids, status__in=waiting).order_by("id")
        free = dict(database.lock(rows, skip=True).values_list("id", "queue"))
        moved = _move(tasks().filter(id__in=list(free)), waiting, Status.QUEUED)
    return set(free.values()) if moved else set()


def due_containers() -> QuerySet[Task[Any]]:
    """SCHEDULED groups and chains whose time has come."""
    waiting = tasks().filter(status=Status.SCHEDULED, ready_at__lte=Now())
    return waiting.exclude(container="")


def open_container(task: Task[Any]) -> bool:
    """SCHEDULED to WAITING, of a container: who does it fills it, in the same transaction."""
    row = tasks().filter(id=task.id)
    return bool(_move(row, (Status.SCHEDULED,), Status.WAITING, members=[]))


def hurry(task: Task[Any]) -> bool:
    """SCHEDULED or RETRY to QUEUED, whatever the time: CQ_SERIAL waits for nothing."""
    row = tasks().filter(id=task.id)
    return bool(_move(row, (Status.SCHEDULED, Status.RETRY), Status.QUEUED))


# From QUEUED.


def claim(queue: str, names: Sequence[str], limit: int, worker: UUID) -> list[Task[Any]]:
    """QUEUED to RUNNING, of the next `limit` tasks of `queue` with a function among `names`."""
    queued = tasks().filter(status=Status.QUEUED, queue=queue, func_name__in=names)
    candidates = queued.order_by("-priority", "ready_at", "id")
    features = connections[queued.db].features
    if not features.has_select_for_update_skip_locked:
        while ids := list(candidates.values_list("id", flat=True)[:limit]):
            if won := _take(ids, worker):  # else others took them all, and there may be more
                return won
        return []
    with transaction.atomic(using=queued.db):
        locked = candidates.annotate(clock=Now(), stray=graph.is_stray()).select_for_update(
            skip_locked=True, no_key=features.has_select_for_no_key_update
        )
        claimed: list[Any] = list(locked[:limit])
        if claimed:
            ids = [task.id for task in claimed]
            _move_to_running(ids, worker, claimed[0].clock)
    for task in claimed:
        task.status, task.worker_id, task.started = Status.RUNNING, worker, task.clock
        task.claim_no += 1
        task.is_stray = task.stray
    return claimed


def claim_one(task_id: UUID, worker: UUID) -> Task[Any] | None:
    """QUEUED to RUNNING, of one task. None: another has it, or it is not claimable."""
    return next(iter(_take([task_id], worker)), None)


def _take(ids: Sequence[UUID], worker: UUID) -> list[Task[Any]]:
    """Where rows can't be locked while others are skipped: one UPDATE, then see what it won."""
    _move_to_running(ids, worker, Now())
    won = tasks().filter(id__in=ids, status=Status.RUNNING, worker_id=worker)
    taken: list[Any] = list(
        won.annotate(stray=graph.is_stray()).order_by("-priority", "ready_at", "id")
    )
    for task in taken:
        task.is_stray = task.stray
    return taken


def _move_to_running(ids: Sequence[UUID], worker: UUID, started: Any) -> None:
    _move(
        tasks().filter(id__in=ids),
        (Status.QUEUED,),
        Status.RUNNING,
        worker_id=worker,
        claim_no=F("claim_no") + 1,
        started=started,
    )


def refuse(task: Task[Any], error: str) -> Status | None:
    """QUEUED to FAILURE, without a run: it expired, or nobody knows its function."""
    row = tasks().filter(id=task.id)
    refused = _move(row, (Status.QUEUED,), Status.FAILURE, task, error=error, traceback="")
    return Status.FAILURE if refused else None


# From RUNNING. Every one of these is fenced: it says whose run, and which.


def mine(task: Task[Any]) -> QuerySet[Task[Any]]:
    """The row, as long as this run of it is the one that holds it."""
    return tasks().filter(
        id=task.id,
        status=Status.RUNNING,
        worker_id=task.worker_id,
        claim_no=task.claim_no,
    )


def finish(task: Task[Any], outcome: Outcome) -> bool:
    """The end of a run, in the transaction of its effects. Raises Fenced where it is not its own.

    Returns whether others than its parent are concerned (see `settling.settle`). A task that
    nobody is linked to is one UPDATE, which notices if somebody has linked to it meanwhile.
    """
    changes = _changes(task, outcome)
    plain = outcome.status == Status.SUCCESS and not (task.linked or outcome.concerns_others)
    running = (Status.RUNNING,)
    if plain and _move(mine(task).filter(linked=False), running, Status.SUCCESS, task, **changes):
        return False
    if outcome.status != Status.SUCCESS and not outcome.errorbacks:
        if not _move(mine(task), running, outcome.status, task, **changes):
            raise Fenced
        return True
    with transaction.atomic(using=database.alias(), savepoint=False):
        # Whoever adds something under a task that it does not run under holds this lock.
        locked = database.lock(mine(task)).values_list("errorbacks", "root_id", "depth").first()
        if locked is None:
            raise Fenced
        errorbacks, root, depth = locked
        if root is not None and root != task.root_id:  # what it made does not know yet
            move_tree(task.root_id or task.id, root, depth - task.depth)
        if outcome.errorbacks:
            changes |= {"errorbacks": [*errorbacks, *outcome.errorbacks], "linked": True}
        if outcome.status != Status.SUCCESS:
            _move(mine(task), running, outcome.status, task, **changes)
            return True
        under = outcome.returned is not None or graph.counted_subtasks(task).exists()
        status = Status.WAITING if under else Status.SUCCESS
        if under:
            changes["attempts"][-1]["outcome"] = status
        elif (
            errorbacks or outcome.errorbacks
        ):  # nobody needs them any more, and they may hold what is sensitive
            changes["errorbacks"] = []
        _move(mine(task), running, status, task, **changes)
    return True


def move_tree(old: UUID, new: UUID, deeper: int) -> None:
    """What is under `old`, which was a top task, is under `new`: also what is being added meanwhile."""
    under = tasks().filter(root_id=old)
    while under.update(root_id=new, depth=F("depth") + deeper):
        pass


def _changes(task: Task[Any], outcome: Outcome) -> dict[str, Any]:
    entries = [attempt(task, outcome.status, outcome.error)] if outcome.begun else []
    changes = {
        "attempts": [*task.attempts, *entries],
        "result": outcome.result,
        "error": outcome.error,
        "traceback": outcome.traceback,
        **outcome.changes,
    }
    if outcome.returned is not None:
        changes["returned_id"] = outcome.returned.id
    if outcome.begun and outcome.status in (Status.RETRY, Status.FAILURE):
        changes["failures"] = F("failures") + 1
    if outcome.status == Status.RETRY:
        changes["ready_at"] = database.later(Now(), outcome.delay or timedelta(0))
    return changes


def attempt(task: Task[Any], outcome: Status, error: str) -> dict[str, Any]:
    """One entry of `attempts`."""
    started = now = datetime.now(UTC)
    if task.started is not None:
        started, now = task.started, max(now, task.started)
    # Whoever did not run it himself only knows when it ended.
    ran = timedelta(seconds=time.monotonic() - task.begun_at) if task.begun_at else now - started
    return {
        "number": len(task.attempts) + 1,
        "started": started.astimezone(UTC).isoformat(),
        "finished": (started + ran).astimezone(UTC).isoformat(),
        "outcome": str(outcome),
        "error": error,
        "worker": str(task.worker_id or ""),
    }


def give_back(claimed: Iterable[Task[Any]]) -> int:
    """RUNNING to QUEUED, of what was claimed and not begun: nothing is counted against it."""
    return sum(
        _move(mine(task), (Status.RUNNING,), Status.QUEUED, worker_id=None, started=None)
        for task in claimed
    )


def give_back_unknown(worker: UUID, known: Collection[UUID]) -> int:
    """RUNNING to QUEUED, of what `worker` holds unknowingly: it got no answer to its claim."""
    unknown = tasks().filter(worker_id=worker).exclude(id__in=known)
    return _move(unknown, (Status.RUNNING,), Status.QUEUED, worker_id=None, started=None)


def rescue(task: Task[Any]) -> Status | None:
    """Take a task back from a worker that died. None: it had ended, or another took it.

    Atomic tasks, those not begun and those with `rerun_lost` run again; others are LOST. The
    death that is one too many makes it a FAILURE.
    """
    deaths = task.rescues + 1
    if deaths >= settings().max_deaths:
        target, error = Status.FAILURE, f"its worker died {deaths} times while running it"
    elif task.atomic or task.rerun_lost or task.started is None:
        target, error = Status.QUEUED, "its worker died"
    else:
        target, error = Status.LOST, "its worker died, and it may not simply run again"
    changes: dict[str, Any] = {"rescues": deaths, "worker_id": None}
    if task.started is not None:
        changes["attempts"] = [*task.attempts, attempt(task, target, error)]
    if target == Status.QUEUED:
        changes["started"] = None
    else:
        changes |= {"error": error, "traceback": ""}
    return target if _move(mine(task), (Status.RUNNING,), target, task, **changes) else None


# From any that is not final.


def revoke(rows: Iterable[Task[Any]]) -> int:
    """To REVOKED, of rows that the caller has locked in its transaction, those that are not final."""
    together = []
    revoked = 0
    for task in rows:
        row = tasks().filter(id=task.id)
        changes: dict[str, Any] = {}
        if task.status == Status.RUNNING and task.started is not None:
            changes["attempts"] = [*task.attempts, attempt(task, Status.REVOKED, "revoked")]
        if changes or task.parent_id is None or _masked(task, Status.REVOKED):
            revoked += _move(row, ACTIVE, Status.REVOKED, task, **changes)
        else:
            together.append(task)
    if together:
        ids = [task.id for task in together]
        # They say nothing else when they end: with a parent, nobody prunes them by themselves.
        revoked += _move(tasks().filter(id__in=ids), ACTIVE, Status.REVOKED, together[0])
    return revoked


def disown(ids: Collection[UUID]) -> None:
    """Of rows that the caller has locked: whatever becomes of them is nothing to their parent."""
    tasks().filter(id__in=ids, parent_id__isnull=False).update(parent_run=NO_RUN)


# From WAITING.


def complete(task: Task[Any]) -> Status | None:
    """WAITING to SUCCESS or INCOMPLETE, once nothing under it is unfinished.

    Idempotent, and correct among racing callers: the lock is taken first, and what is under it
    looked at in a separate statement, which sees every end that was committed before the lock.
    Returns the status it got, or None.
    """
    with transaction.atomic(using=database.alias(), savepoint=False):
        rows = tasks().filter(id=task.id, status=Status.WAITING)
        parent = database.lock(rows).first()
        if parent is None or graph.counted_subtasks(parent).filter(status__in=ACTIVE).exists():
            return None
        changes: dict[str, Any] = {}
        returned = tasks().filter(id=parent.returned_id).first() if parent.returned_id else None
        if returned is not None:
            if returned.status in ACTIVE:
                return None
            changes["result"] = returned.result
        if parent.container:
            changes["result"] = graph.result_of_members(parent)
        error = graph.error_below(parent, returned)
        target = Status.INCOMPLETE if error else Status.SUCCESS
        if parent.errorbacks and not error:
            changes["errorbacks"] = []
        _move(rows, (Status.WAITING,), target, parent, error=error, **changes)
        return target


def break_ring(task: Task[Any]) -> Status | None:
    """WAITING to FAILURE: nothing in its ring could ever end otherwise."""
    error = "it returned a task that waits for it"
    row = tasks().filter(id=task.id)
    broken = _move(row, (Status.WAITING,), Status.FAILURE, task, error=error)
    return Status.FAILURE if broken else None


# From a final one.


def revive(task: Task[Any], target: Status) -> None:
    """By retry(), of a row that the caller has locked: it has not ended, and what follows may."""
    assert target in REVIVALS[Status(task.status)], f"{task.status} to {target}"
    changes: dict[str, Any] = {"error": "", "traceback": "", "finished": None, "prune_at": None}
    if target == Status.WAITING:  # its own function is done
        if task.container:
            changes["members"] = []
    else:
        changes |= {
            "failures": 0,
            "rescues": 0,
            "worker_id": None,
            "started": None,
            "result": None,
            "returned_id": None,
            "expires_at": None,
            "ready_at": F("run_after") if target == Status.SCHEDULED else Now(),
            "progress_done": None,
            "progress_total": None,
            "progress_message": "",
        }
    tasks().filter(id=task.id, status=task.status).update(status=target, **changes)
    task.status = target


def _move(
    rows: QuerySet[Task[Any]],
    sources: Iterable[Status],
    target: Status,
    task: Task[Any] | None = None,
    **changes: Any,
) -> int:
    """The one UPDATE: guarded by the statuses it may start from. Returns how many rows moved."""
    sources = tuple(sources)
    for source in sources:
        assert target in TRANSITIONS[source], f"{source} to {target}"
    if target in DONE:
        assert task is not None
        changes.setdefault("finished", Now())
        changes["prune_at"] = _prune_at(task, target)
    if task is not None and target in _FORGETS:
        changes |= _masked(task, target)
    return rows.filter(status__in=sources).order_by().update(status=target, **changes)


def _masked(task: Task[Any], target: Status) -> dict[str, Any]:
    """What changes when a row forgets its sensitive arguments, and those of calls that it keeps."""
    changes: dict[str, Any] = {}
    args, kwargs = task.shown_arguments
    if args != task.args or kwargs != task.kwargs:
        changes = {"args": args, "kwargs": kwargs}
    if target in (Status.REVOKED, Status.SKIPPED):
        if task.errorbacks:
            changes["errorbacks"] = [
                {**kept, "call": without_secrets(kept["call"], before=1)}
                for kept in task.errorbacks
            ]
        if task.members:
            changes["members"] = [without_secrets(member) for member in task.members]
    return changes


def _prune_at(task: Task[Any], status: Status) -> Any:
    ttl = settings().failure_ttl if status in ERROR else task.result_ttl
    if ttl is None or task.parent_id is not None:  # a tree goes with its top task
        return None
    return database.later(Now(), ttl)


def note(task: Task[Any], status: Status) -> None:
    """The status of a task without a row: one that a direct call runs in memory."""
    task.status = status
