"""An interrupt hits a function while it is called, whenever it is sent, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import time

import pytest
import uuid_utils.compat as uuid
from django.db import OperationalError, connection

from cq import context, interrupts, task
from cq.context import Run
from cq.exceptions import Revoked
from cq.models import Task
from tests.app.models import Effect
from tests.unit import running

# An interrupt may land in a __del__ that runs just then, which can't raise: Python reports it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TIMES = 3000


@task("interrupts.sleeps", timeout=0.05)
def sleeps(cqt, seconds):
    Effect.objects.create(name="slept")
    time.sleep(seconds)


@task("interrupts.tells", atomic=False)
def tells(cqt):
    cqt.run.revoked = True
    for tell in (lambda: cqt.log("x"), lambda: cqt.set_progress(1)):
        with pytest.raises(Revoked, match="revoked"):
            tell()
    assert cqt.revoked
    Effect.objects.create(name="told")


def made_run(timeout=None):
    one = Task(func_name="interrupts.sleeps", timeout=timeout, worker_id=uuid.uuid7(), claim_no=1)
    one.run = Run(one, sleeps.options, "worker")
    return one.run


@pytest.fixture
def watch(monkeypatch):
    """A watch of the test's own, whose threads have not begun."""
    made = interrupts._Watch()
    monkeypatch.setattr(interrupts, "_watch", made)
    return made


@pytest.fixture(params=["signal", "thread"])
def means(request, monkeypatch):
    """By which this, the main thread, is hit."""
    before = signal.getsignal(signal.SIGURG)
    monkeypatch.setattr(interrupts, "_takes_signals", False)
    if request.param == "signal":
        interrupts.prepare_main_thread()
    yield request.param
    signal.signal(signal.SIGURG, before)


@pytest.fixture
def hammer(watch):
    """Strikes whatever is open, all the time."""
    done = threading.Event()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.disable()  # what hits its callbacks is reported, and raised nowhere

    def strike():
        while not done.is_set():
            for window in list(watch._windows):
                window.run.is_overdue = True
                window.strike()
            time.sleep(0)

    thread = threading.Thread(target=strike)
    thread.start()
    yield
    done.set()
    thread.join()
    sys.setswitchinterval(before)
    gc.enable()


def count(to):
    number = 0
    while number < to:
        number += 1
    return number


# -- Windows


def test_a_call_that_nobody_interrupts(means, watch):
    error = ValueError("bad")
    assert (3, None) == interrupts.call(made_run(), lambda: 3)
    assert (None, error) == interrupts.call(made_run(), lambda: fails(error))
    assert set() == watch._windows


def fails(error):
    raise error


def test_whenever_it_comes_it_hits_the_function_alone(means, watch, hammer):
    ends = {True: 0, False: 0}
    for number in range(TIMES):
        run = made_run(timeout=1)
        result, error = interrupts.call(run, lambda number=number: count(number % 200))
        count(20)  # what comes after it
        assert (error is None) or run.interrupted
        assert (result == number % 200) is (error is None)
        ends[run.interrupted] += 1
        if run.interrupted:
            assert "TimeoutError('it ran longer than its timeout of 1 s')" == repr(
                interrupts.told(run, error)
            )
    assert all(ends.values()), ends


def test_what_was_on_its_way_when_the_function_ended_does_no_harm(means, watch, monkeypatch):
    """The very moment in which a window closes."""
    settle = interrupts._Window.settle

    def late(self):
        if not self.run.interrupted:
            self.run.is_overdue = self.is_due = True
            self._hit()
        count(100)
        settle(self)

    monkeypatch.setattr(interrupts._Window, "settle", late)
    for _ in range(100):
        assert (7, None) == interrupts.call(made_run(timeout=1), lambda: 7)
        count(100)
    assert set() == watch._windows


def test_a_strike_that_is_under_way_is_waited_for(means, watch):
    run = made_run(timeout=1)
    run.is_overdue = True
    begun = threading.Event()

    def function():
        (window,) = watch._windows
        hit = window._hit

        def slowly():
            begun.set()
            time.sleep(0.05)
            hit()

        window._hit = slowly
        threading.Thread(target=window.strike).start()
        begun.wait()
        return 7

    result, error = interrupts.call(run, function)
    assert (run.interrupted, error) == (True, None)
    assert 7 == result
    count(100)
    time.sleep(0.1)


def test_what_holds_a_lock_is_spared(means, watch, hammer):
    changed = threading.Condition()
    inside = []

    def locked():
        with changed:
            inside.append(1)
            count(20)
            inside.pop()

    def function():
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                interrupts.spare(locked)

    for _ in range(TIMES // 100):
        interrupts.call(made_run(timeout=1), function)
        assert [] == inside
        assert changed.acquire(blocking=False)
        changed.release()


def test_what_came_while_it_was_spared_hits_afterwards(means, watch):
    run = made_run(timeout=1)
    seen = []

    def locked():
        (window,) = watch._windows
        run.is_overdue = True
        window.strike()
        count(100)
        seen.append("locked")

    def function():
        interrupts.spare(locked)
        seen.append("after it")

    _, error = interrupts.call(run, function)
    assert (["locked"], TimeoutError) == (seen, type(error))
    assert run.interrupted


def test_the_error_says_what_it_was_and_what_became_of_it():
    run = made_run(timeout=2.5)
    run.is_overdue = True
    for error in (None, ValueError("of its own"), TimeoutError("of its own")):
        told = interrupts.told(run, error)
        assert "it ran longer than its timeout of 2.5 s" == str(told)
        assert told.__context__ is error
    run.revoked = True
    assert Revoked is type(interrupts.told(run, None))


def test_a_lane_s_thread_outlives_what_is_stopped_in_it(watch, monkeypatch):
    monkeypatch.setattr(interrupts, "AGAIN", 0.05)
    watch.start()
    run, hand = made_run(timeout=0.05), interrupts.Hand()
    ident = hand.submit(threading.get_ident).result()
    token = context.enter(run)
    stuck = hand.submit(count, 10**12)
    context.leave(token)
    with pytest.raises(TimeoutError):
        stuck.result(10)
    assert ident == hand.submit(threading.get_ident).result(1)
    hand.shutdown()


def test_on_a_loop_another_s_task_is_not_cancelled(watch):
    watch.start()
    run = made_run(timeout=0.05)

    async def main():
        other = asyncio.create_task(asyncio.sleep(0.3, "other"))
        call = asyncio.create_task(interrupts.acall(run, lambda: asyncio.sleep(10)))
        _, error = await call
        assert asyncio.CancelledError is type(error)
        assert TimeoutError is type(interrupts.told(run, error))
        return await other

    assert "other" == asyncio.run(main())


# -- Whose row is no longer its own


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("change", "revoked"),
    [
        ({}, False),
        ({"label": "x"}, False),
        ({"status": "REVOKED"}, True),
        ({"status": "QUEUED"}, True),
        ({"claim_no": 2}, True),
        ({"worker_id": uuid.uuid7()}, True),
    ],
)
def test_one_look_tells_whose_runs_are_over(watch, django_assert_num_queries, change, revoked):
    tells.delay_many([()] * 3)
    windows = []
    for one in running.claim(3):
        windows.append(interrupts._InThread(Run(one, sleeps.options, "worker"), 0.0))
        watch.add(windows[-1])
    closed = windows.pop()
    watch.remove(closed)
    Task.objects.filter(id__in=[windows[0].key[0], closed.key[0]]).update(**change)
    with django_assert_num_queries(1):
        watch._look([*windows, closed])
    assert [revoked, False, False] == [w.run.revoked for w in (*windows, closed)]
    assert [revoked, False] == [w.hit_at < time.monotonic() + 1 for w in windows]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "level"), [(OperationalError("connection"), "WARNING"), (KeyError(), "ERROR")]
)
def test_a_look_that_fails_is_told_and_revokes_nothing(watch, caplog, error, level):
    window = interrupts._InThread(made_run(), 0.0)
    watch.add(window)
    with connection.execute_wrapper(lambda *given: fails(error)):
        watch._look([window])
    assert not window.run.revoked
    assert [level] == [record.levelname for record in caplog.records]


@pytest.mark.django_db(transaction=True)
def test_a_run_that_is_known_to_be_revoked_is_told_by_what_it_calls(caplog):
    made = tells.delay()
    running.run_all()
    made.refresh_from_db()
    assert not made.revoked
    assert ["told"] == list(Effect.objects.values_list("name", flat=True))
    Task.objects.filter(id=made.id).update(status="REVOKED")
    made.refresh_from_db()
    assert made.revoked


@pytest.mark.django_db(transaction=True)
def test_neither_serial_nor_direct_calls_have_a_timeout(settings):
    settings.CQ_SERIAL = True
    assert "SUCCESS" == sleeps.delay(0.1).wait(1).status
    sleeps(0.1)
    assert 2 == Effect.objects.count()


def test_what_kept_the_loop_beyond_its_time_has_been_interrupted(watch):
    """Its own interrupt had to wait for it."""

    async def blocks():
        time.sleep(0.05)  # noqa: ASYNC251
        return 7

    run = made_run(timeout=0.01)
    assert (7, None) == asyncio.run(interrupts.acall(run, blocks))
    assert run.interrupted
    assert isinstance(interrupts.told(run, None), TimeoutError)
