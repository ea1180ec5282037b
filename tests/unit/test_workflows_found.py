"""What random programs have found (see tests/faults/test_random_programs.py)."""

from __future__ import annotations

import pytest

from cq import task
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import job, numbers
from tests.unit.running import run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@task("found.parent", fail_fast=True)
def parent(cqt, revoker):
    cqt.subtask(revoker)
    cqt.subtask(job, 1)
    cqt.subtask(job, 2)


@task("found.revoker")
def revoker(cqt):
    Effect.objects.create(name="job", number=10)
    cqt.parent.subtasks.get(args=[1]).revoke()


@task("found.chainer")
def chainer(cqt):
    """Behind what it has revoked itself, a successor is SKIPPED at once."""
    Effect.objects.create(name="job", number=10)
    revoked = cqt.chain(job, 3)
    revoked.revoke()
    revoked.chain(job, 4)


@pytest.mark.parametrize("does", [revoker, chainer])
def test_what_an_atomic_run_revokes_fails_its_parent_once_it_is_committed(does):
    """In its own transaction, fail_fast revoked the run itself, which then was RUNNING for ever."""
    made = parent.delay(does.name)
    run_all()
    assert ["INCOMPLETE"] == statuses(made)
    found = {task.args[0] if task.args else 0: task.status for task in made.subtasks.all()}
    first = {0: "SUCCESS", 1: "REVOKED", 2: "REVOKED"}
    more = {} if does is revoker else {3: "REVOKED", 4: "SKIPPED"}
    assert {**first, **more} == found
    assert [10] == numbers()


def test_what_a_loose_run_revokes_fails_its_parent_at_once():
    """It is no exception: whoever fails his parent while he runs is revoked with the others."""
    made = parent.delay(loose_revoker.name)
    run_all()
    assert ["INCOMPLETE"] == statuses(made)
    assert {"REVOKED"} == set(made.subtasks.values_list("status", flat=True))


@task("found.loose_revoker", atomic=False)
def loose_revoker(cqt):
    Task.objects.get(parent=cqt.parent_id, args=[1]).revoke()
