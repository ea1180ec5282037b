"""What differs between databases: which faults pass by themselves."""

from __future__ import annotations

import sqlite3

import psycopg
import pymysql
import pytest
from django.db import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    transaction,
)

from cq import database
from tests.app.models import Effect

POSTGRESQL = {
    "40001": True,
    "40P01": True,
    "08006": True,
    "25006": True,  # a standby, after a failover
    "53300": True,
    "55P03": True,
    "57P01": True,
    "57P02": True,
    "57P03": True,
    "57P05": True,
    "22001": False,
    "23505": False,
    "42P01": False,
    "57014": False,  # a statement that took too long does so again
}
MARIADB = {
    0: True,
    1020: True,
    1040: True,
    1053: True,
    1205: True,
    1213: True,
    1927: True,
    2002: True,
    2003: True,
    2006: True,
    2013: True,
    2055: True,
    4031: True,
    1045: False,
    1054: False,
    1064: False,
}
SAID = [
    ("[Errno -2] Name or service not known", True),
    ("failed to resolve host 'db': [Errno -2] Name or service not known", True),
    ("could not receive data from server: Connection timed out", True),
    ("consuming input failed: SSL SYSCALL error: EOF detected", True),
    ("the connection is closed", True),
]


def as_django(kind, cause):
    error = kind(*cause.args)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("state", "expected"), POSTGRESQL.items())
def test_states_of_postgresql(state, expected):
    for kind in (OperationalError, ProgrammingError):
        cause = psycopg.errors.lookup(state)("whatever")
        assert expected is database.passing(as_django(kind, cause))


@pytest.mark.parametrize(("code", "expected"), MARIADB.items())
def test_codes_of_mariadb(code, expected):
    cause = pymysql.err.OperationalError(code, "Unknown column 'connection'")
    assert expected is database.passing(as_django(OperationalError, cause))
    cause.sqlstate = "HY000"  # what newer drivers add says less
    assert expected is database.passing(as_django(OperationalError, cause))


@pytest.mark.parametrize(("text", "expected"), SAID)
@pytest.mark.parametrize(
    ("kind", "driver"),
    [(OperationalError, psycopg.OperationalError), (InterfaceError, psycopg.InterfaceError)],
)
def test_what_psycopg_says_without_a_state(text, expected, kind, driver):
    assert expected is database.passing(as_django(kind, driver(text)))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError("database is locked"), True),
        (OperationalError("Database table is locked: cq_task"), True),
        (OperationalError("database schema is locked: main"), True),
        (OperationalError("no such table: a_table_that_is_locked"), False),
    ],
)
def test_sqlite_is_busy(error, expected):
    found = as_django(OperationalError, sqlite3.OperationalError(*error.args))
    assert (expected, expected) == (database.busy(found), database.passing(found))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InterfaceError("Connection already closed"), True),
        (as_django(ProgrammingError, psycopg.ProgrammingError("a connection of 1 and 2")), False),
        (DataError("connection"), False),
        (IntegrityError("connection"), False),
        (NotSupportedError("connection"), False),
        (ConnectionError("connection"), False),
        (ValueError("database is locked"), False),
    ],
)
def test_others(error, expected):
    assert expected is database.passing(error)


CONFLICTS = [
    (pymysql.err.OperationalError(1213, "Deadlock found"), True),
    (pymysql.err.OperationalError(1205, "Lock wait timeout exceeded"), True),
    (psycopg.errors.DeadlockDetected("deadlock detected"), True),
    (psycopg.errors.AdminShutdown("terminating connection"), False),
    (pymysql.err.OperationalError(2013, "Lost connection"), False),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("cause", "again"), CONFLICTS)
def test_a_transaction_that_was_broken_off_for_another_is_begun_anew(cause, again):
    tries = []

    def step():
        tries.append(Effect.objects.create(name="tried"))
        if len(tries) < 3:
            raise as_django(OperationalError, cause)
        return "done"

    if again:
        assert "done" == database.in_transaction(step)
    else:
        with pytest.raises(OperationalError):
            database.in_transaction(step)
    assert ((3, 1) if again else (1, 0)) == (len(tries), Effect.objects.count())


@pytest.mark.django_db(transaction=True)
def test_inside_the_callers_transaction_a_conflict_is_the_callers():
    def step():
        raise as_django(OperationalError, CONFLICTS[0][0])

    with pytest.raises(OperationalError), transaction.atomic():
        database.in_transaction(step)
