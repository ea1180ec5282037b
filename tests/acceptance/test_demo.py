"""The demo: started as a newcomer does, a count from its page and from the terminal, and what is left after Ctrl-C."""

from __future__ import annotations

import html
import http.cookiejar
import json
import os
import re
import shutil
import signal
import socket
import time
import tokenize
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import psutil
import pytest
from django.db import connection

from tests.processes import alive
from tests.servers import DATABASE

pytestmark = pytest.mark.once

STDLIB = Path(os.__file__).parent
MARKUP = "<b>&amp; bold.py"
BROKEN = "broken.py_"
NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


class Browser:
    """Cookies, forms and JSON of one visitor."""

    def __init__(self, url):
        self.url = url
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path):
        with self._opener.open(urllib.parse.urljoin(self.url, path), timeout=30) as answer:
            return answer.read().decode()

    def post(self, path, *, to="", **fields):
        """The form that is on a page. Returns the address that it ends at, and its page."""
        token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', self.get(path))[1]
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        address = urllib.parse.urljoin(self.url, to or path)
        with self._opener.open(address, data, timeout=30) as answer:
            return answer.url, answer.read().decode()

    def press(self, path, button):
        """One of the two buttons of a count."""
        action = f"{urllib.parse.urlsplit(path).path}{button}/"
        assert f'action="{action}"' in self.get(path)
        return self.post(path, to=action)


@pytest.fixture
def folder(tmp_path):
    """Real files in real folders, one whose name is markup, and what must not be counted."""
    folder = tmp_path / "sources"
    for package in ("json", "logging"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(STDLIB / package, folder / package, ignore=ignored)
    (folder / MARKUP).write_text("async def one(): pass\nclass Two:\n  def three(self): pass")
    (folder / "empty.py").touch()
    (folder / "no-python.txt").write_text("def four(): pass\n")
    for skipped in (".git", "site-packages"):
        (folder / skipped).mkdir()
        (folder / skipped / "five.py").write_text("def five(): pass\n")
    return folder


@pytest.fixture
def busy_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.fixture
def environment(tmp_path, busy_port):
    """Nothing of the user's own, and every file below tmp_path."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "DEMO_PLAIN": "",
        "DEMO_DATA": str(tmp_path / "data"),
        "DEMO_PORT": str(busy_port),
        "TMPDIR": str(temporary),
    }


@pytest.fixture
def postgresql():
    """The address of an empty database on the run's server."""
    name = f"test_cq_demo_{uuid.uuid4().hex}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    yield urllib.parse.urlsplit(os.environ[DATABASE])._replace(path=f"/{name}").geturl()
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def started(process, environment):
    demo = process("-m", "demo", env=environment).wait_for("Ctrl-C stops all of it", 60)
    demo.wait_for("cq worker ready")
    return demo, re.search(r"Page +(\S+)", demo.output)[1]


def counted_independently(folder):
    """By bytes and tokens, where the demo goes by text and syntax tree."""
    lines = words = definitions = files = 0
    for path in folder.rglob("*.py"):
        if {".git", "site-packages"} & {*path.parts}:
            continue
        files += 1
        data = path.read_bytes()
        lines += len(data.splitlines())
        words += len(data.split())
        with path.open("rb") as file:
            tokens = tokenize.tokenize(file.readline)
            definitions += sum(
                t.type == tokenize.NAME and t.string in ("def", "class") for t in tokens
            )
    return {
        "files": files + 1,
        "lines": lines,
        "words": words,
        "definitions": definitions,
        "failed": 1,
    }


def watched(browser, address):
    """The states of a count until it is finished, as its page asks for them."""
    states, end = [], time.monotonic() + 90
    while not states or not states[-1]["finished"]:
        assert time.monotonic() < end, states[-1]
        states.append(json.loads(browser.get(f"{address}state/")))
        time.sleep(0.02)
    return states


def shown_totals(page):
    found = re.findall(r"<div[^>]*><b>([^<]+)</b><span>(\w+)</span></div>", page)
    return {name: int(number.replace(NARROW_SPACE, "")) for number, name in found}


def assert_counted(browser, folder):
    address, _ = browser.post("/", folder=str(folder))
    states = watched(browser, address)
    expected = counted_independently(folder)
    seen = [state["status"] for state in states]
    assert "WAITING" in seen
    assert seen[-1] == "INCOMPLETE"
    last = states[-1]
    assert counts_of(last) == {
        "count_folder": {"INCOMPLETE": 1},
        "count_directory": {"SUCCESS": 3, "INCOMPLETE": 1},
        "group": {"SUCCESS": 3, "INCOMPLETE": 1},
        "count_file": {"SUCCESS": expected["files"] - 1, "FAILURE": 1},
        "add_up": {"SUCCESS": 3, "SKIPPED": 1},
        "note_broken": {"SUCCESS": 1},
        "write_report": {"SUCCESS": 1},
    }
    assert_tree(last, folder, expected)
    assert any(0 < state["done"] < state["total"] for state in states)
    (failure,) = last["failures"]
    assert failure["name"] == BROKEN
    assert failure["error"].startswith("SyntaxError: ")
    assert "Traceback (most recent call last):" in failure["traceback"]
    messages = [line["message"] for line in last["log"]]
    assert f"{BROKEN}: {failure['error']}" in messages
    assert any(message.startswith("json/decoder.py: ") for message in messages)
    assert messages[-1] == f"Report written: {expected['files']} files, 1 of them failed"

    page = browser.get(f"{address}?sort=name")
    assert shown_totals(page) == expected
    assert html.escape(failure["traceback"]) in page
    assert f"<b>{BROKEN}</b>" in page
    assert html.escape(MARKUP) in page
    assert MARKUP not in page
    assert '<span class="name">json</span>' in page
    assert html.escape(str(folder)) in browser.get("/")
    return address


def id_in(address):
    return address.rstrip("/").rpartition("/")[2]


def counts_of(state):
    return {
        task["name"]: {count["status"]: count["number"] for count in task["counts"]}
        for task in state["tasks"]
    }


def assert_tree(state, folder, expected):
    """A line for each directory, with its own files and their sum; the sample has none."""
    sample, *rows = state["directories"]
    assert (sample["status"], sample["done"], sample["total"]) == ("INCOMPLETE", 1, 1)
    assert sample["lines"] is None
    assert [row["name"] for row in rows] == [".", "json", "logging"]
    for row in rows:
        own = [path for path in (folder / row["name"]).iterdir() if path.suffix == ".py"]
        assert (row["status"], row["done"], row["total"]) == ("SUCCESS", len(own), len(own))
    assert sum(row["lines"] for row in rows) == expected["lines"]


def assert_retried(browser, folder, retry):
    """A broken file is mended, and only what failed runs again; the demo's own fails once more."""
    (folder / "more").mkdir()
    (folder / "more" / "good.py").write_text("def six(): pass\n")
    bad = folder / "more" / "bad.py"
    bad.write_text("def seven(: pass\n")
    address, _ = browser.post("/", folder=str(folder))
    before = watched(browser, address)[-1]
    assert [failure["name"] for failure in before["failures"]] == [BROKEN, "more/bad.py"]
    assert before["retryable"]
    bad.write_text("def seven(): pass\n")
    retry(address)
    after = watched(browser, address)[-1]
    expected = counted_independently(folder)
    assert counts_of(after) == {
        "count_folder": {"INCOMPLETE": 1},
        "count_directory": {"SUCCESS": 4, "INCOMPLETE": 1},
        "group": {"SUCCESS": 4, "INCOMPLETE": 1},
        "count_file": {"SUCCESS": expected["files"] - 1, "FAILURE": 1},
        "add_up": {"SUCCESS": 4, "SKIPPED": 1},
        "note_broken": {"SUCCESS": 3},
        "write_report": {"SUCCESS": 1},
    }
    assert [failure["name"] for failure in after["failures"]] == [BROKEN]
    assert shown_totals(browser.get(address)) == expected


def assert_revoked(browser):
    """At once, with all that is under it and the report."""
    address, _ = browser.post("/", folder=str(STDLIB))
    browser.press(address, "revoke")
    state = json.loads(browser.get(f"{address}state/"))
    assert (state["status"], state["finished"], state["retryable"]) == ("REVOKED", True, False)
    counts = counts_of(state)
    assert counts["write_report"] == {"REVOKED": 1}
    for name in "count_directory", "group", "count_file", "add_up":
        assert set(counts[name]) <= {"REVOKED", "SUCCESS", "FAILURE", "INCOMPLETE", "SKIPPED"}
    page = browser.get(address)
    assert "It was revoked" in page
    assert "/revoke/" not in page
    assert "/retry/" not in page


def assert_stops(demo, number, environment, *, group=False):
    """And nothing is left: no process, no file but the database."""
    family = [demo.pid, *demo.children()]
    assert len(family) >= 4
    (demo.signal_group if group else demo.signal)(number)
    assert demo.wait() == 0
    assert_nothing_is_left(family, environment)


def assert_nothing_is_left(family, environment):
    assert not [pid for pid in family if alive(pid)]
    assert not list(Path(environment["TMPDIR"]).iterdir())
    assert not (Path(environment["DEMO_DATA"]) / "running.json").exists()


def test_demo_with_embedded_valkey(process, environment, folder):
    demo, url = started(process, environment)
    assert "an embedded Valkey" in demo.output
    assert f"Port {environment['DEMO_PORT']} is taken" in demo.output
    browser = Browser(url)
    assert_counted(browser, folder)

    command = process("-m", "demo", "count", str(folder), env=environment)
    assert command.wait(60) == 0
    expected = counted_independently(folder)
    assert f"in {expected['files']} files" in command.output
    assert f"{expected['words']:,}" in command.output
    assert "SyntaxError: " in command.output
    assert re.search(r"SUCCESS +5 of 5 +json", command.output)
    assert re.search(r"INCOMPLETE +1 of 1 +the demo's sample", command.output)

    def retry(address):
        command = process("-m", "demo", "count", "--retry", id_in(address), env=environment)
        assert command.wait(60) == 0
        assert "of them failed" in command.output

    assert_revoked(browser)
    assert_retried(browser, folder, retry)

    second = process("-m", "demo", env=environment)
    assert second.wait() == 1
    assert f"runs already: {url}" in second.output

    # As a terminal does, to all processes of the foreground.
    assert_stops(demo, signal.SIGINT, environment, group=True)
    assert "away" not in demo.output  # the worker had its Redis to the end


def test_demo_without_redis(process, environment, folder):
    environment["DEMO_PLAIN"] = "1"
    demo, url = started(process, environment)
    assert "workers poll the database" in demo.output
    browser = Browser(url)
    address = assert_counted(browser, folder)
    command = process("-m", "demo", "count", "--revoke", id_in(address), env=environment)
    assert command.wait(60) == 0
    assert "It has ended already." in command.output
    assert_revoked(browser)
    assert_retried(browser, folder, lambda address: browser.press(address, "retry"))
    assert_stops(demo, signal.SIGTERM, environment)


@pytest.mark.vendors("postgresql")
def test_demo_on_given_servers(process, environment, folder, postgresql, redis_server):
    environment |= {"DATABASE_URL": postgresql, "REDIS_URL": f"{redis_server.connection_url}/3"}
    demo, url = started(process, environment)
    assert "PostgreSQL" in demo.output
    assert_counted(Browser(url), folder)
    # A command beside it needs to be told of neither.
    ours = environment | {"DATABASE_URL": "", "REDIS_URL": ""}
    assert process("-m", "demo", "count", str(folder), env=ours).wait(60) == 0
    assert_stops(demo, signal.SIGINT, environment)
    assert redis_server._process.poll() is None


def test_demo_refuses_what_is_no_folder(process, environment, tmp_path):
    environment["DEMO_PLAIN"] = "1"
    _, url = started(process, environment)
    browser = Browser(url)
    nowhere = f"{tmp_path}/<i>nowhere"
    address, page = browser.post("/", folder=nowhere)
    assert address == url
    assert "There is no such folder" in page
    assert html.escape(nowhere) in page
    assert nowhere not in page

    command = process("-m", "demo", "count", nowhere, env=environment)
    assert command.wait() == 1
    assert "There is no such folder" in command.output

    _, page = browser.post("/admin/login/?next=/admin/", username="demo", password="demo")
    assert "Reports" in page
    assert "--accent" in browser.get("/static/counting/count.css")


def _worker(demo):
    """The pid of its supervisor."""
    children = map(psutil.Process, demo.children())
    return next(child.pid for child in children if child.cmdline()[-1:] == ["cq_runworker"])


def test_demo_ends_when_its_worker_does(process, environment, eventually):
    demo, _ = started(process, environment)
    family = [demo.pid, *demo.children()]
    os.kill(_worker(demo), signal.SIGKILL)
    assert demo.wait() == 1
    assert "The worker has ended by itself" in demo.output
    eventually(lambda: not [pid for pid in family if alive(pid)])
    assert_nothing_is_left(family, environment)
