"""What a Redis that is killed, or absent, adds to `delay()`: python -m bench.delay_without_redis

On PostgreSQL, over the README's `long` layer. Each figure is of 1,000 calls, one at a time, in autocommit, beside
that of the same calls while Redis was there, in the same run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator

from bench import ground
from bench.figures import Row, main, p99, size
from tests import servers

CALLS = size("CALLS", 1000)


def measure() -> Iterator[Row]:
    redis = servers.valkey_server()
    redis.start()
    try:
        with ground.laid(redis=f"{redis.connection_url}/0"):
            _calls()  # connections, caches
            there = _calls()
            redis.terminate()
            killed = _calls()
            absent = _calls()
    finally:
        redis._cleanup()
    for name, took in (("just killed", killed), ("absent", absent)):
        yield Row(
            name=f"`delay()` with Redis {name}, p99",
            figure=p99(took),
            unit="ms",
            aim="",
            yardstick=p99(there),
            what=f"Redis there; max {max(took):.1f} and {max(there):.1f} ms, "
            f"p50 {statistics.median(took):.2f} and {statistics.median(there):.2f} ms",
        )


def _calls() -> list[float]:
    from bench.tasks import nothing

    took = []
    for number in range(CALLS):
        began = time.perf_counter()
        nothing.delay(number)
        took.append((time.perf_counter() - began) * 1000)
    return took


if __name__ == "__main__":
    sys.exit(main(measure))
