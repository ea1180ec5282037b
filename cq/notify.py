"""The bell's own words on PostgreSQL: NOTIFY, said by a thread of its own on a connection of its own.

A notification reaches whoever listens on this database. `cq/ear.py` is the other end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.core import mail
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from cq import database

CHANNEL = "cq_tasks"  # its notifications carry the name of a queue

# Seconds until a connection with nothing to say is closed: a connection is a process of PostgreSQL's.
KEPT = 10.0
# Of these none may hold up the thread for long. What the caller's own transaction needed a moment
# ago is there, as a rule.
TIMEOUTS = {"connect_timeout": 2, "tcp_user_timeout": 2000}  # seconds, milliseconds

Word = tuple[str, str]
"""A channel, and what is said on it."""


def is_possible() -> bool:
    """Whether tasks live on a PostgreSQL, under a psycopg that can listen without waiting."""
    link: Any = database.connection()
    return bool(link.vendor == "postgresql" and link.Database.__name__ == "psycopg")


class Speaker:
    """What is to be said, and the thread that says it. Of no more use once it was stopped."""

    def __init__(self, gap: float, complain: Callable[[str, Exception], object]) -> None:
        """`gap`: seconds at least between two equal words; `complain(what, error)`: it was not heard."""
        self._gap = gap
        self._complain = complain
        self._changed = threading.Condition()
        self._wanted: dict[Word, float] = {}  # and when, at the earliest
        self._said: dict[Word, float] = {}  # and when it was
        self._saying: list[Word] = []
        self._ended = False
        self._thread: threading.Thread | None = None

    def say(self, channel: str, text: str) -> None:
        """Returns at once. May be called in any thread."""
        word = channel, text
        if word in self._wanted:  # not yet said, so that it will be heard after this
            return
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="cq-notify", daemon=True)
                thread.start()  # which may fail: then the next word tries again
                self._thread = thread
            self._wanted[word] = self._said.get(word, -self._gap) + self._gap
            self._changed.notify_all()

    def flush(self, until: float) -> None:
        """Wait until all is said, or this moment has come."""
        with self._changed:
            while (self._wanted or self._saying) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def stop(self, until: float) -> None:
        """Flush, and close the connection."""
        self.flush(until)
        with self._changed:
            self._ended = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(max(0.0, until - time.monotonic()))

    # The thread.

    def _run(self) -> None:
        link: BaseDatabaseWrapper | None = None
        try:
            while words := self._due():
                try:
                    link = link or _own_connection()
                    _notify(link, words)
                except Exception as error:  # noqa: BLE001  (a lost bell costs latency, never a task)
                    self._complain(", ".join(text or channel for channel, text in words), error)
        finally:
            if link is not None:
                database.discard(link)

    def _due(self) -> list[Word]:
        """What is to be said now, once there is something. Nothing: this thread ends."""
        until = time.monotonic() + _kept()
        with self._changed:
            self._saying = []
            self._changed.notify_all()
            while True:
                now = time.monotonic()
                due = [word for word, at in self._wanted.items() if at <= now]
                if self._ended or not (due or self._wanted or now < until):
                    self._thread = None  # whoever has a word now starts another
                    return []
                if due:
                    for word in due:
                        del self._wanted[word]
                        self._said[word] = now
                    self._saying = due
                    return due
                self._changed.wait(min(self._wanted.values(), default=until) - now)


def _kept() -> float:
    """See KEPT. In a project's tests a connection would keep their database from being dropped."""
    return 0.0 if hasattr(mail, "outbox") else KEPT


def _own_connection() -> BaseDatabaseWrapper:
    """Not opened yet, of no pool, and known to nobody else."""
    link = connections.create_connection(database.alias())
    options = {**link.settings_dict.get("OPTIONS", {}), **TIMEOUTS}
    options.pop("pool", None)
    link.settings_dict = {**link.settings_dict, "AUTOCOMMIT": True, "OPTIONS": options}
    return link


def _notify(link: BaseDatabaseWrapper, words: Sequence[Word]) -> None:
    """In one statement. A connection that was kept may have gone: then once more on a new one."""
    sql = "SELECT " + ", ".join(["pg_notify(%s, %s)"] * len(words))
    params = [part for word in words for part in word]
    while True:
        was_kept = link.connection is not None
        try:
            with link.cursor() as cursor:
                cursor.execute(sql, params)
        except Exception:
            database.discard(link)
            if not was_kept:
                raise
        else:
            return
