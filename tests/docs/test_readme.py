"""The README's code runs, with real workers, as it stands there."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.docs.readme import ROOT, blocks, of_file, sections

PAGE = "README.md"
SECTIONS = sections(PAGE)
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


def section(name, language):
    return [b.text for b in blocks(PAGE) if b.section == name and b.language == language]


def test_quickstart_runs_literally(project):
    (commands,) = section("Quickstart", "sh")
    lines = commands.strip().splitlines()
    assert len(lines) <= 6
    assert lines[0] == "pip install django-cq"
    # All but the installation, in one shell, as somebody would type them.
    assert "5" in project("\n".join(lines[1:])).splitlines()
    assert "no issues" in project("python manage.py check")


def test_quickstart_shows_the_file_that_it_writes(project):
    (shown,) = section("Quickstart", "python")
    (commands,) = section("Quickstart", "sh")
    (line,) = [line for line in commands.splitlines() if line.startswith("printf")]
    written = subprocess.run(
        ["bash", "-c", line.partition(" > ")[0]], capture_output=True, text=True, check=True
    ).stdout
    assert shown == f"# tasks.py\n{written}"


def test_with_redis(project, redis_server, tmp_path):
    """The settings and asgi.py of "With Redis", under both workers, by the bell alone."""
    (commands,) = section("Quickstart", "sh")
    for line in commands.strip().splitlines()[1:4]:
        project(line)
    settings = tmp_path / "mysite" / "settings.py"
    given = of_file(PAGE, "settings.py")
    assert '"redis://localhost:6379/0"' in given
    given = given.replace("redis://localhost:6379/0", redis_server.connection_url)
    # No poll would come in time.
    settings.write_text(f"{settings.read_text()}\n{given}\nCQ_POLL_INTERVAL = 3600\n")
    (tmp_path / "mysite" / "asgi.py").write_text(of_file(PAGE, "asgi.py"))
    assert "no issues" in project("python manage.py check")
    last = commands.strip().splitlines()[-1]
    (runworker,) = section("With Redis", "sh")
    for command in "python manage.py cq_runworker --processes 1", runworker.strip():
        worker = project(f"exec {command}", background=True)
        assert "5" in project(last).splitlines()
        worker.terminate()
        worker.wait(10)


@pytest.mark.parametrize("name", SECTIONS)
def test_section(name, run_section):
    run_section(name, OPTIONS)


def test_every_section_with_calls_has_the_tasks_that_it_calls():
    assert {"Tasks", "Subtasks", "Chained Tasks", "Logging", "Retries", "Async"} <= set(SECTIONS)


def test_links_lead_somewhere():
    for page in ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_comparison_names_tests_that_there_are():
    commands = re.findall(r"`pytest ([^`]+)`", (ROOT / PAGE).read_text())
    assert len(commands) > 10
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CQ_TEST_DATABASE_URL": "sqlite"},
    ).stdout.splitlines()
    for command in commands:
        folder, flag, wanted = shlex.split(command)
        assert flag == "-k"
        assert [line for line in collected if line.startswith(folder) and wanted in line], command
