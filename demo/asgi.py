"""HTTP, and the queues' channels, as the README wires them."""

from __future__ import annotations

import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
http = get_asgi_application()  # sets Django up, which the next import needs

import cq.routing  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(http),
        # Only Channels' own `manage.py runworker cq-tasks --layer long` asks for this;
        # `manage.py cq_runworker` needs no entry.
        "channel": ChannelNameRouter({**cq.routing.channel_routing}),
    }
)
