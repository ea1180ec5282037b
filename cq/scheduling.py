"""What time does: tasks whose moment has come become claimable."""

from __future__ import annotations

from cq import bell, lifecycle, settling

PERIOD = 0.25
"""Seconds between two looks: the most that a task may be late on an idle worker."""


def step() -> int:
    """Make due what is due, and ring for it. Returns the number of queues concerned."""
    for container in lifecycle.due_containers():
        settling.open_container(container)
    queues = lifecycle.make_due()
    for queue in queues:
        bell.ring(queue)
    return len(queues)
