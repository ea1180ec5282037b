"""System checks: what a project's settings get wrong, said at start-up with the way to mend it.

docs/reference/checks.md lists them by id; an id keeps its meaning for ever.
"""

from __future__ import annotations

import difflib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from channels.layers import InMemoryChannelLayer
from django.apps import apps
from django.conf import (
    settings as django_settings,  # noqa: TID251  (checks look at what the project wrote)
)
from django.core import checks
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils.module_loading import import_string

from cq import conf, database, declared, repeating
from cq.exceptions import CQError

Found = Iterator[checks.CheckMessage]

TAG = "cq"
MINUTE = 60

LONG_LAYER = """\
Give the bell a layer of its own:
CHANNEL_LAYERS = {
    …,
    "long": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [{"address": REDIS_URL, "socket_timeout": None}],
            "expiry": 1800,
            "channel_capacity": {"cq-tasks*": 1000},
        },
    },
}
CQ_CHANNEL_LAYER = "long\""""

ROUTING = """\
Remove "ROUTING" from CHANNEL_LAYERS. Only Channels' own `manage.py runworker cq-tasks` needs a
routing, and today it stands in the project's asgi.py, after get_asgi_application():
application = ProtocolTypeRouter({
    "http": http,
    "channel": ChannelNameRouter({**cq.routing.channel_routing}),
})"""


def register() -> None:
    """Have Django make these checks. Called when all apps are loaded."""
    checks.register(check_settings, TAG)
    checks.register(_careful(check_time_zone), TAG)
    checks.register(_careful(check_layers), TAG)
    checks.register(_careful(check_cache), TAG, checks.Tags.caches)
    checks.register(_careful(check_databases), TAG, checks.Tags.models)
    checks.register(_careful(check_declared), TAG)
    # Without our own tag: `check --tag cq` needs no database.
    checks.register(check_original, checks.Tags.database)


def _careful(function: Callable[[], Found]) -> Callable[..., list[checks.CheckMessage]]:
    """With a wrong value among the settings only cq.E002 has something to say."""

    def check(**kwargs: Any) -> list[checks.CheckMessage]:
        try:
            conf.settings()
        except ImproperlyConfigured:
            return []
        return list(function())

    return check


def check_settings(**kwargs: Any) -> list[checks.CheckMessage]:
    """Unknown names, and wrong values."""
    known = [conf.PREFIX + name.upper() for name in conf.Settings.__dataclass_fields__]
    found: list[checks.CheckMessage] = []
    for name in conf.unknown():
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known))}."
        found.append(
            checks.Error(f"{name} is not a setting of django-cq.", hint=hint, id="cq.E001")
        )
    try:
        conf.settings()
    except ImproperlyConfigured as error:
        found.append(checks.Error(str(error), id="cq.E002"))
    return found


def check_time_zone() -> Found:
    """Every time of a task is aware."""
    if not django_settings.USE_TZ:
        yield checks.Error(
            "USE_TZ is False, but django-cq counts in aware times: run_after and expires take no others.",
            hint="Write USE_TZ = True.",
            id="cq.E012",
        )


def check_layers() -> Found:
    """CHANNEL_LAYERS as the original's README had it, a bell's layer that is not there or forgets soon."""
    layers = _mapping("CHANNEL_LAYERS")
    for alias, layer in layers.items():
        if str(layer.get("BACKEND", "")).partition(".")[0] == "asgi_redis":
            yield checks.Error(
                f"CHANNEL_LAYERS[{alias!r}] is an asgi_redis layer, which today's Channels can't use.",
                hint='Write "BACKEND": "channels_redis.core.RedisChannelLayer", '
                "which comes with django-cq.",
                id="cq.E003",
            )
        if "ROUTING" in layer:
            yield checks.Error(
                f"CHANNEL_LAYERS[{alias!r}] has a ROUTING, which today's Channels does not read.",
                hint=ROUTING,
                id="cq.E004",
            )
    alias = conf.settings().channel_layer
    if alias in layers:
        yield from _check_expiry(alias, layers[alias])
    elif _is_given("CQ_CHANNEL_LAYER"):
        yield checks.Error(
            f"CQ_CHANNEL_LAYER is {alias!r}, and CHANNEL_LAYERS has no such layer.",
            hint=f"{LONG_LAYER}\nOr remove CQ_CHANNEL_LAYER: without a layer, "
            "PostgreSQL's NOTIFY tells workers to look, and elsewhere they poll.",
            id="cq.E005",
        )


def _check_expiry(alias: str, layer: Mapping[str, Any]) -> Found:
    try:
        backend = import_string(layer["BACKEND"])
        default = inspect.signature(backend).parameters["expiry"].default
    except (KeyError, ImportError, TypeError, ValueError):
        return  # no such backend, which Channels reports, or one whose messages do not expire
    if inspect.isclass(backend) and issubclass(backend, InMemoryChannelLayer):
        return  # other processes hear nothing of it, soon or late
    expiry = layer.get("CONFIG", {}).get("expiry", default)
    if isinstance(expiry, (int, float)) and expiry <= MINUTE:
        yield checks.Warning(
            f"The bell goes over CHANNEL_LAYERS[{alias!r}], whose messages expire after {expiry:g} s: "
            "one that all workers are too busy to hear is lost, and its task waits for their poll.",
            hint=LONG_LAYER,
            id="cq.W006",
        )


def check_cache() -> Found:
    """A cache that is not there, or that other processes can't see."""
    alias = conf.settings().cache
    try:
        cache = caches[alias]
    except InvalidCacheBackendError as error:
        if alias not in _mapping("CACHES"):
            yield checks.Error(
                f"CQ_CACHE is {alias!r}, and CACHES has no such cache.",
                hint=f"Name one of {', '.join(map(repr, _mapping('CACHES')))}, or remove CQ_CACHE.",
                id="cq.E007",
            )
        else:
            yield checks.Error(f"CACHES[{alias!r}] can't be used: {error}", id="cq.E007")
        return
    # Django's own CACHES, which the project never touched, is a LocMemCache: nothing to say of it.
    chosen = _is_given("CQ_CACHE") or _is_overridden("CACHES")
    if chosen and isinstance(cache, (LocMemCache, DummyCache)):
        yield checks.Warning(
            f"CACHES[{alias!r}] is a {type(cache).__name__}, which other processes can't see: the logs "
            "of running tasks are kept in a database table, written at most twice a second.",
            hint="For logs that are live at any rate, name a Redis:\n"
            'CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL}}',
            id="cq.W008",
        )


def check_databases() -> Found:
    """Tasks on a database that is not there, or elsewhere than what they write."""
    chosen = conf.settings().database
    if chosen is not None and chosen not in connections:
        yield checks.Error(
            f"CQ_DATABASE is {chosen!r}, and DATABASES has no such database.",
            hint=f"Name one of {', '.join(map(repr, connections))}, or remove CQ_DATABASE.",
            id="cq.E009",
        )
        return
    home = database.alias()
    elsewhere: dict[str, set[str]] = defaultdict(set)
    for model in apps.get_models():
        if model._meta.app_label != "cq" and model._meta.managed and not model._meta.proxy:
            alias = router.db_for_write(model)
            if alias != home:
                elsewhere[alias].add(model._meta.app_label)
    for alias, labels in sorted(elsewhere.items()):
        yield checks.Warning(
            f"Tasks live on the database {home!r}, but {', '.join(sorted(labels))} on {alias!r}: what "
            "an atomic task writes there is not committed together with its end.",
            hint="Keep tasks where what they write is (CQ_DATABASE, or a database router), or write "
            "there so that doing it twice does no harm.",
            id="cq.W011",
        )


def check_declared() -> Found:
    """Schedules that code declares, and that could not fire."""
    for declaration in declared.declarations():
        try:
            found = repeating.problems(declaration.row())
        except CQError as error:
            found = {"": str(error)}
        for name, message in found.items():
            yield checks.Error(
                f"The repeating task {declaration.name!r} can't be: {message}",
                hint=f"Mend {name or 'it'} where code declares it: @task(repeat=…) or cq.repeat(…) of "
                f"{'.'.join(declaration.definition.origin)}.",
                id="cq.E013",
            )


def check_original(
    databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """The tables of the original package, under the names of ours. Stops `migrate`."""
    found: list[checks.CheckMessage] = []
    for alias in databases or ():
        if not router.allow_migrate_model(alias, database.task_model()):
            continue
        link = connections[alias]
        with link.cursor() as cursor:
            if "cq_task" not in link.introspection.table_names(cursor):
                continue
            columns = {c.name for c in link.introspection.get_table_description(cursor, "cq_task")}
        if "signature" in columns:
            found.append(
                checks.Error(
                    f"The database {alias!r} holds the tables of the original django-cq, before 1.0, "
                    "whose tasks this one can't take over.",
                    hint="Let its workers finish, and export what you want to keep "
                    "(COPY, `pg_dump -t cq_task`). Then put the old tables aside, and forget their "
                    f"migrations:\n{way_out(link.vendor)}\n"
                    "To drop the old tables, in place of the lines above that keep them:\n"
                    "DROP TABLE cq_task; DROP TABLE cq_repeatingtask;\n"
                    "docs/howto/upgrade-from-original.md has the details.",
                    id="cq.E010",
                )
            )
    return found


def way_out(vendor: str) -> str:
    """SQL that makes room for our tables, and keeps the old ones."""
    if vendor == "postgresql":  # a schema of their own, as names of indexes are unique in one
        aside = [
            "CREATE SCHEMA cq_original;",
            "ALTER TABLE cq_task SET SCHEMA cq_original;",
            "ALTER TABLE cq_repeatingtask SET SCHEMA cq_original;",
        ]
    else:
        aside = [
            "ALTER TABLE cq_task RENAME TO original_cq_task;",
            "ALTER TABLE cq_repeatingtask RENAME TO original_cq_repeatingtask;",
        ]
    return "\n".join([*aside, "DELETE FROM django_migrations WHERE app = 'cq';"])


def _mapping(name: str) -> dict[str, dict[str, Any]]:
    """CHANNEL_LAYERS or CACHES; what is no dict of dicts is another's to complain about."""
    value = getattr(django_settings, name, None)
    if not isinstance(value, Mapping):
        return {}
    return {alias: dict(entry) for alias, entry in value.items() if isinstance(entry, Mapping)}


def _is_given(name: str) -> bool:
    return hasattr(django_settings, name)


def _is_overridden(name: str) -> bool:
    lazy: Any = django_settings  # its stubs do not know the method
    return bool(lazy.is_overridden(name))
