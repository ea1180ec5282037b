"""Every scenario is clean; and is not once a protection of it is taken away."""

from __future__ import annotations

import pytest

from tests.faults import (  # noqa: F401
    ahead,
    bells,
    durability,
    races,
    schedules,
    sessions,
    transports,
    workflows,
)
from tests.faults.lab import SCENARIOS, Scenario


@pytest.mark.parametrize(
    "scenario", [pytest.param(one, id=one.name, marks=one.marks) for one in SCENARIOS]
)
def test_protected(scenario, lab):
    assert scenario.run(lab) == scenario.clean


@pytest.mark.parametrize(
    ("scenario", "lab", "spoilt"),
    [
        pytest.param(one, mutant, spoilt, id=f"{one.name}-{mutant}", marks=marks)
        for one, mutant, spoilt, marks in Scenario.pairs()
    ],
    indirect=["lab"],
)
def test_unprotected(scenario, lab, spoilt):
    """A race need not be lost each time: three that were won say that the protection is not missed."""
    for _ in range(3):
        verdict = scenario.run(lab)
        if verdict[spoilt] != scenario.clean[spoilt]:
            return
        lab.begin_again()
    pytest.fail(f"{spoilt} is still {scenario.clean[spoilt]!r}")
