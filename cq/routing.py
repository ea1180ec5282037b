"""Channel names for a `ChannelNameRouter`: one for each known queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cq import bell, registry
from cq.consumers import TaskConsumer


class _ChannelRouting(Mapping[str, Any]):
    """Worked out when it is read, since importing it must not need the project's tasks."""

    def __getitem__(self, channel: str) -> Any:
        if channel not in set(self):
            raise KeyError(channel)
        return _application

    def __iter__(self) -> Iterator[str]:
        return (bell.channel(queue) for queue in sorted(registry.queues()))

    def __len__(self) -> int:
        return len(registry.queues())


_application = TaskConsumer.as_asgi()

channel_routing = _ChannelRouting()
"""`ChannelNameRouter({**cq.routing.channel_routing})`"""
