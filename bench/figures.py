"""What a benchmark prints: figures beside the yardstick of the same run."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    figure: float
    unit: str
    aim: str
    yardstick: float | None = None
    what: str = ""
    """What the yardstick is; where there is none, what else there is to say."""

    @property
    def ratio(self) -> float | None:
        return self.figure / self.yardstick if self.yardstick else None

    def cells(self) -> tuple[str, ...]:
        yardstick = self.what
        if self.yardstick is not None:
            yardstick = f"{_shown(self.yardstick, self.unit)}: {self.what}"
        ratio = "" if self.ratio is None else f"{_rounded(self.ratio)} x"
        return self.name, _shown(self.figure, self.unit), ratio, self.aim, yardstick


HEAD = ("", "figure", "of the yardstick", "aim", "yardstick")


def main(measure: Callable[[], Iterable[Row]]) -> int:
    """Measure, and print the rows as a table; after `--json`, for `python -m bench` to read."""
    rows = list(measure())
    if "--json" in sys.argv:
        print(json.dumps([dataclasses.asdict(row) for row in rows]))
    else:
        print(table(rows))
    return 0


def table(rows: Iterable[Row]) -> str:
    """As Markdown."""
    lines = [HEAD, ("---", "---:", "---:", "---", "---"), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def size(name: str, usual: int) -> int:
    """How much to measure: `usual`, or what CQ_BENCH_<name> says, for a quick look."""
    return int(os.environ.get(f"CQ_BENCH_{name}", usual))


ROUNDS = size("ROUNDS", 5)


def in_turns(unit: str, measures: Mapping[str, Callable[[], float]]) -> list[float]:
    """Take each figure once a round, so that what disturbs the machine hits all. Returns their medians."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(ROUNDS):
        for name, measure in measures.items():
            taken[name].append(measure())
            say(f"{number + 1}/{ROUNDS} {name}: {_shown(taken[name][-1], unit)}")
    return [statistics.median(figures) for figures in taken.values()]


def p99(figures: list[float]) -> float:
    return statistics.quantiles(figures, n=100, method="inclusive")[98]


_began = time.monotonic()


def say(line: str) -> None:
    """How far it is, since figures come late."""
    print(f"{time.monotonic() - _began:6.0f} s  {line}", file=sys.stderr, flush=True)


def _shown(figure: float, unit: str) -> str:
    return f"{_rounded(figure)}{'' if unit.startswith('/') else ' '}{unit}".rstrip()


def _rounded(figure: float) -> str:
    if figure >= 100 or figure == int(figure):
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
