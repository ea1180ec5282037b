"""One process of a worker: its threads, from the fork to the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from channels.layers import BaseChannelLayer
from django.db import connections

from cq import bell, hosting, interrupts, logs, registry
from cq.begun import Begun
from cq.database import tasks
from cq.ear import Ear
from cq.runner import Runner
from cq.states import Status
from cq.worker.listening import Listener

logger = logging.getLogger("cq.worker")

DEAF_PAUSE = 1.0  # seconds until listening that ended begins again
HELD_BACK = (signal.SIGTERM, signal.SIGINT)  # while a process is forked
SWITCH = 0.001
"""Seconds that a thread computes while another waits for its turn.

With Python's 5 ms, who claims and who writes ends would wait for theirs at each answer of the
database, and the hands then for them.
"""
PULSE = 1.0  # seconds between two signs of life to the supervisor


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `cq_runworker` was asked for."""

    queues: tuple[str, ...]
    processes: int
    threads: int
    async_concurrency: int
    burst: bool
    fires: bool
    """Whether it makes tasks of repeating ones."""

    @property
    def hands(self) -> int:
        """How many tasks a process runs at a time."""
        return self.threads + self.async_concurrency


def main(worker: UUID, plan: Plan, sign_of_life: int, begun: Begun) -> int:
    """Run tasks until told to stop. Returns the exit code."""
    random.seed()
    sys.setswitchinterval(SWITCH)
    hosting.prepare_process()
    runner = Runner(worker, plan.queues, plan.threads, plan.async_concurrency, begun)
    runner.ear = _ear(worker)
    hosting.give(runner)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor hears Ctrl-C, and tells us
    signal.signal(signal.SIGTERM, _stopper(runner))
    interrupts.prepare_main_thread()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)  # what came since the fork is heard now
    ears = _Ears(runner)
    ears.start()
    parent = os.getppid()
    threading.Thread(
        target=_pulse, args=(runner, sign_of_life, parent), name="cq-pulse", daemon=True
    ).start()
    if plan.burst:
        threading.Thread(target=_stop_when_done, args=(runner,), daemon=True).start()
    _work(runner, plan.threads)
    ears.stop_listening()
    runner.join()
    ears.stop()
    logs.stop()
    bell.stop()
    connections.close_all()
    return 1 if runner.broken else 0


def _stopper(runner: Runner) -> Callable[..., None]:
    """The handler of SIGTERM. A process that a task forks inherits it, and is to die of it as usual."""
    own = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() == own:
            runner.stop()
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    return stop


def _work(runner: Runner, threads: int) -> None:
    """Sync tasks run in this, the main thread; more than one at a time, in threads."""
    if threads == 1:
        runner.work()
        return
    hands = [
        threading.Thread(target=runner.work, name=f"cq-work-{number}", daemon=True)
        for number in range(threads)
    ]
    for hand in hands:
        hand.start()
    for hand in hands:
        while hand.is_alive():
            hand.join(0.5)  # a signal handler runs between two of these


class _Ears(threading.Thread):
    """The loop thread: listening, and async tasks."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(name="cq-loop", daemon=True)
        self._runner = runner
        self._loop = asyncio.new_event_loop()
        self._listening: asyncio.Task[None] | None = None
        self._deaf = False  # and is meant to be
        self._stopping = False

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._runner.start(self._loop)
        self._listen()
        while not self._stopping:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # out of something that a task left on the loop
                logger.exception("raised on the loop, which goes on")

    def _listen(self) -> None:
        if self._deaf:
            return
        self._listening = self._loop.create_task(Listener(self._runner, _layer()).run())
        self._listening.add_done_callback(self._on_deaf)

    def _on_deaf(self, listening: asyncio.Task[None]) -> None:
        """It ends when cancelled, and then only: a process that neither hears nor polls is of no use."""
        if self._deaf:
            return
        error = None if listening.cancelled() else listening.exception()
        logger.error("listening ended, and begins again", exc_info=error)
        self._loop.call_later(DEAF_PAUSE, self._listen)

    def stop_listening(self) -> None:
        self._loop.call_soon_threadsafe(self._stop_listening)

    def _stop_listening(self) -> None:
        self._deaf = True
        if self._listening is not None:
            self._listening.cancel()

    def stop(self) -> None:
        """After the runner has stopped: async tasks are done."""
        self._stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(1)


def _layer() -> BaseChannelLayer | None:
    try:
        return bell.layer()
    except Exception:
        logger.exception("no channel layer: polling alone")
        return None


def _ear(worker: UUID) -> Ear | None:
    """Where the bell is PostgreSQL's NOTIFY."""
    try:
        return Ear(worker) if bell.carrier() is bell.Carrier.NOTIFY else None
    except Exception:  # noqa: BLE001  (a layer that can't be made: `_layer()` says so)
        return None


def _pulse(runner: Runner, sign_of_life: int, parent: int) -> None:
    """Say that this process lives; stop it when the supervisor does not, whose lease it was under."""
    while True:
        try:
            os.write(sign_of_life, b".")
        except OSError:
            runner.stop()
            return
        if os.getppid() != parent:
            logger.error("the supervisor is gone; this process finishes what it runs, and ends")
            runner.stop()
            return
        time.sleep(PULSE)


def _stop_when_done(runner: Runner) -> None:
    """--burst: nothing runs here, and nothing that this process could run is QUEUED."""
    while True:
        time.sleep(0.05)
        if runner.is_idle and not is_work_left(runner.queues):
            runner.stop()
            return


def is_work_left(queues: list[str]) -> bool:
    """Whether something is QUEUED that this project's functions could run."""
    try:
        names = registry.names()
        return tasks().filter(status=Status.QUEUED, queue__in=queues, func_name__in=names).exists()
    except Exception:
        logger.exception("looking for what is left")
        connections.close_all()
        return True
