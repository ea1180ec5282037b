"""What the fault scenarios have in common: real workers, a patient look at the database, and a verdict from it."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cq.models import Task
from tests import processes
from tests.app.models import Effect

LONG = bool(os.environ.get("CQ_TEST_LONG"))
NAME = "faults"  # of all effects

SCENARIOS: list[Scenario] = []

CLEAN = {"missing": 0, "twice": 0, "unfinished": 0, "badly": 0}


@dataclass(frozen=True)
class Scenario:
    """`run` gives a verdict; protected, it is `clean`. Each mutant has to spoil the named count."""

    run: Callable[[Lab], dict[str, Any]]
    clean: dict[str, Any]
    mutants: dict[str, str]
    vendors: tuple[str, ...]
    once: bool

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def marks(self) -> list[Any]:
        marks = [pytest.mark.vendors(*self.vendors), pytest.mark.timeout(1800 if LONG else 180)]
        return [*marks, pytest.mark.once] if self.once else marks

    @staticmethod
    def pairs() -> list[tuple[Scenario, str, str, list[Any]]]:
        """Scenario, mutant, what it spoils, marks: a mutant's second scenario is for the long form."""
        found, seen = [], set()
        for one in SCENARIOS:
            for mutant, spoilt in one.mutants.items():
                again = [pytest.mark.long] if mutant in seen else []
                seen.add(mutant)
                found.append((one, mutant, spoilt, [*one.marks, pytest.mark.once, *again]))
        return found


def scenario(
    mutants: dict[str, str],
    *,
    vendors: Iterable[str] = ("postgresql", "sqlite", "mysql"),
    once: bool = False,
    **clean: Any,
) -> Callable[[Callable[[Lab], dict[str, Any]]], Callable[[Lab], dict[str, Any]]]:
    def register(run: Callable[[Lab], dict[str, Any]]) -> Callable[[Lab], dict[str, Any]]:
        SCENARIOS.append(Scenario(run, {**CLEAN, **clean}, mutants, tuple(vendors), once))
        return run

    return register


def sized(short: int, long: int) -> int:
    """How much of something: in `make test`, and in the long form."""
    return long if LONG else short


@dataclass
class Lab:
    """Where a scenario is run, with or without one of the protections."""

    start_worker: Callable[..., processes.Worker]
    start_process: Callable[..., processes.Process]
    settings: Any  # pytest-django's: this process's Django settings
    clear: Callable[[], None]  # ends all processes, empties all tables
    mutant: str
    seed: int
    random: random.Random = field(init=False)
    expected: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def begin_again(self) -> None:
        """With another seed, as if nothing had been."""
        self.clear()
        self.expected.clear()
        self.seed = self.random.getrandbits(32)
        self.random = random.Random(self.seed)

    # Doing.

    def worker(self, *arguments: str, faults: str = "", **given: Any) -> processes.Worker:
        """A worker that is ready, with a short lease. `given`: its settings."""
        return self.worker_soon(*arguments, faults=faults, **given).wait_ready(60)

    def worker_soon(self, *arguments: str, faults: str = "", **given: Any) -> processes.Worker:
        return self.start_worker(*arguments, settings=self.given(given), env=self.env(faults))

    def script(self, code: str, **given: Any) -> processes.Process:
        code = f"import django; django.setup(); {code}"
        return self.start_process("-c", code, settings=self.given(given), env=self.env())

    def env(self, faults: str = "") -> dict[str, str]:
        names = ",".join(filter(None, (self.mutant, faults)))
        return {"CQ_TEST_MUTANT": names, "CQ_TEST_SEED": str(self.seed)}

    def given(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "CQ_TASK_MODULES": ["tests.faults.tasks"],
            "CQ_LEASE": 2,
            "CQ_POLL_INTERVAL": 0.5,
            **given,
        }

    def layers(self, **config: Any) -> dict[str, Any]:
        """The `long` layer of the tests' settings, with something else about it."""
        layers = dict(self.settings.CHANNEL_LAYERS)
        long = layers["long"]
        layers["long"] = {**long, "CONFIG": {**long["CONFIG"], **config}}
        return layers

    def delay(self, function: Any, number: int, *args: Any, **kwargs: Any) -> Task[Any]:
        """A task whose effect is expected once."""
        self.expected.add(number)
        return function.delay(NAME, number, *args, **kwargs)

    # Looking.

    def until(self, predicate: Callable[[], Any], timeout: float = 60) -> bool:
        """Whether it came about in time; a mutant gets less of that."""
        try:
            processes.eventually(predicate, min(timeout, 5) if self.mutant else timeout)
        except AssertionError:
            return False
        return True

    def until_done(self, timeout: float = 120) -> bool:
        """Whether all tasks ended. A mutant's may stand still: that is told by nothing changing."""
        end = time.monotonic() + timeout
        before, changed = None, time.monotonic()
        while time.monotonic() < end:
            active = Task.objects.active()
            seen = sorted(active.values_list("id", "status", "claim_no"))
            if not seen:
                return True
            if seen != before:
                before, changed = seen, time.monotonic()
            elif self.mutant and time.monotonic() - changed > 3:
                return False
            time.sleep(0.05)
        return False

    def begun(self, worker: processes.Worker, *numbers: int) -> None:
        """Waits until the tasks of these numbers run, and have written what they write first."""
        for number in numbers:
            worker.wait_for(f"<begun {number}>")
        time.sleep(0.3)

    def verdict(self, **more: Any) -> dict[str, Any]:
        """What the database says. `badly`: tasks that ended in another way than they should."""
        found = Counter(Effect.objects.filter(name=NAME).values_list("number", flat=True))
        statuses = Counter(Task.objects.values_list("status", flat=True))
        verdict = {
            "missing": len(self.expected - set(found)),
            "twice": sum(count > 1 for count in found.values()),
            "unfinished": Task.objects.active().count(),
            "badly": Task.objects.errors().count() + Task.objects.skipped().count(),
            **more,
        }
        print(f"verdict {verdict}; {dict(statuses)}; CQ_TEST_SEED={self.seed}")
        return verdict


def heap(roots: int, width: int, depth: int) -> int:
    """How many nodes the trees have together."""
    return roots * sum(width**level for level in range(depth + 1))


def tree_numbers(first: int, width: int, depth: int) -> set[int]:
    """The numbers that `tasks.tree` gives to its nodes."""
    level, found = {first}, {first}
    for _ in range(depth):
        level = {number * width + 1 + i for number in level for i in range(width)}
        found |= level
    return found
