"""What a worker does besides running tasks, each in its rhythm: heartbeat, repeating tasks, due step, sweep."""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

from django.db.models.functions import Now

from cq import database, firing, maintenance, registry, scheduling
from cq.conf import settings

logger = logging.getLogger("cq.upkeep")

SWEEP = 5.0  # seconds between two sweeps, and up to half as much again
FAULT_PAUSE = 1.0


class Upkeep:
    """The heartbeats of `workers`, and what any worker may do for all. Runs no task code.

    Without `fires`, repeating tasks are left to others.
    Whoever owns it calls `step()` and sleeps for the seconds that it returns.
    """

    def __init__(self, queues: Sequence[str], *, fires: bool) -> None:
        self._queues = list(queues)
        self._pids: dict[UUID, int] = {}
        self._beat_every = settings().lease.total_seconds() / 4
        self._last_beat = time.monotonic()
        self._rescues_from = self._strays_from = 0.0
        if database.connection().vendor == "sqlite":
            # A long write, which may just have ended, let nobody renew a lease.
            self._rescues_from = time.monotonic() + settings().lease.total_seconds()
        actions = [self._beat, self._make_due, self._sweep]
        if fires:
            actions.insert(1, self._fire)
        self._at: dict[Callable[[], float], float] = dict.fromkeys(actions, 0.0)

    def add(self, worker: UUID, pid: int) -> None:
        """A process has begun: its tasks are its own as long as it is here."""
        self._register(worker, pid)
        self._pids[worker] = pid

    def remove(self, worker: UUID, begun: Collection[UUID]) -> None:
        """A process has ended, in whatever way: what it still held is taken back at once.

        `begun`: the tasks that it was running; the others that it held had not begun.
        """
        self._pids.pop(worker, None)
        maintenance.rescue_from(worker, begun)
        maintenance.workers().filter(id=worker).delete()

    def step(self) -> float:
        """Do what its time has come for. Never raises; returns seconds until the next."""
        for action, at in list(self._at.items()):
            if time.monotonic() < at:
                continue
            try:
                pause = action()
            except Exception as error:  # noqa: BLE001  (reported)
                database.report(logger, action.__name__.strip("_"), error)
                pause = FAULT_PAUSE
            self._at[action] = time.monotonic() + pause
        return max(0.0, min(self._at.values()) - time.monotonic())

    def _beat(self) -> float:
        if self._pids:
            found = maintenance.workers().filter(id__in=list(self._pids))
            if found.update(seen=Now()) < len(self._pids):
                there = set(found.values_list("id", flat=True))
                for worker in set(self._pids) - there:  # somebody thought it dead, and pruned it
                    self._register(worker, self._pids[worker])
        now = time.monotonic()
        if now - self._last_beat > 2 * self._beat_every:
            # It was I who stood still, or the database: others may not have beaten yet either.
            self._rescues_from = now + settings().lease.total_seconds()
        self._last_beat = now
        return self._beat_every

    def _register(self, worker: UUID, pid: int) -> None:
        row = {
            "host": socket.gethostname()[:200],
            "pid": pid,
            "queues": self._queues,
            "functions": sorted(registry.names()),
        }
        # Single statements: a read before the write could find SQLite locked.
        if not maintenance.workers().filter(id=worker).update(seen=Now(), **row):
            maintenance.workers().create(id=worker, **row)

    def _fire(self) -> float:
        return firing.step()

    def _make_due(self) -> float:
        scheduling.step()
        return scheduling.PERIOD

    def _sweep(self) -> float:
        now = time.monotonic()
        # Not before a heartbeat got through: after the database was away, my own may be the silent ones.
        beats = now - self._last_beat <= 2 * self._beat_every
        lease = settings().lease.total_seconds()
        strays = now >= self._strays_from
        if strays:
            self._strays_from = now + lease * random.uniform(1.0, 1.5)
        maintenance.sweep(rescues=beats and now >= self._rescues_from, strays=strays)
        return min(SWEEP, lease / 4) * random.uniform(1.0, 1.5)
