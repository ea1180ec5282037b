"""Which databases the statements for many rows speak to, and how those write what they are given."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cq import database


def batches() -> bool:
    """Whether this database understands `claim()` and `finish_many()`: PostgreSQL and SQLite."""
    link: Any = database.connection()
    if link.vendor == "sqlite":
        return bool(link.Database.sqlite_version_info >= (3, 35))
    return bool(link.vendor == "postgresql")


def id_text(value: UUID) -> str:
    """As the database's own text."""
    return value.hex if database.connection().vendor == "sqlite" else str(value)


def quoted(text: str) -> str:
    """As an element of an array in PostgreSQL's own text."""
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'
