"""Whole workflows by a worker, by CQ_SERIAL and by a direct call: one meaning, the same results and effects."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cq import Revoked, TaskFailed, chain, group, lifecycle, task
from cq.exceptions import NotRetryable, ParentFinished, TooDeep
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import add, add_to_previous, fan, forced, job, kept, note, notes, total
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

WAYS = ("worker", "serial", "direct")
HOUR = timedelta(hours=1)
programs = {}


def program(expected, *effects, status="SUCCESS", fails=(), function=None, **options):
    """A task function with what it comes to: its result, or the error of a direct call; what was done."""

    def add_program(function):
        name = function.__name__
        made = task(f"three.{name}", **options)(function)
        programs[name] = (made, expected, list(effects), status, set(fails))
        return made

    return add_program


@program([1, [2, 7], None], "job 1", "job 2")
def nested_containers(cqt):
    return cqt.subtask(
        group(
            job.s(1),
            group(job.s(2), chain(add.s(1), add_to_previous.s(5))),
            chain(group(), chain()),
        )
    )


@program(9, "job 4", "job 5")
def fan_in(cqt):
    return cqt.subtask(group(job.s(4), job.s(5))).then(total)


@program(9, "job 4", "job 5")
def returned_containers(cqt):
    return group(job.s(4), job.s(5)).delay().then(total)


@program([], "job 3")
def empty_containers(cqt):
    cqt.subtask(job, 3).chain(group())
    return group().delay()


@program(["a", "b"], "kept 1", "job 2", "job 3", "job 4", "job 5", "job 6")
def the_order_of_a_chain(cqt):
    first = cqt.subtask(kept, 1)
    first.chain(fan, 2, 3).chain(group(job.s(4))).chain(job, 5).chain(job, 6)
    return ["a", "b"]


@program(TaskFailed, "job 1", "job 3", status="INCOMPLETE", fails=[2])
def a_failed_member(cqt):
    return group(job.s(1), job.s(2), job.s(3)).delay()


@program(TaskFailed, "job 1", "job 3", "job 9", "total 4", status="INCOMPLETE", fails=[2])
def a_forced_fan_in(cqt):
    made = cqt.subtask(group(job.s(1), job.s(2), job.s(3)))
    made.chain(job, 8)
    made.then(noted_total.using(force_chain=True)).chain(job, 9)
    return "made"


@task("three.noted_total")
def noted_total(cqt, numbers):
    Effect.objects.create(name=f"total {sum(n or 0 for n in numbers)}")


@program(TaskFailed, "note top", "note sub", "job 5", status="INCOMPLETE", fails=[2])
def errorbacks(cqt):
    cqt.errorback(note, "top")
    cqt.subtask(job, 2).errorback(note, "sub").chain(forced, 5)


@program(ValueError, "note own", status="FAILURE", fails=[])
def its_own_errorback(cqt):
    cqt.errorback(note, "own")
    cqt.subtask(job, 1)
    raise ValueError("own")


@program(TaskFailed, "note late", status="INCOMPLETE", fails=[2])
def a_late_errorback(cqt):
    cqt.subtask(job, 2).chain(adds_late.using(force_chain=True))


@task("three.adds_late")
def adds_late(cqt):
    cqt.previous.errorback(note, "late")


@program(TaskFailed, "job 1", "job 4", "note ", status="INCOMPLETE", fails=[2], fail_fast=True)
def fails_fast(cqt):
    cqt.subtask(job, 1)
    two = cqt.subtask(job, 2).errorback(note)
    two.chain(forced, 4)
    cqt.subtask(group(job.s(3))).chain(job, 5)


@program(TaskFailed, "job 1", status="INCOMPLETE", fails=[2])
def a_group_that_fails_fast(cqt):
    cqt.subtask(group(job.s(1), job.s(2), job.s(3)).using(fail_fast=True))


@program(Revoked, status="REVOKED")
def revokes_itself(cqt):
    cqt.subtask(job, 1)
    cqt.chain(forced, 2)
    cqt.errorback(note)
    cqt.revoke()


@program(TaskFailed, "job 2", status="INCOMPLETE")
def revokes_another(cqt):
    one = cqt.subtask(group(job.s(1)))
    one.chain(forced, 3)
    cqt.subtask(job, 2)
    assert one.revoke() is True


@program(TaskFailed, status="REVOKED")
def is_revoked_from_below(cqt):
    cqt.errorback(note)
    cqt.chain(forced, 3)
    cqt.subtask(revokes_above)
    cqt.subtask(job, 2)


@task("three.revokes_above")
def revokes_above(cqt):
    Effect.objects.create(name="never")
    cqt.parent.revoke()


@program("top", "job 1", "job 2", "job 3")
def chained_from_below(cqt):
    cqt.subtask(chains_above)
    cqt.subtask(job, 1)
    return "top"


@task("three.chains_above")
def chains_above(cqt):
    cqt.parent.chain(job, 3)
    cqt.parent.subtask(job, 2)


@program(3, "job 3")
def retries_below(cqt):
    return cqt.subtask(third)


@task("three.third", retries=3, retry_delay=0)
def third(cqt):
    Effect.objects.create(name="job", number=cqt.failures + 1)
    cqt.errorback(note)
    if cqt.failures < 2:
        raise ValueError
    return cqt.failures + 1


@program(TaskFailed, "kept 1", "kept 1", "kept 1", "job 7", "note 3", status="INCOMPLETE")
def retries_of_what_is_not_atomic(cqt):
    cqt.subtask(never)


@task("three.never", atomic=False, retries=2, retry_delay=0)
def never(cqt):
    cqt.subtask(job, 5)
    cqt.chain(job, 6).chain(forced, 7)
    cqt.errorback(note, str(cqt.failures + 1))
    kept.delay(1)
    raise ValueError("never")


@program("depth", "job 50")
def a_long_chain(cqt):
    cqt.subtask(link, 50)
    return "depth"


@task("three.link")
def link(cqt, left):
    if left == 1:
        cqt.chain(job, 50)
    else:
        cqt.chain(link, left - 1)


@program(TaskFailed, status="INCOMPLETE")
def a_final_parent(cqt):
    cqt.subtask(job_of_nobody).chain(adds_to_previous)


@task("three.nobody")
def job_of_nobody(cqt): ...


@task("three.adds_to_previous")
def adds_to_previous(cqt):
    cqt.previous.subtask(job, 1)


@program(RuntimeError, status="FAILURE")
def waits_for_what_it_made(cqt):
    cqt.subtask(job, 1).wait(timeout=1)


@program(TaskFailed, "job 1", status="INCOMPLETE")
def is_given_a_bad_result(cqt):
    cqt.subtask(job, 1)
    cqt.subtask(object_as_result)


@task("three.object")
def object_as_result(cqt):
    return object()


def effects():
    found = Effect.objects.order_by("id").values_list("name", "number")
    return sorted(f"{name} {number}" if name in ("job", "kept") else name for name, number in found)


def worked_off():
    while run_all() or lifecycle.make_due():
        pass


def done_by(way, function, settings, args=()):
    """Its result or error, and its status."""
    if way == "direct":
        try:
            return function(*args), None
        except BaseException as error:  # noqa: BLE001
            return type(error), None
        finally:
            assert 0 == Task.objects.count()
    settings.CQ_SERIAL = way == "serial"
    made = function.delay(*args)
    if way == "worker":
        worked_off()
    assert 0 == Task.objects.active().count()
    assert way == "worker" or made.is_done
    return renewed(made).result, made.status


@pytest.mark.parametrize("name", programs)
def test_a_whole_workflow(name, settings, failing):
    function, expected, wanted, status, fails = programs[name]
    failing.update(fails)
    for way in WAYS:
        Task.objects.all().delete()
        Effect.objects.all().delete()
        result, found = done_by(way, function, settings)
        assert sorted(wanted) == effects(), way
        assert found == (None if way == "direct" else status), way
        if way == "direct" or status == "SUCCESS":
            assert expected == result, way


@pytest.mark.parametrize("way", WAYS)
def test_successors_run_once_all_is_done(way, settings):
    order = []

    @task("three.ordered")
    def ordered(cqt, name):
        order.append(name)
        if name == "top":
            cqt.chain(ordered, "after").chain(ordered, "last")
            cqt.subtask(ordered, "below").chain(ordered, "beside")

    done_by(way, ordered, settings, ["top"])
    assert ["top", "below", "beside", "after", "last"] == order


@pytest.mark.parametrize("way", WAYS)
def test_the_error_that_an_errorback_is_told(way, settings, failing):
    told = []

    @task("three.told")
    def told_of(cqt, error):
        told.append((error["type"], error["message"], cqt.previous.status))

    @task("three.tells")
    def tells(cqt):
        cqt.errorback(told_of)
        cqt.subtask(job, 1).errorback(told_of)

    failing.add(1)
    done_by(way, tells, settings)
    assert ("ValueError", "bad 1", "FAILURE") == told[0]
    assert ("INCOMPLETE", "INCOMPLETE") == (told[1][0], told[1][2])
    assert "bad 1" in told[1][1]


# -- A direct call


def test_very_long_chains_and_many_subtasks_run_by_a_direct_call():
    count = []

    @task("three.counted", atomic=False)
    def counted(cqt, left):
        count.append(left)
        if left > 0:
            cqt.chain(counted, left - 1)
        elif left == 0:
            cqt.subtasks(counted, [-1] * 3000)

    counted(2000)
    assert 5001 == len(count)


def test_too_deep_is_an_error_of_a_direct_call_too(settings):
    @task("three.deeper")
    def deeper(cqt, how):
        if how == "returned":
            return deeper.delay(how)
        return cqt.subtask(deeper, how) and None

    settings.CQ_MAX_DEPTH = 5
    for how in ("returned", "subtask"):
        with pytest.raises(TaskFailed, match="would be 6 levels below its top task") as caught:
            deeper(how)
        assert isinstance(caught.value.__cause__, TooDeep)


def test_what_a_direct_call_made_cannot_be_retried(failing):
    @task("three.asks_for_retry")
    def asks(cqt):
        with pytest.raises(NotRetryable, match="has no row: call it again"):
            cqt.subtask(job, 1).retry()

    asks()


def test_a_direct_call_may_do_something_to_a_row(failing):
    @task("three.acts")
    def acts(cqt, what, task_id):
        made = Task.objects.get(id=task_id)
        match what:
            case "revoke":
                assert made.revoke() is True
            case "retry":
                made.retry()
            case "subtask":
                made.subtask(job, 7)
            case "chain":
                made.chain(group(job.s(7)))
            case "errorback":
                made.errorback(note)

    failing.add(1)
    made = job.delay(1)
    acts("errorback", str(made.id))
    acts("chain", str(made.id))
    acts("subtask", str(made.id))
    run_all()
    after = Task.objects.get(container="group")
    assert (["FAILURE", "SKIPPED"], ["note "]) == (statuses(made, after), notes())
    failing.clear()
    acts("retry", str(made.id))
    run_all()
    assert (["SUCCESS"], 3) == (statuses(made), Effect.objects.filter(name="job").count())
    with pytest.raises(ParentFinished):
        acts("subtask", str(made.id))
    made = group(job.s(1)).delay()
    acts("revoke", str(made.subtasks.get().id))
    assert ["INCOMPLETE"] == statuses(made)


def test_a_direct_call_may_return_a_task_with_a_row(settings):
    @task("three.returns_row")
    def returns_row(cqt, task_id):
        return Task.objects.get(id=task_id)

    made = job.delay(7)
    run_all()
    assert 7 == returns_row(str(made.id))


# -- CQ_SERIAL


def test_retry_under_serial(settings, failing):
    settings.CQ_SERIAL = True
    failing.add(2)
    made = chain(group(job.s(1), job.s(2)), job.s(3)).delay()
    after = made.chain(job, 4)
    assert ("INCOMPLETE", "SKIPPED") == (made.status, after.status)
    failing.clear()
    assert made is made.retry()
    assert ("SUCCESS", 3) == (made.status, made.result)
    assert ["SUCCESS"] == statuses(after)
    assert ["job 1", "job 2", "job 3", "job 4"] == effects()


def test_revoke_and_late_additions_under_serial(settings, failing):
    settings.CQ_SERIAL = False
    waiting = group(job.s(1), job.s(2)).delay()
    settings.CQ_SERIAL = True
    after = waiting.chain(forced, 3)
    assert ("PENDING", True) == (after.status, waiting.revoke())
    assert ["REVOKED", "REVOKED"] == statuses(waiting, after)
    failing.add(5)
    assert "FAILURE" == job.delay(5).errorback(note).status
    assert ["note "] == notes()
    made = group().delay()
    assert (["SUCCESS"], 6) == (statuses(made), made.chain(chain(job.s(6))).result)


def test_what_waits_for_its_time_runs_at_once_under_serial(settings):
    settings.CQ_SERIAL = True
    made = group(job.using(run_after=HOUR).s(1), job.s(2)).using(run_after=HOUR).delay()
    assert ("SUCCESS", [1, 2]) == (made.status, made.result)
    assert [] == claim()
