"""Repeating tasks: what their fields may hold, their names, their next run. Makes no tasks of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django.db import models
from django.utils import timezone

from cq import database, registry, signature
from cq.exceptions import CQError, InvalidOption, InvalidSchedule, UnknownQueue, UnknownTask
from cq.options import Options
from cq.payload import Encoder
from cq.registry import Definition
from cq.signature import Call, Signature
from cq.slots import ELAPSED, INTERVALS, MOST, CatchUp, Kind, Timing, check_moment, zone_named

if TYPE_CHECKING:
    from cq.models import RepeatingTask

When = str | timedelta

CALL = ("func_name", "args", "kwargs", "queue", "priority", "result_ttl")
"""The fields that say what is called."""
WHEN = ("kind", "crontab", "every")
"""Of those that say when, what is given as one: a crontab, or a timedelta."""
TIMING = (*WHEN, "timezone", "start", "end", "enabled")
"""The fields that say when: the next run is another once one of them is."""
KEPT_BY_WORKERS = (
    *("next_run", "planned", "error", "last_run", "last_skip", "repeats"),
    *("run_count", "skip_count", "miss_count"),
)
"""What firing writes: a `save()` that did not change them leaves them alone."""
MOST_CAUGHT_UP = 1000
LATE = timedelta(hours=1)
"""How long ago a task that runs ONCE may have been due when it is planned: forms take their time."""
ANY_START = datetime(2000, 1, 1, tzinfo=UTC)
"""To check a timing that has none yet: it gets one when it is planned."""
_LONGEST_NAME = 200
_UNREAD = object()


# When it is due.


def timing_of(row: RepeatingTask, *, start: datetime | None = None) -> Timing:
    """When it is due, without regard to whether it is enabled.

    `start`: what an "every N" one is counted from that has no start. Raises InvalidSchedule.
    """
    kind = kind_named(row.kind)
    return Timing(
        kind=kind,
        zone=zone_of(row),
        crontab=row.crontab,
        every=row.every,
        start=start if row.start is None and kind in INTERVALS else row.start,
        end=row.end,
    )


def timing_ahead(row: RepeatingTask) -> Timing:
    """The same, from its next run on. What is due ONCE is due then, wherever somebody has moved it."""
    # Without a start it was given a next run by hand, after its end had passed.
    timing = timing_of(row, start=row.end or row.next_run)
    return replace(timing, start=row.next_run, end=None) if timing.kind == Kind.ONCE else timing


def kind_named(name: object) -> Kind:
    """The kind of that name. Raises InvalidSchedule."""
    if name not in Kind.values:
        raise InvalidSchedule("kind", f"There is no kind {name!r}: {', '.join(Kind.values)}.")
    return Kind(str(name))


def zone_of(row: RepeatingTask) -> ZoneInfo:
    """Its time zone: the project's where it names none. Raises InvalidSchedule."""
    return zone_named(row.timezone or timezone.get_default_timezone_name())


def given_timing(when: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields`, with those that `when` says: a crontab, or the time that passes from one run to the next.

    Raises InvalidSchedule.
    """
    if when == "" and "kind" in fields:
        crontab = fields.get("crontab", "")
        if crontab and fields["kind"] != Kind.CRONTAB:
            raise InvalidSchedule("crontab", f"{crontab!r} counts for nothing with this kind.")
        return {**fields, "crontab": _single_spaced(crontab)}
    said: dict[str, Any]
    if isinstance(when, str) and when.strip():
        said = {"kind": Kind.CRONTAB, "crontab": _single_spaced(when)}
    elif isinstance(when, timedelta) and when > timedelta(0) and not when % timedelta(seconds=1):
        kind = next(kind for kind, unit in reversed(ELAPSED.items()) if not when % unit)
        said = {"kind": kind, "every": when // ELAPSED[kind], "crontab": ""}
    else:
        raise InvalidSchedule(
            "crontab",
            f"{when!r} does not say when: give a crontab, or a timedelta of whole seconds; or "
            'nothing, as "", and kind=… with what that needs.',
        )
    for name in fields.keys() & set(WHEN):
        raise InvalidSchedule(
            name, f"{when!r} says when already: leave out {name}=…, or give '' instead of it."
        )
    return {**fields, **said}


def _single_spaced(crontab: Any) -> Any:
    """As it is compared and shown; what is no text is refused elsewhere."""
    return " ".join(crontab.split()) if isinstance(crontab, str) else crontab


def plan(row: RepeatingTask, now: datetime) -> None:
    """Set its next run, as of `now` by the database's clock. Raises InvalidSchedule.

    One that is not enabled has none, and is planned again once it is.
    """
    row.error, row.planned, row.next_run = "", row.enabled, None
    if row.enabled:
        timing = _begun(row, now)
        if row.repeats != 0:
            row.next_run = _first(row, timing, now)


def _begun(row: RepeatingTask, now: datetime) -> Timing:
    """When it is due; "every N …" is counted from `now` where nothing else is said."""
    if row.start is not None or row.kind not in INTERVALS:
        return timing_of(row)
    begin = datetime.fromtimestamp(math.ceil(now.timestamp()), UTC)
    check_moment("end", row.end)
    if row.end is not None and row.end < begin:  # it begins once that is another
        return timing_of(row, start=row.end)
    row.start = begin
    return timing_of(row)


def _first(row: RepeatingTask, timing: Timing, now: datetime) -> datetime | None:
    if timing.kind != Kind.ONCE or timing.start is None:
        return timing.after(now - timedelta(microseconds=1))
    has_run = row.last_run is not None and row.last_run >= timing.start
    return None if has_run or now - timing.start > LATE else timing.start


def upcoming(row: RepeatingTask, number: int) -> list[datetime]:
    """Its next run and the slots after it, in UTC; empty where there is none. Raises InvalidSchedule."""
    if row.next_run is None:
        return []
    if row.repeats is not None and row.repeats >= 0:
        number = min(number, max(1, row.repeats))  # 0: its next run was set by hand
    later = timing_ahead(row).following(row.next_run)
    return list(islice(chain([row.next_run], later), number))


# What is wrong with it.


def problems(row: RepeatingTask) -> dict[str, str]:
    """By field, what is to be mended before it can fire."""
    found: dict[str, str] = {}
    try:
        _check_timing(row)
    except InvalidSchedule as error:
        found[error.field] = str(error)
    if row.catch_up == CatchUp.ALL and not _is_number(row.catch_up_limit, 1, MOST_CAUGHT_UP):
        found["catch_up_limit"] = f"Give a whole number from 1 to {MOST_CAUGHT_UP}."
    if row.repeats is not None and not _is_number(row.repeats, -1, MOST):
        found["repeats"] = "Give the number of runs that are left; -1 or nothing: for ever."
    try:
        call_of(row)
    except InvalidSchedule as error:
        found[error.field] = str(error)
    return found


def _check_timing(row: RepeatingTask) -> None:
    timing_of(row, start=row.end or ANY_START)


def _is_number(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def problem(row: RepeatingTask) -> str:
    """Why it can't fire, or could not the last time; empty where nothing is wrong."""
    return row.error or next(iter(problems(row).values()), "")


def call_of(row: RepeatingTask) -> Call:
    """The call that it makes, each time. Raises InvalidSchedule, whose cause says more."""
    try:
        definition = registry.get(row.func_name)
    except UnknownTask as error:
        raise InvalidSchedule("func_name", str(error)) from error
    for name, kind in (("args", list), ("kwargs", dict)):
        if not isinstance(getattr(row, name), kind):
            raise InvalidSchedule(name, f"Give a JSON {('object', 'list')[kind is list]}.")
    options = _options(row, definition)
    try:
        return signature.call(Signature(definition, tuple(row.args), row.kwargs, options))
    except UnknownQueue as error:
        raise InvalidSchedule("queue", str(error)) from error
    except CQError as error:  # they do not fit, or JSON can't hold them
        field = "kwargs" if row.kwargs and not row.args else "args"
        raise InvalidSchedule(field, str(error)) from error


def _options(row: RepeatingTask, definition: Definition) -> Options:
    """Those of the function, with what the row says itself."""
    options = definition.options
    if row.queue:
        options = _using(options, "queue", row.queue)
    if row.priority is not None:
        options = _using(options, "priority", row.priority)
    if row.result_ttl is not None:
        options = _using(options, "result_ttl", row.result_ttl)
    return options


def _using(options: Options, name: str, value: Any) -> Options:
    try:
        return options.using({name: value})
    except InvalidOption as error:
        raise InvalidSchedule(name, str(error)) from error


def is_known(row: RepeatingTask) -> bool:
    """Whether code here defines its function."""
    try:
        registry.get(row.func_name)
    except UnknownTask:
        return False
    return True


# Its name.


def name_for(row: RepeatingTask) -> str:
    """A stable name, from the function, its arguments, and when it is due.

    Of the arguments it holds a digest: what may be shown of them depends on the code of the day.
    """
    mark = _digest(row.func_name, row.args, row.kwargs) if row.args or row.kwargs else ""
    parts = (row.func_name, mark, _when(row), row.timezone)
    return _bounded(" ".join(part for part in parts if part))


def _digest(func_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Slow to compute, so that a short secret is not found by trying."""
    given = json.dumps([args, kwargs], cls=Encoder, sort_keys=True).encode()
    return hashlib.pbkdf2_hmac("sha256", given, func_name.encode(), 100_000, 6).hex()


def called(row: RepeatingTask) -> str:
    """Its function with what it gives to it, without what is sensitive."""
    return _called(row.func_name, row.args, row.kwargs)


def call_named(func_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """A stable name, from the function and its arguments."""
    return _bounded(_called(func_name, args, kwargs))


def _called(func_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    args, kwargs = _masked(func_name, args, kwargs)
    given = [_brief(value) for value in args]
    given += [f"{name}={_brief(value)}" for name, value in sorted(kwargs.items())]
    return f"{func_name}({', '.join(given)})" if given else func_name


def shown_arguments(row: RepeatingTask) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What it gives to its function, with what is sensitive as `***`."""
    return _masked(row.func_name, row.args, row.kwargs)


def _masked(func_name: str, args: Any, kwargs: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Also of a form that is not filled in yet, or a row that somebody wrote by hand."""
    args = args if isinstance(args, Sequence) and not isinstance(args, str) else []
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    return signature.shown(func_name, args, kwargs, {})


def _bounded(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _LONGEST_NAME - len(digest) - 2]}… {digest}"


def _when(row: RepeatingTask) -> str:
    if row.kind == Kind.CRONTAB:
        return str(_single_spaced(row.crontab))
    how = "once" if row.kind == Kind.ONCE else f"every {row.every} {row.kind.lower()}"
    return f"{how} from {row.start.astimezone(UTC).isoformat()}" if row.start else how


def _brief(value: Any) -> str:
    return json.dumps(value, cls=Encoder, ensure_ascii=False, sort_keys=True)


def changed_by_hand(row: RepeatingTask) -> dict[str, Any]:
    """Of a schedule that code declares: what differs from that, and what code says instead."""
    declared: Mapping[str, Any] = row.declared or {}
    known = {name: value for name, value in declared.items() if hasattr(row, name)}
    return {name: value for name, value in known.items() if getattr(row, name) != value}


# Saving.


def remember(row: RepeatingTask, names: Iterable[str] | None = None) -> None:
    """What its columns hold, of all or of these: what differs from that later was changed here."""
    watched = {*CALL, *TIMING, *KEPT_BY_WORKERS}.intersection(row.__dict__)
    if names is not None:
        watched &= set(names)
    # The arguments are copied, as a list can be changed in place.
    row.loaded = {**row.loaded, **{name: deepcopy(row.__dict__[name]) for name in watched}}


def prepare(
    row: RepeatingTask, update_fields: Iterable[str] | None, *, is_new: bool
) -> Iterable[str] | None:
    """Before a `save()`: name it, plan it where that is new, and say which columns to write.

    Raises InvalidSchedule for a timing that makes no sense.
    """
    check_moment("next_run", row.__dict__.get("next_run"))
    given = row.__dict__.get("crontab")
    if given != row.loaded.get("crontab"):
        row.crontab = _single_spaced(given)
    update_fields = None if update_fields is None else set(update_fields)
    if is_new:
        _name(row)
        if row.next_run is None or not row.enabled:
            plan(row, database.read_clock())
        else:
            _begun(row, database.read_clock())
        row.planned = row.enabled
        return update_fields
    changed = _changed(row)
    if update_fields is not None:
        changed &= set(update_fields)
    if _is_to_be_planned(row, changed):
        plan(row, database.read_clock())
        changed |= {"next_run", "planned", "error", "start"}
    elif changed & {"next_run", *TIMING}:  # a next run by hand
        _begun(row, database.read_clock())
        changed |= {"planned", "start"}
        row.planned = row.enabled
    if update_fields is not None:
        return {*update_fields, *changed}
    _name(row)
    written = (field.name for field in row._meta.concrete_fields if not field.primary_key)
    return [
        n
        for n in written
        if n in changed or n not in ("start", *KEPT_BY_WORKERS, *row.get_deferred_fields())
    ]


def _name(row: RepeatingTask) -> None:
    if not row.name:
        _check_timing(row)
        row.name = name_for(row)


def _changed(row: RepeatingTask) -> set[str]:
    """What of what is watched this `save()` would change.

    Seen against the row as it is now: an instance may be older than what a worker, or somebody else, has
    written, and may not know what its transaction has come to. It takes over what workers wrote.
    """
    watched = (*TIMING, *KEPT_BY_WORKERS)
    stored = rows().filter(pk=row.pk).values(*watched).first()
    if stored is None:  # deleted meanwhile: save() says so
        return set()
    for name in ("start", *KEPT_BY_WORKERS):
        read = row.loaded.get(name, None if name == "start" else _UNREAD)
        if row.__dict__.get(name, read) == read:
            setattr(row, name, stored[name])
    return {name for name in watched if name in row.__dict__ and row.__dict__[name] != stored[name]}


def _is_to_be_planned(row: RepeatingTask, changed: set[str]) -> bool:
    by_hand = "next_run" in changed and row.next_run is not None
    if changed & set(TIMING):
        return not by_hand or not row.enabled
    if "repeats" in changed and row.repeats == 0:  # whatever it was due for
        return True
    # None was left, or was removed, or it was put aside: whoever saves it has mended it.
    is_open = bool(changed & {"next_run", "repeats"}) or bool(row.error)
    return row.enabled and row.next_run is None and is_open


def rows() -> models.QuerySet[RepeatingTask]:
    """All schedules, on the database where they live."""
    return database.repeating_model()._base_manager.using(database.alias())


def enable(wanted: Iterable[RepeatingTask], *, on: bool = True) -> int:
    """Have these fire from their next slot on, or not at all. Returns how many were changed."""
    changed = 0
    for row in wanted:
        if row.enabled is not on:
            row.enabled = on
            row.save(update_fields=["enabled"])
            changed += 1
    return changed
