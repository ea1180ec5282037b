"""Tell workers to look: one message per burst and queue, from a loop of its own, never into the caller's way."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer, channel_layers
from django.db import transaction
from redis.exceptions import ConnectionError as RedisConnectionError

from cq import database
from cq.conf import settings
from cq.states import Status

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.bell")

MESSAGE = "cq.run"
SEND_TIMEOUT = 1.0
FLUSH_TIMEOUT = 1.0
PASS_ON = (
    0.1  # seconds until a bell whose hearer had no hand is rung again, and twice as long each time
)
LONGEST_PASS_ON = 5.0


def channel(queue: str) -> str:
    """The channel of a queue's bell: of its own, so that no worker swallows another queue's."""
    return "cq-tasks" if queue == "default" else f"cq-tasks.{queue}"


def message(queue: str, passed: int = 0) -> dict[str, Any]:
    """What is sent: it says "look", and how often it was passed on by somebody without a hand."""
    return {"type": MESSAGE, "queue": queue, "passed": passed}


def layer() -> BaseChannelLayer | None:
    """The layer that carries the bell, or None: then workers poll."""
    name = settings().channel_layer
    return channel_layers[name] if name in channel_layers else None  # noqa: SIM401  (no mapping)


# Rung by whoever made a task claimable.

_collected: ContextVar[list[Task[Any]] | None] = ContextVar("cq_collected", default=None)


@contextlib.contextmanager
def collected() -> Iterator[list[Task[Any]]]:
    """Inside, what becomes claimable is handed to the caller, who runs it; no bell is rung."""
    tasks: list[Task[Any]] = []
    token = _collected.set(tasks)
    try:
        yield tasks
    finally:
        _collected.reset(token)


def announce(tasks: Iterable[Task[Any]]) -> None:
    """Ring for those of these tasks that are claimable, once the caller's transaction has committed."""
    listener = _collected.get()
    if listener is not None:
        listener.extend(tasks)
        return
    ring_on_commit(tasks)


def ring_on_commit(tasks: Iterable[Task[Any]]) -> None:
    """The same for tasks that others may look for already, and have passed over."""
    for queue in {task.queue for task in tasks if task.status == Status.QUEUED}:
        transaction.on_commit(partial(ring, queue), using=database.alias(), robust=True)


def ring(queue: str) -> None:
    """Ring now. Returns at once and never raises: a lost bell costs latency, never a task."""
    try:
        if layer() is not None:
            _ringer.ring(queue)
    except Exception as error:  # noqa: BLE001
        logger.warning("the bell of queue %s could not be rung: %s", queue, error)


def pass_on(queue: str, passed: int) -> None:
    """Somebody else may have a hand for what this bell, already passed on so often, was rung for.

    At most one waits for each queue, and the longer it has gone round the longer it waits: while
    all hands are full it costs next to nothing. Whoever frees a hand looks without it.
    """
    try:
        if layer() is not None:
            _ringer.pass_on(queue, passed)
    except Exception as error:  # noqa: BLE001
        logger.warning("the bell of queue %s could not be passed on: %s", queue, error)


def flush() -> None:
    """Send what is unsent, for at most a second."""
    _ringer.flush(time.monotonic() + FLUSH_TIMEOUT)


def stop() -> None:
    """Flush, and end the thread and its connections: before a fork. The next ring begins anew."""
    _ringer.stop()


class _Loop(asyncio.SelectorEventLoop):
    """A loop that resolves host names itself.

    The usual way takes a thread pool, which refuses work once the interpreter ends: a script
    that delays and ends would lose its bells.
    """

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        return socket.getaddrinfo(*args, **kwargs)


class _Ringer:
    """The queues to ring for, and the thread whose loop sends. Made anew after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, int] = {}  # and how often each was passed on
        self._sending: set[str] = set()
        self._waiting: dict[str, tuple[asyncio.TimerHandle, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._warned_at = -60.0

    def ring(self, queue: str, passed: int = 0) -> None:
        with self._lock:
            if queue in self._wanted:
                self._wanted[queue] = min(passed, self._wanted[queue])
                return
            loop = self._running()
            self._wanted[queue] = passed
            loop.call_soon_threadsafe(self._send_soon, queue)

    def pass_on(self, queue: str, passed: int) -> None:
        with self._lock:
            loop = self._running()
            loop.call_soon_threadsafe(self._wait, queue, passed)

    def _wait(self, queue: str, passed: int) -> None:
        """On the loop. Of two that wait for one queue, the sooner and the fresher is left."""
        loop = asyncio.get_running_loop()
        due = loop.time() + min(PASS_ON * 2 ** min(passed, 10), LONGEST_PASS_ON)
        if queue in self._waiting:
            other, others_passed = self._waiting[queue]
            other.cancel()
            due, passed = min(due, other.when()), min(passed, others_passed)
        self._waiting[queue] = (loop.call_at(due, self._pass_now, queue), passed)

    def _pass_now(self, queue: str) -> None:
        _, passed = self._waiting.pop(queue)
        self.ring(queue, passed + 1)

    def flush(self, until: float) -> None:
        while (self._wanted or self._sending) and time.monotonic() < until:
            time.sleep(0.002)

    def stop(self) -> None:
        self.flush(time.monotonic() + FLUSH_TIMEOUT)
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_hang_up(loop), loop)
            thread.join(FLUSH_TIMEOUT)
        with self._lock:
            # What could not be sent in time is given up; it must not keep later rings from being sent.
            self._wanted.clear()
            self._sending.clear()
            self._waiting.clear()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            loop = _Loop()
            thread = threading.Thread(target=_run_loop, args=(loop,), name="cq-bell", daemon=True)
            try:
                thread.start()
            except BaseException:  # no thread is to be had: the next ring tries again
                loop.close()
                raise
            self._loop, self._thread = loop, thread
        return self._loop

    def _send_soon(self, queue: str) -> None:
        # One at a time for each queue: rings that come while one is under way are one more.
        if queue not in self._sending:
            self._sending.add(queue)
            task = asyncio.ensure_future(self._send(queue))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _send(self, queue: str) -> None:
        try:
            while queue in self._wanted:
                with self._lock:
                    passed = self._wanted.pop(queue)
                try:
                    await asyncio.wait_for(self._send_one(queue, passed), SEND_TIMEOUT)
                except ChannelFull:
                    logger.debug("channel %s is full: workers have been told", channel(queue))
                except Exception as error:  # noqa: BLE001
                    self._warn(queue, error)
        finally:
            self._sending.discard(queue)

    async def _send_one(self, queue: str, passed: int) -> None:
        carrier = layer()
        if carrier is None:
            return
        try:
            await carrier.send(channel(queue), message(queue, passed))
        except (OSError, RedisConnectionError):
            # A connection that was kept from before a restart of Redis: the next is a new one.
            await carrier.send(channel(queue), message(queue, passed))

    def _warn(self, queue: str, error: Exception) -> None:
        if time.monotonic() - self._warned_at >= 60:  # once a minute: a layer may be away for long
            self._warned_at = time.monotonic()
            logger.warning(
                "the bell of queue %s could not be sent, workers will find its tasks by polling: %s",
                queue,
                repr(error),
            )


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


async def _hang_up(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    carrier: Any = layer()
    with contextlib.suppress(Exception):  # the loop ends, whatever its connections say
        if hasattr(carrier, "close_pools"):
            await carrier.close_pools()
    loop.stop()


_ringer = _Ringer()


def _after_fork() -> None:
    global _ringer
    _ringer = _Ringer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(flush)
