"""Arguments are bound and checked where they are given, in both styles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from cq import InvalidCall, NotSerializable, task
from cq.models import Task
from tests.unit.running import renewed, run_all

pytestmark = pytest.mark.django_db


@task("calls.f")
def f(cqt, a, b=2, *, c=3):
    return [a, b, c]


@task("calls.many")
def many(cqt, *args, **kwargs):
    return [list(args), kwargs]


@task("calls.none")
def none(cqt): ...


@task("calls.parent")
def parent(cqt): ...


def given(made):
    return made.args, made.kwargs


def test_delay_takes_what_the_function_takes():
    assert ([1], {}) == given(f.delay(1))
    assert ([1, 5], {"c": 6}) == given(f.delay(1, 5, c=6))
    assert ([], {"a": 1}) == given(f.delay(a=1))
    assert ([1, 2, 3], {"x": 1}) == given(many.delay(1, 2, 3, x=1))
    assert ([], {}) == given(none.delay())


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
        ((1,), {"d": 1}, "unexpected keyword argument 'd'"),
        ((1,), {"cqt": 1}, "multiple values for argument 'cqt'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once_and_named(args, kwargs, said):
    top = parent.delay()
    for call in (
        lambda: f.delay(*args, **kwargs),
        lambda: f.delay_args(args, kwargs),
        lambda: top.subtask(f, *args, **kwargs),
        lambda: top.subtask(f, args, kwargs),
        lambda: top.chain(f, *args, **kwargs),
    ):
        with pytest.raises(InvalidCall, match=rf"calls\.f: .*{said}"):
            call()
    assert 1 == Task.objects.count()


def test_then_puts_one_argument_before_those_that_are_given():
    top = parent.delay()
    assert ([5], {"c": 6}) == given(top.then(f, 5, c=6))
    assert ([5], {"c": 6}) == given(top.then(f, (5,), {"c": 6}))
    assert ([], {}) == given(top.then(f))
    with pytest.raises(InvalidCall, match="too many positional"):
        top.then(f, 5, 6)
    with pytest.raises(InvalidCall, match="multiple values for argument 'a'"):
        top.then(f, a=1)
    with pytest.raises(InvalidCall, match="too many positional"):
        top.then(none)


@pytest.mark.parametrize("verb", ["subtask", "chain", "then"])
def test_a_tuple_in_second_place_is_the_argument_list(verb):
    call = getattr(parent.delay(), verb)
    assert ([4], {}) == given(call(many, (4,)))
    assert ([4, 5], {"x": 1}) == given(call(many, (4, 5), {"x": 1}))
    assert ([4], {"x": 1}) == given(call(many, (4,), x=1))
    assert ([], {}) == given(call(many, ()))
    assert ([], {"x": 1}) == given(call(many, (), {"x": 1}))
    assert ([[4, 5]], {}) == given(call(many, [4, 5]))
    assert ([4, {"x": 1}], {}) == given(call(many, 4, {"x": 1}))
    assert ([[1, 2]], {}) == given(call(many, ([1, 2],)))


@pytest.mark.parametrize("verb", ["subtask", "chain", "then"])
def test_a_tuple_anywhere_else_is_refused_with_what_to_give(verb):
    call = getattr(parent.delay(), verb)
    for args in ([((1, 2),)], [1, (2,)], [(1,), 2], [(1,), (2,)], [(1,), {"x": (1,)}]):
        with pytest.raises(NotSerializable, match=r"tuple.*give a list"):
            call(many, *args)


def test_delay_refuses_a_tuple_as_a_whole_argument():
    for call in (
        lambda: f.delay((1, 2)),
        lambda: f.delay(a=(1, 2)),
        lambda: f.delay_args([(1, 2)]),
        lambda: f.delay_many([((1, 2),)]),
        lambda: f.delay_many([((1,), {"b": 2})]),
        lambda: f.s((1, 2)) and parent.delay().subtask(f.s((1, 2))),
    ):
        with pytest.raises(NotSerializable, match=r"argument 'a'.*tuple.*give a list"):
            call()


def test_a_tuple_inside_of_an_argument_becomes_a_list():
    assert ([[1, [2, 3]]], {}) == given(f.delay([1, (2, 3)]))


def test_delay_many_takes_tuples_as_argument_lists_and_anything_else_as_the_one_argument():
    made = many.delay_many([1, "ab", (2, 3), [4, 5], {"x": 1}, (), None, ([6],)])
    expected = [[1], ["ab"], [2, 3], [[4, 5]], [{"x": 1}], [], [None], [[6]]]
    assert expected == [task.args for task in made]


def test_subtasks_takes_what_delay_many_takes():
    top = parent.delay()
    assert 4 == top.subtasks(many, [1, (2, 3), [4], ()])
    assert [[1], [2, 3], [[4]], []] == [t.args for t in top.subtasks.order_by("id")]


def test_a_signature_is_a_call_to_make_later_with_its_options():
    top = parent.delay()
    signed = f.using(priority=4).s(1, c=2)
    made = top.subtask(signed)
    assert (([1], {"c": 2}), 4) == (given(made), made.priority)
    made = top.chain(f.s(c=2).using(label="x"), 7)
    assert (([7], {"c": 2}), "x") == (given(made), made.label)


def test_a_function_can_be_named():
    top = parent.delay()
    assert "calls.f" == top.subtask("calls.f", 1).func_name


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (float("nan"), "NaN"),
        (b"x", "bytes"),
        ({1}, "set"),
        ("\ud800", "surrogate"),
        ("\x00", "NUL"),
        (object(), "object"),
        ({1: 2}, "key"),
    ],
)
def test_what_json_cannot_hold_is_refused_at_once_and_named(bad, said):
    top = parent.delay()
    for call in (
        lambda: f.delay(1, b={"x": [bad]}),
        lambda: f.delay(1, {"x": [bad]}),
        lambda: f.delay_many([(1, {"x": [bad]})]),
        lambda: top.subtask(f, 1, {"x": [bad]}),
        lambda: top.subtasks(f, [(1, {"x": [bad]})]),
        lambda: top.chain(f, (1, {"x": [bad]})),
    ):
        with pytest.raises(NotSerializable, match=rf"argument 'b'\[\"x\"\]\[0\].*{said}"):
            call()
    assert 1 == Task.objects.count()


def test_a_cycle_is_refused():
    cycle = []
    cycle.append(cycle)
    with pytest.raises(NotSerializable, match="argument 'a'"):
        f.delay(cycle)


def test_what_then_puts_in_front_shifts_the_names_that_errors_say():
    with pytest.raises(NotSerializable, match="argument 'b'"):
        parent.delay().then(f, b"x")


def test_too_much_is_refused_with_the_limit(settings):
    f.delay("x" * 1_000_000)
    with pytest.raises(NotSerializable, match=r"1,048,576.*CQ_MAX_PAYLOAD"):
        f.delay("x" * 1_100_000)
    settings.CQ_MAX_PAYLOAD = 100
    f.delay("x" * 50)
    with pytest.raises(NotSerializable, match="argument 'a'"):
        f.delay("x" * 101)


SPECIAL = [
    datetime(2026, 1, 31, 12, tzinfo=UTC),
    datetime(2026, 1, 31).date(),  # noqa: DTZ001
    timedelta(days=1, microseconds=1),
    Decimal("1.10"),
    UUID(int=5),
    {"$datetime": "not one"},
    {"$": 1},
    "ü € 😀",
    2**70,
    1e16,
    [],
    {},
    None,
    True,
]


@pytest.mark.django_db(transaction=True)
def test_arguments_and_results_come_back_as_they_went():
    made = many.delay(*SPECIAL, x=SPECIAL)
    assert ([*SPECIAL], {"x": SPECIAL}) == given(Task.objects.get(id=made.id))
    run_all()
    assert [SPECIAL, {"x": SPECIAL}] == renewed(made).result


def test_arguments_can_be_looked_for():
    made = many.delay(1, user=5, deep={"a": ["x"]})
    many.delay(1, user=6)
    assert [made] == list(Task.objects.filter(kwargs__user=5))
    assert [made] == list(Task.objects.filter(kwargs__deep__a__0="x"))
    assert 2 == Task.objects.filter(args__0=1).count()
