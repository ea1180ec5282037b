"""What a task costs by hand: raw psycopg on the same table, without Django, prepared as psycopg does by itself.

Statuses and limits stand in the SQL, so that a prepared plan finds the partial index.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import uuid_utils.compat as uuid
from psycopg import sql
from psycopg.types.json import Jsonb

NAMES = ["bench.nothing", "bench.insert", "bench.moment", "bench.wide", "bench.deep"]

_CLAIM = """
    SELECT id, func_name, args, kwargs, attempts, claim_no, result_ttl FROM cq_task
    WHERE status = 'QUEUED' AND queue = %s AND func_name = ANY(%s)
    ORDER BY priority DESC, ready_at, id LIMIT {} FOR UPDATE SKIP LOCKED
"""
_RUN = """
    UPDATE cq_task SET status = 'RUNNING', worker_id = %s, claim_no = claim_no + 1, started = now()
    WHERE id = ANY(%s)
"""
_FINISH = """
    UPDATE cq_task SET status = 'SUCCESS', finished = now(), result = %s, attempts = %s,
        error = '', traceback = '', prune_at = now() + %s::interval
    WHERE id = %s AND status = 'RUNNING' AND worker_id = %s AND claim_no = %s
"""
_EFFECT = "INSERT INTO bench_effect (name, number) VALUES (%s, %s) RETURNING id"


class Inserting:
    """INSERTs of one row each, all columns as in the row `like`, each its own transaction."""

    def __init__(self, conninfo: str, like: UUID, queue: str = "default") -> None:
        self._link = psycopg.connect(conninfo, autocommit=True)
        found = self._link.execute("SELECT * FROM cq_task WHERE id = %s", [like])
        assert found.description is not None
        columns = [column.name for column in found.description]
        row = dict(zip(columns, found.fetchone() or (), strict=True))
        row["queue"] = queue
        clocks = {"submitted", "ready_at"}
        self._row = {
            name: Jsonb(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
            if name not in clocks
        }
        self._insert = (
            sql.SQL("INSERT INTO cq_task ({}) VALUES ({})")
            .format(
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(
                    sql.SQL("now()") if name in clocks else sql.Placeholder(name)
                    for name in columns
                ),
            )
            .as_string(self._link)
        )

    def insert(self, number: int) -> None:
        row = self._row
        row["id"] = row["root_id"] = uuid.uuid7()
        row["args"] = Jsonb([number])
        self._link.execute(self._insert, row)

    def rate(self, count: int) -> float:
        """Rows a second."""
        began = time.monotonic()
        for number in range(count):
            self.insert(number)
        return count / (time.monotonic() - began)

    def close(self) -> None:
        self._link.close()


class Draining:
    """Claims, and finishes as a SUCCESS, what is QUEUED."""

    def __init__(self, conninfo: str, queue: str = "default") -> None:
        self._link = psycopg.connect(conninfo)
        self._worker = uuid.uuid7()
        self._where = (queue, NAMES)

    def claim(self, limit: int) -> list[Any]:
        """In the transaction that has begun, or begins here."""
        claimed = self._link.execute(_CLAIM.format(limit), self._where).fetchall()
        if claimed:
            self._link.execute(_RUN, (self._worker, [task[0] for task in claimed]))
        return claimed

    def finish(self, task: Any) -> None:
        id_, _, _, _, attempts, claim_no, result_ttl = task
        now = datetime.now(UTC).isoformat()
        entry = {
            "number": len(attempts) + 1,
            "started": now,
            "finished": now,
            "outcome": "SUCCESS",
            "error": "",
            "worker": str(self._worker),
        }
        attempts = Jsonb([*attempts, entry])
        self._link.execute(
            _FINISH, (Jsonb(None), attempts, result_ttl, id_, self._worker, claim_no + 1)
        )

    def commit(self) -> None:
        self._link.commit()

    def one_by_one(self) -> int:
        """Each claimed and finished in one transaction. Returns how many."""
        count = 0
        while claimed := self.claim(1):
            self.finish(claimed[0])
            self.commit()
            count += 1
        self.commit()
        return count

    def by_hundreds(self) -> int:
        """Claimed a hundred at a time; then a transaction for each, with an INSERT, and the end."""
        count = 0
        while claimed := self.claim(100):
            self.commit()
            for task in claimed:
                self._link.execute(_EFFECT, ("bench", task[2][0])).fetchone()
                self.finish(task)
                self.commit()
            count += len(claimed)
        self.commit()
        return count

    def close(self) -> None:
        self._link.close()


# In processes of their own.


class Processes:
    """So many processes, each with a connection, that drain side by side."""

    def __init__(self, conninfo: str, count: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._count = count
        together = self._context.Barrier(count)
        self._pool = ProcessPoolExecutor(
            count, self._context, initializer=_prepare, initargs=(conninfo, together)
        )
        self.rate("by_hundreds")  # starts them

    def rate(self, how: str) -> float:
        """Tasks a second, from when the first begins until the last has ended; `how`: of Draining."""
        runs = [self._pool.submit(_drain, how) for _ in range(self._count)]
        began, ended, counts = zip(*(run.result() for run in runs), strict=True)
        return sum(counts) / (max(ended) - min(began))

    def close(self) -> None:
        self._pool.shutdown()


_draining: Draining
_together: Any


def _prepare(conninfo: str, together: Any) -> None:
    global _draining, _together
    _draining, _together = Draining(conninfo), together


def _drain(how: str) -> tuple[float, float, int]:
    _together.wait(30)
    began = time.monotonic()
    count = getattr(_draining, how)()
    return began, time.monotonic(), count


class Hop:
    """A message over a channels_redis layer, to another process that waits for it."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._hearer = context.Process(target=_hear, args=(url, theirs), daemon=True)
        self._hearer.start()
        self._runner = asyncio.Runner()
        self._layer = _layer(url)
        self.seconds()  # connections

    def seconds(self) -> float:
        """From before it is sent until it has been received."""
        sent = self._runner.run(self._send())
        return self._pipe.recv() - sent

    async def _send(self) -> float:
        sent = time.monotonic()
        await self._layer.send("bench-hop", {"type": "hop"})
        return sent

    def close(self) -> None:
        self._runner.run(self._layer.close_pools())
        self._runner.close()
        self._hearer.terminate()
        self._hearer.join(10)


def _layer(url: str) -> Any:
    from channels_redis.core import RedisChannelLayer

    return RedisChannelLayer(hosts=[{"address": url, "socket_timeout": None}], prefix="bench-hop")


def _hear(url: str, pipe: Any) -> None:
    async def hear() -> None:
        layer = _layer(url)
        while True:
            await layer.receive("bench-hop")
            pipe.send(time.monotonic())

    asyncio.run(hear())
