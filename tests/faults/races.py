"""Additions, failures, revokes, kills and sweeps that meet an end."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from contextlib import contextmanager

from django.db import connections
from django.db.models import Q

from cq import database, execution, lifecycle, maintenance, registry, workflow
from cq.models import Task
from cq.states import ACTIVE, DONE, Status
from tests.app.models import Effect
from tests.faults import tasks
from tests.faults.bells import NO_POLL
from tests.faults.lab import NAME, scenario, sized
from tests.faults.workflows import WORKER, census, completions, family, fan_in, in_threads

THREADS = 8
SERVERS = ("postgresql", "mysql")


def run_one_of_each(families, number, barrier):
    for _, children in families:
        barrier.wait(30)
        execution.execute(children[number])


def work_off():
    """Runs all that is QUEUED, and becomes so meanwhile, as workers would."""

    def claim(number, barrier):
        barrier.wait(30)
        while claimed := lifecycle.claim("default", registry.names(), 1, WORKER):
            execution.execute(claimed[0])

    while Task.objects.queued().exists():
        in_threads(THREADS, claim)


def child(function, number, before=0.0):
    return {"func_name": function.name, "args": [NAME, number, before]}


def base(parent):
    """What the numbers of a family begin with."""
    return 100 * (parent + 1)


@contextmanager
def sweeps():
    """Two more, every 50 ms."""
    maintenance.workers().create(id=WORKER, host="here", pid=os.getpid())
    over, errors = threading.Event(), []

    def sweep():
        while not over.wait(0.05):
            try:
                maintenance.workers().update(seen=database.read_clock())
                maintenance.sweep()
            except Exception as error:  # noqa: BLE001
                if not database.passing(error):
                    errors.append(error)
        connections.close_all()

    threads = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


# Ends.


@scenario(
    {"complete_unguarded": "completed_twice"},
    vendors=SERVERS,
    stuck=0,
    completed_twice=0,
    deadlocks=0,
)
@census
def fan_in_beside_sweeps(lab):
    """Sweeps complete parents, too: each is completed once."""
    with sweeps():
        return fan_in(lab, 20 if lab.mutant else sized(50, 500))


# Additions.


@scenario(
    {"added_after_commit": "ended_early", "nobody_is_too_late": "accepted"},
    ended_early=0,
    stuck=0,
    accepted=0,
    deadlocks=0,
)
@census
def late_siblings(lab):
    """The last statement of a run adds one beside it, while 7 others end: the parent waits for it."""
    families = []
    for parent in range(15 if lab.mutant else sized(80, 1000)):
        first = base(parent)
        effects = [
            child(tasks.effect, first + number, lab.random.uniform(0, 0.01))
            for number in range(2, THREADS + 1)
        ]
        families.append(family([child(tasks.late, first + 1), *effects]))
        lab.expected |= {*range(first + 1, first + THREADS + 1), -(first + 1)}
    in_threads(THREADS, lambda number, barrier: run_one_of_each(families, number, barrier))
    early = Task.objects.filter(status__in=ACTIVE, parent__status__in=DONE).count()
    work_off()
    stuck = Task.objects.waiting().count()
    accepted = sum(was_added(parent) for parent, _ in families)
    work_off()
    return lab.verdict(ended_early=early, stuck=stuck, accepted=accepted)


def was_added(parent):
    try:
        workflow.subtask(parent, tasks.effect, (NAME, 0), {})
    except workflow.ParentFinished:
        return False
    return True


# Failures.


@scenario(
    {"answered_by_each": "twice", "settle_inside": "unfinished"},
    completed_twice=0,
    incomplete=0,
    unforced=0,
    unskipped=0,
    unexpected=0,
    deadlocks=0,
)
@census
def failing_together(lab):
    """3 of 8 children fail at one moment, with and without `fail_fast`: one bad end, one answer to each."""
    return fail(lab, 4 if lab.mutant else sized(48, 1000))


@scenario(
    {"answered_by_each": "twice"},
    vendors=SERVERS,
    completed_twice=0,
    incomplete=0,
    unforced=0,
    unskipped=0,
    unexpected=0,
    deadlocks=0,
)
@census
def failing_beside_sweeps(lab):
    """So it is where sweeps find the same."""
    with sweeps():
        return fail(lab, 4 if lab.mutant else sized(24, 500))


def fail(lab, parents):
    families = [failing_family(lab, parent) for parent in range(parents)]
    with completions() as completed:
        in_threads(THREADS, lambda number, barrier: run_one_of_each(families, number, barrier))
        work_off()
    for parent, children in families:
        first = parent.args[1]
        lab.expected |= {first, first + 90}
        for row in Task.objects.filter(id__in=[row.id for row in children]):
            number = row.args[1]
            if row.status == Status.FAILURE and row.errorbacks:
                lab.expected.add(-number)
            if row.status == Status.SUCCESS:
                lab.expected.add(number)
    found = set(Effect.objects.values_list("number", flat=True))
    tops = Task.objects.filter(id__in=[parent.id for parent, _ in families])
    behind = Task.objects.filter(previous__in=tops, is_errorback=False)
    forced, plain = behind.filter(force_chain=True), behind.filter(force_chain=False)
    failures = Task.objects.filter(func_name=tasks.failing.name).exclude(parent__fail_fast=True)
    return lab.verdict(
        badly=failures.exclude(status=Status.FAILURE).count(),
        completed_twice=sum(count > 1 for count in completed.values()),
        incomplete=tops.exclude(status=Status.INCOMPLETE).count(),
        unforced=forced.exclude(status=Status.SUCCESS).count(),
        unskipped=plain.exclude(status=Status.SKIPPED).count(),
        unexpected=len(found - lab.expected),
    )


def failing_family(lab, parent):
    """With and without `fail_fast`, errorbacks of failing children, and others that last longer."""
    first, failures = base(parent), 3
    calls = [child(tasks.failing, first + number) for number in range(1, failures + 1)]
    for number in range(failures + 1, THREADS + 1):
        before = lab.random.uniform(0.02, 0.1) if parent // 4 % 2 else 0.0
        calls.append(child(tasks.effect, first + number, before))
    top, children = family(calls, fail_fast=bool(parent % 2), args=[NAME, first])
    top.errorback(tasks.answer, NAME, first)
    top.chain(tasks.effect.using(force_chain=True), NAME, first + 90)
    top.chain(tasks.effect, NAME, first + 91)
    if parent // 2 % 2:
        for row in children[:failures]:
            row.errorback(tasks.answer, NAME, -row.args[1])
    return top, children


@scenario({"answered_after_commit": "missing"}, vendors=SERVERS, unexpected=0, deadlocks=0)
@census
def failing_and_dying(lab):
    """Who ends a task badly dies at once: its errorbacks are there."""
    width, failures = 4, 2
    lab.worker("--processes", "2", faults="fault_dies_before_settle", CQ_MAX_DEATHS=1000)
    for parent in range(sized(2, 30)):
        first = base(parent)
        top = tasks.failing_hub.delay(NAME, first, width, failures)
        top.errorback(tasks.answer, NAME, -first)
        top.chain(tasks.effect.using(force_chain=True), NAME, first + 90)
        top.chain(tasks.effect, NAME, first + 91)
        lab.expected |= {first, -first, first + 90}
        lab.expected |= {-(first + number) for number in range(1, failures + 1)}
        lab.expected |= {first + number for number in range(failures + 1, width + 1)}
    lab.until_done()
    found = set(Effect.objects.values_list("number", flat=True))
    return lab.verdict(badly=0, unexpected=len(found - lab.expected))


# Revokes.


@scenario(
    {"revoked_may_commit": "kept", "revokes_what_it_saw,no_strays": "begun_late"},
    vendors=SERVERS,
    revoked=True,
    begun_late=0,
    kept=0,
    others=0,
    deadlocks=0,
)
@census
def revoked_while_adding(lab):
    """Running atomic tasks add to a tree while its root is revoked: nothing begins, nothing is kept."""
    workers = [lab.worker("--processes", "2", "--threads", "2") for _ in range(2)]
    trees, revoked = 8 if lab.mutant else sized(24, 300), []
    pauses = [lab.random.uniform(0.05, 0.6) for _ in range(trees)]

    def revoke(number, barrier):
        for pause in pauses[number::4]:
            root = tasks.strands.delay(3, 90)
            root.chain(tasks.effect, NAME, 0)
            lab.until(lambda root=root: root.subtasks.filter(status=Status.SUCCESS).exists(), 30)
            time.sleep(pause)
            revoked.append(root.revoke())

    in_threads(4, revoke)
    lab.until_done(2 if lab.mutant else 10)
    ran = Q(func_name=tasks.strand.name, status=Status.SUCCESS)
    return lab.verdict(
        badly=0,
        revoked=all(revoked),
        begun_late=begun_late(workers),
        kept=kept(),
        others=Task.objects.exclude(status=Status.REVOKED).exclude(ran).count(),
    )


def begun_late(workers):
    """How many functions were called more than a second after what they were for had been revoked."""
    begun = [
        (id_.replace("-", ""), float(moment))
        for worker in workers
        for id_, moment in re.findall(r"<strand (\S+) (\S+)>", worker.output)
    ]
    ends = dict(Task.objects.filter(func_name=tasks.strands.name).values_list("id", "finished"))
    rows = Task.objects.filter(func_name=tasks.strand.name)
    root_of = {id_.hex: root for id_, root in rows.values_list("id", "root_id")}
    late = [moment - ends[root_of[id_]].timestamp() for id_, moment in begun]
    print(f"{len(begun)} began, the last {max(late):.3f} s after its root was revoked")
    return sum(seconds > 1 for seconds in late)


def kept():
    """How many were revoked while they ran, and have left something nevertheless."""
    rows = Task.objects.filter(func_name=tasks.strand.name, status=Status.REVOKED)
    running = [row for row in rows if row.attempts and row.attempts[-1]["outcome"] == "REVOKED"]
    return Effect.objects.filter(name__in=[row.id.hex for row in running]).count()


# Chains.


@scenario(
    {"result_apart": "wrong", "no_settle_in_sweep": "unfinished", "effects_apart": "twice"},
    vendors=SERVERS,
    wrong=0,
    rescued=True,
    deadlocks=0,
)
@census
def chains_killed(lab):
    """Processes are killed in the middle of chains: each link runs once, with the result before it."""
    return chains_under_kills(lab, 12 if lab.mutant else sized(30, 500))


@scenario({"no_settle_in_sweep": "unfinished"}, vendors=SERVERS, wrong=0, rescued=True, deadlocks=0)
@census
def chains_killed_beside_sweeps(lab):
    """So it is where two more processes sweep all the time."""
    code = "from cq import maintenance\nwhile True: time.sleep(0.05); maintenance.sweep()"
    for _ in range(2):
        lab.script(f"import time\n{code}", CQ_LEASE=600)
    return chains_under_kills(lab, 12 if lab.mutant else sized(20, 500))


def chains_under_kills(lab, chains):
    workers = [
        lab.worker_soon("--processes", "2", faults="fault_lingers", CQ_MAX_DEATHS=1000)
        for _ in range(2)
    ]
    for worker in workers:
        worker.wait_ready(60)
    make_chains(lab, chains)
    end = time.monotonic() + (6 if lab.mutant else sized(60, 300))
    while Task.objects.active().exists() and time.monotonic() < end:
        time.sleep(0.3 if lab.mutant else sized(50, 150) / 100)
        if children := lab.random.choice(workers).children():
            os.kill(lab.random.choice(children), signal.SIGKILL)
    lab.until_done()
    return lab.verdict(wrong=wrong_links(), rescued=Task.objects.filter(rescues__gt=0).exists())


def make_chains(lab, chains):
    for chain in range(chains):
        first = base(chain)
        link = tasks.link.delay(first, NAME, first)
        for number in range(first + 1, first + 5):
            link = link.then(tasks.link, NAME, number)
        lab.expected |= set(range(first, first + 5))


def wrong_links():
    """How many have another result than what follows from the one before them."""
    links = Task.objects.filter(func_name=tasks.link.name).select_related("previous")
    wrong = 0
    for link in links:
        number = link.args[-1]
        given = link.previous.result if link.previous else number
        wrong += link.result != tasks.after_link(given, number)
    return wrong


# By bells alone.


@scenario({"no_send": "unfinished"}, once=True, totals=0, wrong=0, deadlocks=0)
@census
def races_by_bells_alone(lab):
    """Fan-ins, late siblings and chains on 4 processes that never poll."""
    workers = [lab.worker_soon("--processes", "2", **NO_POLL) for _ in range(2)]
    for worker in workers:
        worker.wait_ready(60)
    time.sleep(1)  # what they look for at their start is over
    hubs = 2 if lab.mutant else sized(15, 300)
    for hub in range(hubs):
        tasks.hub.delay(f"hub {hub}", base(hub), 8).chain(tasks.total, f"hub {hub}", -1)
    make_chains(lab, hubs)
    lab.until_done(sized(60, 600))
    totals = Task.objects.filter(func_name=tasks.total.name)
    return lab.verdict(
        totals=hubs - totals.filter(result=11, status=Status.SUCCESS).count(),
        wrong=wrong_links(),
    )
