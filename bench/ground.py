"""What every benchmark stands on: servers of its own, Django set up on them, and real workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tests import servers
from tests.processes import Process, Worker

if TYPE_CHECKING:
    from cq.api import TaskFunction

MARIADB = "CQ_BENCH_MARIADB_URL"  # a server whose user may make databases

_environment = {"DJANGO_SETTINGS_MODULE": "bench.settings"}
_settings: dict[str, Any] = {}


@contextmanager
def laid(
    database: str = "postgresql", *, redis: bool | str = True, **settings: Any
) -> Iterator[None]:
    """Django set up on `database`, tables made, for this process and what it starts. Once in a process.

    With Redis, one of its own or that of a URL, over the README's `long` layer; without, there is neither a layer nor
    a shared cache. `settings` go over bench.settings.
    """
    _settings.update(settings)
    wanted = ["postgresql"] * (database == "postgresql") + ["valkey"] * (redis is True)
    with ExitStack() as stack:
        host = servers.Host(*wanted)
        stack.callback(host.stop)
        servers._hosts.append(host)  # it ends our workers where this process is killed
        urls = {
            "postgresql": host.found.get("postgresql"),
            "sqlite": f"sqlite:///{host.found['folder']}/bench.sqlite3",
            "mariadb": os.environ.get(MARIADB),
        }
        os.environ |= {
            servers.DATABASE: urls[database],
            servers.REDIS: host.found["valkey"] if redis is True else redis or "",
            "CQ_TEST_SETTINGS": json.dumps(_settings),
            **_environment,
        }
        import django

        django.setup()
        from django.db import connection

        name = connection.settings_dict["NAME"]
        connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
        if database == "mariadb":  # the others go with their servers
            stack.callback(connection.creation.destroy_test_db, name, verbosity=0)
        yield


@contextmanager
def worker(processes: int, *, warm: bool = True) -> Iterator[Worker]:
    """A worker that has run a few tasks, unless it is not to be `warm`."""
    started = Worker("--processes", str(processes), settings=_settings, env=_environment)
    try:
        started.wait_ready()
        if warm:
            from bench.tasks import nothing

            drain(nothing, 50 * processes)
        yield started
        started.stop()
    finally:
        started.close()


def process(*arguments: str) -> Process:
    """`python *arguments` on the same ground."""
    return Process(*arguments, settings=_settings, env=_environment)


def clear() -> None:
    """No tasks, no effects, no bells."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("TRUNCATE cq_task, bench_effect CASCADE")
        else:
            cursor.execute("DELETE FROM cq_task")
            cursor.execute("DELETE FROM bench_effect")
    if os.environ[servers.REDIS]:
        import redis

        with redis.Redis.from_url(os.environ[servers.REDIS]) as client:
            client.flushdb()


def queue(function: TaskFunction[..., Any], count: int) -> tuple[Any, float]:
    """`count` tasks that become visible at once, to a planner that knows of them: the last, and when."""
    from django.db import connection, transaction

    committed = [0.0]

    def commits() -> None:
        committed[0] = time.monotonic()

    with transaction.atomic():
        transaction.on_commit(commits)  # first of all, before the bell
        made = function.delay_many(range(count))
        if connection.vendor == "postgresql":
            analyze()
    return made[-1], committed[0]


def drain(function: TaskFunction[..., Any], count: int) -> float:
    """Tasks a second of a worker that runs: from the commit that made them until all are final."""
    last, committed = queue(function, count)
    until_done(last)
    return count / (time.monotonic() - committed)


def until_done(last: Any) -> None:
    """Looks at `last` as long as that is under way, since looking at all of them costs the worker time."""
    from cq.models import Task

    while last.id in Task.objects.active().filter(id=last.id).values_list("id", flat=True):
        time.sleep(0.01)
    while Task.objects.active().exists():
        time.sleep(0.005)


def analyze() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE cq_task")


def conninfo() -> str:
    """Where PostgreSQL is, for psycopg without Django."""
    from django.db import connection
    from psycopg.conninfo import make_conninfo

    params = connection.get_connection_params()
    return make_conninfo(
        **{
            name: params[name]
            for name in ("host", "port", "user", "password", "dbname")
            if name in params
        }
    )
