"""How fast two processes drain a queue on SQLite, without Redis: python -m bench.sqlite

Prints the rate of no-op tasks, beside a loop by the sqlite3 module in one process that claims a task and finishes
it in one transaction; and how often somebody was told "database is locked": the worker, or this process, which
goes on to call `delay()` while a queue is drained.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator

import uuid_utils.compat as uuid

from bench import ground
from bench.figures import Row, in_turns, main, say, size

TASKS = size("TASKS", 20_000)
LOCKED = "database is locked"

_CLAIM = """
    UPDATE cq_task SET status = 'RUNNING', worker_id = ?, claim_no = claim_no + 1,
        started = strftime('%Y-%m-%d %H:%M:%f', 'now')
    WHERE id = (
        SELECT id FROM cq_task WHERE status = 'QUEUED' AND queue = 'default' AND func_name = 'bench.nothing'
        ORDER BY priority DESC, ready_at, id LIMIT 1
    ) RETURNING id, args, kwargs, attempts
"""
_FINISH = """
    UPDATE cq_task SET status = 'SUCCESS', finished = strftime('%Y-%m-%d %H:%M:%f', 'now'),
        result = 'null', attempts = ?, error = '', traceback = '',
        prune_at = strftime('%Y-%m-%d %H:%M:%f', 'now', '+7 days')
    WHERE id = ? AND status = 'RUNNING' AND worker_id = ?
"""


def measure() -> Iterator[Row]:
    locked = 0

    def drained() -> float:
        nonlocal locked
        rate, count = _drained()
        locked += count
        return rate

    with ground.laid("sqlite", redis=False):
        raw, two = in_turns("/s", {"raw, 1 process": _raw, "no-op, 2 processes": drained})
        locked += _drained_and_filled()
    yield Row(
        name="SQLite, no-op tasks, 2 processes",
        figure=two,
        unit="/s",
        aim="2,000/s",
        yardstick=raw,
        what="by sqlite3, claim one, finish one, in one transaction, 1 process",
    )
    yield Row(
        name=f'SQLite, "{LOCKED}"',
        figure=locked,
        unit="",
        aim="0",
        what="seen by the worker, or by `delay()` beside it",
    )


def _drained() -> tuple[float, int]:
    from bench.tasks import nothing

    ground.clear()
    with ground.worker(2) as worker:
        rate = ground.drain(nothing, TASKS)
        worker.stop()
        return rate, worker.output.count(LOCKED)


def _drained_and_filled() -> int:
    from django.db import OperationalError

    from bench.tasks import nothing
    from cq.models import Task

    ground.clear()
    locked = made = 0
    with ground.worker(2) as worker:
        last, _ = ground.queue(nothing, TASKS)
        while Task.objects.filter(id=last.id, status=Task.STATUS_QUEUED).exists():
            try:
                made += 1
                nothing.delay(made)
            except OperationalError:
                locked += 1
        ground.until_done(last)
        worker.stop()
        told = worker.output.count(LOCKED)
    say(f"{made} delay() beside a worker: {locked} locked; {told} in the worker")
    return locked + told


def _raw() -> float:
    from django.db import connection

    from bench.tasks import nothing

    ground.clear()
    ground.queue(nothing, TASKS)
    link = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    worker = uuid.uuid7().hex
    count = 0
    began = time.monotonic()
    while True:
        link.execute("BEGIN IMMEDIATE")
        claimed = link.execute(_CLAIM, [worker]).fetchall()
        for task, _, _, attempts in claimed:
            entries = json.loads(attempts)
            entry = {
                "number": len(entries) + 1,
                "outcome": "SUCCESS",
                "error": "",
                "worker": worker,
            }
            link.execute(_FINISH, [json.dumps([*entries, entry]), task, worker])
        link.execute("COMMIT")
        if not claimed:
            break
        count += len(claimed)
    took = time.monotonic() - began
    link.close()
    assert count == TASKS
    return TASKS / took


if __name__ == "__main__":
    sys.exit(main(measure))
