"""The options of `@task` and `using()`: their names, ranges and defaults, and how a task row keeps them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict

from django.utils import timezone

from cq.conf import (
    FIRST_YEAR,
    LAST_YEAR,
    LONGEST,
    NO_QUEUE_NAME,
    QUEUE_NAME,
    TOO_LONG,
    settings,
)
from cq.exceptions import InvalidOption, NotSerializable, UnknownQueue
from cq.payload import normalise

type_or_predicate = type[BaseException] | Callable[[BaseException], bool]
Delay = float | timedelta | Sequence[float | timedelta] | Callable[[int, BaseException], Any]


class _Unset:
    def __repr__(self) -> str:
        return "<default>"


UNSET: Final[Any] = _Unset()

# Belong to the function, and so to @task alone.
_OF_FUNCTION = ("name", "aliases", "atomic", "repeat", "timezone")
# Belong to one call, and so to using() alone.
_OF_CALL = ("run_after",)


class ContainerOptions(TypedDict, total=False):
    """What `using()` of a group or chain takes."""

    run_after: datetime | timedelta | None
    result_ttl: float | timedelta | None
    fail_fast: bool
    force_chain: bool
    label: str
    meta: Mapping[str, Any]


class CallOptions(ContainerOptions, total=False):
    """What `using()` takes."""

    queue: str
    priority: int
    expires: float | timedelta | datetime | None
    retries: int
    retry_exceptions: Sequence[type_or_predicate]
    retry_delay: Delay | None
    timeout: float | timedelta | None
    rerun_lost: bool
    capture_logs: bool
    sensitive: Sequence[str]


class TaskOptions(CallOptions, total=False):
    """What `@task` takes."""

    name: str
    aliases: Sequence[str]
    atomic: bool
    repeat: str | timedelta
    timezone: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked options; `UNSET` is where the project's setting holds."""

    name: str = ""
    aliases: tuple[str, ...] = ()
    atomic: bool = True
    repeat: str | timedelta | None = None
    timezone: str = ""
    queue: str = "default"
    priority: int = 0
    run_after: datetime | timedelta | None = None
    expires: timedelta | datetime | None = None
    retries: int = UNSET
    retry_exceptions: tuple[type_or_predicate | str, ...] = ()
    retry_delay: Delay | None = None
    timeout: timedelta | None = UNSET
    result_ttl: timedelta | None = UNSET
    rerun_lost: bool = False
    fail_fast: bool = False
    force_chain: bool = False
    capture_logs: bool = False
    sensitive: tuple[str, ...] = ("password",)
    label: str = ""
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def retries_allowed(self) -> int:
        return settings().retries if self.retries is UNSET else self.retries

    @property
    def kept_for(self) -> timedelta | None:
        return settings().result_ttl if self.result_ttl is UNSET else self.result_ttl

    @property
    def seconds_allowed(self) -> float | None:
        if self.timeout is UNSET:
            return settings().timeout
        return None if self.timeout is None else self.timeout.total_seconds()

    def using(self, given: Mapping[str, Any]) -> Options:
        """A copy with what `using()` was given, checked."""
        for name in given:
            if name in _OF_FUNCTION:
                raise InvalidOption(f"{name!r} belongs to the function: give it to @task.")
        for name in ("retry_exceptions", "retry_delay"):
            _storable(name, given.get(name))
        return dataclasses.replace(self, **_checked(given))

    def stored(self) -> dict[str, Any]:
        """What a row keeps besides its columns, as JSON: options that steer its later runs."""
        return {
            "retry_delay": _delay_as_json(self.retry_delay),
            "retry_exceptions": [_dotted(entry) for entry in self.retry_exceptions],
            "sensitive": list(self.sensitive),
            "capture_logs": self.capture_logs,
        }


def options_of_function(given: Mapping[str, Any]) -> Options:
    """The options that `@task` was given, checked."""
    for name in given:
        if name in _OF_CALL:
            raise InvalidOption(f"{name!r} belongs to one call: give it to using().")
    options = Options(**_checked(given))
    if options.timezone and options.repeat is None:
        raise InvalidOption(
            "'timezone' says whose clock 'repeat' goes by, and there is no 'repeat'."
        )
    return options


def changed(options: Options, definition: Options) -> dict[str, Any]:
    """What of `options.stored()` differs from the function's own: all that a row must keep."""
    if options is definition:
        return {}
    names = ("retry_delay", "retry_exceptions", "sensitive", "capture_logs")
    stored = options.stored()
    return {n: stored[n] for n in names if getattr(options, n) != getattr(definition, n)}


def restored(definition: Options, row: Mapping[str, Any]) -> Options:
    """The function's options with those that a row kept."""
    if not row:
        return definition
    names = {item.name for item in dataclasses.fields(Options)}
    lists = ("retry_exceptions", "sensitive")
    given: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in row.items() if k in names}
    return dataclasses.replace(definition, **given)


def check_queue(name: str) -> str:
    """`name`, if it can be one: a legal end of a channel's name."""
    # What a caller that mypy does not check gives.
    if not QUEUE_NAME.fullmatch(name if issubclass(type(name), str) else ""):
        raise InvalidOption(f"{name!r} {NO_QUEUE_NAME}.")
    return name


def check_known(queue: str, known: frozenset[str]) -> None:
    """Raise UnknownQueue where no worker would listen to `queue`."""
    if queue not in known:
        raise UnknownQueue(
            f"No queue {queue!r} is known; add it to CQ_QUEUES, or name it in a @task. "
            f"Known: {', '.join(sorted(known))}."
        )


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    known = {item.name for item in dataclasses.fields(Options)}
    checked = {}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}."
            )
            raise InvalidOption(f"No option {name!r}; {hint}")
        checked[name] = _CHECKS[name](name, value)
    return checked


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"{name!r} must be True or False, not {value!r}.")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise InvalidOption(f"{name!r} must be text of at most 200 characters.")
    try:
        return str(normalise(value, f"option {name!r}"))
    except NotSerializable as error:  # NUL, a lone surrogate
        raise InvalidOption(str(error)) from error


def _repeat(name: str, value: Any) -> str | timedelta:
    """What it says is checked where the schedule is declared."""
    if not isinstance(value, str | timedelta):
        raise InvalidOption(f"{name!r} must be a crontab or a timedelta, not {value!r}.")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidOption(f"{name!r} must be a list or tuple of strings, not {value!r}.")
    texts = tuple(_text(name, entry) for entry in value)
    if not all(texts):
        raise InvalidOption(f"{name!r} must not hold empty text.")
    return texts


def _between(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidOption(f"{name!r} must be a whole number from {low} to {high}.")
        return value

    return check


def _duration(name: str, value: Any) -> timedelta:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            value = timedelta(seconds=value)
        except (OverflowError, ValueError) as error:
            raise InvalidOption(f"{name!r}: {value!r} is no number of seconds.") from error
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidOption(f"{name!r} must be a number of seconds or a timedelta, not negative.")
    if value > LONGEST:
        raise InvalidOption(f"{name!r} must be {TOO_LONG}.")
    return value


def _duration_or_none(name: str, value: Any) -> timedelta | None:
    return None if value is None else _duration(name, value)


def _moment(name: str, value: Any) -> datetime | timedelta | None:
    if isinstance(value, datetime):
        if timezone.is_naive(value):
            raise InvalidOption(f"{name!r} must be an aware datetime; {value!r} has no time zone.")
        if not FIRST_YEAR <= value.year <= LAST_YEAR:
            raise InvalidOption(f"{name!r} must be of the years {FIRST_YEAR} to {LAST_YEAR}.")
        return value
    return _duration_or_none(name, value)


def _run_after(name: str, value: Any) -> datetime | timedelta | None:
    if value is not None and not isinstance(value, (datetime, timedelta)):
        raise InvalidOption(f"{name!r} must be an aware datetime or a timedelta, not {value!r}.")
    return _moment(name, value)


def _exceptions(name: str, value: Any) -> tuple[type_or_predicate, ...]:
    entries = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for entry in entries:
        if not (issubclass(entry, BaseException) if isinstance(entry, type) else callable(entry)):
            raise InvalidOption(f"{name!r} must hold exception classes and predicates.")
    return entries


def _retry_delay(name: str, value: Any) -> Delay | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, (list, tuple)):
        if not value:
            raise InvalidOption(f"{name!r} must not be an empty list.")
        return [_duration(name, entry) for entry in value]
    return _duration(name, value)


def _meta(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidOption(f"{name!r} must be a dict.")
    try:
        return normalise(dict(value), "option 'meta'")  # type: ignore[return-value]
    except NotSerializable as error:
        raise InvalidOption(str(error)) from error


def _queue(name: str, value: Any) -> str:
    return check_queue(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _text,
    "aliases": _texts,
    "atomic": _bool,
    "repeat": _repeat,
    "timezone": _text,
    "queue": _queue,
    "priority": _between(-100, 100),
    "run_after": _run_after,
    "expires": _moment,
    "retries": _between(0, 32767),
    "retry_exceptions": _exceptions,
    "retry_delay": _retry_delay,
    "timeout": _duration_or_none,
    "result_ttl": _duration_or_none,
    "rerun_lost": _bool,
    "fail_fast": _bool,
    "force_chain": _bool,
    "capture_logs": _bool,
    "sensitive": _texts,
    "label": _text,
    "meta": _meta,
}


def _storable(name: str, value: Any) -> None:
    entries = value if isinstance(value, (list, tuple)) else (value,)
    for entry in entries:
        if callable(entry) and not isinstance(entry, type):
            raise InvalidOption(f"{name!r} with a callable can't be stored: give it to @task.")


def _dotted(entry: type_or_predicate | str) -> str:
    """Stored exception classes are compared by name, so that nothing is ever imported for a row."""
    if isinstance(entry, str):
        return entry
    return f"{entry.__module__}.{entry.__qualname__}"


def _delay_as_json(delay: Any) -> Any:
    if isinstance(delay, timedelta):
        return delay.total_seconds()
    if isinstance(delay, list):
        return [_delay_as_json(entry) for entry in delay]
    return None if callable(delay) else delay
