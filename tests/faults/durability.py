"""Something dies, stands still, or is told to go, in the middle of a task."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from django.db import connection, transaction

from cq.models import Task
from tests.app.models import Effect
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized, tree_numbers
from tests.processes import alive


class Oops(Exception):
    pass


@scenario({"insert_apart": "rows"}, rows=0)
def rolled_back(lab):
    """500 times: what a rolled back transaction delayed never existed."""
    for number in range(20 if lab.mutant else 500):
        with suppress(Oops), transaction.atomic():
            tasks.effect.delay(NAME, number)
            raise Oops
    return lab.verdict(rows=Task.objects.count())


@scenario({"no_rescue_of_children": "unfinished"}, deaths=1)
def process_killed(lab):
    """Its supervisor gives the task back at once: the lease is far longer than this test."""
    worker = lab.worker("--processes", "1", CQ_LEASE=600)
    task = lab.delay(tasks.effect, 1, after=30)
    lab.begun(worker, 1)
    os.kill(worker.children()[0], signal.SIGKILL)
    lab.until_done()
    task.refresh_from_db()
    return lab.verdict(deaths=task.rescues)


@scenario({"orphans_stay": "orphans"}, orphans=0)
def supervisor_killed(lab):
    """Its processes finish what they run, claim no more, and go."""
    worker = lab.worker("--processes", "2")
    for number in range(2):
        lab.delay(tasks.effect, number, after=1)
    lab.begun(worker, 0, 1)
    for number in range(2, 10):
        lab.delay(tasks.effect, number, after=0.1)
    children = worker.children()
    worker.kill()
    lab.worker("--processes", "1")
    lab.until_done()
    lab.until(lambda: not any(map(alive, children)), 20)
    return lab.verdict(orphans=sum(map(alive, children)))


@scenario(
    {"no_rescue": "unfinished", "rescue_runs_all": "statuses", "rescue_runs_none": "statuses"},
    statuses=["SUCCESS", "LOST", "SUCCESS", "SUCCESS"],
    effects=[1, 1, 2, 1],
    twice=1,  # what may run again, and is not atomic, leaves its effects twice
    badly=1,
)
def group_killed(lab):
    """Begun atomic tasks, and those with rerun_lost, run again once the lease is over; others are LOST."""
    writes_late = connection.vendor == "sqlite"  # there is one lock for all writers
    pause = {"before" if writes_late else "after": 3}
    made = [
        lab.delay(tasks.effect, 0, **pause),
        lab.delay(tasks.loose, 1, after=30),
        lab.delay(tasks.loose_again, 2, after=30),
    ]
    worker = lab.worker("--processes", "3")
    lab.begun(worker, 0, 1, 2)
    worker.kill_group()
    made.append(lab.delay(tasks.effect, 3))
    lab.worker("--processes", "2")
    lab.until_done()
    for task in made:
        task.refresh_from_db()
    effects = [Effect.objects.filter(number=number).count() for number in range(4)]
    return lab.verdict(statuses=[str(task.status) for task in made], effects=effects)


@scenario({"no_death_count": "deaths"}, deaths=3, badly=1, error="its worker died 3 times")
def third_death(lab):
    """A task that kills whoever runs it is a FAILURE, saying so; the others are not held up."""
    worker = lab.worker("--processes", "1", CQ_LEASE=600)
    poison = tasks.deadly.delay(NAME, 0)
    for number in range(1, 4):
        lab.delay(tasks.effect, number)

    def deaths():
        return worker.output.count("<dying 0>")

    lab.until(lambda: deaths() > 3 or not Task.objects.active().exists())
    poison.refresh_from_db()
    return lab.verdict(deaths=deaths(), error=poison.error[:23])


@scenario({"no_fence": "twice", "effects_apart": "twice"}, fenced=2)
def zombie(lab):
    """SIGSTOP of a group past its lease, another takes over, SIGCONT: nothing of the first remains."""
    stopped = lab.worker("--processes", "2", faults="interrupts_nobody")
    pause = {"before" if connection.vendor == "sqlite" else "after": 2}
    for number in range(2):
        lab.delay(tasks.effect, number, **pause)
    lab.begun(stopped, 0, 1)
    stopped.signal_group(signal.SIGSTOP)
    lab.worker("--processes", "2")
    lab.until_done()
    stopped.signal_group(signal.SIGCONT)
    lab.until(lambda: stopped.output.count("fenced") >= 2, 15)
    return lab.verdict(fenced=stopped.output.count("fenced: "))


@scenario({"no_heartbeat": "rescues"}, rescues=0)
def outlives_its_lease(lab):
    """A long task of a live worker is nobody else's, though the lease is shorter."""
    worker = lab.worker("--processes", "1")
    lab.worker("--processes", "1")
    task = lab.delay(tasks.effect, 0, before=5)
    del worker
    lab.until_done()
    task.refresh_from_db()
    return lab.verdict(rescues=task.rescues)


@scenario({"no_rescue": "unfinished"})
def kill_storm(lab):
    """Processes, supervisors and whole groups are killed while trees of tasks run."""
    settings = {"CQ_MAX_DEATHS": 1000}
    workers = [lab.worker("--processes", "2", **settings) for _ in range(2)]
    trees, width, depth = sized(8, 400), 3, 2
    for tree in range(trees):
        first = 10_000 * (tree + 1)
        root = tasks.tree.delay(NAME, first, width, depth, before=0.05)
        root.chain(tasks.effect, NAME, -first)
        lab.expected.add(-first)
        lab.expected |= tree_numbers(first, width, depth)
    end = time.monotonic() + sized(6, 60)
    while time.monotonic() < end and Task.objects.active().exists():
        time.sleep(lab.random.uniform(0.3, 1.2))
        one = lab.random.randrange(len(workers))
        children = workers[one].children()
        how = lab.random.choice(["process", "process", "supervisor", "group"])
        if how == "process" and children:
            os.kill(lab.random.choice(children), signal.SIGKILL)
        elif how == "supervisor":
            workers[one].kill()
        else:
            workers[one].kill_group()
        if how != "process":
            workers[one] = lab.worker_soon("--processes", "2", **settings)
    lab.until_done()
    return lab.verdict()


@scenario({"no_settle_in_sweep": "unfinished"})
def dies_before_settling(lab):
    """What was committed and not said to parents and successors is found by the sweep."""
    faults = "fault_dies_before_settle"
    lab.worker("--processes", "2", faults=faults, CQ_MAX_DEATHS=1000)
    for tree in range(sized(2, 20)):
        first = 10_000 * (tree + 1)
        lab.expected |= tree_numbers(first, 3, 2)
        tasks.tree.delay(NAME, first, 3, 2).chain(tasks.effect, NAME, -first)
        lab.expected.add(-first)
    lab.until_done()
    return lab.verdict()


@scenario({"stop_at_once": "rescues"}, exit_code=0, running=0, rescues=0)
def told_to_go(lab):
    """SIGTERM: what runs is finished, nothing else begun, exit 0; the rest is there for the next."""
    count = sized(20, 300)
    worker = lab.worker("--processes", "2")
    for number in range(count):
        lab.delay(tasks.effect, number, before=0.2)
    lab.until(lambda: Task.objects.succeeded().count() >= 4)
    exit_code = worker.stop()
    running = Task.objects.running().count()
    left = Task.objects.queued().count()
    assert left, "it was not stopped in the middle"
    lab.worker_soon("--processes", "2", "--burst").wait(60)
    rescues = Task.objects.filter(rescues__gt=0).count()
    return lab.verdict(exit_code=exit_code, running=running, rescues=rescues)


@scenario({"no_give_back": "rescues"}, exit_code=0, queued=1, rescues=0)
def told_to_go_with_claims(lab):
    """What was claimed and not begun is given back, and nothing counted against it."""
    worker = lab.worker(
        "--processes", "1", faults="fault_stopped_between_claim_and_run", CQ_LEASE=600
    )
    task = tasks.effect.delay(NAME, 0)
    exit_code = worker.wait()
    task.refresh_from_db()
    lab.expected.add(0)
    queued = Task.objects.queued().count()
    lab.worker_soon("--processes", "1", "--burst").wait(60)
    return lab.verdict(exit_code=exit_code, queued=queued, rescues=task.rescues)


@scenario(
    {"no_rescue_of_children": "status", "one_sigterm_is_enough": "exit_code"},
    exit_code=0,
    status="QUEUED",
    unfinished=1,
)
def told_twice_to_go(lab):
    """A second SIGTERM: now. What ran is queued again at once, not after the lease."""
    worker = lab.worker("--processes", "1", CQ_LEASE=600)
    task = tasks.effect.delay(NAME, 0, after=100)
    lab.begun(worker, 0)
    worker.signal(signal.SIGTERM)
    worker.wait_for("stops when what runs is finished")
    worker.signal(signal.SIGTERM)
    lab.until(lambda: worker.exit_code is not None, 20)
    task.refresh_from_db()
    return lab.verdict(exit_code=worker.exit_code, status=str(task.status))
