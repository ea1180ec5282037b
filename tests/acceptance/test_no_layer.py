"""A worker without a channel layer: PostgreSQL's NOTIFY, and elsewhere a poll that adapts."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import connection

import cq
from cq import bell
from cq.models import Task
from tests.app import mutants, tasks
from tests.processes import APPLICATION_NAME, eventually

HEARD = "bells are heard"
SILENT = "NOTIFY does not arrive"


@pytest.fixture
def given(settings):
    """No layer that reaches other processes, in this one as in those that are given this; and hardly a poll."""
    memory = {"long": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.CHANNEL_LAYERS = memory
    yield {"CHANNEL_LAYERS": memory, "CQ_POLL_INTERVAL": 3600}
    bell.stop()


def lateness(made):
    """Seconds from when a task could run until it was claimed."""
    return (made.started - made.ready_at).total_seconds()


def until_heard(started, times=1):
    eventually(lambda: started.output.count(HEARD) >= times, 30, f"not heard {times} times")
    time.sleep(0.3)  # what it looks for then is over


# -- NOTIFY


@pytest.mark.vendors("postgresql")
def test_notify_alone_has_all_run(worker, given):
    for _ in range(2):
        until_heard(worker("--processes", "1", settings=given))
    for number in range(10):
        assert "SUCCESS" == tasks.add.delay(number).wait(10).status
    chained = tasks.add.delay(1, 2).chain(tasks.add_to_previous, 3).then(tasks.add, 4)
    assert 10 == chained.wait(10).result
    total = cq.group(*(tasks.effect.s("member", number) for number in range(6))).delay()
    assert ["member"] * 6 == total.then(tasks.add, []).wait(10).result
    due = timedelta(seconds=0.5)
    assert "SUCCESS" == tasks.on_slow.using(run_after=due).delay().wait(10).status


@pytest.mark.vendors("postgresql")
def test_without_notify_it_does_not(worker, given, monkeypatch):
    until_heard(worker("--processes", "1", settings=given))
    mutants.apply("no_notify", monkeypatch.setattr)
    with pytest.raises(TimeoutError):
        tasks.add.delay(1).wait(3)


@pytest.mark.vendors("postgresql")
def test_each_process_hears(worker, given):
    started = worker("--processes", "2", settings=given)
    until_heard(started, 2)
    tasks.meet.delay_many([(2,), (2,)])
    eventually(lambda: not Task.objects.active().exists(), 10)
    assert 2 == Task.objects.succeeded().count()


@pytest.mark.vendors("postgresql")
def test_a_connection_that_was_killed_is_listened_to_again(worker, given):
    started = worker("--processes", "1", settings=given)
    until_heard(started)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            [APPLICATION_NAME],
        )
    until_heard(started, 2)
    assert lateness(tasks.add.delay(1).wait(10)) < 2


@pytest.mark.vendors("postgresql")
def test_where_notify_does_not_arrive_the_poll_adapts(worker, given):
    """As behind a PgBouncer in transaction mode."""
    started = worker(
        "--processes", "1", settings=given, env={"CQ_TEST_MUTANT": "fault_listens_in_vain"}
    )
    started.wait_for(SILENT)
    assert "SUCCESS" == tasks.add.delay(0).wait(20).status
    assert max(lateness(tasks.add.delay(number).wait(10)) for number in range(5)) < 2
    assert HEARD not in started.output
    assert 1 == started.output.count(SILENT)


@pytest.mark.vendors("postgresql")
def test_what_listens_is_not_believed(worker, given):
    """Or nobody would look."""
    worker(
        *("--processes", "1"),
        settings=given,
        env={"CQ_TEST_MUTANT": "fault_listens_in_vain,believes_listen"},
    ).wait_for(HEARD)
    time.sleep(1)
    with pytest.raises(TimeoutError):
        tasks.add.delay(0).wait(4)


# -- The poll


@pytest.mark.vendors("sqlite", "mysql")
def test_after_something_was_found_it_looks_soon(worker, given):
    worker("--processes", "1", settings=given).wait_ready()
    assert "SUCCESS" == tasks.add.delay(0).wait(20).status
    assert max(lateness(tasks.add.delay(number).wait(10)) for number in range(5)) < 2
