"""Wait for a task's end, and say how long its queue is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.db.models import Q

from cq import database
from cq.database import tasks
from cq.states import DONE, Status

if TYPE_CHECKING:
    from cq.models import Task

R = TypeVar("R")

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.25


def wait(task: Task[R], timeout: float | timedelta | None) -> Task[R]:
    """Look until the status is final, seldomer as time goes on."""
    for pause in _pauses(task, timeout):
        if _looked(task):
            return task
        time.sleep(pause)
    raise _too_late(task, timeout)


async def async_wait(task: Task[R], timeout: float | timedelta | None) -> Task[R]:
    """The same, on a loop."""
    for pause in _pauses(task, timeout):
        if await sync_to_async(_looked)(task):
            return task
        await asyncio.sleep(pause)
    raise _too_late(task, timeout)


def position(task: Task[Any]) -> int | None:
    """QUEUED tasks of its queue that are claimed before it."""
    row = tasks().filter(id=task.id, status=Status.QUEUED).first()
    if row is None:
        return None
    # Compared in the database: on SQLite its own clock writes times shorter than Django does.
    ready_at = tasks().filter(id=row.id).values("ready_at")[:1]
    same = Q(priority=row.priority)
    before = (
        Q(priority__gt=row.priority)
        | same & Q(ready_at__lt=ready_at)
        | same & Q(ready_at=ready_at, id__lt=row.id)
    )
    return tasks().filter(before, status=Status.QUEUED, queue=row.queue).count()


def _pauses(task: Task[Any], timeout: float | timedelta | None) -> Iterator[float]:
    """How long to sleep after each look; ends when the time is over, after one last look."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    until = None if seconds is None else time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        left = LONGEST_PAUSE if until is None else until - time.monotonic()
        yield max(0.0, min(pause, left))
        if left <= 0:
            return
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _looked(task: Task[Any]) -> bool:
    """Renew the snapshot; whether the task has ended."""
    if task._state.adding:  # made by a direct call: it runs when the caller's function has returned
        raise RuntimeError(
            "This task has no row, because the task that made it was called directly; it runs when "
            "that one has returned, and can't be waited for."
        )
    blocks = database.connection().atomic_blocks
    made_here = blocks and task.made_in is not None and task.made_in.block is blocks[0]
    if task.status not in DONE and made_here:
        raise _endless(
            "the transaction that made the task",
            "no worker sees the task before that transaction commits",
        )
    task.refresh_from_db()
    if not task.is_done and blocks and database.connection().vendor == "sqlite":
        # It has read by now, and all that it reads is as it was then; and its lock may be the one
        # that the worker needs.
        raise _endless("a transaction on SQLite", "it sees nothing that others commit meanwhile")
    return task.is_done


def _endless(where: str, why: str) -> RuntimeError:
    return RuntimeError(
        f"wait() inside {where} can never end: {why}. Wait after it, or use subtask(), chain() or "
        "then() to go on when it has ended."
    )


def _too_late(task: Task[Any], timeout: float | timedelta | None) -> TimeoutError:
    return TimeoutError(f"{task.func_name} {task.id} is still {task.status} after {timeout} s.")
