"""Make task rows, and ring for those that are claimable once the caller's transaction has committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models.base import ModelState
from django.db.models.signals import post_init

from cq import bell, context, database, lifecycle
from cq.conf import settings
from cq.exceptions import TooDeep
from cq.signature import Call, Form
from cq.states import DONE, Status

if TYPE_CHECKING:
    from cq.models import Task


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the graph a task is made, or by which schedule."""

    parent: Task[Any] | None = None
    parent_run: int | None = None
    """The parent's run that it belongs to; None: made from outside."""
    previous: Task[Any] | None = None
    previous_run: int | None = None
    """The predecessor's run that chained it; None: made from outside."""
    is_errorback: bool = False
    member_no: int | None = None
    repeating_task_id: int | None = None
    """The schedule that it is a run of, and for which of its slots."""
    slot: datetime | None = None


ALONE = Place()


def submit(call: Call, place: Place = ALONE) -> Task[Any]:
    """One task: one INSERT, in the caller's transaction. Behind what has not ended, it is PENDING.

    A group or chain is inserted together with its members.
    """
    return make(call.columns(), place)


def make(columns: Mapping[str, Any], place: Place) -> Task[Any]:
    """The same, of a signature that was kept on a row."""
    task = _made(columns, place, _Making())
    run = _inline(place)
    if run is not None:
        _keep(run, [task], place)
    elif task.container:
        _insert_container(task)
    else:
        lifecycle.insert(task)
        _announce([task])
    return task


def submit_many(calls: Iterable[Call], place: Place = ALONE) -> Iterator[list[Task[Any]]]:
    """Bulk INSERTs in one transaction, batch by batch as they are asked for; one bell per queue."""
    made = _made_alike(calls, place)
    run = _inline(place)
    if run is not None:
        tasks = list(made)
        _keep(run, tasks, place)
        yield tasks
        return
    with transaction.atomic(using=database.alias()):
        while batch := list(islice(made, lifecycle.BATCH)):
            _insert_many(batch)
            yield batch


def _insert_many(batch: list[Task[Any]]) -> None:
    plain = [task for task in batch if not task.container]
    lifecycle.insert_many(plain)
    _announce(plain)
    for task in batch:
        if task.container:
            _insert_container(task)


def _announce(made: Iterable[Task[Any]]) -> None:
    bell.announce([task for task in made if task.status not in (Status.PENDING, Status.WAITING)])


def _insert_container(task: Task[Any]) -> None:
    with transaction.atomic(using=database.alias()):
        if task.status != Status.WAITING:  # its members wait on the row until then
            lifecycle.insert(task)
            _announce([task])
            return
        members, task.members = task.members, []
        lifecycle.insert(task)
        fill(task, members)


def fill(container: Task[Any], members: Iterable[Mapping[str, Any]]) -> None:
    """Insert the members of a container, in the transaction that makes it WAITING."""
    making = _Making()
    made: list[Task[Any]] = []
    plain: list[Task[Any]] = []
    for number, columns in enumerate(members):
        previous = made[-1] if made and container.container == "chain" else None
        place = Place(parent=container, previous=previous, member_no=number)
        task = _made(columns, place, making)
        made.append(task)
        if previous is not None:
            previous.linked = True
        if task.container:
            _insert_container(task)
        else:
            plain.append(task)
    _insert_many(plain)
    if all(task.status in DONE for task in made):  # nothing in it, but for groups of nothing
        lifecycle.complete(container)
        container.refresh_from_db()


def _inline(place: Place) -> context.Run | None:
    """The direct call that runs here, where what it makes is its own, and not some row's."""
    run = context.current()
    if run is None or run.how != "inline":
        return None
    other = place.previous or place.parent
    return run if other is None or other._state.adding else None


def _keep(run: context.Run, tasks: list[Task[Any]], place: Place) -> None:
    """Without rows: the instances themselves are what tasks know of each other."""
    parent = place.parent
    for task in tasks:
        task.parent, task.previous = parent, place.previous
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


def _made(columns: Mapping[str, Any], place: Place, making: _Making) -> Task[Any]:
    parent, previous = place.parent, place.previous
    is_behind = (
        previous is not None and not place.is_errorback and previous.status != Status.SUCCESS
    )
    born = Status.WAITING if columns["container"] else Status.QUEUED
    values = {
        **_defaults(),
        **columns,
        "run_after": None,
        "status": Status.PENDING if is_behind else born,
        "parent_id": parent.id if parent else None,
        "parent_run": place.parent_run,
        "previous_id": previous.id if previous else None,
        "previous_run": place.previous_run,
        "is_errorback": place.is_errorback,
        "member_no": place.member_no,
        "repeating_task_id": place.repeating_task_id,
        "slot": place.slot,
        "meta": {**(parent.meta if parent else {}), **columns["meta"]},
        "depth": parent.depth + 1 if parent else 0,
    }
    del values["expires"]
    task = _with_values(values, parent)
    if place.member_no is None and not place.is_errorback:  # else granted when the call was made
        check_depth(task.func_name, task.depth + _levels(task.members))
    _set_times(task, columns["run_after"], columns["expires"], making)
    task.made_in = making.transaction
    return task


def _made_alike(calls: Iterable[Call], place: Place) -> Iterator[Task[Any]]:
    """A task for each call. Those of one form differ in nothing but their arguments."""
    making = _Making()
    form: Form | None = None
    values: dict[str, Any] = {}
    for call in calls:
        if call.form is form:
            task = _with_values({**values, "args": call.args, "kwargs": call.kwargs}, place.parent)
        else:
            task = _made(call.columns(), place, making)
            form, values = call.form, dict(task.__dict__)
        yield task


def _with_values(values: Mapping[str, Any], parent: Task[Any] | None) -> Task[Any]:
    """A task with an id, and with lists and dicts, of its own. `Task(…)` takes five times as long."""
    kind = database.task_model()
    task_id = kind._meta.pk.get_default()
    root_id = (parent.root_id or parent.id) if parent else task_id
    task = kind.__new__(kind)
    row = task.__dict__
    row.update(values, id=task_id, root_id=root_id, _state=ModelState())
    for name in _changeable():
        row[name] = row[name].copy()
    post_init.send(sender=kind, instance=task)
    run = context.current()
    if run is not None and parent is None:
        run.made.add(task_id)
    return task


@cache
def _defaults() -> dict[str, Any]:
    """What a task holds of which nothing else is said, by attribute."""
    fields = database.task_model()._meta.concrete_fields
    return {field.attname: field.get_default() for field in fields}


@cache
def _changeable() -> tuple[str, ...]:
    return tuple(name for name, value in _defaults().items() if isinstance(value, list | dict))


def check_depth(name: str, depth: int) -> None:
    """Raise TooDeep where `name`, or what is in it, would be too far below its top task."""
    if depth > settings().max_depth:
        raise TooDeep(
            f"{name} would be {depth} levels below its top task; "
            f"CQ_MAX_DEPTH allows {settings().max_depth}."
        )


def _levels(members: Iterable[Mapping[str, Any]]) -> int:
    """How deep the members of a container nest: asked when it is made, as later nobody could be told."""
    return max((1 + _levels(member["members"]) for member in members), default=0)


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
