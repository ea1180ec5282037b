"""Fixtures of all tests. Real parts, no mocks: tests/servers.py starts the servers, `worker` the workers."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from django.db import connection

from tests import processes
from tests.servers import PREFIX, REDIS, valkey_server

TESTS = Path(__file__).parent
MARKED_BY_FOLDER = {
    "acceptance": ["acceptance"],
    "faults": ["faults"],
    "browser": ["browser", "once"],
    "typing": ["once"],
    "docs": ["once"],
}

started_key = pytest.StashKey[list[processes.Process]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        for name in MARKED_BY_FOLDER.get(folder, []):
            item.add_marker(name)
        if item.get_closest_marker("long") and not os.environ.get("CQ_TEST_LONG"):
            item.add_marker(pytest.mark.skip(reason="long: make test-all"))
        vendors = item.get_closest_marker("vendors")
        if vendors and connection.vendor not in vendors.args:
            item.add_marker(pytest.mark.skip(reason=f"not on {connection.vendor}"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """A failed test shows what its processes wrote."""
    if call.excinfo and call.when == "call":
        for process in item.stash.get(started_key, []):
            item.add_report_section("call", repr(process), process.output)


@pytest.fixture
def process(
    request: pytest.FixtureRequest, transactional_db: None, clean_redis: None
) -> Iterator[Callable[..., processes.Process]]:
    """Starts `python *arguments` on the test database: `process("-m", "django", "check", settings={…})`.

    `settings` go over tests.settings (JSON values), `env` over the environment.
    """
    started = request.node.stash.setdefault(started_key, [])

    def start(*arguments: str, **options: Any) -> processes.Process:
        started.append(options.pop("kind", processes.Process)(*arguments, **options))
        return started[-1]

    yield start
    end_all(request)


def end_all(request: pytest.FixtureRequest) -> None:
    """Ends the processes that this test has started."""
    started = request.node.stash.get(started_key, [])
    for one in started:
        one.close()
    if started:
        processes.end_connections()
    started.clear()


@pytest.fixture
def worker(process: Callable[..., Any]) -> Callable[..., processes.Worker]:
    """Starts a real worker: `worker("--processes", "2", settings={"CQ_LEASE": 2}).wait_ready()`."""

    def start(*arguments: str, **options: Any) -> processes.Worker:
        return process(*arguments, kind=processes.Worker, **options)

    return start


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Waits until something is so: `eventually(lambda: Effect.objects.count() == 3, timeout=10)`."""
    return processes.eventually


@pytest.fixture
def redis() -> Iterator[redis_py.Redis]:
    """A client of the run's Redis."""
    with redis_py.Redis.from_url(os.environ[REDIS]) as client:
        yield client


@pytest.fixture
def clean_redis(redis: redis_py.Redis) -> None:
    """Nothing of an earlier test is in Redis. Only our own keys go: the server may be another's."""
    keys = list(redis.scan_iter(f"*{os.environ[PREFIX]}*", count=1000))
    if keys:
        redis.delete(*keys)


@pytest.fixture
def redis_server() -> Iterator[Any]:
    """A Valkey of the test's own, to be stopped (`terminate()`, `stop()`) and started again, on the same port."""
    server = valkey_server()
    server.start()
    yield server
    server._cleanup()  # also where the test has stopped it


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number to make a race with; shown when the test fails, and taken from CQ_TEST_SEED to repeat it."""
    value = int(os.environ.get("CQ_TEST_SEED") or random.SystemRandom().getrandbits(32))
    request.node.add_report_section("call", "seed", f"CQ_TEST_SEED={value}")
    return value
