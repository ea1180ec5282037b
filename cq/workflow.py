"""What tasks are to each other: subtasks, successors, returned tasks, and what an end means for them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction

from cq import bell, context, database, lifecycle, logs, submission
from cq.exceptions import ParentFinished, Revoked
from cq.lifecycle import tasks
from cq.signature import Later, call, signature, spread
from cq.states import ACTIVE, DONE, Status

if TYPE_CHECKING:
    from cq.context import Run
    from cq.models import Task


# What a task, or somebody else, adds to a task.


def subtask(
    parent: Task[Any], f: Later, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Task[Any]:
    """A child of `parent`."""
    made = call(signature(f, args, kwargs))
    with _under(parent) as run_no:
        return submission.submit(made, parent=parent, parent_run=run_no)


def subtasks(parent: Task[Any], f: Later, items: Iterable[Any]) -> int:
    """A child for each item, in batches, inside one transaction. Returns their number."""
    calls = (call(signed) for signed in spread(f, items))
    with _under(parent) as run_no:
        return sum(
            len(batch) for batch in submission.submit_many(calls, parent=parent, parent_run=run_no)
        )


def chain(
    previous: Task[Any],
    f: Later,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    passes_result: bool = False,
) -> Task[Any]:
    """A successor of `previous`, under the same parent."""
    made = call(signature(f, args, kwargs), before=1 if passes_result else 0)

    def insert(parent: Task[Any] | None) -> Task[Any]:
        return submission.submit(
            made,
            parent=parent,
            parent_run=previous.parent_run,
            previous=previous,
            passes_result=passes_result,
        )

    run = context.current()
    if run is not None and run.how == "inline":
        made_inline = insert(previous.parent)
        made_inline.previous = previous
        return made_inline
    if run is not None and run.task.id == previous.id:
        run.concerns_others = True
        with _still_mine(run):
            return insert(previous.parent)
    with transaction.atomic(using=database.alias()):
        locked = _locked(previous.id)
        if locked.status in DONE and locked.parent_id is not None:
            with _under(locked.parent):
                return _released(locked, insert(locked.parent))
        if not locked.linked:
            tasks().filter(id=locked.id).update(linked=True)
        return _released(locked, insert(locked.parent))


def _released(previous: Task[Any], successor: Task[Any]) -> Task[Any]:
    if previous.status in DONE:
        release_successors(previous)
        successor.refresh_from_db(fields=("status", "ready_at", "run_after", "finished"))
    return successor


@contextlib.contextmanager
def _under(parent: Task[Any]) -> Iterator[int | None]:
    """Where a row may be inserted under `parent`; gives the run of `parent` that it belongs to.

    A task that runs under `parent` keeps it from ending, and so needs no lock on its row. Others
    take it, and mark the row, so that the parent can't end without having seen them.
    """
    run = context.current()
    if run is not None and run.how == "inline":
        yield None
        return
    if run is not None:
        is_under, run_no = _run_under(run.task, parent.id)
        if is_under:
            run.concerns_others = run.concerns_others or run.task.id == parent.id
            with _still_mine(run):
                yield run_no
            return
    with transaction.atomic(using=database.alias()):
        locked = _locked(parent.id)
        if locked.status in DONE:
            raise ParentFinished(
                f"{locked.func_name} {locked.id} has ended as {locked.status}: nothing can be added "
                "under it. Add subtasks from a task that runs under it."
            )
        if not locked.linked:
            tasks().filter(id=locked.id).update(linked=True)
        yield None


def _locked(task_id: UUID) -> Task[Any]:
    locked: Task[Any] = database.lock(tasks().filter(id=task_id)).get()
    return locked


@contextlib.contextmanager
def _still_mine(run: Run) -> Iterator[None]:
    """A run that was overtaken adds nothing: an atomic one is rolled back, others are stopped here."""
    if run.task.atomic or run.how != "worker":
        yield
        return
    with transaction.atomic(using=database.alias()):
        if database.lock(lifecycle.mine(run.task)).values_list("id").first() is None:
            raise Revoked(f"this run of {run.task.func_name} {run.task.id} is over")
        yield


def _run_under(task: Task[Any], ancestor: UUID) -> tuple[bool, int | None]:
    """Whether `task` is, or is under, `ancestor`, and to which run of it that branch belongs."""
    if task.id == ancestor:
        return True, task.claim_no
    parent_id, run_no = task.parent_id, task.parent_run
    while parent_id is not None and parent_id != ancestor:
        row = tasks().filter(id=parent_id).values_list("parent_id", "parent_run").first()
        parent_id, run_no = row or (None, None)
    return parent_id is not None, run_no


# A task that a task returned.


def check_returned(task: Task[Any], returned: Task[Any]) -> None:
    """Raise ValueError where `task` can't wait for the task that it returned."""
    if returned.id in _waiting_for(task):
        raise endless(returned)
    if not tasks().filter(id=returned.id).exists():
        raise ValueError(f"it returned the task {returned.id}, which does not exist")


def adopt(run: Run, returned: Task[Any]) -> None:
    """Make `returned` count for `run.task`, in the transaction that ends the run.

    One that this run made without a parent becomes its subtask, with those of its predecessors
    that it made, too; any other is waited for where it is.
    """
    task = run.task
    link: UUID | None = returned.id
    while link is not None and link in run.made:
        row = tasks().filter(id=link)
        adopted = row.filter(parent=None).update(
            parent_id=task.id,
            parent_run=task.claim_no,
            root_id=task.root_id,
            depth=task.depth + 1,
            prune_at=None,
        )
        tasks().filter(root_id=link).exclude(id=link).update(root_id=task.root_id)
        if adopted:
            logs.move(link, task.root_id)
        row.update(linked=True)
        link = row.values_list("previous_id", flat=True).first()
    tasks().filter(id=returned.id).update(linked=True)


def endless(returned: Task[Any]) -> ValueError:
    """What is wrong with a task that returned one which waits for it."""
    return ValueError(
        f"it returned {returned.func_name} {returned.id}, which waits for it: they would wait "
        "for each other for ever"
    )


def _waiting_for(task: Task[Any]) -> set[UUID]:
    """Everything that can't end before `task` does: itself, what is above, after, or returned it."""
    found: set[UUID] = set()
    work = deque([task.id])
    while work:
        task_id = work.popleft()
        if task_id in found:
            continue
        found.add(task_id)
        work.extend(tasks().filter(previous_id=task_id).values_list("id", flat=True))
        work.extend(tasks().filter(returned_id=task_id).values_list("id", flat=True))
        parent_id = tasks().filter(id=task_id).values_list("parent_id", flat=True).first()
        if parent_id is not None:
            work.append(parent_id)
    return found


# What an end means for others.


def settle(task_id: UUID) -> None:
    """After a commit: release the successors of what ended, complete what waited for it, upwards.

    Idempotent, one level and one task-row lock at a time; the sweep calls it too.
    """
    work = deque([task_id])
    while work:
        task = tasks().filter(id=work.popleft()).first()
        if task is None:
            continue
        if task.status == Status.WAITING:
            if lifecycle.complete(task) is not None:
                work.append(task.id)
            continue
        if task.status not in DONE:
            continue
        work.extend(release_successors(task))
        if task.parent_id is None:
            logs.store(task.id)
        waiting = tasks().filter(returned_id=task.id, status=Status.WAITING)
        above = set(waiting.values_list("id", flat=True)) | {task.parent_id} - {None}
        for waiter in tasks().filter(id__in=above, status=Status.WAITING):
            if lifecycle.complete(waiter) is not None:
                work.append(waiter.id)


def complete_above(parent_id: UUID) -> None:
    """After a subtask that concerns nobody but its parent: most of them are not the last."""
    if lifecycle.may_complete(parent_id):
        settle(parent_id)


def release_successors(task: Task[Any]) -> list[UUID]:
    """Of a task that has ended: its successors become claimable, or SKIPPED. Returns the skipped."""
    skipped = []
    for successor in tasks().filter(previous_id=task.id, status=Status.PENDING):
        if task.status == Status.SUCCESS or successor.force_chain:
            released = lifecycle.release(successor)
            if released is not None:
                successor.status = released
                bell.announce([successor])
        elif lifecycle.skip(successor):
            skipped.append(successor.id)
    return skipped


# What can be seen of a tree.


def progress(task: Task[Any]) -> tuple[float, float | None, str]:
    """`(done, total, message)`; with subtasks, total is their number, done the sum of their fractions."""
    below = lifecycle.counted_subtasks(task)
    total = below.count() if task._state.db else 0
    if not total:
        return task.progress_done or 0.0, task.progress_total, task.progress_message
    unfinished = below.filter(status__in=ACTIVE)
    done = float(total - unfinished.count())
    done += sum(_fraction(subtask) for subtask in unfinished.exclude(started=None))
    return done, float(total), task.progress_message


def _fraction(task: Task[Any]) -> float:
    done, total, _ = progress(task)
    return min(max(done / total, 0.0), 1.0) if total else 0.0
