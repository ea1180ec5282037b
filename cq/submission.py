"""Make task rows, and ring for those that are claimable once the caller's transaction has committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.db import transaction

from cq import bell, context, database, lifecycle, registry
from cq.conf import settings
from cq.exceptions import TooDeep
from cq.options import changed, check_known
from cq.signature import Call
from cq.states import Status

if TYPE_CHECKING:
    from cq.models import Task


def submit(
    call: Call,
    *,
    parent: Task[Any] | None = None,
    parent_run: int | None = None,
    previous: Task[Any] | None = None,
    passes_result: bool = False,
) -> Task[Any]:
    """One task: one INSERT, in the caller's transaction. With `previous`, it is PENDING."""
    task = _made(call, parent, parent_run, previous, passes_result, making=_Making())
    run = context.current()
    if run is not None and run.how == "inline":
        _keep(run, [task], parent)
        return task
    lifecycle.insert(task)
    if task.status != Status.PENDING:
        bell.announce([task])
    return task


def submit_many(
    calls: Iterable[Call], *, parent: Task[Any] | None = None, parent_run: int | None = None
) -> Iterator[list[Task[Any]]]:
    """Bulk INSERTs in one transaction, batch by batch as they are asked for; one bell per queue."""
    making = _Making()
    made = (_made(call, parent, parent_run, None, False, making=making) for call in calls)
    run = context.current()
    if run is not None and run.how == "inline":
        tasks = list(made)
        _keep(run, tasks, parent)
        yield tasks
        return
    with transaction.atomic(using=database.alias()):
        while batch := list(islice(made, lifecycle.BATCH)):
            lifecycle.insert_many(batch)
            bell.announce(batch)
            yield batch


def _keep(run: context.Run, tasks: list[Task[Any]], parent: Task[Any] | None) -> None:
    """Without rows: the instances themselves are what tasks know of each other."""
    for task in tasks:
        task.parent = parent
        task.root = parent.root or parent if parent is not None else task
    run.later.extend(tasks)


class _Making:
    """What is the same for all tasks that one call makes: asked for once, and only where needed."""

    @cached_property
    def now(self) -> datetime:
        """By the database's clock."""
        return database.read_clock()

    @cached_property
    def transaction(self) -> context.Transaction | None:
        """What wait() needs to know: in which transaction they were made, until it has committed."""
        run = context.current()
        if run is not None and run.how == "inline":
            return None
        blocks = database.connection().atomic_blocks
        if not blocks:
            return None
        made_in = context.Transaction(blocks[0])
        transaction.on_commit(made_in.end, using=database.alias(), robust=True)
        return made_in


def _made(
    call: Call,
    parent: Task[Any] | None,
    parent_run: int | None,
    previous: Task[Any] | None,
    passes_result: bool,
    *,
    making: _Making,
) -> Task[Any]:
    options, own = call.options, call.definition.options
    check_known(options.queue, registry.queues())
    task = database.task_model()(
        func_name=call.definition.name,
        args=call.args,
        kwargs=call.kwargs,
        label=options.label,
        meta={**(parent.meta if parent else {}), **options.meta},
        status=Status.PENDING if previous is not None else Status.QUEUED,
        queue=options.queue,
        priority=options.priority,
        parent_id=parent.id if parent else None,
        parent_run=parent_run,
        previous_id=previous.id if previous else None,
        passes_result=passes_result,
        depth=parent.depth + 1 if parent else 0,
        atomic=options.atomic,
        rerun_lost=options.rerun_lost,
        fail_fast=options.fail_fast,
        force_chain=options.force_chain,
        retries=options.retries_allowed,
        timeout=options.seconds_allowed,
        result_ttl=options.kept_for,
        options=changed(options, own),
    )
    task.root_id = (parent.root_id or parent.id) if parent else task.id
    if task.depth > settings().max_depth:
        raise TooDeep(
            f"{task.func_name} would be {task.depth} levels below its top task; "
            f"CQ_MAX_DEPTH allows {settings().max_depth}."
        )
    _set_times(task, options.run_after, options.expires, making)
    task.made_in = making.transaction
    run = context.current()
    if run is not None and parent is None:
        run.made.add(task.id)
    return task


def _set_times(
    task: Task[Any],
    run_after: datetime | timedelta | None,
    expires: datetime | timedelta | None,
    making: _Making,
) -> None:
    """What is counted from now is counted by the database's clock, from when the task could run."""
    if run_after is None and expires is None:
        return
    if isinstance(expires, datetime):
        task.expires_at = expires
    if isinstance(run_after, datetime):
        task.run_after = run_after
    if task.status == Status.PENDING:  # its time begins when its predecessor has ended
        if isinstance(run_after, timedelta):
            task.delays["run_after"] = run_after.total_seconds()
        if isinstance(expires, timedelta):
            task.delays["expires"] = expires.total_seconds()
        return
    now = making.now
    if isinstance(run_after, timedelta):
        task.run_after = now + run_after
    if task.run_after is not None and task.run_after > now:
        task.status = Status.SCHEDULED
        task.ready_at = task.run_after
    if isinstance(expires, timedelta):
        task.expires_at = max(task.run_after or now, now) + expires
