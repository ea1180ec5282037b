"""Tasks by how they ended, as entries of their own in the admin."""

from __future__ import annotations

from typing import Any

from cq.models.task import Task


class SuccessfulTask(Task[Any]):
    """A task that is SUCCESS."""

    class Meta:
        proxy = True
        verbose_name = "successful task"


class FailedTask(Task[Any]):
    """A task that is FAILURE, INCOMPLETE or LOST."""

    class Meta:
        proxy = True
        verbose_name = "failed task"
