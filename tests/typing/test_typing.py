"""A wrong argument is an error in the user's editor, a right one is none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

HERE = Path(__file__).parent
ERROR = re.compile(r"tests/typing/(\w+)\.py:(\d+): error: (.*)")
CODE = re.compile(r"\[([a-z-]+)\]$")
Found = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def found() -> Found:
    pytest.importorskip("mypy", reason="the lint group is not installed")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--no-error-summary",
            "tests/typing/good.py",
            "tests/typing/bad.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "INTERNAL ERROR" not in run.stdout + run.stderr
    errors: Found = {"good": [], "bad": []}
    for name, line, text in ERROR.findall(run.stdout):
        errors[name].append((int(line), text))
    assert errors["bad"], run.stdout + run.stderr
    return errors


def test_good_calls_are_accepted_and_have_the_types_they_should(found: Found) -> None:
    assert [] == found["good"]


def test_bad_calls_are_refused_each_with_its_error(found: Found) -> None:
    lines = enumerate((HERE / "bad.py").read_text().splitlines(), 1)
    expected = {
        (number, code) for number, line in lines for code in re.findall(r"# E: ([a-z-]+)", line)
    }
    actual = {(number, code) for number, text in found["bad"] for code in CODE.findall(text)}
    assert expected == actual
