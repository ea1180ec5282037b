"""What time does: tasks whose moment has come become claimable."""

from __future__ import annotations

import logging
import time

from cq import bell, database, lifecycle, settling

logger = logging.getLogger("cq.scheduling")

PAGE = 100
PERIOD = 0.25
"""Seconds between two looks: the most that a task may be late on an idle worker."""


def step() -> int:
    """Make due what is due, and ring for it. Returns the number of queues concerned.

    Page after page, but for no longer than the pause that follows: whoever does it has a heartbeat
    to renew.
    """
    until, rung = time.monotonic() + PERIOD, set[str]()
    while queues := lifecycle.make_due():
        for queue in queues:
            bell.ring(queue)
        rung |= queues
        if time.monotonic() > until:
            break
    due = lifecycle.due_containers().order_by("ready_at")
    for task_id in list(due.values_list("id", flat=True)[:PAGE]):
        try:
            settling.open_container(task_id)
        except Exception as error:
            if database.passing(error) and not database.is_held(error):
                raise
            logger.warning("%s is due, and could not be filled; will try again: %s", task_id, error)
    return len(rung)
