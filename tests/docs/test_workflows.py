"""The page about workflows: its code runs, with real workers, and its errors read as it says."""

from __future__ import annotations

import doctest

import pytest

from tests.docs.readme import sections

PAGE = "docs/howto/workflows.md"
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", sections(PAGE))
def test_section(name, run_section):
    run_section(name, OPTIONS)
