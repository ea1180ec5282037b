"""The bell, rung in this process: what a caller hears nothing of."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.layers import channel_layers

from cq import bell
from tests.app.tasks import add


@pytest.fixture
def own_layer(settings, redis_server):
    """The bell goes to a Redis of the test's own."""
    layers = settings.CHANNEL_LAYERS
    config = {**layers["long"]["CONFIG"], "hosts": [redis_server.connection_url]}
    settings.CHANNEL_LAYERS = {**layers, "long": {**layers["long"], "CONFIG": config}}
    yield redis_server
    bell.stop()


def received(queue="default", timeout=3):
    """What a plain receive() gets, or None."""

    async def receive():
        layer = channel_layers.make_backend("long")
        try:
            return await asyncio.wait_for(layer.receive(bell.channel(queue)), timeout)
        except TimeoutError:
            return None
        finally:
            await layer.close_pools()

    return asyncio.run(receive())


def test_the_first_bell_after_a_restart_of_redis_is_sent(own_layer):
    bell.ring("default")
    bell.flush()
    assert received() is not None
    own_layer.stop()
    own_layer.start()
    bell.ring("default")
    bell.flush()
    assert received() is not None


def test_a_ringer_that_was_stopped_while_it_sent_rings_again(own_layer, monkeypatch):
    own_layer.stop()

    async def hangs(self, queue, *args):
        await asyncio.sleep(60)

    monkeypatch.setattr(bell, "SEND_TIMEOUT", 60)
    monkeypatch.setattr(bell._Ringer, "_send_one", hangs)
    bell.ring("default")
    bell.stop()
    monkeypatch.undo()
    own_layer.start()
    bell.ring("default")
    bell.flush()
    assert received() is not None


def test_a_ringer_that_got_no_thread_tries_again(own_layer, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    bell.stop()
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        bell.ring("default")
    bell.ring("default")
    bell.flush()
    assert received() is not None


def test_of_bells_that_are_passed_on_one_waits(own_layer):
    for passed in (0, 3, 9):
        bell.pass_on("default", passed)
    assert 1 == received()["passed"]
    assert received(timeout=1) is None


@pytest.mark.django_db(transaction=True)
def test_whoever_held_the_row_of_a_queued_task_rings_for_it_again(monkeypatch):
    """A worker that looked meanwhile has passed over it."""
    rung = []
    monkeypatch.setattr(bell, "ring", rung.append)
    made = add.delay(1)
    for more in (made.chain, made.subtask, made.errorback):
        rung.clear()
        more(add, 2) if more != made.errorback else more(add)
        assert "default" in rung
