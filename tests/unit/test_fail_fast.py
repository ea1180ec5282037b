"""`fail_fast`: the first direct subtask that ends in ERROR revokes its unfinished siblings."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cq import chain, execution, group, maintenance, settling, task
from cq.models import Task
from tests.unit.flow import failing, fan, forced, job, note, notes, numbers
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("failing")]

HOUR = timedelta(hours=1)


@task("fail_fast.parent", fail_fast=True)
def parent(cqt):
    cqt.subtask(job, 1).errorback(note).chain(forced, 10)
    cqt.subtask(job, 2).chain(job, 3).chain(forced, 4)
    cqt.subtask(fan, 5)
    cqt.subtask(job.using(run_after=HOUR), 6)
    cqt.subtask(group(job.s(7)).using(run_after=HOUR))


@task("fail_fast.kept", atomic=False, fail_fast=True)
def kept_parent(cqt):
    cqt.subtasks(job, [1, 2])
    run_all()


@task("fail_fast.top", fail_fast=True)
def top(cqt):
    cqt.subtask(fan, 1, 2)
    cqt.subtask(job, 3)


def test_unfinished_siblings_are_revoked_and_others_run():
    failing.add(1)
    made = parent.delay()
    for _ in range(2):
        execution.execute(claim()[0])
    found = {str(t.args[:1] or t.func_name): str(t.status) for t in made.subtasks.all()}
    error = next(name for name in found if "traceback" in name)
    assert {
        "[1]": "FAILURE",
        error: "QUEUED",
        "[10]": "QUEUED",  # forced
        "[2]": "REVOKED",
        "[3]": "REVOKED",
        "[4]": "QUEUED",  # forced, and so released
        "[5]": "REVOKED",
        "[6]": "REVOKED",
        "cq.group": "REVOKED",
    } == {**found, "[5]": found["[5]"]}
    assert ["WAITING"] == statuses(made)
    run_all()
    assert (["INCOMPLETE"], [10, 4], ["note "]) == (statuses(made), numbers(), notes())


def test_running_ones_too():
    failing.add(1)
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    claimed = claim(2)
    execution.execute(claimed[0])
    assert ["INCOMPLETE"] == statuses(made)
    execution.execute(claimed[1])
    assert (["FAILURE", "REVOKED"], []) == (statuses(*claimed), numbers())


def test_what_has_succeeded_stays():
    failing.add(2)
    made = group(job.s(1), job.s(2), job.s(3)).using(fail_fast=True).delay()
    run_all()
    assert ("INCOMPLETE", [1, None, None]) == (renewed(made).status, made.result)
    assert [1] == numbers()


@pytest.mark.parametrize("end", ["INCOMPLETE", "REVOKED", "LOST"])
def test_every_error_is_one(end):
    failing.add(8)
    first = group(job.using(priority=5).s(8)) if end == "INCOMPLETE" else job.s(9)
    made = group(first, job.s(1)).using(fail_fast=True).delay()
    one, two = made.subtasks.order_by("member_no")
    if end == "REVOKED":
        one.revoke()
    elif end == "LOST":
        Task.objects.filter(id=one.id).update(atomic=False)
        claim()
        maintenance.rescue_silent()
    else:
        execution.execute(claim()[0])
    assert [end, "REVOKED", "INCOMPLETE"] == statuses(one, two, made)


def test_a_skipped_one_is_none():
    failing.add(1)
    before = job.delay(1)
    made = before.chain(job, 2)
    run_all()
    other = group(job.s(3), job.s(4)).using(fail_fast=True).delay()
    Task.objects.filter(id=made.id).update(parent=other)
    settling.settle(made.id)
    run_all()
    assert ["SKIPPED", "SUCCESS"] == statuses(made, other)


def test_it_is_of_direct_subtasks_alone():
    failing.add(1)
    made = group(fan.s(1, 2), job.s(3)).using(fail_fast=True).delay()
    run_all()
    assert {1, 2, 3} - {1} == set(numbers())
    assert ["INCOMPLETE"] == statuses(made)
    again = top.delay()
    run_all()
    assert ["INCOMPLETE"] == statuses(again)


def test_a_chain_has_it_too():
    failing.add(1)
    links = (job.s(1), forced.s(2), job.s(3))
    made = chain(*links).using(fail_fast=True).delay()
    run_all()
    assert ["INCOMPLETE"] == statuses(made)
    assert ["FAILURE", "SUCCESS", "REVOKED"] == statuses(*made.subtasks.order_by("member_no"))


def test_while_the_parent_itself_still_runs():
    failing.add(1)
    made = kept_parent.delay()
    execution.execute(claim()[0])
    assert ["FAILURE", "REVOKED"] == statuses(*made.subtasks.order_by("id"))
    assert ["INCOMPLETE"] == statuses(made)
    assert [] == numbers()


def test_the_sweep_does_it_where_nobody_did():
    failing.add(1)
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    first = made.subtasks.order_by("id").first()
    Task.objects.filter(id=first.id).update(status="FAILURE")
    maintenance.sweep()
    assert ["INCOMPLETE"] == statuses(made)
    assert ["FAILURE", "REVOKED"] == statuses(*made.subtasks.order_by("id"))


def test_what_is_added_after_the_failure_is_revoked_with_the_next_end():
    failing.add(1)
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    made.subtasks.get(member_no=0).chain(forced, 5)
    execution.execute(claim()[0])
    assert ["WAITING"] == statuses(made)
    late = made.subtask(job, 6)
    maintenance.sweep()
    assert ["REVOKED"] == statuses(late)
    run_all()
    assert (["INCOMPLETE"], [5]) == (statuses(made), numbers())


def test_an_errorback_that_fails_revokes_nobody_that_it_spared():
    failing.add(1)

    @task("fail_fast.bad_errorback")
    def bad_errorback(cqt, error):
        raise ValueError

    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    made.subtasks.get(member_no=0).errorback(bad_errorback).errorback(note)
    run_all()
    assert (["INCOMPLETE"], ["note "]) == (statuses(made), notes())
