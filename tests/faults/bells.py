"""The bell is real: with the poll turned off, everything runs by the layer alone."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from channels.layers import channel_layers

from cq.models import Task
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized

NO_POLL = {"CQ_POLL_INTERVAL": 3600}
NO_LAYER = {"long": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@scenario({"no_send": "unfinished"}, once=True, total=14)
def by_bells_alone(lab):
    """Single tasks, subtasks, chains, a fan-in, what is due later, what was given back."""
    for _ in range(2):
        lab.worker("--processes", "1", **NO_POLL)
    return all_runs(lab)


@scenario({"no_notify": "unfinished"}, vendors=["postgresql"], once=True, total=14)
def by_notify_alone(lab):
    """The same without a layer."""
    lab.settings.CHANNEL_LAYERS = NO_LAYER
    for _ in range(2):
        worker = lab.worker("--processes", "1", CHANNEL_LAYERS=NO_LAYER, **NO_POLL)
        worker.wait_for("bells are heard")
    return all_runs(lab)


def all_runs(lab):
    time.sleep(1)  # what they look for at their start is over
    for number in range(5):
        lab.delay(tasks.effect, number)
        if not lab.until(lambda: not Task.objects.active().exists(), 20):
            return lab.verdict(total=0)
    link = lab.delay(tasks.effect, 5)
    for number in range(6, 10):
        link = link.chain(tasks.effect, NAME, number)
        lab.expected.add(number)
    lab.delay(tasks.effect.using(run_after=timedelta(seconds=1)), 10)
    lab.until(lambda: not Task.objects.active().exists(), 20)
    first = 10_000
    tasks.tree.delay("tree", first, 3, 2).chain(tasks.total, "tree", -1)
    lab.until_done(20)
    (total,) = Task.objects.filter(func_name="faults.total")
    return lab.verdict(total=total.result)


@scenario({"no_send": "received"}, once=True, received="cq.run")
def rung_before_anyone_listens(lab):
    """A bell lies in the long layer until somebody receives."""
    lab.delay(tasks.effect, 1)
    lab.expected.clear()
    time.sleep(sized(5, 120))
    message = asyncio.run(receive())
    Task.objects.all().delete()
    return lab.verdict(received=message and message["type"])


async def receive():
    """A plain receive() by a layer that has sent nothing."""
    layer = channel_layers.make_backend("long")
    try:
        return await asyncio.wait_for(layer.receive("cq-tasks"), 2)
    except TimeoutError:
        return None
    finally:
        await layer.close_pools()


@scenario(
    {"no_send": "received", "no_flush_at_exit": "received", "names_by_thread_pool": "received"},
    once=True,
    received=3,
    exit_codes=[0] * 3,
)
def script_that_ends_at_once(lab):
    """It calls delay() and is over; its bell is in Redis, which it knows by name."""
    hosts = lab.settings.CHANNEL_LAYERS["long"]["CONFIG"]["hosts"]
    layers = lab.layers(hosts=[host.replace("127.0.0.1", "localhost") for host in hosts])
    assert "localhost" in str(layers), hosts
    received, exit_codes = 0, []
    for number in range(1 if lab.mutant else 3):
        code = f"from tests.faults import tasks; tasks.effect.delay('faults', {number})"
        exit_codes.append(lab.script(code, CHANNEL_LAYERS=layers).wait())
        received += asyncio.run(receive()) is not None
    assert Task.objects.queued().count() == len(exit_codes)
    Task.objects.all().delete()
    return lab.verdict(received=received, exit_codes=exit_codes)


@scenario({"one_channel": "unfinished"}, once=True)
def other_queue(lab):
    """A worker of one queue neither hears nor holds up the bells of another, be it idle or busy."""
    lab.worker("--processes", "1", "--queues", "a", **NO_POLL, CQ_QUEUES=["a", "b"])
    lab.worker("--processes", "1", "--queues", "b", **NO_POLL, CQ_QUEUES=["a", "b"])
    time.sleep(1)
    # Shorter than what a busy machine needs for a look that no bell caused.
    patience = 3 if lab.mutant else 20
    for number in range(0, 12, 2):
        lab.delay(tasks.effect.using(queue="b"), number)
        if not lab.until(lambda: not Task.objects.active().exists(), patience):
            return lab.verdict()
        lab.delay(tasks.effect.using(queue="a"), number + 1, before=0.2)
        time.sleep(lab.random.uniform(0, 0.3))
    lab.until_done()
    return lab.verdict()


def burst(lab, *modules, **more):
    """As many tasks at once as there are processes, each of which ends well only beside all others."""
    workers = 4
    given = {**NO_POLL, "CQ_TASK_MODULES": ["tests.faults.tasks", *modules], **more}
    started = [lab.worker_soon("--processes", "1", **given) for _ in range(workers)]
    for worker in started:
        worker.wait_ready(60)
        if "CHANNEL_LAYERS" in more:
            worker.wait_for("bells are heard")
    time.sleep(1)
    patience = 3 if lab.mutant else 20
    for round_ in range(sized(6, 60)):
        name = f"round {round_}"
        # One transaction, and so one bell.
        tasks.meet.delay_many((name, number, workers, patience) for number in range(workers))
        lab.until_done()
        if Task.objects.errors().exists() or Task.objects.active().exists():
            break
        # The next burst comes while the hands of the last one are being freed.
        time.sleep(lab.random.choice([0, 0, lab.random.uniform(0, 0.05)]))
    return lab.verdict()


@scenario({"not_passed_on": "badly"}, once=True)
def burst_wakes_all(lab):
    """A burst wakes as many workers as it needs."""
    return burst(lab)


@scenario({"not_passed_on": "badly"}, once=True)
def burst_wakes_all_with_async(lab):
    """So it does where workers listen though their sync hands are full."""
    return burst(lab, "tests.faults.atasks")


@scenario({"no_notify": "unfinished"}, vendors=["postgresql"], once=True)
def burst_wakes_all_by_notify(lab):
    """One word reaches all."""
    lab.settings.CHANNEL_LAYERS = NO_LAYER
    return burst(lab, CHANNEL_LAYERS=NO_LAYER)
