"""`retry()`: have what ended badly run again, with all that only followed from that."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.db import transaction

from cq import bell, context, database, lifecycle, logs, settling, submission
from cq.exceptions import NotRetryable
from cq.lifecycle import tasks
from cq.states import ACTIVE, DONE, ERROR, Status

if TYPE_CHECKING:
    from cq.models import Task

T = TypeVar("T", bound="Task[Any]")


def retry(task: T) -> T:
    """Run it again, or, of an INCOMPLETE one, what failed under it; in one transaction.

    Raises NotRetryable where there is nothing to run again, or nobody to wait for it.
    """
    run = context.current()
    if run is not None and run.how == "inline":
        raise NotRetryable("A task that was made by a direct call has no row: call it again.")
    while not _retried(task.id):
        pass
    task.refresh_from_db()
    return task


def _retried(task_id: UUID) -> bool:
    """False: others changed what was to be revived, before it was locked."""
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=database.alias()):
        seen = _Plan(task_id).targets
        # In one order, whoever locks several.
        locked = list(database.lock(tasks().filter(id__in=list(seen))).order_by("id"))
        plan = _Plan(task_id)
        if plan.targets != seen:
            return False
        for row in locked:
            _revive(row, plan.targets[row.id])
        for row in locked:
            if row.status == Status.PENDING:
                _release(row)
    return True


def _revive(row: Task[Any], target: Status) -> None:
    if row.id == row.root_id:
        logs.reopen(row)
    lifecycle.revive(row, target)
    if target == Status.QUEUED:
        bell.announce([row])
    elif target == Status.WAITING and row.members:  # revoked before it was filled
        submission.fill(row, row.members)


def _release(row: Task[Any]) -> None:
    """What it is chained to may have succeeded long ago, or be gone."""
    previous = tasks().filter(id=row.previous_id).first()
    if previous is None:
        settling.release(row)
    elif previous.status in DONE:
        settling.settle_all(settling.release_successors(previous))


@dataclass
class _Plan:
    """What has to be revived for a task to run again, and to which status each."""

    task_id: UUID
    targets: dict[UUID, Status] = field(init=False, default_factory=dict)
    _elsewhere: list[Task[Any]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        task = tasks().filter(id=self.task_id).first()
        if task is None or task.status not in (Status.FAILURE, Status.LOST, Status.INCOMPLETE):
            status = "gone" if task is None else task.status
            raise NotRetryable(
                f"{task or self.task_id} is {status}: retry() is for FAILURE, LOST and INCOMPLETE. "
                "To run something once more, delay() it."
            )
        self._revive(task)
        self._reopen_above(task, *self._elsewhere)

    def _revive(self, task: Task[Any]) -> None:
        """The task, what ended badly under it, and what was skipped behind any of these."""
        work = deque([task])
        while work:
            one = work.popleft()
            if one.id in self.targets:
                continue
            self.targets[one.id] = target = _target(one)
            work.extend(tasks().filter(previous_id=one.id, status=Status.SKIPPED))
            under = tasks().filter(parent_id=one.id, status__in=(*ERROR, Status.SKIPPED))
            if target == Status.WAITING:
                under = under.filter(lifecycle.counts(one.claim_no))
                work.extend(self._returned(one))
            else:  # its next run makes its own; those made from outside decide again
                under = under.filter(parent_run=None)
            work.extend(under)

    def _returned(self, task: Task[Any]) -> list[Task[Any]]:
        """What `task` returned and ended badly, with the predecessors that are why."""
        found: list[Task[Any]] = []
        link = task.returned
        while link is not None and link.status in (*ERROR, Status.SKIPPED):
            found.append(link)
            if link.parent_id != task.id:
                self._elsewhere.append(link)
            link = link.previous if link.status == Status.SKIPPED else None
        return found

    def _reopen_above(self, *revived: Task[Any]) -> None:
        """What was INCOMPLETE for these, and only for what is revived with them."""
        work = deque(revived)
        while work:
            one = work.popleft()
            for returner in tasks().filter(returned_id=one.id, status=Status.INCOMPLETE):
                if returner.id not in self.targets:
                    self._reopen(returner)
                    work.append(returner)
            parent = one.parent
            if parent is None or parent.id in self.targets or parent.status in ACTIVE:
                continue
            counts = one.parent_run in (None, parent.claim_no)
            if parent.status != Status.INCOMPLETE or not counts:
                raise NotRetryable(
                    f"{one.func_name} {one.id} can't run again: {parent.func_name} {parent.id} above it "
                    f"has ended as {parent.status}, and does not wait for it."
                )
            self._reopen(parent, one)
            work.append(parent)

    def _reopen(self, row: Task[Any], below: Task[Any] | None = None) -> None:
        self.targets[row.id] = Status.WAITING
        for skipped in tasks().filter(previous_id=row.id, status=Status.SKIPPED):
            self._revive(skipped)
        bad = lifecycle.counted_subtasks(row).filter(status__in=ERROR)
        if row.fail_fast and below is not None and bad.exclude(id__in=self.targets).exists():
            raise NotRetryable(
                f"{below.func_name} {below.id} can't run again alone: {row.func_name} {row.id} above it "
                "has fail_fast, and other subtasks that did not succeed. retry() that one."
            )


def _target(task: Task[Any]) -> Status:
    is_behind = task.previous_id is not None and not task.is_errorback
    match task.status:
        case Status.SKIPPED:
            return Status.PENDING
        case Status.REVOKED if is_behind and task.claim_no == 0 and not _is_open(task):
            return Status.PENDING
        case Status.REVOKED if task.container:
            return Status.WAITING
        case Status.INCOMPLETE:
            return Status.WAITING
        case _:
            return Status.QUEUED


def _is_open(container: Task[Any]) -> bool:
    """Whether a group or chain has got its members."""
    return bool(container.container) and not container.members
