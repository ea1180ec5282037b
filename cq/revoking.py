"""Revoke rows: of a task, of all under it, and of what is chained behind it.

Nothing here decides what that means for others: `settling` does.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import QuerySet

from cq import database, lifecycle
from cq.database import tasks
from cq.states import ACTIVE

if TYPE_CHECKING:
    from cq.models import Task

BATCH = 500
PARENTS = 100  # in one question: with more of them PostgreSQL reads all subtasks that there are
PAUSE = 0.02  # seconds, where all that is left is locked by runs that are about to end
PATIENCE = 50  # such pauses before a lock is waited for


def revoke(task_id: UUID, *, disowned: bool = False, wait: bool = True) -> list[UUID]:
    """A task, its successors, and all under them. Returns the ids; none where it has ended already.

    The task and its successors in one transaction: it is never seen REVOKED with one of them
    released by that. What is under them follows, and the sweep goes on where this could not.
    `disowned`: their parent does not count them. Without `wait`, rows that somebody else goes on
    holding are left to the sweep.
    """
    with database.begin_as("IMMEDIATE"):
        line = partial(_revoke_line, task_id, disowned=disowned, wait=wait)
        found = database.in_transaction(line)
    return found + revoke_under(found, wait=wait) if found else []


def revoke_trees(wanted: QuerySet[Task[Any]]) -> list[UUID]:
    """Those that are not final and that nobody holds, and all under them. Returns the ids of all."""
    revoked = _revoke_rows(_active(wanted), wait=False)
    return revoked + revoke_under(revoked, wait=False) if revoked else []


def revoke_under(ids: Collection[UUID], *, wait: bool) -> list[UUID]:
    """All under these, which are REVOKED: again, until there is nothing that a run has added since."""
    revoked: list[UUID] = []
    above, is_whole = list(ids), True
    while True:
        new: list[UUID] = []
        for start in range(0, len(above), PARENTS):
            below = tasks().filter(parent_id__in=above[start : start + PARENTS])
            new += _revoke_rows(_active(below), wait=wait)
        if is_whole and not new:
            return revoked
        revoked += new
        # First what is under the new ones; once there is nothing more, everything again.
        above, is_whole = (new, False) if new else ([*ids, *revoked], True)


def _revoke_line(task_id: UUID, *, disowned: bool, wait: bool) -> list[UUID]:
    if not wait:
        database.bound_waits()
    found: list[UUID] = []
    rows: list[Task[Any]] = []
    while (behind := _with_successors(task_id)) != found:
        # What is chained to them from outside waits for these locks: two looks are enough.
        found = behind
        rows = list(database.lock(tasks().filter(id__in=found)).order_by("id"))
    if not any(row.id == task_id and row.status in ACTIVE for row in rows):
        return []
    if disowned:
        lifecycle.disown(found)
    lifecycle.revoke(row for row in rows if row.status in ACTIVE)
    return found


def _with_successors(task_id: UUID) -> list[UUID]:
    found = [task_id]
    for one in found:  # which grows meanwhile
        behind = tasks().filter(previous_id=one, is_errorback=False, status__in=ACTIVE)
        found += behind.order_by("id").values_list("id", flat=True)
    return found


def _active(rows: QuerySet[Task[Any]]) -> list[UUID]:
    return sorted(rows.filter(status__in=ACTIVE).order_by().values_list("id", flat=True))


def _revoke_rows(ids: list[UUID], *, wait: bool) -> list[UUID]:
    """In small transactions. A row that is held is come back to, so that nobody waits in a ring."""
    revoked: list[UUID] = []
    for start in range(0, len(ids), BATCH):
        left, pauses = ids[start : start + BATCH], 0
        while left:
            step = partial(_revoke_batch, left, wait=wait and pauses > PATIENCE)
            found = database.in_transaction(step)
            revoked += found
            left = [] if len(found) == len(left) else _active(tasks().filter(id__in=left))
            if not left or (pauses > PATIENCE and not wait):
                break
            pauses += 1
            time.sleep(PAUSE)
    return revoked


def _revoke_batch(ids: list[UUID], *, wait: bool) -> list[UUID]:
    rows = tasks().filter(id__in=ids, status__in=ACTIVE).order_by("id")
    locked = list(database.lock(rows, skip=not wait))
    lifecycle.revoke(locked)
    return [row.id for row in locked]
