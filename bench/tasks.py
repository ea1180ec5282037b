"""Task functions of the benchmarks."""

from __future__ import annotations

import time

from bench.models import Effect
from cq import task


@task("bench.nothing")
def nothing(cqt, number):
    """What is left is what the queue itself costs."""


@task("bench.insert")
def insert(cqt, number):
    Effect.objects.create(name="bench", number=number)


@task("bench.moment")
def moment(cqt):
    """By a clock that is the same in all processes of the machine."""
    return time.monotonic()


@task("bench.wide")
def wide(cqt, width):
    cqt.subtasks(nothing, range(width))


@task("bench.deep")
def deep(cqt, depth):
    if depth:
        cqt.subtask(deep, depth - 1)
