"""The supervisor and its upkeep, without processes of their own; tests/acceptance has the real ones."""

from __future__ import annotations

import os
import signal
import time

import pytest
import uuid_utils.compat as uuid
from django.db import connection

from cq import task
from cq.models import Worker
from cq.upkeep import Upkeep
from cq.worker import process, supervisor
from tests.unit.running import claim, statuses

pytestmark = pytest.mark.django_db(transaction=True)

NOBODY = 2**22 + 1  # no process has this id


@task("supervisor.job")
def job(cqt): ...


@pytest.fixture
def chief(monkeypatch):
    """A supervisor that forks nobody, and writes down what it would tell its processes."""
    plan = process.Plan(
        queues=("default",), processes=1, threads=1, async_concurrency=1, burst=False, fires=False
    )
    made = supervisor.Supervisor(plan)
    made._upkeep = Upkeep(plan.queues, fires=False)
    made.told = []
    monkeypatch.setattr(supervisor, "_kill", lambda *told: made.told.append(told))
    monkeypatch.setattr(os, "fork", lambda: NOBODY)
    monkeypatch.setattr(supervisor.connections, "close_all", lambda: None)
    before = signal.signal(signal.SIGTERM, made._on_signal)
    yield made
    signal.signal(signal.SIGTERM, before)
    for child in made._children.values():
        os.close(child.pipe)


def test_a_signal_during_the_fork_reaches_the_new_process(chief, monkeypatch):
    def fork():
        signal.raise_signal(signal.SIGTERM)
        assert chief._stopping == 0  # held back: the new process has no handler yet
        return NOBODY

    monkeypatch.setattr(os, "fork", fork)
    chief._start_one()
    assert chief.told == [(NOBODY, signal.SIGTERM)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT}


def test_a_signal_is_told_at_once_and_the_second_kills(chief):
    chief._start_one()
    for expected in (signal.SIGTERM, signal.SIGKILL):
        signal.raise_signal(signal.SIGTERM)
        assert chief.told[-1] == (NOBODY, expected)
    chief._obey()
    assert len(chief.told) == 2


def test_a_process_that_could_not_be_forked_has_no_lease(chief, monkeypatch):
    def fork():
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(BlockingIOError):
        chief._start_one()
    assert not Worker.objects.exists()
    assert not chief._upkeep._pids


def test_a_supervisor_on_sqlite_rescues_nobody_until_others_could_renew_their_leases():
    made = job.delay()
    claim(worker=uuid.uuid7())
    upkeep = Upkeep(["default"], fires=False)
    upkeep.step()
    assert ["RUNNING" if connection.vendor == "sqlite" else "QUEUED"] == statuses(made)
    upkeep._rescues_from = time.monotonic()  # a lease later
    upkeep._sweep()
    assert ["QUEUED"] == statuses(made)


def test_what_a_task_forks_dies_of_sigterm_and_does_not_stop_the_runner():
    class Runner:
        stopped = 0

        def stop(self):
            self.stopped += 1

    runner = Runner()
    stop = process._stopper(runner)
    pid = os.fork()
    if pid == 0:
        stop(signal.SIGTERM, None)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert -signal.SIGTERM == os.waitstatus_to_exitcode(status)
    stop(signal.SIGTERM, None)
    assert 1 == runner.stopped
