"""What differs between databases: which one tasks live on, its clock, its locks, its passing faults."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.apps import apps
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    connections,
    models,
    router,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from cq.conf import settings

if TYPE_CHECKING:
    from cq.models import LogLine, RepeatingTask, Task, Worker

T = TypeVar("T")

logger = logging.getLogger("cq")


@cache  # each step of each task asks
def task_model() -> type[Task[Any]]:
    """`cq.models.Task`, for the modules that stand below it."""
    return apps.get_model("cq", "Task")


def worker_model() -> type[Worker]:
    """`cq.models.Worker`, for the modules that stand below it."""
    return apps.get_model("cq", "Worker")


def repeating_model() -> type[RepeatingTask]:
    """`cq.models.RepeatingTask`, for the modules that stand below it."""
    return apps.get_model("cq", "RepeatingTask")


def alias() -> str:
    """The database that holds the tasks."""
    return settings().database or router.db_for_write(task_model())


def tasks() -> QuerySet[Task[Any]]:
    """All tasks, on the database where they live."""
    return task_model()._base_manager.using(alias())


def connection() -> BaseDatabaseWrapper:
    """This thread's connection to it."""
    return connections[alias()]


def later(moment: Any, by: timedelta) -> Any:
    """`moment` and `by` more, as an expression in the database's own time."""
    return models.ExpressionWrapper(moment + by, models.DateTimeField())


def read_clock() -> datetime:
    """The database's clock, as a moment: for what is counted from now, on a host that may be wrong."""
    link = connection()
    expression = models.ExpressionWrapper(Now(), models.DateTimeField())
    sql, params = task_model()._base_manager.all().query.get_compiler(alias()).compile(expression)
    with link.cursor() as cursor:
        cursor.execute(f"SELECT {sql}", params)
        value = cursor.fetchone()[0]
    for convert in link.ops.get_db_converters(expression):
        value = convert(value, expression, link)
    return value  # type: ignore[no-any-return]


def lock(rows: QuerySet[Any], *, skip: bool = False) -> QuerySet[Any]:
    """`rows`, to be read under a lock that inserting what refers to them neither waits for nor blocks.

    `skip`: without those that somebody else holds, where the database can do that.

    To be called inside `transaction.atomic()`. SQLite has one lock for all: it is taken by a
    write that changes nothing, because a read first could only fail later.
    """
    features = connections[rows.db].features
    if features.has_select_for_update:
        return rows.select_for_update(
            skip_locked=skip and features.has_select_for_update_skip_locked,
            no_key=features.has_select_for_no_key_update,
        )
    column = next(
        field.attname for field in rows.model._meta.concrete_fields if not field.primary_key
    )
    rows.order_by().update(**{column: F(column)})
    return rows


LONGEST_WAIT = 0.5
"""Seconds that bookkeeping waits for a row which somebody's transaction holds."""


def bound_waits(seconds: float = LONGEST_WAIT) -> None:
    """PostgreSQL: the rest of this transaction waits for no lock for long, unless it is a user's own.

    A row may be held for as long as the user's task or request takes that has added to it.
    """
    link = connection()
    if link.vendor == "postgresql" and len(link.atomic_blocks) == 1:
        with link.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {seconds * 1000:.0f}")


def is_held(error: BaseException) -> bool:
    """Whether a row was held by somebody else for too long."""
    return isinstance(error, OperationalError) and (
        _state(error.__cause__) == "55P03" or _code(error.__cause__) == 1205
    )


def passing(error: BaseException) -> bool:
    """Whether the database, and not what was asked of it, is to blame, so that trying again helps."""
    if not isinstance(error, DatabaseError | InterfaceError):
        return False
    if busy(error):
        return True
    cause = error.__cause__
    if _code(cause) in _PASSING_CODES:
        return True
    if state := _state(cause):
        return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES
    if _code(cause) is not None:
        return False
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    # What psycopg did not hear from the server: it is not to be found, or went away without a word.
    by_psycopg = cause is not None and type(cause).__module__.startswith("psycopg")
    return by_psycopg or "connection" in str(error).lower()


def _code(cause: BaseException | None) -> int | None:
    """MariaDB's number. It says more than the SQLSTATE beside it, which is HY000 for a lock timeout."""
    code = cause.args[0] if cause is not None and cause.args else None
    return code if isinstance(code, int) else None


def _state(cause: BaseException | None) -> str:
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


# PostgreSQL: conflicts, connections; locks, shutdowns, too many clients, a standby after a failover.
_PASSING_CLASSES = ("40", "08")
_PASSING_STATES = ("25006", "53300", "55P03", "57P01", "57P02", "57P03", "57P05")
# MariaDB, MySQL: conflicts and locks; too many clients, shutdown, killed; never or no more connected
# (0: PyMySQL has closed the socket).
_PASSING_CODES = (1020, 1205, 1213, 1040, 1053, 1927, 0, 2002, 2003, 2006, 2013, 2055, 4031)


def busy(error: BaseException) -> bool:
    """Whether SQLite refused because another connection was writing."""
    return isinstance(error, OperationalError) and bool(_LOCKED.search(str(error)))


_LOCKED = re.compile(r"database( table| schema)? is locked", re.IGNORECASE)


def in_transaction(step: Callable[[], T]) -> T:
    """`step()` in a transaction, and anew where the database broke that off in favour of another's.

    MariaDB does so without fault of ours: it locks a row's index entries one by one, in an order
    of its own. Inside the caller's transaction, which is gone then, the error is the caller's.
    """
    for tries in range(CONFLICTS):
        try:
            with transaction.atomic(using=alias()):
                return step()
        except OperationalError as error:
            if depth() or not _is_conflict(error):
                raise
            pause(tries)
    with transaction.atomic(using=alias()):
        return step()


CONFLICTS = 6


def _is_conflict(error: OperationalError) -> bool:
    cause = error.__cause__
    return _code(cause) in (1020, 1205, 1213) or _state(cause).startswith("40")


def report(logger: logging.Logger, what: str, error: BaseException) -> None:
    """In a loop that goes on: a passing fault is a warning, any other an error with its traceback.

    Closes this thread's connection, in whatever state that is.
    """
    is_passing = passing(error)
    level = logging.WARNING if is_passing else logging.ERROR
    logger.log(level, "%s failed, will try again: %s", what, error, exc_info=not is_passing)
    discard(connection())


def pause(tries: int) -> None:
    """Sleep before the next try: longer each time, up to two seconds, and never as long as another."""
    time.sleep(min(0.01 * 2 ** min(tries, 10), 2.0) * random.uniform(0.5, 1.5))


def touch_mark(link: Any) -> int:
    """See `touched_since()`."""
    link.ensure_connection()
    if link.vendor == "sqlite":
        return link.connection.total_changes  # type: ignore[no-any-return]
    return getattr(link, _STATEMENTS, 0)


def touched_since(mark: int, link: Any) -> bool:
    """Whether the transaction of `link` may hold anything, given `touch_mark()` from its beginning.

    On SQLite: whether it wrote. Elsewhere reading counts, too.
    """
    if link.run_on_commit:
        return True
    if link.vendor == "postgresql":
        return link.connection is None or link.connection.info.transaction_status != _IDLE
    if link.vendor == "sqlite":
        return link.connection is None or link.connection.total_changes != mark
    return _count_statements not in link.execute_wrappers or getattr(link, _STATEMENTS, 0) != mark


_IDLE = 0  # libpq's PQTRANS_IDLE: nothing was asked in this transaction
_STATEMENTS = "cq_statements"


def _count_statements(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    link = context["connection"]
    setattr(link, _STATEMENTS, getattr(link, _STATEMENTS, 0) + 1)
    return execute(sql, params, many, context)


def prepare(link: BaseDatabaseWrapper) -> None:
    """What a connection needs in a process that runs tasks."""
    if link.vendor == "sqlite":
        _prepare_sqlite(link)
    elif link.vendor == "mysql" and _count_statements not in link.execute_wrappers:
        link.execute_wrappers.append(_count_statements)  # nothing else tells


def line_model() -> type[LogLine]:
    """`cq.models.LogLine`, for the modules that stand below it."""
    return apps.get_model("cq", "LogLine")


def begin_as(
    mode: str, link: BaseDatabaseWrapper | None = None
) -> contextlib.AbstractContextManager[None]:
    """SQLite: transactions begun inside begin DEFERRED or IMMEDIATE, whatever the settings say."""
    link = link or connection()
    return _begin_as(mode, link) if link.vendor == "sqlite" else contextlib.nullcontext()


@contextlib.contextmanager
def _begin_as(mode: str, link: Any) -> Iterator[None]:
    link.ensure_connection()
    before = link.transaction_mode
    link.transaction_mode = mode
    try:
        yield
    finally:
        link.transaction_mode = before


def depth() -> int:
    """How many `atomic` blocks this thread is in, on the tasks' database."""
    return len(connection().atomic_blocks)


def unwind(to: int) -> bool:
    """Roll back the `atomic` blocks above `to` that somebody forgot to leave; whether there were any."""
    link = connection()
    found = len(link.atomic_blocks) > to
    while len(link.atomic_blocks) > to:
        error = transaction.TransactionManagementError("left open")
        link.atomic_blocks[-1].__exit__(type(error), error, None)
    return found


def tidy() -> None:
    """Between two tasks: healthy connections are kept, whatever CONN_MAX_AGE says; others are closed."""
    for link in connections.all(initialized_only=True):
        if link.connection is None and not link.in_atomic_block:
            continue
        strange = link.in_atomic_block or not link.get_autocommit()
        if strange or (link.errors_occurred and not link.is_usable()):
            discard(link)
        link.errors_occurred = False


def discard(link: BaseDatabaseWrapper) -> None:
    """Close a connection, whatever state it is in."""
    link.atomic_blocks.clear()
    link.savepoint_ids.clear()
    link.run_on_commit.clear()
    link.in_atomic_block = False
    link.closed_in_transaction = False
    link.needs_rollback = False
    try:
        link.close()
    except Exception as error:  # noqa: BLE001  (it is being thrown away)
        logger.debug("closing a broken connection: %s", error)
        link.connection = None


def _prepare_sqlite(link: BaseDatabaseWrapper) -> None:
    """Readers must not block the writer, and a writer waits for its turn."""
    with link.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 20000")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "delete":
            return
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except OperationalError as error:  # somebody is using the file: another time
            logger.debug("SQLite stays without write-ahead log: %s", error)
