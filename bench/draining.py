"""How fast a worker drains a queue, over Redis: python -m bench.draining

Prints the rate of no-op tasks with one process and with two, beside a raw psycopg loop in one process that
claims a task and finishes it in one transaction; and that of atomic tasks with one ORM insert and two
processes, beside two raw processes that claim a hundred and then have a transaction for each, with the same
insert. Tasks become visible at once to a worker that is warm; counted until the last is final.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bench import ground, yardsticks
from bench.figures import Row, in_turns, main, size

if TYPE_CHECKING:
    from cq.api import TaskFunction

TASKS = size("TASKS", 20_000)


def measure() -> Iterator[Row]:
    with ground.laid():
        from bench.tasks import insert, nothing

        with (
            closing(yardsticks.Draining(ground.conninfo())) as hand,
            closing(yardsticks.Processes(ground.conninfo(), 2)) as hands,
        ):
            raw, one, two, raw_inserts, inserts = in_turns(
                "/s",
                {
                    "raw, 1 process": lambda: _one_by_one(hand),
                    "no-op, 1 process": lambda: _drained(nothing, 1),
                    "no-op, 2 processes": lambda: _drained(nothing, 2),
                    "raw inserts, 2 processes": lambda: _by_hundreds(hands),
                    "inserts, 2 processes": lambda: _drained(insert, 2),
                },
            )
    loop = "raw, claim one, finish one, in one transaction, 1 process"
    hundreds = "raw, claim 100, then insert and finish, a transaction each, 2 processes"
    for name, figure, yardstick, what, aim in (
        ("no-op tasks, 1 process", one, raw, loop, "7 x (10)"),
        ("no-op tasks, 2 processes", two, raw, loop, "10 x (13)"),
        ("atomic tasks, one ORM insert, 2 processes", inserts, raw_inserts, hundreds, "0.6 x"),
    ):
        yield Row(name=name, figure=figure, unit="/s", aim=aim, yardstick=yardstick, what=what)


def _drained(function: TaskFunction[..., Any], processes: int) -> float:
    ground.clear()
    with ground.worker(processes):
        return ground.drain(function, TASKS)


def _one_by_one(hand: yardsticks.Draining) -> float:
    from bench.tasks import nothing

    ground.clear()
    ground.queue(nothing, TASKS)
    began = time.monotonic()
    assert hand.one_by_one() == TASKS
    return TASKS / (time.monotonic() - began)


def _by_hundreds(hands: yardsticks.Processes) -> float:
    from bench.tasks import insert

    ground.clear()
    ground.queue(insert, TASKS)
    return hands.rate("by_hundreds")


if __name__ == "__main__":
    sys.exit(main(measure))
