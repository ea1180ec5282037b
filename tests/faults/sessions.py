"""Sessions of the database are killed, commits break, the database is away."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection
from django.db.models.functions import Now

from cq.models import Task
from tests.faults import tasks
from tests.faults.lab import NAME, scenario, sized, tree_numbers
from tests.processes import APPLICATION_NAME, end_connections

POSTGRESQL = ("postgresql",)


def kill_a_session(lab):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s ORDER BY pid",
            [APPLICATION_NAME],
        )
        found = [pid for (pid,) in cursor.fetchall()]
        if found:
            cursor.execute("SELECT pg_terminate_backend(%s)", [lab.random.choice(found)])


@scenario({"nothing_passes": "badly"}, vendors=POSTGRESQL, ended=[None, None], died=0, replaced=0)
def sessions_killed(lab):
    """A random session is killed again and again: no task fails of it, and no process ends."""
    workers = [lab.worker("--processes", "2") for _ in range(2)]
    children = {child for worker in workers for child in worker.children()}
    for number in range(sized(120, 3000)):
        lab.delay(tasks.effect, number, before=0.01, after=0.02)
    for tree in range(sized(4, 40)):
        first = 10_000 * (tree + 1)
        tasks.tree.delay(NAME, first, 3, 2, before=0.01)
        lab.expected |= tree_numbers(first, 3, 2)
    while Task.objects.active().exists() and (not lab.mutant or not Task.objects.errors().exists()):
        time.sleep(sized(1, 10) / 10)
        kill_a_session(lab)
    return lab.verdict(
        ended=[worker.exit_code for worker in workers],
        died=sum(worker.output.count("of this worker died") for worker in workers),
        replaced=len(children - {child for worker in workers for child in worker.children()}),
    )


@scenario(
    {"guess_not_committed,no_fence": "twice", "guess_committed": "unfinished"},
    vendors=POSTGRESQL,
    lost_answers=True,
)
def answers_lost(lab):
    """The session ends in the moment of COMMIT, before or after it was done: looked up, not guessed."""
    worker = lab.worker("--processes", "2", faults="fault_commits")
    for number in range(25):
        lab.delay(tasks.effect, number)
    for number in range(25, 35):
        lab.delay(tasks.loose, number)
    for tree in range(sized(2, 50)):
        first = 10_000 * (tree + 1)
        tasks.tree.delay(NAME, first, 3, 2).chain(tasks.effect, NAME, -first)
        lab.expected |= tree_numbers(first, 3, 2) | {-first}
    lab.until_done()
    return lab.verdict(lost_answers="<an answer is lost>" in worker.output)


@scenario({"no_reconciling": "unfinished"}, vendors=POSTGRESQL, lost_answers=True)
def claims_lost(lab):
    """The answer to a claim's COMMIT is lost: what was claimed runs nevertheless."""
    worker = lab.worker("--processes", "2", faults="fault_claims")
    for number in range(sized(8, 200)):
        lab.delay(tasks.effect, number, before=0.12)  # each its own claim
    lab.until_done(30)
    return lab.verdict(lost_answers="<an answer is lost>" in worker.output)


def ago(seconds):
    return Now() - timedelta(seconds=seconds)


@contextmanager
def database_away():
    """Nobody but this process gets in."""

    def allow(how):
        name = connection.ops.quote_name(connection.settings_dict["NAME"])
        elsewhere = {**connection.get_connection_params(), "dbname": "postgres"}
        with connection.Database.connect(**elsewhere, autocommit=True) as other:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {how}")
        end_connections()

    allow("false")
    try:
        yield
    finally:
        allow("true")


@scenario(
    {"no_waiting_for_database": "badly", "rescue_before_heartbeat": "rescues"},
    vendors=POSTGRESQL,
    ended=None,
    died=0,
    rescues=0,
)
def database_restarts(lab):
    """The database is away for longer than a lease, in the middle of tasks: they run when it is back."""
    worker = lab.worker(
        "--processes", "2", "--threads", "2", faults="fault_sweeps_before_heartbeat"
    )
    for number in range(24):
        lab.delay(tasks.effect, number, before=0.2, after=0.2)
    # Not where all hands have just become free: it has to happen in the middle of tasks.
    lab.until(lambda: Task.objects.succeeded().exists() and Task.objects.running().count() == 4)
    lab.until(lambda: Task.objects.running().filter(started__lt=ago(0.1)).count() >= 2)
    with database_away():
        time.sleep(4)
    lab.until_done()
    died = worker.output.count("of this worker died")
    rescues = Task.objects.filter(rescues__gt=0).count()
    return lab.verdict(ended=worker.exit_code, died=died, rescues=rescues)
