"""Revoke rows: of a task, of all under it, and of what is chained behind it.

Nothing here decides what that means for others: `settling` does.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connections
from django.db.models import QuerySet

from cq import database, lifecycle
from cq.database import tasks
from cq.states import ACTIVE

if TYPE_CHECKING:
    from cq.models import Task

BATCH = 500
PAUSE = 0.02  # seconds, where all that is left is locked by runs that are about to end
PATIENCE = 50  # such pauses before a lock is waited for


def revoke(task_id: UUID, *, disowned: bool = False) -> list[UUID]:
    """A task, its successors, and all under them. Returns the ids; none where it has ended already.

    The task and its successors in one transaction: it is never seen REVOKED with one of them
    released by that. What is under them follows, and the sweep goes on where this could not.
    `disowned`: their parent does not count them.
    """
    with database.begin_as("IMMEDIATE"):
        found = database.in_transaction(partial(_revoke_line, task_id, disowned=disowned))
    return found + revoke_under(found) if found else []


def revoke_trees(wanted: QuerySet[Task[Any]]) -> list[UUID]:
    """Those that are not final, and all under them. Returns the ids of all that were."""
    revoked = _revoke_rows(wanted)
    return revoked + revoke_under(revoked)


def revoke_under(ids: Collection[UUID]) -> list[UUID]:
    """All under these, which are REVOKED: again, until there is nothing that a run has added since."""
    revoked: list[UUID] = []
    above, is_whole = list(ids), True
    while True:
        new: list[UUID] = []
        for start in range(0, len(above), BATCH):
            new += _revoke_rows(tasks().filter(parent_id__in=above[start : start + BATCH]))
        if is_whole and not new:
            return revoked
        revoked += new
        # First what is under the new ones; once there is nothing more, everything again.
        above, is_whole = (new, False) if new else ([*ids, *revoked], True)


def _revoke_line(task_id: UUID, *, disowned: bool) -> list[UUID]:
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


def _revoke_rows(wanted: QuerySet[Task[Any]]) -> list[UUID]:
    """In small transactions. A row that is locked is come back to, so that nobody waits in a ring."""
    revoked: list[UUID] = []
    pauses = 0
    while True:
        found = database.in_transaction(partial(_revoke_batch, wanted, wait=pauses > PATIENCE))
        revoked += found
        if len(found) == BATCH:
            continue
        if not wanted.filter(status__in=ACTIVE).exists():
            return revoked
        pauses += 1
        time.sleep(PAUSE)


def _revoke_batch(wanted: QuerySet[Task[Any]], *, wait: bool) -> list[UUID]:
    rows = list(_lock(wanted.filter(status__in=ACTIVE), wait=wait)[:BATCH])
    lifecycle.revoke(rows)
    return [row.id for row in rows]


def _lock(rows: QuerySet[Task[Any]], *, wait: bool) -> QuerySet[Task[Any]]:
    features = connections[rows.db].features
    rows = rows.order_by("id")
    if not features.has_select_for_update:
        return database.lock(rows)
    return rows.select_for_update(
        skip_locked=features.has_select_for_update_skip_locked and not wait,
        no_key=features.has_select_for_no_key_update,
    )
