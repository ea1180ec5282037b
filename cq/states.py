"""The statuses of a task and the moves between them; who makes a move is lifecycle's business."""

from __future__ import annotations

from django.db import models


class Status(models.TextChoices):
    """What is so about a task, stored as these words in `cq_task.status`."""

    PENDING = "PENDING"  # waits for its predecessor
    SCHEDULED = "SCHEDULED"  # its time lies ahead
    QUEUED = "QUEUED"  # claimable
    RUNNING = "RUNNING"  # claimed by a worker
    WAITING = "WAITING"  # its own function is done, something under it is not
    RETRY = "RETRY"  # another attempt lies ahead
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    INCOMPLETE = "INCOMPLETE"  # its own function was fine, something under it was not
    LOST = "LOST"  # begun, its worker died, and it may not simply run again
    REVOKED = "REVOKED"
    SKIPPED = "SKIPPED"  # its predecessor ended badly


ACTIVE = frozenset(
    {
        Status.PENDING,
        Status.SCHEDULED,
        Status.QUEUED,
        Status.RUNNING,
        Status.WAITING,
        Status.RETRY,
    }
)
DONE = frozenset(Status) - ACTIVE
ERROR = frozenset({Status.FAILURE, Status.INCOMPLETE, Status.LOST, Status.REVOKED})

BIRTH = frozenset({Status.PENDING, Status.SCHEDULED, Status.QUEUED, Status.WAITING})
ANSWERED = frozenset({Status.FAILURE, Status.INCOMPLETE, Status.LOST})  # by errorbacks
# What the last run made does not count: it ended badly, or the task runs again.
DISOWNS = frozenset({Status.QUEUED, Status.RETRY, Status.FAILURE, Status.LOST})

# From each status that is not final, where a task may go, and what takes it there.
TRANSITIONS: dict[Status, dict[Status, str]] = {
    Status.PENDING: {
        Status.QUEUED: "predecessor succeeded",
        Status.SCHEDULED: "predecessor succeeded, its time lies ahead",
        Status.WAITING: "predecessor succeeded, of a group or chain",
        Status.SKIPPED: "predecessor ended badly",
        Status.REVOKED: "revoke",
    },
    Status.SCHEDULED: {
        Status.QUEUED: "due",
        Status.WAITING: "due, of a group or chain",
        Status.REVOKED: "revoke",
    },
    Status.RETRY: {Status.QUEUED: "due", Status.REVOKED: "revoke"},
    Status.QUEUED: {
        Status.RUNNING: "claim",
        Status.FAILURE: "expired, or unknown to every worker",
        Status.REVOKED: "revoke",
    },
    Status.RUNNING: {
        Status.SUCCESS: "finish",
        Status.WAITING: "finish, with something under it",
        Status.FAILURE: "finish by an error; third death",
        Status.RETRY: "finish by an error, retries left",
        Status.QUEUED: "given back; rescue",
        Status.LOST: "rescue of a begun non-atomic task",
        Status.REVOKED: "revoke",
    },
    Status.WAITING: {
        Status.SUCCESS: "all under it succeeded",
        Status.INCOMPLETE: "something under it did not",
        Status.FAILURE: "the task it returned waits for it",
        Status.REVOKED: "revoke",
    },
}

# The way back from a final status: retry() alone, of the task itself or of what it is under.
REVIVALS: dict[Status, dict[Status, str]] = {
    Status.FAILURE: {Status.QUEUED: "retry", Status.PENDING: "retry, of a successor"},
    Status.LOST: {Status.QUEUED: "retry", Status.PENDING: "retry, of a successor"},
    Status.INCOMPLETE: {Status.WAITING: "retry", Status.PENDING: "retry, of a successor made anew"},
    Status.REVOKED: {
        Status.QUEUED: "retry",
        Status.PENDING: "retry, of a successor",
        Status.SCHEDULED: "retry, its time lies ahead",
        Status.WAITING: "retry, of a group or chain",
    },
    Status.SKIPPED: {Status.PENDING: "retry"},
}


def diagram() -> str:
    """The table above as a Mermaid state diagram; docs/explanation/architecture.md holds its output."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status}" for status in Status if status in BIRTH]
    for source, targets in (TRANSITIONS | REVIVALS).items():
        lines += [f"    {source} --> {target}: {why}" for target, why in targets.items()]
    lines += [f"    {status} --> [*]" for status in Status if status in DONE]
    return "\n".join(lines)
