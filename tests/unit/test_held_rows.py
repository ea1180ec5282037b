"""Somebody's long transaction holds a row, or a step is overtaken between two looks: nobody else is held up."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError, connections, transaction

from cq import bell, database, execution, group, lifecycle, maintenance, scheduling, settling, task
from cq.models import Task
from tests.unit.flow import fan, job, note
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)
locks_rows = pytest.mark.vendors("postgresql")
SOON = timedelta(seconds=0.05)


@task("held.deep")
def deep(cqt, levels, how):
    if levels:
        cqt.subtask(deep, levels - 1, how)
        return None
    members = group(job.s(3))
    if how == "chained":
        return job.delay(1).chain(members)
    return members.using(run_after=SOON).delay()


@task("held.revokes_itself")
def revokes_itself(cqt):
    cqt.revoke()


@task("held.dies", atomic=False, retries=1, retry_delay=0)
def dies(cqt):
    raise ValueError("of the first attempt")


@task("held.returns")
def returns(cqt, task_id):
    return Task.objects.get(id=task_id)


def in_thread(function, *args):
    """Runs beside this thread, on a connection of its own."""

    def run():
        try:
            function(*args)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def two_running():
    """A parent that waits, and its two subtasks, claimed."""
    made = fan.delay(1, 2)
    execution.execute(claim()[0])
    return made, *sorted((claim()[0], claim()[0]), key=lambda one: one.args)


@locks_rows
def test_the_due_step_leaves_what_somebody_holds():
    held, other = (job.using(run_after=SOON).delay() for _ in range(2))
    with transaction.atomic():
        held.revoke()
        time.sleep(0.1)
        step = in_thread(scheduling.step)
        step.join(5)
        assert not step.is_alive()
        assert ["QUEUED"] == statuses(other)
    step.join()


@locks_rows
def test_neither_a_worker_nor_a_sweep_waits_for_a_parent_that_somebody_holds():
    made = fan.delay(1)
    execution.execute(claim()[0])
    with transaction.atomic():
        made.subtask(job, 7)
        steps = [in_thread(lambda: execution.execute(claim()[0])), in_thread(maintenance.sweep)]
        for step in steps:
            step.join(15)
        assert not any(step.is_alive() for step in steps)
    for step in steps:
        step.join()
    run_all()
    maintenance.sweep()
    assert ["SUCCESS"] == statuses(made)


@locks_rows
def test_a_parent_does_not_end_while_what_is_under_it_is_being_retried(failing):
    failing.add(1)
    made, bad, good = two_running()
    execution.execute(bad)
    failing.clear()
    with transaction.atomic():
        renewed(bad).retry()
        end = in_thread(execution.execute, good)
        end.join(1)
    end.join()
    run_all()
    maintenance.sweep()
    assert ["SUCCESS"] * 3 == statuses(made, bad, good)


@locks_rows
def test_a_revoke_in_a_transaction_is_settled_once_that_is_committed():
    made, one, other = two_running()
    with transaction.atomic():
        renewed(one).revoke()
        end = in_thread(execution.execute, other)
        end.join(5)
    end.join()
    assert ["INCOMPLETE", "REVOKED", "SUCCESS"] == statuses(made, one, other)


@pytest.mark.parametrize("how", ["chained", "later"])
def test_a_group_that_was_adopted_far_down_is_filled_all_the_same(settings, how):
    settings.CQ_MAX_DEPTH = 3
    made = deep.delay(2, how)
    run_all()
    innocent = job.using(run_after=SOON).delay()
    time.sleep(0.1)
    scheduling.step()
    assert ["QUEUED"] == statuses(innocent)
    run_all()
    maintenance.sweep()
    assert renewed(made).is_done


def test_a_task_revokes_itself_however_long_the_database_is_away(monkeypatch):
    made, real, tries = revokes_itself.delay(), settling.revoke, []

    def away(task_id):
        tries.append(task_id)
        if len(tries) <= 8:
            raise OperationalError("server closed the connection unexpectedly")
        return real(task_id)

    monkeypatch.setattr(settling, "revoke", away)
    monkeypatch.setattr(database, "pause", lambda tries: None)
    execution.execute(claim()[0])
    assert ["REVOKED"] == statuses(made)


def test_an_errorback_is_told_of_the_end_and_not_of_an_earlier_attempt():
    made = dies.delay().errorback(note)
    execution.execute(claim()[0])
    scheduling.step()
    assert "LOST" == settling.end(claim()[0], lifecycle.rescue)
    (error,) = Task.objects.get(is_errorback=True).args
    assert ("LOST", "", "") == (error["type"], error["traceback"], renewed(made).traceback)


@locks_rows
def test_what_is_retried_while_it_is_about_to_be_pruned_stays(failing, monkeypatch):
    failing.add(1)
    made = job.delay(1)
    run_all()
    Task.objects.filter(id=made.id).update(prune_at="2020-01-01T00:00Z")
    failing.clear()
    atomic = transaction.atomic

    def retried_first(*args, **kwargs):
        monkeypatch.setattr(transaction, "atomic", atomic)
        in_thread(lambda: Task.objects.get(id=made.id).retry()).join()
        return atomic(*args, **kwargs)

    monkeypatch.setattr(transaction, "atomic", retried_first)
    maintenance.prune()
    assert ["QUEUED"] == statuses(made)


def test_a_queued_task_that_another_returns_is_rung_for_again(monkeypatch):
    made = job.delay(1)
    returns.using(priority=5).delay(str(made.id))
    claimed, rung = claim()[0], []
    monkeypatch.setattr(bell, "ring", rung.append)
    execution.execute(claimed)
    assert ["default"] == rung
