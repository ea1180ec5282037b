"""Any project: under WSGI, without a layer, Redis or Channels' app; real gunicorn, forked after loading."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from tests import servers
from tests.processes import eventually

SETTINGS = """
SECRET_KEY = "x"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
WSGI_APPLICATION = "wsgi.application"
STATIC_URL = "/static/"
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
    "django.contrib.messages", "django.contrib.admin", "cq", "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {"context_processors": ["django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages"]}}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
FILES = {
    "own_settings.py": SETTINGS,
    "wsgi.py": "from django.core.wsgi import get_wsgi_application as a\napplication = a()\n",
    "urls.py": """
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import JsonResponse
from django.urls import path
from shop.tasks import add

def delay(request):
    return JsonResponse({"id": str(add.delay(20, 3).id)})

def state(request, id):
    from cq.models import Task
    t = Task.objects.get(id=id)
    return JsonResponse({"status": t.status, "result": t.result})

def login(request):
    from django.contrib.auth import login
    user, _ = User.objects.get_or_create(username="x", is_staff=True, is_superuser=True)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({})

urlpatterns = [path("delay", delay), path("state/<uuid:id>", state), path("login", login),
               path("admin/", admin.site.urls)]
""",
    "shop/__init__.py": "",
    "shop/tasks.py": "from cq import task\n@task\ndef add(cqt, a, b):\n    cqt.log('adding')\n    return a + b\n",
}


@pytest.fixture
def project(tmp_path):
    """Runs Python in a fresh project: `project("-m", "django", "migrate")`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    started = []

    def run(*arguments, wait=True):
        with (tmp_path / f"{len(started)}.log").open("w") as output:
            one = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": f"{tmp_path}:{servers.ROOT}",
                    "DJANGO_SETTINGS_MODULE": "own_settings",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        servers.watch(one.pid)
        started.append(one)
        if wait:
            assert 0 == one.wait(60), (tmp_path / f"{len(started) - 1}.log").read_text()
        return one

    yield run
    for one in started:
        if one.poll() is None:
            one.terminate()
            one.wait(30)
        servers.unwatch(one.pid)


def test_a_wsgi_project_without_any_of_channels_has_tasks(project, tmp_path):
    project("-m", "django", "migrate", "-v0")
    project("-m", "django", "check", "--fail-level", "ERROR")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    web = project(
        "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "wsgi",
        wait=False,
    )  # fmt: skip
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def get(path):
        with opener.open(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            return answer.read().decode()

    def is_up():
        try:
            return get("login")
        except urllib.error.URLError:
            return False

    eventually(is_up, 30)
    before = [json.loads(get("delay"))["id"] for _ in range(6)]
    worker = project("-m", "django", "cq_runworker", "--processes", "1", wait=False)
    after = json.loads(get("delay"))["id"]
    for task in (*before, after):
        eventually(lambda task=task: json.loads(get(f"state/{task}"))["status"] == "SUCCESS", 30)
        assert 23 == json.loads(get(f"state/{task}"))["result"]
    listed = get("admin/cq/task/")
    assert "shop.tasks.add" in listed
    assert "adding" in get(f"admin/cq/task/{after}/change/")
    for one in (worker, web):
        one.terminate()
        assert 0 == one.wait(30)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as rows:
        assert [("SUCCESS", 7)] == rows.execute(
            "select status, count(*) from cq_task group by 1"
        ).fetchall()


def test_a_script_that_delays_and_ends_at_once_needs_no_layer(project, tmp_path):
    project("-m", "django", "migrate", "-v0")
    begun = time.monotonic()
    project("-c", "import django; django.setup(); from shop.tasks import add; add.delay(1, 2)")
    assert time.monotonic() - begun < 20
    project("-m", "django", "cq_runworker", "--burst", "--processes", "1")
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as rows:
        assert [("SUCCESS", "3")] == rows.execute("select status, result from cq_task").fetchall()
