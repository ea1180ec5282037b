"""The door from a message to a run: whatever says "look" comes through here."""

from __future__ import annotations

import contextlib
from typing import Any

from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.utils import await_many_dispatch

from cq import hosting


class TaskConsumer(AsyncConsumer):
    """Receives the bell, under `cq_runworker` and under Channels' own `runworker` alike."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Listen to the server alone: nobody answers a bell, so it needs no reply channel."""
        self.scope = scope
        self.base_send = send
        with contextlib.suppress(StopConsumer):
            await await_many_dispatch([receive], self.dispatch)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Anything but a bell is ignored: a layer may carry what it likes."""
        if message.get("type") == "cq.run":
            await self.cq_run(message)

    async def cq_run(self, message: dict[str, Any]) -> None:
        """There may be work in `message["queue"]`: have this process look."""
        runner = await hosting.runner()
        passed = message.get("passed", 0)
        if not isinstance(passed, int | None):
            passed = 0
        runner.look(str(message.get("queue", "default")), passed=passed)
