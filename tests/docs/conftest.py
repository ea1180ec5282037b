"""A new project, as `startproject` makes it, for what the docs say to do in one; a page's calls, with a real worker."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from asgiref.sync import SyncToAsync
from django.conf import settings as django_settings
from django.db import connections

from cq import declared, registry
from cq.models import Task
from tests import servers
from tests.docs.readme import ROOT, blocks, of_file


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


@pytest.fixture
def shop(request, tmp_path, monkeypatch):
    """An app whose tasks.py is what the test module's PAGE puts there; gives the module."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "tasks.py").write_text(of_file(request.module.PAGE, "tasks.py"))
    monkeypatch.syspath_prepend(tmp_path)
    known, schedules = dict(registry._definitions), dict(declared._declared)
    module = importlib.import_module("shop.tasks")
    # What it declares is not for this process's database: a flush, too, says that it has migrated.
    declared._declared.clear()
    declared._declared.update(schedules)
    yield module
    for name in "shop", "shop.tasks":
        del sys.modules[name]
    registry._definitions.clear()
    registry._definitions.update(known)


@pytest.fixture
def run_section(request, shop, worker, tmp_path):
    """Runs the calls of one section of PAGE beside a worker that knows `shop`, and compares the answers."""

    def run(name, options):
        page = request.module.PAGE
        python_path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        worker(
            "--processes",
            "1",
            settings={"INSTALLED_APPS": [*django_settings.INSTALLED_APPS, "shop"]},
            env={"PYTHONPATH": python_path},
        ).wait_ready()
        calls = "".join(b.text for b in blocks(page) if b.section == name and b.language == "pycon")
        names = {**vars(shop), "Task": Task}
        test = doctest.DocTestParser().get_doctest(calls, names, f"{page}, {name}", page, 0)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=options).run(test, out=said.append)
        # Where async code, outside of a server, has its connection.
        SyncToAsync.single_thread_executor.submit(connections.close_all).result(10)
        assert not said, "".join(said)

    return run
