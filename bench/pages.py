"""What the ASGI server of bench.asgi serves."""

from __future__ import annotations

import asyncio
import time

from django.http import JsonResponse
from django.urls import path

from bench.tasks import nothing


async def delays(request, count):
    """So many `adelay()` at once: how long each took, and the longest that the loop was kept from going on."""
    ticks = asyncio.create_task(_tick())
    await asyncio.sleep(0.1)  # at least so long it is looked at
    took = await asyncio.gather(*(_delay(number) for number in range(count)))
    await asyncio.sleep(0.01)
    ticks.cancel()
    return JsonResponse({"took": took, "blocked": await ticks})


async def _delay(number):
    began = time.perf_counter()
    await nothing.adelay(number)
    return (time.perf_counter() - began) * 1000


async def _tick():
    """Milliseconds that a sleep of one took too long, at worst."""
    worst = 0.0
    try:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, (time.perf_counter() - began) * 1000 - 1)
    except asyncio.CancelledError:
        return worst


urlpatterns = [path("delays/<int:count>", delays)]
