"""Log lines and progress on their way out of a running task, and back to whoever watches it.

They leave from a thread of their own, never in the task's transaction: lines to a Redis list where
the cache is a Redis, else, or when it is away, to a small table; progress to the task's row. Once
the top task has ended, its lines are stored on its row.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction

from cq import context, database, interrupts, logstore, outbox
from cq.conf import settings
from cq.tracebacks import clean, redact

if TYPE_CHECKING:
    from cq.models import Task

task_logger = logging.getLogger("cq.task")

LONGEST_LINE = 10_000


def append(
    task: Task[Any], message: object, level: int, *, publish: bool = True, limit: int | None = None
) -> None:
    """One line to `logging` at once, and to the top task's log. Never blocks.

    Raises Revoked in a run that is to be stopped, and nothing else.
    """
    _check(task.run)
    text = _text(message)
    if task.run is not None:
        text = redact(text, task.run.hide)
    interrupts.spare(_append, task, text, level, publish=publish, limit=limit)


def _append(task: Task[Any], text: str, level: int, *, publish: bool, limit: int | None) -> None:
    task_logger.log(level, "%s: %s", task.id, text, extra={"task": str(task.id)})
    keep(task, text, level, publish=publish, limit=limit)


def _check(run: context.Run | None) -> None:
    if run is not None and run.revoked and (why := interrupts.reason(run)) is not None:
        raise why


def keep(
    task: Task[Any], text: str, level: int, *, publish: bool = True, limit: int | None = None
) -> None:
    """One line to the top task's log alone."""
    line = {
        "message": text,
        "level": level,
        "timestamp": datetime.now(UTC).isoformat(timespec="microseconds"),
        "origin": str(task.id),
    }
    run = task.run
    if run is None:
        outbox.here().put(_root(task), [line], limit)
        return
    run.logged = True
    run.unpublished.append(line)
    del run.unpublished[: -settings().log_limit]
    if limit is not None:
        run.log_trim = limit
    if publish and run.how == "worker":
        lines, run.unpublished = run.unpublished, []
        outbox.here().put(_root(task), lines, limit)


def set_progress(task: Task[Any], done: float, total: float | None, message: str) -> None:
    """A number to watch. Never blocks. Raises Revoked in a run that is to be stopped."""
    run = task.run
    _check(run)
    progress = (float(done), None if total is None else float(total), _text(message))
    task.progress_done, task.progress_total, task.progress_message = progress
    if run is not None:
        run.progress = progress
    if run is None or run.how == "worker":
        interrupts.spare(outbox.here().put_progress, task, progress)


def at_end(run: context.Run) -> dict[str, Any]:
    """In the transaction that ends a run: write what is left; returns columns to go with the end."""
    task = run.task
    if run.logged:
        if run.how == "worker":
            outbox.here().put(_root(task), run.unpublished, run.log_trim)
            run.unpublished = outbox.here().drain(_root(task))
        logstore.to_table(_root(task), run.unpublished, run.log_trim)
        if run.how == "worker":
            _follow(task)
        # Kept until then: the end may be rolled back, and written again.
        forget = partial(_forget_first, run.unpublished, len(run.unpublished))
        transaction.on_commit(forget, using=database.alias(), robust=True)
    if run.progress is None:
        return {}
    outbox.here().forget_progress(task)
    done, total, message = run.progress
    return {"progress_done": done, "progress_total": total, "progress_message": message}


def _follow(task: Task[Any]) -> None:
    """Its tree may have been adopted while it ran: what it logged belongs to the new top task."""
    rows = database.task_model()._base_manager.using(database.alias())
    # Locked, or it could be adopted between this and its end.
    root = database.lock(rows.filter(id=task.id)).values_list("root_id", flat=True).first()
    if root is not None and root != _root(task):
        logstore.move(_root(task), root)


def move(old: UUID, new: UUID) -> None:
    """`old` was a top task, and now is under `new`, whose log is for all: in that transaction."""
    rows = database.task_model()._base_manager.using(database.alias())
    stored = rows.filter(id=old).values_list("log_lines", flat=True).first()
    if stored:  # it has ended
        logstore.to_table(new, stored, None)
    else:
        logstore.move(old, new)


def _forget_first(lines: list[dict[str, Any]], count: int) -> None:
    del lines[:count]


def read(task: Task[Any]) -> list[dict[str, Any]]:
    """The lines of the tree, or, of a subtask, its own; oldest first."""
    root = _root(task)
    lines = task.log_lines if task.id == root else None
    if lines is None:
        live = logstore.read(root)
        # Asked afterwards: the lines may have been stored, and forgotten, while we looked.
        rows = type(task)._base_manager.using(task._state.db or database.alias())
        lines = rows.filter(id=root).values_list("log_lines", flat=True).first() or live
    if task.parent_id is not None:
        lines = [line for line in lines if line["origin"] == str(task.id)]
    return lines


def store(root: UUID) -> None:
    """Once the top task has ended: its lines on its row, and nowhere else. Can be done again."""
    lines = logstore.read(root)
    if not lines:
        return
    rows = database.task_model()._base_manager.using(database.alias()).filter(id=root)
    stored = rows.values_list("log_lines", flat=True).first()
    rows.update(log_lines=logstore.merged(stored or [], lines))
    logstore.forget(root)


def reopen(task: Task[Any]) -> None:
    """A top task that has ended runs again: more lines will come."""
    if task.log_lines:
        logstore.take_back(task.id, task.log_lines)
        rows = database.task_model()._base_manager.using(database.alias())
        rows.filter(id=task.id).update(log_lines=None)


def stop() -> None:
    """Write what waits, and end the thread."""
    outbox.here().stop()


def capture() -> None:
    """Have what is logged in this process go to the tasks that asked for it, too."""
    handlers = logging.getLogger().handlers
    if not any(isinstance(handler, CaptureHandler) for handler in handlers):
        logging.getLogger().addHandler(CaptureHandler())


class CaptureHandler(logging.Handler):
    """Gives what a task's code logs to the task's own log, where it asked for `capture_logs`."""

    def emit(self, record: logging.LogRecord) -> None:
        run = context.current()
        if run is None or not run.options.capture_logs or record.name == task_logger.name:
            return
        try:
            text = redact(_text(record.getMessage()), run.hide)
            interrupts.spare(keep, run.task, text, record.levelno)
        except Exception:  # noqa: BLE001
            self.handleError(record)


def _text(message: object) -> str:
    try:
        text = str(message)
    except Exception as error:  # noqa: BLE001  (a message must not end its task)
        text = f"<a message whose __str__ raised {type(error).__name__}>"
    if len(text) > LONGEST_LINE:
        text = f"{text[:LONGEST_LINE]}… [{len(text) - LONGEST_LINE} characters cut]"
    return clean(text)


def _root(task: Task[Any]) -> UUID:
    root: UUID = task.root_id or task.id
    return root
