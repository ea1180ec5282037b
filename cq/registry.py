"""The task functions that the project registered: the only code that django-cq ever runs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from django.apps import apps

from cq.conf import settings
from cq.exceptions import DuplicateTask, InvalidOption, UnknownTask
from cq.options import Options


@dataclass(frozen=True, eq=False)
class Definition:
    """One registered function: what runs, under which names, with which options."""

    function: Callable[..., Any]
    name: str
    options: Options

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of its positional parameters, without the first, which is the task itself."""
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        found = [p.name for p in self.signature.parameters.values() if p.kind in positional]
        return tuple(found[1:])

    @cached_property
    def by_position(self) -> range:
        """The numbers of arguments, the task itself among them, that may be given by position alone."""
        parameters = self.signature.parameters.values()
        needed = [p for p in parameters if p.default is p.empty]
        if any(p.kind is p.KEYWORD_ONLY for p in needed):
            return range(0)
        least = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return range(least, sys.maxsize)
        return range(least, len(self.names) + 2)

    @cached_property
    def may_take_secrets(self) -> bool:
        """Whether any of its arguments can be one of those that are sensitive by its own options."""
        parameters = self.signature.parameters.values()
        open_end = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return open_end or any(p.name in self.options.sensitive for p in parameters)

    @cached_property
    def origin(self) -> tuple[str, str]:
        return self.function.__module__, self.function.__qualname__


_definitions: dict[str, Definition] = {}
_edition = object()  # of these: another one whenever there are more


def register(function: Callable[..., Any], options: Options) -> Definition:
    """Make `function` known under its name and aliases.

    Raises DuplicateTask where another function has one of them; the same function read again
    (a module reloaded after start-up) takes its own place.
    """
    global _edition
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidOption(f"{function.__qualname__}: a generator can't be a task.")
    if not any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        for p in list(inspect.signature(function).parameters.values())[:1]
    ):
        raise InvalidOption(
            f"{function.__qualname__}: a task function takes its own task first: "
            f"def {function.__name__}(cqt, …)."
        )
    name = options.name or f"{function.__module__}.{function.__qualname__}"
    if len(name) > 200:
        raise InvalidOption(f"{name!r} is too long: give @task a name of at most 200 characters.")
    definition = Definition(function, name, options)
    for known_as in (name, *options.aliases):
        other = _definitions.get(known_as)
        if other is not None and _clash(other, definition):
            raise DuplicateTask(
                f"Two functions are registered as the task {known_as!r}: "
                f'{".".join(other.origin)} and {".".join(definition.origin)}. Name one of them: @task("…").'
            )
    for known_as in (name, *options.aliases):
        _definitions[known_as] = definition
    _edition = object()
    return definition


def _clash(one: Definition, other: Definition) -> bool:
    """Whether they are two functions. Once apps are ready, the same origin is a module read again."""
    same = one.origin == other.origin if apps.ready else one.function is other.function
    return not same


def get(name: str) -> Definition:
    """The function registered as `name`. Raises UnknownTask; never imports anything."""
    try:
        return _definitions[name]
    except KeyError:
        raise UnknownTask(
            f"No task {name!r} is registered; decorate the function with @task in an app's tasks.py."
        ) from None


def names(*, asynchronous: bool | None = None) -> list[str]:
    """All registered names and aliases, or those of sync or of async functions."""
    return [
        name
        for name, definition in _definitions.items()
        if asynchronous is None or definition.is_async is asynchronous
    ]


def queues() -> frozenset[str]:
    """The known queues: `default`, those that a `@task` names, and CQ_QUEUES."""
    return _queues(_edition, settings().queues)


@lru_cache(maxsize=1)  # each delay() asks
def _queues(edition: object, more: tuple[str, ...]) -> frozenset[str]:
    named = (definition.options.queue for definition in list(_definitions.values()))
    return frozenset({"default", *named, *more})


def discover() -> None:
    """Import every app's `tasks`, with submodules, and CQ_TASK_MODULES. ImportErrors are shown."""
    for config in apps.get_app_configs():
        wanted = f"{config.name}.tasks"
        # An app may be a single module, which has nothing below it.
        if hasattr(config.module, "__path__") and find_spec(wanted) is not None:
            _import_all(wanted)
    for wanted in settings().task_modules:
        _import_all(wanted)


def _import_all(name: str) -> None:
    module = importlib.import_module(name)
    for submodule in _submodules(module):
        importlib.import_module(submodule)


def _submodules(module: ModuleType) -> Iterable[str]:
    paths = getattr(module, "__path__", None)
    if paths is not None:
        for found in pkgutil.walk_packages(paths, f"{module.__name__}."):
            if not found.name.endswith(".__main__"):  # a program, not a module
                yield found.name
