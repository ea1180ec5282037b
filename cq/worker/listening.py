"""Hear the bell: what comes by the channel layer, by NOTIFY or by the poll goes to the process's TaskConsumer.

Our own loop, since Channels' worker prefetches without bound and dies of a Redis restart. It does
not listen to a layer while every hand is full, so that another worker hears.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from channels.layers import BaseChannelLayer
from redis.exceptions import TimeoutError as RedisTimeoutError

from cq import bell
from cq.consumers import TaskConsumer
from cq.polling import Poll
from cq.runner import Runner

logger = logging.getLogger("cq.listening")

LONGEST_PAUSE = 5.0  # seconds between two tries to reach a layer that is away
LONGEST_RECEIVE = (
    2.0  # seconds: less than redis-py waits for an answer, so that no message is lost then
)


class Listener:
    """What one process hears; runs on its loop until cancelled."""

    def __init__(self, runner: Runner, layer: BaseChannelLayer | None) -> None:
        self._runner = runner
        self._layer = layer
        self._away: set[str] = set()  # queues whose channel can't be listened to
        # Only a layer's message has one hearer, who may have to pass it on.
        self._passed = None if layer is None else 0
        ear = runner.ear
        hears = layer is not None if ear is None else ear.hears
        self._poll = Poll(runner, self._look_everywhere, hears=hears)
        # Of channels_redis: 5, as redis-py's own limit. The pub/sub layer asks a loop for what it lacks.
        receive: Any = getattr(type(layer), "brpop_timeout", None)
        if receive is not None:
            layer.brpop_timeout = min(receive, LONGEST_RECEIVE)  # type: ignore[union-attr]
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Look once at each queue, then whenever a bell, a tick or a free hand says so."""
        loop = asyncio.get_running_loop()
        self._runner.when_free = lambda: loop.call_soon_threadsafe(self._freed.set)
        if self._runner.ear is not None:
            self._runner.ear.heard = _on_loop(loop, self._look)
            self._runner.ear.changed = _on_loop(loop, self._on_ear)
        self._look_everywhere()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consume())
            group.create_task(self._poll.run())
            if self._layer is not None:
                for queue in self._runner.queues:
                    group.create_task(self._listen(self._layer, queue))

    def _look_everywhere(self) -> None:
        for queue in self._runner.queues:
            self._look(queue)

    def _look(self, queue: str) -> None:
        self._inbox.put_nowait(bell.message(queue, self._passed))

    def _on_ear(self, hears: bool) -> None:
        self._poll.hear(hears)
        if hears:
            self._look_everywhere()  # for what was rung before

    async def _consume(self) -> None:
        while True:
            try:
                await TaskConsumer()({"type": "channel"}, self._inbox.get, _unused)
            except Exception:
                logger.exception("a bell could not be followed")

    async def _listen(self, layer: BaseChannelLayer, queue: str) -> None:
        pause = 0.0
        while True:
            while not self._runner.has_free_hands:
                self._freed.clear()
                await self._freed.wait()
            receiving = asyncio.ensure_future(layer.receive(bell.channel(queue)))
            try:
                if pause:
                    # It returns with the next bell only: that it waits tells that the layer is back.
                    await asyncio.wait({receiving}, timeout=LONGEST_RECEIVE)
                    if not receiving.done() or receiving.exception() is None:
                        logger.warning("the channel layer is back")
                        pause = 0.0
                        self._on_layer(queue, away=False)
                        self._look_everywhere()
                message = await receiving
                self._inbox.put_nowait({**bell.message(queue), **message})
            except RedisTimeoutError:
                # Redis did not answer in time: should a message have come in that moment, it is gone.
                self._inbox.put_nowait(bell.message(queue))
            except Exception as error:  # noqa: BLE001  (a message that is no dict among them)
                if not pause:
                    logger.warning("the channel layer is away, polling goes on: %s", error)
                    self._on_layer(queue, away=True)
                pause = min(pause * 2 or 0.1, LONGEST_PAUSE)
                await asyncio.sleep(pause)
            finally:
                receiving.cancel()  # what asyncio.wait() waits for outlives it

    def _on_layer(self, queue: str, *, away: bool) -> None:
        (self._away.add if away else self._away.discard)(queue)
        self._poll.hear(not self._away)


def _on_loop(
    loop: asyncio.AbstractEventLoop, function: Callable[..., object]
) -> Callable[..., object]:
    """To be called from another thread."""
    return lambda *args: loop.call_soon_threadsafe(function, *args)


async def _unused(message: dict[str, Any]) -> None:
    """Nobody answers a bell."""
