"""The log of a whole tree: none of its lines is lost, wherever they are kept until it has ended."""

from __future__ import annotations

from collections import Counter

import pytest
from django.core.management import call_command
from django.db import connection

from cq import group
from cq.models import LogLine, Task
from tests.app import tasks

SUBTASKS, LINES = 50, 12


@pytest.fixture(params=["Redis", "file", "database", "locmem", "dummy"])
def caches(request, settings, tmp_path):
    """Settings of the worker and of this process, which reads what it wrote."""
    backends = {
        "file": ("filebased.FileBasedCache", str(tmp_path)),
        "database": ("db.DatabaseCache", "tests_cache"),
        "locmem": ("locmem.LocMemCache", ""),
        "dummy": ("dummy.DummyCache", ""),
    }
    if request.param == "Redis":
        yield {}
        return
    backend, location = backends[request.param]
    place = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": location}
    settings.CACHES = {"default": place}
    if request.param == "database":
        call_command("createcachetable", verbosity=0)
    yield {"CACHES": settings.CACHES}
    if request.param == "database":
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE tests_cache")


def lines(number):
    return [f"{number}: {line}" for line in range(LINES)]


@pytest.mark.parametrize("how", [("--processes", "2"), ("--processes", "1", "--threads", "4")])
def test_no_line_of_many_that_log_at_once_is_lost(worker, caches, how, eventually):
    members = [tasks.logs_lines.s(number, LINES) for number in range(SUBTASKS)]
    made = group(*members, tasks.logs_lines.s(-1, LINES)).delay()
    worker(*how, settings=caches).wait_ready()
    assert "INCOMPLETE" == made.wait(60).status
    expected = Counter(line for number in range(-1, SUBTASKS) for line in lines(number))
    # Who completed it is about to store them.
    eventually(lambda: expected == messages(Task.objects.get(id=made.id)))
    eventually(lambda: Task.objects.get(id=made.id).log_lines is not None)
    found = Task.objects.get(id=made.id).logs
    assert sorted(line["timestamp"] for line in found) == [line["timestamp"] for line in found]
    for one in made.subtasks.all():
        own = [line["message"] for line in found if line["origin"] == str(one.id)]
        assert lines(one.args[0]) == own == [line["message"] for line in one.logs]

    made.retry()
    assert found == made.logs[: len(found)]
    assert "SUCCESS" == made.wait(60).status
    eventually(lambda: expected + Counter(lines(-1)) == messages(Task.objects.get(id=made.id)))
    assert found == Task.objects.get(id=made.id).logs[: len(found)]
    eventually(lambda: LogLine.objects.count() == 0)


def test_the_newest_are_kept_where_there_are_more_than_may_be(worker, caches, eventually):
    limited = {**caches, "CQ_LOG_LIMIT": 40}
    made = group(*(tasks.logs_lines.s(number, LINES) for number in range(20))).delay()
    worker("--processes", "2", settings=limited).wait_ready()
    assert "SUCCESS" == made.wait(60).status
    eventually(lambda: Task.objects.get(id=made.id).log_lines is not None)
    assert 40 == len(Task.objects.get(id=made.id).logs)


def messages(made):
    return Counter(line["message"] for line in made.logs)
