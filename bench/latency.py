"""From `delay()` to the first line of the task, a worker of two processes being idle.

python -m bench.latency               on PostgreSQL, over Redis
python -m bench.latency postgresql    without Redis
python -m bench.latency sqlite        without Redis
python -m bench.latency mariadb       without Redis, on the server that CQ_BENCH_MARIADB_URL names

Over Redis, p99 stands beside what it can't do without, each alone, median: one hop over channels_redis to another
process, one raw INSERT and one raw claim, each committed.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from bench import ground, yardsticks
from bench.figures import Row, main, p99, say, size
from tests import servers

CALLS = size("CALLS", 300)
POLLED = size("POLLED", 40)  # where nothing rings, each takes about a second


def measure() -> Iterator[Row]:
    databases = [name for name in sys.argv[1:] if not name.startswith("-")]
    if not databases:
        yield from _with_redis()
    for database in databases:
        yield from _without_redis(database)


def _with_redis() -> Iterator[Row]:
    with ground.laid():
        from bench.tasks import moment

        like = moment.delay()
        with (
            closing(yardsticks.Hop(os.environ[servers.REDIS])) as hop,
            closing(yardsticks.Inserting(ground.conninfo(), like.id, "raw")) as inserting,
            closing(yardsticks.Draining(ground.conninfo(), "raw")) as draining,
            ground.worker(2),
        ):
            waited, hops, inserts, claims = _taken(
                CALLS,
                (0.02, 0.04),
                _waited,
                hop.seconds,
                lambda: _inserted(inserting),
                lambda: _claimed(draining),
            )
    parts = [statistics.median(took) for took in (hops, inserts, claims)]
    name = "idle, `delay()` to first line"
    yield _row(f"{name}, p50", statistics.median(waited), "3 ms")
    yield Row(
        name=f"{name}, p99",
        figure=p99(waited),
        unit="ms",
        aim="4 x",
        yardstick=sum(parts),
        what="one hop over channels_redis, raw INSERT, raw claim: "
        + " + ".join(f"{part:.2f}" for part in parts),
    )


def _without_redis(database: str) -> Iterator[Row]:
    if database == "mariadb" and ground.MARIADB not in os.environ:
        say(f"mariadb: not run, since {ground.MARIADB} names none")
        return
    rings = database == "postgresql"
    with ground.laid(database, redis=False), ground.worker(2):
        pauses = (0.02, 0.04) if rings else (0.5, 1.5)
        (waited,) = _taken(CALLS if rings else POLLED, pauses, _waited)
    name = f"the same without Redis, {database}"
    yield _row(f"{name}, p50", statistics.median(waited), "10 ms" if rings else "")
    yield _row(f"{name}, p99", p99(waited), "")


def _row(name: str, figure: float, aim: str) -> Row:
    return Row(name=name, figure=figure, unit="ms", aim=aim)


def _taken(
    times: int, pauses: tuple[float, float], *takes: Callable[[], float]
) -> list[list[float]]:
    """Milliseconds of each of `takes`, which take turns, with pauses in which the worker is idle again."""
    taken: list[list[float]] = [[] for _ in takes]
    for number in range(times):
        for take, into in zip(takes, taken, strict=True):
            time.sleep(random.uniform(*pauses))
            into.append(take() * 1000)
        if (number + 1) % max(1, times // 5) == 0:
            medians = ", ".join(f"{statistics.median(into):.2f}" for into in taken)
            say(f"{number + 1}/{times}: p50 {medians} ms")
    return taken


def _waited() -> float:
    from bench.tasks import moment

    began = time.monotonic()
    task = moment.delay()
    time.sleep(0.02)  # not to be in its way
    task.wait(60)
    return task.result - began


def _inserted(inserting: yardsticks.Inserting) -> float:
    began = time.monotonic()
    inserting.insert(0)
    return time.monotonic() - began


def _claimed(draining: yardsticks.Draining) -> float:
    began = time.monotonic()
    (task,) = draining.claim(1)
    draining.commit()
    took = time.monotonic() - began
    draining.finish(task)  # else the worker would take it for one whose worker has died
    draining.commit()
    return took


if __name__ == "__main__":
    sys.exit(main(measure))
