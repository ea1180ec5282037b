"""What there is, is documented; what is documented, is there."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib

import pytest
from django.core.management import load_command_class

import cq
from cq import checks, states
from cq.conf import Settings
from cq.models import Task
from cq.options import Options
from tests.docs.readme import ROOT

DJANGO = {"save", "delete", "refresh_from_db"}  # methods of every model, which have async forms
ARCHITECTURE = "docs/explanation/architecture.md"


def text(page):
    return (ROOT / page).read_text()


def rows(page):
    """What stands in backquotes in the first column of the page's tables."""
    first = re.findall(r"^\| ([^|]+) \|", text(page), re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("page", ["README.md", "docs/reference/settings.md"])
def test_every_setting(page):
    there = {f"CQ_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    assert {name for name in rows(page) if name.startswith("CQ_")} == there


@pytest.mark.parametrize("page", ["README.md", "docs/reference/options.md"])
def test_every_option(page):
    there = {field.name for field in dataclasses.fields(Options)}
    documented = rows(page)
    assert there <= documented
    if page.endswith("options.md"):
        assert documented == there


def test_every_status():
    words = set(re.findall(r"^\| ([A-Z]+) \|", text("docs/reference/statuses.md"), re.MULTILINE))
    assert words == set(states.Status.values)
    for status in states.Status:
        kind = "active" if status in states.ACTIVE else "done"
        kind += ", error" if status in states.ERROR else ""
        assert f"| {status} | {kind} |" in text("docs/reference/statuses.md")


def test_every_option_of_the_worker():
    parser = load_command_class("cq", "cq_runworker").create_parser("manage.py", "cq_runworker")
    plain = load_command_class("django.core", "check").create_parser("manage.py", "check")
    of_django = {option for action in plain._actions for option in action.option_strings}
    there = {
        option
        for action in parser._actions
        for option in action.option_strings
        if option not in of_django and option != "--skip-checks"
    }
    documented = {name.split()[0] for name in rows("docs/reference/commands.md")}
    assert documented == there
    assert there <= set(re.findall(r"--[a-z-]+", text("README.md")))


def test_every_check():
    source = (ROOT / "cq/checks.py").read_text()
    there = set(re.findall(r'id="(cq\.\w+)"', source))
    assert checks.TAG == "cq"
    listed = re.findall(r"^\| (cq\.\w+) \|", text("docs/reference/checks.md"), re.MULTILINE)
    assert set(listed) == there
    assert len(listed) == len(there)


def test_everything_that_is_exported():
    page = text("docs/reference/api.md")
    internal = {"AsyncTaskFunction", "TaskFunction"}
    for name in set(cq.__all__) - internal:
        assert f"`{name}" in page or f"@{name}`" in page or f" {name}" in page, name


def test_public_verbs_of_a_task():
    page = text("docs/reference/api.md")
    verbs = {
        name
        for name, value in vars(Task).items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == Task.__module__
    }
    assert {"wait", "subtask", "chain", "then", "errorback", "revoke", "retry", "log"} <= verbs
    for verb in verbs:
        assert f"`{verb}`" in page or f"`{verb}(" in page or f"await {verb}(" in page, verb
    for verb in ("revoked", "progress", "logs", "is_done", "is_ok"):
        assert f"`{verb}`" in page, verb


def test_async_forms_are_named_in_the_readme():
    there = {name for name in vars(Task) if hasattr(Task, f"a{name}")}
    assert {"subtask", "errorback", "revoke", "retry"} <= there
    section = text("README.md").partition("## Async")[2].partition("## Options")[0]
    for name in there - {"logs", "progress", "position"} - DJANGO:
        assert f"`a{name}`" in section, name


def test_state_diagram():
    assert f"```mermaid\n{states.diagram()}\n```" in text(ARCHITECTURE)


def test_layers():
    contract = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    wanted = [re.findall(r"cq\.(\w+)", layer) for layer in contract["layers"]]
    picture = text(ARCHITECTURE).partition("```layers\n")[2].partition("```")[0].splitlines()
    assert [re.split(r"  +", line)[0].split(" | ") for line in picture] == wanted


def test_modules_that_the_architecture_names():
    for path in set(re.findall(r"`(cq/[\w/]+\.py)`", text(ARCHITECTURE))):
        assert (ROOT / path).exists(), path


def test_functions_that_the_architecture_names():
    for module, name in set(re.findall(r"`(\w+)\.(\w+)\(\)`", text(ARCHITECTURE))):
        path = ROOT / "cq" / f"{module}.py"
        if path.exists():
            assert f"def {name}(" in path.read_text(), f"{module}.{name}"


def test_what_is_not_there_yet_is_said():
    """The README says what is not there; when it is, the sentence has to go."""
    not_yet = text("README.md").partition("**Not there yet**")[2].partition("\n*")[0]
    options = {field.name for field in dataclasses.fields(Options)}
    for option in ("unique", "concurrency", "rate"):
        assert option not in options
    assert not (ROOT / "cq/backends.py").exists()
    for missing in (
        "`unique`",
        "`concurrency`",
        "`rate`",
        "`django.tasks`",
        "live page",
    ):
        assert missing in " ".join(not_yet.split()), missing


def test_no_page_says_that_what_is_there_has_no_effect():
    for page in ROOT / "README.md", *ROOT.glob("docs/**/*.md"):
        assert "without effect" not in page.read_text(), page
