"""Tell workers to look: one message per burst and queue, from a thread of its own, never into the caller's way."""

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
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, channel_layers
from django.db import transaction
from redis.exceptions import ConnectionError as RedisConnectionError

from cq import database, notify
from cq.conf import settings
from cq.states import Status

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.bell")

MESSAGE = "cq.run"
SEND_TIMEOUT = 1.0
FLUSH_TIMEOUT = 1.0
GAP = 0.01
"""Seconds at least between two bells for one queue.

A loop of `delay()` would ring for each, which costs it a third of its speed; and whoever looks
within this time after the bell finds the next tasks, too.
"""
PASS_ON = (
    0.1  # seconds until a bell whose hearer had no hand is rung again, and twice as long each time
)
LONGEST_PASS_ON = 5.0


def channel(queue: str) -> str:
    """The channel of a queue's bell: of its own, so that no worker swallows another queue's."""
    return "cq-tasks" if queue == "default" else f"cq-tasks.{queue}"


def message(queue: str, passed: int | None = 0) -> dict[str, Any]:
    """What is sent: it says "look", and how often it was passed on by somebody without a hand.

    None: all have heard it, so that nobody needs to pass it on.
    """
    return {"type": MESSAGE, "queue": queue, "passed": passed}


class Carrier(Enum):
    """What brings the bell to workers."""

    LAYER = "a channel layer"  # each message to one of them
    NOTIFY = "PostgreSQL"  # to all of them
    NOBODY = "nobody"  # they poll


def carrier() -> Carrier:
    """Who is to ring, and to be listened to."""
    if layer() is not None:
        return Carrier.LAYER
    return Carrier.NOTIFY if notify.is_possible() else Carrier.NOBODY


def layer() -> BaseChannelLayer | None:
    """The layer that carries the bell, where there is one that reaches other processes."""
    name = settings().channel_layer
    found = channel_layers[name] if name in channel_layers else None  # noqa: SIM401  (no mapping)
    return None if isinstance(found, InMemoryChannelLayer) else found


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
        match carrier():
            case Carrier.LAYER:
                _ringer.ring(queue)
            case Carrier.NOTIFY:
                _speaker.say(notify.CHANNEL, queue)
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


def try_out(own_channel: str) -> None:
    """Ring for the caller alone, by NOTIFY, so that he finds out whether it arrives."""
    try:
        _speaker.say(own_channel, "")
    except Exception as error:  # noqa: BLE001
        logger.warning("whether NOTIFY arrives could not be tried: %s", error)


def flush() -> None:
    """Send what is unsent, for at most a second."""
    until = time.monotonic() + FLUSH_TIMEOUT
    _ringer.flush(until)
    _speaker.flush(until)


def stop() -> None:
    """Flush, and end the threads and their connections: before a fork. The next ring begins anew."""
    global _speaker
    _ringer.stop()
    ended, _speaker = _speaker, _new_speaker()
    ended.stop(time.monotonic() + FLUSH_TIMEOUT)


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
        self._sent: dict[str, float] = {}  # when the last one was
        self._waiting: dict[str, tuple[asyncio.TimerHandle, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

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
            self._sent.clear()
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
                await self._keep_gap(queue)
                with self._lock:
                    passed = self._wanted.pop(queue)
                try:
                    await asyncio.wait_for(self._send_one(queue, passed), SEND_TIMEOUT)
                except ChannelFull:
                    logger.debug("channel %s is full: workers have been told", channel(queue))
                except Exception as error:  # noqa: BLE001
                    _complain(queue, error)
        finally:
            self._sending.discard(queue)

    async def _keep_gap(self, queue: str) -> None:
        now = time.monotonic()
        if (at := self._sent.get(queue, 0.0) + GAP) > now:
            await asyncio.sleep(at - now)
        self._sent[queue] = time.monotonic()

    async def _send_one(self, queue: str, passed: int) -> None:
        carrier = layer()
        if carrier is None:
            return
        try:
            await carrier.send(channel(queue), message(queue, passed))
        except (OSError, RedisConnectionError):
            # A connection that was kept from before a restart of Redis: the next is a new one.
            await carrier.send(channel(queue), message(queue, passed))


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


_warned_at = -60.0


def _complain(queue: str, error: Exception) -> None:
    """Once a minute: a layer, or a database, may be away for long."""
    global _warned_at
    if time.monotonic() - _warned_at >= 60:
        _warned_at = time.monotonic()
        logger.warning(
            "the bell of queue %s could not be sent, workers will find its tasks by polling: %s",
            queue,
            repr(error),
        )


def _new_speaker() -> notify.Speaker:
    return notify.Speaker(GAP, _complain)


_ringer = _Ringer()
_speaker = _new_speaker()


def _after_fork() -> None:
    global _ringer, _speaker
    _ringer, _speaker = _Ringer(), _new_speaker()


def _at_exit() -> None:
    until = time.monotonic() + FLUSH_TIMEOUT
    flush()
    _speaker.stop(until)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
