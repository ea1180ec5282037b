"""`retry()`: what ended badly runs again, with what only followed from that, in whatever shape."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from cq import (
    NotRetryable,
    chain,
    execution,
    group,
    lifecycle,
    maintenance,
    revival,
    scheduling,
    task,
)
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import add, fan, forced, job, kept, note, notes, numbers, total
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("revival.nested")
def nested(cqt, *numbers):
    cqt.subtask(job, 0)
    cqt.subtask(fan, *numbers).chain(job, 8)


@task("revival.returns")
def returns(cqt, how):
    match how:
        case "chain":
            return job.delay(1).then(add, 5)
        case "subtask":
            return cqt.subtask(job, 1)
        case "group":
            return group(job.s(1), job.s(2)).delay()


@task("revival.elsewhere")
def elsewhere(cqt, task_id):
    return Task.objects.get(id=task_id)


@task("revival.fast", fail_fast=True)
def fast(cqt):
    cqt.subtask(job, 1).chain(job, 2).chain(group(job.s(3), chain()))
    cqt.subtask(job, 4).chain(job, 5)
    cqt.subtask(fan.using(priority=5), 6)
    cqt.subtask(job.using(run_after=HOUR), 7)
    cqt.subtask(group(job.s(8)).using(run_after=HOUR))


@task("revival.remakes", atomic=False)
def remakes(cqt):
    cqt.subtask(job, 5)
    cqt.chain(job, 6).chain(forced, 7)
    cqt.errorback(note)
    if not cqt.attempts:
        raise ValueError


@task("revival.remakes_fan", atomic=False)
def remakes_fan(cqt):
    cqt.chain(fan.using(force_chain=True), 1)
    if not cqt.attempts:
        raise ValueError


@task("revival.chains_fan", atomic=False)
def chains_fan(cqt):
    cqt.chain(fan.using(force_chain=True), 1, 2)
    raise ValueError


@task("revival.remakes_secret", atomic=False)
def remakes_secret(cqt):
    cqt.chain(secret_fan.using(force_chain=True), "hush")
    if not cqt.attempts:
        raise ValueError


@task("revival.secret_fan", sensitive=["password"])
def secret_fan(cqt, password):
    cqt.subtask(job, 1)


@task("revival.waits_and_chains")
def waits_and_chains(cqt):
    cqt.subtask(job.using(run_after=HOUR), 5)
    cqt.chain(job, 6)


@task("revival.forces")
def forces(cqt):
    cqt.subtask(job, 1).chain(waits_and_chains.using(force_chain=True))


@task("revival.remakes_two", atomic=False)
def remakes_two(cqt):
    cqt.chain(remakes_fan.using(force_chain=True))
    if not cqt.attempts:
        raise ValueError


@task("revival.parent")
def parent(cqt, name):
    cqt.subtask(name)


@task("revival.secret")
def secret(cqt, password):
    return len(password)


@task("revival.fragile_note")
def fragile_note(cqt, error):
    if not cqt.attempts:
        raise ValueError


def tree(made):
    return list(Task.objects.filter(root_id=made.root_id).order_by("id"))


# -- One task


def test_a_failure_runs_again(failing):
    failing.add(1)
    made = job.using(label="x").delay(1)
    run_all()
    failing.clear()
    assert made is made.retry()
    assert ("QUEUED", "", "", None, 0, 0) == (
        made.status,
        made.error,
        made.traceback,
        made.finished,
        made.failures,
        made.rescues,
    )
    assert made.prune_at is None
    assert 1 == run_all()
    assert (["SUCCESS"], 1, "x") == (statuses(made), made.result, made.label)
    assert ["FAILURE", "SUCCESS"] == [entry["outcome"] for entry in made.attempts]
    assert [1, 2] == [entry["number"] for entry in made.attempts]


def test_its_retries_are_counted_anew():
    @task("revival.never", retries=1, retry_delay=0)
    def never(cqt):
        raise ValueError

    made = never.delay()
    for runs in (2, 4):
        while run_all() or lifecycle.make_due():
            pass
        assert (["FAILURE"], runs, 2) == (statuses(made), len(made.attempts), made.failures)
        made.retry()


def test_a_lost_one_runs_again():
    made = kept.delay(1)
    claim()
    maintenance.rescue_silent()
    assert ["LOST"] == statuses(made)
    made.retry()
    run_all()
    assert (["SUCCESS"], 0) == (statuses(made), made.rescues)


def test_one_that_expired_has_no_end_of_time_any_more():
    made = job.using(expires=60).delay(1)
    Task.objects.filter(id=made.id).update(expires_at=timezone.now() - HOUR)
    run_all()
    assert ["FAILURE"] == statuses(made)
    made.retry()
    run_all()
    assert ["SUCCESS"] == statuses(made)


def test_the_async_form(failing):
    failing.add(1)
    made = job.delay(1)
    run_all()
    assert made is async_to_sync(made.aretry)()
    assert "QUEUED" == made.status


@pytest.mark.parametrize("status", ["SUCCESS", "REVOKED", "SKIPPED", "QUEUED", "gone"])
def test_of_any_other_it_is_an_error(failing, status):
    failing.add(1)
    made = job.delay(1).chain(job, 2) if status == "SKIPPED" else job.delay(2)
    if status == "REVOKED":
        made.revoke()
    if status not in ("QUEUED", "gone"):
        run_all()
    if status == "gone":
        Task.objects.all().delete()
    with pytest.raises(
        NotRetryable, match=rf"is {status}: retry\(\) is for FAILURE, LOST and INCOM"
    ):
        made.retry()


def test_rolled_back_it_was_none(failing):
    failing.add(1)
    made = job.delay(1)
    run_all()
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        made.retry()
        raise ZeroDivisionError
    assert (["FAILURE"], "ValueError: bad 1") == (statuses(made), made.error)


@pytest.mark.vendors("postgresql", "mysql")
def test_of_several_who_retry_one_wins(failing):
    from tests.unit.test_lifecycle import together

    failing.update((1, 2))
    made = fan.delay(1, 2)
    run_all()
    failing.clear()
    found = together(*[lambda: Task.objects.get(id=made.id).retry()] * 4)
    assert 3 == sum(isinstance(one, NotRetryable) for one in found), found
    assert 2 == run_all()
    assert ["SUCCESS"] == statuses(made)


# -- A tree


def test_of_an_incomplete_one_only_what_failed_runs_again(failing):
    failing.update((1, 3))
    made = nested.delay(1, 2, 3)
    after = made.chain(job, 9)
    run_all()
    assert (["INCOMPLETE", "SKIPPED"], [0, 2]) == (statuses(made, after), numbers())
    failing.clear()
    made.retry()
    assert ["WAITING", "PENDING"] == statuses(made, after)
    assert (4, [0, 2, 1, 3, 8, 9]) == (run_all(), numbers())
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)
    assert ("", "") == (made.error, made.traceback)


def test_of_a_failed_subtask_what_was_incomplete_above_it_waits_again(failing):
    failing.add(1)
    made = nested.delay(1, 2)
    after = made.chain(fan, 9)
    run_all()
    failing.clear()
    Task.objects.get(status="FAILURE").retry()
    assert ["WAITING", "PENDING"] == statuses(made, after)
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)
    assert [0, 2, 1, 8, 9] == numbers()


def test_what_failed_again_is_a_failure_again(failing):
    failing.add(1)
    made = nested.delay(1).errorback(note)
    for _ in range(3):
        run_all()
        assert ["INCOMPLETE"] == statuses(made)
        made.retry()
    assert 3 == len(notes())


def test_skipped_successors_of_successors_wait_again_and_run_in_order(failing):
    failing.add(1)
    made = job.delay(1)
    last = made.chain(job, 2).chain(group(job.s(3))).then(total)
    end = last.chain(job, 4)
    run_all()
    assert {"FAILURE", "SKIPPED"} == set(Task.objects.values_list("status", flat=True))
    failing.clear()
    made.retry()
    run_all()
    assert (["SUCCESS", "SUCCESS"], [1, 2, 3, 4], 3) == (
        statuses(last, end),
        numbers(),
        last.result,
    )


def test_a_forced_successor_that_has_run_does_not_again(failing):
    failing.add(1)
    made = job.delay(1)
    run = made.chain(forced, 2)
    run_all()
    failing.clear()
    made.retry()
    run_all()
    assert (["SUCCESS", "SUCCESS"], [2, 1]) == (statuses(made, run), numbers())


def test_one_that_failed_itself_runs_again_after_what_it_is_chained_to(failing):
    failing.update((1, 2))
    made = chain(job.using(priority=-9).s(1), forced.s(2)).delay()
    run_all()
    failing.clear()
    made.retry()
    assert ["QUEUED", "PENDING"] == statuses(*made.subtasks.order_by("member_no"))
    run_all()
    assert (["SUCCESS"], [1, 2]) == (statuses(made), numbers())


def test_a_forced_successor_that_failed_can_run_again_alone(failing):
    failing.update((1, 2))
    made = job.delay(1)
    after = made.chain(forced, 2)
    run_all()
    failing.clear()
    after.retry()
    run_all()
    assert ["FAILURE", "SUCCESS"] == statuses(made, after)


def test_revoked_members_of_an_incomplete_parent_run_again():
    made = fan.delay(1, 2)
    execution.execute(claim()[0])
    one, two = made.subtasks.order_by("id")
    after = one.chain(job, 3)
    one.revoke()
    run_all()
    assert ["INCOMPLETE", "REVOKED", "REVOKED", "SUCCESS"] == statuses(made, one, after, two)
    made.retry()
    assert ["WAITING", "QUEUED", "PENDING"] == statuses(made, one, after)
    run_all()
    assert (["SUCCESS"], [2, 1, 3]) == (statuses(made), numbers())


def test_a_successor_that_was_revoked_alone_runs_at_once(failing):
    made = chain(job.s(1), job.s(2), job.s(3)).delay()
    two = made.subtasks.get(member_no=1)
    two.revoke()
    run_all()
    assert (["INCOMPLETE"], [1]) == (statuses(made), numbers())
    made.retry()
    assert ["QUEUED"] == statuses(two)
    run_all()
    assert (["SUCCESS"], [1, 2, 3], 3) == (statuses(made), numbers(), made.result)


def test_after_fail_fast_all_runs_again_that_was_revoked(failing):
    failing.add(1)
    made = fast.delay()
    execution.execute(claim()[0])
    execution.execute(claim()[0])  # `fan`, which waits when it is revoked
    run_all()
    assert (["INCOMPLETE"], []) == (statuses(made), [n for n in numbers() if n != 6])
    failing.clear()
    made.retry()
    run_all()
    later = made.subtasks.filter(status="SCHEDULED")
    assert (2, 0) == (later.count(), Task.objects.queued().count())  # their time lies ahead
    assert ["WAITING"] == statuses(made)
    Task.objects.scheduled().update(ready_at=timezone.now() - HOUR)
    from cq import scheduling

    scheduling.step()
    run_all()
    assert ["SUCCESS"] == statuses(made)
    assert set(range(1, 9)) == set(numbers())


def test_one_alone_of_a_fail_fast_parent_is_refused(failing):
    failing.add(1)
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    run_all()
    one, two = made.subtasks.order_by("member_no")
    with pytest.raises(
        NotRetryable, match=r"has fail_fast, and other subtasks that did not succeed"
    ):
        one.retry()
    assert ["INCOMPLETE", "FAILURE", "REVOKED"] == statuses(made, one, two)
    # Also while the parent waits for something that was spared.
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    one, two = made.subtasks.order_by("member_no")
    one.chain(forced.using(run_after=HOUR), 5)
    run_all()
    assert ["WAITING", "FAILURE", "REVOKED"] == statuses(made, one, two)
    with pytest.raises(NotRetryable, match="has fail_fast"):
        one.retry()


def test_one_of_a_fail_fast_parent_where_all_others_succeeded(failing):
    failing.add(2)
    made = group(job.s(1), job.s(2)).using(fail_fast=True).delay()
    run_all()
    failing.clear()
    renewed(made.subtasks.get(member_no=1)).retry()
    run_all()
    assert ("SUCCESS", [1, 2]) == (renewed(made).status, made.result)


@pytest.mark.parametrize(("how", "result"), [("chain", 6), ("subtask", 1), ("group", [1, 2])])
def test_what_was_returned_runs_again(failing, how, result):
    failing.add(1)
    made = returns.delay(how)
    after = made.chain(job, 9)
    run_all()
    assert ["INCOMPLETE", "SKIPPED"] == statuses(made, after)
    failing.clear()
    made.retry()
    run_all()
    assert (["SUCCESS", "SUCCESS"], result) == (statuses(made, after), made.result)


@pytest.mark.parametrize("which", ["returner", "returned"])
def test_one_returned_from_elsewhere_and_those_that_returned_it(failing, which):
    failing.add(1)
    top = fan.using(priority=5).delay(1, 2)
    execution.execute(claim()[0])
    other = top.subtasks.order_by("id").first()
    made = elsewhere.delay(str(other.id))
    above = elsewhere.delay(str(made.id))
    run_all()
    assert ["INCOMPLETE"] * 3 == statuses(top, made, above)
    failing.clear()
    (made if which == "returner" else renewed(other)).retry()
    assert ["WAITING"] * 3 == statuses(top, made, above)
    run_all()
    assert ["SUCCESS"] * 3 == statuses(top, made, above)
    assert (1, 1) == (made.result, above.result)


def test_an_errorback_that_failed_runs_again(failing):
    failing.add(1)
    made = group(job.s(1)).delay()
    made.subtasks.get().errorback(fragile_note)
    run_all()
    failing.clear()
    made.retry()
    run_all()
    assert ["SUCCESS"] * 3 == statuses(*tree(made))


@pytest.mark.parametrize("container", [group(), group(job.s(1)), chain(job.s(1), group())])
@pytest.mark.parametrize("how", ["behind", "later"])
def test_containers_that_were_never_filled(container, how):
    @task("revival.unfilled")
    def unfilled(cqt):
        if how == "behind":
            cqt.subtask(job, 0).chain(container)
        else:
            cqt.subtask(container.using(run_after=HOUR))

    made = unfilled.delay()
    execution.execute(claim()[0])
    one = made.subtasks.exclude(container="").get()
    one.revoke()
    if how == "later":  # and now its time has come
        Task.objects.filter(id=one.id).update(run_after=timezone.now() - HOUR)
    run_all()
    assert ["INCOMPLETE", "REVOKED"] == statuses(made, one)
    made.retry()
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, one)
    assert [] == one.members


def test_an_incomplete_one_without_anything_to_run_again_ends_again(failing):
    made = group(job.s(1), job.s(2)).delay()
    made.subtasks.get(member_no=1).revoke()
    run_all()
    made.subtasks.get(member_no=1).delete()
    renewed(made).retry()
    assert (["SUCCESS"], [1]) == (statuses(made), made.result)


# -- Runs that count no more


def test_what_a_failed_run_made_does_not_count_and_is_not_run_again():
    made = parent.delay("revival.remakes")
    run_all()
    assert (["INCOMPLETE"], ["note "]) == (statuses(made), notes())
    assert [7] == numbers()  # forced; the rest went with the run
    made.retry()
    run_all()
    assert (["SUCCESS"], [7, 5, 6, 7]) == (statuses(made), numbers())
    assert 0 == Task.objects.active().count()
    assert ["note "] == notes()


def test_a_forced_successor_that_a_run_made_and_that_is_incomplete_is_made_anew(failing):
    made = parent.delay("revival.remakes_fan")
    failing.add(1)
    run_all()
    assert ["INCOMPLETE", "FAILURE", "INCOMPLETE", "FAILURE"] == statuses(made, *tree(made)[1:])
    failing.clear()
    made.retry()
    run_all()
    assert ["SUCCESS", "SUCCESS", "REVOKED", "FAILURE", "SUCCESS", "SUCCESS"] == statuses(
        *tree(made)
    )
    assert [1] == numbers()


def test_one_that_a_run_made_that_does_not_run_again_is_revived_as_any_other(failing):
    """What returned it is retried, and not what had made it: of the fan only what failed runs again."""
    failing.add(1)
    made = chains_fan.delay()
    run_all()
    other = elsewhere.delay(str(Task.objects.get(previous=made).id))
    run_all()
    failing.clear()
    other.retry()
    run_all()
    assert ["SUCCESS", "FAILURE"] == statuses(other, made)
    assert [2, 1] == numbers()


def test_a_line_of_them_is_made_anew_from_its_first_on(failing):
    """What stands behind what a run had chained is not revived either, not even for a moment."""
    failing.add(1)
    made = parent.delay("revival.remakes_two")
    run_all()
    old = {row.id: row.func_name for row in tree(made)}
    plan = {old[i]: target for i, target in revival._Plan(made.id).targets.items()}
    assert plan == {
        "revival.parent": "WAITING",
        "revival.remakes_two": "QUEUED",
        "revival.remakes_fan": "PENDING",
        "flow.fan": "PENDING",
    }
    failing.clear()
    made.retry()
    run_all()
    assert [1] == numbers()  # by the new fan


def test_the_secrets_of_one_that_is_made_anew_are_not_asked_for(failing):
    failing.add(1)
    made = parent.delay("revival.remakes_secret")
    run_all()
    failing.clear()
    made.retry()
    run_all()
    assert ["SUCCESS"] == statuses(made)


def test_what_one_had_chained_that_waits_to_run_again_is_made_anew_once(failing):
    failing.add(1)
    made = forces.delay()
    run_all()
    Task.objects.get(func_name="revival.waits_and_chains").revoke()
    failing.clear()
    made.retry()
    run_all()
    Task.objects.filter(status="SCHEDULED").update(ready_at=Now())
    scheduling.step()
    run_all()
    assert ["SUCCESS"] == statuses(made)
    assert [1, 5, 6] == numbers()


def test_one_whose_parent_runs_again_is_refused(failing):
    @task("revival.again", atomic=False, retries=1, retry_delay=3600)
    def again(cqt):
        cqt.subtask(job, 1)
        execution.execute(claim()[0])
        raise ValueError

    failing.add(1)
    made = again.delay()
    run_all()
    assert ["RETRY", "FAILURE"] == statuses(made, made.subtasks.get())
    with pytest.raises(NotRetryable, match="above it is RETRY, and does not wait for it"):
        made.subtasks.get().retry()


@pytest.mark.parametrize("status", ["REVOKED", "FAILURE"])
def test_one_under_what_ended_otherwise_is_refused(failing, status):
    failing.add(1)
    made = fan.delay(1, 2)
    run_all()
    Task.objects.filter(id=made.id).update(status=status)
    one = made.subtasks.get(status="FAILURE")
    with pytest.raises(
        NotRetryable, match=f"above it has ended as {status}, and does not wait for"
    ):
        one.retry()
    assert ["FAILURE", status] == statuses(one, made)


# -- What was forgotten


@pytest.mark.parametrize("how", ["own", "member", "errorback"])
def test_what_lost_its_sensitive_arguments_is_refused(failing, how):
    failing.add(1)
    made = job.delay(1)
    if how == "own":
        made.chain(secret, "hunter2")
    elif how == "member":
        made.chain(group(secret.s(password="hunter2")))
    else:
        made.chain(job, 2).errorback(fragile_secret, "hunter2")
    run_all()
    assert "hunter2" not in str(list(Task.objects.values()))
    with pytest.raises(
        NotRetryable, match="was SKIPPED, and its sensitive arguments were forgotten"
    ):
        renewed(made).retry()
    assert {"FAILURE", "SKIPPED"} == set(Task.objects.values_list("status", flat=True))


@task("revival.fragile_secret")
def fragile_secret(cqt, error, password):
    Effect.objects.create(name=f"note {len(password)}")


def test_stars_that_are_no_secret_are_no_hindrance(failing):
    @task("revival.stars")
    def stars(cqt, text):
        if not cqt.attempts:
            raise ValueError

    made = stars.delay("***")
    run_all()
    renewed(made).retry()
    run_all()
    assert ["SUCCESS"] == statuses(made)
