"""What a long queue costs, on PostgreSQL over Redis: python -m bench.million

Prints the drain rate of no-op tasks while 1,000,000 are queued, beside that of 20,000 (two processes); and how
long one claim takes, beside one by raw psycopg, with 1,000,000 tasks in front whose time has not come, and from
a small queue behind a big one, and from two queues, one after the other. CQ_BENCH_MILLION makes it shorter.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import uuid_utils.compat as uuid

from bench import ground, yardsticks
from bench.figures import ROUNDS, Row, in_turns, main, p99, say, size

MILLION = size("MILLION", 1_000_000)
TASKS = size("TASKS", 20_000)
SMALL = 1000
CLAIMS = 200
WINDOW = size("WINDOW", 6)  # seconds


def measure() -> Iterator[Row]:
    with ground.laid(), closing(yardsticks.Draining(ground.conninfo())) as default:
        _fill(MILLION, status="'SCHEDULED'", ready_at="now() + interval '1 day'", priority="100")
        _fill(SMALL)
        yield _claims(f"one claim, {MILLION:,} SCHEDULED tasks in front", default, "default")
        ground.clear()
        (some,) = in_turns("/s", {f"{TASKS:,} queued": _drain_some})
        ground.clear()
        _fill(MILLION)
        _fill(SMALL, queue="'small'")
        with closing(yardsticks.Draining(ground.conninfo(), "small")) as small:
            yield _claims("one claim, from a small queue behind a big one", small, "small")
            yield _claims("one claim over two queues", default, "default", small, "small")
        yield Row(
            name=f"no-op tasks, {MILLION:,} queued, 2 processes",
            figure=_drain_for_a_while(),
            unit="/s",
            aim="0.9 x",
            yardstick=some,
            what=f"{TASKS:,} queued",
        )


def _fill(count: int, **columns: str) -> None:
    """So many rows like that of a no-op task, `columns` being SQL."""
    from django.db import connection

    from bench.tasks import nothing
    from cq.models import Task

    say(f"{count:,} rows are made")
    like = nothing.delay(0)
    columns = {"id": "made.id", "root_id": "made.id", **columns}
    names = [field.column for field in Task._meta.concrete_fields]
    chosen = (columns.get(name, f'task."{name}"') for name in names)
    into = ", ".join(f'"{name}"' for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO cq_task ({into}) SELECT {', '.join(chosen)} FROM cq_task AS task,"
            " (SELECT uuidv7() AS id FROM generate_series(1, %s)) AS made WHERE task.id = %s",
            [count, like.id],
        )
    ground.analyze()


def _claims(name: str, *places: yardsticks.Draining | str) -> Row:
    """Of one task, from each of the queues, by hand and by name in turns."""
    from cq import lifecycle, registry

    names = registry.names(asynchronous=False)
    worker = uuid.uuid7()
    taken: dict[bool, list[float]] = {True: [], False: []}

    def claim(place: yardsticks.Draining | str) -> None:
        if isinstance(place, str):
            assert lifecycle.claim(place, names, 1, worker)
        else:
            assert place.claim(1)
            place.commit()

    for _ in range(CLAIMS):
        for raw in (True, False):
            began = time.monotonic()
            for place in places:
                if isinstance(place, str) is not raw:
                    claim(place)
            taken[raw].append((time.monotonic() - began) * 1000)
    _forget_claimed()
    raw, own = (statistics.median(taken[raw]) for raw in (True, False))
    what = f"the same by raw psycopg; p99 {p99(taken[False]):.1f} and {p99(taken[True]):.1f} ms"
    say(f"{name}: {own:.2f} ms, raw {raw:.2f} ms")
    return Row(name=name, figure=own, unit="ms", aim="5 ms", yardstick=raw, what=what)


def _forget_claimed() -> None:
    """A worker would take them for those of one that has died, and begin by rescuing them."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM cq_task WHERE status = 'RUNNING'")


def _drain_some() -> float:
    from bench.tasks import nothing

    ground.clear()
    with ground.worker(2):
        return ground.drain(nothing, TASKS)


def _drain_for_a_while() -> float:
    """The median over windows of time, by what the rows say: to count while it runs would slow it down."""
    with ground.worker(2, warm=False):
        for number in range(ROUNDS + 2):
            say(f"draining, {number * WINDOW} s")
            time.sleep(WINDOW)
    windows = _ended_by_window()[1:-1]  # the first and the last are no whole ones
    say(f"tasks in windows of {WINDOW} s: {windows}")
    assert windows, f"{MILLION:,} tasks are too few for windows of {WINDOW} s"
    return statistics.median(windows) / WINDOW


def _ended_by_window() -> list[int]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT floor(extract(epoch FROM finished) / %s)::bigint AS number, count(*)"
            " FROM cq_task WHERE finished IS NOT NULL GROUP BY number",
            [WINDOW],
        )
        counts = dict(cursor.fetchall())
    return [counts.get(number, 0) for number in range(min(counts), max(counts) + 1)]


if __name__ == "__main__":
    sys.exit(main(measure))
