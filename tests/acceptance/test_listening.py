"""A worker and its layer: what is heard, what is not, and how often is looked."""

from __future__ import annotations

import time

import pytest
import redis
from channels.layers import channel_layers

from cq import bell
from cq.models import Task
from tests.app import tasks

NO_POLL = {"CQ_POLL_INTERVAL": 3600}


@pytest.fixture
def own_layer(settings, redis_server):
    """The bell goes to a Redis of the test's own, in this process and in those of `given`."""
    layers = settings.CHANNEL_LAYERS
    config = {**layers["long"]["CONFIG"], "hosts": [redis_server.connection_url]}
    settings.CHANNEL_LAYERS = {**layers, "long": {**layers["long"], "CONFIG": config}}
    redis_server.given = {**NO_POLL, "CHANNEL_LAYERS": settings.CHANNEL_LAYERS}
    return redis_server


def test_after_redis_was_away_a_worker_looks_without_a_bell(worker, own_layer):
    started = worker("--processes", "1", settings=own_layer.given).wait_ready()
    assert "SUCCESS" == tasks.add.delay(1).wait(10).status
    own_layer.stop()
    started.wait_for("the channel layer is away")
    made = tasks.add.delay(2)
    bell.flush()  # nobody heard that
    own_layer.start()
    assert "SUCCESS" == made.wait(20).status
    started.wait_for("the channel layer is back")


def test_bells_do_not_go_round_while_hands_are_full(worker, own_layer):
    """With async functions about, a worker listens though its sync hands are full."""
    started = [worker("--processes", "1", settings=own_layer.given) for _ in range(2)]
    for one in started:
        one.wait_ready()
    busy = tasks.sleeps.delay_many([12, 12])
    with redis.Redis.from_url(own_layer.connection_url) as client:
        time.sleep(2)
        assert 0 == Task.objects.queued().count()
        assert _commands(client, 2) < 40  # to listen takes a few
        made = tasks.add.delay_many(range(20))
        for one in made[:5]:
            bell.ring(one.queue)
            time.sleep(0.02)
        time.sleep(2)
        assert _commands(client, 2) < 80
    assert {"RUNNING"} == {Task.objects.get(id=one.id).status for one in busy}
    assert {"SUCCESS"} == {str(one.wait(20).status) for one in [*busy, *made]}


def _commands(client, seconds):
    """How many commands a Redis was given in that time."""
    before = client.info("stats")["total_commands_processed"]
    time.sleep(seconds)
    return client.info("stats")["total_commands_processed"] - before


def test_a_fresh_bell_finds_the_free_hand(worker, own_layer):
    """However long bells have gone round, and whoever hears the next one first."""
    for _ in range(3):
        worker("--processes", "1", settings=own_layer.given).wait_ready()
    busy = tasks.sleeps.delay_many([15, 15])
    time.sleep(1)
    late = []
    for number in range(12):
        made = tasks.add.delay(number).wait(20)
        late.append((made.started - made.ready_at).total_seconds())
        time.sleep(0.2)
    assert {"RUNNING"} == {Task.objects.get(id=one.id).status for one in busy}
    assert max(late) < 1.5, late


def test_a_message_that_is_none_makes_nobody_deaf(worker, own_layer):
    started = worker("--processes", "1", settings=own_layer.given).wait_ready()
    layer = channel_layers.make_backend("long")
    with redis.Redis.from_url(own_layer.connection_url) as client:
        client.zadd(f"{layer.prefix}cq-tasks", {layer.serialize([1]): time.time()})
    started.wait_for("'list' object is not a mapping")
    assert "SUCCESS" == tasks.add.delay(1).wait(10).status


def test_listening_that_ended_begins_again(worker, own_layer):
    given = {**own_layer.given, "CQ_POLL_INTERVAL": 0.5}
    started = worker("--processes", "1", settings=given, env={"CQ_TEST_MUTANT": "fault_deaf_once"})
    started.wait_for("listening ended, and begins again")
    started.wait_ready()
    assert "SUCCESS" == tasks.add.delay(1).wait(10).status


# -- Under Channels' own worker


@pytest.fixture
def runworker(process, own_layer, settings):
    """Starts `runworker` for the channel of the queue `default`."""

    def start(**given):
        layers = settings.CHANNEL_LAYERS
        config = {**layers["long"]["CONFIG"]}
        # It ends of redis-py's own limit on a read, which is as long as the layer waits.
        config["hosts"] = [{"address": config["hosts"][0], "socket_timeout": None}]
        chosen = {
            **own_layer.given,
            "INSTALLED_APPS": [*settings.INSTALLED_APPS, "channels"],
            "CHANNEL_LAYERS": {**layers, "long": {**layers["long"], "CONFIG": config}},
            **given,
        }
        arguments = ("-m", "django", "runworker", "cq-tasks", "--layer", "long")
        return process(*arguments, settings=chosen)

    return start


def test_runworker_polls_and_keeps_to_its_queues(runworker, monkeypatch):
    runworker(CQ_POLL_INTERVAL=0.5)
    assert "SUCCESS" == tasks.add.delay(1).wait(30).status
    foreign = tasks.on_slow.delay()
    with monkeypatch.context() as context:
        context.setattr(bell, "ring", lambda *args: None)
        unheard = tasks.add.delay(2)
    assert "SUCCESS" == unheard.wait(10).status
    assert "SUCCESS" == tasks.add.delay(3).wait(10).status
    time.sleep(1)
    assert "QUEUED" == Task.objects.get(id=foreign.id).status


def test_runworker_whose_runner_is_broken_ends(runworker):
    started = runworker()
    tasks.breaks_its_worker.delay()
    assert 1 == started.wait(40)
    assert "an end could not be written" in started.output


# -- What an async task leaves


def test_what_an_async_task_changed_of_its_process_is_put_back(worker, own_layer):
    worker("--processes", "1", settings=own_layer.given).wait_ready()
    before = tasks.surroundings.delay(False).wait(10).result
    assert "SUCCESS" == tasks.asurroundings.delay().wait(10).status
    assert before == tasks.surroundings.delay(False).wait(10).result
