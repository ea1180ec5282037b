"""Subtasks, successors, returned tasks: what each means, in both ways of giving arguments; clear errors."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from cq import ParentFinished, chain, execution, group, registry, task
from cq.exceptions import InvalidCall, NotSerializable, TooDeep, UnknownTask
from cq.models import Task
from tests.unit.flow import (
    add,
    add_to_previous,
    fan,
    forced,
    job,
    kept,
    note,
    notes,
    numbers,
    total,
)
from tests.unit.running import claim, renewed, run_all, statements, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("workflows.keywords")
def keywords(cqt, first, *, second="b"):
    return [first, second]


@task("workflows.third")
def third(cqt, result, first, second="b"):
    return [result, first, second]


@task("workflows.makes")
def makes(cqt, what):
    match what:
        case "subtask of the parent":
            cqt.parent.subtask(job, 2)
        case "successor of the parent":
            cqt.parent.chain(job, 2)
        case "errorback of the parent":
            cqt.parent.errorback(note)
            raise ValueError


@task("workflows.parent")
def parent(cqt, what):
    cqt.subtask(makes, what)
    return "own"


@task("workflows.async_forms")
async def async_forms(cqt, fails=False):
    child = await cqt.asubtask(group(job.s(1), job.s(2)))
    await child.aerrorback(note, "child")
    await (await child.athen(total)).achain(add_to_previous, 4)
    await cqt.asubtasks(job, [3, 4])
    await cqt.aerrorback(note, "own")
    later = await group(job.s(5)).using(run_after=HOUR).adelay()
    assert await later.arevoke() is True
    if fails:
        raise ValueError


# -- Subtasks


def test_a_parent_is_complete_when_all_under_it_is():
    made = fan.delay(1, 2)
    execution.execute(claim()[0])
    assert ["WAITING", "QUEUED", "QUEUED"] == statuses(made, *made.subtasks.all())
    assert ("fanned", "WAITING") == (made.result, made.attempts[0]["outcome"])
    assert None is made.finished
    execution.execute(claim()[0])
    assert ["WAITING"] == statuses(made)
    run_all()
    assert (["SUCCESS"], "fanned") == (statuses(made), made.result)
    assert made.finished is not None


def test_a_subtask_begins_when_the_transaction_that_made_it_commits():
    seen = []

    @task("workflows.looks")
    def looks(cqt):
        cqt.subtask(job, 1)
        seen.extend(Task.objects.queued())  # its own transaction sees it; others do not yet

    made = looks.delay()
    run_all()
    assert seen == list(made.subtasks.all())
    with transaction.atomic():
        late = job.delay(1)
        after = late.chain(job, 2)
        assert "PENDING" == after.status
    assert ["QUEUED", "PENDING"] == statuses(late, after)


def test_what_an_atomic_run_made_goes_with_it():
    @task("workflows.makes_and_fails")
    def makes_and_fails(cqt):
        cqt.subtask(group(job.s(1), job.s(2)))
        cqt.chain(job, 3)
        job.delay(4)
        raise ValueError

    made = makes_and_fails.delay()
    assert (1, [made]) == (run_all(), list(Task.objects.all()))


def test_both_ways_of_giving_arguments():
    made = job.delay(1)
    given = [
        made.subtask(keywords, 1, second=2),
        made.subtask(keywords, (1,), {"second": 2}),
        made.subtask(keywords, (1,), second=2),
        made.subtask(keywords.s(1, second=2)),
        made.subtask("workflows.keywords", 1, second=2),
        async_to_sync(made.asubtask)(keywords, (1,), {"second": 2}),
        made.chain(keywords, 1, second=2),
        made.chain(keywords, (1,), {"second": 2}),
        made.chain(keywords.s(1, second=2)),
        async_to_sync(made.achain)(keywords, 1, second=2),
    ]
    assert [([1], {"second": 2})] * 10 == [(one.args, one.kwargs) for one in given]
    run_all()
    assert [[1, 2]] * 10 == [renewed(one).result for one in given]


def test_then_puts_the_result_first_in_both_ways():
    made = job.delay(7)
    given = [
        made.then(third, 1, second=2),
        made.then(third, (1,), {"second": 2}),
        made.then(third.s(1, second=2)),
        async_to_sync(made.athen)(third, (1,), {"second": 2}),
    ]
    run_all()
    assert [[7, 1, 2]] * 4 == [renewed(one).result for one in given]


def test_subtasks_takes_argument_lists_and_single_arguments():
    made = job.delay(1)
    assert 3 == made.subtasks(keywords, [1, (2,), [3]])
    assert 2 == async_to_sync(made.asubtasks)(keywords.s("last", second="x"), [(), ()])
    assert 0 == made.subtasks(keywords, [])
    run_all()
    found = made.subtasks.order_by("id").values_list("result", flat=True)
    assert [[1, "b"], [2, "b"], [[3], "b"], ["last", "x"], ["last", "x"]] == list(found)


def test_subtasks_of_a_generator_are_not_held_in_memory(monkeypatch):
    from cq import submission

    alive, most = weakref.WeakSet(), []
    make = submission._with_values

    def counted(*args):
        made = make(*args)
        alive.add(made)
        return made

    def items():
        for number in range(3000):
            if number % 500 == 0:
                gc.collect()
                most.append(len(alive))
            yield number

    made = fan.delay()
    monkeypatch.setattr(submission, "_with_values", counted)
    with transaction.atomic():
        assert 3000 == made.subtasks(job, items())
    assert (6, 3000) == (len(most), made.subtasks.count())
    assert max(most) >= 500
    assert max(most) <= 1000  # a batch, and the one before


def test_subtasks_are_inserted_in_batches_and_all_or_none(django_assert_max_num_queries):
    made = fan.delay()
    with django_assert_max_num_queries(statements(1500)):
        made.subtasks(job, range(1500))
    with pytest.raises(NotSerializable):
        made.subtasks(job, [*range(700), object()])
    assert 1500 == made.subtasks.count()


# -- Successors


def test_a_chain_goes_on_and_each_reads_the_one_before():
    last = add.delay(1).chain(add_to_previous, 10).then(add, 100).chain(add_to_previous, 1000)
    run_all()
    assert 1112 == renewed(last).result


def test_a_successor_has_the_same_parent():
    made = job.delay(1)
    child = made.subtask(job, 2)
    after = child.chain(job, 3)
    assert (made.id, made.id, 1, child.id) == (
        after.parent_id,
        after.root_id,
        after.depth,
        after.previous_id,
    )
    assert None is made.chain(job, 4).parent_id
    run_all()
    assert (["SUCCESS"], [1, 2, 3, 4]) == (statuses(made), numbers())


def test_a_successor_waits_for_the_whole_tree_and_then_gets_the_result():
    made = fan.delay(1, 2)
    after = made.then(add, "!")
    execution.execute(claim()[0])
    execution.execute(claim()[0])
    assert ["WAITING", "PENDING"] == statuses(made, after)
    run_all()
    assert (["SUCCESS"], "fanned!") == (statuses(after), after.result)


def test_a_bad_end_skips_its_successors_and_theirs_but_not_forced_ones(failing):
    failing.add(1)
    made = job.delay(1)
    skipped = made.chain(job, 2)
    behind, free = skipped.chain(job, 3), skipped.chain(forced, 4)
    after = free.chain(job, 5)
    run_all()
    assert ["SKIPPED", "SKIPPED", "SUCCESS", "SUCCESS"] == statuses(skipped, behind, free, after)
    assert [4, 5] == numbers()


def test_what_was_skipped_is_not_what_makes_a_parent_incomplete(failing):
    failing.add(1)
    made = fan.delay(1)
    execution.execute(claim()[0])
    made.subtasks.get().chain(job, 2)
    run_all()
    assert "1 of 2 subtasks did not succeed" in renewed(made).error


@pytest.mark.parametrize("function", [kept, fan])
def test_all_of_several_successors_run(function):
    made = function.delay(1)
    after = [made.chain(job, n) for n in range(3)]
    run_all()
    assert ["SUCCESS"] * 3 == statuses(*after)


# -- Late additions


def test_a_successor_of_what_has_ended_starts_or_is_skipped_at_once(failing):
    failing.add(1)
    good, bad = job.delay(2), job.delay(1)
    revoked = job.delay(3)
    revoked.revoke()
    run_all()
    assert "QUEUED" == good.chain(job, 5).status
    assert "WAITING" == good.chain(group(job.s(5))).status
    for ended in (bad, revoked):
        skipped = ended.chain(job, 5)
        assert "SKIPPED" == skipped.status == skipped.chain(job, 6).status
        assert "QUEUED" == ended.chain(forced, 6).status
        assert "WAITING" == ended.chain(group(job.s(6)).using(force_chain=True)).status
        assert "SKIPPED" == ended.chain(chain(job.s(5))).status
    run_all()
    assert [2, 5, 5, 6, 6, 6, 6] == sorted(numbers())


def test_under_a_final_parent_it_is_refused():
    made = fan.delay(1)
    run_all()
    child = made.subtasks.get()
    for call in (
        lambda: made.subtask(job, 2),
        lambda: made.subtasks(job, [2]),
        lambda: child.chain(group(job.s(2))),
        lambda: child.then(add),
        lambda: child.errorback(note),
    ):
        with pytest.raises(
            ParentFinished, match=r"flow.fan .* has ended as SUCCESS: nothing can be"
        ):
            call()
    assert 2 == Task.objects.count()


@pytest.mark.parametrize(
    ("what", "count"),
    [("subtask of the parent", 3), ("successor of the parent", 3), ("errorback of the parent", 2)],
)
def test_a_task_that_runs_under_a_parent_may_always_add(what, count):
    made = parent.delay(what)
    after = made.chain(job, 9)
    run_all()
    if "errorback" in what:  # what it added went with it
        assert (["INCOMPLETE", "SKIPPED"], []) == (statuses(made, after), made.errorbacks)
        return
    assert ["SUCCESS", "SUCCESS"] == statuses(made, after)
    assert {2, 9} == set(numbers())
    assert count + 1 == Task.objects.count()


# -- Errors


def test_what_is_no_task_function_is_an_error():
    made = job.delay(1)

    def plain(cqt): ...

    for call in (
        lambda: made.subtask(plain),
        lambda: made.chain(lambda cqt: 1),
        lambda: made.then(None),
        lambda: made.subtasks(5, [1]),
        lambda: made.errorback([note]),
    ):
        with pytest.raises(InvalidCall, match=r"is not a task function: decorate it with @task"):
            call()
    for call in (lambda: made.subtask("os.system", "true"), lambda: made.chain("nobody")):
        with pytest.raises(UnknownTask, match="is registered; decorate the function with @task"):
            call()
    assert 1 == Task.objects.count()


def test_a_member_whose_function_went_away_is_a_failure_that_says_so(monkeypatch):
    @task("workflows.gone")
    def gone(cqt): ...

    made = job.delay(1).chain(group(gone.s())).errorback(note)
    monkeypatch.delitem(registry._definitions, "workflows.gone")
    run_all()
    one = made.subtasks.get()
    assert ["WAITING", "QUEUED"] == statuses(made, one)
    from cq import lifecycle

    execution.execute(lifecycle.claim_one(one.id, one.id))
    run_all()
    assert ["INCOMPLETE", "FAILURE"] == statuses(made, one)
    assert "No task 'workflows.gone' is registered" in one.error
    assert ["note "] == notes()


def test_arguments_that_do_not_fit_are_an_error_at_once():
    made = job.delay(1)
    for call in (
        lambda: made.subtask(add),
        lambda: made.chain(add, 1, 2, 3),
        lambda: made.then(total, 1),
        lambda: made.subtasks(add, [1, (1, 2, 3)]),
        lambda: made.subtask(keywords, (1,), {"other": 2}),
    ):
        with pytest.raises(InvalidCall):
            call()
    assert 1 == Task.objects.count()


def test_too_deep_is_an_error(settings):
    settings.CQ_MAX_DEPTH = 2
    made = job.delay(1).subtask(job, 2).subtask(job, 3)
    assert 2 == made.depth
    with pytest.raises(
        TooDeep, match="would be 3 levels below its top task; CQ_MAX_DEPTH allows 2"
    ):
        made.subtask(job, 4)
    assert 2 == made.chain(job, 4).depth


# -- Async


@pytest.mark.parametrize("fails", [False, True])
def test_the_async_forms_are_part_of_the_tasks_transaction(failing, fails):
    made = async_forms.delay(fails)
    run_all()
    if fails:
        assert (["FAILURE"], ["note own"], []) == (statuses(made), notes(), numbers())
        assert 2 == Task.objects.count()
        return
    assert ["SUCCESS"] == statuses(made)
    assert 7 == Task.objects.get(func_name="flow.add_to_previous").result
    later = Task.objects.get(container="group", parent=None)
    assert (["REVOKED"], {1, 2, 3, 4}) == (statuses(later), set(numbers()))


def test_nothing_is_locked_for_a_subtask_of_ones_own():
    """A subtask that a run adds under itself neither waits for nor blocks its parent's row."""
    if connection.vendor == "sqlite":
        pytest.skip("one lock for all")
    from tests.unit.test_lifecycle import together

    made = fan.delay(1)
    (claimed,) = claim()
    with transaction.atomic():
        assert [claimed] == list(
            Task.objects.select_for_update(no_key=_no_key()).filter(id=made.id)
        )

        def adds():
            from cq import context
            from cq.context import Run
            from cq.options import Options

            token = context.enter(Run(claimed, Options(), "worker"))
            try:
                return str(claimed.subtask(job, 5).status)
            finally:
                context.leave(token)

        assert ["QUEUED"] == together(adds)


def _no_key():
    return connection.features.has_select_for_no_key_update


@task("workflows.returns_a_call")
def returns_a_call(cqt, what):
    return {"signature": add.s(1), "group": group(add.s(1))}[what]


@pytest.mark.parametrize("what", ["signature", "group"])
def test_a_returned_call_that_was_not_made_is_an_error_that_says_so(what):
    made = returns_a_call.delay(what)
    run_all()
    assert "delay() it" in renewed(made).error


def test_what_is_put_first_is_said_where_the_arguments_do_not_fit():
    with pytest.raises(InvalidCall, match=r"too many.*then\(\) gives it the result first"):
        add.delay(1).then(add, 2, 3)
    with pytest.raises(InvalidCall, match=r"missing.*errorback\(\) gives it the error first"):
        add.delay(1).errorback(needs_two)


@task("workflows.needs_two")
def needs_two(cqt, error, more):
    """Called with the error alone, it lacks one."""


def test_a_signature_shows_no_secret():
    assert "<workflows.signs_in.s('ann', '***')>" == repr(signs_in.s("ann", "sesame"))
    assert "sesame" not in repr(group(signs_in.s("ann", "sesame")))


@task("workflows.signs_in")
def signs_in(cqt, name, password):
    """Never run."""
