"""System checks: what they find, what they leave alone, and that `check` and `migrate` heed them."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import pytest
from django.conf import UserSettingsHolder, global_settings
from django.conf import settings as django_settings
from django.core import checks
from django.core.cache import caches
from django.core.signals import setting_changed
from django.db import connection, connections
from django.test import override_settings

from cq.checks import way_out

LONG = django_settings.CHANNEL_LAYERS["long"]


def found(**settings: Any) -> list[checks.CheckMessage]:
    with override_settings(**settings):
        return checks.run_checks(tags=["cq"])


def ids(**settings: Any) -> list[str | None]:
    return [message.id for message in found(**settings)]


def layer(**config: Any) -> dict[str, Any]:
    return {"long": {"BACKEND": LONG["BACKEND"], "CONFIG": config}}


@pytest.fixture
def untouched():
    """What `startproject` gives: nothing about layers, caches or django-cq."""
    before = django_settings._wrapped
    fresh = UserSettingsHolder(global_settings)
    for name in ("INSTALLED_APPS", "MIDDLEWARE", "TEMPLATES", "DATABASES", "ROOT_URLCONF"):
        setattr(fresh, name, getattr(before, name))
    django_settings._wrapped = fresh
    _tell()
    yield
    django_settings._wrapped = before
    _tell()


def _tell():
    for name in ("CACHES", "CHANNEL_LAYERS", "CQ_CACHE"):
        setting_changed.send(None, setting=name, value=None, enter=True)


def test_the_readmes_settings_are_fine():
    assert found() == []


def test_times_must_be_aware():
    assert ids(USE_TZ=False) == ["cq.E012"]


def test_a_project_that_says_nothing_hears_nothing(untouched):
    assert checks.run_checks(tags=["cq"]) == []


# Settings.


def test_unknown_setting():
    (message,) = found(CQ_PROCESES=2)
    assert message.id == "cq.E001"
    assert "CQ_PROCESES" in message.msg
    assert message.hint == "Did you mean CQ_PROCESSES?"


def test_unknown_setting_like_no_other():
    (message,) = found(CQ_XYZZY_QQ=2)
    assert message.id == "cq.E001"
    assert "CQ_LEASE, " in message.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CQ_LEASE", "soon"),
        ("CQ_LEASE", 0),
        ("CQ_QUEUES", "mail"),
        ("CQ_SERIAL", 1),
        ("CQ_THREADS", -1),
        ("CQ_PROCESSES", True),
        ("CQ_MAX_PAYLOAD", None),
    ],
)
def test_wrong_value(name, value):
    (message,) = found(**{name: value})
    assert message.id == "cq.E002"
    assert name in message.msg
    assert repr(value) in message.msg


def test_check_command_refuses_an_unknown_setting(process):
    one = process("-m", "django", "check", settings={"CQ_LEESE": 2})
    assert one.wait() == 1
    assert "(cq.E001) CQ_LEESE" in one.output
    assert "Did you mean CQ_LEASE?" in one.output


def test_nothing_starts_with_a_wrong_value(process):
    """The app itself needs the settings while it loads: servers, which run no checks, stop as well."""
    one = process("-m", "django", "check", settings={"CQ_LEASE": "soon"})
    assert one.wait() == 1
    assert "CQ_LEASE must be a positive number of seconds or a timedelta, not 'soon'." in one.output


def test_worker_runs_the_checks(process):
    one = process("-m", "django", "cq_runworker", "--burst", settings={"CQ_LEESE": 2})
    assert one.wait() == 1
    assert "cq.E001" in one.output


# Layers.


def test_the_originals_layer():
    old = {
        "BACKEND": "asgi_redis.RedisChannelLayer",
        "CONFIG": {"hosts": ["redis://"], "expiry": 1800},
        "ROUTING": "project.channels.channel_routing",
    }
    backend, routing = found(CHANNEL_LAYERS={"long": old})
    assert backend.id == "cq.E003"
    assert "channels_redis.core.RedisChannelLayer" in backend.hint
    assert routing.id == "cq.E004"
    assert "ChannelNameRouter({**cq.routing.channel_routing})" in routing.hint


def test_originals_layer_under_any_alias():
    other = {"BACKEND": "asgi_redis.core.RedisChannelLayer"}
    assert ids(CHANNEL_LAYERS={"long": LONG, "default": other}) == ["cq.E003"]


def test_layer_that_is_not_there():
    (message,) = found(CQ_CHANNEL_LAYER="lang")
    assert message.id == "cq.E005"
    assert "'lang'" in message.msg
    assert '"expiry": 1800' in message.hint


def test_no_layer_at_all(untouched):
    assert ids(CHANNEL_LAYERS={}) == []


@pytest.mark.parametrize("config", [{}, {"expiry": 60}, {"expiry": 5.5}])
def test_layer_that_forgets_soon(config):
    (message,) = found(CHANNEL_LAYERS=layer(**config))
    assert message.id == "cq.W006"
    assert f"after {config.get('expiry', 60)} s" in message.msg
    assert '"expiry": 1800' in message.hint
    assert message.level == checks.WARNING


def test_default_layer_carries_the_bell_where_none_is_named(untouched):
    assert ids(CHANNEL_LAYERS={"default": {"BACKEND": LONG["BACKEND"]}}) == ["cq.W006"]


@pytest.mark.parametrize(
    "entry",
    [
        {"BACKEND": LONG["BACKEND"], "CONFIG": {"expiry": 61}},
        {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"},
        {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        {"BACKEND": "no.such.Layer"},
        {},
    ],
)
def test_layers_that_this_is_not_about(entry):
    assert ids(CHANNEL_LAYERS={"long": entry}) == []


# Caches.


LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
DUMMY = {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}


@pytest.mark.parametrize("cache", [LOCMEM, DUMMY])
def test_cache_that_others_cannot_see(cache):
    (message,) = found(CACHES={"default": cache})
    assert message.id == "cq.W008"
    assert message.level == checks.WARNING
    assert "django_redis.cache.RedisCache" in message.hint


def test_djangos_own_cache_chosen_by_name(untouched):
    assert ids(CQ_CACHE="default") == ["cq.W008"]


def test_only_the_cache_that_is_used_matters():
    redis = django_settings.CACHES["default"]
    assert ids(CACHES={"default": redis, "other": LOCMEM}) == []
    assert ids(CACHES={"default": redis, "other": LOCMEM}, CQ_CACHE="other") == ["cq.W008"]


def test_shared_caches_are_fine(tmp_path):
    files = {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": tmp_path}
    assert ids(CACHES={"default": files}) == []


def test_cache_that_is_not_there():
    (message,) = found(CQ_CACHE="other")
    assert message.id == "cq.E007"
    assert message.hint.startswith("Name one of 'default', or")


def test_cache_that_cannot_be_used():
    try:
        (message,) = found(CACHES={"default": {"BACKEND": "no.such.Cache"}})
    finally:
        caches.close_all()
    assert message.id == "cq.E007"
    assert "no.such.Cache" in message.msg


# Databases.


def test_database_that_is_not_there():
    (message,) = found(CQ_DATABASE="nowhere")
    assert message.id == "cq.E009"
    assert "'nowhere'" in message.msg


class TasksElsewhere:
    def db_for_write(self, model, **hints):
        return "tasks" if model._meta.app_label == "cq" else None


class AllElsewhere:
    def db_for_write(self, model, **hints):
        return "main"


def test_tasks_on_another_database():
    (message,) = found(DATABASE_ROUTERS=[TasksElsewhere()])
    assert message.id == "cq.W011"
    assert "'tasks'" in message.msg
    assert "testapp" in message.msg
    assert message.level == checks.WARNING


def test_database_named_as_the_router_says():
    assert ids(DATABASE_ROUTERS=[AllElsewhere()]) == []
    assert ids(CQ_DATABASE=connection.alias) == []


def test_no_check_needs_a_database():
    """pytest-django would refuse the access; an image may be built where there is none."""
    assert [m for m in checks.run_checks() if m.id.startswith("cq.")] == []


# The original's tables.


@pytest.fixture
def database(transactional_db, tmp_path, request):
    """A fresh database beside the tests' own: its settings, and a function that executes SQL on it."""
    with_settings = dict(connection.settings_dict)
    if connection.vendor == "sqlite":
        with_settings["NAME"] = str(tmp_path / "other.sqlite3")
    else:
        with_settings["NAME"] = f"{connection.settings_dict['NAME']}_other"
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {with_settings['NAME']}")
    link = type(connection._connections[connection._alias])({**with_settings}, "other")

    def execute(*statements):
        with closing(link), link.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    given = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
    yield {name: with_settings[name] for name in given}, execute
    if connection.vendor != "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {with_settings['NAME']}")


def test_migrate_stops_at_the_originals_tables_and_says_the_way_out(process, database):
    named, execute = database

    def run(*arguments):
        one = process("-m", "django", *arguments, settings={"DATABASES": {"default": named}})
        return one.wait(), one.output

    assert run("migrate", "auth")[0] == 0
    execute(
        "CREATE TABLE cq_task (id varchar(36) PRIMARY KEY, status varchar(1), signature text)",
        "CREATE TABLE cq_repeatingtask (id integer PRIMARY KEY, func_name text)",
        "INSERT INTO cq_task VALUES ('an old one', 'S', '{}')",
        "INSERT INTO django_migrations (app, name, applied) VALUES"
        " ('cq', '0001_initial', '2018-01-01 00:00'), ('cq', '0002_maintenance', '2018-01-01 00:00')",
    )
    code, output = run("migrate")
    assert code == 1
    assert "cq.E010" in output
    assert run("check", "--database", "default")[0] == 1
    assert run("check")[0] == 0, "a plain check needs no database"

    said = re.findall(r"^\s*((?:CREATE|ALTER|DELETE) .*;)$", output, re.MULTILINE)
    assert said == way_out(connection.vendor).splitlines()
    execute(*said)
    code, output = run("migrate")
    assert code == 0, output
    assert run("check", "--database", "default")[0] == 0
    kept = "cq_original.cq_task" if connection.vendor == "postgresql" else "original_cq_task"
    execute(f"INSERT INTO {kept} VALUES ('still there', 'S', '{{}}')")


def test_our_own_tables_are_fine(db):
    assert checks.run_checks(databases=list(connections)) == []
