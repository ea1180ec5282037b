"""The memory of a worker of two processes that drains, over Redis: python -m bench.memory

Prints the PSS of supervisor and processes, the most that is seen while it drains 3 x 20,000 no-op tasks, beside
that of one process that has set Django up and asked the database once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil

from bench import ground
from bench.figures import Row, in_turns, main, size

TASKS = size("TASKS", 20_000)
DRAINS = 3

_PLAIN = """
import django
django.setup()
from django.contrib.contenttypes.models import ContentType
ContentType.objects.count()
print("ready", flush=True)
input()
"""


def measure() -> Iterator[Row]:
    with ground.laid():
        plain, draining = in_turns("MB", {"Django alone": _plain, "draining": _draining})
    yield Row(
        name="memory (PSS) of supervisor and 2 processes, draining",
        figure=draining,
        unit="MB",
        aim="130 MB (100)",
        yardstick=plain,
        what="one process with Django set up and a connection",
    )


def _draining() -> float:
    from bench.tasks import nothing

    ground.clear()
    with ground.worker(2) as worker, _watched(worker.pid) as seen:
        for _ in range(DRAINS):
            ground.drain(nothing, TASKS)
    return max(seen)


def _plain() -> float:
    with closing(ground.process("-c", _PLAIN)) as plain:
        plain.wait_for("ready")
        return _pss(plain.pid)


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """What the process and all under it have, five times a second."""
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(_pss(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _pss(pid: int) -> float:
    process = psutil.Process(pid)
    tree = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().pss for each in tree) / 1e6


if __name__ == "__main__":
    sys.exit(main(measure))
