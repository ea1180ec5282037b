"""Where log lines of running tasks are kept: a Redis list where the cache is a Redis, else a small table."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from django.core.cache import caches
from django.db import transaction

from cq import database
from cq.conf import settings

logger = logging.getLogger("cq.logs")

KEPT_IN_REDIS = timedelta(days=7)
READABLE = timedelta(minutes=10)
"""How long a list stays after its lines were stored elsewhere: somebody may be reading it."""


def read(root: UUID) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        client = redis()
        if client is not None:
            found = [json.loads(line) for line in client.lrange(_key(root), 0, -1)]
    except Exception as error:  # noqa: BLE001
        logger.debug("the log of %s can't be read from Redis: %s", root, error)
    return merged(found, [line.as_dict() for line in _lines(root)])


def merged(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that were found in two places, in their order; those that are in both, once."""
    known = Counter(map(_identity, some))
    lines = list(some)
    for line in others:
        if known[_identity(line)] > 0:
            known[_identity(line)] -= 1
        else:
            lines.append(line)
    lines.sort(key=lambda line: str(line["timestamp"]))
    return lines[-settings().log_limit :]


def _identity(line: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[name]) for name in ("timestamp", "origin", "level", "message"))


def to_redis(root: UUID, lines: list[dict[str, Any]], limit: int | None) -> bool:
    client = redis()
    if client is None:
        return False
    pipe = client.pipeline(transaction=False)
    pipe.rpush(_key(root), *(json.dumps(line) for line in lines))
    pipe.ltrim(_key(root), -bound(limit), -1)
    pipe.expire(_key(root), KEPT_IN_REDIS)
    pipe.execute()
    return True


def to_table(root: UUID, lines: Iterable[dict[str, Any]], limit: int | None) -> None:
    model = database.line_model()
    rows = [model.from_dict(root, line) for line in lines]
    if not rows:
        return
    model._base_manager.using(database.alias()).bulk_create(rows, batch_size=500)
    kept = _lines(root).order_by("-id").values_list("id", flat=True)
    oldest = kept[bound(limit) - 1 : bound(limit)].first()
    if oldest is not None:
        _lines(root).filter(id__lt=oldest).delete()


def move(old: UUID, new: UUID) -> None:
    """The lines of `old` are those of `new`, once this transaction has committed."""
    _lines(old).update(root_id=new)
    listed: list[Any] = []
    try:
        client = redis()
        if client is not None:
            listed = client.lrange(_key(old), 0, -1)
    except Exception as error:  # noqa: BLE001
        logger.debug("the log of %s can't be read from Redis: %s", old, error)
    if listed:
        to_table(new, [json.loads(line) for line in listed], None)
        # Not the whole list: more may have come.
        trim = partial(client.ltrim, _key(old), len(listed), -1)
        transaction.on_commit(trim, using=database.alias(), robust=True)


def forget(root: UUID) -> None:
    """The lines of `root` are elsewhere now."""
    _lines(root).delete()
    try:
        client = redis()
        if client is not None:
            client.expire(_key(root), READABLE)
    except Exception as error:  # noqa: BLE001
        logger.debug("the log of %s stays in Redis until it expires: %s", root, error)


def take_back(root: UUID, lines: list[dict[str, Any]]) -> None:
    """Lines that were stored elsewhere are kept here again, in this transaction.

    Redis may have them for another while: `read()` gives them once.
    """
    _lines(root).delete()  # what was left here when they were stored
    to_table(root, lines, None)


def redis_is_wanted() -> bool:
    """Whether there is a Redis to write to; it may be away."""
    try:
        return redis() is not None
    except Exception as error:  # noqa: BLE001
        logger.debug("no Redis: %s", error)
        return False


def bound(limit: int | None) -> int:
    """How many lines of a tree are kept."""
    return settings().log_limit if limit is None else max(1, min(limit, settings().log_limit))


def redis() -> Any:
    """The Redis behind the cache, by django-redis or by Django's own; None where it is another."""
    try:
        cache: Any = caches[settings().cache]
    except Exception as error:  # noqa: BLE001
        logger.debug("no cache %s: %s", settings().cache, error)
        return None
    client: Any = getattr(cache, "client", None)  # django-redis
    if hasattr(client, "get_client"):
        return client.get_client(write=True)
    inner: Any = getattr(cache, "_cache", None)  # Django's own
    if hasattr(inner, "_pool_class"):
        return inner.get_client(None, write=True)
    return None


def _key(root: UUID) -> str:
    return f"{settings().prefix}:log:{root}"


def _lines(root: UUID) -> Any:
    return database.line_model()._base_manager.using(database.alias()).filter(root_id=root)
