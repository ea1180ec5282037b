"""What Channels' own runworker hosts, wired as the README says."""

from __future__ import annotations

from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.asgi import get_asgi_application

http = get_asgi_application()  # sets Django up, which the next import needs

import cq.routing  # noqa: E402

application = ProtocolTypeRouter(
    {"http": http, "channel": ChannelNameRouter({**cq.routing.channel_routing})}
)
