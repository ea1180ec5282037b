"""How tasks are looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

from cq.conf import settings
from cq.states import ACTIVE, DONE, ERROR, Status

if TYPE_CHECKING:
    from cq.models.task import Task  # noqa: F401  (named in a string below)


class TaskQuerySet(models.QuerySet["Task[Any]"]):
    """`active()`, `done()`, `errors()`, and one for each status."""

    def active(self) -> TaskQuerySet:
        return self.filter(status__in=ACTIVE)

    def done(self) -> TaskQuerySet:
        return self.filter(status__in=DONE)

    def errors(self) -> TaskQuerySet:
        return self.filter(status__in=ERROR)

    def pending(self) -> TaskQuerySet:
        return self.filter(status=Status.PENDING)

    def scheduled(self) -> TaskQuerySet:
        return self.filter(status=Status.SCHEDULED)

    def queued(self) -> TaskQuerySet:
        return self.filter(status=Status.QUEUED)

    def running(self) -> TaskQuerySet:
        return self.filter(status=Status.RUNNING)

    def waiting(self) -> TaskQuerySet:
        return self.filter(status=Status.WAITING)

    def retrying(self) -> TaskQuerySet:
        return self.filter(status=Status.RETRY)

    def succeeded(self) -> TaskQuerySet:
        return self.filter(status=Status.SUCCESS)

    def failed(self) -> TaskQuerySet:
        return self.filter(status=Status.FAILURE)

    def incomplete(self) -> TaskQuerySet:
        return self.filter(status=Status.INCOMPLETE)

    def lost(self) -> TaskQuerySet:
        return self.filter(status=Status.LOST)

    def revoked(self) -> TaskQuerySet:
        return self.filter(status=Status.REVOKED)

    def skipped(self) -> TaskQuerySet:
        return self.filter(status=Status.SKIPPED)


class TasksDatabaseManager(models.Manager[Any]):
    """Looks where CQ_DATABASE says."""

    def get_queryset(self) -> models.QuerySet[Any]:
        queryset = super().get_queryset()
        alias = self._db or settings().database
        return queryset.using(alias) if alias else queryset


class TaskManager(TasksDatabaseManager.from_queryset(TaskQuerySet)):  # type: ignore[misc]  # made at run time
    """`Task.objects`."""
