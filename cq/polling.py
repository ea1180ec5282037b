"""Look without having heard a bell: seldom where bells are heard, else the sooner the less time ago there was work."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from cq.conf import settings

if TYPE_CHECKING:
    from cq.runner import Runner

SHORTEST = 0.05
"""Seconds between two looks after something was found: a person does not notice them."""
GROWTH = 1.5  # from 0.05 s to 1 s within 2.5 s of finding nothing


class Poll:
    """When a runner looks by itself. All but `found()` belongs to the loop that runs it."""

    def __init__(self, runner: Runner, look: Callable[[], object], *, hears: bool) -> None:
        """`hears`: whether somebody rings, and is heard."""
        self._runner = runner
        self._look = look
        self._hears = hears
        self._pause = SHORTEST
        self._stirred = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        self._runner.when_found = lambda: self._found(loop)
        while True:
            self._stirred.clear()
            try:
                async with asyncio.timeout(self._next()):
                    await self._stirred.wait()
            except TimeoutError:
                self._tick()

    def hear(self, hears: bool) -> None:
        """From now on bells are heard, or are not."""
        if hears != self._hears:
            self._hears = hears
            self._quicken()

    def _found(self, loop: asyncio.AbstractEventLoop) -> None:
        """From the claimer's thread, often: a loop that will look soon anyway is left alone."""
        if self._pause > SHORTEST and not self._hears:
            with contextlib.suppress(RuntimeError):  # the loop is closed: this process ends
                loop.call_soon_threadsafe(self._quicken)

    def _quicken(self) -> None:
        self._pause = SHORTEST
        self._stirred.set()

    def _next(self) -> float:
        """Seconds until the next look."""
        longest = settings().poll_interval.total_seconds()
        # Give or take a tenth, so that workers which began together do not look together for ever.
        jitter = random.uniform(0.9, 1.1)
        if self._hears:
            return longest * jitter
        return min(max(self._pause * jitter, SHORTEST), longest)

    def _tick(self) -> None:
        if self._runner.has_free_hands:  # else whoever frees one looks
            self._look()
            self._pause = min(self._pause * GROWTH, settings().poll_interval.total_seconds())
