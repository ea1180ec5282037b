"""Ends that need no transaction of their own: written behind the runs, as many at once as have come in.

A run that touched nothing has nothing to be committed together with its end, and does not wait
for that. Until it is written, the row is RUNNING; if the process dies, it runs again.
"""

from __future__ import annotations

import logging
import queue as queues
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections, transaction

from cq import database, lifecycle, settling
from cq.lifecycle import Outcome

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.finishing")

MOST = 500
"""Ends that are written at once."""
LONGEST_WAIT = 0.05  # seconds, for a row that somebody holds: the others' ends are behind it
LINGER = 0.01
"""Seconds that an end waits for others, while the hands have more to do: a commit for few costs as much."""
LATER = 0.5  # seconds until what was held is tried again


@dataclass(frozen=True, eq=False)
class End:
    """A plain end (see `lifecycle.is_plain`), and how it is written where others concern it."""

    task: Task[Any]
    outcome: Outcome
    write_alone: Callable[[bool], bool]
    """Told whether it may have been written already. False: somebody holds the row, try again."""


class Finisher:
    """The ends of one process's runs, and the thread that writes them and looks at what is above."""

    def __init__(
        self, when_broken: Callable[[], object], are_more_coming: Callable[[], bool]
    ) -> None:
        """`when_broken` is called where an end can't be written at all."""
        self._when_broken = when_broken
        self._are_more_coming = are_more_coming
        self._came: queues.SimpleQueue[End | UUID | None] = queues.SimpleQueue()
        self._unwritten: dict[UUID, End] = {}
        self._batch: list[End] = []
        self._is_unsure = False  # whether the batch may have been written: its answer was lost
        self._held: list[End] = []
        self._try_held_at = 0.0
        self._above: set[UUID] = set()
        self._thread = threading.Thread(target=self._run, name="cq-finish", daemon=True)
        self._stopping = False
        self._lock = threading.Lock()
        self._owed = 0  # what came in and is not seen to yet
        self._taken = 0  # of that, by the thread

    def start(self) -> None:
        self._thread.start()

    def put(self, end: End) -> None:
        """It will be written, and told to its parent. Returns at once; from any thread."""
        self._unwritten[end.task.id] = end
        self._add(end)

    def look_above(self, parent_id: UUID) -> None:
        """A subtask of it has ended: see whether it was the last. Asked once for many."""
        self._add(parent_id)

    def _add(self, one: End | UUID) -> None:
        with self._lock:
            self._owed += 1
        self._came.put(one)

    def unwritten(self) -> set[UUID]:
        """The tasks whose ends are on their way."""
        return set(self._unwritten.copy())

    @property
    def is_idle(self) -> bool:
        """Whether all ends are written, and all parents looked at."""
        return not (self._owed or self._unwritten)

    def stop(self) -> None:
        """Write what there is, however long the database takes, and end the thread."""
        if self._thread.is_alive():
            self._came.put(None)
            self._thread.join()

    # Its thread.

    def _run(self) -> None:
        tries = 0
        while not self._stopping or self._unwritten:
            self._collect()
            try:
                self._write()
                self._look_above()
            except Exception as error:  # noqa: BLE001  (reported)
                database.report(logger, "writing ends", error)
                database.pause(tries)
                tries += 1
            else:
                tries = 0
                with self._lock:
                    self._owed -= self._taken
                self._taken = 0
        connections.close_all()

    def _collect(self) -> None:
        """Take all there is to do; wait until there is something."""
        try:
            self._take(self._came.get(timeout=self._pause()))
            if self._are_more_coming():
                time.sleep(LINGER)
            while len(self._batch) < MOST:
                self._take(self._came.get_nowait())
        except queues.Empty:
            return

    def _pause(self) -> float | None:
        """How long there is nothing to do but what comes in; None: for ever."""
        if self._batch or self._above:  # left by a fault
            return 0.0
        return max(0.0, self._try_held_at - time.monotonic()) if self._held else None

    def _take(self, came: End | UUID | None) -> None:
        if came is None:
            self._stopping = True
            return
        self._taken += 1
        if isinstance(came, End):
            self._batch.append(came)
        else:
            self._above.add(came)

    def _write(self) -> None:
        """All in one statement; one by one what that left, and what somebody held."""
        if self._batch:
            moved = self._write_batch()
            for end in self._batch:
                if end.task.id in moved:
                    self._note_written(end)
            left = [end for end in self._batch if end.task.id not in moved]
            self._batch, unsure, self._is_unsure = [], self._is_unsure, False
            for end in left:
                self._write_alone(end, unsure=unsure)
        if self._held and time.monotonic() >= self._try_held_at:
            held, self._held = self._held, []
            for end in held:
                self._write_alone(end, unsure=False)

    def _write_batch(self) -> set[UUID]:
        try:
            with transaction.atomic(using=database.alias()):
                database.bound_waits(LONGEST_WAIT)
                ends = [(end.task, end.outcome) for end in self._batch]
                return lifecycle.finish_many(ends, waits=False)
        except Exception as error:
            self._is_unsure = True
            if database.passing(error) and not database.is_held(error):
                raise
            logger.debug("ends are written one by one: %s", error)
            return set()

    def _note_written(self, end: End) -> None:
        self._unwritten.pop(end.task.id, None)
        if end.task.parent_id is not None:
            self._above.add(end.task.parent_id)

    def _write_alone(self, end: End, *, unsure: bool) -> None:
        try:
            is_written = end.write_alone(unsure)
        except Exception:
            logger.critical("the end of %s can't be written", end.task.id, exc_info=True)
            self._when_broken()
            is_written = True  # by nobody here
        if is_written:
            self._unwritten.pop(end.task.id, None)
        else:
            self._held.append(end)
            self._try_held_at = time.monotonic() + LATER

    def _look_above(self) -> None:
        if self._above:
            for parent_id in settling.completable(self._above):
                settling.try_to(settling.settle, parent_id)
            self._above = set()
