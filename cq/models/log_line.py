"""`LogLine`: what a running task logged, where no Redis holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.db import models

from cq.models.querysets import TasksDatabaseManager
from cq.models.task import Task


class LogLine(models.Model):
    """A line of a running task's log, where no Redis holds it; moved to the top task at its end."""

    root = models.ForeignKey(Task, models.CASCADE, related_name="+", db_constraint=False)
    origin = models.UUIDField()
    level = models.SmallIntegerField()
    message = models.TextField()
    timestamp = models.CharField(max_length=40)

    objects = TasksDatabaseManager()

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return self.message

    def as_dict(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "level": self.level,
            "timestamp": self.timestamp,
            "origin": str(self.origin),
        }

    @classmethod
    def from_dict(cls, root: UUID, line: Mapping[str, Any]) -> LogLine:
        return cls(root_id=root, **line)
