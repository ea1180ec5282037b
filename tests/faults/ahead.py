"""Claimed ahead: what stands behind others suffers nothing of what becomes of those."""

from __future__ import annotations

import signal
import time

from django.db import transaction

from cq.models import Task
from tests.faults import tasks
from tests.faults.lab import NAME, scenario

WARM = 60  # short tasks, after which a worker claims as many at once
BEHIND = 20


def in_a_row(lab, between):
    """Short tasks, what `between()` delays, and short tasks behind it: all there at once."""
    with transaction.atomic():
        warm = tasks.quick.delay_many([(NAME, number) for number in range(WARM)])
        made = between()
        numbers = range(1000, 1000 + BEHIND)
        behind = tasks.quick.delay_many([(NAME, number) for number in numbers])
    lab.expected |= {*range(WARM), *numbers}
    return warm, made, behind


def innocent():
    """What the short ones were charged with."""
    return {
        "rescues": Task.objects.filter(func_name="faults.quick", rescues__gt=0).count(),
        "attempts": max(len(row.attempts) for row in Task.objects.filter(func_name="faults.quick")),
    }


@scenario(
    {"begun_untold": "deaths", "all_begun": "rescues"},
    deaths=3,
    badly=1,
    rescues=0,
    attempts=1,
)
def poison_in_front(lab):
    """The third death of one task is a FAILURE; those that were claimed behind it have not begun."""
    worker = lab.worker("--processes", "1", CQ_LEASE=600)
    _, poison, _ = in_a_row(lab, lambda: tasks.deadly.delay(NAME, -1))

    def deaths():
        return worker.output.count("<dying -1>")

    lab.until(lambda: deaths() > 4 or not Task.objects.active().exists())
    poison.refresh_from_db()
    return lab.verdict(deaths=deaths(), **innocent())


@scenario({"all_begun": "rescues"}, badly=1, error="its worker died 3 times", rescues=0)
def group_poisoned(lab):
    """Where nobody is left to tell what had begun, each is claimed by itself: the next death tells."""
    _, poison, _ = in_a_row(lab, lambda: tasks.deadly_to_all.delay(NAME, -1))
    for _ in range(5):
        worker = lab.worker_soon("--processes", "1")
        lab.until(
            lambda w=worker: w.exit_code is not None or not Task.objects.active().exists(), 30
        )
        if worker.exit_code is None:
            break
    poison.refresh_from_db()
    return lab.verdict(error=poison.error[:23], rescues=innocent()["rescues"])


@scenario({"stuck_is_kept": "late"}, late=False)
def long_in_front(lab):
    """What stands behind a long task is given back within a second, if another worker is idle."""
    idle = lab.worker("--processes", "1", CQ_LEASE=600)
    idle.signal_group(signal.SIGSTOP)
    lab.worker("--processes", "1", CQ_LEASE=600)
    _, _, behind = in_a_row(lab, lambda: lab.delay(tasks.effect, -1, before=10))
    lab.until(lambda: Task.objects.running().filter(func_name="faults.effect").exists())
    idle.signal_group(signal.SIGCONT)
    began = time.monotonic()
    ids = [task.id for task in behind]
    lab.until(lambda: not Task.objects.active().filter(id__in=ids).exists(), 9)
    late = time.monotonic() - began > 4  # of which most is this machine's
    lab.until_done()
    return lab.verdict(late=late)


@scenario(
    {"all_may_wait": "statuses"},
    vendors=("postgresql", "mysql"),
    statuses=["LOST"],
    badly=1,
)
def loose_in_a_row(lab):
    """What may not run twice is never claimed ahead: its row tells that it has begun."""
    with transaction.atomic():
        tasks.quick.delay_many([(NAME, number) for number in range(WARM)])
        loose = tasks.loose.delay(NAME, -1, after=30)
    worker = lab.worker("--processes", "1")
    while "<begun -1>" not in worker.output:
        time.sleep(0.001)
    worker.kill_group()
    lab.expected |= set(range(WARM))
    lab.worker("--processes", "1")
    lab.until_done()
    loose.refresh_from_db()
    return lab.verdict(statuses=[str(loose.status)])
