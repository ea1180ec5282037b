"""One process's hands: told to look, it claims as many tasks as it has free hands, and runs them.

The claimer thread does the bookkeeping on a connection of its own. Sync tasks run in the threads
that call `work()`, async ones on a loop, each lane with its own thread and connection.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue as queues
import random
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from cq import bell, database, execution, interrupts, lifecycle, registry
from cq.conf import settings
from cq.states import Status
from cq.surroundings import Surroundings

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.runner")

FAULT_PAUSE = 1.0  # seconds, after the database refused a look


class Runner:
    """Claims tasks of `queues` for `worker`, and runs `threads` sync and `lanes` async ones at a time."""

    def __init__(
        self, worker: UUID, queues_: Sequence[str] | None, threads: int, lanes: int
    ) -> None:
        """`queues_` None: those that it hears of."""
        self.worker = worker
        self.queues = list(queues_ or ())
        self._learns = queues_ is None
        self.broken = False
        self._changed = threading.Condition()
        # Queues to look at for sync (False) or async (True) tasks. If a bell told so: how often it
        # had been passed on.
        self._wanted: _Wanted = {}
        self._free_threads = threads
        self._free_lanes = lanes
        self._busy = 0
        self._held: set[UUID] = set()
        self._unsure = False  # whether a claim got no answer, and may have won nevertheless
        self._looking = False
        self._stopping = False
        self._threads = threads
        self._sync: queues.SimpleQueue[Task[Any] | None] = queues.SimpleQueue()
        self._claimer = threading.Thread(target=self._claim_forever, name="cq-claim", daemon=True)
        self._async = _Lanes(self)
        self.when_free: Callable[[], object] = lambda: None

    # Told by others.

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to look when told; async tasks run on `loop`."""
        self._surroundings = Surroundings.now()
        self._async.loop = loop
        execution.keep_track(loop)
        interrupts.start()
        self._claimer.start()

    def look(self, queue: str, *, passed: int = 0) -> None:
        """A bell, passed on so often, says there may be work in `queue`. Returns at once; from any thread."""
        with self._changed:
            if self._learns and queue not in self.queues and queue in registry.queues():
                self.queues.append(queue)
            if queue in self.queues:
                for lane in (False, True):
                    if registry.names(asynchronous=lane):  # no look could find another kind
                        _want(self._wanted, (queue, lane), max(0, passed))
                self._changed.notify_all()

    def look_everywhere(self) -> None:
        """There may be work in any queue."""
        for queue in list(self.queues):
            self.look(queue)

    @property
    def has_free_hands(self) -> bool:
        """Whether it could run something, of a kind that there is."""
        return not self._stopping and any(free > 0 for free in self._free())

    def _free(self) -> list[int]:
        free = {False: self._free_threads, True: self._free_lanes}
        return [count for lane, count in free.items() if registry.names(asynchronous=lane)]

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and the last look found nothing."""
        with self._changed:
            return not (self._busy or self._wanted or self._looking)

    def stop(self) -> None:
        """Claim no more; what runs is finished. Safe in a signal handler."""
        self._stopping = True
        for _ in range(self._threads):
            self._sync.put(None)

    def join(self) -> None:
        """After `stop()`: wait for what runs, and give back what was claimed and not begun."""
        with self._changed:
            self._changed.notify_all()
        if self._claimer.is_alive():
            self._claimer.join()
        left = []
        while not self._sync.empty():
            task = self._sync.get()
            if task is not None:
                left.append(task)
                self.done(task, lane=False)
        try:
            lifecycle.give_back(left)
            if self._unsure:
                lifecycle.give_back_unknown(self.worker, self._held)
        except Exception as error:  # noqa: BLE001  (taken back from outside, once this process is gone)
            logger.warning("what was claimed and not begun could not be given back: %s", error)
            database.discard(database.connection())
        # For what was given back, and for bells that were heard too late to be followed.
        for queue in self.queues:
            bell.ring(queue)
        with self._changed:
            while self._busy:
                self._changed.wait(0.1)

    # Hands.

    def work(self) -> None:
        """Run sync tasks in this thread, until stopped."""
        while (task := self._sync.get()) is not None:
            if self._stopping:
                self._sync.put(task)  # claimed, not begun: join() gives it back
                return
            try:
                execution.execute(task)
            except execution.WorkerBroken:
                logger.critical("an end could not be written; this process gives up", exc_info=True)
                self.broken = True
                self.stop()
            finally:
                self._tidy()
                self.done(task, lane=False)

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

    def done(self, task: Task[Any], *, lane: bool) -> None:
        """A hand is free again: look at once, for there may be more for it."""
        with self._changed:
            self._held.discard(task.id)
            if lane:
                self._free_lanes += 1
            else:
                self._free_threads += 1
            self._busy -= 1
            if lane and not self._busy:
                self._restore()  # not under another task that runs; none begins while this is locked
            if not self._stopping:
                for queue in self.queues:
                    _want(self._wanted, (queue, lane), None)
            self._changed.notify_all()
        self.when_free()

    # The claimer.

    def _claim_forever(self) -> None:
        while True:
            with self._changed:
                while not (self._stopping or self._has_reason_to_look):
                    self._changed.wait()
                if self._stopping:
                    break
                wanted, self._wanted = self._wanted, {}
                self._looking = True
            try:
                self._look_at(wanted)
            except Exception as error:
                logger.log(
                    logging.WARNING if database.passing(error) else logging.ERROR,
                    "looking for tasks failed, will look again: %s",
                    error,
                    exc_info=not database.passing(error),
                )
                self._unsure = True
                database.discard(database.connection())
                threading.Event().wait(FAULT_PAUSE)
                with self._changed:
                    for place, passed in wanted.items():
                        _want(self._wanted, place, passed)
            finally:
                with self._changed:
                    self._looking = False
                    self._changed.notify_all()
        connections.close_all()

    @property
    def _has_reason_to_look(self) -> bool:
        # Without a free hand, only what a bell was rung for: others may have one.
        told = any(passed is not None for passed in self._wanted.values())
        return told or bool(self._wanted and self.has_free_hands)

    def _look_at(self, wanted: _Wanted) -> None:
        if self._unsure:
            with self._changed:
                held = set(self._held)
            lifecycle.give_back_unknown(self.worker, held)
            self._unsure = False
        for (queue, lane), passed in wanted.items():
            claimed, is_full = self._claim(queue, lane=lane)
            if passed is None or not is_full or not _is_queued(queue, lane=lane):
                continue
            # My hands are full, and there is more: somebody else may have a free one.
            if claimed:
                bell.ring(queue)
            else:
                bell.pass_on(queue, passed)
        with self._changed:
            # The queue that was asked first is asked last the next time.
            self.queues = self.queues[1:] + self.queues[:1]

    def _claim(self, queue: str, *, lane: bool) -> tuple[int, bool]:
        """Claim into free hands of one kind. Returns how many, and whether these hands are full now."""
        free = self._free_lanes if lane else self._free_threads
        if free <= 0:
            return 0, True
        claimed = lifecycle.claim(queue, registry.names(asynchronous=lane), free, self.worker)
        with self._changed:
            if lane:
                self._free_lanes -= len(claimed)
            else:
                self._free_threads -= len(claimed)
            self._busy += len(claimed)
            self._held.update(task.id for task in claimed)
        for task in claimed:
            if lane:
                self._async.put(task)
            else:
                self._sync.put(task)
        return len(claimed), len(claimed) == free


async def poll(runner: Runner, look_everywhere: Callable[[], object]) -> None:
    """Look now and then without having heard a bell, until cancelled."""
    while True:
        interval = settings().poll_interval.total_seconds()
        await asyncio.sleep(interval * random.uniform(0.9, 1.1))
        if runner.has_free_hands:
            look_everywhere()


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

    def __init__(self, runner: Runner) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._runner = runner
        self._tasks: asyncio.Queue[Task[Any]] = asyncio.Queue()
        self._idle = 0
        self._lanes: set[asyncio.Task[None]] = set()

    def put(self, task: Task[Any]) -> None:
        """From the claimer's thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._put, task)

    def _put(self, task: Task[Any]) -> None:
        self._tasks.put_nowait(task)
        if self._tasks.qsize() > self._idle:
            # A context of its own: what one lane's tasks set must not be seen by another's.
            lane = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.copy_context()
            )
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _run(self) -> None:
        async with ThreadSensitiveContext() as lane:
            SyncToAsync.context_to_thread_executor[lane] = interrupts.Hand()
            while True:
                self._idle += 1
                try:
                    task = await self._tasks.get()
                finally:
                    self._idle -= 1
                await self._run_one(task)

    async def _run_one(self, task: Task[Any]) -> None:
        try:
            # In a task of its own, so that context variables it sets end with it.
            await asyncio.create_task(execution.aexecute(task))
        except execution.WorkerBroken:
            logger.critical("an end could not be written; this process gives up", exc_info=True)
            self._runner.broken = True
            self._runner.stop()
        except BaseException:
            logger.exception("%s %s", task.func_name, task.id)
        finally:
            try:
                await _tidy()
            except BaseException:  # a hand that is not given back is lost for ever
                logger.exception("tidying up after a task")
            finally:
                self._runner.done(task, lane=True)


async def _tidy() -> None:
    await sync_to_async(database.tidy)()
