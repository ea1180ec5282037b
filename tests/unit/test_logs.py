"""Log lines and progress: where they go, how many stay, what a whole tree shows."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import pytest
from django.db import OperationalError

from cq import execution, lifecycle, logs, task
from cq.models import LogLine, Task
from tests.unit.running import claim, renewed, run_all

pytestmark = pytest.mark.django_db(transaction=True)

LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
DJANGOS_OWN = "django.core.cache.backends.redis.RedisCache"


@pytest.fixture(autouse=True, params=["django-redis", "Django's Redis", "no shared cache"])
def _store(request, settings, clean_redis):
    if request.param == "no shared cache":
        settings.CACHES = LOCAL
    if request.param == "Django's Redis":
        location = settings.CACHES["default"]["LOCATION"]
        settings.CACHES = {"default": {"BACKEND": DJANGOS_OWN, "LOCATION": location}}
    yield
    logs.stop()  # its connection would outlive the test


@task("logs.writes")
def writes(cqt, *lines, **options):
    for line in lines:
        cqt.log(line, **options)


@task("logs.parent")
def parent(cqt, *lines):
    cqt.log("parent")
    cqt.subtasks(writes, lines)


@task("logs.works")
def works(cqt, done, total=None, message=""):
    cqt.set_progress(done, total, message)


def messages(made):
    return [line["message"] for line in renewed(made).logs]


def test_a_line_has_a_message_a_level_a_time_and_an_origin():
    made = writes.delay("hello", level=logging.WARNING)
    run_all()
    (line,) = renewed(made).logs
    assert ("hello", 30, str(made.id)) == (line["message"], line["level"], line["origin"])
    assert timedelta(0) == datetime.fromisoformat(line["timestamp"]).utcoffset()
    assert [line] == made.log_lines
    assert 0 == LogLine.objects.count()


def test_a_line_goes_to_logging_at_once(caplog):
    caplog.set_level(logging.DEBUG, "cq.task")
    made = writes.delay("one", "two", publish=False, level=logging.DEBUG)
    run_all()
    found = [(r.getMessage(), r.levelno) for r in caplog.records if r.name == "cq.task"]
    assert [(f"{made.id}: one", 10), (f"{made.id}: two", 10)] == found


@pytest.mark.parametrize("publish", [True, False])
def test_lines_keep_their_order_and_none_is_lost(publish):
    lines = [str(n) for n in range(120)]
    made = writes.delay(*lines, publish=publish)
    run_all()
    assert lines == messages(made)


def test_a_limit_keeps_the_newest(settings):
    made = writes.delay(*[str(n) for n in range(50)], publish=False, limit=7)
    run_all()
    assert [str(n) for n in range(43, 50)] == messages(made)
    settings.CQ_LOG_LIMIT = 5
    made = writes.delay(*[str(n) for n in range(50)], limit=1000)
    run_all()
    assert [str(n) for n in range(45, 50)] == messages(made)


def test_lines_of_a_tree_are_with_its_top_and_each_subtask_has_its_own():
    made = parent.delay("a", "b")
    run_all()
    assert ["parent", "a", "b"] == messages(made)
    assert [["a"], ["b"]] == [messages(one) for one in made.subtasks.order_by("id")]
    assert 3 == len({line["origin"] for line in made.logs})


def test_a_successor_without_a_parent_has_a_log_of_its_own():
    made = writes.delay("first")
    after = made.chain(writes, "second")
    run_all()
    assert [["first"], ["second"]] == [messages(made), messages(after)]


def test_a_failed_task_keeps_its_lines():
    @task("logs.fails")
    def fails(cqt):
        cqt.log("kept")
        cqt.log("kept too", publish=False)
        raise ValueError

    made = fails.delay()
    run_all()
    assert ["kept", "kept too"] == messages(made)


@pytest.mark.parametrize("message", ["a\x00b", "\ud800", 5, None, ["x"], "x" * 50_000])
def test_anything_can_be_logged(message):
    @task("logs.odd")
    def odd(cqt):
        cqt.log(message)

    made = odd.delay()
    run_all()
    assert "SUCCESS" == renewed(made).status
    (line,) = made.logs
    assert 0 < len(line["message"]) < 11_000


def test_what_cannot_be_text_is_no_error():
    class Mute:
        def __str__(self):
            raise RuntimeError

    @task("logs.mute")
    def mute(cqt):
        cqt.log(Mute())

    made = mute.delay()
    run_all()
    assert ["<a message whose __str__ raised RuntimeError>"] == messages(made)


def test_lines_are_there_though_the_end_had_to_be_written_twice(monkeypatch):
    @task("logs.twice", atomic=False)
    def twice(cqt):
        cqt.log("one")
        cqt.log("two", publish=False)

    finish, tries = lifecycle.finish, []

    def fails_once(*args):
        tries.append(args)
        if len(tries) == 1:
            raise OperationalError("database is locked")
        return finish(*args)

    monkeypatch.setattr(lifecycle, "finish", fails_once)
    made = twice.delay()
    run_all()
    assert (2, ["one", "two"]) == (len(tries), messages(made))


@pytest.mark.parametrize("moment", ["while it runs", "after its end"])
def test_the_lines_of_an_adopted_task_are_its_new_top_tasks(moment, eventually):
    made = []

    def adopted():
        claimed = claim()[0]
        execution.execute(claimed)
        assert made[0].id == claimed.id

    @task("logs.adopts", atomic=False)
    def adopts(cqt):
        cqt.log("top")
        made.append(child.delay())
        if moment == "after its end":
            adopted()
        return made[0]

    @task("logs.child", atomic=False)  # so that it is adopted at once
    def child(cqt):
        cqt.log("before")
        if moment == "while it runs":
            eventually(lambda: messages(cqt) == ["before"])
            row = Task.objects.filter(id=cqt.id)
            row.update(parent=top, root_id=top.id, linked=True)
            logs.move(cqt.id, top.id)
        cqt.log("after")
        cqt.log("quietly", publish=False)

    if moment == "while it runs":
        top = parent.delay()
        Task.objects.filter(id=top.id).update(status="WAITING")
        made.append(child.delay())
        run_all()
    else:
        top = adopts.delay()
        run_all()
    expected = ["before", "after", "quietly"]
    assert expected == messages(made[0])
    top.refresh_from_db()
    assert "SUCCESS" == top.status
    assert expected == [line for line in messages(top) if line != "top"]
    assert 0 == LogLine.objects.count()


def test_a_script_that_ends_leaves_its_lines_and_progress(process, settings):
    made = works.delay(1)
    code = f"""
import django; django.setup()
from cq.models import Task
task = Task.objects.get(id="{made.id}")
task.set_progress(2, 3, "by a script")
task.log("from a script")
"""
    given = {"CACHES": settings.CACHES}
    assert 0 == process("-c", code, settings=given).wait()
    assert (2.0, 3.0, "by a script") == renewed(made).progress
    assert ["from a script"] == messages(made)


# -- Progress


def test_progress_is_what_was_set():
    made = works.delay(3, 10, "three")
    assert (0.0, None, "") == made.progress
    run_all()
    assert (3.0, 10.0, "three") == renewed(made).progress


def test_progress_of_a_parent_counts_its_subtasks():
    @task("logs.tree")
    def tree(cqt):
        cqt.set_progress(0, 1, "sent out")
        cqt.subtask(works, 1, 4)
        cqt.subtask(works, 1)
        cqt.subtask(works.using(queue="default", priority=-5), 1, 2)
        cqt.subtask(parent, "a", "b")

    made = tree.delay()
    execution.execute(claim()[0])
    assert (0.0, 4.0, "sent out") == renewed(made).progress
    execution.execute(claim()[0])
    assert (1.0, 4.0, "sent out") == renewed(made).progress
    claimed = claim(2)
    assert ["logs.works", "logs.parent"] == [one.func_name for one in claimed]
    Task.objects.filter(id=claimed[0].id).update(progress_done=1, progress_total=2)
    assert 1.5 == renewed(made).progress[0]
    execution.execute(claimed[1])
    assert 1.5 == renewed(made).progress[0]  # the parent below has two of its own
    execution.execute(claim(queue="default")[0])
    assert 2.0 == renewed(made).progress[0]
    execution.execute(claimed[0])
    run_all()
    assert (4.0, 4.0, "sent out") == renewed(made).progress
    assert "SUCCESS" == made.status
