"""Nothing that a task raises, returns or does can kill the worker or leave its row RUNNING."""

from __future__ import annotations

import pytest
from django.db import connection

from cq.models import Task
from tests.app import tasks
from tests.app.models import Effect

LOOP = [
    "child exits",
    "child interrupts",
    "cancels itself",
    "cancels itself and waits",
    "stops the loop",
    "leaves a task",
]


def ended(made, timeout=60):
    """What each ended as. A row that stays RUNNING is seen by the timeout."""
    return {name: str(one.wait(timeout).status) for name, one in made.items()}


@pytest.mark.parametrize("threads", ["1", "2"])
def test_nothing_that_a_sync_task_does_kills_the_worker(worker, threads):
    atomic = {what: tasks.bad.delay(what) for what in tasks.BAD}
    other = {
        what: tasks.bad_not_atomic.delay(what) for what in {**tasks.BAD, **tasks.ONLY_IF_NOT_ATOMIC}
    }
    started = worker("--processes", "1", "--threads", threads).wait_ready()
    children = started.children()

    expected = dict.fromkeys(atomic, "FAILURE")
    if connection.vendor != "postgresql":
        expected["caught"] = "SUCCESS"  # there a failed statement does not break the transaction
    assert expected == ended(atomic)

    expected = dict.fromkeys(other, "FAILURE") | dict.fromkeys(tasks.FINE_IF_NOT_ATOMIC, "SUCCESS")
    assert expected == ended(other)

    errors = {what: one.error for what, one in atomic.items()}
    assert (
        errors["unprintable"].startswith("tests.app.tasks.Unprintable")
        or "Unprintable" in errors["unprintable"]
    )
    assert "SystemExit: 3" == errors["exit"]
    assert "KeyboardInterrupt" == errors["interrupt"]
    assert errors["huge"].startswith("ValueError: xxx")
    assert "result" in errors["result: NaN"]
    assert "connection" in errors["close"]
    assert "left a transaction.atomic() block open" in errors["unclosed"]
    assert all(len(one.error) + len(one.traceback) < 100_000 for one in atomic.values())
    assert [] == list(Effect.objects.all())

    assert 3 == tasks.add.delay(1, 2).wait(10).result
    assert children == started.children()
    assert 0 == Task.objects.active().count()
    assert 0 == started.stop()


def test_nothing_that_an_async_task_does_kills_the_worker(worker):
    plain = {what: tasks.bad_async.delay(what) for what in tasks.BAD}
    started = worker("--processes", "1").wait_ready()
    children = started.children()
    assert dict.fromkeys(plain, "FAILURE") | {"caught": "SUCCESS"} == ended(plain)

    found = {}
    for what in LOOP:
        found[what] = str(tasks.bad_loop.delay(what).wait(30).status)
        assert "SUCCESS" == tasks.all_async_forms.delay().wait(30).status, what
    expected = {
        "child exits": "FAILURE",
        "child interrupts": "FAILURE",
        "cancels itself": "FAILURE",
        "cancels itself and waits": "FAILURE",
        "stops the loop": "SUCCESS",
        "leaves a task": "SUCCESS",
    }
    assert expected == found
    assert children == started.children()
    assert 0 == started.stop()


def test_what_a_task_changed_of_its_process_the_next_finds_as_it_was(worker):
    worker("--processes", "1").wait_ready()
    before = tasks.surroundings.delay(change=True).wait(10).result
    assert before == tasks.surroundings.delay(change=True).wait(10).result
    assert before == tasks.surroundings.delay(change=False).wait(10).result


def test_a_name_that_nobody_knows_waits_for_the_grace_and_fails(worker, eventually, tmp_path):
    (tmp_path / "unknown_module.py").write_text("raise SystemExit('imported')")
    settings = {"CQ_UNKNOWN_TASK_GRACE": 3, "CQ_LEASE": 2}
    started = worker("--processes", "1", settings=settings, env={"PYTHONPATH": str(tmp_path)})
    started.wait_ready()
    made = Task.objects.create(func_name="unknown_module.job")
    after = made.chain(tasks.add.using(force_chain=True), 1, 2)
    assert 3 == tasks.add.delay(1, 2).wait(10).result
    assert "QUEUED" == Task.objects.get(id=made.id).status
    made.wait(15)
    assert ("FAILURE", []) == (made.status, made.attempts)
    assert "unknown task 'unknown_module.job': no worker has it registered" in made.error
    assert 3 <= (made.finished - made.submitted).total_seconds()
    assert 3 == after.wait(10).result
    assert "imported" not in started.output
