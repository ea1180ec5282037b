"""What it costs to make tasks, over Redis, without a worker: python -m bench.submitting

Prints the rate of `delay()`, of `delay_many()` and of `subtasks()`, beside that of raw psycopg INSERTs of the
same row, one at a time, each committed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing

from bench import ground, yardsticks
from bench.figures import Row, in_turns, main, size

ONE_BY_ONE = size("CALLS", 1000)  # a channel holds as many bells
MANY = size("MANY", 10_000)


def measure() -> Iterator[Row]:
    with ground.laid():
        from bench.tasks import nothing

        nothing.delay_many(range(ONE_BY_ONE))  # what is loaded once
        like = nothing.delay(0)
        with closing(yardsticks.Inserting(ground.conninfo(), like.id)) as inserting:
            raw, one, many, under = in_turns(
                "/s",
                {
                    "raw INSERT and commit": lambda: _raw(inserting),
                    "delay()": _one_by_one,
                    "delay_many()": _many,
                    "subtasks()": _subtasks,
                },
            )
    what = "raw INSERT and commit, one at a time"
    for name, figure, aim in (
        ("`delay()`, one at a time, autocommit", one, "0.55 x"),
        ("`delay_many()`, rows", many, "9 x"),
        ("`subtasks()`, rows", under, "9 x"),
    ):
        yield Row(name=name, figure=figure, unit="/s", aim=aim, yardstick=raw, what=what)


def _raw(inserting: yardsticks.Inserting) -> float:
    ground.clear()
    return inserting.rate(ONE_BY_ONE)


def _one_by_one() -> float:
    from bench.tasks import nothing

    ground.clear()
    began = time.monotonic()
    for number in range(ONE_BY_ONE):
        nothing.delay(number)
    return ONE_BY_ONE / (time.monotonic() - began)


def _many() -> float:
    from bench.tasks import nothing

    ground.clear()
    began = time.monotonic()
    nothing.delay_many(range(MANY))
    return MANY / (time.monotonic() - began)


def _subtasks() -> float:
    from bench.tasks import nothing

    ground.clear()
    parent = nothing.delay(0)
    began = time.monotonic()
    parent.subtasks(nothing, range(MANY))
    return MANY / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(measure))
