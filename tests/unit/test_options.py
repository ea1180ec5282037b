"""Every option of `@task` and `using()`: what it takes, what it refuses, and whose it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cq import InvalidOption, UnknownQueue, task
from cq.models import Task
from cq.options import Options

LONG = "x" * 201
SOON = timedelta(seconds=90)


@task("options.plain")
def plain(cqt, x=0):
    return x


@task(
    "options.all",
    aliases=("options.also",),
    atomic=False,
    queue="options-queue",
    priority=7,
    expires=3600,
    retries=2,
    retry_exceptions=(ValueError,),
    retry_delay=[1, timedelta(seconds=2)],
    timeout=5,
    result_ttl=60,
    rerun_lost=True,
    fail_fast=True,
    force_chain=True,
    capture_logs=True,
    sensitive=("key",),
    label="All of it",
    meta={"a": 1},
)
def with_all(cqt, x=0, key=None):
    return x


# (option, what it is given, what it becomes)
TAKEN = [
    ("queue", "a", "a"),
    ("queue", "A-b_c.9", "A-b_c.9"),
    ("queue", "q" * 80, "q" * 80),
    ("priority", -100, -100),
    ("priority", 100, 100),
    ("run_after", SOON, SOON),
    ("run_after", timedelta(0), timedelta(0)),
    ("run_after", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    ("run_after", None, None),
    ("expires", 90, SOON),
    ("expires", 0.5, timedelta(seconds=0.5)),
    ("expires", SOON, SOON),
    ("expires", datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    ("expires", None, None),
    ("expires", datetime(9000, 12, 31, tzinfo=UTC), datetime(9000, 12, 31, tzinfo=UTC)),
    ("result_ttl", timedelta(days=36525), timedelta(days=36525)),
    ("retries", 0, 0),
    ("retries", 32767, 32767),
    ("retry_exceptions", [ValueError, KeyError], (ValueError, KeyError)),
    ("retry_exceptions", ValueError, (ValueError,)),
    ("retry_exceptions", (), ()),
    ("retry_delay", 90, SOON),
    ("retry_delay", [90, SOON], [SOON, SOON]),
    ("retry_delay", None, None),
    ("timeout", 90, SOON),
    ("timeout", None, None),
    ("result_ttl", 90, SOON),
    ("result_ttl", None, None),
    ("rerun_lost", True, True),
    ("fail_fast", True, True),
    ("force_chain", True, True),
    ("capture_logs", True, True),
    ("sensitive", ["a", "b"], ("a", "b")),
    ("sensitive", (), ()),
    ("label", "x" * 200, "x" * 200),
    ("meta", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
]

# (option, what it is refused)
REFUSED = [
    ("queue", ""),
    ("queue", "a b"),
    ("queue", "ä"),
    ("queue", "a/b"),
    ("queue", "a\n"),
    ("queue", "q" * 81),
    ("queue", None),
    ("queue", 3),
    ("priority", -101),
    ("priority", 101),
    ("priority", 1.0),
    ("priority", "1"),
    ("priority", True),
    ("priority", None),
    ("run_after", 90),
    ("run_after", "2026-01-01"),
    ("run_after", datetime(2026, 1, 1)),  # noqa: DTZ001
    ("run_after", timedelta(seconds=-1)),
    ("expires", -1),
    ("expires", float("nan")),
    ("expires", float("inf")),
    ("expires", datetime(2026, 1, 1)),  # noqa: DTZ001
    ("expires", "90"),
    ("expires", datetime.max.replace(tzinfo=UTC)),
    ("expires", datetime.min.replace(tzinfo=UTC)),
    ("expires", timedelta(days=3_650_000)),
    ("expires", timedelta.max),
    ("run_after", datetime(9001, 1, 1, tzinfo=UTC)),
    ("run_after", timedelta(days=36526)),
    ("result_ttl", timedelta(days=3_650_000)),
    ("result_ttl", 36526 * 86400),
    ("timeout", timedelta.max),
    ("retry_delay", timedelta.max),
    ("retry_delay", [1, timedelta.max]),
    ("expires", True),
    ("retries", -1),
    ("retries", 32768),
    ("retries", 1.5),
    ("retries", True),
    ("retries", None),
    ("retry_exceptions", "ValueError"),
    ("retry_exceptions", ["ValueError"]),
    ("retry_exceptions", [ValueError("an instance")]),
    ("retry_exceptions", 3),
    ("retry_exceptions", None),
    ("retry_exceptions", [int]),
    ("retry_delay", -1),
    ("retry_delay", []),
    ("retry_delay", ()),
    ("retry_delay", [1, -1]),
    ("retry_delay", [1, "2"]),
    ("retry_delay", "15"),
    ("retry_delay", float("nan")),
    ("retry_delay", True),
    ("timeout", -1),
    ("timeout", "5"),
    ("timeout", 1e300),
    ("result_ttl", -1),
    ("result_ttl", "5"),
    ("rerun_lost", 1),
    ("fail_fast", None),
    ("force_chain", "yes"),
    ("capture_logs", 0),
    ("sensitive", "password"),
    ("sensitive", [1]),
    ("sensitive", None),
    ("sensitive", 5),
    ("label", LONG),
    ("label", None),
    ("label", 5),
    ("label", "a\x00b"),
    ("label", "\ud800"),
    ("meta", None),
    ("meta", [1]),
    ("meta", {"a": object()}),
    ("meta", {1: 2}),
    ("meta", {"a": float("nan")}),
    ("meta", {"a": "\x00"}),
    ("unknown", 1),
    ("Queue", "a"),
    ("unique", "a"),
    ("id", 1),
]

REFUSED_BY_TASK = [
    ("name", 5),
    ("name", LONG),
    ("name", None),
    ("name", "a\x00b"),
    ("aliases", "one"),
    ("aliases", [1]),
    ("aliases", [""]),
    ("aliases", [LONG]),
    ("aliases", None),
    ("atomic", 1),
    ("atomic", None),
]


@pytest.mark.parametrize(("name", "given", "expected"), TAKEN)
def test_using_takes(name, given, expected):
    assert expected == getattr(plain.using(**{name: given}).options, name)


@pytest.mark.parametrize(("name", "given", "expected"), TAKEN)
def test_task_takes_what_using_takes_but_run_after(name, given, expected):
    if name == "run_after":
        with pytest.raises(InvalidOption, match="belongs to one call: give it to using"):
            task(**{name: given})
    else:
        assert expected == getattr(task(**{name: given})._options, name)


@pytest.mark.parametrize(("name", "given"), REFUSED)
def test_using_refuses_and_names_the_option(name, given):
    with pytest.raises(InvalidOption, match=name if name != "queue" else "queue|Queue"):
        plain.using(**{name: given})


@pytest.mark.parametrize(("name", "given"), [*REFUSED, *REFUSED_BY_TASK])
def test_task_refuses_and_names_the_option(name, given):
    with pytest.raises(InvalidOption, match=name):
        task(**{name: given})


def test_the_limits_of_times_are_named():
    with pytest.raises(InvalidOption, match=r"'expires' must be at most 36525 days \(100 years\)"):
        plain.using(expires=timedelta.max)
    with pytest.raises(InvalidOption, match="'run_after' must be of the years 1900 to 9000"):
        plain.using(run_after=datetime.max.replace(tzinfo=UTC))


@pytest.mark.django_db
def test_the_farthest_times_can_be_read_again():
    far, day = timedelta(days=36525), datetime(9000, 12, 31, tzinfo=UTC)
    made = plain.using(run_after=day, expires=far, result_ttl=far).delay()
    row = Task.objects.get(id=made.id)
    assert (day, day + far, far) == (row.run_after, row.expires_at, row.result_ttl)


@pytest.mark.parametrize("name", ["name", "aliases", "atomic"])
def test_what_belongs_to_the_function_is_refused_by_using(name):
    with pytest.raises(InvalidOption, match=f"{name}.*belongs to the function: give it to @task"):
        plain.using(**{name: "x"})


@pytest.mark.parametrize("name", ["retry_exceptions", "retry_delay"])
def test_a_callable_for_one_call_is_refused_since_a_row_cannot_keep_it(name):
    with pytest.raises(InvalidOption, match=f"{name}.*can't be stored: give it to @task"):
        plain.using(**{name: lambda *_: True})


def test_a_name_cannot_be_given_twice():
    with pytest.raises(InvalidOption, match="name"):
        task("one", name="two")


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidOption, match=r"No option 'retrys'; did you mean 'retries'"):
        plain.using(retrys=3)


def test_using_makes_a_copy():
    copy = plain.using(priority=5).using(label="copy")
    assert (0, "") == (plain.options.priority, plain.options.label)
    assert (5, "copy") == (copy.options.priority, copy.options.label)
    assert plain.name == copy.name


def test_options_of_a_call_do_not_mix_with_arguments(db):
    made = with_all.using(queue="default").delay(x=1, key="k")
    assert ([], {"x": 1, "key": "k"}) == (made.args, made.kwargs)


@pytest.mark.django_db
def test_a_row_holds_the_options_of_its_function():
    made = Task.objects.get(id=with_all.delay(1).id)
    expected = {
        "func_name": "options.all",
        "atomic": False,
        "queue": "options-queue",
        "priority": 7,
        "retries": 2,
        "timeout": 5.0,
        "result_ttl": timedelta(seconds=60),
        "rerun_lost": True,
        "fail_fast": True,
        "force_chain": True,
        "label": "All of it",
        "meta": {"a": 1},
        "options": {},
    }
    assert expected == {name: getattr(made, name) for name in expected}


@pytest.mark.django_db
def test_a_row_keeps_what_differs_from_its_function():
    function = plain.using(
        retry_delay=[1, SOON], retry_exceptions=[KeyError], sensitive=["x"], capture_logs=True
    )
    made = Task.objects.get(id=function.delay().id)
    expected = {
        "retry_delay": [1.0, 90.0],
        "retry_exceptions": ["builtins.KeyError"],
        "sensitive": ["x"],
        "capture_logs": True,
    }
    assert expected == made.options


@pytest.mark.django_db
def test_project_wide_defaults_hold_where_a_function_does_not_say(settings):
    settings.CQ_RETRIES = 4
    settings.CQ_TIMEOUT = 30
    settings.CQ_RESULT_TTL = 120
    made, own = plain.delay(), with_all.delay()
    assert (4, 30.0, timedelta(seconds=120)) == (made.retries, made.timeout, made.result_ttl)
    assert (2, 5.0, timedelta(seconds=60)) == (own.retries, own.timeout, own.result_ttl)
    none = plain.using(timeout=None, result_ttl=None).delay()
    assert (None, None) == (none.timeout, none.result_ttl)


@pytest.mark.django_db
def test_delay_args_takes_options_apart_from_arguments():
    made = plain.delay_args([3], {}, priority=9, label="by data")
    assert ([3], 9, "by data") == (made.args, made.priority, made.label)
    with pytest.raises(InvalidOption):
        plain.delay_args([3], {}, priority=1000)


@pytest.mark.django_db
def test_a_queue_that_nobody_listens_to_is_an_error_at_delay():
    with pytest.raises(UnknownQueue, match="No queue 'nowhere' is known; add it to CQ_QUEUES"):
        plain.using(queue="nowhere").delay()
    with pytest.raises(UnknownQueue):
        plain.using(queue="nowhere").delay_many([1])
    assert 0 == Task.objects.count()


@pytest.mark.django_db
def test_known_queues_are_default_those_of_functions_and_those_of_the_setting(settings):
    settings.CQ_QUEUES = ["further"]
    for queue in ("default", "options-queue", "further"):
        assert queue == plain.using(queue=queue).delay().queue


def test_the_defaults_are_those_of_the_docs():
    options = Options()
    expected = {
        "atomic": True,
        "queue": "default",
        "priority": 0,
        "run_after": None,
        "expires": None,
        "retries_allowed": 0,
        "retry_exceptions": (),
        "retry_delay": None,
        "seconds_allowed": None,
        "kept_for": timedelta(days=7),
        "rerun_lost": False,
        "fail_fast": False,
        "force_chain": False,
        "capture_logs": False,
        "sensitive": ("password",),
        "label": "",
        "meta": {},
    }
    assert expected == {name: getattr(options, name) for name in expected}
