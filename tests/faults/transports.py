"""The channel layer, or Redis below it, lies, is full, is flushed, or is not there at all."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import contextmanager

from django.db import transaction

from cq.models import Task
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized, tree_numbers
from tests.servers import valkey_server


class Caller:
    """Somebody who calls delay(), and takes the time."""

    def __init__(self, lab):
        self.lab = lab
        self.raised = 0
        self.taken = []

    def delay(self, count, function=tasks.effect, pause=0.0):
        """Returns the 99th percentile of the seconds that a call took."""
        taken = []
        for _ in range(count):
            if self.raised > 3:
                break
            number = len(self.lab.expected)
            begun = time.perf_counter()
            try:
                self.lab.delay(function, number)
            except Exception as error:  # noqa: BLE001
                self.raised += 1
                print(f"delay() raised {error!r}")
            taken.append(time.perf_counter() - begun)
            time.sleep(pause)
        self.taken += taken
        return sorted(taken)[len(taken) * 99 // 100] if taken else float("nan")

    @property
    def held_up(self):
        """How many calls took longer than any reason but a layer that is waited for could explain."""
        return sum(seconds > 1.5 for seconds in self.taken)


@contextmanager
def own_redis(lab):
    """A server for the layer and the cache, of this process as of workers."""
    server = valkey_server()
    server.start()
    try:
        yield server, redis_settings(lab, server.connection_url)
    finally:
        server._cleanup()


def redis_settings(lab, url):
    lab.settings.CHANNEL_LAYERS = lab.layers(hosts=[f"{url}/0"])
    caches = {"default": {**lab.settings.CACHES["default"], "LOCATION": f"{url}/0"}}
    lab.settings.CACHES = caches
    return {"CHANNEL_LAYERS": lab.settings.CHANNEL_LAYERS, "CACHES": caches}


def say(what, before, during):
    print(f"delay(), 99th percentile: {before * 1000:.1f} ms; {what}: {during * 1000:.1f} ms")


@scenario({"send_in_caller": "raised", "no_poll": "left"}, raised=0, held_up=0, left=0)
def redis_killed(lab):
    """All runs while Redis is gone, and the bell is heard again when it is back, empty."""
    with own_redis(lab) as (server, settings):
        lab.worker("--processes", "2", **settings)
        caller = Caller(lab)
        before = caller.delay(sized(100, 1000))
        lab.until_done()
        os.kill(pid_of(server), signal.SIGKILL)
        server._process.wait()
        during = caller.delay(sized(100, 1000))
        say("Redis killed", before, during)
        caller.delay(10, tasks.logging)
        lab.until_done()
        left = Task.objects.active().count()
        server.terminate()
        server.start()
        caller.delay(20)
        lab.until_done()
    return lab.verdict(raised=caller.raised, held_up=caller.held_up, left=left)


@scenario({"send_in_caller": "held_up"}, once=True, raised=0, held_up=0)
def redis_hangs(lab):
    """It takes connections and answers nothing, as behind a broken network."""
    with own_redis(lab) as (server, settings):
        lab.worker("--processes", "2", **settings)
        caller = Caller(lab)
        before = caller.delay(50)
        lab.until_done()
        os.kill(pid_of(server), signal.SIGSTOP)
        try:
            during = caller.delay(3 if lab.mutant else 50)
            say("Redis hangs", before, during)
            lab.until_done()
            caller.delay(2, tasks.logging)
            lab.until_done(60)
            verdict = lab.verdict(raised=caller.raised, held_up=caller.held_up)
        finally:
            os.kill(pid_of(server), signal.SIGCONT)
    return verdict


@scenario({"no_look_after,no_poll,not_passed_on": "unfinished"}, raised=0)
def redis_flushed(lab):
    """Every bell of what is QUEUED is wiped out, unheard, since all hands are busy."""
    with own_redis(lab) as (server, settings):
        caller = Caller(lab)
        worker = lab.worker("--processes", "1", **settings)
        for number in range(1000, 1003):
            lab.delay(tasks.effect, number, before=1)
            lab.begun(worker, number)
            caller.delay(20)
            time.sleep(0.2)  # until the bells are there
            flush(server)
            if not lab.until_done():
                break
    return lab.verdict(raised=caller.raised)


def flush(server):
    import redis

    with redis.Redis.from_url(server.connection_url) as client:
        client.flushall()


@scenario({"send_in_caller": "raised"}, raised=0, held_up=0)
def redis_absent(lab):
    """There never was one: nobody listens on the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = redis_settings(lab, f"redis://127.0.0.1:{probe.getsockname()[1]}")
        caller = Caller(lab)
        lab.worker("--processes", "2", **settings)
        during = caller.delay(sized(100, 1000))
        caller.delay(10, tasks.logging)
        say("no Redis", during, during)
        lab.until_done()
    return lab.verdict(raised=caller.raised, held_up=caller.held_up)


@scenario({"no_poll": "unfinished"})
def lying_layer(lab):
    """It drops 30 %, repeats 30 %, delays and thereby reorders the bells of trees and single tasks."""
    layers = lab.layers(seed=lab.seed, delay=sized(2, 50) / 10)
    layers["long"] = {**layers["long"], "BACKEND": "tests.faults.layers.LyingLayer"}
    lab.settings.CHANNEL_LAYERS = layers
    for _ in range(2):
        lab.worker("--processes", "2", CHANNEL_LAYERS=layers)
    for tree in range(sized(8, 400)):
        first = 10_000 * (tree + 1)
        tasks.tree.delay(NAME, first, 3, 2, before=0.01).chain(tasks.effect, NAME, -first)
        lab.expected |= tree_numbers(first, 3, 2) | {-first}
    lab.until_done()
    for number in range(14):  # each of them needs a bell of its own, or the poll
        time.sleep(0.3)
        lab.delay(tasks.effect, number)
        if not lab.until(lambda: not Task.objects.active().exists()):
            break
    return lab.verdict()


@scenario({"send_in_caller": "raised"}, raised=0)
def full_layer(lab):
    """1,000 delay() of one request, and more one by one, over a layer that holds 10 messages."""
    lab.settings.CHANNEL_LAYERS = lab.layers(capacity=10, channel_capacity={})
    caller = Caller(lab)
    try:
        with transaction.atomic():
            caller.delay(sized(1000, 2000))
    except Exception:  # noqa: BLE001
        caller.raised += 1
    caller.delay(sized(100, 2000))
    lab.worker("--processes", "2", CHANNEL_LAYERS=lab.settings.CHANNEL_LAYERS)
    lab.until_done()
    return lab.verdict(raised=caller.raised)


def pid_of(server):
    return server._process.pid
