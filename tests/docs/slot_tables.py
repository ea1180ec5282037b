"""What the tables of slots in docs/explanation/repeating.md say, computed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cq.slots import Kind, Timing


def slots_of(zone, begin, end, crontab):
    """The slots from `begin` to `end`, which are in UTC."""
    timing = Timing(kind=Kind.CRONTAB, zone=ZoneInfo(zone), crontab=crontab)
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begin, end))
    before = first - timedelta(seconds=1)
    return list(itertools.takewhile(lambda slot: slot <= last, timing.following(before)))


def every_slots(zone, start, number, text):
    """The first slots of "24 HOURS" and the like; `start` is what the clock of the zone shows."""
    every, kind = text.split()
    start = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    timing = Timing(kind=Kind(kind), zone=ZoneInfo(zone), every=int(every), start=start)
    return list(itertools.islice(timing.following(start - timedelta(seconds=1)), number))


def cells(slots, zone):
    """The two cells of a table's row."""
    walls = [slot.astimezone(ZoneInfo(zone)) for slot in slots]
    dated = "%m-%d %H:%M" if len({wall.date() for wall in walls}) > 1 else "%H:%M"
    return _cell(walls, f"{dated} %z"), _cell(slots, dated)


def _cell(moments, form):
    return ", ".join(f"{moment:{form}}" for moment in moments) or "none"
