"""A schedule in words, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cron_descriptor

from cq.crontab import Crontab
from cq.slots import Kind

if TYPE_CHECKING:
    from cq.models import RepeatingTask

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

_UNKNOWN = (
    cron_descriptor.FormatError,
    cron_descriptor.MissingFieldError,
    cron_descriptor.WrongArgumentError,
)


def in_words(row: RepeatingTask) -> str:
    """When it is due, without a full stop: "At 08:00, Monday through Friday, Europe/Paris time"."""
    if row.kind == Kind.ONCE:
        said = "Once"
    elif row.kind in _UNITS:
        unit = _UNITS[Kind(row.kind)]
        said = f"Every {unit}" if row.every == 1 else f"Every {row.every} {unit}s"
    else:
        said = _crontab_in_words(row.crontab)
    return f"{said}, {row.timezone} time" if row.timezone else said


def _crontab_in_words(text: str) -> str:
    """By a library, which may not know all that croniter does: then the crontab itself says it."""
    # Not as the host's locale has it: the rest of the page would be in another language.
    options = cron_descriptor.Options(locale_code="en_US", use_24hour_time_format=True)
    try:
        fields = Crontab(text).fields
        seconds_first = " ".join((*fields[5:], *fields[:5]))
        return str(cron_descriptor.get_description(seconds_first, options))
    except (ValueError, *_UNKNOWN):
        return text
