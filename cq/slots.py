"""The slots of a schedule: the moments at which it is due. Pure: no database, no clock of this host."""

from __future__ import annotations

import calendar
import difflib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from zoneinfo import ZoneInfo, available_timezones

from django.db import models

from cq.conf import FIRST_YEAR, LAST_YEAR
from cq.crontab import Crontab, first_instant
from cq.exceptions import InvalidSchedule

_TICK = timedelta(microseconds=1)


class Kind(models.TextChoices):
    """How a schedule's slots are found."""

    CRONTAB = "CRONTAB"
    ONCE = "ONCE"
    SECONDS = "SECONDS"
    MINUTES = "MINUTES"
    HOURS = "HOURS"
    DAYS = "DAYS"
    WEEKS = "WEEKS"
    MONTHS = "MONTHS"
    QUARTERS = "QUARTERS"
    YEARS = "YEARS"


class CatchUp(models.TextChoices):
    """What becomes of slots that passed while nothing fired: nothing, one task, or a task for each."""

    SKIP = "SKIP"
    ONE = "ONE"
    ALL = "ALL"


ELAPSED = {
    Kind.SECONDS: timedelta(seconds=1),
    Kind.MINUTES: timedelta(minutes=1),
    Kind.HOURS: timedelta(hours=1),
}
_DAYS = {Kind.DAYS: 1, Kind.WEEKS: 7}
_MONTHS = {Kind.MONTHS: 1, Kind.QUARTERS: 3, Kind.YEARS: 12}
INTERVALS = frozenset({*ELAPSED, *_DAYS, *_MONTHS})
"""The kinds of which every N-th is due, counted from `start`."""
MOST = 2_147_483_647  # what an IntegerField holds


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule is due. Raises InvalidSchedule for what makes no sense.

    The k-th slot of an "every N" kind is computed from `start`, never from the one before: up to
    hours as elapsed time, days and longer as wall time in its zone, by the rule of `crontab`; a day
    that a month lacks is its last.
    """

    kind: Kind
    zone: ZoneInfo
    crontab: str = ""
    every: int = 1
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        check_moment("end", self.end)
        check_moment("start", self.start)
        if self.kind == Kind.CRONTAB:
            try:
                self._parsed  # noqa: B018  (checked now, kept for later)
            except ValueError as error:
                raise InvalidSchedule("crontab", str(error)) from error
        elif self.start is None:
            raise InvalidSchedule("start", "Say when it is due, or when it is due first.")
        if self.kind in INTERVALS and not (type(self.every) is int and 1 <= self.every <= MOST):
            raise InvalidSchedule("every", f"Give a whole number above 0, and at most {MOST}.")
        if self.start and self.end and self.end < self.start:
            raise InvalidSchedule("end", "It ends before it starts.")

    @cached_property
    def _parsed(self) -> Crontab:
        return Crontab(self.crontab)

    def after(self, moment: datetime) -> datetime | None:
        """The first slot after `moment`, in UTC. None: there is no more."""
        if self.start is not None and moment < self.start:
            moment = self.start - _TICK
        try:
            found = self._after(moment.astimezone(UTC))
        except OverflowError:  # beyond what a datetime holds
            return None
        if found is None or found.year > LAST_YEAR or (self.end is not None and found > self.end):
            return None
        return found

    def following(self, moment: datetime) -> Iterator[datetime]:
        """The slots after `moment`."""
        found = self.after(moment)
        while found is not None:
            yield found
            found = self.after(found)

    def newest(self, number: int, after: datetime, until: datetime) -> list[datetime]:
        """The last `number` of the slots in (after, until], in order.

        Looked for in ever longer stretches before `until`: it does not matter how long ago `after` is.
        """
        stretch = timedelta(minutes=1)
        while True:
            begin = max(after, until - stretch)
            found = list(itertools.takewhile(lambda slot: slot <= until, self.following(begin)))
            if begin == after or len(found) >= number:
                return found[-number:]
            stretch *= 2

    def _after(self, moment: datetime) -> datetime | None:
        if self.kind == Kind.CRONTAB:
            return self._parsed.after(moment, self.zone)
        assert self.start is not None
        start = self.start.astimezone(UTC)
        if moment < start:
            return start  # the slot 0, even where its wall time was there an hour before
        if self.kind == Kind.ONCE:
            return None
        if self.kind in ELAPSED:
            step = self.every * ELAPSED[self.kind]
            return start + ((moment - start) // step + 1) * step
        return self._by_wall(moment, start)

    def _by_wall(self, moment: datetime, start: datetime) -> datetime | None:
        """Days and longer: from one number before what it should be, as clocks go forward and back."""
        wall = start.astimezone(self.zone).replace(tzinfo=None, fold=0)
        now = moment.astimezone(self.zone).replace(tzinfo=None, fold=0)
        if self.kind in _DAYS:
            passed = (now - wall) // timedelta(days=_DAYS[self.kind] * self.every)
        else:
            months = 12 * (now.year - wall.year) + now.month - wall.month
            passed = months // (_MONTHS[self.kind] * self.every)
        for number in itertools.count(max(1, passed - 1)):
            at = self._wall_of(number, wall)
            if at.year > LAST_YEAR:
                return None
            found = first_instant(at, self.zone)
            if found is not None and found > moment:
                return found
        raise AssertionError

    def _wall_of(self, number: int, first: datetime) -> datetime:
        if self.kind in _DAYS:
            return first + timedelta(days=number * self.every * _DAYS[self.kind])
        months = first.month - 1 + number * self.every * _MONTHS[self.kind]
        year, month = first.year + months // 12, months % 12 + 1
        if year > LAST_YEAR:
            raise OverflowError
        return first.replace(
            year=year, month=month, day=min(first.day, calendar.monthrange(year, month)[1])
        )


def check_moment(field: str, moment: object) -> None:
    """Raises InvalidSchedule for what no schedule can hold there."""
    if moment is None:
        return
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidSchedule(field, f"{field!r} must be an aware datetime, not {moment!r}.")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise InvalidSchedule(field, f"Give a year from {FIRST_YEAR} to {LAST_YEAR}.")


def zone_named(name: object) -> ZoneInfo:
    """The time zone of that name. Raises InvalidSchedule."""
    if isinstance(name, str) and name in zone_names():
        return ZoneInfo(name)
    hint = "Give one like Europe/Paris."
    if near := _zones_like(str(name)):
        hint = f"Did you mean {near[0]}?"
    raise InvalidSchedule("timezone", f"There is no time zone {name!r}. {hint}")


def _zones_like(name: str) -> list[str]:
    """First those of that place, whatever the continent."""
    place = name.rpartition("/")[2].lower().replace(" ", "_")
    of_place = [known for known in zone_names() if known.rpartition("/")[2].lower() == place]
    return of_place or difflib.get_close_matches(name, zone_names(), 1, 0.75)


@cache
def zone_names() -> tuple[str, ...]:
    """Of all time zones, in order."""
    return tuple(sorted(available_timezones()))
