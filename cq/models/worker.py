"""`Worker`: a process that runs tasks, and its lease."""

from __future__ import annotations

import uuid_utils.compat as uuid
from django.db import models
from django.db.models.functions import Now

from cq.models.querysets import TasksDatabaseManager


class Worker(models.Model):
    """One process that runs tasks; as long as `seen` is young, its tasks are its own."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    host = models.CharField(max_length=200)
    pid = models.IntegerField()
    queues = models.JSONField(default=list)
    functions = models.JSONField(default=list, help_text="Names of the task functions it knows.")
    started = models.DateTimeField(db_default=Now())
    seen = models.DateTimeField(db_default=Now(), db_index=True)

    objects = TasksDatabaseManager()

    class Meta:
        ordering = ("started",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
