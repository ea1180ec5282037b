"""Fire repeating tasks: each slot becomes one task, however many workers fire.

There is no leader, and no lock but the row's: whoever finds `next_run` as it was read moves it on and
makes the slot's task, in one transaction. All times are the database's.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.db.models import F
from django.db.models.functions import Now

from cq import database, registry, repeating, submission
from cq.database import tasks
from cq.exceptions import InvalidSchedule
from cq.signature import Call
from cq.slots import CatchUp, Timing
from cq.states import ACTIVE
from cq.submission import Place

if TYPE_CHECKING:
    from cq.models import RepeatingTask, Task

logger = logging.getLogger("cq.firing")

LOOK = timedelta(seconds=1)
"""How often, at least, is looked: a new or edited schedule is noticed within it."""
PAGE = 100
LONGEST = 0.25  # seconds: whoever fires has a heartbeat to renew
MISSED = timedelta(minutes=1)
"""A slot that is so late, or that another has followed, passed while nothing fired."""
COUNTED = 1000

# What was decided upon: where one of these is another now, somebody else decides.
_DECISIVE = (
    *repeating.CALL,
    *("enabled", "next_run", "kind", "crontab", "every", "timezone", "start", "end", "repeats"),
    *("coalesce", "coalesce_by", "catch_up", "catch_up_limit", "last_run"),
)
REST = 60.0  # seconds that one which failed for an unknown reason is left alone by this process
HELD = 0.05  # seconds until what others hold, or have just fired, is looked at again

TELL = 60.0  # seconds between two warnings of what is overdue and not known here

_resting: dict[int, float] = {}
_told_until = 0.0


def step() -> float:
    """Fire what is due, of functions that are known here. Returns seconds until the next look."""
    until = time.monotonic() + LONGEST
    _tell_of_unknown()
    _plan_new()
    found = _soon()
    due = [row for row in found if row.next_run <= row.clock]
    random.shuffle(due)  # others look at the same ones
    fired = 0
    for row in due:
        fired += _guarded(row, partial(_fire, until=until))
        if time.monotonic() > until:
            break
    if due:
        return 0.0 if fired else HELD
    ahead: list[float] = [(row.next_run - row.clock).total_seconds() for row in found]
    return max(0.0, min([LOOK.total_seconds(), *ahead]))


def _soon() -> list[Any]:
    """The first of those that are due before the next look, with the time at which that is so."""
    clock = models.ExpressionWrapper(Now(), models.DateTimeField())
    known = repeating.rows().filter(enabled=True, func_name__in=registry.names())
    for row_id in [one for one, until in _resting.items() if until < time.monotonic()]:
        del _resting[row_id]
    soon = known.filter(next_run__lte=database.later(Now(), LOOK)).exclude(id__in=list(_resting))
    return list(soon.annotate(clock=clock).order_by("next_run")[:PAGE])


def _tell_of_unknown() -> None:
    """Those that are overdue, of functions that are not known here: maybe nobody knows them."""
    global _told_until
    if time.monotonic() < _told_until:
        return
    _told_until = time.monotonic() + TELL
    unknown = repeating.rows().filter(enabled=True).exclude(func_name__in=registry.names())
    late = unknown.filter(next_run__lte=database.later(Now(), -MISSED)).order_by("next_run")
    if found := list(late.values_list("func_name", flat=True)[:PAGE]):
        names = ", ".join(dict.fromkeys(found))
        logger.warning(
            "%d repeating task(s) overdue, of no function known here: %s", len(found), names
        )


def _plan_new() -> None:
    """Those that came about without `save()`."""
    new = repeating.rows().filter(enabled=True, planned=False, next_run=None)
    for row in new.exclude(id__in=list(_resting))[:PAGE]:
        _guarded(row, _plan)


def _plan(row: RepeatingTask) -> bool:
    as_read = _as_read(row)
    repeating.plan(row, database.read_clock())
    return _write_if(row, as_read, planned=True, next_run=row.next_run, start=row.start)


def _guarded(row: RepeatingTask, action: Callable[[Any], bool]) -> bool:
    """One that can't be fired is nobody else's trouble. Returns whether it moved on.

    What can't be understood is put aside until somebody saves it; any other fault may pass.
    """
    as_read = _as_read(row)
    try:
        return action(row)
    except InvalidSchedule as error:
        logger.error("%s does not fire until it is mended and saved: %s", row, error)  # noqa: TRY400
        return _write_if(row, as_read, next_run=None, planned=True, error=str(error))
    except Exception as error:
        if database.passing(error):
            raise
        logger.exception("%s could not be fired; will try again in %.0f s", row, REST)
        _resting[row.id] = time.monotonic() + REST
        _write_if(row, as_read, error=f"{type(error).__name__}: {error}")
        return False


def _fire(row: RepeatingTask, *, until: float) -> bool:
    """As many of its slots as there is time for. Returns whether it moved on."""
    timing, now = repeating.timing_ahead(row), row.clock  # type: ignore[attr-defined]  # see _soon
    due, missed = _wanted(row, timing, now)
    moved = False
    if not due:
        following = timing.after(now)
        return database.in_transaction(lambda: _advance(row, following, missed))
    for slot, following in itertools.pairwise([*due, timing.after(due[-1])]):
        assert slot is not None
        after = database.in_transaction(partial(_take, row, slot, following, missed))
        if after is None:
            return moved
        moved, missed = True, 0
        for name, value in after.items():
            setattr(row, name, value)
        if row.next_run is None or time.monotonic() > until:
            return moved
    return moved


def _wanted(row: RepeatingTask, timing: Timing, now: datetime) -> tuple[list[datetime], int]:
    """The slots that become tasks, in order, and how many (of at most COUNTED) do not."""
    first = row.next_run
    assert first is not None
    limit = max(1, row.catch_up_limit) if row.catch_up == CatchUp.ALL else 1
    kept = [first, *timing.newest(limit, first, now)][-limit:]
    missed = 0
    if kept[0] != first:
        left_out = itertools.takewhile(lambda slot: slot < kept[0], timing.following(first))
        missed = 1 + sum(1 for _ in itertools.islice(left_out, COUNTED))
    if row.catch_up == CatchUp.SKIP and now - kept[-1] > MISSED:
        return [], missed + 1
    return kept, missed


def _take(
    row: RepeatingTask, slot: datetime, following: datetime | None, missed: int
) -> dict[str, Any] | None:
    """The slot's task, or what keeps it from being made. What the row is then; None: not ours."""
    # This locks the row: what is active is asked after it, and so by one at a time.
    if not _advance(row, following, missed):
        return None
    after: dict[str, Any] = {"next_run": following}
    try:
        call = repeating.call_of(row)
    except InvalidSchedule as error:
        logger.error("%s can't fire: %s", row, error)  # noqa: TRY400  (its text says all)
        _write(row, error=str(error), miss_count=F("miss_count") + 1)
        return after
    if _is_kept_back(row, slot):
        _write(row, skip_count=F("skip_count") + 1, last_skip=slot)
        return after
    if row.repeats is not None and row.repeats >= 0:  # 0: its next run was set by hand
        after["repeats"] = max(0, row.repeats - 1)
        if row.repeats <= 1:
            after["next_run"] = None
    after["last_run"] = max(slot, row.last_run or slot)
    _make(row, call, slot, **after)
    return after


def _advance(row: RepeatingTask, following: datetime | None, missed: int) -> bool:
    """Move it on from the slot that was read, in the caller's transaction."""
    if not _is_as(row, _as_read(row)):
        return False
    _write(row, next_run=following, planned=True, miss_count=F("miss_count") + missed)
    return True


def _is_as(row: RepeatingTask, read: Mapping[str, Any]) -> bool:
    """Lock it, and see whether it is as it was read. Nobody is waited for: what others hold is not ours.

    Compared here and not in SQL, as SQLite compares moments as text, which can be written in two ways.
    """
    locked = database.lock(repeating.rows().filter(id=row.id), skip=True)
    return locked.values(*_DECISIVE).first() == read


def _as_read(row: RepeatingTask) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _DECISIVE}


def _write_if(row: RepeatingTask, read: Mapping[str, Any], **changes: Any) -> bool:
    """Write, unless somebody else has, or is about to."""

    def write() -> bool:
        if not _is_as(row, read):
            return False
        _write(row, **changes)
        return True

    return database.in_transaction(write)


def _is_kept_back(row: RepeatingTask, slot: datetime) -> bool:
    """Whether there is a task of this slot already (its next run was put back by hand), or an active one."""
    if tasks().filter(repeating_task=row.id, slot=slot).exists():
        return True
    if not row.coalesce:
        return False
    active = tasks().filter(status__in=ACTIVE)
    if row.coalesce_by == row.CoalesceBy.FUNCTION:
        return active.filter(func_name__in=_names(row.func_name)).exists()
    return active.filter(repeating_task=row.id).exists()


def _names(func_name: str) -> Iterable[str]:
    definition = registry.get(func_name)
    return {func_name, definition.name, *definition.options.aliases}


def _make(row: RepeatingTask, call: Call, slot: datetime, **more: Any) -> Task[Any]:
    task = submission.submit(call, Place(repeating_task_id=row.id, slot=slot))
    _write(row, run_count=F("run_count") + 1, error="", **more)
    return task


def _write(row: RepeatingTask, **changes: Any) -> None:
    repeating.rows().filter(id=row.id).update(**changes)


def run_now(row: RepeatingTask) -> Task[Any]:
    """A task of it, here and now, whatever is due or active; its slot is this moment.

    Raises InvalidSchedule.
    """
    call = repeating.call_of(row)
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=database.alias()):
        # One after the other: two of one moment would be of one slot.
        if database.lock(repeating.rows().filter(id=row.id)).first() is None:
            raise row.DoesNotExist(f"{row} was deleted, or never saved.")
        now = database.read_clock()
        made = tasks().filter(repeating_task=row.id, slot__gte=now).order_by("-slot").first()
        if made is not None and made.slot is not None:
            now = made.slot + timedelta(microseconds=1)
        task = _make(row, call, now, last_run=max(now, row.last_run or now))
    row.refresh_from_db()
    return task
