"""Processes that a test starts see its database and settings, and end with it."""

from __future__ import annotations

import signal

import pytest

from tests.app.models import Effect
from tests.processes import alive

SETUP = "import django, sys, time, subprocess; django.setup();"
WRITE = SETUP + "from tests.app.models import Effect; Effect.objects.create(name='theirs')"
SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time;"
    f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}]);"
    "time.sleep(600)"
)


def test_process_writes_into_the_test_database(process):
    assert process("-c", WRITE).wait() == 0
    assert Effect.objects.get().name == "theirs"


def test_process_takes_settings(process):
    code = SETUP + "from django.conf import settings; print(settings.CQ_LEASE)"
    one = process("-c", code, settings={"CQ_LEASE": 2.5})
    assert one.wait() == 0
    assert one.output == "2.5\n"


def test_children_outlive_a_killed_process_and_not_its_group(process, eventually):
    one = process("-c", PARENT).wait_for("asleep")
    (child,) = one.children()
    one.kill()
    assert one.wait() == -signal.SIGKILL
    assert alive(child)
    one.kill_group()
    eventually(lambda: not alive(child))


def test_stopped_processes_can_be_ended(process):
    one = process("-c", PARENT).wait_for("asleep")
    (child,) = one.children()
    one.signal_group(signal.SIGSTOP)
    one.close()
    assert not alive(one.pid)
    assert not alive(child)


def test_stop_returns_the_exit_code(process):
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));" + SLEEP
    assert process("-c", code).wait_for("asleep").stop() == 7


def test_waiting_for_an_ended_process_shows_its_output(process):
    with pytest.raises(AssertionError, match="no such thing"):
        process("-c", "raise SystemExit('no such thing')").wait_for("asleep")


def test_eventually_gives_up(eventually):
    with pytest.raises(AssertionError, match="still 0"):
        eventually(lambda: 0, timeout=0.05)
