"""The rule of docs/explanation/repeating.md by brute force: a walk over every minute, with no croniter in it."""

from __future__ import annotations

import random
import re
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
ZONES = (
    *("Australia/Lord_Howe", "Asia/Beirut", "Pacific/Apia", "America/Sao_Paulo"),
    *("Europe/Paris", "America/New_York", "America/St_Johns", "Africa/Casablanca", "Africa/Cairo"),
    *("America/Nuuk", "Asia/Tehran", "Antarctica/Troll", "Europe/Dublin", "Pacific/Chatham"),
    *("Asia/Kathmandu", "UTC", "America/Santiago", "Asia/Gaza"),
)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Field:
    """One of a crontab's five, as text and as what it matches."""

    def __init__(self, text, values):
        self.text = text
        self.values = frozenset(values)


def any_field(rnd, low, high):
    every = range(low, high + 1)
    kind = rnd.choice(("any", "any", "step", "list", "range", "range with step", "one", "one"))
    if kind == "any":
        return Field("*", every)
    if kind == "step":
        step = rnd.randint(2, max(2, (high - low) // 2))
        return Field(f"*/{step}", every[::step])
    if kind == "list":
        chosen = rnd.sample(every, 3)
        return Field(",".join(map(str, chosen)), chosen)
    first = rnd.randint(low, high - 1)
    last = rnd.randint(first + 1, high)
    if kind == "range":
        return Field(f"{first}-{last}", range(first, last + 1))
    if kind == "range with step":
        return Field(f"{first}-{last}/2", range(first, last + 1, 2))
    return Field(str(first), [first])


def any_hours(rnd):
    """Mostly those in which clocks are changed."""
    if rnd.random() < 0.4:
        return any_field(rnd, 0, 23)
    text, values = rnd.choice(
        [
            *(("*", range(24)), ("*/2", range(0, 24, 2)), ("*/3", range(0, 24, 3))),
            *(("0", [0]), ("1", [1]), ("2", [2]), ("3", [3]), ("23", [23]), ("0-4", range(5))),
            *(("22-23", [22, 23]), ("0,23", [0, 23]), ("1-23/2", range(1, 24, 2))),
        ]
    )
    return Field(text, values)


def any_weekdays(rnd):
    field = any_field(rnd, 0, 6)
    if field.text.isdecimal() and rnd.random() < 0.5:
        return Field(WEEKDAYS[int(field.text)], field.values)
    return field


class Crontab:
    def __init__(self, rnd):
        ranges = iter(RANGES)
        self.minute = any_field(rnd, *next(ranges))
        self.hour = any_hours(rnd)
        self.day = any_field(rnd, 1, 31) if rnd.random() < 0.3 else Field("*", range(1, 32))
        self.month = Field("*", range(1, 13))
        if rnd.random() < 0.1:
            self.month = any_field(rnd, 1, 12)
        self.weekday = any_weekdays(rnd) if rnd.random() < 0.3 else Field("*", range(7))

    @property
    def text(self):
        fields = (self.minute, self.hour, self.day, self.month, self.weekday)
        return " ".join(field.text for field in fields)

    def has_day(self, day):
        if day.month not in self.month.values:
            return False
        matching = (
            day.day in self.day.values,
            (day.weekday() + 1) % 7 in self.weekday.values,
        )
        # Either is enough, unless one is a bare `*`; to croniter all days are one, beside a step of `*`.
        is_given = (
            self.day.text != "*" and (len(self.day.values) < 31 or "*" not in self.weekday.text),
            self.weekday.text != "*" and (len(self.weekday.values) < 7 or "*" not in self.day.text),
        )
        return any(matching) if all(is_given) else all(matching)

    def ever_comes(self):
        days = (date(2000, 1, 1) + timedelta(days=number) for number in range(1461))
        return any(map(self.has_day, days))

    def matches(self, wall):
        return (
            wall.minute in self.minute.values
            and wall.hour in self.hour.values
            and self.has_day(wall.date())
        )


def walk(crontab, zone, after, horizon):
    """The slots in (after, after + horizon], minute by minute."""
    found = []
    by_instant = re.fullmatch(r"\*(/\d+)?", crontab.hour.text)
    furthest = {}  # by date, how far its clock has come
    moment = after.replace(second=0, microsecond=0) - timedelta(hours=50)
    while moment <= after + horizon:
        wall = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        if by_instant:
            is_slot = crontab.matches(wall)
        else:
            passed = furthest.get(wall.date())
            begin = datetime.combine(wall.date(), time()) if passed is None else passed + MINUTE
            is_slot = any_match(crontab, begin, wall)
            furthest[wall.date()] = max(wall, passed or wall)
        if is_slot and moment > after:
            found.append(moment)
        moment += MINUTE
    return found


def any_match(crontab, begin, end):
    while begin <= end:
        if crontab.matches(begin):
            return True
        begin += MINUTE
    return False


@cache
def changes(name):
    """The days, 1990 to 2037, in which the zone's clock is changed."""
    zone, day, found = ZoneInfo(name), datetime(1990, 1, 1, tzinfo=UTC), []
    while day.year < 2037:
        following = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            found.append(day)
        day = following
    return found


def any_start(rnd, name):
    """Mostly shortly before a change of the clock."""
    if changes(name) and rnd.random() < 0.8:
        return rnd.choice(changes(name)) + timedelta(
            hours=rnd.randint(-30, 26), seconds=rnd.randint(0, 3599)
        )
    return datetime(1995, 1, 1, tzinfo=UTC) + timedelta(seconds=rnd.randrange(40 * 365 * 86400))


def examples(seed, number):
    rnd = random.Random(seed)
    for _ in range(number):
        name = rnd.choice(ZONES)
        yield ZoneInfo(name), Crontab(rnd), any_start(rnd, name)
