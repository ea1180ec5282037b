"""CQ_SERIAL: run what was submitted, and all that comes of it, before `delay()` returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import uuid_utils.compat as uuid

from cq import bell, context, database, execution, lifecycle, settling
from cq.conf import settings
from cq.states import Status

if TYPE_CHECKING:
    from cq.models import Task

P = ParamSpec("P")
T = TypeVar("T")


def run(submitted: Iterable[Task[Any]]) -> None:
    """Each in a savepoint of the caller's transaction; errors are recorded, retries wait for nothing.

    What a task makes runs after its function has returned; what it delays, before.
    """
    worker = uuid.uuid7()
    work = deque(submitted)
    with bell.collected() as announced:
        while work:
            task = work.popleft()
            if task.container:
                settling.open_container(task.id)
            elif task.status in (Status.SCHEDULED, Status.RETRY):
                lifecycle.hurry(task)
            claimed = lifecycle.claim_one(task.id, worker)
            if claimed is not None:
                execution.execute(claimed, "serial")
                claimed.refresh_from_db(fields=("status",))
                if claimed.status == Status.RETRY:
                    work.appendleft(claimed)
            work.extend(announced)
            announced.clear()


def door(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`make()`, which adds to a task; under CQ_SERIAL what became claimable by it runs at once.

    Not where a task is running: what a task makes runs after it.
    """
    if not settings().serial or context.current() is not None:
        return make(*args, **kwargs)
    with bell.collected() as announced:
        made = make(*args, **kwargs)
    run(announced)
    if isinstance(made, database.task_model()):
        made.refresh_from_db()
    return made


def finished(task: Task[Any]) -> Task[Any]:
    """Run it, and give its snapshot as it ended."""
    run([task])
    task.refresh_from_db()
    return task
