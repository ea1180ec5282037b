"""Errorbacks: one task for each final failure, told the error, under the same parent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from cq import ParentFinished, chain, execution, group, lifecycle, maintenance, task
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import fan, job, kept, note, notes
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("errorbacks.twice", retries=1, retry_delay=0)
def twice(cqt, fails=2):
    if len(cqt.attempts) < fails:
        raise ValueError("not yet")


@task("errorbacks.own")
def own(cqt, *names):
    for name in names:
        cqt.errorback(note, name)
    raise ValueError("own")


@task("errorbacks.own_kept", atomic=False, retries=1, retry_delay=0)
def own_kept(cqt):
    cqt.errorback(note, f"of run {cqt.claim_no}")
    raise ValueError("own")


@task("errorbacks.own_below")
def own_below(cqt, number):
    cqt.errorback(note, "own")
    cqt.subtask(job, number)


@task("errorbacks.fails")
def fails(cqt, error):
    raise ValueError("so does the errorback")


@task("errorbacks.raises")
def raises(cqt, message):
    raise ValueError(*message)


@task("errorbacks.note", queue="default")
async def anote(cqt, error, where=""):
    await Effect.objects.acreate(name=f"note {where}")


def errorbacks():
    return list(Task.objects.filter(is_errorback=True).order_by("id"))


def run_due():
    while run_all() or lifecycle.make_due():
        pass


# -- What it is told


def test_it_is_told_the_error_and_knows_the_task():
    made = raises.delay(["why: so"]).errorback(note)
    assert "errorbacks.raises" == made.func_name
    run_all()
    (one,) = errorbacks()
    error, name, status = renewed(one).result
    assert ("errorbacks.raises", "FAILURE") == (name, status)
    assert ("ValueError", "why: so") == (error["type"], error["message"])
    assert "raise ValueError(*message)" in error["traceback"]
    assert {"type", "message", "traceback"} == set(error)
    assert (made.id, None, one.id) == (one.previous_id, one.parent_id, one.root_id)


def test_an_error_without_a_message_has_its_type():
    raises.delay([]).errorback(note)
    run_all()
    error = errorbacks()[0].result[0]
    assert ("ValueError", "") == (error["type"], error["message"])


def test_of_what_no_exception_ended_the_type_is_the_status(failing):
    failing.add(1)
    made = group(job.s(1)).delay().errorback(note)
    run_all()
    error = errorbacks()[0].result[0]
    assert ("INCOMPLETE", renewed(made).error) == (error["type"], error["message"])
    assert error["message"].startswith("1 of 1 subtasks did not succeed; first flow.job ")


def test_both_ways_of_giving_arguments(failing):
    failing.add(1)
    made = job.delay(1)
    for call in (
        lambda: made.errorback(note, "a", more="b"),
        lambda: made.errorback(note, ("a",), {"more": "b"}),
        lambda: made.errorback(note.s("a", more="b")),
        lambda: async_to_sync(made.aerrorback)(note, "a", more="b"),
    ):
        assert made is call()
    run_all()
    assert ["note ab"] * 4 == notes()


def test_its_options_are_its_own(failing, settings):
    settings.CQ_QUEUES = ["other"]
    failing.add(1)
    job.using(meta={"a": 1}).delay(1).errorback(
        note.using(queue="other", priority=5, label="x", run_after=HOUR, meta={"b": 2})
    )
    run_all()
    (one,) = errorbacks()
    assert ("other", 5, "x", "SCHEDULED", {"b": 2}) == (
        one.queue,
        one.priority,
        one.label,
        one.status,
        one.meta,
    )


def test_arguments_that_do_not_fit_are_an_error_at_once():
    made = job.delay(1)
    for call in (
        lambda: made.errorback(note, 1, 2, 3),
        lambda: made.errorback(job, 1),
        lambda: made.errorback(note, more=object()),
        lambda: made.errorback(5),
    ):
        with pytest.raises(TypeError):
            call()
    assert [] == renewed(made).errorbacks


# -- When


def test_once_per_final_failure_not_per_attempt():
    made = twice.delay().errorback(note)
    run_all()
    assert (["RETRY"], 0) == (statuses(made), len(errorbacks()))
    run_due()
    assert (["FAILURE"], 1) == (statuses(made), len(errorbacks()))
    made.retry()
    assert 1 == len(errorbacks())
    run_due()
    assert (["SUCCESS"], 1) == (statuses(made), len(errorbacks()))


def test_each_one_that_was_given_once(failing):
    failing.add(1)
    made = job.delay(1).errorback(note, "1").errorback(note, "2").errorback(anote, "3")
    run_all()
    assert ["note 1", "note 2", "note 3"] == notes()
    maintenance.sweep()
    run_all()
    assert 3 == len(notes())
    failing.clear()
    made.retry()
    run_all()
    assert 3 == len(notes())


def test_of_what_failed_again_after_retry_again(failing):
    failing.add(1)
    made = job.delay(1).errorback(note)
    for times in (1, 2, 3):
        run_all()
        assert times == len(notes())
        renewed(made).retry()


def test_of_an_incomplete_one_once_however_many_failed_below(failing):
    failing.update((1, 2, 3))
    made = fan.delay(1, 2, 3, 4).errorback(note, "top")
    run_all()
    assert (["INCOMPLETE"], ["note top"]) == (statuses(made), notes())


@pytest.mark.parametrize("container", [group, chain])
def test_of_a_group_or_chain(failing, container):
    failing.add(2)
    container(job.s(1), job.s(2)).delay().errorback(note)
    run_all()
    assert ["note "] == notes()


def test_of_a_lost_one():
    made = kept.delay().errorback(note)
    claim()
    maintenance.rescue_silent()
    assert ["LOST"] == statuses(made)
    run_all()
    error, _, status = errorbacks()[0].result
    assert ("LOST", "LOST") == (status, error["type"])
    assert error["message"].startswith("its worker died")


def test_of_one_whose_workers_died_too_often():
    made = job.using(priority=9).delay().errorback(note)
    for _ in range(3):
        claim()
        maintenance.rescue_silent()
    run_all()
    assert (["FAILURE"], ["note "]) == (statuses(made), notes())


def test_of_one_that_expired():
    made = job.using(expires=60).delay().errorback(note)
    Task.objects.filter(id=made.id).update(expires_at=timezone.now() - HOUR)
    maintenance.sweep()
    assert ["FAILURE"] == statuses(made)
    run_all()
    assert {
        "type": "FAILURE",
        "message": "expired before it began",
        "traceback": "",
    } == errorbacks()[0].result[0]


@pytest.mark.parametrize("end", ["SUCCESS", "REVOKED", "SKIPPED"])
def test_of_no_other_end(failing, end):
    failing.add(1)
    made = job.delay(2) if end != "SKIPPED" else job.delay(1).chain(job, 2)
    made.errorback(note)
    if end == "REVOKED":
        made.revoke()
    run_all()
    assert ([end], []) == (statuses(made), errorbacks())


# -- From inside


def test_what_a_failing_task_gave_itself_survives_its_rollback():
    made = own.delay("a", "b")
    run_all()
    assert (["FAILURE"], ["note a", "note b"]) == (statuses(made), notes())
    renewed(made).retry()
    run_all()
    assert ["note a", "note b"] * 2 == notes()


def test_what_a_task_gave_itself_runs_where_something_below_fails(failing):
    made = own_below.delay(1)
    run_all()
    assert (["SUCCESS"], []) == (statuses(made), notes())
    failing.add(1)
    made = own_below.delay(1)
    run_all()
    assert (["INCOMPLETE"], ["note own"]) == (statuses(made), notes())


def test_each_run_gives_its_own():
    made = own_kept.delay()
    run_due()
    assert (["FAILURE"], ["note of run 2"]) == (statuses(made), notes())
    assert [1, 2] == [kept["run"] for kept in made.errorbacks]


def test_what_a_lost_run_gave_itself():
    @task("errorbacks.lost", atomic=False)
    def lost(cqt):
        cqt.errorback(note, "lost")
        assert 1 == len(Task.objects.get(id=cqt.id).errorbacks)  # before its end: it may have none
        raise BaseException

    made = lost.delay()
    (claimed,) = claim()
    run = execution._Attempt(claimed, "worker", 0)
    run.open()
    execution._call(run)  # and dies
    maintenance.rescue_silent()
    run_all()
    assert (["LOST"], ["note lost"]) == (statuses(made), notes())


# -- Under a parent


def test_the_parent_waits_for_it_and_is_incomplete_all_the_same(failing):
    failing.add(1)

    @task("errorbacks.parent")
    def parent(cqt):
        cqt.subtask(job, 1).errorback(note)

    made = parent.delay()
    for _ in range(2):
        execution.execute(claim()[0])
    (one,) = errorbacks()
    assert (made.id, made.id, 1) == (one.parent_id, one.root_id, one.depth)
    assert ["WAITING", "QUEUED"] == statuses(made, one)
    run_all()
    assert ["INCOMPLETE", "SUCCESS"] == statuses(made, one)
    assert "1 of 2 subtasks did not succeed; first flow.job" in made.error


def test_one_that_fails_itself_has_no_errorback(failing):
    failing.add(1)
    made = job.delay(1).errorback(fails)
    run_all()
    assert ["FAILURE", "FAILURE"] == statuses(made, *errorbacks())
    errorbacks()[0].errorback(note, "of it")
    run_all()
    assert ["note of it"] == notes()


def test_a_member_of_a_group_that_fails_leaves_the_results_in_order(failing):
    failing.add(1)

    made = group(job.s(1), job.s(2)).delay()
    made.subtasks.get(member_no=0).errorback(note)
    run_all()
    assert ("INCOMPLETE", [None, 2], ["note "]) == (renewed(made).status, made.result, notes())


# -- Late


def test_on_a_failed_task_it_runs_now(failing):
    failing.add(1)
    made = job.delay(1)
    run_all()
    assert made is made.errorback(note, "late")
    (one,) = errorbacks()
    assert "QUEUED" == one.status
    run_all()
    assert ["note late"] == notes()
    maintenance.sweep()
    assert 1 == len(errorbacks())


def test_on_a_task_that_ended_otherwise_it_does_not(failing):
    good, revoked = job.delay(1), job.delay(2)
    revoked.revoke()
    run_all()
    for made in (good, revoked):
        made.errorback(note)
    assert [] == errorbacks()


def test_under_a_final_parent_it_is_refused(failing):
    failing.add(1)
    made = fan.delay(1)
    run_all()
    with pytest.raises(ParentFinished):
        made.subtasks.get().errorback(note)
    assert [] == errorbacks()


def test_one_that_is_added_while_the_task_ends_runs(failing):
    failing.add(1)
    made = job.delay(1)
    (claimed,) = claim()  # a snapshot from before it
    made.errorback(note)
    execution.execute(claimed)
    run_all()
    assert ["note "] == notes()
