"""What a Redis that is killed, or absent, adds to `delay()`: python -m bench.delay_without_redis

On PostgreSQL, over the README's `long` layer. Each figure is of 1,000 calls, one at a time, in autocommit;
"added" is against the same calls while Redis was there, in the same run.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from tests import servers

CALLS = 1000


def main() -> int:
    host = servers.Host("postgresql")
    redis = servers.valkey_server()
    redis.start()
    os.environ |= {
        servers.DATABASE: host.found["postgresql"],
        servers.REDIS: f"{redis.connection_url}/0",
        "DJANGO_SETTINGS_MODULE": "tests.settings",
    }
    try:
        _measure(redis)
    finally:
        host.stop()
    return 0


def _measure(redis: object) -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)

    from cq import task

    @task("bench.nothing")
    def nothing(cqt, number):
        """Never run here: no worker is started."""

    def calls() -> list[float]:
        took = []
        for number in range(CALLS):
            began = time.perf_counter()
            nothing.delay(number)
            took.append((time.perf_counter() - began) * 1000)
        return took

    calls()  # connections, caches
    there = calls()
    redis.terminate()
    killed = calls()
    absent = calls()
    print(
        f"{'delay() with Redis':<24}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}{'added to p99':>14}"
    )
    for name, took in (("there", there), ("just killed", killed), ("absent", absent)):
        p99 = _p99(took)
        print(
            f"{name:<24}{statistics.median(took):>10.2f}{p99:>10.2f}{max(took):>10.2f}"
            f"{p99 - _p99(there):>14.2f}"
        )


def _p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
