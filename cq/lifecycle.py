"""The only writer of `Task.status`: guarded UPDATEs along the table in states, each won by one caller."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from cq import claimed, database, graph, payload, statements
from cq.conf import settings
from cq.database import tasks
from cq.exceptions import Fenced
from cq.signature import without_secrets
from cq.states import ACTIVE, BIRTH, DONE, ERROR, REVIVALS, TRANSITIONS, Status

if TYPE_CHECKING:
    from cq.models import Task

BATCH = 500
NO_STATUS = ""
"""Beside the statuses that a row must have, so that PostgreSQL finds it by its id.

A partial index with these alone as its condition may be empty as far as the statistics know, and be
read whole for a few ids, where it has got a million rows since.
"""
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
    statements.insert(task)


def insert_many(new: Sequence[Task[Any]]) -> None:
    """Bulk INSERTs, in the caller's transaction."""
    for task in new:
        _born(task)
    for start in range(0, len(new), BATCH):
        statements.insert_many(new[start : start + BATCH])


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
        rows = tasks().filter(id__in=ids, status__in=(*waiting, NO_STATUS)).order_by("id")
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


class Claim(list["Task[Any]"]):
    """What one look has won, in its order."""

    is_cut = False
    """It held others locked for a moment, and left them: who looked meanwhile has passed over them."""


def claim(
    queue: str,
    names: Sequence[str],
    free: int,
    worker: UUID,
    *,
    ahead: int = 0,
    whole: bool = True,
) -> Claim:
    """QUEUED to RUNNING, of the next tasks of `queue` with a function among `names`.

    `free` of them begin at once, and so are `started`. Up to `ahead` more wait for those; the
    first of these that may not wait (see `_may_wait`) is left, with all behind it. Without
    `whole`, what most runs never ask for is read when they do.
    """
    if not statements.batches():
        won = _claim_by_orm(queue, names, free + ahead, free, worker)
        claimed.mark_strays(won)
        return won
    rows, is_cut = statements.claim(
        queue, names, free=free, ahead=ahead, worker=worker, columns=claimed.columns(whole=whole)
    )
    won = Claim(claimed.mark_strays(claimed.from_rows(rows, whole=whole)))
    won.is_cut = is_cut
    won.sort(key=attrgetter("ready_at", "id"))
    won.sort(key=attrgetter("priority"), reverse=True)
    return won


def _claim_by_orm(queue: str, names: Sequence[str], limit: int, free: int, worker: UUID) -> Claim:
    queued = tasks().filter(status=Status.QUEUED, queue=queue, func_name__in=names)
    candidates = queued.order_by("-priority", "ready_at", "id")
    if not connections[queued.db].features.has_select_for_update_skip_locked:
        columns = candidates.only("id", "atomic", "rerun_lost", "alone")
        while found := _wanted(columns[:limit], free):
            if won := _take(found, free, worker):
                return Claim(won)  # else others took them all, and there may be more
        return Claim()
    with transaction.atomic(using=queued.db):
        locked = claimed.fetch(candidates.select_for_update(skip_locked=True)[:limit])
        won = Claim(_wanted(locked, free))
        won.is_cut = len(won) < len(locked)
        _move_to_running(won, free, worker, won[0].clock if won else None)
    for place, task in enumerate(won):
        task.status, task.worker_id = Status.RUNNING, worker
        task.started = task.clock if place < free else None
        task.claim_no += 1
    return won


def _wanted(candidates: Iterable[Any], free: int) -> list[Any]:
    """Those that are claimed together: up to the first that would have to wait, and may not."""
    found: list[Any] = []
    for task in candidates:
        if len(found) >= free and not _may_wait(task):
            break
        found.append(task)
    return found


def _may_wait(task: Task[Any]) -> bool:
    """Whether it may be claimed before it can begin.

    Not where its claim has to tell that it has begun: of what may not run twice, and of what may
    have killed its worker.
    """
    return (task.atomic or task.rerun_lost) and not task.alone


def claim_one(task_id: UUID, worker: UUID) -> Task[Any] | None:
    """QUEUED to RUNNING, of one task. None: another has it, or it is not claimable."""
    won = claimed.mark_strays(_take(tasks().filter(id=task_id), 1, worker))
    return next(iter(won), None)


def _take(wanted: Iterable[Task[Any]], free: int, worker: UUID) -> list[Task[Any]]:
    """Where rows can't be locked while others are skipped: UPDATE, then see what that won."""
    wanted = list(wanted)
    _move_to_running(wanted, free, worker, Now())
    ids = [task.id for task in wanted]
    won = tasks().filter(id__in=ids, status=Status.RUNNING, worker_id=worker)
    return claimed.fetch(won.order_by("-priority", "ready_at", "id"))


def _move_to_running(claimed: Sequence[Task[Any]], free: int, worker: UUID, started: Any) -> None:
    for some, begun in ((claimed[:free], started), (claimed[free:], None)):
        if some:
            _move(
                tasks().filter(id__in=[task.id for task in some]),
                (Status.QUEUED,),
                Status.RUNNING,
                worker_id=worker,
                claim_no=F("claim_no") + 1,
                started=begun,
            )


def begin(task: Task[Any]) -> None:
    """It begins now. Of one that waited for that its row says so with its end, or by `mark_begun`."""
    task.begun_at = time.monotonic()
    if task.started is None and task.clock is not None:
        task.started = task.clock + timedelta(seconds=task.begun_at - task.claimed_at)
        task.owes_start = True


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
    if is_plain(task, outcome) and finish_many([(task, outcome)]):
        return False
    changes = _changes(task, outcome)
    running = (Status.RUNNING,)
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


def is_held(task: Task[Any]) -> bool:
    """Whether somebody else holds the row of this run; if not, the caller's transaction does now.

    Raises Fenced where the run is over.
    """
    if database.lock(mine(task), skip=True).values_list("id").first() is not None:
        return False
    if not mine(task).exists():
        raise Fenced
    return True


def is_plain(task: Task[Any], outcome: Outcome) -> bool:
    """Whether this end concerns nobody but its parent, as far as the run knows."""
    return outcome.status == Status.SUCCESS and not (task.linked or outcome.concerns_others)


def finish_many(ends: Sequence[tuple[Task[Any], Outcome]], *, waits: bool = True) -> set[UUID]:
    """Plain ends of runs of one worker, in one go. Returns whose: of tasks that nobody is linked to.

    The others are no longer that worker's, or have been linked to meanwhile; or, without `waits`,
    somebody holds their rows. (On PostgreSQL it is the caller's `bound_waits()` that says so.)
    """
    in_one = statements.batches()
    moved: set[UUID] = set()
    together: list[statements.End] = []
    held: set[UUID] = set()
    if not (waits or in_one):
        ids = {task.id for task, _ in ends}
        free = database.lock(tasks().filter(id__in=ids), skip=True)
        held = ids.difference(free.values_list("id", flat=True))
    for task, outcome in ends:
        if in_one and not (outcome.changes or _masked(task, Status.SUCCESS)):
            together.append(_end(task, outcome))
        elif task.id not in held:
            row, changes = mine(task).filter(linked=False), _changes(task, outcome)
            if _move(row, (Status.RUNNING,), Status.SUCCESS, task, **changes):
                moved.add(task.id)
    if together:
        moved |= statements.finish_many(ends[0][0].worker_id, together)
    return moved


def _end(task: Task[Any], outcome: Outcome) -> statements.End:
    return statements.End(
        task.id,
        task.claim_no,
        task.started if task.owes_start else None,
        json.dumps([*task.attempts, attempt(task, outcome.status, outcome.error)]),
        payload.encode(outcome.result),
        None if task.parent_id is not None else task.result_ttl,
    )


def move_tree(old: UUID, new: UUID, deeper: int) -> None:
    """What is under `old`, which was a top task, is under `new`: also what is being added meanwhile."""
    under = tasks().filter(root_id=old, parent__isnull=False)
    while under.update(root_id=new, depth=F("depth") + deeper):
        pass


def _changes(task: Task[Any], outcome: Outcome) -> dict[str, Any]:
    entries = [attempt(task, outcome.status, outcome.error)] if outcome.begun else []
    changes: dict[str, Any] = {
        "attempts": [*task.attempts, *entries],
        "result": outcome.result,
        "error": outcome.error,
        "traceback": outcome.traceback,
        **outcome.changes,
    }
    if task.owes_start:
        changes["started"] = task.started
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


def mark_begun(task: Task[Any]) -> None:
    """Say on the row that it has begun, unless somebody holds it: its own run, or who adds to it.

    Not on SQLite, where whoever wants to write waits for a run that has written: its end says it.
    """
    if database.connection().vendor == "sqlite":
        return
    with transaction.atomic(using=database.alias()):
        if database.lock(mine(task), skip=True).values_list("id").first() is not None:
            mine(task).update(started=task.started)
            task.owes_start = False


def confess(task: Task[Any]) -> None:
    """Of a run that was revoked before its row could say that it had begun: that it had."""
    changes = {
        "started": task.started,
        "attempts": [*task.attempts, attempt(task, Status.REVOKED, "revoked")],
    }
    row = tasks().filter(id=task.id, claim_no=task.claim_no, started=None)
    row.filter(status=Status.REVOKED).update(**changes)
    task.owes_start = False


def give_back(unbegun: Sequence[Task[Any]]) -> int:
    """RUNNING to QUEUED, of what one worker claimed and did not begin: nothing is counted against it."""
    if not unbegun:
        return 0
    # No other claim of theirs can be meant: what this worker holds it has claimed once.
    held = tasks().filter(id__in=[t.id for t in unbegun], worker_id=unbegun[0].worker_id)
    return _move(held, (Status.RUNNING,), Status.QUEUED, worker_id=None, started=None)


def give_back_unknown(worker: UUID, known: Collection[UUID]) -> int:
    """RUNNING to QUEUED, of what `worker` holds unknowingly: it got no answer to its claim."""
    unknown = tasks().filter(worker_id=worker).exclude(id__in=known)
    return _move(unknown, (Status.RUNNING,), Status.QUEUED, worker_id=None, started=None)


def take_back(unbegun: QuerySet[Task[Any]], *, alone: bool) -> list[str]:
    """RUNNING to QUEUED, of a dead worker's tasks that had not begun, a page of them. Returns their queues.

    That is no death of theirs. `alone`: nobody knows that they had not: claimed by itself, each
    tells the next time. What somebody else holds is left.
    """
    # SQLite: a write after a read is refused at once where another has written meanwhile.
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=database.alias()):
        page = unbegun.filter(status=Status.RUNNING, started=None).order_by("id")
        ids = list(page.values_list("id", flat=True)[:BATCH])
        free = dict(database.lock(page.filter(id__in=ids), skip=True).values_list("id", "queue"))
        changes = {"alone": True} if alone else {}
        _move(
            tasks().filter(id__in=list(free)),
            (Status.RUNNING,),
            Status.QUEUED,
            None,
            worker_id=None,
            **changes,
        )
    return list(free.values())


def rescue(task: Task[Any]) -> Status | None:
    """Take a task that had begun back from a worker that died. None: it had ended, or another took it.

    Atomic tasks and those with `rerun_lost` run again; others are LOST. The death that is one too
    many makes it a FAILURE.
    """
    deaths = task.rescues + 1
    if deaths >= settings().max_deaths:
        target, error = Status.FAILURE, f"its worker died {deaths} times while running it"
    elif task.atomic or task.rerun_lost:
        target, error = Status.QUEUED, "its worker died"
    else:
        target, error = Status.LOST, "its worker died, and it may not simply run again"
    changes: dict[str, Any] = {"rescues": deaths, "worker_id": None}
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
    if target == Status.SUCCESS and task.run is not None and not task.run.has_secrets:
        return changes  # looked at when the run began
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
