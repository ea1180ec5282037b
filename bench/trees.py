"""What a wide and a deep tree cost: python -m bench.trees

On PostgreSQL, over the README's `long` layer, with a worker of two processes. Prints what each of a parent's
10,000 subtasks takes, made and run, beside tasks without a parent; how long after its last subtask the parent is
final; a tree 50 deep; what `subtasks()` of a generator of 100,000 adds to this process's memory; and the slowest
statement of the worker.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil

from bench import ground
from bench.figures import Row, in_turns, main, size

WIDTH = size("TASKS", 10_000)
DEPTH = 50
MANY = size("MANY", 100_000)


def measure() -> Iterator[Row]:
    with ground.laid(CQ_TASK_MODULES=["bench.statements"], CQ_LOG_LIMIT=100):
        with ground.worker(2) as worker:
            yield from _wide()
            yield _deep()
            worker.stop()
            yield _slowest(worker.output)
        yield _generator()


def _wide() -> Iterator[Row]:
    from bench.tasks import nothing, wide

    after = []

    def plain() -> float:
        ground.clear()
        began = time.monotonic()
        ground.until_done(nothing.delay_many(range(WIDTH))[-1])
        return (time.monotonic() - began) * 1000 / WIDTH

    def under() -> float:
        ground.clear()
        began = time.monotonic()
        root = wide.delay(WIDTH)
        ground.until_done(root)
        took = (time.monotonic() - began) * 1000 / WIDTH
        root.refresh_from_db()
        assert root.is_ok, root.error
        last = root.subtasks.order_by("-finished").first()
        after.append((root.finished - last.finished).total_seconds())
        return took

    alone, child = in_turns("ms", {"without a parent": plain, "subtasks": under})
    yield Row(
        name=f"each of {WIDTH:,} subtasks, made and run",
        figure=child,
        unit="ms",
        aim="",
        yardstick=alone,
        what="without a parent",
    )
    yield Row(
        name="a parent is final after its last subtask, at most",
        figure=max(after),
        unit="s",
        aim="",
    )


def _deep() -> Row:
    from bench.tasks import deep

    began = time.monotonic()
    deepest = deep.delay(DEPTH).wait(300)
    assert deepest.is_ok, deepest.error
    took = time.monotonic() - began
    return Row(name=f"a tree {DEPTH} deep", figure=took, unit="s", aim="")


def _slowest(output: str) -> Row:
    told = re.findall(r"<statement (\d+) ms> (.*)", output)
    ms, sql = max(((int(ms), sql) for ms, sql in told), default=(20, "none took longer"))
    short = re.sub(r'"cq_task"\."\w+"(, "cq_task"\."\w+")+', "…", sql)  # without the columns
    return Row(
        name="slowest statement of the worker", figure=ms, unit="ms", aim="", what=short[:400]
    )


def _generator() -> Row:
    from bench.tasks import nothing

    root = nothing.delay(0)
    root.subtasks(nothing, range(1000))  # what is loaded once
    process = psutil.Process()
    before = process.memory_info().rss
    most = before

    def numbers() -> Iterator[Any]:
        nonlocal most
        for number in range(MANY):
            if number % 1000 == 0:
                most = max(most, process.memory_info().rss)
            yield number

    began = time.monotonic()
    count = root.subtasks(nothing, numbers())
    took = time.monotonic() - began
    assert root.subtasks.count() == MANY + 1000
    return Row(
        name=f"`subtasks()` of a generator of {count:,}, memory more",
        figure=(most - before) / 2**20,
        unit="MiB",
        aim="",
        what=f"in {took:.1f} s",
    )


if __name__ == "__main__":
    sys.exit(main(measure))
