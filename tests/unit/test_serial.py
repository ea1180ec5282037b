"""CQ_SERIAL: `delay()` writes the row and runs it, and all that comes of it, before it returns."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from cq import Retry, task
from cq.models import Task
from tests.app.models import Effect

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True, params=["in a transaction", "in none"])
def _serial(request, settings, transactional_db):
    settings.CQ_SERIAL = True
    if request.param == "in none":
        yield
        return
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@task("serial.add")
def add(cqt, a, b=1):
    return a + b


@task("serial.add_to_previous")
def add_to_previous(cqt, b):
    return cqt.previous.result + b


@task("serial.effect")
def effect(cqt, name, error=None):
    Effect.objects.create(name=name)
    if error is not None:
        raise ValueError(error)
    return name


@task("serial.effect_kept", atomic=False)
def effect_kept(cqt, name, error=None):
    Effect.objects.create(name=name)
    if error == "database":
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense FROM nowhere")
    if error is not None:
        raise ValueError(error)


@task("serial.parent")
def parent(cqt, *names, error=None):
    for name in names:
        cqt.subtask(effect, name, error)
    return "done"


forced = effect.using(force_chain=True)


def effects():
    return sorted(Effect.objects.values_list("name", flat=True))


def test_delay_returns_a_finished_task_whose_row_is_there():
    made = add.delay(1, 2)
    row = Task.objects.get()
    assert (3, "SUCCESS", made.id) == (made.result, made.status, row.id)
    assert ("SUCCESS", 3, 1, "SUCCESS") == (
        row.status,
        row.result,
        len(row.attempts),
        row.attempts[0]["outcome"],
    )
    assert made is made.wait(timeout=0)


def test_every_way_of_delaying_does_so():
    assert 3 == add.delay_args([1], {"b": 2}).result
    assert [2, 3, 5] == [t.result for t in add.delay_many([1, 2, (2, 3)])]
    assert 3 == async_to_sync(add.adelay)(1, 2).result
    assert [2, 3] == [t.result for t in async_to_sync(add.adelay_many)([1, 2])]


def test_an_error_is_recorded_and_not_raised():
    made = effect.delay("a", "why")
    assert ("FAILURE", "ValueError: why") == (made.status, made.error)
    assert "raise ValueError(error)" in made.traceback
    assert [] == effects()


def test_a_failure_does_not_break_the_callers_transaction():
    with transaction.atomic():
        Effect.objects.create(name="before")
        assert "FAILURE" == effect.delay("a", "why").status
        Effect.objects.create(name="after")
    assert ["after", "before"] == effects()


def test_a_broken_statement_is_a_failure_too():
    @task("serial.breaks")
    def breaks(cqt):
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense FROM nowhere")

    made = breaks.delay()
    assert ("FAILURE", True) == (
        made.status,
        "nonsense" in made.traceback or "nowhere" in made.error,
    )
    assert "SUCCESS" == add.delay(1).status


def test_a_non_atomic_task_keeps_what_it_did():
    assert "FAILURE" == effect_kept.delay("a", "why").status
    assert ["a"] == effects()


def test_a_broken_statement_in_a_non_atomic_task_is_a_failure_too():
    made = effect_kept.delay("a", "database")
    assert "FAILURE" == made.status
    assert "nowhere" in made.error
    assert "SUCCESS" == add.delay(1).status


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Exception()])
def test_whatever_is_raised_is_recorded(error):
    @task("serial.raises")
    def raises(cqt):
        raise error

    assert "FAILURE" == raises.delay().status


def test_retries_wait_for_nothing():
    runs = []

    @task("serial.third", retries=3, retry_delay=3600)
    def third(cqt):
        runs.append(cqt.failures)
        if len(runs) < 3:
            raise ValueError(len(runs))
        return len(runs)

    made = third.delay()
    assert ("SUCCESS", 3, [0, 1, 2], "") == (made.status, made.result, runs, made.error)
    assert ["RETRY", "RETRY", "SUCCESS"] == [entry["outcome"] for entry in made.attempts]


def test_retries_end():
    @task("serial.never", retries=2)
    def never(cqt):
        raise Retry(3600)

    made = never.delay()
    assert ("FAILURE", 3, 3) == (made.status, made.failures, len(made.attempts))


@pytest.mark.parametrize("run_after", [HOUR, datetime(2999, 1, 1, tzinfo=UTC)])
def test_run_after_is_not_waited_for(run_after):
    assert 2 == add.using(run_after=run_after).delay(1).result


def test_expires_does_not_hinder_what_runs_at_once():
    assert 2 == add.using(expires=60).delay(1).result


def test_subtasks_run_after_their_parent_and_complete_it():
    made = parent.delay("a", "b")
    assert ("SUCCESS", "done", ["a", "b"]) == (made.status, made.result, effects())
    assert ["SUCCESS", "SUCCESS"] == [t.status for t in made.subtasks.all()]


def test_a_failed_subtask_makes_its_parent_incomplete():
    made = parent.delay("a", error="why")
    assert ("INCOMPLETE", "done") == (made.status, made.result)
    assert "ValueError: why" in made.error


def test_chains_and_then_inside_of_a_task():
    @task("serial.chains")
    def chains(cqt):
        last = cqt.subtask(add, 1, 2).then(add, 3).chain(add_to_previous, 4)
        cqt.chain(effect, "after")
        return str(last.id)

    made = chains.delay()
    assert "SUCCESS" == made.status
    assert 10 == Task.objects.get(id=made.result).result
    assert ["after"] == effects()


def test_chains_on_what_has_run_already_run_at_once():
    made = add.delay(1, 2)
    assert 7 == made.chain(add_to_previous, 4).result
    assert 8 == made.then(add, 5).result
    assert 15 == made.then(add, 5).chain(add_to_previous, 6).then(add).result
    assert 7 == async_to_sync(made.achain)(add_to_previous, 4).result
    assert 8 == async_to_sync(made.athen)(add, 5).result
    assert 0 == Task.objects.active().count()


def test_a_successor_of_what_failed_is_skipped_unless_it_is_forced():
    bad = effect.delay("a", "why")
    skipped = bad.chain(effect, "skipped")
    assert ["SKIPPED", "SKIPPED"] == [skipped.status, skipped.chain(effect, "too").status]
    assert "SUCCESS" == bad.chain(forced, "forced").status
    assert ["forced"] == effects()


def test_a_returned_task_gives_its_result():
    @task("serial.returns")
    def returns(cqt, how):
        if how == "subtask":
            return cqt.subtask(add, 1, 2)
        if how == "delay":
            return add.delay(1, 2)
        if how == "chain":
            return add.delay(1, 2).chain(add_to_previous, 4)
        return effect.delay("a", "why").chain(add, 4)

    assert [3, 3, 7] == [returns.delay(how).result for how in ("subtask", "delay", "chain")]
    assert "INCOMPLETE" == returns.delay("failed").status
    assert 0 == Task.objects.active().count()


def test_what_a_task_delays_runs_within_it():
    @task("serial.delays")
    def delays(cqt, n):
        if n:
            return [n, delays.delay(n - 1).result]
        return []

    assert [3, [2, [1, []]]] == delays.delay(3).result
    assert {None} == set(Task.objects.values_list("parent_id", flat=True))


def test_what_a_failed_task_had_made_is_gone():
    @task("serial.makes_and_fails")
    def makes_and_fails(cqt):
        cqt.subtask(effect, "subtask")
        effect.delay("delayed")
        raise ValueError

    made = makes_and_fails.delay()
    assert ("FAILURE", [], [made]) == (made.status, effects(), list(Task.objects.all()))


def test_logs_and_progress_are_on_the_row():
    @task("serial.logs")
    def logs(cqt):
        cqt.log("one")
        cqt.log("two", publish=False)
        cqt.set_progress(1, 4, "begun")

    made = logs.delay()
    assert ["one", "two"] == [line["message"] for line in Task.objects.get(id=made.id).logs]
    assert (1.0, 4.0, "begun") == made.progress


def test_async_functions_run_too():
    @task("serial.async")
    async def later(cqt, n):
        await Effect.objects.acreate(name=f"{n}")
        await cqt.asubtask(add, n)
        return n

    assert ("SUCCESS", 5) == ((made := later.delay(5)).status, made.result)
    assert "SUCCESS" == async_to_sync(later.adelay)(6).status
    assert ["5", "6"] == effects()


def test_the_callers_rollback_takes_it_all():
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        parent.delay("a", "b")
        raise ZeroDivisionError
    assert (0, []) == (Task.objects.count(), effects())


def test_a_direct_call_writes_no_rows_all_the_same():
    assert "done" == parent("a", "b")
    assert (0, ["a", "b"]) == (Task.objects.count(), effects())


def test_subtasks_can_be_added_to_a_task_from_outside_while_it_is_active(settings):
    settings.CQ_SERIAL = False
    waiting = add.delay(1)
    settings.CQ_SERIAL = True
    assert "SUCCESS" == waiting.subtask(effect, "a").status
    assert 2 == waiting.subtasks(effect, ["b", "c"])
    assert ["a", "b", "c"] == effects()


@task("serial.captured", capture_logs=True)
def captured(cqt):
    logging.getLogger("tests.serial").warning("from a library")


def test_capture_logs_gives_what_libraries_log_to_the_task():
    assert ["from a library"] == [line["message"] for line in captured.delay().logs]


@task("serial.late", retries=1)
def late(cqt):
    if not cqt.failures:
        time.sleep(0.3)
        raise ValueError("the first time")


def test_what_began_in_time_may_be_tried_again_after_it():
    assert "SUCCESS" == late.using(expires=0.2).delay().status
