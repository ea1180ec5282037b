"""New rows, by INSERTs whose text is built once.

The ORM builds the text of an INSERT anew each time, and hands over each of sixty columns of each
row. Here a column that holds its default is a constant in the text, or not in it at all. What the
others hold is prepared by the fields, as in the ORM.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import DatabaseDefault
from django.db.models.signals import post_save, pre_save

from cq import database
from cq.statements.dialect import quoted

if TYPE_CHECKING:
    from cq.models import Task

Values = tuple[Any, ...]
Said = dict[str, Values]
"""By attribute, what several rows hold."""


# INSERT.


def insert(task: Task[Any]) -> None:
    """One INSERT; the instance is left as `save()` leaves it, and its signals are sent."""
    link = database.connection()
    told = {"sender": type(task), "instance": task, "using": link.alias, "raw": False}
    pre_save.send(**told, update_fields=None)
    _insert(link, [task])
    post_save.send(**told, update_fields=None, created=True)


def insert_many(new: Iterable[Task[Any]]) -> None:
    """A few INSERTs; the instances are left as `bulk_create()` leaves them."""
    link = database.connection()
    # A statement leaves a column of all its rows to the database, or of none.
    alike: dict[Values, list[Task[Any]]] = defaultdict(list)
    names = _left_to_database()
    for task in new:
        row = task.__dict__
        alike[tuple([type(row[name]) for name in names])].append(task)
    for some in alike.values():
        _insert(link, some)


def _insert(link: BaseDatabaseWrapper, new: Sequence[Task[Any]]) -> None:
    said = _said(new)
    if link.vendor == "postgresql" and len(new) > 1:
        text, params = _unnested(link, said)
    else:
        at_once = (link.features.max_query_params or 10**6) // len(said)
        if len(new) > at_once:
            for start in range(0, len(new), at_once):
                _insert(link, new[start : start + at_once])
            return
        text, params = _listed(link, said)
    left = [name for name in _left_to_database() if name not in said]
    decided = None
    with transaction.mark_for_rollback_on_error(link.alias), link.cursor() as cursor:
        cursor.execute(text, params)
        if left and link.features.can_return_rows_from_bulk_insert:
            # Of the first row for all: what is left to the database is the statement's time.
            decided = _read(link, left, cursor.fetchone())
    for task in new:
        task._state.adding = False
        task._state.db = link.alias
        if decided is not None:
            task.__dict__.update(decided)
        else:  # Django asks for it when somebody wants to know
            for name in left:
                del task.__dict__[name]


def _read(link: BaseDatabaseWrapper, names: Iterable[str], returned: Values) -> dict[str, Any]:
    read = {}
    for name, found in zip(names, returned, strict=True):
        column, value = _columns()[name].field.cached_col, found
        for convert in (*link.ops.get_db_converters(column), *column.get_db_converters(link)):
            value = convert(value, column, link)
        read[name] = value
    return read


# What new rows hold.


class _Column(NamedTuple):
    field: models.Field[Any, Any]
    name: str
    default: Any
    """What new rows hold of which nothing else is said; `_NONE`: there is no such thing."""
    constant: str
    """The same in SQL; empty: NULL, or nothing."""


_NONE = object()


@cache
def _columns() -> dict[str, _Column]:
    """Those of an INSERT, by attribute, in the order of the fields."""
    fields = database.task_model()._meta.concrete_fields
    return {field.attname: _column(field) for field in fields if not field.generated}


def _column(field: models.Field[Any, Any]) -> _Column:
    """Of a default that is more than a word or a number, nothing is known: it is a parameter."""
    name = field.column or ""
    is_made = field.has_default() and callable(field.default)
    if field.has_db_default() or (is_made and field.default not in (list, dict)):
        return _Column(field, name, _NONE, "")
    default = field.get_default()
    if default is None:
        return _Column(field, name, None, "")
    if isinstance(default, int):
        return _Column(field, name, default, str(default).upper())
    if default in ("", [], {}) or (isinstance(default, str) and default.isidentifier()):
        return _Column(field, name, default, f"'{default}'")
    return _Column(field, name, _NONE, "")


@cache
def _left_to_database() -> tuple[str, ...]:
    """The attributes whose default is the database's own."""
    return tuple(name for name, column in _columns().items() if column.field.has_db_default())


@cache
def _values_of() -> itemgetter[Any]:
    return itemgetter(*_columns())


def _said(new: Sequence[Task[Any]]) -> Said:
    """What these rows hold, without the columns that hold the default in all of them."""
    values_of = _values_of()
    rows = [values_of(task.__dict__) for task in new]
    said = {}
    for (name, column), values in zip(_columns().items(), zip(*rows, strict=True), strict=True):
        first, default = values[0], column.default
        if default is _NONE:
            is_default = type(first) is DatabaseDefault
        elif first is default or first == default:
            is_default = len(rows) == 1 or values.count(default) == len(rows)
        else:
            is_default = False
        if not is_default:
            said[name] = values
    return said


def _prepared(link: BaseDatabaseWrapper, name: str, values: Values) -> list[Any]:
    prepare = _columns()[name].field.get_db_prep_save
    return [prepare(value, link) for value in values]


def _parts(link: BaseDatabaseWrapper, said: dict[str, str]) -> tuple[str, str, str]:
    """What is inserted into, what, and what is asked back, with this SQL for what is said."""
    quote = link.ops.quote_name
    constants = {name: column.constant for name, column in _columns().items()}
    values = {name: value for name, value in (constants | said).items() if value}
    table = quote(database.task_model()._meta.db_table)
    names = ", ".join(quote(_columns()[name].name) for name in values)
    left = [quote(_columns()[name].name) for name in _left_to_database() if name not in said]
    asks = left and link.features.can_return_rows_from_bulk_insert
    returning = f" RETURNING {', '.join(left)}" if asks else ""
    return f"INSERT INTO {table} ({names})", ", ".join(values.values()), returning


# One row after the other: of a single one, and where there is nothing better.


def _listed(link: BaseDatabaseWrapper, said: Said) -> tuple[str, list[Any]]:
    head, row, tail = _listed_text(link.alias, tuple(said))
    columns = [_prepared(link, name, values) for name, values in said.items()]
    rows = list(zip(*columns, strict=True))
    params = [value for values in rows for value in values]
    return f"{head} VALUES {', '.join([row] * len(rows))}{tail}", params


@lru_cache(maxsize=200)
def _listed_text(alias: str, said: tuple[str, ...]) -> tuple[str, str, str]:
    into, values, returning = _parts(connections[alias], dict.fromkeys(said, "%s"))
    return into, f"({values})", returning


# On PostgreSQL: what is the same in all rows once, each other column as one array.
#
# 500 rows at a time, 13 us a row, which is as fast as COPY (15 us) and gives back what was left to
# the database. The same in VALUES takes 63 us, and by bulk_create() 480.


def _unnested(link: BaseDatabaseWrapper, said: Said) -> tuple[str, list[Any]]:
    same = [name for name, values in said.items() if _is_same(name, values)]
    own = [name for name in said if name not in same]
    params = [_prepared(link, name, said[name][:1])[0] for name in same]
    params += [_array(link, name, said[name]) for name in own]
    return _unnested_text(link.alias, tuple(same), tuple(own)), params


def _is_same(name: str, values: Values) -> bool:
    """Of what is equal; but 1, 1.0 and True are not the same as JSON."""
    field = _columns()[name].field
    if field.primary_key or isinstance(field, models.JSONField) or values[0] != values[-1]:
        return False
    return values.count(values[0]) == len(values)


@lru_cache(maxsize=200)
def _unnested_text(alias: str, same: tuple[str, ...], own: tuple[str, ...]) -> str:
    link = connections[alias]
    columns = [_columns()[name] for name in own]
    names = [link.ops.quote_name(column.name) for column in columns]
    said = {name: f"own.{quoted}" for name, quoted in zip(own, names, strict=True)}
    into, values, returning = _parts(link, dict.fromkeys(same, "%s") | said)
    # Without a length, to which a cast would cut.
    kinds = [(column.field.db_type(link) or "").partition("(")[0] for column in columns]
    arrays = ", ".join(f"(%s)::{kind}[]" for kind in kinds)
    rows = f"unnest({arrays}) AS own ({', '.join(names)})"
    return f"{into} SELECT {values} FROM {rows}{returning}"  # noqa: S608  (all of it from the model)


def _array(link: BaseDatabaseWrapper, name: str, values: Values) -> Any:
    """One parameter. UUIDs and JSON are written here, which takes psycopg five times as long."""
    field = _columns()[name].field
    if isinstance(field, models.JSONField):
        write = (field.encoder or json.JSONEncoder)().encode
        texts = ["NULL" if value is None else quoted(write(value)) for value in values]
        return f"{{{','.join(texts)}}}"
    if field.db_type(link) == "uuid" and all(type(value) is UUID for value in values):
        return f"{{{','.join([value.hex for value in values])}}}"
    return _prepared(link, name, values)
