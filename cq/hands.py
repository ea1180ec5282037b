"""The hands of one kind, sync or async: what is claimed for them, and how much more may be.

Where tasks are short, some are claimed ahead: about as many as the hands will have done in a
tenth of a second. What stands behind a task that turns out long is given back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cq.models import Task

AHEAD = 0.1
"""Seconds of expected work that are claimed ahead."""
MOST = 500
"""Tasks that are claimed ahead, however short."""
PATIENCE = 0.25
"""Seconds that what is claimed ahead stands still before it is given back."""
WEIGHT = 0.1
"""Of the newest task in what one is expected to take."""
LONGEST = 1.0  # seconds that one task counts in that: after a long one, short ones are soon seen


class Hands:
    """So many hands. Whoever has one calls `take()` and `done()`, the claimer all the rest."""

    def __init__(self, number: int, wake: Callable[[int], object]) -> None:
        """`wake` is called with how many tasks were put."""
        self._number = number
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: list[tuple[Any, ...]] = []  # a heap: the most urgent first
        self._busy = 0
        self._expected: float | None = None  # seconds that a task takes
        self._is_cut = False
        self._last_taken = self._last_moved = 0.0  # by time.monotonic()

    # For whoever has a hand.

    def take(self) -> Task[Any] | None:
        """The most urgent task that waits; None: another took it, or it was given back."""
        with self._lock:
            if not self._waiting:
                return None
            self._busy += 1
            self._last_taken = self._last_moved = time.monotonic()
            task: Task[Any] = heappop(self._waiting)[-1]
            return task

    def done(self, seconds: float, when_idle: Callable[[], object] | None = None) -> bool:
        """A hand is free again. Whether it is time to claim more.

        `when_idle` is called if it was the last: nothing is taken before it returns.
        """
        seconds = min(seconds, LONGEST)
        with self._lock:
            self._busy -= 1
            self._is_cut = False
            if not self._busy and when_idle is not None:
                when_idle()
            before = seconds if self._expected is None else self._expected
            self._expected = before + WEIGHT * (seconds - before)
            return len(self._waiting) <= self._ahead() // 2

    # For the claimer.

    def put(self, claimed: Iterable[Task[Any]]) -> None:
        """What was claimed: it is taken by urgency, whenever it was claimed."""
        with self._lock:
            before = len(self._waiting)
            for task in claimed:
                heappush(self._waiting, (-task.priority, task.ready_at, task.id, task))
            count = len(self._waiting) - before
            self._last_moved = time.monotonic()
        self._wake(count)

    def room(self) -> tuple[int, int]:
        """How many more may be claimed: to begin at once, and ahead."""
        with self._lock:
            waiting = len(self._waiting)
            free = max(0, self._number - self._busy - waiting)
            # What the idle hands will take at once does not wait.
            standing = max(0, waiting - (self._number - self._busy))
            ahead = self._ahead()
            return free, ahead - standing if standing <= ahead // 2 else 0

    def cut(self) -> None:
        """What comes next may not wait for a free hand: until one is, nothing is claimed ahead."""
        with self._lock:
            self._is_cut = True

    def _ahead(self) -> int:
        if not self._expected or self._is_cut:
            return 0
        expected = self._expected
        if self._busy == self._number:  # nobody knows how long what runs will take
            expected = max(expected, time.monotonic() - self._last_taken)
        return min(int(AHEAD * self._number / expected), MOST)

    @property
    def free(self) -> int:
        """Hands with nothing to do, nor anything claimed for them."""
        return self._number - self._busy - len(self._waiting)

    @property
    def is_idle(self) -> bool:
        return not (self._busy or self._waiting)

    @property
    def has_waiting(self) -> bool:
        """Whether something is claimed and not begun."""
        return bool(self._waiting)

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    def stuck(self) -> list[Task[Any]]:
        """What has stood behind others for too long: the caller gives it back."""
        if not self._waiting or time.monotonic() - self._last_moved < PATIENCE:
            return []
        return self.withdraw()

    def withdraw(self) -> list[Task[Any]]:
        """All that is claimed and not begun: the caller gives it back."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return [entry[-1] for entry in waiting]
