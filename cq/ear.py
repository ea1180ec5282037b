"""Hear PostgreSQL's notifications, on the connection that a worker's bookkeeping has anyway.

LISTEN is believed only when something was heard. A PgBouncer in transaction mode takes it, and passes
it to a session that is somebody else's a moment later: no error, and nothing ever arrives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from cq import bell, database, notify

logger = logging.getLogger("cq.listening")

TRIAL = 60.0  # seconds between two notifications to oneself
PATIENCE = 2.0  # seconds in which one has to arrive
FAULT_PAUSE = 1.0  # seconds, after the database refused to be listened to


class Ear:
    """The notifications that come to one process. Used in one thread, on that thread's connection.

    Its owner calls `listen()` before each pause, and ends the pause when `fileno()` is readable.
    """

    def __init__(self, worker: UUID) -> None:
        self.hears = False
        # Called in the listening thread, which they must not hold up.
        self.heard: Callable[[str], object] = lambda _queue: None
        self.changed: Callable[[bool], object] = lambda _hears: None
        self._own = f"cq_trial_{worker.hex}"  # so that a trial wakes nobody else
        self._link: Any = None  # psycopg's connection, while it listens
        self._follows = False  # whether it listens for bells already
        self._queues: set[str] = set()  # heard, and not yet told
        self._arrived = False
        self._tried: float | None = None  # when, and not yet arrived
        self._next = 0.0  # when to try
        self._warned = False

    def fileno(self) -> int | None:
        """What becomes readable when something comes; None: nothing can."""
        return self._link.fileno() if self._link is not None else None

    def listen(self) -> float:
        """Begin to listen where it does not, and tell what has come. Never raises.

        Returns the seconds after which it wants to be called again, should nothing come.
        """
        now = time.monotonic()
        if self._link is None and now < self._next:
            return self._next - now
        try:
            self._attach()
            self._take()
            return self._judge()
        except Exception as error:  # noqa: BLE001  (whatever it is, the poll goes on)
            passing = database.passing(error)
            logger.log(
                logging.DEBUG
                if passing
                else logging.WARNING,  # who looks for tasks says it as well
                "PostgreSQL can't be listened to, will try again: %s",
                error,
            )
            database.discard(database.connection())
            self._lose()
            self._next = time.monotonic() + (FAULT_PAUSE if passing else TRIAL)
            return self._next - time.monotonic()

    def _attach(self) -> None:
        """The thread's connection may have been closed, and another opened, for reasons of its own."""
        django_connection: Any = database.connection()
        django_connection.ensure_connection()
        link = django_connection.connection
        if link is not self._link:
            self._lose()
            link.add_notify_handler(self._on_notification)
            self._execute(f'LISTEN "{self._own}"')
            self._link = link

    def _lose(self) -> None:
        self._link = self._tried = None
        self._follows = self._arrived = False
        self._next = 0.0
        self._hear(hears=False)

    def _on_notification(self, notification: Any) -> None:
        """Also in the middle of this thread's queries: it only takes a note."""
        if notification.channel == notify.CHANNEL:
            self._queues.add(notification.payload)
        else:
            self._arrived = True

    def _take(self) -> None:
        """What has come, without waiting. `notifies()` would not go together with a handler."""
        pq = self._link.pgconn
        with database.connection().wrap_database_errors:
            pq.consume_input()
            while came := pq.notifies():
                pq.notify_handler(came)
        while self._queues:
            self.heard(self._queues.pop())

    def _judge(self) -> float:
        """Whether to believe in what is heard, and to try that. Returns seconds until the next time."""
        now = time.monotonic()
        if self._arrived:
            self._arrived = False
            self._tried, self._next = None, now + TRIAL
            if not self._follows:
                # Not before: through a PgBouncer each bell would be a warning in its log.
                self._execute(f'LISTEN "{notify.CHANNEL}"')
                self._follows = True
            self._hear(hears=True)
        elif self._tried is not None and now >= self._tried + PATIENCE:
            self._tried, self._next = None, now + TRIAL
            self._hear(hears=False)
            self._warn()
        elif self._tried is None and now >= self._next:
            self._tried = now
            bell.try_out(self._own)
        until = self._next if self._tried is None else self._tried + PATIENCE
        return max(0.0, until - now)

    def _hear(self, *, hears: bool) -> None:
        if hears != self.hears:
            self.hears = hears
            if hears:
                self._warned = False
                logger.info("bells are heard: NOTIFY arrives here")
            self.changed(hears)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "NOTIFY does not arrive here, so bells are not heard and this process polls. Where "
                "a PgBouncer in transaction mode stands between, let workers connect to PostgreSQL "
                "itself, or give the bell a channel layer (docs/howto/without-redis.md)."
            )

    def _execute(self, sql: str) -> None:
        with database.connection().cursor() as cursor:
            cursor.execute(sql)
