"""The sweep: each of its steps mends one thing, can be taken at any time, and twice."""

from __future__ import annotations

from datetime import timedelta

import pytest
import uuid_utils.compat as uuid
from django.db import OperationalError
from django.db.models import F
from django.db.models.functions import Now

from cq import execution, lifecycle, maintenance, task
from cq.models import LogLine, Task, Worker
from cq.states import Status
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("maintenance.job")
def job(cqt, x=0):
    return x


@task("maintenance.not_atomic", atomic=False)
def not_atomic(cqt): ...


@task("maintenance.rerun", atomic=False, rerun_lost=True)
def rerun(cqt): ...


@task("maintenance.parent")
def parent(cqt, *items):
    cqt.subtasks(job, items)


def worker(seen=timedelta(0)):
    made = Worker.objects.create(
        id=uuid.uuid7(), host="h", pid=1, queues=["default"], functions=["maintenance.job"]
    )
    Worker.objects.filter(id=made.id).update(seen=Now() - seen)
    return made


def hours_ago(made, **fields):
    Task.objects.filter(id=made.id).update(**{name: F("submitted") - HOUR for name in fields})


# -- Rescue


def test_tasks_of_a_silent_worker_are_taken_back_and_those_of_a_living_one_are_not():
    made = job.delay_many(range(3))
    living, silent = worker(), worker(seen=HOUR)
    for who in (living.id, silent.id, uuid.uuid7()):  # the last has no row at all
        assert 1 == len(claim(1, worker=who))
    assert 2 == maintenance.rescue_silent()
    assert ["RUNNING", "QUEUED", "QUEUED"] == statuses(*made)
    assert 0 == maintenance.rescue_silent()


def test_a_rescue_keeps_what_happened():
    made = job.delay()
    claim()
    maintenance.rescue_silent()
    row = renewed(made)
    assert (1, 1, None, None, 0) == (
        row.rescues,
        row.claim_no,
        row.worker_id,
        row.started,
        row.failures,
    )
    assert [("QUEUED", "its worker died")] == [(e["outcome"], e["error"]) for e in row.attempts]


def test_what_may_run_again_does_and_other_is_lost():
    made = [f.delay() for f in (job, rerun, not_atomic)]
    after = made[2].chain(job)
    claim(3)
    assert 3 == maintenance.rescue_silent()
    assert ["QUEUED", "QUEUED", "LOST", "SKIPPED"] == statuses(*made, after)
    assert "may not simply run again" in made[2].error


def test_the_third_death_is_a_failure():
    made = job.delay()
    for _ in range(3):
        assert 1 == len(claim())
        maintenance.rescue_silent()
    row = renewed(made)
    assert ("FAILURE", 3, 3) == (row.status, row.rescues, len(row.attempts))
    assert "its worker died 3 times" in row.error


def test_sweep_without_rescues_leaves_running_tasks_alone():
    made = job.delay()
    claim()
    maintenance.sweep(rescues=False)
    assert ["RUNNING"] == statuses(made)
    maintenance.sweep()
    assert ["QUEUED"] == statuses(made)


# -- Settle


def test_a_parent_whose_last_subtask_told_nobody_is_completed():
    made = parent.delay(1)
    top = made.chain(job)
    execution.execute(claim()[0])
    child = made.subtasks.get()
    lifecycle.finish(claim()[0], lifecycle.Outcome(status=Status.SUCCESS))  # and dies
    assert ["WAITING", "SUCCESS", "PENDING"] == statuses(made, child, top)
    maintenance.settle_unsettled()
    assert ["SUCCESS", "SUCCESS", "QUEUED"] == statuses(made, child, top)
    assert 0 == maintenance.settle_unsettled()


def test_a_successor_that_was_not_released_is():
    made, bad = job.delay(), job.delay()
    after, skipped = made.chain(job), bad.chain(job)
    below = skipped.chain(job)
    Task.objects.filter(id=made.id).update(status=Status.SUCCESS)
    Task.objects.filter(id=bad.id).update(status=Status.FAILURE)
    maintenance.sweep()
    assert ["QUEUED", "SKIPPED", "SKIPPED"] == statuses(after, skipped, below)


def test_a_task_whose_returned_task_has_ended_gets_its_result():
    other = job.delay(5)

    @task("maintenance.returns")
    def returns(cqt):
        return Task.objects.get(id=other.id)

    made = returns.using(priority=9).delay()
    execution.execute(claim()[0])
    assert ["WAITING", "QUEUED"] == statuses(made, other)
    lifecycle.finish(claim()[0], lifecycle.Outcome(status=Status.SUCCESS, result=5))
    maintenance.sweep()
    assert (["SUCCESS"], 5) == (statuses(made), made.result)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_successor_of_what_was_deleted_goes_on(dangling):
    made = job.delay()
    after, forced = made.chain(job), made.chain(job.using(force_chain=True))
    below = after.chain(job)
    if dangling:
        Task.objects.filter(id=made.id)._raw_delete("default")
    else:
        made.delete()
    maintenance.sweep()
    assert ["SKIPPED", "SKIPPED", "QUEUED"] == statuses(after, below, forced)
    assert 0 == maintenance.settle_unsettled()


def test_subtasks_of_an_older_run_keep_no_parent_from_its_end_and_are_revoked():
    made = parent.delay(1)
    execution.execute(claim()[0])
    Task.objects.filter(id=made.id).update(claim_no=2)
    assert ["WAITING"] == statuses(made)
    maintenance.sweep()
    assert ["SUCCESS", "REVOKED"] == statuses(made, made.subtasks.get())


def returns(made, other):
    Task.objects.filter(id=made.id).update(status=Status.WAITING, returned=other.id)
    Task.objects.filter(id=other.id).update(linked=True)


def test_of_tasks_that_returned_each_other_the_first_fails():
    one, two = job.delay(), job.delay()
    after = one.chain(job)
    returns(one, two)
    returns(two, one)
    maintenance.sweep()
    assert ["FAILURE", "INCOMPLETE", "SKIPPED"] == statuses(one, two, after)
    assert "it returned a task that waits for it" == one.error


def test_a_ring_may_go_over_a_subtask_and_a_successor():
    one, two = parent.delay(1), job.delay()
    execution.execute(claim()[0])
    below, after = one.subtasks.get(), two.chain(job)
    returns(below, after)  # `after` waits for `two`, that for `one`, that for `below`
    returns(two, one)
    assert 1 == maintenance.break_rings()
    assert ["INCOMPLETE", "FAILURE", "INCOMPLETE", "SKIPPED"] == statuses(one, two, below, after)


def test_what_waits_for_a_task_that_may_still_end_is_no_ring():
    one, two, three = job.delay(), job.delay(), parent.delay(1)
    returns(one, two)
    returns(two, three)
    assert 0 == maintenance.break_rings()
    Task.objects.filter(id=three.id).update(status=Status.WAITING, claim_no=2)
    old = three.subtask(job)
    Task.objects.filter(id=old.id).update(parent_run=1)  # `three` does not wait for it
    returns(old, three)
    assert 0 == maintenance.break_rings()


# -- Refuse


def test_what_expired_is_refused_and_its_successors_told():
    made = job.using(expires=60).delay()
    after, forced = made.chain(job), made.chain(job.using(force_chain=True))
    assert 0 == maintenance.refuse_unrunnable()
    hours_ago(made, expires_at=1)
    assert 1 == maintenance.refuse_unrunnable()
    assert ["FAILURE", "SKIPPED", "QUEUED"] == statuses(made, after, forced)
    assert ("expired before it began", [], 0) == (made.error, made.attempts, made.failures)


def test_what_no_worker_knows_is_refused_after_the_grace():
    known, unknown, young = job.delay(), job.delay(), job.delay()
    worker()
    Task.objects.filter(id__in=[unknown.id, young.id]).update(func_name="maintenance.gone")
    hours_ago(known, ready_at=1)
    hours_ago(unknown, ready_at=1)
    assert 1 == maintenance.refuse_unrunnable()
    assert ["QUEUED", "FAILURE", "QUEUED"] == statuses(known, unknown, young)
    assert "unknown task 'maintenance.gone': no worker has it" in unknown.error
    assert "it waited for 300 s" in unknown.error


def test_what_a_silent_worker_knows_counts_no_more():
    made = job.delay()
    Task.objects.update(func_name="maintenance.gone")
    silent = worker(seen=HOUR)
    Worker.objects.filter(id=silent.id).update(functions=["maintenance.gone"])
    worker()
    hours_ago(made, ready_at=1)
    maintenance.refuse_unrunnable()
    assert ["FAILURE"] == statuses(made)


def test_without_a_living_worker_nothing_is_refused_as_unknown():
    made, gone = job.delay(), job.delay()
    Task.objects.filter(id=gone.id).update(func_name="maintenance.gone")
    worker(seen=HOUR)
    hours_ago(made, ready_at=1)
    hours_ago(gone, ready_at=1)
    assert 0 == maintenance.refuse_unrunnable()
    assert ["QUEUED", "QUEUED"] == statuses(made, gone)


def test_what_the_sweeping_process_knows_is_not_refused_because_others_do_not():
    made = not_atomic.delay()
    worker()  # knows maintenance.job alone
    hours_ago(made, ready_at=1)
    assert 0 == maintenance.refuse_unrunnable()


# -- Prune


def test_each_end_says_how_long_it_is_kept(settings):
    settings.CQ_RESULT_TTL, settings.CQ_FAILURE_TTL = 3600, 7200
    good, bad, own = job.delay(), not_atomic.delay(), job.using(result_ttl=60).delay()
    kept = job.using(result_ttl=None).delay()
    Task.objects.filter(id=bad.id).update(func_name="maintenance.raises")

    @task("maintenance.raises")
    def raises(cqt):
        raise ValueError

    run_all()
    renewed(good, bad, own, kept)
    found = [one.prune_at and one.prune_at - one.finished for one in (good, bad, own, kept)]
    assert [HOUR, 2 * HOUR, timedelta(seconds=60), None] == [
        one and timedelta(seconds=round(one.total_seconds())) for one in found
    ]


def test_a_tree_goes_with_its_top_task_and_its_lines():
    made = parent.delay(1, 2, 3)
    other = job.delay()
    run_all()
    LogLine.objects.create(root=made, origin=made.id, level=20, message="x", timestamp="2026")
    assert 0 == maintenance.prune()
    hours_ago(made, prune_at=1)
    maintenance.prune()
    assert [other] == list(Task.objects.all())
    assert 0 == LogLine.objects.count()
    assert 0 == maintenance.prune()


def test_what_somebody_still_needs_is_kept():
    made = job.delay()
    after = made.chain(job.using(run_after=HOUR))
    run_all()
    hours_ago(made, prune_at=1)
    assert 0 == maintenance.prune()
    assert ["SUCCESS", "SCHEDULED"] == statuses(made, after)
    Task.objects.filter(id=after.id).update(status=Status.SUCCESS)
    assert 1 == maintenance.prune()
    assert None is renewed(after).previous_id


def test_more_than_a_page_is_pruned_at_once_but_not_for_ever(monkeypatch):
    def ended(number):
        Task.objects.bulk_create(
            Task(func_name="maintenance.job", status=Status.SUCCESS) for _ in range(number)
        )
        Task.objects.update(root=F("id"), prune_at=F("submitted") - HOUR)

    ended(maintenance.PAGE + 5)
    assert maintenance.PAGE + 5 == maintenance.prune()
    ended(maintenance.PAGE + 5)
    monkeypatch.setattr(maintenance, "PRUNING", 0)
    assert maintenance.PAGE == maintenance.prune()


def test_an_active_task_is_never_pruned():
    made = job.delay()
    hours_ago(made, prune_at=1)
    assert 0 == maintenance.prune()
    assert ["QUEUED"] == statuses(made)


def test_rows_of_workers_long_gone_go():
    living, stopped, gone = worker(), worker(seen=timedelta(minutes=50)), worker(seen=2 * HOUR)
    maintenance.sweep()
    assert {living.id, stopped.id} == set(Worker.objects.values_list("id", flat=True))
    assert gone.id is not None


def test_a_bad_row_keeps_nobody_from_the_others(caplog):
    bad, good = parent.delay(1), parent.delay(1)
    lost, found = job.using(priority=9).delay(), job.using(priority=9).delay()
    claim(2)
    for _ in range(2):
        execution.execute(claim()[0])
    for _ in range(2):
        lifecycle.finish(claim()[0], lifecycle.Outcome(status=Status.SUCCESS))
    Task.objects.filter(id=bad.id).update(options={"sensitive": 5})
    Task.objects.filter(id=lost.id).update(attempts=5)
    maintenance.sweep()
    assert ["RUNNING", "QUEUED", "WAITING", "SUCCESS"] == statuses(lost, found, bad, good)
    for one in (bad, lost):
        assert f"the sweep goes on without the task {one.id}" in caplog.text


def test_a_bad_step_keeps_nobody_from_the_next(caplog):
    made = job.delay()
    run_all()
    hours_ago(made, prune_at=1)
    living = worker()
    Worker.objects.filter(id=living.id).update(functions=5)
    maintenance.sweep()
    assert not Task.objects.exists()
    assert "the sweep goes on without the step refuse_unrunnable" in caplog.text


def test_an_outage_ends_the_sweep(monkeypatch):
    def away():
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(maintenance, "settle_unsettled", away)
    with pytest.raises(OperationalError):
        maintenance.sweep()


def test_the_sweep_goes_past_what_cannot_be_helped():
    stuck = [parent.delay(1) for _ in range(3)]
    for _ in stuck:
        execution.execute(claim()[0])
    for _ in range(2):
        maintenance.sweep()
    assert ["WAITING"] * 3 == statuses(*stuck)
    run_all()
    assert ["SUCCESS"] * 3 == statuses(*stuck)
