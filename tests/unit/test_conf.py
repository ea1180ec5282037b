"""The settings: their types, ranges and defaults."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured

from cq import conf

MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("lease", 60, MINUTE),
        ("lease", 0.5, timedelta(seconds=0.5)),
        ("lease", MINUTE, MINUTE),
        ("poll_interval", 3600, timedelta(hours=1)),
        ("result_ttl", None, None),
        ("failure_ttl", None, None),
        ("failure_ttl", 60, MINUTE),
        ("queues", ["a", "b"], ("a", "b")),
        ("queues", (), ()),
        ("task_modules", ["a.b"], ("a.b",)),
        ("serial", True, True),
        ("database", None, None),
        ("database", "other", "other"),
        ("retries", 0, 0),
        ("timeout", None, None),
        ("timeout", 60, 60),
        ("timeout", MINUTE, 60.0),
        ("processes", 3, 3),
        ("prefix", "mine", "mine"),
    ],
)
def test_a_setting_takes(settings, name, given, expected):
    setattr(settings, f"CQ_{name.upper()}", given)
    assert expected == getattr(conf.settings(), name)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("QUEUES", ["no spaces"]),
        ("LEASE", 0),
        ("LEASE", -1),
        ("LEASE", None),
        ("LEASE", "30"),
        ("LEASE", True),
        ("LEASE", float("nan")),
        ("LEASE", float("inf")),
        ("LEASE", 1e300),
        ("LEASE", timedelta(days=36526)),
        ("RESULT_TTL", timedelta.max),
        ("FAILURE_TTL", 36526 * 86400),
        ("UNKNOWN_TASK_GRACE", timedelta.max),
        ("POLL_INTERVAL", 0),
        ("RESULT_TTL", -1),
        ("QUEUES", "a"),
        ("QUEUES", [1]),
        ("QUEUES", None),
        ("TASK_MODULES", "a.b"),
        ("SERIAL", 1),
        ("SERIAL", None),
        ("DATABASE", 3),
        ("CHANNEL_LAYER", None),
        ("RETRIES", -1),
        ("RETRIES", 1.5),
        ("RETRIES", 32768),
        ("RETRIES", True),
        ("TIMEOUT", -1),
        ("TIMEOUT", 0),
        ("TIMEOUT", timedelta(seconds=-1)),
        ("TIMEOUT", timedelta.max),
        ("TIMEOUT", float("nan")),
        ("PROCESSES", 0),
        ("THREADS", "2"),
        ("ASYNC_CONCURRENCY", -1),
        ("MAX_PAYLOAD", 0),
        ("MAX_DEPTH", 0),
        ("MAX_DEPTH", 32768),
        ("LOG_LIMIT", 0),
    ],
)
def test_a_setting_refuses_and_is_named(settings, name, given):
    setattr(settings, f"CQ_{name}", given)
    with pytest.raises(ImproperlyConfigured, match=f"CQ_{name} must be"):
        conf.settings()


def test_unknown_settings_are_told(settings):
    settings.CQ_CHANEL_LAYER = "long"
    assert ["CQ_CHANEL_LAYER"] == conf.unknown()


def test_the_defaults_are_those_of_the_docs():
    found = conf.Settings()
    expected = {
        "channel_layer": "default",
        "cache": "default",
        "database": None,
        "queues": (),
        "serial": False,
        "poll_interval": timedelta(seconds=1),
        "lease": timedelta(seconds=30),
        "unknown_task_grace": timedelta(minutes=5),
        "result_ttl": timedelta(days=7),
        "failure_ttl": timedelta(days=30),
        "retries": 0,
        "timeout": None,
        "max_payload": 1024 * 1024,
        "log_limit": 1000,
        "threads": 1,
    }
    assert expected == {name: getattr(found, name) for name in expected}
