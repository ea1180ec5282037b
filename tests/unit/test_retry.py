"""Whether a failure is tried again, and when: a pure function."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from cq import Retry
from cq.options import Options, changed, options_of_function, restored
from cq.retry import matches, next_delay

SECOND = timedelta(seconds=1)
BAD = ValueError("bad")


def after(failures, error=BAD, retries=99, **options):
    return next_delay(options_of_function(options), retries, failures, error)


def test_without_retries_every_failure_is_final():
    assert after(0, retries=0) is None
    assert after(0, Retry(1), retries=0) is None


def test_retries_counts_failures_not_runs():
    assert [True, True, True, False, False] == [
        after(n, retries=3, retry_delay=1) is not None for n in range(5)
    ]


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 15), (1, 30), (2, 60), (7, 1920), (8, 3600), (9, 3600), (1000, 3600), (30000, 3600)],
)
def test_the_default_doubles_from_15_seconds_to_an_hour_with_a_fifth_of_jitter(failures, seconds):
    found = [after(failures, retries=32767) for _ in range(300)]
    assert seconds * 0.8 <= min(found).total_seconds() <= seconds * 0.83
    assert seconds * 1.17 <= max(found).total_seconds() <= seconds * 1.2


def test_a_number_or_timedelta_is_the_delay_each_time():
    assert [2 * SECOND] * 3 == [after(n, retry_delay=2) for n in range(3)]
    assert [0.5 * SECOND] * 3 == [after(n, retry_delay=0.5) for n in range(3)]
    assert [2 * SECOND] * 3 == [after(n, retry_delay=2 * SECOND) for n in range(3)]
    assert timedelta(0) == after(0, retry_delay=0)


def test_a_list_is_followed_and_its_last_entry_repeats():
    expected = [SECOND, 5 * SECOND, 9 * SECOND, 9 * SECOND, 9 * SECOND]
    assert expected == [after(n, retry_delay=[1, 5 * SECOND, 9]) for n in range(5)]
    assert expected == [after(n, retry_delay=(1, 5 * SECOND, 9)) for n in range(5)]


def test_a_callable_gets_the_failures_so_far_and_the_exception():
    met = []

    def rule(failures, error):
        met.append((failures, error))
        return failures * 10

    assert [10 * SECOND, 20 * SECOND] == [after(0, retry_delay=rule), after(1, retry_delay=rule)]
    assert [(1, BAD), (2, BAD)] == met


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (-5, timedelta(0)),
        (-5 * SECOND, timedelta(0)),
        (1e8, timedelta(seconds=1e8)),
        (timedelta.max, timedelta(days=3650)),
    ],
)
def test_what_a_callable_or_a_retry_asks_is_kept_within_what_a_database_can_count(given, expected):
    assert expected == after(0, retry_delay=lambda *_: given)
    assert expected == after(0, Retry(given))


@pytest.mark.parametrize("given", ["soon", None, float("nan"), 1e300, [1]])
def test_nonsense_from_a_callable_is_an_error_of_its_own(given):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        after(0, retry_delay=lambda *_: given)


def test_retry_passes_the_filter_and_not_the_limit():
    only = {"retry_exceptions": (KeyError,), "retry_delay": 7}
    assert 3 * SECOND == after(0, Retry(3), **only)
    assert 3 * SECOND == after(0, Retry(3 * SECOND), **only)
    assert timedelta(0) == after(0, Retry(0), **only)
    assert 7 * SECOND == after(0, Retry(), **only)
    assert after(3, Retry(3), retries=3, **only) is None


@pytest.mark.parametrize("delay", ["soon", [1], True, object()])
def test_retry_refuses_a_delay_that_is_none(delay):
    with pytest.raises(TypeError, match="seconds or a timedelta, then a message"):
        Retry(delay)


def test_retry_has_a_message():
    assert "asked to be run again" == str(Retry())
    assert "busy" == str(Retry(1, "busy"))


@pytest.mark.parametrize(
    ("wanted", "error", "expected"),
    [
        ((), ValueError(), True),
        ((), SystemExit(), False),
        ((), KeyboardInterrupt(), False),
        ((ValueError,), ValueError(), True),
        ((ValueError,), UnicodeError(), True),  # a subclass
        ((UnicodeError,), ValueError(), False),
        ((KeyError, OSError), TimeoutError(), True),
        ((SystemExit,), SystemExit(), True),
        ((lambda e: e.args == (503,),), ValueError(503), True),
        ((lambda e: e.args == (503,),), ValueError(404), False),
        ((KeyError, lambda e: e.args == (503,)), ValueError(503), True),
        (("builtins.ValueError",), ValueError(), True),
        (("builtins.ValueError",), UnicodeError(), True),
        (("builtins.ValueError",), KeyError(), False),
        (("no.such.Error",), ValueError(), False),
    ],
)
def test_the_filter(wanted, error, expected):
    assert expected == matches(wanted, error)


def test_what_a_row_keeps_decides_as_the_options_did():
    given = options_of_function(
        {"retry_exceptions": (LookupError,), "retry_delay": [1, 2 * SECOND]}
    )
    row = json.loads(json.dumps(changed(given, Options())))
    back = restored(Options(), row)
    assert ["builtins.LookupError"] == row["retry_exceptions"]
    for failures in range(4):
        for error in (KeyError("a subclass"), ValueError("other")):
            assert next_delay(given, 9, failures, error) == next_delay(back, 9, failures, error)


def test_a_rule_of_the_function_holds_where_the_row_says_nothing():
    own = options_of_function({"retry_delay": lambda *_: 4, "retry_exceptions": (KeyError,)})
    row = json.loads(json.dumps(changed(own.using({"label": "x"}), own)))
    assert {} == row
    assert 4 * SECOND == next_delay(restored(own, row), 9, 0, KeyError())
