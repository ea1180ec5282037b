"""What 200 `adelay()` at once do to an ASGI server, over Redis: python -m bench.asgi

uvicorn serves a page whose view gathers them. Prints the p99 of one, beside the time of 200 raw INSERTs one after
the other; and how long the server's loop could not go on, at worst, beside the same with nothing to do.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from urllib.request import urlopen

from bench import ground, yardsticks
from bench.figures import Row, in_turns, main, p99, size

TOGETHER = size("TOGETHER", 200)


def measure() -> Iterator[Row]:
    with ground.laid():
        from bench.tasks import nothing

        like = nothing.delay(0)
        with (
            closing(yardsticks.Inserting(ground.conninfo(), like.id)) as inserting,
            closing(_served()) as server,
        ):
            page = f"{_address(server)}/delays"
            blocked: list[float] = []

            def together() -> float:
                ground.clear()
                answer = _answer(f"{page}/{TOGETHER}")
                blocked.append(answer["blocked"])
                return p99(answer["took"])

            together()  # what is loaded once
            blocked.clear()
            raw, took, idle = in_turns(
                "ms",
                {
                    f"{TOGETHER} raw INSERTs": lambda: TOGETHER / inserting.rate(TOGETHER) * 1000,
                    f"{TOGETHER} adelay(), p99": together,
                    "loop kept, nothing to do": lambda: _answer(f"{page}/0")["blocked"],
                },
            )
    yield Row(
        name=f"{TOGETHER} concurrent `adelay()` in an ASGI server, p99",
        figure=took,
        unit="ms",
        aim="250 ms",
        yardstick=raw,
        what=f"{TOGETHER} raw INSERTs, one after the other",
    )
    yield Row(
        name="the server's loop could not go on meanwhile, at worst",
        figure=max(blocked),
        unit="ms",
        aim="10 ms",
        yardstick=idle,
        what=f"nothing to do; {TOGETHER} adelay() in each round: "
        + ", ".join(f"{worst:.1f}" for worst in blocked),
    )


def _served() -> ground.Process:
    arguments = ["tests.asgi:application", "--lifespan", "off", "--port", "0", "--no-access-log"]
    return ground.process("-m", "uvicorn", *arguments)


def _address(server: ground.Process) -> str:
    server.wait_for("Uvicorn running on")
    found = re.search(r"http://[\d.]+:\d+", server.output)
    assert found, server.output
    return found[0]


def _answer(url: str) -> dict[str, object]:
    with urlopen(url) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main(measure))
