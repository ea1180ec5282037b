"""One process's hands: told to look, it claims tasks for those that are free, and runs them.

The claimer thread does the bookkeeping on a connection of its own. Sync tasks run in the threads
that call `work()`, async ones on a loop, each lane with its own thread and connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import logging
import os
import queue as queues
import select
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from cq import bell, database, execution, interrupts, lifecycle, registry
from cq.begun import Begun
from cq.finishing import Finisher
from cq.hands import Hands
from cq.states import Status
from cq.surroundings import Surroundings

if TYPE_CHECKING:
    from cq.ear import Ear
    from cq.models import Task

logger = logging.getLogger("cq.runner")

FAULT_PAUSE = 1.0  # seconds, after the database refused a look
TEND = 0.125  # seconds between two looks at what is claimed, while anything is
SOON = 0.25  # seconds that a task may run before its row says that it has begun


class Runner:
    """Claims tasks of `queues` for `worker`, and runs `threads` sync and `lanes` async ones at a time."""

    def __init__(
        self,
        worker: UUID,
        queues_: Sequence[str] | None,
        threads: int,
        lanes: int,
        begun: Begun | None = None,
    ) -> None:
        """`queues_` None: those that it hears of. In `begun` it notes what its hands have begun."""
        self.worker = worker
        self.queues = list(queues_ or ())
        self._learns = queues_ is None
        self.broken = False
        self._changed = threading.Condition()
        # Queues to look at for sync (False) or async (True) tasks. If a bell told so: how often it
        # had been passed on.
        self._wanted: _Wanted = {}
        self._held: dict[UUID, Task[Any]] = {}
        self._unsure = False  # whether a claim got no answer, and may have won nevertheless
        self._looking = False
        self._stopping = False
        self._threads = threads
        self._calls: queues.SimpleQueue[bool] = queues.SimpleQueue()  # to the threads; False: stop
        self._begun = begun or Begun(threads + lanes)
        self._slots = itertools.count()
        self._lanes = _Lanes(self, lanes, first_slot=threads)
        self._hands = {False: Hands(threads, self._call), True: Hands(lanes, self._lanes.call)}
        self._finisher = Finisher(self.give_up, self._has_more_to_run)
        self._alarm = _Alarm()
        self._claimer = threading.Thread(target=self._claim_forever, name="cq-claim", daemon=True)
        self.when_free: Callable[[], object] = lambda: None
        self.when_found: Callable[[], object] = lambda: None  # in the claimer's thread
        self.ear: Ear | None = None

    # Told by others.

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look when told; async tasks run on `loop`."""
        self._surroundings = Surroundings.now()
        self._lanes.loop = loop
        execution.keep_track(loop)
        interrupts.start()
        self._finisher.start()
        self._claimer.start()

    def look(self, queue: str, *, passed: int | None = 0) -> None:
        """A bell, passed on so often, says there may be work in `queue`. Returns at once; from any thread.

        None: who has no hand free need not care for the bell, since all others have heard it.
        """
        told = None if passed is None else max(0, passed)
        with self._changed:
            if self._learns and queue not in self.queues and queue in registry.queues():
                self.queues.append(queue)
            if queue in self.queues:
                for lane in (False, True):
                    if registry.names(asynchronous=lane):  # no look could find another kind
                        _want(self._wanted, (queue, lane), told)
        self._alarm.ring()

    def look_everywhere(self) -> None:
        """There may be work in any queue."""
        for queue in list(self.queues):
            self.look(queue)

    @property
    def has_free_hands(self) -> bool:
        """Whether it could run something, of a kind that there is."""
        if self._stopping:
            return False
        return any(
            hands.free > 0 and registry.names(asynchronous=lane)
            for lane, hands in self._hands.items()
        )

    @property
    def is_idle(self) -> bool:
        """Nothing runs, all ends are written, and the last look found nothing."""
        with self._changed:
            if self._wanted or self._looking:
                return False
        return all(hands.is_idle for hands in self._hands.values()) and self._finisher.is_idle

    def _has_more_to_run(self) -> bool:
        return any(hands.has_waiting for hands in self._hands.values())

    def stop(self) -> None:
        """Claim no more; what runs is finished. Safe in a signal handler."""
        self._stopping = True
        for _ in range(self._threads):
            self._calls.put(False)
        self._alarm.ring(always=True)

    def give_up(self) -> None:
        """An end can't be written: this process must go, so that its tasks are rescued."""
        logger.critical("an end could not be written; this process gives up")
        self.broken = True
        self.stop()

    def join(self) -> None:
        """After `stop()`: wait for what runs, until all ends are written."""
        if self._claimer.is_alive():
            self._claimer.join()
        while any(hands.is_busy for hands in self._hands.values()):
            time.sleep(0.02)
        self._finisher.stop()
        # For what was given back, and for bells that were heard too late to be followed.
        for queue in self.queues:
            bell.ring(queue)

    # Hands.

    def _call(self, count: int) -> None:
        for _ in range(count):
            self._calls.put(True)

    def work(self) -> None:
        """Run sync tasks in this thread, until stopped."""
        slot = next(self._slots)
        while self._calls.get() and not self._stopping:
            task = self._hands[False].take()
            if task is None:  # it was given back
                continue
            began = time.monotonic()
            self._begun.note(slot, task.id)
            try:
                execution.execute(task, "worker", self._finisher)
            except execution.WorkerBroken:
                self.give_up()
            finally:
                self._tidy()
                self._begun.clear(slot)
                self._done(task, lane=False, seconds=time.monotonic() - began)

    def _tidy(self) -> None:
        try:
            database.tidy()
        except Exception:
            logger.exception("tidying up after a task")
        self._restore()

    def _restore(self) -> None:
        try:
            self._surroundings.restore()
        except Exception:
            logger.exception("putting the surroundings back after a task")

    async def run_in_lane(self, slot: int) -> None:
        """Run the next async task, in a lane."""
        task = self._hands[True].take()
        if task is None:
            return
        began = time.monotonic()
        self._begun.note(slot, task.id)
        try:
            # In a task of its own, so that context variables it sets end with it.
            await asyncio.create_task(execution.aexecute(task, self._finisher))
        except execution.WorkerBroken:
            self.give_up()
        except BaseException:
            logger.exception("%s %s", task.func_name, task.id)
        finally:
            try:
                await sync_to_async(database.tidy)()
            except BaseException:  # a hand that is not given back is lost for ever
                logger.exception("tidying up after a task")
            finally:
                self._begun.clear(slot)
                self._done(task, lane=True, seconds=time.monotonic() - began)

    def _done(self, task: Task[Any], *, lane: bool, seconds: float) -> None:
        """A hand is free again: look, for there may be more for it."""
        hands = self._hands[lane]
        self._held.pop(task.id, None)
        # Not under another task that runs.
        restore = self._restore if lane and self._hands[False].is_idle else None
        if hands.done(seconds, restore) and not self._stopping:
            with self._changed:
                for queue in self.queues:
                    _want(self._wanted, (queue, lane), None)
            self._alarm.ring()
        if hands.free > 0:
            self.when_free()

    # The claimer.

    def _claim_forever(self) -> None:
        while True:
            wanted = self._next_wanted()
            if self._stopping:
                break
            try:
                self._look_at(wanted)
                self._tend()
            except Exception as error:  # noqa: BLE001  (reported)
                database.report(logger, "looking for tasks", error)
                self._unsure = True
                time.sleep(FAULT_PAUSE)
                with self._changed:
                    for place, passed in wanted.items():
                        _want(self._wanted, place, passed)
            finally:
                with self._changed:
                    self._looking = False
        self._leave()
        connections.close_all()

    def _next_wanted(self) -> _Wanted:
        """Wait for a reason to look; none: only to tend what is held."""
        until = time.monotonic() + TEND
        while True:
            with self._changed:
                if self._has_reason_to_look:
                    wanted, self._wanted = self._wanted, {}
                    self._looking = True
                    return wanted
            if self._stopping or (self._held and time.monotonic() >= until):
                return {}
            self._sleep(TEND if self._held else None)

    def _sleep(self, seconds: float | None) -> None:
        """Until somebody of this process has something to say, or somebody else does by NOTIFY."""
        ear = None
        if self.ear is not None:
            asked = self.ear.listen()
            seconds = asked if seconds is None else min(asked, seconds)
            ear = self.ear.fileno()
        self._alarm.sleep(seconds, ear)

    @property
    def _has_reason_to_look(self) -> bool:
        # Without room, only what a bell was rung for: others may have some.
        return any(
            passed is not None or any(self._hands[lane].room())
            for (_, lane), passed in self._wanted.items()
        )

    def _look_at(self, wanted: _Wanted) -> None:
        if self._unsure:
            lifecycle.give_back_unknown(self.worker, self._known())
            self._unsure = False
        for (queue, lane), passed in wanted.items():
            claimed = self._claim(queue, lane=lane)
            if passed is None or self._hands[lane].free > 0 or not _is_queued(queue, lane=lane):
                continue
            # My hands are full, and there is more: somebody else may have a free one.
            if claimed:
                bell.ring(queue)
            else:
                bell.pass_on(queue, passed)
        with self._changed:
            # The queue that was asked first is asked last the next time.
            self.queues = self.queues[1:] + self.queues[:1]

    def _known(self) -> Collection[UUID]:
        """What it holds, or has just ended. In this order: an end is put before its hand is free."""
        return set(self._held.copy()) | self._finisher.unwritten()

    def _claim(self, queue: str, *, lane: bool) -> int:
        """Claim for the hands of one kind. Returns how many."""
        free, ahead = self._hands[lane].room()
        if not free + ahead:
            return 0
        names = registry.names(asynchronous=lane)
        # On a loop nothing may be loaded when it is asked for.
        claimed = lifecycle.claim(queue, names, free, self.worker, ahead=ahead, whole=lane)
        self._held |= {task.id: task for task in claimed}
        if claimed:
            self._hands[lane].put(claimed)
            self.when_found()
        if claimed.is_cut:
            self._hands[lane].cut()
            bell.ring(queue)
        return len(claimed)

    def _tend(self) -> None:
        """Give back what stands behind a long task, and say of that one that it has begun."""
        for hands in self._hands.values():
            self._give_back(hands.stuck())
        soon = time.monotonic() - SOON
        for task in list(self._held.copy().values()):
            if task.owes_start and task.begun_at is not None and task.begun_at < soon:
                lifecycle.mark_begun(task)

    def _give_back(self, tasks: Sequence[Task[Any]]) -> None:
        for task in tasks:
            self._held.pop(task.id, None)
        if tasks:
            self._unsure = True  # until it is done
            lifecycle.give_back(tasks)
            self._unsure = False
            for queue in {task.queue for task in tasks}:
                bell.ring(queue)

    def _leave(self) -> None:
        """Give back at once what was claimed and not begun, whatever still runs."""
        try:
            for hands in self._hands.values():
                self._give_back(hands.withdraw())
            if self._unsure:
                lifecycle.give_back_unknown(self.worker, self._known())
        except Exception as error:  # noqa: BLE001  (taken back from outside, once this process is gone)
            logger.warning("what was claimed and not begun could not be given back: %s", error)
            database.discard(database.connection())


class _Alarm:
    """Wakes the claimer. A pipe, since it may be rung in a signal handler, and waited for beside a socket."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._is_rung = False

    def ring(self, *, always: bool = False) -> None:
        """`always`: even where it may have been rung already, by whoever a signal interrupted."""
        if always or not self._is_rung:
            self._is_rung = True
            with contextlib.suppress(BlockingIOError):  # full: it will wake
                os.write(self._writing, b".")

    def sleep(self, seconds: float | None, also: int | None = None) -> None:
        """Until it is rung, or has been since the last time, or this file is readable."""
        files = [self._reading] if also is None else [self._reading, also]
        readable, _, _ = select.select(files, [], [], seconds)
        if self._reading in readable:
            os.read(self._reading, 4096)
            self._is_rung = False


_Wanted = dict[tuple[str, bool], int | None]


def _want(wanted: _Wanted, place: tuple[str, bool], passed: int | None) -> None:
    """Add a place to look at. Of two bells for one place the fresher counts."""
    counts = [count for count in (passed, wanted.get(place)) if count is not None]
    wanted[place] = min(counts, default=None)


def _is_queued(queue: str, *, lane: bool) -> bool:
    names = registry.names(asynchronous=lane)
    queued = database.tasks().filter(status=Status.QUEUED, queue=queue, func_name__in=names)
    return queued.exists()


class _Lanes:
    """Async tasks side by side on one loop. Each lane keeps a thread and a connection for its tasks."""

    def __init__(self, runner: Runner, number: int, first_slot: int) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._runner = runner
        self._number = number
        self._first_slot = first_slot
        self._calls: asyncio.Queue[None] = asyncio.Queue()
        self._idle = 0
        self._lanes: list[asyncio.Task[None]] = []

    def call(self, count: int) -> None:
        """There are so many more tasks for lanes. From the claimer's thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._call, count)

    def _call(self, count: int) -> None:
        for _ in range(count):
            self._calls.put_nowait(None)
        missing = min(self._calls.qsize() - self._idle, self._number - len(self._lanes))
        for _ in range(missing):
            # A context of its own: what one lane's tasks set must not be seen by another's.
            run = self._run(self._first_slot + len(self._lanes))
            context = contextvars.copy_context()
            self._lanes.append(asyncio.get_running_loop().create_task(run, context=context))

    async def _run(self, slot: int) -> None:
        async with ThreadSensitiveContext() as lane:
            SyncToAsync.context_to_thread_executor[lane] = interrupts.Hand()
            while True:
                self._idle += 1
                try:
                    await self._calls.get()
                finally:
                    self._idle -= 1
                await self._runner.run_in_lane(slot)
