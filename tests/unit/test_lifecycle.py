"""Every move is guarded: of two who make it one wins, and a run that was overtaken leaves nothing."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import uuid_utils.compat as uuid
from django.db import connection, transaction
from django.db.models import F

from cq import execution, lifecycle, settling, states, task
from cq.exceptions import Fenced
from cq.lifecycle import Outcome
from cq.models import Task
from cq.states import Status
from tests.app.models import Effect
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@task("lifecycle.job")
def job(cqt, x=0):
    Effect.objects.create(name="job", number=x)
    return x


@task("lifecycle.fails", retries=1, retry_delay=0)
def fails(cqt):
    Effect.objects.create(name="fails")
    raise ValueError(len(cqt.attempts))


@task("lifecycle.parent")
def parent(cqt):
    cqt.subtask(job)


forced = job.using(force_chain=True)


def together(*calls):
    """Each in a thread of its own, begun at once. What each returned or raised."""
    found, barrier = [None] * len(calls), threading.Barrier(len(calls))

    def run(number, call):
        barrier.wait()
        try:
            found[number] = call()
        except Exception as error:  # noqa: BLE001
            found[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


# -- The table


def test_the_table_has_a_row_for_every_status_that_is_not_final():
    assert states.ACTIVE == set(states.TRANSITIONS)
    assert set() == states.DONE & set(states.TRANSITIONS)
    reached = {target for row in states.TRANSITIONS.values() for target in row}
    assert set(Status) == reached | states.BIRTH | {Status.REVOKED}  # revoke() comes with its issue


def test_only_queued_can_be_claimed():
    assert {Status.QUEUED} == {
        source for source, row in states.TRANSITIONS.items() if Status.RUNNING in row
    }
    for status in Status:
        made = job.delay()
        Task.objects.filter(id=made.id).update(status=status)
        claimed = claim()
        assert ([made] if status == Status.QUEUED else []) == claimed, status
        Task.objects.all().delete()


def test_a_move_that_is_not_in_the_table_is_refused():
    made = job.delay()
    with pytest.raises(AssertionError, match="PENDING to RUNNING"):
        lifecycle._move(lifecycle.tasks().filter(id=made.id), (Status.PENDING,), Status.RUNNING)


# -- Claim


def test_many_claimers_never_get_one_task_twice():
    made = job.delay_many(range(40))
    found = together(*[lambda: list(iter(lambda: claim(5), []))] * 4)
    for error in found:
        assert isinstance(error, list), error
    ids = [one.id for batches in found for batch in batches for one in batch]
    assert (len(set(ids)), len(ids)) == (40, 40)
    assert {t.id for t in made} == set(ids)
    assert {1} == set(Task.objects.values_list("claim_no", flat=True))


def test_a_claim_says_who_and_which():
    worker = uuid.uuid7()
    made = job.delay()
    (claimed,) = claim(worker=worker)
    row = renewed(made)
    assert (worker, 1, "RUNNING") == (row.worker_id, row.claim_no, row.status)
    assert (worker, 1, "RUNNING", row.started) == (
        claimed.worker_id,
        claimed.claim_no,
        claimed.status,
        claimed.started,
    )


def test_a_claim_takes_no_more_than_it_may_and_only_what_it_knows():
    job.delay_many(range(5))
    assert 3 == len(claim(3))
    assert [] == lifecycle.claim("default", ["other"], 3, uuid.uuid7())
    assert [] == lifecycle.claim("other", ["lifecycle.job"], 3, uuid.uuid7())
    assert 2 == len(claim(3))


# -- The fence


@pytest.mark.parametrize("function", [job, fails])
@pytest.mark.parametrize("how", ["rescued", "rescued and claimed", "another's", "gone"])
def test_a_run_that_was_overtaken_leaves_nothing(function, how):
    made = function.delay()
    (claimed,) = claim()
    row = Task.objects.filter(id=made.id)
    if how.startswith("rescued"):
        lifecycle.rescue(renewed(made))
    if how == "rescued and claimed":
        assert [made] == claim(worker=claimed.worker_id)
    if how == "another's":
        row.update(worker_id=uuid.uuid7())
    if how == "gone":
        row.delete()
    before = row.values().first()
    execution.execute(claimed)
    assert before == row.values().first()
    assert [] == list(Effect.objects.all())


def test_finish_raises_fenced_where_the_run_is_not_its_own():
    job.delay()
    (claimed,) = claim()
    Task.objects.update(claim_no=F("claim_no") + 1)
    with pytest.raises(Fenced):
        lifecycle.finish(claimed, Outcome(status=Status.SUCCESS))


def test_two_ends_of_one_run_are_one():
    job.delay()
    (one,) = claim()
    (other,) = Task.objects.all()
    found = together(
        *[
            lambda run=run: lifecycle.finish(run, Outcome(status=Status.SUCCESS))
            for run in (one, other)
        ]
    )
    assert [Fenced] == [type(error) for error in found if isinstance(error, Exception)]
    assert 1 == len(renewed(one).attempts)


def test_what_was_given_back_was_never_begun():
    made = job.delay()
    claimed = claim()
    assert 1 == lifecycle.give_back(claimed)
    row = renewed(made)
    assert ("QUEUED", None, None, [], 1) == (
        row.status,
        row.started,
        row.worker_id,
        row.attempts,
        row.claim_no,
    )
    assert 0 == lifecycle.give_back(claimed)
    (again,) = claim()
    assert 2 == again.claim_no


def test_a_final_status_never_changes():
    made = job.delay()
    (claimed,) = claim()
    execution.execute(claimed)
    before = Task.objects.filter(id=made.id).values().get()
    execution.execute(claimed)
    lifecycle.give_back([claimed])
    lifecycle.rescue(claimed)
    lifecycle.complete(renewed(made))
    lifecycle.skip(made)
    lifecycle.release(made)
    lifecycle.refuse(made, "no")
    lifecycle.hurry(made)
    settling.settle(made.id)
    assert before == Task.objects.filter(id=made.id).values().get()


# -- A link that comes while the task is ending


def test_a_successor_that_is_added_while_a_task_ends_is_released():
    made = job.delay()
    (claimed,) = claim()  # a snapshot from before the link
    after = made.chain(job, 5)
    execution.execute(claimed)
    assert ["SUCCESS", "QUEUED"] == statuses(made, after)


def test_a_subtask_that_is_added_while_a_task_ends_is_waited_for():
    made = job.delay()
    (claimed,) = claim()
    child = made.subtask(job, 5)
    execution.execute(claimed)
    assert ["WAITING", "QUEUED"] == statuses(made, child)
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, child)


@pytest.mark.vendors("postgresql", "mysql")
def test_links_race_with_ends_and_none_is_forgotten():
    for _ in range(15):
        made = job.delay()
        (claimed,) = claim()
        found = together(
            lambda claimed=claimed: execution.execute(claimed),
            lambda made=made: made.chain(job, 5),
            lambda made=made: made.subtask(job, 6),
        )
        assert "ParentFinished" not in str(found[1])
        run_all()
        assert "SUCCESS" == statuses(made)[0]
        assert 0 == Task.objects.active().count()


@pytest.mark.vendors("postgresql", "mysql")
def test_the_last_of_racing_subtasks_completes_the_parent():
    for _ in range(10):
        made = parent.delay()
        made.subtasks(job, range(3))
        assert 1 == len(claim())  # the parent itself is oldest
        Task.objects.filter(id=made.id).update(status=Status.WAITING)
        claimed = claim(3)
        together(*[lambda one=one: execution.execute(one) for one in claimed])
        assert "SUCCESS" == renewed(made).status


# -- The end


def test_a_failure_keeps_nothing_but_itself():
    made = fails.delay()
    assert 1 == run_all()
    row = renewed(made)
    assert ("RETRY", "ValueError: 0", 1) == (row.status, row.error, row.failures)
    lifecycle.make_due()
    run_all()
    row = renewed(made)
    assert ("FAILURE", "ValueError: 1", 2) == (row.status, row.error, row.failures)
    assert "raise ValueError(len(cqt.attempts))" in row.traceback
    assert [] == list(Effect.objects.all())


def test_what_is_due_becomes_queued_and_nothing_else():
    soon = job.using(run_after=timedelta(seconds=60)).delay()
    later = job.using(run_after=timedelta(hours=1)).delay()
    other = job.using(run_after=timedelta(seconds=60), queue="default").delay()
    assert set() == lifecycle.make_due()
    Task.objects.filter(id__in=[soon.id, other.id]).update(ready_at=F("submitted"))
    assert {"default"} == lifecycle.make_due()
    assert ["QUEUED", "SCHEDULED", "QUEUED"] == statuses(soon, later, other)
    assert set() == lifecycle.make_due()


def test_chains_follow_success_and_are_skipped_after_a_bad_end():
    good, bad = job.delay(), fails.using(retries=0).delay()
    made = [good.chain(job), bad.chain(job), bad.chain(forced)]
    below = made[1].chain(job), made[1].chain(forced)
    run_all()
    assert ["SUCCESS", "SKIPPED", "SUCCESS"] == statuses(*made)
    assert ["SKIPPED", "SUCCESS"] == statuses(*below)


def test_a_successor_waits_for_the_whole_tree_of_its_predecessor():
    made = parent.delay()
    after = made.chain(job)
    (claimed,) = claim()
    execution.execute(claimed)
    assert ["WAITING", "PENDING"] == statuses(made, after)
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)


def test_a_chain_under_a_parent_is_waited_for_by_it():
    made = parent.delay()
    (claimed,) = claim()
    execution.execute(claimed)
    (child,) = made.subtasks.all()
    after = child.chain(job)
    assert made.id == after.parent_id
    execution.execute(claim()[0])
    assert ["WAITING", "SUCCESS", "QUEUED"] == statuses(made, child, after)
    run_all()
    assert ["SUCCESS"] == statuses(made)


def test_subtasks_of_a_run_that_failed_count_no_more():
    runs = []

    @task("lifecycle.not_atomic", atomic=False, retries=1, retry_delay=0)
    def not_atomic(cqt):
        runs.append(cqt.subtask(fails.using(retries=0) if not runs else job))
        if len(runs) == 1:
            raise ValueError

    made = not_atomic.delay()
    execution.execute(claim()[0])
    lifecycle.make_due()
    run_all()
    lifecycle.make_due()
    run_all()
    assert ["SUCCESS"] == statuses(made)
    assert 2 == made.subtasks.count()
    assert (1.0, 1.0) == made.progress[:2]


def test_a_transaction_around_claims_is_none_of_ours():
    with transaction.atomic():
        made = job.delay()
        assert [made] == claim()
    assert "RUNNING" == renewed(made).status
