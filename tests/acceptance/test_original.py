"""The examples of the original package's README run, their calling lines corrected."""

from __future__ import annotations

import logging

from cq.models import Task
from tests.acceptance import original
from tests.app.models import Effect

MODULES = {"CQ_TASK_MODULES": ["tests.acceptance.original"]}


def test_the_examples_of_the_original_run(worker, eventually):
    started = worker("--processes", "1", settings=MODULES).wait_ready()

    task = original.send_email.delay("dummy@dummy.org")
    task.wait(10)
    assert "OK" == task.result
    assert "OK" == original.send_email("dummy@dummy.org")

    task = original.send_emails.delay()
    task.wait(10)
    assert ("OK", 2) == (task.result, task.subtasks.count())
    assert {"OK"} == {sub.result for sub in task.subtasks.all()}

    task = original.parent.delay()
    task.wait(10)
    assert Task.STATUS_COMPLETE == task.status
    assert ["tests.acceptance.original.task_b"] == [t.func_name for t in task.subtasks.all()]
    eventually(lambda: {"a", "b"} == set(Effect.objects.values_list("name", flat=True)))

    task = original.calculate_something.delay()
    assert 34 == task.wait(10).result

    assert Task.STATUS_COMPLETE == original.unsafe_task.delay().wait(10).status

    task = original.First.long_task.delay().wait(10)
    assert [("standard old log", logging.INFO), ("debugging log", logging.DEBUG)] == [
        (line["message"], line["level"]) for line in task.logs
    ]
    task = original.Second.long_task.delay().wait(10)
    assert [*(f"iteration {n}" for n in range(100)), "done"] == messages(task)
    task = original.Third.long_task.delay().wait(10)
    assert [*(f"iteration {n}" for n in range(91, 100)), "done"] == messages(task)

    assert 0 == started.stop()


def messages(task):
    return [line["message"] for line in task.logs]
