"""`retry()`: have what ended badly run again, with all that only followed from that."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from django.db import transaction

from cq import bell, database, graph, lifecycle, logs, settling, submission
from cq.database import tasks
from cq.exceptions import NotRetryable
from cq.signature import lacks_secrets
from cq.states import DISOWNS, DONE, ERROR, Status

if TYPE_CHECKING:
    from cq.models import Task

T = TypeVar("T", bound="Task[Any]")


def retry(task: T) -> T:
    """Run it again, or, of an INCOMPLETE one, what failed under it; in one transaction.

    Raises NotRetryable where there is nothing to run again, or nobody to wait for it.
    """
    if task._state.adding:
        raise NotRetryable("A task that was made by a direct call has no row: call it again.")
    while (revived := _retried(task.id)) is None:
        pass
    # What earlier runs had made is nobody's now, and some may have nothing left to wait for.
    abandoned = settling.abandon(
        [i for i, target in revived.items() if target in (Status.QUEUED, Status.PENDING)]
    )
    waiting = [i for i, target in revived.items() if target == Status.WAITING]
    settling.settle_after([*abandoned, *waiting])
    task.refresh_from_db()
    return task


def _retried(task_id: UUID) -> dict[UUID, Status] | None:
    """What became of which. None: others changed what was to be revived, before it was locked."""
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=database.alias()):
        seen = _Plan(task_id)
        # In one order, whoever locks several; and what would end without waiting for these.
        held = [*seen.targets, *seen.waits]
        locked = list(database.lock(tasks().filter(id__in=held)).order_by("id"))
        plan = _Plan(task_id)
        targets = plan.targets
        if (targets, plan.waits) != (seen.targets, seen.waits):
            return None
        locked = [row for row in locked if row.id in targets]
        for row in locked:
            _revive(row, targets[row.id])
        for row in locked:
            if row.status == Status.PENDING:
                _release(row)
    return targets


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
        settling.settle_after([row.id])
    elif previous.status in DONE:
        settling.settle_after(settling.release_successors(previous))


@dataclass
class _Plan:
    """What has to be revived for a task to run again, and to which status each."""

    task_id: UUID
    targets: dict[UUID, Status] = field(init=False, default_factory=dict)
    waits: set[UUID] = field(init=False, default_factory=set)
    """What has not ended, and must not before it waits for these."""
    _rows: list[Task[Any]] = field(init=False, default_factory=list)
    _remade: set[UUID] = field(init=False, default_factory=set)
    """What runs of these had chained to their own task, and will chain anew: abandoned once it waits."""
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
        for row in self._rows:
            if row.id not in self._remade:
                self._check_secrets(row)
            is_behind = row.previous_id in self.targets and not row.is_errorback
            if is_behind and self.targets[row.id] == Status.QUEUED:
                self.targets[row.id] = Status.PENDING  # in their order, as the first time

    def _revive(self, task: Task[Any]) -> None:
        """The task, what ended badly under it, and what was skipped behind any of these."""
        work: deque[Task[Any]] = deque([task])
        behind: dict[UUID, Task[Any]] = {}
        while work or behind:
            if work:
                one = work.popleft()
                if one is not task and one.previous_id is not None and not one.is_errorback:
                    behind[one.id] = one
                    continue
            else:  # known is what runs again of what these stand behind: each after its predecessor
                found = reversed(behind.values())  # mostly the oldest first
                one = next(row for row in found if row.previous_id not in behind)
                del behind[one.id]
            if one.id in self.targets:
                continue
            is_remade = one is not task and self._is_remade(one)
            self.targets[one.id] = target = Status.PENDING if is_remade else _target(one)
            self._rows.append(one)
            work.extend(tasks().filter(previous_id=one.id, status=Status.SKIPPED))
            if is_remade:
                self._remade.add(one.id)
                continue
            under = tasks().filter(parent_id=one.id, status__in=(*ERROR, Status.SKIPPED))
            if target == Status.WAITING:
                under = under.filter(graph.counts(one.claim_no))
                work.extend(self._returned(one))
            else:  # its next run makes its own; those made from outside decide again
                under = under.filter(parent_run=None)
            work.extend(under)

    def _is_remade(self, one: Task[Any]) -> bool:
        if one.previous_id is None or one.is_errorback:
            return False
        runs_again = self.targets.get(one.previous_id) == Status.QUEUED
        return one.previous_id in self._remade or (one.previous_run is not None and runs_again)

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
            for returner in tasks().filter(returned_id=one.id):
                if returner.status == Status.WAITING:
                    self.waits.add(returner.id)
                elif returner.status == Status.INCOMPLETE and returner.id not in self.targets:
                    self._reopen(returner)
                    work.append(returner)
            parent = one.parent
            if parent is None or parent.id in self.targets:
                continue
            self._check_above(parent, one)
            if parent.status == Status.INCOMPLETE:
                self._reopen(parent)
                work.append(parent)
            else:
                self.waits.add(parent.id)

    def _reopen(self, row: Task[Any]) -> None:
        self.targets[row.id] = Status.WAITING
        for skipped in tasks().filter(previous_id=row.id, status=Status.SKIPPED):
            self._revive(skipped)

    def _check_above(self, parent: Task[Any], below: Task[Any]) -> None:
        """Whether `parent` waits for `below`, or can do so again."""
        has_ended = parent.status in DONE and parent.status != Status.INCOMPLETE
        is_of_last = below.parent_run == parent.claim_no and parent.status not in DISOWNS
        if has_ended or not (is_of_last or below.parent_run is None):
            raise NotRetryable(
                f"{below.func_name} {below.id} can't run again: {parent.func_name} {parent.id} above it "
                f"{'has ended as' if has_ended else 'is'} {parent.status}, and does not wait for it."
            )
        bad = graph.counted_subtasks(parent).filter(status__in=ERROR)
        if parent.fail_fast and bad.exclude(id__in=self.targets).exists():
            raise NotRetryable(
                f"{below.func_name} {below.id} can't run again alone: {parent.func_name} {parent.id} above it "
                "has fail_fast, and other subtasks that did not succeed. retry() that one."
            )

    def _check_secrets(self, row: Task[Any]) -> None:
        kept = [(errorback["call"], 1) for errorback in row.errorbacks]
        kept += [(member, 0) for member in row.members]
        if self.targets[row.id] != Status.WAITING:
            own = ("func_name", "args", "kwargs", "options", "passes_result")
            kept.append(({"members": [], **{name: getattr(row, name) for name in own}}, 0))
        if any(lacks_secrets(call, before) for call, before in kept):
            raise NotRetryable(
                f"{row.func_name} {row.id} was {row.status}, and its sensitive arguments were forgotten "
                "then: it can't run again. delay() it anew."
            )


def _target(task: Task[Any]) -> Status:
    if task.status == Status.SKIPPED:
        return Status.PENDING
    if task.status == Status.INCOMPLETE:
        return Status.WAITING
    if task.status == Status.REVOKED and not _has_begun(task):
        if task.previous_id is not None and not task.is_errorback:
            return Status.PENDING
        if task.run_after is not None and task.run_after > database.read_clock():
            return Status.SCHEDULED
    if task.status == Status.REVOKED and task.container:
        return Status.WAITING
    return Status.QUEUED


def _has_begun(task: Task[Any]) -> bool:
    """It was claimed, or, of a group or chain, has got its members."""
    return task.claim_no > 0 or bool(
        task.container and tasks().filter(parent_id=task.id, member_no__isnull=False).exists()
    )
