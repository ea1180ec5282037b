from __future__ import annotations

import pytest
from django.core.management import call_command

from cq import bell
from tests.app import mutants
from tests.conftest import end_all
from tests.faults.lab import Lab


@pytest.fixture
def lab(request, worker, process, settings, monkeypatch, seed):  # noqa: PLR0917
    """Where a scenario is run; `indirect` parametrisation names the mutant."""
    mutant = getattr(request, "param", "")
    if mutant != "no_flush_at_exit":  # which can't be undone
        mutants.apply(mutant, monkeypatch.setattr)
    settings.CQ_QUEUES = ["a", "b"]

    def clear():
        end_all(request)
        call_command("flush", verbosity=0, interactive=False)

    yield Lab(worker, process, settings, clear, mutant, seed)
    bell.stop()
