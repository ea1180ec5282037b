"""What a wide and a deep tree cost: python -m bench.trees

On PostgreSQL, over the README's `long` layer, with a worker of two processes. One parent with 10,000 subtasks
against as many tasks without a parent, in turns; how long after its last subtask the parent is final; the
slowest statement of the worker; a tree 50 deep; and what `subtasks()` of a generator of 100,000 adds to this
process's memory.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil

from tests import servers

WIDTH = 10_000
ROUNDS = 3
DEPTH = 50
MANY = 100_000


def main() -> int:
    host = servers.Host("postgresql", "valkey")
    os.environ |= {
        servers.DATABASE: host.found["postgresql"],
        servers.REDIS: host.found["valkey"],
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CQ_TEST_SETTINGS": json.dumps({"CQ_TASK_MODULES": ["bench.tasks"], "CQ_LOG_LIMIT": 100}),
    }
    try:
        _measure()
    finally:
        host.stop()
    return 0


def _measure() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    with tempfile.TemporaryFile("w+") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "django", "cq_runworker", "--processes", "2"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _trees()
        finally:
            worker.terminate()
            worker.wait(60)
        output.seek(0)
        slow = re.findall(r"<statement (\d+) ms> (.*)", output.read())
    slowest = max(((int(ms), sql) for ms, sql in slow), default=(20, "none took longer"))
    print(f"slowest statement of the worker: {slowest[0]} ms: {_short(slowest[1])}")
    _generator()


def _short(sql: str) -> str:
    """Without the names of the columns."""
    return re.sub(r'"cq_task"\."\w+"(, "cq_task"\."\w+")+', "…", sql)[:400]


def _trees() -> None:
    from bench.tasks import deep, nothing, wide
    from cq.models import Task

    def each(rows: Any) -> float:
        """Milliseconds from the first start to the last end, by task."""
        moments = rows.values_list("started", "finished")
        starts, ends = zip(*moments, strict=True)
        return (max(ends) - min(starts)).total_seconds() * 1000 / len(starts)

    nothing.delay(0).wait(60)
    plain, under, after = [], [], []
    for _ in range(ROUNDS):
        made = nothing.delay_many(range(WIDTH))
        _until_done(Task)
        plain.append(each(Task.objects.filter(id__in=[task.id for task in made])))
        root = wide.delay(WIDTH)
        _until_done(Task)
        root.refresh_from_db()
        under.append(each(root.subtasks.all()))
        last = root.subtasks.order_by("-finished").first()
        after.append((root.finished - last.finished).total_seconds())
        assert root.is_ok, root.error
        Task.objects.all().delete()
    print(f"{'by task, ms':<28}{'min':>8}{'median':>8}{'max':>8}")
    for name, took in (("without parent", plain), (f"one of {WIDTH:,} subtasks", under)):
        print(f"{name:<28}{min(took):>8.2f}{statistics.median(took):>8.2f}{max(took):>8.2f}")
    print(
        f"a subtask / a task without parent: {statistics.median(under) / statistics.median(plain):.2f}"
    )
    print(f"the parent is final after its last subtask: at most {max(after):.3f} s")
    began = time.perf_counter()
    deepest = deep.delay(DEPTH).wait(300)
    print(f"a tree {DEPTH} deep: {deepest.status} after {time.perf_counter() - began:.2f} s")


def _until_done(task: Any) -> None:
    while task.objects.active().exists():
        time.sleep(0.1)


def _generator() -> None:
    from bench.tasks import nothing
    from cq.models import Task

    root = nothing.delay(0)
    root.subtasks(nothing, range(1000))  # what is loaded once
    process = psutil.Process()
    before = process.memory_info().rss
    most = before

    def numbers() -> Any:
        nonlocal most
        for number in range(MANY):
            if number % 1000 == 0:
                most = max(most, process.memory_info().rss)
            yield number

    began = time.perf_counter()
    count = root.subtasks(nothing, numbers())
    took = time.perf_counter() - began
    assert Task.objects.filter(parent=root).count() == MANY + 1000
    print(
        f"subtasks() of a generator of {count:,}: {took:.1f} s, at most {(most - before) / 2**20:.1f} MiB more"
    )


if __name__ == "__main__":
    sys.exit(main())
