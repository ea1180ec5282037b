"""Repeating tasks: each slot once, whoever fires, dies, or has a wrong clock."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from django.db import connections, transaction
from django.db.models import F

from cq import database, firing
from cq.models import RepeatingTask, Task
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized

SECOND = timedelta(seconds=1)
SCHEDULES = 5
SLOTS = 60
BASE = 100_000  # numbers of a schedule's effects


def repeating(lab, number, first, slots, **fields):
    """A schedule with a slot each second; the effect of its k-th slot is `number * BASE + k`."""
    lab.expected |= {number * BASE + k for k in range(slots)}
    fields = {
        "kind": "SECONDS",
        "coalesce": False,
        "catch_up": "ALL",
        "catch_up_limit": 1000,
    } | fields
    return RepeatingTask(
        name=f"schedule {number}",
        func_name=tasks.slot.name,
        args=[NAME, number * BASE, first],
        start=first,
        end=first + (slots - 1) * SECOND,
        next_run=first,
        planned=True,
        **fields,
    )


def whole(moment):
    return moment.replace(microsecond=0)


def run_what_was_made(lab):
    lab.worker_soon("--burst", "--no-scheduler", "--processes", "1").wait(120)


def counted():
    rows = RepeatingTask.objects.all()
    return {
        "skipped": sum(row.skip_count for row in rows),
        "broken": rows.exclude(error="").count(),
    }


@scenario({"slots_moved_blindly": "skipped"}, skipped=0, broken=0, made=SCHEDULES * SLOTS)
def four_schedulers(lab):
    """Five schedules of 60 slots that are all due at once: 300 tasks."""
    started = [
        lab.worker_soon("--scheduler-only", faults="fault_fires_with_pauses") for _ in range(4)
    ]
    for scheduler in started:
        scheduler.wait_ready(60)
    first = whole(database.read_clock()) - SLOTS * SECOND
    with transaction.atomic():
        for number in range(SCHEDULES):
            repeating(lab, number, first, SLOTS).save()
    lab.until(lambda: not RepeatingTask.objects.exclude(next_run=None).exists())
    for scheduler in started:
        scheduler.stop()
    made = Task.objects.count()
    run_what_was_made(lab)
    return lab.verdict(made=made, **counted())


@scenario({"slots_moved_before": "missing"}, skipped=0, broken=0)
def scheduler_killed(lab):
    """With kill -9, every second; each waits a little between moving on and making the task."""
    seconds = sized(10, 60)
    first = whole(database.read_clock()) + 2 * SECOND
    repeating(lab, 0, first, seconds).save()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        scheduler = lab.worker("--scheduler-only", faults="fault_fires_slowly")
        time.sleep(lab.random.uniform(0.2, 1.0))
        scheduler.kill()
    last = lab.worker("--scheduler-only")
    lab.until(lambda: not RepeatingTask.objects.exclude(next_run=None).exists())
    last.stop()
    run_what_was_made(lab)
    return lab.verdict(**counted())


@scenario({"fires_by_its_own_clock": "early"}, skipped=0, broken=0, early=0, late=0)
def wrong_clocks(lab):
    """Of two schedulers one is an hour fast, the other an hour slow: the database's clock counts."""
    for fault in ("fault_clock_fast", "fault_clock_slow"):
        lab.worker("--scheduler-only", faults=fault)
    first = whole(database.read_clock()) + 2 * SECOND
    repeating(lab, 0, first, 5).save()
    lab.until(lambda: not RepeatingTask.objects.exclude(next_run=None).exists(), 30)
    made = Task.objects.exclude(slot=None)
    early = made.filter(submitted__lt=F("slot")).count()
    late = made.filter(submitted__gt=F("slot") + timedelta(seconds=30)).count()
    run_what_was_made(lab)
    return lab.verdict(early=early, late=late, **counted())


@scenario({"slots_moved_blindly": "wrong"}, wrong=[])
def two_come_back(lab):
    """After 60 slots two begin to fire at once: one task, as many as are caught up with, or none."""
    wrong = []
    for _ in range(sized(20, 100)):
        for fields, active, expected in (
            ({"catch_up": "ONE"}, False, (1, 0, SLOTS - 1)),
            ({"catch_up": "ALL", "catch_up_limit": 10}, False, (10, 0, SLOTS - 10)),
            ({"catch_up": "SKIP"}, False, (1, 0, SLOTS - 1)),
            ({"catch_up": "ONE", "coalesce": True}, True, (0, 1, SLOTS - 1)),
        ):
            RepeatingTask.objects.all().delete()
            Task.objects.all().delete()
            row = repeating(lab, 0, whole(database.read_clock()) - SLOTS * SECOND, SLOTS, **fields)
            row.save()
            if active:
                row.run_now()
            fire_together(2)
            row.refresh_from_db()
            made = Task.objects.filter(repeating_task=row).count() - active
            found = (made, row.skip_count, row.miss_count)
            if found != expected:
                wrong.append((fields, found, expected))
    Task.objects.all().delete()
    lab.expected.clear()
    return lab.verdict(wrong=wrong)


def fire_together(number):
    barrier, errors = threading.Barrier(number), []

    def fire():
        try:
            barrier.wait(30)
            while firing.step() <= firing.HELD:
                pass
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=fire) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
