"""The settings: every name, type, default and unit. Nothing else reads `django.conf.settings` for `CQ_…`."""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

PREFIX = "CQ_"

# What stands in a channel's name besides "cq-tasks."; Channels allows 100 characters of these.
QUEUE_NAME = re.compile(r"[a-zA-Z0-9._-]{1,80}")
NO_QUEUE_NAME = "can't name a queue: use up to 80 letters, digits, '-', '_' and '.'"
_SMALL = 32767  # what a SmallIntegerField holds
# Counted from now, it ends in a year that every database and Python know: a row with a later one
# can't be read, and stops whoever looks at it.
LONGEST = timedelta(days=36525)
TOO_LONG = f"at most {LONGEST.days} days (100 years); None where it may be for ever"
# What every database and Python know in every time zone, with room for what is counted from it.
FIRST_YEAR, LAST_YEAR = 1900, 9000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`CQ_` before the field's name, in capitals, is the setting. Durations: seconds or a timedelta."""

    channel_layer: str = "default"
    """Alias in CHANNEL_LAYERS that carries the bell; without, PostgreSQL does, or workers poll."""
    cache: str = "default"
    """Alias in CACHES; where it is a Redis, logs of running tasks are kept there."""
    database: str | None = None
    """Alias in DATABASES where tasks live; None: what the database router says."""
    queues: tuple[str, ...] = ()
    """Further queue names, besides `default` and those that a `@task` names."""
    task_modules: tuple[str, ...] = ()
    """Modules or packages with task functions, besides each app's `tasks`."""
    serial: bool = False
    """delay() runs the task before it returns, in the caller's transaction."""
    scheduler: bool = True
    """Whether workers fire repeating tasks."""
    prefix: str = "cq"
    """Begins every Redis key that django-cq writes."""
    poll_interval: timedelta = timedelta(seconds=1)
    """How often, at least, a worker with a free hand looks without having heard a bell."""
    lease: timedelta = timedelta(seconds=30)
    """How long a worker may be silent before its tasks are taken back."""
    unknown_task_grace: timedelta = timedelta(minutes=5)
    """How long a task waits for a worker that knows its function, before it is a FAILURE."""
    result_ttl: timedelta | None = timedelta(days=7)
    """How long what succeeded is kept; None: for ever."""
    failure_ttl: timedelta | None = timedelta(days=30)
    """How long what ended badly is kept; None: for ever."""
    retries: int = 0
    """How often a failed task is run again, where its `@task` does not say."""
    timeout: float | None = None
    """Seconds a run may take, where its `@task` does not say."""
    max_payload: int = 1024 * 1024
    """Bytes of JSON that a task's arguments, or its result, may take."""
    max_depth: int = 50
    """How deep subtasks may be nested."""
    max_deaths: int = 3
    """The death of a worker that makes the task it was running a FAILURE."""
    log_limit: int = 1000
    """Log lines kept for a tree of tasks."""
    processes: int = field(default_factory=lambda: min(os.cpu_count() or 1, 4))
    """Processes of a worker that run tasks."""
    threads: int = 1
    """Sync tasks that one process runs at a time; 1: in its main thread."""
    async_concurrency: int = 20
    """Async tasks that one process runs at a time."""


@cache
def settings() -> Settings:
    """The settings in force. Raises ImproperlyConfigured where one has a wrong type."""
    given = {}
    for item in fields(Settings):
        name = PREFIX + item.name.upper()
        if hasattr(django_settings, name):
            given[item.name] = _checked(name, getattr(django_settings, name), str(item.type))
    return Settings(**given)


def unknown() -> list[str]:
    """Settings that begin with `CQ_` and mean nothing."""
    known = {PREFIX + item.name.upper() for item in fields(Settings)}
    return [name for name in dir(django_settings) if name.startswith(PREFIX) and name not in known]


def _checked(name: str, value: Any, kind: str) -> Any:
    if value is None and kind.endswith("| None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "timedelta":
        return _duration(name, value)
    if kind == "tuple[str, ...]":
        return _names(name, value)
    if kind == "float" and isinstance(value, timedelta):
        value = value.total_seconds()
    expected: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
    }
    if not isinstance(value, expected[kind]) or (kind != "bool" and isinstance(value, bool)):
        raise ImproperlyConfigured(f"{name} must be of type {kind}, not {value!r}.")
    if kind in ("int", "float") and isinstance(value, int | float):
        low = 0 if name == "CQ_RETRIES" else 1e-9
        high = _SMALL if name in ("CQ_RETRIES", "CQ_MAX_DEPTH") else math.inf
        if kind == "float":  # seconds
            high = LONGEST.total_seconds()
        if not low <= value <= high:  # nor NaN
            more = "" if high == math.inf else f" and at most {high:.0f}"
            raise ImproperlyConfigured(f"{name} must be positive{more}, not {value!r}.")
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
        raise ImproperlyConfigured(f"{name} must be a list of strings, not {value!r}.")
    for entry in value if name == "CQ_QUEUES" else ():
        if not QUEUE_NAME.fullmatch(entry):
            raise ImproperlyConfigured(
                f"{name} must be names of queues: {entry!r} {NO_QUEUE_NAME}."
            )
    return tuple(value)


def _duration(name: str, value: Any) -> timedelta:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # NaN, or too much
            value = timedelta(seconds=value)
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ImproperlyConfigured(
            f"{name} must be a positive number of seconds or a timedelta, not {value!r}."
        )
    if value > LONGEST:
        raise ImproperlyConfigured(f"{name} must be {TOO_LONG}, not {value!r}.")
    return value


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting.startswith(PREFIX):
        settings.cache_clear()


setting_changed.connect(_forget)
