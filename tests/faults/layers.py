"""A channel layer that lies: it drops, repeats and delays what the layer below would carry."""

from __future__ import annotations

import asyncio
import os
import random

from channels.layers import BaseChannelLayer
from channels_redis.core import RedisChannelLayer


class LyingLayer(BaseChannelLayer):
    """`drop` and `repeat` are probabilities; `delay` is the longest delay in seconds. Reorders thereby."""

    def __init__(self, *, seed, drop=0.3, repeat=0.3, delay=0.5, **config):
        super().__init__()
        self._below = RedisChannelLayer(**config)
        self._below.brpop_timeout = 2  # less than redis-py waits for an answer: it alone shall lie
        self._random = random.Random(seed + os.getpid())
        self._drop, self._repeat, self._delay = drop, repeat, delay
        self._late = set()

    async def send(self, channel, message):
        if self._random.random() < self._drop:
            return
        for _ in range(2 if self._random.random() < self._repeat else 1):
            late = asyncio.ensure_future(self._send_late(channel, message))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def _send_late(self, channel, message):
        await asyncio.sleep(self._random.uniform(0, self._delay))
        await self._below.send(channel, message)

    async def receive(self, channel):
        return await self._below.receive(channel)

    async def new_channel(self, prefix="specific."):
        return await self._below.new_channel(prefix)

    async def close_pools(self):
        await self._below.close_pools()
