"""A new project, as `startproject` makes it, for what the docs say to do in one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.docs.readme import ROOT


@pytest.fixture
def project(tmp_path):
    """A new project, and a function that runs a shell line in it: its output, or an AssertionError."""
    environment = {
        **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    groups = []

    def run(line, *, background=False):
        output = tmp_path / f"output-{len(groups)}"
        with output.open("w") as file:
            shell = subprocess.Popen(
                ["bash", "-ec", line],
                cwd=tmp_path,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        servers.watch(shell.pid)
        groups.append(shell)
        if background:
            return shell
        assert shell.wait(60) == 0, output.read_text()
        return output.read_text()

    run("python -m django startproject mysite .")
    yield run
    for shell in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait(10)
        servers.unwatch(shell.pid)
