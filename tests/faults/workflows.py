"""Ends that race for what waits for them."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from contextlib import contextmanager

import uuid_utils.compat as uuid
from django.db import connection, connections, transaction
from django.db.models import Q

from cq import execution, lifecycle, workflow
from cq.lifecycle import Outcome
from cq.models import Task
from cq.states import ACTIVE, Status
from tests.app.models import Effect
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized
from tests.processes import APPLICATION_NAME, end_connections, eventually

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
    task = Task(**{"func_name": "faults.effect", "status": status, "claim_no": 1, **given})
    task.root_id = task.parent_id or task.id
    task.save(force_insert=True)
    return task


def family(children, status=Status.WAITING, **of_parent):
    """A parent whose children all run. `children`: how many, or what the row of each says."""
    parent = row(status, **of_parent)
    running = {"parent": parent, "parent_run": 1, "depth": 1, "worker_id": WORKER}
    given = [{}] * children if isinstance(children, int) else children
    return parent, [row(Status.RUNNING, **running, **child) for child in given]


def end(task):
    """What a worker does when the function has returned."""
    with transaction.atomic():
        concerns_others = lifecycle.finish(task, Outcome(status=Status.SUCCESS))
    step = execution._Next.SETTLE if concerns_others else execution._Next.DONE
    execution._settle(task, step)


def deadlocks():
    """How many there were so far; where the database counts none, those that a task says it met."""
    if connection.vendor != "postgresql":
        met = Q(error__contains="(1213") | Q(error__contains="(1205")
        return Task.objects.filter(met).count()
    sessions = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"
    theirs = rows(f"{sessions} AND datname = current_database()")
    end_connections()  # they say it at their end, if not before
    eventually(lambda: theirs.isdisjoint(rows(sessions)))
    ((count,),) = rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return count


def rows(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return set(cursor.fetchall())


def census(run):
    """A scenario in which nobody may have waited in a ring: its verdict counts `deadlocks`."""

    @functools.wraps(run)
    def counted(lab):
        before = deadlocks()
        verdict = run(lab)
        met = deadlocks() - before
        print(f"deadlocks: {met}")
        return {**verdict, "deadlocks": met}

    return counted


@contextmanager
def completions():
    """How often each task was completed in this process."""
    completed = Counter()
    complete = lifecycle.complete

    def counting(task):
        target = complete(task)
        if target is not None:
            completed[task.id] += 1
        return target

    lifecycle.complete = counting
    try:
        yield completed
    finally:
        lifecycle.complete = complete


@scenario(
    {
        "settle_inside,complete_unlocked": "stuck",
        "settle_inside,complete_by_one_update": "stuck",
        "settle_inside,complete_by_one_statement": "stuck",
        "complete_unlocked": "completed_twice",
        "complete_unguarded": "completed_twice",
    },
    stuck=0,
    completed_twice=0,
    deadlocks=0,
)
@census
def fan_in_of_threads(lab):
    """8 children of one parent end at one moment: it is completed, by one of them, once."""
    return fan_in(lab, 20 if lab.mutant else sized(100, 1000))


def fan_in(lab, parents):
    families = [family(8) for _ in range(parents)]
    with completions() as completed:
        in_threads(8, lambda number, barrier: end_one_of_each(families, number, barrier))
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
    deadlocks=0,
)
@census
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


@scenario(
    {"settle_inside,complete_unlocked,no_settle_in_sweep": "unfinished"}, totals=0, deadlocks=0
)
@census
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
