"""An async task function beside the sync ones: a worker that knows one listens on, though its sync hands are full."""

from __future__ import annotations

from cq import task
from tests.app.models import Effect


@task("faults.aeffect")
async def aeffect(cqt, name, number):
    await Effect.objects.acreate(name=name, number=number)
