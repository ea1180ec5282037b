"""What repeating tasks cost: python -m bench.repeating

Lateness, from the slot to the task's first line, by the database's clock: ten schedules, each due every
second, an idle worker of one process. And one look of a worker at 10,000 schedules of which none is due,
beside a bare SELECT 1.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

from bench import ground
from bench.figures import Row, main, p99, say, size

SECONDS = size("SECONDS", 60)
SCHEDULES = size("SCHEDULES", 10_000)
LOOKS = 200


def measure() -> Iterator[Row]:
    with ground.laid():
        yield from _lateness()
        yield from _looks()


def _lateness() -> Iterator[Row]:
    from bench.tasks import moment
    from cq import database
    from cq.models import RepeatingTask, Task, schedule_task

    with ground.worker(1):
        for number in range(10):
            schedule_task(
                RepeatingTask, "* * * * * *", moment, name=f"schedule {number}", coalesce=False
            )
        time.sleep(2)  # a new one is noticed within a second
        begin = database.read_clock()
        time.sleep(SECONDS)
        RepeatingTask.objects.all().update(enabled=False)
        time.sleep(1)
    runs = Task.objects.filter(slot__gt=begin).values_list("slot", "submitted", "started")
    made = [(submitted - slot).total_seconds() * 1000 for slot, submitted, _ in runs]
    began = [(started - slot).total_seconds() * 1000 for slot, _, started in runs]
    say(f"{len(began)} runs; made p50 {statistics.median(made):.1f} ms, p99 {p99(made):.1f} ms")
    name = "repeating, slot to first line"
    yield Row(name=f"{name}, p50", figure=statistics.median(began), unit="ms", aim="")
    yield Row(
        name=f"{name}, p99",
        figure=p99(began),
        unit="ms",
        aim="300 ms",
        what=f"of {len(began)} runs of 10 schedules, each every second",
    )


def _looks() -> Iterator[Row]:
    from django.db import connection

    from bench.tasks import moment
    from cq import database, firing
    from cq.models import RepeatingTask

    far = database.read_clock() + timedelta(days=30)
    RepeatingTask.objects.bulk_create(
        RepeatingTask(
            name=f"far {number}",
            func_name=moment.name,
            crontab="0 8 * * *",
            next_run=far + timedelta(seconds=number),
            planned=True,
        )
        for number in range(SCHEDULES)
    )

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    looks, asked = [], []
    for _ in range(LOOKS):
        for step, took in ((firing.step, looks), (ask, asked)):
            began = time.perf_counter()
            step()
            took.append((time.perf_counter() - began) * 1000)
    yield Row(
        name=f"one look at {SCHEDULES:,} schedules, none due",
        figure=statistics.median(looks),
        unit="ms",
        aim="50 ms",
        yardstick=statistics.median(asked),
        what=f"SELECT 1; p99 of the look {p99(looks):.2f} ms",
    )


if __name__ == "__main__":
    sys.exit(main(measure))
