"""Ends that race for what waits for them."""

from __future__ import annotations

import threading
import time
from collections import Counter

import uuid_utils.compat as uuid
from django.db import connections, transaction

from cq import execution, lifecycle, workflow
from cq.lifecycle import Outcome
from cq.models import Task
from cq.states import ACTIVE, Status
from tests.app.models import Effect
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized

WORKER = uuid.uuid7()


def in_threads(count, work):
    """`work(number)` in `count` threads, which all begin at once; raises what one of them raised."""
    barrier, errors = threading.Barrier(count), []

    def run(number):
        try:
            work(number, barrier)
        except Exception as error:  # noqa: BLE001
            errors.append(error)
            barrier.abort()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def row(status, **given):
    task = Task(func_name="faults.effect", status=status, claim_no=1, **given)
    task.root_id = task.parent_id or task.id
    task.save(force_insert=True)
    return task


def family(children, status=Status.WAITING):
    """A parent whose children all run."""
    parent = row(status)
    running = {"parent": parent, "parent_run": 1, "depth": 1, "worker_id": WORKER}
    return parent, [row(Status.RUNNING, **running) for _ in range(children)]


def end(task):
    """What a worker does when the function has returned."""
    with transaction.atomic():
        concerns_others = lifecycle.finish(task, Outcome(status=Status.SUCCESS))
    step = execution._Next.SETTLE if concerns_others else execution._Next.DONE
    execution._settle(task, step)


@scenario(
    {"complete_unlocked": "completed_twice", "settle_inside,complete_unlocked": "stuck"},
    vendors=("postgresql", "mysql"),  # SQLite has one writer
    stuck=0,
    completed_twice=0,
)
def fan_in_of_threads(lab):
    """8 children of one parent end at one moment: it is completed, by one of them, once."""
    completed = Counter()
    complete = lifecycle.complete

    def counting(task):
        target = complete(task)
        if target is not None:
            completed[task.id] += 1
        return target

    families = [family(8) for _ in range(20 if lab.mutant else sized(100, 1000))]
    lifecycle.complete = counting
    try:
        in_threads(8, lambda number, barrier: end_one_of_each(families, number, barrier))
    finally:
        lifecycle.complete = complete
    stuck = Task.objects.waiting().count()
    Task.objects.active().update(status=Status.REVOKED)  # what the verdict has said already
    return {
        **lab.verdict(badly=0),
        "stuck": stuck,
        "completed_twice": sum(count > 1 for count in completed.values()),
    }


def end_one_of_each(families, number, barrier):
    for _, children in families:
        barrier.wait(30)
        end(children[number])


@scenario(
    {"complete_unlocked": "ended_early"},
    vendors=("postgresql", "mysql"),
    ended_early=0,
    refused_and_added=True,
)
def added_while_the_last_ends(lab):
    """Somebody adds a subtask while the last one ends: it is refused, or the parent waits for it."""
    refused = Counter()
    families = [family(1) for _ in range(sized(80, 1000))]

    def work(number, barrier):
        for parent, (child,) in families:
            barrier.wait(30)
            if number == 0:
                end(child)
            else:
                time.sleep(lab.random.uniform(0, 0.04))
                try:
                    workflow.subtask(parent, tasks.effect, (NAME, 1), {})
                    refused["no"] += 1
                except workflow.ParentFinished:
                    refused["yes"] += 1

    in_threads(2, work)
    early = Task.objects.filter(status__in=ACTIVE, parent__status=Status.SUCCESS).count()
    Task.objects.active().update(status=Status.REVOKED)
    print(f"refused: {dict(refused)}")
    return {
        **lab.verdict(badly=0),
        "ended_early": early,
        "refused_and_added": min(refused["no"], refused["yes"]) > 0,
    }


@scenario({"settle_inside,complete_unlocked,no_settle_in_sweep": "unfinished"}, totals=0)
def fan_in_of_processes(lab):
    """Children of many parents end on 4 processes; what is chained behind a parent sees all of them."""
    parents = sized(20, 100)
    for parent in range(parents):
        name, first = f"{NAME} {parent}", 10_000 * (parent + 1)
        tasks.tree.delay(name, first, 8, 1).chain(tasks.total, name, -1)
    for _ in range(2):
        lab.worker("--processes", "2")
    lab.until_done()
    per_parent = Counter(Effect.objects.values_list("name", flat=True))
    doubled = Counter(Effect.objects.values_list("name", "number"))
    totals = Task.objects.filter(func_name="faults.total")
    wrong = parents - totals.filter(result=10, status=Status.SUCCESS).count()
    return lab.verdict(
        missing=sum(10 - count for count in per_parent.values()),
        twice=sum(count > 1 for count in doubled.values()),
        totals=wrong,
    )
