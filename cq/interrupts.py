"""Stops the code of a run that takes longer than its timeout, or whose row is no longer its own.

In a process's main thread by a signal, in another thread at its next Python instruction, on a loop
by cancelling the asyncio task. What is hit is a function of the user's while it is called, never
what comes before or after: each call has a window, which is open exactly that long. Code that
swallows the exception is hit again each second, and has been interrupted whatever it returns.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from django.db import connections

from cq import context, database
from cq.context import Run
from cq.exceptions import Revoked
from cq.states import Status

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("cq.interrupts")

AGAIN = 1.0  # seconds until what swallowed an interrupt is hit again
LOOK = 1.0  # seconds between two looks at whether what runs here still is its own
GRACE = 0.5  # seconds that `cqt.revoked` can be seen before the code is hit
IDLE = 5  # looks for nothing until the connection is closed
LONGEST = 3600.0  # seconds of one wait: a lock can't count to just any number


# A call.


def call(
    run: Run, function: Callable[[], Any], *, patience: float = 0.0
) -> tuple[Any, BaseException | None]:
    """What a function returned or raised in this thread; see `told()` for one that was interrupted."""
    window = _window(run, patience)
    result: Any = None
    error: BaseException | None = None
    _watch.add(window)
    _here.window = window
    # Nothing may be called between the function's end and the closing of its window, which
    # assignments alone can't delay: an interrupt could be raised there.
    try:
        window.is_open = True
        result = function()
        window.is_open = False
    except BaseException as raised:  # noqa: BLE001  (SystemExit and KeyboardInterrupt fail the task, too)
        window.is_open = False
        error = raised
    # From here on one more can come at most: the one that was on its way.
    try:
        window.end()
    except BaseException:  # noqa: BLE001
        window.end()
    _here.window = None
    _watch.remove(window)
    return result, error


async def acall(
    run: Run, function: Callable[[], Awaitable[Any]]
) -> tuple[Any, BaseException | None]:
    """The same for a coroutine in this asyncio task, which must be its own."""
    window = _OnLoop(run)
    _watch.add(window)
    window.is_open = True
    try:
        return await function(), None
    except BaseException as error:  # noqa: BLE001
        return None, error
    finally:
        window.is_open = False
        _watch.remove(window)
        if run.deadline is not None and time.monotonic() > run.deadline:
            # It may have kept the loop, and so its own interrupt, waiting.
            run.is_overdue = run.interrupted = True


def spare(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what must not be stopped half-way, as it holds a lock: an interrupt hits after it."""
    window: _Window | None = getattr(_here, "window", None)
    if window is None or not window.is_open:
        return function(*args, **kwargs)
    try:
        window.is_open = False
        window.settle()  # what is on its way hits in here
        return function(*args, **kwargs)
    finally:
        window.is_open = True
        window.hit_here()


class Hand(ThreadPoolExecutor):
    """The thread of an async lane: what a run's function has called in it is stopped, too."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="cq-lane")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        run = context.current()
        if run is None:  # bookkeeping
            return super().submit(fn, *args, **kwargs)
        return super().submit(_submitted, run, partial(fn, *args, **kwargs))


def _submitted(run: Run, function: Callable[[], Any]) -> Any:
    # Later than its coroutine: what soon ends is better left to end than stopped inside a driver.
    result, error = call(run, function, patience=AGAIN)
    if error is not None:
        raise error
    return result


# What an interrupted run is told.


def reason(run: Run) -> BaseException | None:
    """Why the code of this run is to stop."""
    if run.revoked:
        return Revoked("it was revoked, or taken over by another worker")
    if run.is_overdue:
        return TimeoutError(f"it ran longer than its timeout of {run.task.timeout:g} s")
    return None


def told(run: Run, error: BaseException | None) -> BaseException:
    """The error of a run that was interrupted, whatever its function made of that."""
    why = reason(run)
    assert why is not None
    if type(error) is type(why) and error.args in ((), why.args):
        error.args = why.args  # an exception that is raised in a thread comes without
        return error
    why.__context__ = error
    return why


def drop_connections() -> None:
    """Close this thread's connections: an interrupt may have hit a driver in the middle of an answer."""
    for link in connections.all(initialized_only=True):
        if link.connection is not None:
            _cancel(link.connection)
            database.discard(link)


def _cancel(raw: Any) -> None:
    """PostgreSQL would go on with what it was asked, and keep its locks, however dead the connection."""
    try:
        if raw.info.transaction_status == _ACTIVE:
            raw.cancel_safe(timeout=5) if hasattr(raw, "cancel_safe") else raw.cancel()
    except Exception as error:  # noqa: BLE001  (other databases' connections have nothing of this)
        logger.debug("a query was not cancelled: %s", error)


_ACTIVE = 1  # libpq's PQTRANS_ACTIVE


# A window.


class _Window:
    """One call, during which its run can be hit; `hit_at` is when that is to be."""

    def __init__(self, run: Run, patience: float) -> None:
        task, now = run.task, time.monotonic()
        if run.deadline is None and task.timeout is not None:
            run.deadline = now + task.timeout
        self.run = run
        self.thread = threading.get_ident()
        # As claimed, whatever becomes of `task`.
        self.key = (task.id, task.worker_id, task.claim_no)
        self.is_open = False
        self.is_due = False
        self._striking = False
        self._patience = patience
        self.hit_at = math.inf
        if run.deadline is not None:
            self.expect(max(run.deadline, now))
        if run.revoked:
            self.expect(now)

    def expect(self, at: float) -> None:
        self.hit_at = min(self.hit_at, at + self._patience)

    def strike(self) -> None:
        """From the clock's thread."""
        self._striking = True
        try:
            self.is_due = True
            if self.is_open:
                self._hit()
        finally:
            self._striking = False

    def settle(self) -> None:
        """Once it is closed: whoever saw it open has struck."""
        while self._striking:
            time.sleep(0.0001)

    def end(self) -> None:
        """Once it is closed for good: nothing arrives any more. May be called again."""
        self.settle()

    def hit_here(self) -> None:
        """What was due while the window was closed for a moment, or is sent by a signal."""
        why = reason(self.run)
        if self.is_due and why is not None:
            self.is_due, self.run.interrupted = False, True
            raise why

    def _hit(self) -> None:
        raise NotImplementedError


class _InMain(_Window):
    """In the main thread, by a signal: it also ends what waits in the operating system."""

    def _hit(self) -> None:
        self.run.interrupted = True
        signal.pthread_kill(self.thread, signal.SIGURG)


class _InThread(_Window):
    """In any thread: at its next Python instruction, so not before what it waits for is there."""

    def _hit(self) -> None:
        self.is_due, self.run.interrupted = False, True
        self._set(ctypes.py_object(type(reason(self.run))))

    def end(self) -> None:
        super().end()
        self._set(None)

    def _set(self, kind: ctypes.py_object[Any] | None) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), kind)


class _OnLoop(_Window):
    """On a loop: where it next awaits something."""

    def __init__(self, run: Run) -> None:
        super().__init__(run, 0.0)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()

    def _hit(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.is_open and self._task is not None:
            self.run.interrupted = True
            self._task.cancel()


_here = threading.local()  # its `window`, where user code is called
_takes_signals = False


def prepare_main_thread() -> None:
    """Have tasks that run in the main thread be hit by a signal, which others ignore."""
    global _takes_signals
    signal.signal(signal.SIGURG, _on_signal)
    _takes_signals = True


def _on_signal(number: int, frame: FrameType | None) -> None:
    """One that comes late finds no window, a closed one, or one that is not due."""
    window: _Window | None = getattr(_here, "window", None)
    if window is not None and window.is_open:
        window.hit_here()


def _window(run: Run, patience: float) -> _Window:
    if _takes_signals and threading.current_thread() is threading.main_thread():
        return _InMain(run, patience)
    return _InThread(run, patience)


# Who strikes.


class _Watch:
    """The windows of this process, and the threads that look after them. Made anew after a fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._windows: set[_Window] = set()
        self._wakes_at = math.inf  # the clock
        self._sleeps = False  # the look

    def start(self) -> None:
        for run, name in ((self._strike_forever, "cq-clock"), (self._look_forever, "cq-look")):
            threading.Thread(target=run, name=name, daemon=True).start()

    def add(self, window: _Window) -> None:
        with self._changed:
            self._windows.add(window)
            # Most windows are closed again before anybody has to wake up for them.
            if self._sleeps or window.hit_at < self._wakes_at:
                self._changed.notify_all()

    def remove(self, window: _Window) -> None:
        with self._changed:
            self._windows.discard(window)

    def _strike_forever(self) -> None:
        while True:
            for window in self._due():
                try:
                    window.strike()
                except Exception:
                    logger.exception("interrupting %s", window.run.task.id)

    def _due(self) -> list[_Window]:
        """Waits until there are some."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [window for window in self._windows if window.hit_at <= now]
                if due:
                    break
                self._wakes_at = min((window.hit_at for window in self._windows), default=math.inf)
                self._changed.wait(min(self._wakes_at - now, LONGEST))
            for window in due:
                window.hit_at = now + AGAIN
                deadline = window.run.deadline
                window.run.is_overdue |= deadline is not None and deadline <= now
            return due

    def _look_forever(self) -> None:
        idle = 0
        while True:
            time.sleep(LOOK)
            with self._changed:
                held = list(self._windows)
            if held:
                idle = 0
                self._look(held)
            elif idle < IDLE:
                idle += 1
            else:
                connections.close_all()
                with self._changed:
                    self._sleeps = True
                    self._changed.wait_for(lambda: self._windows)
                    self._sleeps = False

    def _look(self, held: list[_Window]) -> None:
        """One query for all: whose row is no longer its own is to be stopped."""
        ids = {window.key[0] for window in held}
        try:
            rows = database.task_model()._base_manager.using(database.alias())
            running = rows.filter(id__in=ids, status=Status.RUNNING)
            own = set(running.values_list("id", "worker_id", "claim_no"))
        except Exception as error:  # noqa: BLE001  (reported)
            database.report(logger, "looking for revoked tasks", error)
            return
        with self._changed:
            # Not of one that has closed meanwhile: its row may have been moved by its own end.
            open_ones = self._windows.intersection(held)
            gone = {w.run for w in open_ones if w.key not in own and not w.run.revoked}
            for run in gone:
                run.revoked = True
            for window in self._windows:
                if window.run in gone:
                    window.expect(time.monotonic() + GRACE)
            self._changed.notify_all()


def start() -> None:
    """Begin to look after what runs in this process."""
    _watch.start()


_watch = _Watch()


def _after_fork() -> None:
    global _watch
    _watch = _Watch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
