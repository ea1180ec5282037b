"""When a crontab is due: croniter says which wall times match, the rule here at which instants those are.

croniter alone fires a daily 01:30 twice on the day that has two of them. The rule (docs/explanation/
repeating.md): with `*` or `*/n` for hours, every instant whose wall clock matches; with any other, each
wall time fires at the first instant whose clock is at or past it on that date. Wall times that fall on
one instant fire once; a date that the zone skipped has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from croniter import croniter
from croniter.croniter import CroniterBadDateError, CroniterError

from cq.conf import LAST_YEAR

SECOND = timedelta(seconds=1)
_STEP = timedelta(hours=12)  # no zone changes its clock twice in so short a time
_EVERY_HOUR = re.compile(r"\*(/\d+)?")
_UNSTEADY = re.compile(r"\b[rh]\b", re.IGNORECASE)  # croniter's random and hashed values
_ANY = ("*", "?", "*/1")
_OF_MONTH = re.compile(r"[lw]", re.IGNORECASE)
_OF_WEEK = re.compile(r"#|l\d", re.IGNORECASE)
_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_BEGINNING = datetime(2000, 1, 1)  # noqa: DTZ001  (a wall time)


class Crontab:
    """Five fields, or six with seconds last, as croniter reads them; `@daily` and the like.

    Raises ValueError, saying what is wrong, for what is none or never comes.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no crontab: give it as text.")  # noqa: TRY004  (as said)
        self.text = " ".join(text.split())
        fields = _WORDS.get(self.text.lower(), self.text).split()
        if len(fields) not in (5, 6):
            raise ValueError(
                f"{text!r} is no crontab: give minute, hour, day of the month, month and day of the week, "
                f"and seconds after them where you need those; or one of {', '.join(_WORDS)}."
            )
        if any(_UNSTEADY.search(field) for field in fields):
            raise ValueError(f"{text!r}: R and H would be other times in each process.")
        if _is_torn(fields[2], fields[4]):
            raise ValueError(
                f"{text!r}: beside L, W or # the other of the two days must be *, as croniter would "
                "leave one of them out. Make two schedules."
            )
        self.fields = tuple(fields)
        self._every_hour = bool(_EVERY_HOUR.fullmatch(fields[1]))
        try:
            self._matching = croniter(" ".join(fields), _BEGINNING)
            self._matching.get_next(datetime)
        except CroniterBadDateError:
            raise ValueError(f"{text!r} never comes.") from None
        except CroniterError as error:
            raise ValueError(f"{text!r} is no crontab: {error}.") from None

    def after(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """The first slot after `moment`, in UTC, by the clock of `zone`. None: there is no more."""
        moment = moment.astimezone(UTC)
        return self._hourly(moment, zone) if self._every_hour else self._daily(moment, zone)

    def _daily(self, moment: datetime, zone: tzinfo) -> datetime | None:
        for wall in self._walls(_wall(moment, zone)):
            found = first_instant(wall, zone)
            if found is not None and found > moment:
                return found
        return None

    def _hourly(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """From one change of the clock to the next, in which wall time is UTC and so much more."""
        while True:
            ahead = _ahead(moment, zone)
            wall = next(self._walls(_wall(moment, zone)), None)
            if wall is None:
                return None
            found = (wall - ahead).replace(tzinfo=UTC)
            change = next_change(moment, found, zone)
            if change is None:
                return found
            moment = change - SECOND  # what the new clock shows at once may match
            if self._matches(_wall(change, zone)):
                return change
            moment = change

    def _walls(self, after: datetime) -> Iterator[datetime]:
        """The wall times that match, naive."""
        self._matching.set_current(after, force=True)
        while True:
            try:
                wall: datetime = self._matching.get_next(datetime)
            except CroniterBadDateError:
                return
            if wall.year > LAST_YEAR:
                return
            yield wall

    def _matches(self, wall: datetime) -> bool:
        return next(self._walls(wall - SECOND), None) == wall


def _is_torn(day: str, weekday: str) -> bool:
    """Whether both days are given, one of them in a way that croniter does not join with the other."""
    if day in _ANY or weekday in _ANY:
        return False
    return bool(_OF_MONTH.search(day) or _OF_WEEK.search(weekday))


def first_instant(wall: datetime, zone: tzinfo) -> datetime | None:
    """The first instant, in UTC, at which the clock of `zone` is at or past `wall` on its date.

    None: that date has none, as the zone skipped it, or its last hours.
    """
    found = wall.replace(tzinfo=zone).astimezone(UTC)  # the first of two, where there are two
    if _wall(found, zone) == wall:
        return found
    later = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    change = next_change(min(found, later) - SECOND, max(found, later), zone)
    return change if change is not None and _wall(change, zone).date() == wall.date() else None


def next_change(after: datetime, until: datetime, zone: tzinfo) -> datetime | None:
    """The first instant in (after, until], to the second, at which the clock of `zone` is changed."""
    ahead = _ahead(after, zone)
    while after < until:
        step = min(after + _STEP, until)
        if _ahead(step, zone) != ahead:
            return _bisected(after, step, ahead, zone)
        after = step
    return None


def _bisected(before: datetime, at: datetime, ahead: timedelta | None, zone: tzinfo) -> datetime:
    """Clocks are changed at whole seconds."""
    low, high = int(before.timestamp()), -int(-at.timestamp() // 1)
    while high - low > 1:
        middle = (low + high) // 2
        if _ahead(datetime.fromtimestamp(middle, UTC), zone) == ahead:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)


def _ahead(moment: datetime, zone: tzinfo) -> timedelta:
    """Of UTC."""
    ahead = moment.astimezone(zone).utcoffset()
    assert ahead is not None
    return ahead


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)
