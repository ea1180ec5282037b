"""A task that returns a task ends as that one does; what could never end is an error that says so."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cq import execution, task
from cq.models import Task
from tests.unit.flow import fan, job
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("returned.returns")
def returns(cqt, what, task_id=None):
    match what:
        case "itself":
            return cqt
        case "its parent":
            return cqt.parent
        case "its successor":
            return cqt.chain(job, 2).chain(job, 3)
        case "its parent's successor":
            return cqt.parent.chain(job, 3)
        case "a row":
            return Task.objects.get(id=task_id)
        case "nothing that is":
            return Task(func_name="returned.returns")


@task("returned.above")
def above(cqt, what):
    cqt.subtask(returns, what)


def test_one_is_waited_for_where_it_is_and_never_reparented():
    other = job.using(priority=-9).delay(5)
    made = returns.delay("a row", str(other.id))
    execution.execute(claim()[0])
    assert ["WAITING", "QUEUED"] == statuses(made, other)
    run_all()
    assert (["SUCCESS"], 5, None) == (statuses(made), made.result, other.parent_id)


@pytest.mark.parametrize("end", ["FAILURE", "INCOMPLETE", "REVOKED", "SKIPPED"])
def test_one_that_ended_badly_makes_it_incomplete(failing, end):
    failing.add(1)
    other = {"FAILURE": job.delay, "INCOMPLETE": fan.delay}.get(end, job.using(priority=-9).delay)(
        1
    )
    if end == "SKIPPED":
        other = other.chain(job, 2)
    if end == "REVOKED":
        other.revoke()
    made = returns.delay("a row", str(other.id))
    run_all()
    assert [end, "INCOMPLETE"] == statuses(other, made)
    assert f"the task it returned, {other.func_name} {other.id}, is {end}" == made.error


@pytest.mark.parametrize(
    "what", ["itself", "its parent", "its successor", "its parent's successor"]
)
def test_one_that_waits_for_it_is_an_error_that_says_so(what):
    made = (returns if what in ("itself", "its successor") else above).delay(what)
    run_all()
    bad = Task.objects.get(func_name="returned.returns")
    assert "FAILURE" == bad.status
    assert "which waits for it: they would wait for each other for ever" in bad.error
    assert 0 == Task.objects.active().count()
    assert made.id == bad.root_id


def test_one_that_returned_it_is_an_error_that_says_so():
    made = returns.using(run_after=HOUR).delay("a row")
    other = returns.delay("a row", str(made.id))
    Task.objects.filter(id=made.id).update(args=["a row", str(other.id)])
    run_all()
    assert ["SCHEDULED", "WAITING"] == statuses(made, other)
    Task.objects.filter(id=made.id).update(status="QUEUED")
    run_all()
    assert ["FAILURE", "INCOMPLETE"] == statuses(made, other)
    assert "which waits for it" in made.error


def test_one_that_is_no_row_is_an_error():
    made = returns.delay("nothing that is")
    run_all()
    assert "which does not exist" in renewed(made).error
