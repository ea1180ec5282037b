"""`revoke()`: at once, with all under it and its successors; and what is found under what is revoked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from cq import Revoked, chain, execution, group, maintenance, task
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import fan, forced, job, kept, note, notes, numbers, total
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("revoking.own")
def own(cqt, whom):
    Effect.objects.create(name="own")
    cqt.subtask(job, 1)
    (cqt.parent if whom == "parent" else cqt).revoke()
    raise AssertionError("it goes on")


@task("revoking.own_kept", atomic=False)
def own_kept(cqt):
    Effect.objects.create(name="own")
    cqt.subtask(job, 1)
    cqt.revoke()


@task("revoking.parent")
def parent(cqt, name, *args):
    cqt.subtask(job, 5)
    cqt.subtask(name, *args).chain(forced, 6)


@task("revoking.other")
def other(cqt, task_id, error=None):
    found = Task.objects.get(id=task_id).revoke()
    if error:
        raise ValueError(error)
    return found


@task("revoking.again", retries=1, retry_delay=3600)
def again(cqt):
    raise ValueError


@task("revoking.deep")
def deep(cqt, levels):
    if levels:
        cqt.subtask(deep, levels - 1)
    cqt.subtask(job, levels).chain(job, levels)


def every_status():
    """A task in each status that is not final."""
    made = {"RUNNING": kept.delay()}
    claim()
    made |= {"WAITING": fan.delay(1), "RETRY": again.delay()}
    for _ in range(2):
        execution.execute(claim()[0])
    made |= {
        "PENDING": made["RUNNING"].chain(job, 2),
        "SCHEDULED": job.using(run_after=HOUR).delay(3),
        "QUEUED": job.delay(4),
    }
    assert list(made) == statuses(*made.values())
    return made


def test_every_status_that_is_not_final_becomes_revoked():
    for made in every_status().values():
        status = made.status
        if status != "PENDING":
            assert made.revoke() is True, status
        assert ["REVOKED"] == statuses(made), status
        assert made.revoke() is False
        assert made.finished is not None
        assert made.prune_at is not None
    assert 0 == Task.objects.active().count()
    assert 0 == run_all()


def test_a_final_one_stays_as_it_is(failing):
    failing.add(1)
    good, bad = job.delay(2), job.delay(1)
    skipped, revoked = bad.chain(job, 3), job.delay(4)
    revoked.revoke()
    run_all()
    expected = ["SUCCESS", "FAILURE", "SKIPPED", "REVOKED"]
    assert expected == statuses(good, bad, skipped, revoked)
    for made in (good, bad, skipped, revoked):
        assert made.revoke() is False
    assert expected == statuses(good, bad, skipped, revoked)


@pytest.mark.parametrize("status", ["WAITING", "PENDING", "SCHEDULED"])
def test_so_do_groups_and_chains(status):
    container = chain if status == "PENDING" else group
    made = container(job.s(1), group(job.s(2)))
    if status == "WAITING":
        made = made.delay()
    elif status == "PENDING":
        made = job.using(run_after=HOUR).delay(0).chain(made)
    else:
        made = made.using(run_after=HOUR).delay()
    after = made.then(total)
    assert [status] == statuses(made)
    assert made.revoke() is True
    assert ["REVOKED", "REVOKED"] == statuses(made, after)
    assert not Task.objects.filter(root=made).exclude(status="REVOKED").exists()
    assert 0 == run_all()


def test_all_under_it_and_its_successors_with_all_under_them():
    made = deep.delay(3)
    made.errorback(note)
    after = made.chain(forced, 7)
    last = after.chain(group(job.s(8)))
    claimed = claim()
    execution.execute(claimed[0])
    execution.execute(claim()[0])
    count = Task.objects.count()
    assert made.revoke() is True
    assert count == Task.objects.revoked().count()
    assert ["REVOKED"] * 3 == statuses(made, after, last)
    assert (0, [], []) == (run_all(), notes(), numbers())


def test_a_successor_that_has_ended_stays_as_it_is(failing):
    failing.add(1)
    made = job.delay(1)
    run = made.chain(forced, 2)
    run_all()
    renewed(made).retry()
    assert made.revoke() is True
    assert ["REVOKED", "SUCCESS"] == statuses(made, run)


def test_what_runs_cannot_commit_any_more():
    made = job.delay(1)
    (claimed,) = claim()
    made.revoke()
    (entry,) = renewed(made).attempts
    assert entry["finished"] > entry["started"]
    assert ("REVOKED", "revoked") == (entry["outcome"], entry["error"])
    execution.execute(claimed)
    assert (["REVOKED"], []) == (statuses(made), numbers())


def test_what_runs_cannot_add_anything_any_more():
    added = []

    @task("revoking.adds", atomic=False)
    def adds(cqt):
        Task.objects.get(id=cqt.id)  # as others see it
        from cq import settling

        settling.revoke(cqt.id)
        for call in (
            lambda: cqt.subtask(job, 1),
            lambda: cqt.subtasks(job, [1]),
            lambda: cqt.chain(job, 1),
            lambda: cqt.errorback(note),
        ):
            with pytest.raises(Revoked):
                call()
            added.append(call)

    made = adds.delay()
    run_all()
    assert (4, 1, ["REVOKED"]) == (len(added), Task.objects.count(), statuses(made))


def test_its_parent_and_what_returned_it_are_incomplete():
    made = fan.delay(1, 2)
    execution.execute(claim()[0])

    @task("revoking.returns")
    def returns(cqt):
        return made.subtasks.order_by("id").first()

    waits = returns.using(priority=5).delay()
    execution.execute(claim()[0])
    made.subtasks.order_by("id").first().revoke()
    assert ["WAITING", "INCOMPLETE"] == statuses(made, waits)
    run_all()
    assert ["INCOMPLETE", "INCOMPLETE"] == statuses(made, waits)
    assert [2] == numbers()


# -- From inside


def test_a_task_that_revokes_itself_leaves_nothing_else():
    made = own.delay("itself")
    after = made.chain(forced, 2)
    run_all()
    assert ["REVOKED", "REVOKED"] == statuses(made, after)
    assert (2, 0) == (Task.objects.count(), Effect.objects.count())


def test_a_non_atomic_one_leaves_what_it_did_and_its_subtasks_revoked():
    made = own_kept.delay()
    run_all()
    assert ["REVOKED", "REVOKED"] == statuses(made, made.subtasks.get())
    assert ["own"] == list(Effect.objects.values_list("name", flat=True))


def test_a_task_may_revoke_what_is_above_it():
    made = parent.delay("revoking.own", "parent")
    execution.execute(claim()[0])
    waiting, running, after = made.subtasks.order_by("id")
    Task.objects.filter(id=running.id).update(priority=1)
    run_all()
    assert ["REVOKED"] * 4 == statuses(made, waiting, running, after)
    assert (4, 0) == (Task.objects.count(), Effect.objects.count())


def test_a_revoke_of_another_commits_with_the_task():
    made = job.using(priority=-5).delay(1)
    run = other.delay(str(made.id), "so not")
    execution.execute(claim()[0])
    assert ["FAILURE", "QUEUED"] == statuses(run, made)
    run = other.delay(str(made.id))
    execution.execute(claim()[0])
    assert ["SUCCESS", "REVOKED"] == statuses(run, made)
    assert run.result is True


def test_rolled_back_it_was_none():
    made = job.delay(1)
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        made.revoke()
        raise ZeroDivisionError
    assert ["QUEUED"] == statuses(made)


@pytest.mark.parametrize("whom", [job, fan])
def test_the_async_form(whom):
    made = whom.delay(1)
    assert async_to_sync(made.arevoke)() is True
    assert async_to_sync(made.arevoke)() is False
    assert ["REVOKED"] == statuses(made)


# -- What is found under a revoked one


def revoked_alone():
    """A tree of which only the top is REVOKED yet, as whoever revokes it is not done."""
    made = fan.delay(1, 2)
    execution.execute(claim()[0])
    made.subtasks.order_by("id").first().chain(job, 3)
    Task.objects.filter(id=made.id).update(status="REVOKED")
    return made


def test_at_claim_it_is_revoked_and_not_run():
    made = revoked_alone()
    claimed = claim(2)
    for one in claimed:
        execution.execute(one)
    assert {"REVOKED"} == set(statuses(*made.subtasks.all()))
    assert [] == numbers()


def test_the_sweep_revokes_it():
    made = revoked_alone()
    (running,) = claim()
    maintenance.sweep(rescues=False)
    assert ["REVOKED"] * 3 == statuses(*made.subtasks.all())
    execution.execute(running)
    assert (["REVOKED"] * 3, []) == (statuses(*made.subtasks.all()), numbers())


def test_deeper_levels_too():
    made = deep.delay(4)
    for _ in range(4):
        execution.execute(claim()[0])
    Task.objects.filter(id=made.id).update(status="REVOKED")
    maintenance.sweep()
    assert 0 == Task.objects.active().count()


def test_a_large_tree_is_revoked(django_assert_max_num_queries):
    made = group(*(job.s(n) for n in range(1200))).delay()
    with django_assert_max_num_queries(80):
        made.revoke()
    assert 1201 == Task.objects.revoked().count()


# -- Races


@pytest.mark.vendors("postgresql", "mysql")
def test_revoke_races_with_ends_and_additions():
    from tests.unit.test_lifecycle import together

    for number in range(12):
        made = fan.delay(1, 2, 3)
        execution.execute(claim()[0])
        after = made.chain(forced, 4)
        claimed = claim(3)
        calls = [lambda one=one: execution.execute(one) for one in claimed]
        found = together(*calls, made.revoke, lambda made=made: made.subtask(job, 5))
        assert found[3] in (True, False), (number, found)
        run_all()
        maintenance.sweep()
        assert 0 == Task.objects.active().count()
        revoked = "REVOKED" == statuses(made)[0]
        assert revoked is found[3]
        assert ["REVOKED" if revoked else "SUCCESS"] == statuses(after)
        Task.objects.all().delete()
