"""Real processes beside the tests, workers above all, and waiting for what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import psutil
from django.db import connection

from tests import servers

T = TypeVar("T")

APPLICATION_NAME = "cq-test-process"  # by which PostgreSQL tells their connections from ours
READY = "cq worker ready"


def eventually(predicate: Callable[[], T], timeout: float = 10, message: str = "") -> T:
    """Calls `predicate` until what it returns is true, and returns that. AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    pause = 0.01
    while not (value := predicate()):
        if time.monotonic() > end:
            raise AssertionError(message or f"still {value!r} after {timeout} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return value


def alive(pid: int) -> bool:
    """Whether a process runs or is stopped; one that only waits to be reaped is not alive."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Process:
    """`python *arguments`, in a session of its own, on the test database; its output goes to a file."""

    def __init__(
        self,
        *arguments: str,
        settings: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.arguments = arguments
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        self._descendants: set[psutil.Process] = set()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=servers.ROOT,
            env={**os.environ, **_environment(settings or {}), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        servers.watch(self.pid)

    @property
    def output(self) -> str:
        """All that it and its children have written so far."""
        size = os.fstat(self._output.fileno()).st_size
        # pread() leaves the offset alone, which the process writes at.
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def children(self) -> list[int]:
        """Pids of its living descendants."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._descendants.update(found)
        return [child.pid for child in found if alive(child.pid)]

    def kill(self) -> None:
        """SIGKILL, to itself alone."""
        self.children()
        self._process.kill()

    def kill_group(self) -> None:
        """SIGKILL, to itself and all its children."""
        self.signal_group(signal.SIGKILL)

    def signal_group(self, number: signal.Signals) -> None:
        """A signal to itself and all its children, as a terminal or an OOM killer would send."""
        self.children()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: signal.Signals) -> None:
        """A signal to itself alone."""
        self._process.send_signal(number)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, to itself alone; waits, and returns the exit code."""
        self.children()
        self._process.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float = 30) -> int:
        """Waits for its end, and returns the exit code."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} has not ended after {timeout} s") from None

    def wait_for(self, text: str, timeout: float = 30) -> Self:
        """Waits until its output contains `text`."""

        def found() -> bool:
            if text in self.output:
                return True
            if self.exit_code is not None and text not in self.output:
                raise AssertionError(f"{self} ended with {self.exit_code}:\n{self.output}")
            return False

        eventually(found, timeout, f"{self} has not written {text!r} in {timeout} s")
        return self

    def close(self) -> None:
        """Ends it and all its children, in whatever state they are."""
        self.kill_group()
        for child in self._descendants:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait(30)
        eventually(lambda: not any(alive(child.pid) for child in self._descendants))
        servers.unwatch(self.pid)
        self._output.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}: python {' '.join(self.arguments)}>"


class Worker(Process):
    """`manage.py cq_runworker *arguments`."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        super().__init__("-m", "django", "cq_runworker", *arguments, **options)

    def wait_ready(self, timeout: float = 30) -> Self:
        """Waits until its children listen."""
        return self.wait_for(READY, timeout)


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "CQ_TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
        "CQ_TEST_SETTINGS": json.dumps(settings),
        "PGAPPNAME": APPLICATION_NAME,
        "PYTHONUNBUFFERED": "1",
    }


def end_connections() -> None:
    """What a killed process left running on PostgreSQL would hold the locks that emptying the tables needs."""
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            [APPLICATION_NAME],
        )
