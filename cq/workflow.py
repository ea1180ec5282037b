"""What tasks are made to each other: subtasks, successors, errorbacks, returned tasks; what can be seen of a tree."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Q

from cq import bell, context, database, graph, lifecycle, logs, settling, submission
from cq.database import tasks
from cq.exceptions import ParentFinished, Revoked
from cq.signature import Later, call, calls, signature, taking_result
from cq.states import ACTIVE, ANSWERED, DONE, Status
from cq.submission import Place

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
        return submission.submit(made, Place(parent=parent, parent_run=run_no))


def subtasks(parent: Task[Any], f: Later, items: Iterable[Any]) -> int:
    """A child for each item, in batches, inside one transaction. Returns their number."""
    with _under(parent) as run_no:
        place = Place(parent=parent, parent_run=run_no)
        return sum(len(batch) for batch in submission.submit_many(calls(f, items), place))


def chain(
    previous: Task[Any],
    f: Later,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    passes_result: bool = False,
) -> Task[Any]:
    """A successor of `previous`, under the same parent."""
    signed = signature(f, args, kwargs)
    made = call(taking_result(signed) if passes_result else signed)

    def insert(previous: Task[Any], run_no: int | None = None) -> Task[Any]:
        place = Place(
            parent=previous.parent,
            parent_run=previous.parent_run,
            previous=previous,
            previous_run=run_no,
        )
        return submission.submit(made, place)

    run = _run_beside(previous)
    if run is not None and run.how == "inline":
        _check_active(previous.parent)
        return insert(previous)
    if run is not None and run.task.id == previous.id:
        run.concerns_others = True
        with _still_mine(run):
            return insert(run.task, run.task.claim_no)
    with _behind(previous) as locked:
        successor = insert(locked)
        is_late = locked.status in DONE and successor.status == Status.PENDING
        if is_late:
            settling.settle_after(settling.release_successors(locked))
    if is_late:
        successor.refresh_from_db(fields=("status", "ready_at", "run_after", "finished"))
    return successor


def errorback(
    task: Task[Any], f: Later, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Task[Any]:
    """A call for the case that `task` ends badly. Returns `task`."""
    columns = call(signature(f, args, kwargs), before=1).columns()
    run = _run_beside(task)
    if run is not None and run.how == "inline":
        _check_active(task.parent)
        task.errorbacks.append({"run": None, "call": columns})
        if task.status in ANSWERED:
            settling.answer(task, columns)
        return task
    if run is not None and run.task.id == task.id:
        _keep_errorback(run, columns)
        return task
    with _behind(task) as locked:
        kept = [*locked.errorbacks, {"run": None, "call": columns}]
        tasks().filter(id=locked.id).update(errorbacks=kept)
        if locked.status in ANSWERED:
            settling.answer(locked, columns)
    return task


def _keep_errorback(run: Run, columns: Mapping[str, Any]) -> None:
    """Of a run itself. An atomic one's is written with its end; another's at once, as it may be LOST."""
    kept = {"run": run.task.claim_no, "call": columns}
    if run.task.atomic or run.how != "worker":
        run.errorbacks.append(kept)
        return
    with transaction.atomic(using=database.alias()), _still_mine(run):
        row = tasks().filter(id=run.task.id)
        before = database.lock(row).values_list("errorbacks", flat=True).get()
        row.update(errorbacks=[*before, kept], linked=True)
    run.task.linked = True


def revoke(task: Task[Any]) -> bool:
    """The task, all under it, and its successors. False: it has ended already.

    A run that revokes itself, or what is above it, is stopped here: Revoked.
    """
    run = _run_beside(task)
    if run is not None:
        if run.how == "inline":
            is_above = any(above is task for above in _line(run.task))
        else:
            is_above, _ = _run_under(run.task, task.id)
        if is_above or run.how == "inline":
            run.revokes.append(task.id)
        if is_above:
            raise Revoked(f"{run.task.func_name} {run.task.id} has revoked itself")
        if run.how == "inline":
            return task.status in ACTIVE
    return settling.revoke(task.id)


def _line(task: Task[Any]) -> Iterator[Task[Any]]:
    """A task without a row and all above it."""
    above: Task[Any] | None = task
    while above is not None:
        yield above
        above = above.parent


@contextlib.contextmanager
def _behind(previous: Task[Any]) -> Iterator[Task[Any]]:
    """The row of a task, locked, that others may add something behind; its parent's first."""
    parent: Any = (
        tasks().filter(subtasks=previous.id).first()
    )  # SQLite: no read before the first write
    under = contextlib.nullcontext() if parent is None else _under(parent)
    with transaction.atomic(using=database.alias()), under:
        locked = _locked(previous.id)
        if not locked.linked:
            tasks().filter(id=locked.id).update(linked=True)
        yield locked


@contextlib.contextmanager
def _under(parent: Task[Any]) -> Iterator[int | None]:
    """Where a row may be inserted under `parent`; gives the run of `parent` that it belongs to.

    A task that runs under `parent` keeps it from ending, and so needs no lock on its row. Others
    take it, and mark the row, so that the parent can't end without having seen them.
    """
    run = _run_beside(parent)
    if run is not None and run.how == "inline":
        _check_active(parent)
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
        _check_active(locked)
        if not locked.linked:
            tasks().filter(id=locked.id).update(linked=True)
        yield None


def _check_active(parent: Task[Any] | None) -> None:
    if parent is not None and parent.status in DONE:
        raise ParentFinished(
            f"{parent.func_name} {parent.id} has ended as {parent.status}: nothing can be added "
            "under it. Add subtasks from a task that runs under it."
        )


def _run_beside(task: Task[Any]) -> Run | None:
    """What runs here. A direct call, which has no row, is nobody to a task that has one."""
    run = context.current()
    return None if run is not None and run.how == "inline" and not task._state.adding else run


def _locked(task_id: UUID) -> Task[Any]:
    locked: Task[Any] = database.lock(tasks().filter(id=task_id)).get()
    bell.ring_on_commit([locked])  # who looks for QUEUED tasks now passes over this one
    run = context.current()
    if run is not None and run.task.atomic and run.how == "worker":
        run.concerned.append(task_id)  # and who settles it now can't wait until this run has ended
    return locked


@contextlib.contextmanager
def _still_mine(run: Run) -> Iterator[None]:
    """A run that was revoked or overtaken adds nothing. An atomic one that does not know yet is rolled back."""
    over = Revoked(f"this run of {run.task.func_name} {run.task.id} is over")
    if run.revoked:
        raise over
    if run.task.atomic or run.how != "worker":
        yield
        return
    with transaction.atomic(using=database.alias()):
        place = ("parent_id", "parent_run", "root_id", "depth")
        row = database.lock(lifecycle.mine(run.task)).values(*place).first()
        if row is None:
            run.revoked = True
            raise over
        for name, value in row.items():  # it may have been adopted meanwhile
            setattr(run.task, name, value)
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
    row = tasks().filter(id=returned.id).first()
    if row is None:
        raise ValueError(f"it returned the task {returned.id}, which does not exist")
    if row.parent_id is None and task.run is not None and row.id in task.run.made:
        below = tasks().filter(root_id=row.id, parent__isnull=False)
        deepest = below.order_by("-depth").first() or row
        submission.check_depth(deepest.func_name, task.depth + 1 + deepest.depth)


def adopt(run: Run, returned: Task[Any]) -> None:
    """Make `returned` count for `run.task`, in the transaction that ends the run.

    One that this run made without a parent becomes its subtask, with those of its predecessors
    that it made, too; any other is waited for where it is.
    """
    task = run.task
    touched = [returned.id]
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
        if adopted:
            lifecycle.move_tree(link, task.root_id, task.depth + 1)
            logs.move(link, task.root_id)
        row.update(linked=True)
        touched.append(link)
        link = row.values_list("previous_id", flat=True).first()
    tasks().filter(id=returned.id).update(linked=True)
    # As in _locked(): whoever looked for them meanwhile has passed over them.
    held = Q(id__in=touched)
    if not task.atomic:  # what an atomic task made nobody could see yet
        held |= Q(root_id=task.root_id, parent_id__in=touched)
    queued = tasks().filter(held, status__in=(Status.QUEUED, lifecycle.NO_STATUS))
    bell.ring_on_commit(queued.only("queue", "status"))


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


# What can be seen of a tree.


def progress(task: Task[Any]) -> tuple[float, float | None, str]:
    """`(done, total, message)`; with subtasks, total is their number, done the sum of their fractions."""
    own = {task.id: (task.progress_done or 0.0, task.progress_total)}
    done, total = own[task.id] if task._state.adding else _rolled_up(own)[task.id]
    return done, total, task.progress_message


_Numbers = dict[UUID, tuple[float, float | None]]  # done and total, of each of several tasks


def _rolled_up(own: _Numbers) -> _Numbers:
    """What these say of themselves, or, of those with subtasks, these: a few queries for each level."""
    rolled = dict(own)
    ids = list(own)
    for start in range(0, len(ids), lifecycle.BATCH):
        batch = ids[start : start + lifecycle.BATCH]
        counted = tasks().filter(graph.counts_above(), parent_id__in=batch).order_by()
        numbers = counted.values_list("parent_id").annotate(
            total=Count("id"), done=Count("id", filter=Q(status__in=DONE))
        )
        rolled |= {parent: (float(done), float(total)) for parent, total, done in numbers}
        # Of what has neither begun nor anything below it nothing is known.
        may_know = Q(started__isnull=False) | Q(status=Status.WAITING) | Q(linked=True)
        unfinished = counted.filter(may_know, status__in=ACTIVE).exclude(status=Status.PENDING)
        rows = unfinished.values_list("id", "parent_id", "progress_done", "progress_total")
        below = {found: (done or 0.0, total) for found, _, done, total in rows}
        parents = {found: parent for found, parent, _, _ in rows}
        for found, (done, total) in _rolled_up(below).items() if below else ():
            so_far, number = rolled[parents[found]]
            if total and number:
                fraction = min(max(done / total, 0.0), 1.0)
                rolled[parents[found]] = min(so_far + fraction, number), number
    return rolled
