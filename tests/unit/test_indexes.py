"""Every question that the package asks of its largest table has an index, and few indexes hold a plain task."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from cq import execution, maintenance, revoking, scheduling, settling, task
from cq.models import RepeatingTask, Task
from cq.states import ACTIVE, Status
from tests.unit.flow import add, fan, job, note
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.vendors("postgresql")

HOUR = timedelta(hours=1)


@task("indexes.adopts")
def adopts(cqt):
    made = fan.delay(1, 2)
    made.chain(job, 3)
    return made


@contextmanager
def looked_up():
    """What is asked meanwhile reads no table as a whole, if PostgreSQL can help it."""
    scans = []

    def explain(execute, sql, params, many, context):
        if not many and '"cq_task"' in sql and sql.startswith(("SELECT", "UPDATE", "DELETE")):
            with context["connection"].connection.cursor() as cursor:
                cursor.execute("SET enable_seqscan = off")
                cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
                plan = json.dumps(cursor.fetchone())
                cursor.execute("RESET enable_seqscan")
            # An index with nothing to look up in it is read as a whole, too.
            if '"Seq Scan", ' in plan and '"Relation Name": "cq_task"' in plan:
                scans.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield
    assert [] == scans


def test_the_words_of_active_stand_in_two_runs():
    found = {
        status
        for status in Status
        if (status in ACTIVE and Status.PENDING <= status <= Status.SCHEDULED)
        or status >= Status.WAITING
    }
    assert found == ACTIVE


@on_postgresql
def test_the_sweep_and_the_due_step():
    later = job.using(run_after=HOUR).delay()
    Task.objects.filter(id=later.id).update(ready_at=Now())
    fan.delay(1).chain(job)
    job.using(expires=1).delay()
    run_all()
    Task.objects.exclude(prune_at=None).update(prune_at=Now() - HOUR)
    with looked_up():
        scheduling.step()
        maintenance.sweep()
    assert ["QUEUED"] == statuses(later)
    assert 1 == Task.objects.count()


@on_postgresql
def test_a_life(failing):
    failing.add(2)
    with looked_up():
        made = fan.delay(1, 2)
        made.chain(add, 1).errorback(note)
        adopted = adopts.delay()
        run_all()
        failing.clear()
        renewed(made).retry()
        run_all()
        made.delete()
        renewed(adopted)
        assert 0 == job.delay().position()
        adopted.chain(job).revoke()
        RepeatingTask.objects.create(name="one").delete()


@on_postgresql
def test_a_revoke_that_was_cut_short_is_finished(monkeypatch):
    made = fan.delay(*range(5))
    execution.execute(claim()[0])
    with monkeypatch.context() as patch:
        patch.setattr(revoking, "revoke_under", lambda *args, **options: [])
        made.revoke()
    assert 5 == Task.objects.queued().count()
    with looked_up():
        settling.revoke_strays()
    assert {"REVOKED"} == set(Task.objects.values_list("status", flat=True))


def test_a_key_and_a_slot_are_taken_once_and_nothing_is_free_for_all():
    """Partly by partial indexes, where the database has them."""
    schedule = RepeatingTask.objects.create(name="one")
    taken = {"repeating_task": schedule, "slot": timezone.now()}
    for given in ({"unique_key": "a"}, taken, {"unique_key": None}, {"unique_key": None}):
        Task.objects.create(func_name="indexes.none", **given)
    for given in ({"unique_key": "a"}, taken):
        with pytest.raises(IntegrityError), transaction.atomic():
            Task.objects.create(func_name="indexes.none", **given)
    Task.objects.create(func_name="indexes.none", repeating_task=schedule, slot=None)
    Task.objects.create(func_name="indexes.none", repeating_task=schedule, slot=None)


def test_a_task_without_a_family_is_in_two_indexes_at_a_time():
    """Of those that PostgreSQL has to write when a status changes."""
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, "cq_task")
    expected = {
        *("cq_task_claimable", "cq_task_due", "cq_task_unfinished", "cq_task_prunable"),
        *("cq_task_subtasks", "cq_task_successors", "cq_task_returned_by", "cq_task_tree"),
        *("cq_task_expiring", "cq_task_one_per_slot", "cq_task_one_per_key"),
        "cq_task_repeating",
    }
    named = {name for name, kind in found.items() if kind["index"] and not kind["primary_key"]}
    assert expected == {name for name in named if name.startswith("cq_task_")}
