"""Tasks by how they ended: the successful ones, and those that failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db.models import QuerySet
from django.db.models.functions import Substr
from django.utils.text import Truncator

from cq.admin.tasks import (
    FunctionFilter,
    PlaceFilter,
    QueueFilter,
    ScheduleFilter,
    StatusFilter,
    TaskAdmin,
)
from cq.models import FailedTask, SuccessfulTask, Task
from cq.states import ANSWERED, Status

if TYPE_CHECKING:
    from django.http import HttpRequest


ERROR_SHOWN = 100  # characters


class FailureFilter(StatusFilter):
    statuses = sorted(ANSWERED)


class OutcomeAdmin(TaskAdmin):
    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may view tasks may view these."""
        return super().has_view_permission(request, obj) or request.user.has_perm("cq.view_task")


@admin.register(SuccessfulTask)
class SuccessfulTaskAdmin(OutcomeAdmin):
    def get_list_filter(self, request: HttpRequest) -> Any:
        return (ScheduleFilter, QueueFilter, FunctionFilter, PlaceFilter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task[Any]]:
        return super().get_queryset(request).filter(status=Status.SUCCESS)


@admin.register(FailedTask)
class FailedTaskAdmin(OutcomeAdmin):
    list_display = ("name", "shown_status", "of_schedule", "submitted_at", "brief_error")

    @admin.display(description="error")
    def brief_error(self, row: Any) -> str:
        return Truncator(row.brief_error).chars(ERROR_SHOWN)

    def get_list_filter(self, request: HttpRequest) -> Any:
        return (FailureFilter, ScheduleFilter, QueueFilter, FunctionFilter, PlaceFilter)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task[Any]]:
        failed = super().get_queryset(request).filter(status__in=ANSWERED)
        # Not all of it, which may be long.
        return failed.annotate(brief_error=Substr("error", 1, ERROR_SHOWN + 1))
