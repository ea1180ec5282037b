"""The bell, rung in this process: what a caller hears nothing of."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis
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


@pytest.mark.vendors("sqlite", "mysql")
def test_without_a_layer_nobody_rings(settings, monkeypatch):
    assert bell.Carrier.LAYER == bell.carrier()
    settings.CHANNEL_LAYERS = {"long": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert bell.Carrier.NOBODY == bell.carrier()
    bell.ring("default")
    assert "cq-notify" not in {thread.name for thread in threading.enumerate()}


def test_a_loop_of_rings_is_a_few_messages(own_layer):
    begun = time.monotonic()
    for _ in range(2000):
        bell.ring("default")
        bell.ring("mail")
        time.sleep(0.0001)
    most = (time.monotonic() - begun) / bell.GAP + 2
    bell.flush()
    layer = channel_layers.make_backend("long")
    with redis.Redis.from_url(own_layer.connection_url) as client:
        for queue in "default", "mail":
            assert 5 < client.zcard(layer.prefix + bell.channel(queue)) <= most


def test_only_a_second_ring_of_a_queue_waits(own_layer, monkeypatch):
    monkeypatch.setattr(bell, "GAP", 60)
    for queue in "default", "mail":
        bell.ring(queue)
        assert received(queue) is not None
    bell.ring("mail")
    assert received("mail", timeout=1) is None
