"""`wait()`: until the end, or the timeout, or an error where there can be no end."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from cq import task
from cq.models import Task
from tests.unit.running import run_all


@task("waiting.job")
def job(cqt, x=0):
    return x


@pytest.fixture
def later():
    """Runs something in another thread, a moment later."""
    threads = []

    def start(what):
        def run():
            time.sleep(0.1)
            what()
            connection.close()

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


@pytest.mark.django_db(transaction=True)
def test_wait_returns_the_task_itself_renewed(later):
    made = job.delay(3)
    later(run_all)
    assert made is made.wait(timeout=10)
    assert (True, True, 3, "SUCCESS") == (made.is_done, made.is_ok, made.result, made.status)


@pytest.mark.django_db(transaction=True)
def test_async_wait_does_the_same(later):
    async def main():
        made = await job.adelay(3)
        later(run_all)
        assert made is await made.async_wait(timeout=10)
        return made.result

    assert 3 == async_to_sync(main)()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("timeout", [0, 0.05, timedelta(seconds=0.05), -1])
def test_wait_ends_with_a_timeout_error_that_says_where_the_task_stands(timeout):
    made = job.delay()
    with pytest.raises(TimeoutError, match=rf"waiting\.job {made.id} is still QUEUED after"):
        made.wait(timeout)
    with pytest.raises(TimeoutError, match="still QUEUED"):
        async_to_sync(made.async_wait)(timeout)


@pytest.mark.django_db(transaction=True)
def test_wait_looks_once_more_when_the_time_is_over():
    made = job.delay(3)
    run_all()
    assert 3 == made.wait(timeout=0).result


@pytest.mark.django_db(transaction=True)
def test_wait_inside_the_transaction_that_made_the_task_is_an_error_that_says_what_to_do():
    with transaction.atomic():
        for made in (job.delay(), job.delay_many([1])[0], job.delay().subtask(job)):
            with pytest.raises(RuntimeError, match=r"can never end.*use subtask\(\), chain"):
                made.wait(timeout=0)
            with transaction.atomic(), pytest.raises(RuntimeError, match="can never end"):
                made.wait(timeout=0)


@pytest.mark.django_db(transaction=True)
def test_wait_inside_another_transaction_is_none():
    made = job.delay(3)
    run_all()
    with transaction.atomic():
        assert 3 == made.wait(timeout=5).result


@pytest.mark.vendors("sqlite")
@pytest.mark.django_db(transaction=True)
def test_wait_inside_any_transaction_on_sqlite_is_an_error_unless_the_task_has_ended():
    made = job.delay(3)
    with transaction.atomic():
        with pytest.raises(RuntimeError, match="a transaction on SQLite can never end"):
            made.wait()
        with pytest.raises(RuntimeError, match="a transaction on SQLite can never end"):
            async_to_sync(made.async_wait)()


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.django_db(transaction=True)
def test_wait_inside_another_transaction_sees_an_end_elsewhere(later):
    made = job.delay(3)
    later(run_all)
    with transaction.atomic():
        assert 3 == made.wait(timeout=10).result


@pytest.mark.django_db(transaction=True)
def test_a_decorated_function_may_wait_for_what_its_last_call_made():
    @transaction.atomic
    def step(last=None):
        if last is not None:
            last.wait(timeout=5)
        return job.delay(3)

    made = step()
    run_all()
    assert "QUEUED" == step(made).status
    assert 3 == made.result


@pytest.mark.django_db(transaction=True)
def test_a_task_that_is_gone_cannot_be_waited_for():
    made = job.delay()
    Task.objects.all().delete()
    with pytest.raises(Task.DoesNotExist):
        made.wait(timeout=5)
