"""Whether a failed run is tried again, and when: a pure function of the failure and the options."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from cq.exceptions import Retry
from cq.options import Options

FIRST = timedelta(seconds=15)
LONGEST = timedelta(hours=1)
JITTER = 0.2
LONGEST_ASKED = timedelta(days=3650)  # no database can count to timedelta.max


def next_delay(
    options: Options, retries: int, failures: int, error: BaseException
) -> timedelta | None:
    """How long to wait before the next attempt, or None where this failure is final.

    `failures` counts those before this one. A `Retry` passes the filter, not the limit.
    """
    if failures >= retries:
        return None
    if isinstance(error, Retry):
        if error.delay is not None:
            return _as_duration(error.delay)
    elif not matches(options.retry_exceptions, error):
        return None
    return _delay(options.retry_delay, failures, error)


def matches(wanted: Sequence[Any], error: BaseException) -> bool:
    """Whether one of the classes (or, from a row, their dotted names) or predicates wants `error`.

    None wanted: any Exception, but neither SystemExit nor KeyboardInterrupt.
    """
    if not wanted:
        return isinstance(error, Exception)
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    for entry in wanted:
        if isinstance(entry, str):
            found = entry in names
        elif isinstance(entry, type):
            found = isinstance(error, entry)
        else:
            found = bool(entry(error))
        if found:
            return True
    return False


def _delay(rule: Any, failures: int, error: BaseException) -> timedelta:
    if callable(rule):
        return _as_duration(rule(failures + 1, error))
    if isinstance(rule, (list, tuple)):
        return _as_duration(rule[min(failures, len(rule) - 1)])
    if rule is not None:
        return _as_duration(rule)
    doubled = FIRST * 2 ** min(failures, 20)
    jittered: timedelta = min(doubled, LONGEST) * random.uniform(1 - JITTER, 1 + JITTER)
    return jittered


def _as_duration(value: Any) -> timedelta:
    delay: timedelta = value if isinstance(value, timedelta) else timedelta(seconds=value)
    return min(max(delay, timedelta(0)), LONGEST_ASKED)
