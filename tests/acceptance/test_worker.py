"""A real worker runs what is submitted: order, times, retries, workflows, logs."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from cq import ParentFinished
from cq.models import Task
from tests.app import tasks
from tests.app.models import Effect


def names():
    return sorted(Effect.objects.values_list("name", flat=True))


def messages(task):
    return [line["message"] for line in task.logs]


def statuses(*made):
    return [str(one.wait(20).status) for one in made]


# -- Where tasks run


def test_sync_tasks_run_in_the_main_thread_of_a_process_of_their_own(worker):
    started = worker("--processes", "1").wait_ready()
    found = [one.wait(10).result for one in tasks.where.delay_many([()] * 3)]
    assert started.children() == list({pid for pid, _, _ in found})
    assert {True} == {main for _, _, main in found}


def test_threads_run_sync_tasks_side_by_side(worker):
    started = worker("--processes", "1", "--threads", "3").wait_ready()
    assert ["SUCCESS"] * 3 == statuses(*tasks.meet.delay_many([3] * 3))
    assert 1 == len(started.children())
    assert 0 == started.stop()


def test_processes_run_sync_tasks_side_by_side(worker):
    started = worker("--processes", "2").wait_ready()
    assert ["SUCCESS"] * 2 == statuses(*tasks.meet.delay_many([2] * 2))
    assert 2 == len(started.children())


@pytest.mark.vendors("postgresql", "mysql")
def test_async_tasks_run_side_by_side_each_in_a_transaction_of_its_own(worker):
    made = tasks.ameet.delay_many([(n, "why" if n % 2 else None) for n in range(10)])
    started = worker("--processes", "1").wait_ready()
    assert ["SUCCESS", "FAILURE"] * 5 == statuses(*made)
    assert [2, None] * 5 == [one.result for one in made]
    expected = sorted([0, 2, 4, 6, 8] * 2)
    assert expected == sorted(Effect.objects.values_list("number", flat=True))
    assert 0 == started.stop()


# -- Order and time


def test_priority_comes_first_then_age(worker):
    order = [("c", 0), ("e", -7), ("a", 100), ("d", 0), ("b", 1)]
    made = [tasks.effect.using(priority=p).delay(name) for name, p in order]
    assert 0 == worker("--burst", "--processes", "1").wait()
    assert {"SUCCESS"} == set(statuses(*made))
    assert list("abcde") == list(Effect.objects.order_by("id").values_list("name", flat=True))
    started = [Task.objects.get(args__0=name).started for name in "abcde"]
    assert sorted(started) == started


def test_times_are_kept(worker):
    worker("--processes", "1").wait_ready()
    now = datetime.now(UTC)
    later = tasks.effect.using(run_after=timedelta(seconds=1)).delay("later")
    dated = tasks.effect.using(run_after=now + timedelta(seconds=1)).delay("dated")
    first = tasks.add.delay(1)
    after = first.chain(tasks.effect.using(run_after=timedelta(seconds=1)), "after")
    assert ["SUCCESS"] * 4 == statuses(later, dated, first, after)
    for one in (later, dated):
        late = (one.started - one.run_after).total_seconds()
        assert 0 <= late < 2, one
    assert 1 <= (after.started - first.finished).total_seconds() < 3

    over = tasks.effect.using(expires=now - timedelta(seconds=1)).delay("never")
    in_time = tasks.effect.using(expires=60, retries=3).delay("in time")
    assert ["FAILURE", "SUCCESS"] == statuses(over, in_time)
    assert ("expired before it began", []) == (over.error, over.attempts)
    assert ["after", "dated", "in time", "later"] == names()


def test_retries_are_kept_as_attempts(worker):
    worker("--processes", "1").wait_ready()
    third, again, other = (
        tasks.third_time.delay(),
        tasks.asks_again.delay(),
        tasks.other_error.delay(),
    )
    assert ["SUCCESS", "FAILURE", "FAILURE"] == statuses(third, again, other)
    assert ["RETRY", "RETRY"] == third.result
    assert [1, 2, 3] == [entry["number"] for entry in third.attempts]
    assert ["RETRY", "RETRY", "SUCCESS"] == [entry["outcome"] for entry in third.attempts]
    assert ["ValueError: 0", "ValueError: 1", ""] == [entry["error"] for entry in third.attempts]
    assert 1 == len({entry["worker"] for entry in third.attempts})
    times = [
        datetime.fromisoformat(e[key]) for e in third.attempts for key in ("started", "finished")
    ]
    assert sorted(times) == times
    assert timedelta(seconds=0.2) <= times[2] - times[1]
    assert timedelta(seconds=0.1) <= times[4] - times[3]
    assert ("", "", 2) == (third.error, third.traceback, third.failures)
    assert ["RETRY", "FAILURE"] == [entry["outcome"] for entry in again.attempts]
    assert "not yet" in again.error
    assert ["FAILURE"] == [entry["outcome"] for entry in other.attempts]


# -- Queues, burst, layer


def test_a_worker_runs_its_own_queues_alone(worker):
    default, slow = tasks.add.delay(1), tasks.on_slow.delay()
    assert 0 == worker("--burst", "--processes", "1", "--queues", "app-slow").wait()
    assert [("QUEUED"), "SUCCESS"] == [
        str(Task.objects.get(id=t.id).status) for t in (default, slow)
    ]
    assert 0 == worker("--burst", "--processes", "1").wait()
    assert "SUCCESS" == Task.objects.get(id=default.id).status


def test_burst_ends_when_all_is_done_chains_and_dead_processes_included(worker):
    later = tasks.add.using(run_after=timedelta(hours=1)).delay(1)
    chain = tasks.adds_after.delay()
    ring = tasks.has_ring.delay()
    kills = tasks.kills_its_process.delay()
    others = tasks.add.delay_many(range(20))
    last = tasks.all_async_forms.delay()
    started = worker("--burst", "--processes", "2")
    assert 0 == started.wait(60)
    assert [later] == list(Task.objects.active())
    assert ["SUCCESS", "INCOMPLETE", "FAILURE", "SUCCESS"] == statuses(chain, ring, kills, last)
    assert "its worker died 3 times" in kills.error
    assert {"SUCCESS"} == set(statuses(*others))
    assert 0 == worker("--burst").wait()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--queues", "nowhere"], "Unknown queue 'nowhere'; known: .*default"),
        (["--queues", ","], "Unknown queue"),
        (["--layer", "nowhere"], "CHANNEL_LAYERS has no 'nowhere'"),
        (["--processes", "0"], "--processes"),
        (["--threads", "x"], "--threads"),
    ],
)
def test_what_cannot_be_is_said_at_once(arguments, said):
    with pytest.raises(CommandError, match=said):
        call_command("cq_runworker", *arguments)


REDIS = {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}
LAYERS = {
    "core": lambda s: {"CHANNEL_LAYERS": s.CHANNEL_LAYERS, "CQ_CHANNEL_LAYER": "long"},
    "pubsub": lambda s: {
        "CHANNEL_LAYERS": {
            "default": {**REDIS, "CONFIG": {"hosts": s.CHANNEL_LAYERS["long"]["CONFIG"]["hosts"]}}
        },
        "CQ_CHANNEL_LAYER": "default",
    },
    "in memory": lambda s: {"CQ_CHANNEL_LAYER": "default"},
    "none": lambda s: {
        "CHANNEL_LAYERS": {},
        "SILENCED_SYSTEM_CHECKS": ["cq.E005"],  # that the setting names one
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_does(worker, settings, name):
    chosen = LAYERS[name](settings)
    for key, value in chosen.items():
        setattr(settings, key, value)
    arguments = ["--layer", "long"] if name == "core" else []
    worker("--processes", "1", *arguments, settings=chosen).wait_ready()
    made = [tasks.add.delay(1), tasks.parent.delay("a"), tasks.adds_after.delay()]
    assert ["SUCCESS"] * 3 == statuses(*made)


def test_channels_own_worker_runs_tasks_too(process, settings):
    layers = settings.CHANNEL_LAYERS
    config = {**layers["long"]["CONFIG"]}
    # Channels' worker ends of redis-py's own limit on a read, which is as long as the layer waits.
    config["hosts"] = [{"address": config["hosts"][0], "socket_timeout": None}]
    chosen = {
        "INSTALLED_APPS": [*settings.INSTALLED_APPS, "channels"],
        "CHANNEL_LAYERS": {**layers, "long": {**layers["long"], "CONFIG": config}},
    }
    started = process("-m", "django", "runworker", "cq-tasks", "--layer", "long", settings=chosen)
    made = [tasks.parent.delay("a", "b"), tasks.adds_after.delay(), tasks.all_async_forms.delay()]
    later = tasks.add.using(run_after=timedelta(seconds=0.5)).delay(1)
    assert ["SUCCESS"] * 4 == statuses(*made, later)
    assert ["SUCCESS"] == statuses(tasks.third_time.delay())
    for function in (tasks.takes, tasks.atakes):
        late = function.using(timeout=0.2).delay(20, "never").wait(10)
        assert ("FAILURE", True) == (late.status, late.error.startswith("TimeoutError"))
    assert started.exit_code is None


# -- Workflows


def test_workflows_end_as_the_docs_say(worker):
    started = worker("--processes", "2").wait_ready()

    made = tasks.parent.delay("a", "b")
    assert (["SUCCESS"], "done") == (statuses(made), made.result)
    assert (2.0, 2.0, "") == made.progress
    made = tasks.parent.delay("c", error="why")
    assert (["INCOMPLETE"], "done") == (statuses(made), made.result)
    assert "1 of 1 subtasks did not succeed; first tests.app.tasks.effect" in made.error
    assert "ValueError: why" in made.error

    made = tasks.adds_after.delay()
    assert ["SUCCESS"] == statuses(made)
    assert 10 == Task.objects.get(id=made.result).result
    assert ["SUCCESS"] == statuses(*made.successors.all())
    assert ["a", "after the parent", "b"] == names()

    # What a task returns.
    found = [tasks.returns.delay(how).wait(10) for how in ("subtask", "chain")]
    assert [("SUCCESS", 3), ("SUCCESS", 10)] == [(str(t.status), t.result) for t in found]
    assert [1, 3] == [t.subtasks.count() for t in found]
    assert {found[1].id} == {t.root_id for t in found[1].subtasks.all()}
    made = tasks.returns.delay("failed chain")
    assert ["INCOMPLETE"] == statuses(made)
    assert {"FAILURE", "SKIPPED"} == set(statuses(*made.subtasks.all()))
    for how in ("itself", "successor"):
        made = tasks.returns.delay(how)
        assert ["FAILURE"] == statuses(made)
        assert "which waits for it" in made.error
    made = tasks.has_ring.delay()
    assert ["INCOMPLETE"] == statuses(made)
    assert "which waits for it" in made.subtasks.get().error

    elsewhere = tasks.add.using(run_after=timedelta(seconds=0.5)).delay(20, 3)
    made = tasks.returns_elsewhere.delay(str(elsewhere.id))
    assert (["SUCCESS"], 23) == (statuses(made), made.result)
    assert Task.objects.get(id=elsewhere.id).parent is None
    elsewhere = tasks.effect.delay("never", error="why").wait(10)
    made = tasks.returns_elsewhere.delay(str(elsewhere.id))
    assert ["INCOMPLETE"] == statuses(made)

    # Late additions.
    good, bad = tasks.add.delay(1, 2), tasks.effect.delay("never", error="why")
    assert ["SUCCESS", "FAILURE"] == statuses(good, bad)
    assert 7 == good.chain(tasks.add_to_previous, 4).wait(10).result
    assert 8 == good.then(tasks.add, 5).wait(10).result
    skipped = bad.chain(tasks.effect, "never")
    assert "SKIPPED" == skipped.status
    assert "SKIPPED" == skipped.chain(tasks.effect, "never").status
    forced = skipped.chain(tasks.effect.using(force_chain=True), "forced")
    assert ["SUCCESS"] == statuses(forced)
    for one in (good, bad, skipped):
        with pytest.raises(ParentFinished, match="nothing can be added under it"):
            one.subtask(tasks.add, 1)
    assert 0 == Task.objects.active().count()
    assert 0 == started.stop()


def test_every_async_form_works(worker):
    worker("--processes", "1").wait_ready()

    async def main():
        made = await tasks.add.adelay(1, 2)
        many = await tasks.add.adelay_many([1, (2, 3)])
        assert 3 == (await made.async_wait(10)).result
        assert [2, 5] == [(await one.async_wait(10)).result for one in many]
        chained = await made.achain(tasks.add_to_previous, 4)
        then = await made.athen(tasks.add, (5,))
        assert [7, 8] == [(await one.async_wait(10)).result for one in (chained, then)]
        assert None is await made.aposition()
        return await tasks.all_async_forms.adelay()

    made = async_to_sync(main)().wait(10)
    assert (["SUCCESS"], 4) == (statuses(made), len(made.result))
    found = [Task.objects.get(id=one).wait(10).result for one in made.result]
    assert [10, 6, 7, 15] == found
    assert (["a", "b"], 5) == (names(), made.subtasks.count())
    assert ["from async"] == messages(made)
    assert (5.0, 5.0) == made.progress[:2]

    failed = tasks.atomic_together.delay()
    assert ["FAILURE"] == statuses(failed)
    assert [] == list(Task.objects.filter(args__0="never"))


def test_a_non_atomic_task_keeps_what_it_did_and_an_atomic_one_does_not(worker):
    worker("--processes", "1").wait_ready()
    made = tasks.effect_kept.delay("kept", error="why"), tasks.effect.delay("not", error="why")
    assert ["FAILURE", "FAILURE"] == statuses(*made)
    assert ["kept"] == names()


# -- Logs


@pytest.mark.parametrize("cache", ["redis", "none"])
def test_logs_of_a_tree_are_kept_with_its_top_task(worker, eventually, cache):
    local = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    started = worker("--processes", "1", settings={} if cache == "redis" else {"CACHES": local})
    started.wait_ready()

    made = tasks.logs.delay().wait(10)
    assert [*(f"quiet {n}" for n in range(41, 50)), "last"] == messages(made)
    assert [10] * 9 + [30] == [line["level"] for line in made.logs]

    made = tasks.logs_below.delay().wait(10)
    (child,) = made.subtasks.all()
    assert ["parent", "child"] == messages(made)
    assert [str(made.id), str(child.id)] == [line["origin"] for line in made.logs]
    assert ["child"] == messages(child)
    assert {"message", "level", "timestamp", "origin"} == set(made.logs[0])
    for line in made.logs:
        assert timedelta(0) == datetime.fromisoformat(line["timestamp"]).utcoffset()

    made = tasks.logs_and_fails.delay().wait(10)
    assert ["kept", "kept quietly"] == messages(made)
    made = tasks.captured.delay(password="hunter2-secret").wait(10)
    assert ["captured ***", "captured too"] == messages(made)
    assert "hunter2-secret" not in started.output.replace("captured hunter2-secret", "")


def test_what_waits_for_the_database_is_not_lost(worker):
    """The same task many times, so that ends come together."""
    made = tasks.logs_once.delay_many([str(n) for n in range(60)])
    assert 0 == worker("--burst", "--processes", "2").wait()
    for number, one in enumerate(made):
        one.refresh_from_db()
        assert ("SUCCESS", [str(number)]) == (str(one.status), messages(one))


def test_a_worker_that_is_told_to_stop_ends_with_0(worker):
    started = worker("--processes", "2").wait_ready()
    begun = time.monotonic()
    assert 0 == started.stop()
    assert time.monotonic() - begun < 10
    connection.close()
