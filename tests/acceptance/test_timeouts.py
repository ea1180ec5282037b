"""What takes too long, or is revoked while it runs, is stopped: in the main thread, in others, on a loop."""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial

import pytest
from django.db import connection

from cq.models import Task
from tests.app import tasks
from tests.app.models import Effect

PLACES = {
    "main": (tasks.takes, ["--threads", "1"]),
    "thread": (tasks.takes, ["--threads", "3"]),
    "loop": (tasks.atakes, []),
}
places = pytest.mark.parametrize("place", PLACES)


def names():
    return sorted(Effect.objects.values_list("name", flat=True))


def started(worker, place, **settings):
    function, arguments = PLACES[place]
    return function, worker("--processes", "1", *arguments, settings=settings).wait_ready()


def revoke(*made):
    Task.objects.filter(id__in=[one.id for one in made]).update(status="REVOKED")


# -- Timeouts


@places
def test_what_takes_too_long_fails_without_effects_and_is_retried(worker, place):
    function, running = started(worker, place)
    children = running.children()
    assert "SUCCESS" == function.using(timeout=20).delay(0.2, "in time").wait(10).status
    retried = {"retries": 1, "retry_delay": 0}
    for attempts, options in (
        (2, {**retried}),
        (2, {**retried, "retry_exceptions": (TimeoutError,)}),
        (1, {**retried, "retry_exceptions": (ValueError,)}),
    ):
        one = function.using(timeout=0.2, **options).delay(20, "never").wait(20)
        assert ("FAILURE", attempts) == (one.status, len(one.attempts))
        assert "TimeoutError: it ran longer than its timeout of 0.2 s" == one.error
        assert "time.sleep" in one.traceback or "asyncio.sleep" in one.traceback
    assert ["in time"] == names()
    assert children == running.children()
    assert 0 == running.stop()


@places
def test_what_swallows_it_is_hit_again_and_has_failed_all_the_same(worker, place):
    function, _ = started(worker, place)
    begun = time.monotonic()
    stubborn = function.using(timeout=0.3).delay(4, "never", swallows=1)
    returns = function.using(timeout=0.3).delay(0.6, "never", swallows=9)
    for one in (stubborn, returns):
        assert "FAILURE" == one.wait(20).status
        assert one.error.startswith("TimeoutError: it ran longer")
    assert time.monotonic() - begun < 4
    assert "SUCCESS" == function.delay(0, "next").wait(10).status
    assert ["next"] == names()


@pytest.mark.parametrize("threads", ["1", "3"])
def test_who_ends_just_in_time_is_never_hit_afterwards(worker, seed, threads):
    """Nor is the next one, nor the bookkeeping: each end is whole, and the process lives."""
    numbers = random.Random(seed)
    running = worker("--processes", "1", "--threads", threads).wait_ready()
    children = running.children()
    for function, count in ((tasks.takes, 100), (tasks.atakes, 100)):
        quick = function.using(timeout=0.02)
        quick.delay_many([(numbers.uniform(0.01, 0.025), "counts") for _ in range(count)])
    made = Task.objects.all()
    until = time.monotonic() + 30
    while made.active().exists() and time.monotonic() < until:
        time.sleep(0.1)
    ends = Counter(made.values_list("func_name", "status", "error"))
    overdue = "TimeoutError: it ran longer than its timeout of 0.02 s"
    assert {("SUCCESS", ""), ("FAILURE", overdue)} == {end[1:] for end in ends}, ends
    assert sum(ends[end] for end in ends if end[1] == "SUCCESS") == Effect.objects.count()
    assert {1} == {len(attempts) for attempts in made.values_list("attempts", flat=True)}
    assert children == running.children()
    errors = [line for line in running.output.splitlines() if " ERROR " in line]
    assert [] == [line for line in errors if not line.endswith(overdue)]
    assert 0 == running.stop()


def test_code_in_the_thread_of_an_async_task_is_stopped_too(worker):
    worker("--processes", "1").wait_ready()
    made = tasks.takes_in_its_thread.using(timeout=0.3).delay(20, "never").wait(10)
    assert ("FAILURE", True) == (made.status, made.error.startswith("TimeoutError"))
    assert "SUCCESS" == tasks.takes_in_its_thread.delay(0, "next").wait(10).status
    assert ["next"] == names()


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize("function", [tasks.asks_the_database, tasks.asks_the_database_not_atomic])
def test_a_query_is_stopped_and_its_connection_not_used_again(worker, eventually, function):
    running = worker("--processes", "1").wait_ready()
    made = function.using(timeout=0.3).delay("SELECT pg_sleep(30)").wait(10)
    assert ("FAILURE", True) == (made.status, made.error.startswith("TimeoutError"))
    assert tasks.add.delay(1, 2).wait(10).result == 3
    asks = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(30)%%' AND pid != %s"
    with connection.cursor() as cursor:

        def left():
            cursor.execute(asks, [0])
            return cursor.fetchone()[0] - 1  # this one

        eventually(lambda: left() == 0, 3)
    assert "the end of" not in running.output


# -- Revoked


@places
def test_what_is_revoked_is_stopped_and_the_next_one_runs(worker, eventually, place):
    function, running = started(worker, place)
    children = running.children()
    # On SQLite a revoke has to wait for a task that has written.
    made = function.delay(30, "" if connection.vendor == "sqlite" else "never")
    eventually(lambda: Task.objects.get(id=made.id).status == "RUNNING")
    time.sleep(0.2)  # claimed, and begun by now
    begun = time.monotonic()
    revoke(made)
    running.wait_for("was stopped: it is revoked", 4)
    assert time.monotonic() - begun < 3
    assert "SUCCESS" == function.delay(0, "next").wait(10).status
    made.refresh_from_db()
    assert ("REVOKED", "", []) == (made.status, made.error, made.attempts)
    assert ["next"] == names()
    assert children == running.children()
    assert "fenced" not in running.output
    assert 0 == running.stop()


def test_what_runs_can_ask_and_is_told_by_what_it_calls(worker, eventually):
    running = worker("--processes", "1", "--threads", "4").wait_ready()
    asks = tasks.asks_whether_revoked.delay()
    told = tasks.logs_until_revoked.delay_many(["log", "progress"])
    own = tasks.changes_its_own_row.delay(3)
    made = [asks, *told, own]
    eventually(lambda: Task.objects.filter(status="RUNNING").count() == 4)
    time.sleep(0.2)
    begun = time.monotonic()
    revoke(*made[:3])
    eventually(lambda: 3 == running.output.count("was stopped: it is revoked"), 5)
    assert time.monotonic() - begun < 4
    assert ["saw it"] == names()
    assert "SUCCESS" == own.wait(10).status
    assert "changed" == own.label


def test_what_another_worker_took_over_is_stopped(worker, eventually):
    """Nothing is written by the one that lost it."""
    running = worker("--processes", "1").wait_ready()
    made = tasks.takes.delay(30)
    eventually(lambda: Task.objects.get(id=made.id).status == "RUNNING")
    time.sleep(0.2)  # claimed, and begun by now
    Task.objects.filter(id=made.id).update(claim_no=7)
    running.wait_for("was stopped: it is revoked", 5)
    made.refresh_from_db()
    assert ("RUNNING", 7, []) == (made.status, made.claim_no, names())


# -- Without the protections


SPOILT = {
    "interrupts_forgotten": (
        test_what_swallows_it_is_hit_again_and_has_failed_all_the_same,
        "main",
    ),
    "interrupted_once": (test_what_swallows_it_is_hit_again_and_has_failed_all_the_same, "loop"),
    "interrupts_nobody": (test_what_is_revoked_is_stopped_and_the_next_one_runs, "thread"),
}


@pytest.mark.once
@pytest.mark.parametrize("mutant", SPOILT)
def test_unprotected(worker, eventually, mutant):
    test, place = SPOILT[mutant]
    spoilt = partial(worker, env={"CQ_TEST_MUTANT": mutant})
    given = {"eventually": eventually} if mutant == "interrupts_nobody" else {}
    with pytest.raises((AssertionError, TimeoutError)):
        test(spoilt, place=place, **given)


@pytest.mark.once
def test_unprotected_ends(worker, seed):
    spoilt = partial(worker, env={"CQ_TEST_MUTANT": "windows_stay_open"})
    with pytest.raises(AssertionError):
        test_who_ends_just_in_time_is_never_hit_afterwards(spoilt, seed, "3")


@pytest.mark.once
@pytest.mark.vendors("postgresql")
def test_unprotected_connections(worker, eventually):
    spoilt = partial(worker, env={"CQ_TEST_MUTANT": "interrupted_connections_kept"})
    with pytest.raises(AssertionError):
        test_a_query_is_stopped_and_its_connection_not_used_again(
            spoilt, eventually, tasks.asks_the_database_not_atomic
        )
