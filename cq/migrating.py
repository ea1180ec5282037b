"""What `manage.py migrate` does for repeating tasks: looks for a missing dependency, then reconciles."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

from django.apps import AppConfig, apps
from django.core.management import CommandError
from django.db import connections
from django.db.migrations import Migration, RunPython
from django.db.migrations.exceptions import NodeNotFoundError
from django.db.migrations.loader import MigrationLoader
from django.db.models.signals import post_migrate, pre_migrate

from cq import database, declared

FIRST = ("cq", "0001_initial")
_OURS = {"schedule_task": declared.schedule_task, "unschedule_task": declared.unschedule_task}
_HOMES = frozenset({"cq", "cq.models"})


def connect(config: AppConfig) -> None:
    """Have `migrate` tell. Called when all apps are loaded."""
    pre_migrate.connect(_before, sender=config)
    post_migrate.connect(_after, sender=config)


def _before(using: str, plan: Sequence[tuple[Migration, bool]] = (), **kwargs: Any) -> None:
    """Without the dependency, Django would say that it knows no app `cq`, or not even that, by luck."""
    scheduling = [step for step, backwards in plan if not backwards and _schedules(step)]
    if not scheduling:
        return
    graph = MigrationLoader(connections[using]).graph
    for step in scheduling:
        try:
            comes_first = FIRST in graph.forwards_plan((step.app_label, step.name))
        except NodeNotFoundError:  # a plan that is not of these files
            continue
        if not comes_first:
            raise CommandError(
                f"The migration {step} uses schedule_task(), and does not say that django-cq's tables "
                f'come first. Write in it: dependencies = [("{FIRST[0]}", "{FIRST[1]}")], beside what '
                "is there."
            )


def _schedules(step: Migration) -> bool:
    """Whether its code calls one of these functions."""
    functions = [one.code for one in step.operations if isinstance(one, RunPython)]
    return any(_calls_ours(one) for one in functions if hasattr(one, "__code__"))


def _calls_ours(function: Any) -> bool:
    names = set(_names(function.__code__))
    known = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    by_another_name = any(value in _OURS.values() for value in known.values() if callable(value))
    return by_another_name or any(_is_ours(name, names, known) for name in _OURS.keys() & names)


def _is_ours(name: str, names: Collection[str], known: Mapping[str, Any]) -> bool:
    """Whether that name is one of ours: as a global, an attribute of one, or imported in the function."""
    if name in known:
        return known[name] is _OURS[name]
    of_module = any(getattr(value, name, None) is _OURS[name] for value in known.values())
    return of_module or not _HOMES.isdisjoint(names)


def _names(code: CodeType) -> Iterator[str]:
    """What a function, and functions in it, look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _after(using: str, verbosity: int = 1, stdout: Any = None, **kwargs: Any) -> None:
    if using != database.alias() or not _is_whole(kwargs.get("apps", apps)):
        return
    for done, name in declared.sync():
        if stdout is not None and (verbosity >= 1 or done == declared.CONFLICT):
            stdout.write(f"  Repeating task {done}: {name}")


def _is_whole(state: Any) -> bool:
    """Whether the migrations have brought the table as far as this code knows it."""
    try:
        model = state.get_model("cq", "RepeatingTask")
    except LookupError:
        return False
    known = {field.name for field in database.repeating_model()._meta.concrete_fields}
    return known <= {field.name for field in model._meta.concrete_fields}
