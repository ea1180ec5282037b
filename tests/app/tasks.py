"""Task functions of the acceptance tests."""

from __future__ import annotations

import asyncio
import contextlib
import locale
import logging
import os
import sys
import threading
import time
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection, transaction
from django.utils import timezone, translation

from cq import Retry, task
from tests.app.models import Effect

logger = logging.getLogger(__name__)


@task
def add(cqt, a, b=1):
    return a + b


@task
def slot(cqt):
    return cqt.scheduled_for


@task
def nap(cqt, seconds):
    time.sleep(seconds)


@task
def add_to_previous(cqt, b):
    return cqt.previous.result + b


@task
def effect(cqt, name, number=0, error=None):
    Effect.objects.create(name=name, number=number)
    if error is not None:
        raise ValueError(error)
    return name


@task(atomic=False)
def effect_kept(cqt, name, error=None):
    Effect.objects.create(name=name)
    if error is not None:
        raise ValueError(error)


@task
def breaks_its_worker(cqt):
    """Its end can't be written at all."""
    from cq import lifecycle, logs

    def fails(run_or_ends, **given):
        raise ValueError("no end")

    logs.at_end = lifecycle.finish_many = fails


@task(atomic=False)
def sleeps(cqt, seconds):
    time.sleep(seconds)


@task
def where(cqt):
    """In which process and thread it runs."""
    main = threading.current_thread() is threading.main_thread()
    return [os.getpid(), threading.get_ident(), main]


@task(atomic=False)
def meet(cqt, number, seconds=10):
    """Waits until `number` tasks have come here, which shows that they run at once."""
    Effect.objects.create(name="met")
    end = time.monotonic() + seconds
    while Effect.objects.filter(name="met").count() < number:
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


@task
async def ameet(cqt, number, error=None):
    """Each in a transaction of its own, all of them open at once; those with an error roll back."""
    await Effect.objects.acreate(name="row", number=number)
    _meeting.append(number)
    while len(_meeting) < 10:  # noqa: ASYNC110  (the others are tasks, not ours)
        await asyncio.sleep(0.01)
    await Effect.objects.acreate(name="second row", number=number)
    if error is not None:
        raise ValueError(error)
    return await Effect.objects.filter(number=number).acount()


_meeting = []


@task(queue="app-slow")
def on_slow(cqt):
    return os.getpid()


@task(retries=3, retry_delay=[0.2, 0.1])
def third_time(cqt):
    if len(cqt.attempts) < 2:
        raise ValueError(len(cqt.attempts))
    return [entry["outcome"] for entry in cqt.attempts]


@task(retries=1, retry_exceptions=(KeyError,))
def asks_again(cqt):
    raise Retry(0.1, "not yet")


@task(retries=5, retry_exceptions=(KeyError,))
def other_error(cqt):
    raise ValueError("not that one")


# -- Workflows


@task
def parent(cqt, *names, error=None):
    for name in names:
        cqt.subtask(effect, name, error=error)
    return "done"


@task
def returns(cqt, how):
    match how:
        case "subtask":
            return cqt.subtask(add, 1, 2)
        case "chain":
            return add.delay(1, 2).chain(add_to_previous, 3).then(add, 4)
        case "failed chain":
            return effect.delay("bad", error="why").chain(add, 1)
        case "itself":
            return cqt
        case "successor":
            return cqt.chain(add, 1)
        case "parent":
            return cqt.parent


@task
def returns_elsewhere(cqt, task_id):
    return type(cqt).objects.get(id=task_id)


@task
def has_ring(cqt):
    cqt.subtask(returns, "parent")


@task
def adds_after(cqt):
    last = cqt.subtask(add, 1, 2).chain(add_to_previous, 3).then(add, (4,))
    cqt.chain(effect, "after the parent")
    return str(last.id)


@task
async def all_async_forms(cqt):
    child = await cqt.asubtask(add, 1, 2)
    chained = await child.achain(add_to_previous, 3)
    last = await chained.athen(add, 4)
    assert 2 == await cqt.asubtasks(effect, ["a", ("b", 1)])
    single = await add.adelay(5)
    many = await add.adelay_many([6, (7, 8)])
    cqt.log("from async")
    cqt.set_progress(1, 2)
    return [str(one.id) for one in (last, single, *many)]


@task
async def atomic_together(cqt):
    """What it submits is gone with its transaction."""
    await cqt.asubtask(effect, "never")
    await effect.adelay("never")
    raise ValueError("all of it")


# -- Logs


@task
def logs(cqt):
    cqt.log("one")
    for number in range(50):
        cqt.log(f"quiet {number}", logging.DEBUG, publish=False)
    cqt.log("last", logging.WARNING, limit=10)


@task(capture_logs=True)
def captured(cqt, password):
    logger.warning("captured %s", password)
    logging.getLogger("elsewhere").error("captured too")


@task
def logs_below(cqt):
    cqt.log("parent")
    cqt.subtask(logs_once, "child")
    cqt.set_progress(1, 2, "half")


@task
def logs_once(cqt, line):
    cqt.log(line)


@task
def logs_and_fails(cqt):
    cqt.log("kept")
    cqt.log("kept quietly", publish=False)
    raise ValueError("why")


# -- Everything that a task may do


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Odd(Exception):
    pass


def _deep(number):
    if number:
        _deep(number - 1)
    raise ValueError("deep")


def _raw_close():
    connection.connection.close()


def _unclosed():
    transaction.atomic().__enter__()
    Effect.objects.create(name="bad")


def _autocommit_off():
    transaction.set_autocommit(False)
    Effect.objects.create(name="bad")


def _caught():
    with contextlib.suppress(Exception), connection.cursor() as cursor:
        cursor.execute("SELECT nonsense FROM nowhere")


def _surroundings():
    os.chdir("/")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    for name in ("C", "POSIX"):
        locale.setlocale(locale.LC_ALL, name)
    translation.activate("de")
    timezone.activate("Asia/Tokyo")


def _raises(error):
    raise error


def _chained_cause():
    error = ValueError("x" * 200_000)
    for _ in range(50):
        try:
            raise ValueError("y" * 200_000) from error
        except ValueError as caught:
            error = caught
    raise error


def _cycle():
    found = []
    found.append(found)
    return found


BAD = {
    "NUL": lambda: _raises(ValueError("a\x00b")),
    "surrogate": lambda: _raises(ValueError("a\ud800b")),
    "unprintable": lambda: _raises(Unprintable()),
    "huge": lambda: _raises(ValueError("x" * 50_000_000)),
    "huge causes": _chained_cause,
    "deep": lambda: _deep(900),
    "recursion": lambda: _deep(10**9),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: _raises(KeyboardInterrupt()),
    "generator exit": lambda: _raises(GeneratorExit()),
    "cancelled": lambda: _raises(asyncio.CancelledError()),
    "stop iteration": lambda: _raises(StopIteration(5)),
    "group": lambda: _raises(ExceptionGroup("many", [ValueError("one"), Odd("two")])),
    "base group": lambda: _raises(BaseExceptionGroup("many", [KeyboardInterrupt()])),
    "odd type": lambda: _raises(type("\ud800", (Exception,), {})()),
    "result: set": lambda: {1},
    "result: NaN": lambda: float("nan"),
    "result: bytes": lambda: b"x",
    "result: object": object,
    "result: NUL": lambda: "\x00",
    "result: model": lambda: Effect(name="x"),
    "result: too much": lambda: "x" * 2_000_000,
    "result: itself": _cycle,
    "close": lambda: connection.close(),  # noqa: PLW0108  (of the thread that runs it)
    "raw close": _raw_close,
    "unclosed": _unclosed,
    "caught": _caught,
}
# What goes on where a task is atomic, and is the task's own business where it is not.
FINE_IF_NOT_ATOMIC = ("close", "raw close", "caught")
ONLY_IF_NOT_ATOMIC = {"autocommit": _autocommit_off}


@task
def bad(cqt, what):
    return BAD[what]()


@task(atomic=False)
def bad_not_atomic(cqt, what):
    return {**BAD, **ONLY_IF_NOT_ATOMIC}[what]()


@task
async def bad_async(cqt, what):
    return BAD[what]()


@task
async def bad_loop(cqt, what):
    """What only code on a loop can do."""

    async def fails(error):
        raise error

    match what:
        case "child exits":
            await asyncio.gather(fails(SystemExit(3)))
        case "child interrupts":
            await asyncio.gather(fails(KeyboardInterrupt()))
        case "cancels itself":
            asyncio.current_task().cancel()
        case "cancels itself and waits":
            asyncio.current_task().cancel()
            await asyncio.sleep(10)
        case "stops the loop":
            asyncio.get_running_loop().stop()
        case "leaves a task":
            asyncio.current_task().left = asyncio.create_task(asyncio.sleep(600))
    return what


@task
def surroundings(cqt, change):
    before = [
        str(Path.cwd()),
        os.environ.get("TZ"),
        time.tzname[0],
        locale.setlocale(locale.LC_ALL),
    ]
    before += [translation.get_language(), timezone.get_current_timezone_name()]
    if change:
        _surroundings()
    return before


@task
async def asurroundings(cqt):
    os.chdir("/")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


@task
def kills_its_process(cqt):
    os._exit(9)


# -- Stopped


@task
def takes(cqt, seconds, name="", swallows=0):
    """An effect if it has a name, then time, which can be stopped any moment; so often it goes on."""
    if name:
        Effect.objects.create(name=name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                time.sleep(0.001)
        except BaseException:
            swallows -= 1
            if swallows < 0:
                raise
    return swallows


@task
async def atakes(cqt, seconds, name="", swallows=0):
    if name:
        await Effect.objects.acreate(name=name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:  # noqa: ASYNC110  (it is time that is waited for)
                await asyncio.sleep(0.001)
        except BaseException:
            swallows -= 1
            if swallows < 0:
                raise
    return swallows


@task
async def takes_in_its_thread(cqt, seconds, name=""):
    """What is stopped is neither on the loop nor in the main thread."""
    await sync_to_async(takes.definition.function)(cqt, seconds, name)


@task(atomic=False)
def asks_whether_revoked(cqt):
    end = time.monotonic() + 20
    while not cqt.revoked and time.monotonic() < end:
        time.sleep(0.01)
    Effect.objects.create(name="saw it" if cqt.revoked else "did not")


@task(atomic=False)
def logs_until_revoked(cqt, how):
    """Out of reach but for what it calls."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            cqt.log("a line") if how == "log" else cqt.set_progress(1)
        time.sleep(0.01)


@task
def asks_the_database(cqt, statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)


@task(atomic=False)
def asks_the_database_not_atomic(cqt, statement):
    asks_the_database.definition.function(cqt, statement)


@task
def changes_its_own_row(cqt, seconds):
    """Only its own transaction sees that."""
    type(cqt).objects.filter(id=cqt.id).update(label="changed", meta={"a": 1})
    time.sleep(seconds)


@task
def logs_lines(cqt, number, lines):
    for line in range(lines):
        cqt.log(f"{number}: {line}", publish=line % 3 > 0)
    if number < 0 and not cqt.attempts:
        raise ValueError("the first time")
