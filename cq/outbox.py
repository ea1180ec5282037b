"""What log lines and progress wait in until a thread of its own has written them."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections

from cq import database, logstore

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.logs")

PERIOD = 0.5  # seconds between two writes to the database
DRAIN_TIMEOUT = 1.0
EXIT_TIMEOUT = 1.0
AWAY = 5.0  # seconds that a Redis which failed is left alone

Lines = list[dict[str, Any]]
Progress = tuple[float, float | None, str]


def here() -> Outbox:
    """This process's outbox."""
    return _outbox


class Outbox:
    """What waits to be written, and the thread that writes it. Made anew after a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[UUID, tuple[Lines, int | None]] = {}
        self._progress: dict[UUID, tuple[Task[Any], Progress]] = {}
        self._writing: set[UUID] = set()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._table_due = 0.0
        self._warned_at = -60.0
        self._away_until = 0.0

    def put(self, root: UUID, lines: Lines, limit: int | None) -> None:
        if not lines:
            return
        with self._changed:
            waiting, before = self._lines.get(root, ([], None))
            waiting += lines
            del waiting[: -logstore.bound(limit)]
            self._note_first()
            self._lines[root] = (waiting, limit if limit is not None else before)
            self._wake()

    def put_progress(self, task: Task[Any], progress: Progress) -> None:
        with self._changed:
            self._note_first()
            self._progress[task.id] = (task, progress)
            self._wake()

    def forget_progress(self, task: Task[Any]) -> None:
        with self._changed:
            self._progress.pop(task.id, None)

    def drain(self, root: UUID) -> Lines:
        """Wait until what is being written is, and Redis has its lines; what is left is returned."""
        until = time.monotonic() + DRAIN_TIMEOUT
        redis = logstore.redis_is_wanted()
        with self._changed:
            while root in self._writing or (redis and root in self._lines and self._is_there()):
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            return self._lines.pop(root, ([], None))[0]

    def stop(self, timeout: float = 5.0) -> None:
        with self._changed:
            thread, self._stopping = self._thread, True
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout)
        with self._changed:
            self._thread, self._stopping = None, False

    def _note_first(self) -> None:
        if not (self._lines or self._progress):
            self._table_due = time.monotonic() + PERIOD

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cq-logs", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        idle = True
        while True:
            with self._changed:
                if not (self._lines or self._progress) and not self._stopping:
                    if not self._changed.wait(5) and not idle:
                        connections.close_all()  # nothing for a while: hold nothing
                        idle = True
                    continue
                ending = self._stopping
            idle = False
            try:
                self._write()
            except Exception:
                logger.exception("log lines or progress could not be written; will try again")
                connections.close_all()
                time.sleep(PERIOD)
            if ending:
                connections.close_all()
                return

    def _write(self) -> None:
        with self._changed:
            batch, self._lines = self._lines, {}
            self._writing = set(batch)
        unsent = {}
        try:
            for root, (lines, limit) in batch.items():
                if not self._sent(root, lines, limit):
                    unsent[root] = (lines, limit)  # noqa: PERF403  (known, too, if one raises)
        finally:
            with self._changed:
                self._put_back(unsent)
                self._writing = set()
                self._changed.notify_all()
        if not (unsent or self._progress):
            return
        # Not at once: the end of a short task takes its lines and progress with it.
        pause = self._table_due - time.monotonic()
        if pause > 0 and not self._stopping:
            with self._changed:
                self._changed.wait(pause)
            return
        self._write_to_database()

    def _sent(self, root: UUID, lines: Lines, limit: int | None) -> bool:
        if not self._is_there():
            return False
        try:
            return logstore.to_redis(root, lines, limit)
        except Exception as error:  # noqa: BLE001
            self._away_until = time.monotonic() + AWAY
            if time.monotonic() - self._warned_at >= 60:
                self._warned_at = time.monotonic()
                logger.warning("Redis takes no log lines, the database does: %s", error)
            return False

    def _put_back(self, unwritten: dict[UUID, tuple[Lines, int | None]]) -> None:
        for root, (older, limit) in unwritten.items():
            newer, newer_limit = self._lines.get(root, ([], None))
            self._lines[root] = (older + newer, newer_limit or limit)

    def _is_there(self) -> bool:
        return time.monotonic() >= self._away_until

    def _write_to_database(self) -> None:
        with self._changed:
            lines, self._lines = self._lines, {}
            progress, self._progress = self._progress, {}
            self._writing = set(lines)
            self._table_due = time.monotonic() + PERIOD
        try:
            link = database.connection()
            if link.vendor == "sqlite":  # a task that writes holds the only lock: come back later
                with link.cursor() as cursor:
                    cursor.execute("PRAGMA busy_timeout = 100")
            for root in list(lines):
                logstore.to_table(root, *lines[root])
                del lines[root]
            for task, (done, total, message) in progress.values():
                rows = type(task)._base_manager.using(database.alias())
                rows.filter(id=task.id, claim_no=task.claim_no, finished=None).update(
                    progress_done=done, progress_total=total, progress_message=message
                )
        except Exception as error:
            with self._changed:
                self._put_back(lines)
                self._progress = progress | self._progress
            if not database.busy(error):
                raise
        finally:
            with self._changed:
                self._writing = set()
                self._changed.notify_all()


_outbox = Outbox()


def _after_fork() -> None:
    global _outbox
    _outbox = Outbox()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
# A script that logs and ends would lose its lines: the thread is a daemon.
atexit.register(lambda: _outbox.stop(EXIT_TIMEOUT))
