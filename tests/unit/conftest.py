"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from tests.unit import flow


@pytest.fixture
def failing():
    """Numbers that make `flow.job` fail."""
    flow.failing.clear()
    yield flow.failing
    flow.failing.clear()
