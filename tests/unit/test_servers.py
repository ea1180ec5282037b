"""The servers that the tests start answer, and end with the run."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from uuid import uuid4

import psutil
import pytest
from channels.layers import channel_layers
from django.core.cache import cache
from django.db import connection

from tests.app.models import Effect
from tests.servers import ROOT


@pytest.mark.django_db
def test_database_answers():
    Effect.objects.create(name="a", number=1)
    assert [("a", 1)] == list(Effect.objects.values_list("name", "number"))


@pytest.mark.vendors("postgresql")
@pytest.mark.django_db
def test_postgresql_takes_many_connections():
    with connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        assert int(cursor.fetchone()[0]) >= 100


@pytest.mark.vendors("sqlite")
@pytest.mark.django_db
def test_sqlite_is_a_file_that_workers_can_share():
    assert str(connection.settings_dict["NAME"]).endswith(".sqlite3")


def test_redis_answers_as_cache(clean_redis):
    cache.set("key", "value")
    assert cache.get("key") == "value"


def test_redis_is_emptied_of_our_keys(redis, request):
    cache.set("key", "value")
    request.getfixturevalue("clean_redis")
    assert cache.get("key") is None


def test_redis_answers_as_channel_layer(clean_redis):
    async def there_and_back():
        # Not the shared one, whose pools on other loops would be closed with it.
        layer = channel_layers.make_backend("long")
        channel = f"cq-tasks.{uuid4().hex}"
        await layer.send(channel, {"type": "cq.run"})
        message = await layer.receive(channel)
        await layer.close_pools()
        return message

    assert asyncio.run(there_and_back()) == {"type": "cq.run"}


def test_own_redis_can_be_stopped_and_started_again(redis_server):
    port = redis_server.port
    redis_server.terminate()
    assert not redis_server.is_running()
    redis_server.start()
    assert redis_server.is_running()
    assert redis_server.port == port


@pytest.mark.once
@pytest.mark.parametrize("end", ["closed", signal.SIGTERM])
def test_servers_end_with_the_run(end):
    host = subprocess.Popen(
        [sys.executable, "-m", "tests.servers", "postgresql", "valkey"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with host:
        found = json.loads(host.stdout.readline())
        assert {"folder", "postgresql", "valkey"} == set(found)
        data = found["postgresql"].partition("host=")[2]
        children = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(data in part for part in process.info["cmdline"] or [])
            or process.ppid() == host.pid
        ]
        assert len(children) >= 2
        ours = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(f"+{ours.pid}", file=host.stdin, flush=True)
        if end == "closed":
            host.stdin.close()
        else:
            time.sleep(0.5)  # it has read the line by then
            host.send_signal(end)
        assert host.wait(30) == 0
    assert ours.wait(10) == -signal.SIGKILL
    assert psutil.wait_procs(children, timeout=10)[1] == []
