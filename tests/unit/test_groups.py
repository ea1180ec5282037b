"""Groups and chains: one task over its members, which ends when they have."""

from __future__ import annotations

from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.utils import timezone

from cq import chain, group, scheduling, task
from cq.exceptions import InvalidCall, InvalidOption, NotSerializable, TooDeep, UnknownQueue
from cq.models import Task
from tests.unit.flow import add, add_to_previous, fan, job, note, numbers, total
from tests.unit.running import claim, renewed, run_all, statements, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("groups.makes")
def makes(cqt, how):
    members = group(add.s(1), chain(add.s(2), add_to_previous.s(5)))
    match how:
        case "subtask":
            return str(cqt.subtask(members).id)
        case "returned":
            return members.delay()
        case "returned subtask":
            return cqt.subtask(members)
        case "returned chain":
            return members.delay().then(total)
        case "chained":
            return str(cqt.chain(members).id)


def due(made):
    Task.objects.filter(id=made.id).update(ready_at=timezone.now() - HOUR)
    scheduling.step()


# -- Results


def test_the_result_of_a_group_is_the_list_in_order_whoever_ends_first():
    made = group(*(job.using(priority=p).s(p) for p in (-5, 0, 5))).delay()
    run_all()
    assert ([5, 0, -5], "SUCCESS", [-5, 0, 5]) == (numbers(), *_end(made))


def _end(made):
    return renewed(made).status, made.result


def test_none_stands_where_a_member_failed(failing):
    failing.add(2)
    made = group(job.s(1), job.s(2), job.s(3), group(job.s(4), job.s(2))).delay()
    run_all()
    assert ("INCOMPLETE", [1, None, 3, None]) == _end(made)
    assert made.error.startswith("2 of 4 subtasks did not succeed; first ")
    assert "ValueError: bad 2" in made.error


@pytest.mark.parametrize(("empty", "result"), [(group(), []), (chain(), None)])
def test_nothing_in_it_is_a_success(empty, result):
    made = empty.delay()
    assert ("SUCCESS", result) == (made.status, made.result)
    assert ("SUCCESS", result) == _end(made)
    assert made.finished is not None
    assert made.prune_at is not None


def test_the_result_of_a_chain_is_its_last_links():
    made = chain(add.s(1), add_to_previous.s(10), add_to_previous.s(100)).delay()
    run_all()
    assert ("SUCCESS", 112) == _end(made)


def test_a_chain_that_broke_is_incomplete_and_its_rest_skipped(failing):
    failing.add(2)
    made = chain(job.s(1), job.s(2), job.s(3), job.s(4)).delay()
    run_all()
    assert ("INCOMPLETE", None) == _end(made)
    links = made.subtasks.order_by("member_no")
    assert ["SUCCESS", "FAILURE", "SKIPPED", "SKIPPED"] == statuses(*links)
    assert [1] == numbers()


def test_a_forced_link_runs_and_the_chain_is_incomplete_all_the_same(failing):
    failing.add(1)
    made = chain(job.s(1), job.using(force_chain=True).s(2), job.s(3)).delay()
    run_all()
    assert ("INCOMPLETE", 3) == _end(made)


def test_a_link_waits_for_the_whole_tree_of_the_one_before():
    made = chain(fan.s(1, 2), job.s(3)).delay()
    run_all()
    assert ([1, 2, 3], "SUCCESS") == (numbers(), _end(made)[0])


def test_they_nest_in_every_way():
    made = group(
        chain(group(add.s(1), add.s(2)), job.s(5)),
        group(),
        chain(group(), chain(add.s(3), add_to_previous.s(10)), add_to_previous.s(100)),
        group(group(chain(add.s(4)))),
    ).delay()
    run_all()
    assert ("SUCCESS", [5, [], 114, [[5]]]) == _end(made)
    assert {made.id} == set(Task.objects.values_list("root_id", flat=True))
    assert {0, 1, 2, 3, 4} == set(Task.objects.values_list("depth", flat=True))


def test_a_fan_in_gets_the_list_and_with_force_chain_what_worked(failing):
    failing.add(2)
    made = group(job.s(1), job.s(2), job.s(4)).delay()
    whole, some = made.then(total), made.then(total.using(force_chain=True))
    run_all()
    assert ["INCOMPLETE", "SKIPPED", "SUCCESS"] == statuses(made, whole, some)
    assert 5 == some.result


@pytest.mark.parametrize(
    ("how", "result"),
    [("returned", [2, 8]), ("returned subtask", [2, 8]), ("returned chain", 10)],
)
def test_what_a_task_returned_gives_its_result(how, result):
    made = makes.delay(how)
    run_all()
    assert ("SUCCESS", result) == _end(made)
    assert {made.id} == set(Task.objects.values_list("root_id", flat=True))
    assert {0, 1, 2, 3} == set(Task.objects.values_list("depth", flat=True))


@pytest.mark.parametrize("how", ["subtask", "chained"])
def test_they_can_be_subtasks_and_successors(how):
    made = makes.delay(how)
    run_all()
    container = Task.objects.get(id=renewed(made).result)
    assert ("SUCCESS", [2, 8]) == _end(container)
    assert (made.id if how == "subtask" else None) == container.parent_id


# -- Statuses and times


def test_several_of_one_kind_have_their_own_members():
    top = job.delay(0)
    kind = group(job.s(1), chain(job.s(2), job.s(3)))
    assert 2 == top.subtasks(kind, [(), ()])
    with pytest.raises(InvalidCall, match="takes no arguments"):
        top.subtasks(kind, [(), 1])
    run_all()
    assert "SUCCESS" == renewed(top).status
    assert [[1, 3], [1, 3]] == list(top.subtasks.values_list("result", flat=True))
    assert [0, 1, 1, 2, 2, 3, 3] == sorted(numbers())


def test_one_is_waiting_from_birth_and_never_executed():
    made = group(add.s(1)).delay()
    assert "WAITING" == made.status
    assert ["flow.add"] == [one.func_name for one in claim(5)]
    assert (0, [], None) == (renewed(made).claim_no, made.attempts, made.started)


@pytest.mark.parametrize("container", [group, chain])
def test_its_members_are_no_tasks_until_its_predecessor_has_ended(container):
    before = job.delay(1)
    made = before.chain(container(job.s(2), job.s(3)))
    assert ("PENDING", 2) == (renewed(made).status, Task.objects.count())
    assert ["flow.job", "flow.job"] == [member["func_name"] for member in made.members]
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(before, made)
    assert [] == made.members
    assert [1, 2, 3] == numbers()


def test_its_members_never_are_if_it_is_skipped(failing):
    failing.add(1)
    before = job.delay(1)
    made = before.chain(group(job.s(2)))
    after = made.chain(job, 3)
    run_all()
    assert ["FAILURE", "SKIPPED", "SKIPPED"] == statuses(before, made, after)
    assert 3 == Task.objects.count()


@pytest.mark.parametrize("run_after", [HOUR, timezone.now() + HOUR])
def test_one_can_be_for_later(run_after):
    made = group(job.s(1), group()).using(run_after=run_after).delay()
    assert ("SCHEDULED", 1) == (renewed(made).status, Task.objects.count())
    scheduling.step()
    assert ["SCHEDULED"] == statuses(made)
    due(made)
    assert ["WAITING"] == statuses(made)
    run_all()
    assert ("SUCCESS", [1, []]) == _end(made)


def test_its_time_is_counted_from_its_release():
    before = job.delay(1)
    made = before.chain(group(job.s(2)).using(run_after=HOUR))
    after = made.chain(job, 3)
    run_all()
    assert ["SUCCESS", "SCHEDULED", "PENDING"] == statuses(before, made, after)
    assert HOUR - timedelta(minutes=1) < made.ready_at - before.finished < HOUR * 1.1
    due(made)
    run_all()
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)


def test_a_forced_one_runs_after_a_failure(failing):
    failing.add(1)
    made = job.delay(1).chain(group(job.s(2)).using(force_chain=True))
    run_all()
    assert ("SUCCESS", [2]) == _end(made)


def test_an_empty_one_releases_what_is_behind_it():
    before = job.delay(1)
    made = before.chain(group())
    after = made.chain(chain()).chain(job, 2)
    run_all()
    assert ["SUCCESS"] * 3 == statuses(before, made, after)
    late = after.chain(group())
    assert ("SUCCESS", []) == (late.status, late.result)


@pytest.mark.vendors("postgresql", "mysql")
def test_two_who_release_one_fill_it_once():
    from cq import settling
    from tests.unit.test_lifecycle import together

    for _ in range(5):
        before = job.delay(1)
        made = before.chain(group(job.s(2), job.s(3)))
        Task.objects.filter(id=before.id).update(status="SUCCESS")
        found = together(*[lambda before=before: settling.settle(before.id)] * 4)
        assert [None] * 4 == found
        assert 2 == made.subtasks.count()
        Task.objects.all().delete()


# -- Options


def test_what_using_says_of_one(settings):
    options = {"label": "all", "meta": {"a": 1}, "result_ttl": 60, "fail_fast": True}
    made = group(add.using(meta={"b": 2}, label="one", priority=3).s(1), group(add.s(1)))
    made = made.using(**options).delay()
    row = renewed(made)
    assert ("all", {"a": 1}, timedelta(seconds=60), True) == (
        row.label,
        row.meta,
        row.result_ttl,
        row.fail_fast,
    )
    one, nested = made.subtasks.order_by("member_no")
    assert ("one", {"a": 1, "b": 2}, 3) == (one.label, one.meta, one.priority)
    assert ("", {"a": 1}) == (nested.label, nested.meta)
    assert {"a": 1} == nested.subtasks.get().meta
    run_all()
    assert 60 == round((renewed(made).prune_at - made.finished).total_seconds())


def test_members_that_wait_on_the_row_keep_their_options(settings):
    settings.CQ_QUEUES = ["other"]
    member = job.using(
        queue="other", priority=7, retries=2, run_after=HOUR, expires=60, label="x", timeout=9
    )
    made = job.delay(1).chain(group(member.s(5)))
    run_all()
    one = made.subtasks.get()
    assert ("SCHEDULED", "other", 7, 2, "x", 9.0) == (
        one.status,
        one.queue,
        one.priority,
        one.retries,
        one.label,
        one.timeout,
    )
    assert timedelta(seconds=60) == one.expires_at - one.run_after


def test_what_says_nothing_of_one_is_refused():
    for name in (
        "queue",
        "priority",
        "expires",
        "retries",
        "timeout",
        "sensitive",
        "atomic",
        "name",
    ):
        with pytest.raises(InvalidOption, match=f"'{name}' says nothing of a group"):
            group(job.s(1)).using(**{name: 1})


# -- Errors


@pytest.mark.parametrize("container", [group, chain])
def test_only_signatures_can_be_members(container):
    said = rf"{container.__name__}\(\) takes signatures, f.s\(1, 2\), groups and chains; not "
    for member in (job, 5, lambda: 1, "flow.job", None, [job.s(1)], (job.s(n) for n in range(2))):
        with pytest.raises(InvalidCall, match=said):
            container(job.s(1), member)


def test_a_member_that_cannot_run_is_an_error_at_once():
    before = job.delay(1)
    for bad, error in (
        (add.s(), InvalidCall),
        (add.s(1, 2, 3), InvalidCall),
        (add.s(object()), NotSerializable),
        (add.using(queue="nobody").s(1), UnknownQueue),
    ):
        with pytest.raises(error):
            group(add.s(1), chain(bad)).delay()
        with pytest.raises(error):
            before.chain(group(bad))
    assert 1 == Task.objects.count()


def test_one_takes_no_arguments():
    before = job.delay(1)
    for call in (
        lambda: before.then(group(total.s())),
        lambda: before.errorback(chain(note.s())),
        lambda: before.subtask(group(), 1),
        lambda: before.chain(group(), a=1),
    ):
        with pytest.raises(InvalidCall, match=r"takes (none|no arguments)"):
            call()


def test_too_deep_a_one_is_an_error_at_once(settings):
    settings.CQ_MAX_DEPTH = 3
    fits = group(group(group(job.s(1))))
    assert "WAITING" == fits.delay().status
    before = job.delay(1)
    for call in (
        group(fits).delay,
        lambda: before.chain(group(fits)),
        group(fits).using(run_after=HOUR).delay,
    ):
        count = Task.objects.count()
        with pytest.raises(TooDeep, match="CQ_MAX_DEPTH allows 3"), transaction.atomic():
            call()
        assert count == Task.objects.count()
    made = before.chain(fits)
    run_all()
    assert "SUCCESS" == renewed(made).status


def test_rolled_back_nothing_of_it_was():
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        group(job.s(1), chain(job.s(2))).delay()
        raise ZeroDivisionError
    assert 0 == Task.objects.count()


def test_a_large_one_is_inserted_in_a_few_statements(django_assert_max_num_queries):
    with django_assert_max_num_queries(statements(1200)):
        made = group(*(job.s(n) for n in range(1200))).delay()
    assert 1200 == made.subtasks.count()
    assert 1200 == Task.objects.queued().count()


def test_the_async_form():
    made = async_to_sync(group(add.s(1), add.s(2)).adelay)()
    run_all()
    assert ("SUCCESS", [2, 3]) == _end(made)


# -- A group or chain and what comes after it, as one call


def test_a_group_then_a_function_is_fan_in(failing):
    fan_in = group(job.s(1), job.s(2), job.s(3)).then(total)
    made, nested = fan_in.delay(), group(fan_in, fan_in.chain(add, 1)).delay()
    run_all()
    assert (6, "SUCCESS") == (renewed(made).result, made.status)
    assert ([6, 2], "SUCCESS") == (renewed(nested).result, nested.status)
    failing.add(2)
    made, forced = fan_in.delay(), group(job.s(1), job.s(2)).then(total.using(force_chain=True))
    forced = forced.delay()
    run_all()
    assert ["INCOMPLETE"] * 2 == statuses(made, forced)
    assert (None, 1) == (made.result, forced.result)


def test_links_of_a_chain_can_take_the_result_of_the_one_before():
    made = chain(add.s(1, 2)).then(add, 10).then(add.s(100)).delay()
    run_all()
    assert (113, 3) == (renewed(made).result, made.subtasks.count())


def test_what_takes_no_result_can_not_come_then():
    with pytest.raises(InvalidCall, match="takes none"):
        group(job.s(1)).then(group(job.s(2)))
    with pytest.raises(InvalidCall, match="too many"):
        group(job.s(1)).then(job, 1).delay()
