"""Rows that were just claimed, as tasks: read quickly, since a process claims thousands a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db.models import DEFERRED, QuerySet
from django.db.models.functions import Now

from cq import database, graph
from cq.database import tasks

if TYPE_CHECKING:
    from cq.models import Task

# What most runs never ask for: loaded when one does. Not where it runs on a loop, which must not wait.
_SELDOM = frozenset(
    {
        *("submitted", "run_after", "finished", "prune_at", "delays", "force_chain"),
        *("returned_id", "is_errorback", "errorbacks", "container", "members", "member_no"),
        *("unique_key", "concurrency_key", "rate_key", "repeating_task_id", "slot"),
        *("result", "error", "traceback", "log_lines"),
        *("progress_done", "progress_total", "progress_message"),
    }
)


def columns(*, whole: bool) -> list[str]:
    """What has to be read of a row."""
    return [str(field.column) for field in _fields(whole=whole)]


def _fields(*, whole: bool) -> list[Any]:
    fields = database.task_model()._meta.concrete_fields
    return [field for field in fields if whole or field.attname not in _SELDOM]


def from_rows(rows: Sequence[Sequence[Any]], *, whole: bool) -> list[Task[Any]]:
    """As a cursor gives them: `columns()`, and the database's clock, a number."""
    if not rows:
        return []
    convert = _converters(whole=whole)
    found = []
    for *values, _ in rows:
        for place, change in convert:
            if values[place] is not None:
                values[place] = change(values[place])
        found.append(values)
    return _made(found, datetime.fromtimestamp(rows[0][-1], UTC), whole=whole)


def _converters(*, whole: bool) -> list[tuple[int, Callable[[Any], Any]]]:
    """What the ORM would do to values that a cursor gives, by their places."""
    link: Any = database.connection()
    found: list[tuple[int, Callable[[Any], Any]]] = []
    for place, field in enumerate(_fields(whole=whole)):
        column = field.get_col(field.model._meta.db_table)
        changes = link.ops.get_db_converters(column) + column.get_db_converters(link)
        found += [(place, partial(_converted, change, column, link)) for change in changes]
    return found


def _converted(change: Callable[..., Any], column: Any, link: Any, value: Any) -> Any:
    return change(value, column, link)


def fetch(rows: QuerySet[Task[Any]]) -> list[Task[Any]]:
    """As the ORM gives them."""
    names = [field.attname for field in _fields(whole=True)]
    found = list(rows.annotate(clock_there=Now()).values_list("clock_there", *names))
    made = [values for _, *values in found]
    return _made(made, found[0][0], whole=True) if found else []


def _made(rows: Iterable[Sequence[Any]], clock: datetime, *, whole: bool) -> list[Task[Any]]:
    model: Any = database.task_model()
    alias, now = database.alias(), time.monotonic()
    fields = model._meta.concrete_fields
    is_asked = [whole or field.attname not in _SELDOM for field in fields]
    made = []
    for values in rows:
        given = iter(values)
        # By place, which takes Django half as long as by name.
        task = model(*[next(given) if asked else DEFERRED for asked in is_asked])
        task._state.adding, task._state.db = False, alias
        task.clock, task.claimed_at = clock, now
        made.append(task)
    return made


def mark_strays(claimed: list[Task[Any]]) -> list[Task[Any]]:
    """Of those with a parent: whether that is over. Returns all of them."""
    below = [task.id for task in claimed if task.parent_id is not None]
    if below:
        strays = tasks().filter(graph.is_stray(), id__in=below)
        found = set(strays.values_list("id", flat=True))
        for task in claimed:
            task.is_stray = task.id in found
    return claimed
