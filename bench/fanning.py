"""How long a parent of 500 no-op subtasks takes, with two processes over Redis: python -m bench.fanning

Prints the time from its `delay()` until it is final, beside that of draining 500 such tasks without a parent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from bench import ground
from bench.figures import Row, in_turns, main, size

WIDTH = size("WIDTH", 500)


def measure() -> Iterator[Row]:
    with ground.laid(), ground.worker(2):
        _fan()  # what is loaded once
        drained, fanned = in_turns("s", {"drained": _drain, "fanned out and in": _fan})
    yield Row(
        name=f"fan-out and fan-in of {WIDTH} no-op subtasks, 2 processes",
        figure=fanned,
        unit="s",
        aim="0.3 s, or 3 x",
        yardstick=drained,
        what=f"draining {WIDTH} such tasks",
    )


def _drain() -> float:
    from bench.tasks import nothing

    return WIDTH / ground.drain(nothing, WIDTH)


def _fan() -> float:
    from bench.tasks import wide

    began = time.monotonic()
    parent = wide.delay(WIDTH)
    ground.until_done(parent)
    took = time.monotonic() - began
    parent.refresh_from_db()
    assert parent.is_ok, parent.error
    return took


if __name__ == "__main__":
    sys.exit(main(measure))
