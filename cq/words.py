"""A schedule in words, for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import cron_descriptor
from croniter import croniter

from cq import repeating
from cq.crontab import Crontab
from cq.exceptions import InvalidSchedule
from cq.slots import ELAPSED, Kind, zone_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cq.models import RepeatingTask

OVERDUE = timedelta(seconds=10)
"""A next run that is so long ago: no worker fires, or all are held up."""
_UNITS = {
    Kind.SECONDS: "second",
    Kind.MINUTES: "minute",
    Kind.HOURS: "hour",
    Kind.DAYS: "day",
    Kind.WEEKS: "week",
    Kind.MONTHS: "month",
    Kind.QUARTERS: "quarter",
    Kind.YEARS: "year",
}
_SIZES = (60, 24, 31, 12, 7, 60)  # of a crontab's fields
_RANGE = re.compile(r"(\d+)-(\d+)")
_STEPS = re.compile(r"\*/(\d+)")

_UNKNOWN = (
    cron_descriptor.FormatError,
    cron_descriptor.MissingFieldError,
    cron_descriptor.WrongArgumentError,
)


def in_words(row: RepeatingTask) -> str:
    """When it is due, without a full stop: "At 08:00, Monday through Friday, Europe/Paris time"."""
    is_counted = row.kind == Kind.ONCE or row.kind in _UNITS
    said = _counted_in_words(row) if is_counted else _crontab_in_words(row.crontab)
    if is_counted and row.timezone and row.timezone not in zone_names():
        return f"{said}, UTC"
    return f"{said}, {row.timezone} time" if row.timezone else said


def in_zone(row: RepeatingTask, moment: datetime) -> str:
    """A moment by the clock of its zone, to the second; by UTC where there is no such zone."""
    return f"{_by_its_clock(row, moment):%Y-%m-%d %H:%M:%S %Z}"


def is_overdue(row: RepeatingTask, now: datetime) -> bool:
    """Whether its next run should have come, by the database's clock."""
    return row.enabled and row.next_run is not None and row.next_run < now - OVERDUE


def code_says(row: RepeatingTask) -> Mapping[str, Any]:
    """Of what was changed by hand: what code says instead, with what is sensitive as `***`."""
    changed = repeating.changed_by_hand(row)
    named = {name: changed[name] for name in ("args", "kwargs") if name in changed}
    func_name = (row.declared or {}).get("func_name", row.func_name)
    args, kwargs = repeating.shown_arguments(type(row)(func_name=func_name, **named))
    return {**changed, **{name: {"args": args, "kwargs": kwargs}[name] for name in named}}


def _counted_in_words(row: RepeatingTask) -> str:
    """From its start, where that is known."""
    start = None if row.start is None else _by_its_clock(row, row.start)
    date, time = ("", "") if start is None else (f"{start:%Y-%m-%d}", _time(start))
    if row.kind == Kind.ONCE:
        return f"Once, on {date} at {time}" if start else "Once"
    unit = _UNITS[Kind(row.kind)]
    said = f"Every {unit}" if row.every == 1 else f"Every {row.every} {unit}s"
    if start is None:
        return said
    if row.kind in ELAPSED:
        return f"{said} from {date} {time}"
    return f"{said} at {time} from {date}"


def _by_its_clock(row: RepeatingTask, moment: datetime) -> datetime:
    try:
        return moment.astimezone(repeating.zone_of(row))
    except (InvalidSchedule, OverflowError):  # of a row that something else wrote
        return moment.astimezone(UTC)


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def _crontab_in_words(text: str) -> str:
    """By a library, which may not know all that croniter does: then the crontab itself says it."""
    # Not as the host's locale has it: the rest of the page would be in another language.
    options = cron_descriptor.Options(locale_code="en_US", use_24hour_time_format=True)
    try:
        fields = _spelled(Crontab(text).fields)
        seconds_first = " ".join((*fields[5:], *fields[:5]))
        return str(cron_descriptor.get_description(seconds_first, options))
    except (ValueError, *_UNKNOWN):
        return text


def _spelled(fields: tuple[str, ...]) -> list[str]:
    """As the library reads them rightly: in capitals, and with a list for what it says wrongly.

    Of `*/45` it says "every 45 minutes", and it is due at :00 and :45. A range of days of the week
    beside days of the month it does not say to be enough by itself.

    Raises ValueError for what it can't say in any way.
    """
    values = croniter.expand(" ".join(fields))[0]
    if len(fields) == 6 and fields[0] == "*" and fields[1] != "*" and fields[5] != "*":
        raise ValueError("no words for one second of each minute of some hours")
    is_either = values[2] != ["*"] and values[4] != ["*"]
    spelled = []
    for number, (field, found) in enumerate(zip(fields, values, strict=False)):
        is_mixed = ("," in field and "#" in field) or not all(isinstance(v, int) for v in found)
        if is_mixed and found not in (["*"], ["l"]):
            raise ValueError(f"no words for {field}")
        is_day_of_week = number == 4 and ("/" in field or (is_either and "-" in field))
        if found == ["*"]:
            spelled.append("*")
        elif number == 2 and len(found) == 31:  # given, so that either day is enough
            spelled.append("1-31")
        elif is_day_of_week or _is_wrapped(field) or _is_uneven(field, found, _SIZES[number]):
            spelled.append(",".join(map(str, found)))
        else:
            spelled.append(field.upper())
    return spelled


def _is_wrapped(field: str) -> bool:
    """Whether a range goes on past the highest value."""
    return any(int(first) >= int(last) for first, last in _RANGE.findall(field))


def _is_uneven(field: str, found: list[Any], size: int) -> bool:
    """Whether its step is not the distance from each of its values to the next, once round."""
    if "/" not in field or found == ["l"]:
        return False
    whole = _STEPS.fullmatch(field)
    return whole is None or len(found) * int(whole[1]) != size or len(found) == 1
