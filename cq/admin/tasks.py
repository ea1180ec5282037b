"""Tasks and workers to look at in Django's admin. Nothing can be changed here, whatever one's permissions.

What a task was given, wrote or raised is escaped by Django (`format_html`), and cut to a length that
a page can show; a tree of a million tasks costs a page no more queries than a small one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import Count, Exists, OuterRef, QuerySet, Subquery
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator

from cq import maintenance, registry, repeating
from cq.admin import showing
from cq.models import Task, Worker
from cq.states import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.http import HttpRequest

    TaskAdminBase = admin.ModelAdmin[Task[Any]]
    WorkerAdminBase = admin.ModelAdmin[Worker]
else:
    TaskAdminBase = WorkerAdminBase = admin.ModelAdmin

SUBTASKS_SHOWN = 25
LINES_SHOWN = 500

# What the list does not show, and should not load.
_HEAVY = (
    *("args", "kwargs", "result", "error", "traceback", "attempts", "log_lines", "options"),
    *("members", "errorbacks"),
)


class ReadOnly:
    """Nothing is added, changed or deleted; who has the permission to view may look."""

    show_full_result_count = False  # that would be a second COUNT over the whole table

    class Media:
        css = {"all": ["cq/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class StatusFilter(admin.SimpleListFilter):
    """Spelled as the list spells them."""

    title = "status"
    parameter_name = "status__exact"
    statuses: Iterable[str] = tuple(Status)

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(status), str(status)) for status in self.statuses]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() else queryset


class ScheduleFilter(admin.SimpleListFilter):
    """Names the schedule that a link has picked. There may be too many to offer them all."""

    title = "schedule"
    parameter_name = "repeating_task"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        picked = request.GET.get(self.parameter_name)
        if not picked:
            return []
        if not picked.isdecimal() or len(picked) > 18:  # more than a database holds
            raise IncorrectLookupParameters(f"No schedule is {picked!r}.")
        names = repeating.rows().filter(pk=picked).values_list("name", flat=True)
        return [(picked, names.first() or "One that is gone")]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(repeating_task=self.value()) if self.value() else queryset


class KnownFilter(admin.SimpleListFilter):
    """Values that the project knows, so that none have to be looked up in the table."""

    field = ""

    def known(self) -> Iterable[str]:
        raise NotImplementedError

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, value) for value in sorted(self.known())]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


class QueueFilter(KnownFilter):
    title = "queue"
    parameter_name = field = "queue"

    def known(self) -> Iterable[str]:
        return registry.queues()


class FunctionFilter(KnownFilter):
    title = "function"
    parameter_name = field = "func_name"

    def known(self) -> Iterable[str]:
        return registry.names()


class PlaceFilter(admin.SimpleListFilter):
    """Whether subtasks are listed too."""

    title = "place"
    parameter_name = "place"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [("top", "Top tasks"), ("sub", "Subtasks")]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        return queryset.filter(parent__isnull=self.value() == "top")


class TaskList(ChangeList):
    """The list, without the columns that may be large, and with the names of schedules."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        found = super().get_queryset(request, *args, **kwargs).defer(*_HEAVY)
        # Not by a join, which the COUNT of the whole table would make, too.
        names = repeating.rows().filter(pk=OuterRef("repeating_task")).values("name")
        named: QuerySet[Any] = found.annotate(schedule=Subquery(names[:1]))
        return named


@admin.register(Task)
class TaskAdmin(ReadOnly, TaskAdminBase):
    list_display: tuple[str, ...] = (
        "name",
        "shown_status",
        "of_schedule",
        "queue",
        "submitted_at",
        "duration",
    )
    list_display_links = ("name",)
    list_filter = (StatusFilter, ScheduleFilter, QueueFilter, FunctionFilter, PlaceFilter)
    list_per_page = 50
    search_fields = ("func_name", "label")
    search_help_text = "A task's id, or part of a label or of a function's name"
    ordering = ("-id",)

    fieldsets = (
        (
            None,
            {
                "fields": (
                    "id",
                    "func_name",
                    "label",
                    "shown_status",
                    "shown_progress",
                    "shown_error",
                    "shown_arguments_",
                    "shown_result",
                    "shown_meta",
                )
            },
        ),
        (
            "Where and when",
            {
                "fields": (
                    "queue",
                    "priority",
                    "submitted_at",
                    "run_after_at",
                    "expires_at_",
                    "started_at",
                    "finished_at",
                    "duration",
                    "pruned_at",
                )
            },
        ),
        (
            "Around it",
            {
                "fields": (
                    "shown_schedule",
                    "shown_parent",
                    "shown_previous",
                    "shown_successors",
                    "shown_returned",
                    "shown_subtasks",
                )
            },
        ),
        (
            "Runs",
            {"fields": ("shown_options", "shown_attempts", "shown_traceback", "worker_id")},
        ),
        ("Log", {"fields": ("shown_log",)}),
    )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return TaskList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Task[Any]], search_term: str
    ) -> tuple[QuerySet[Task[Any]], bool]:
        try:
            return queryset.filter(id=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="task", ordering="func_name")
    def name(self, task: Task[Any]) -> str:
        return f"{task.label} ({task.func_name})" if task.label else task.func_name

    @admin.display(description="status", ordering="status")
    def shown_status(self, task: Task[Any]) -> str:
        return showing.status(task.status)

    @admin.display(description="schedule")
    def of_schedule(self, task: Task[Any]) -> str:
        """Its name says which it is of many tasks of one function."""
        name = getattr(task, "schedule", None)
        if name is None:
            return showing.EMPTY
        url = reverse("admin:cq_repeatingtask_change", args=[task.repeating_task_id])
        return format_html('<a href="{}" title="{}">{}</a>', url, name, Truncator(name).chars(60))

    # By id, as that has an index: in the order in which they were made.
    @admin.display(description="submitted", ordering="id")
    def submitted_at(self, task: Task[Any]) -> str:
        return showing.in_lines(showing.moment(task.submitted))

    @admin.display(description="started", ordering="started")
    def started_at(self, task: Task[Any]) -> str:
        return showing.moment(task.started)

    @admin.display(description="finished", ordering="finished")
    def finished_at(self, task: Task[Any]) -> str:
        return showing.moment(task.finished)

    @admin.display(description="not before")
    def run_after_at(self, task: Task[Any]) -> str:
        return showing.moment(task.run_after)

    @admin.display(description="expires")
    def expires_at_(self, task: Task[Any]) -> str:
        return showing.moment(task.expires_at)

    @admin.display(description="kept until")
    def pruned_at(self, task: Task[Any]) -> str:
        return showing.moment(task.prune_at)

    @admin.display(description="took")
    def duration(self, task: Task[Any]) -> str:
        if task.started is None or task.finished is None:
            return showing.EMPTY
        return f"{(task.finished - task.started).total_seconds():,.3f} s"

    @admin.display(description="progress")
    def shown_progress(self, task: Task[Any]) -> str:
        done, total, message = task.progress
        if not (done or total):
            return message or showing.EMPTY
        return f"{done:g}{'' if total is None else f' of {total:g}'} {message}".strip()

    @admin.display(description="arguments")
    def shown_arguments_(self, task: Task[Any]) -> str:
        args, kwargs = task.shown_arguments
        given = [showing.as_json(value) for value in args]
        given += [f"{name}={showing.as_json(value)}" for name, value in kwargs.items()]
        return showing.text(",\n".join(given))

    @admin.display(description="result")
    def shown_result(self, task: Task[Any]) -> str:
        has_result = task.status in (Status.SUCCESS, Status.INCOMPLETE)
        return showing.text(showing.as_json(task.result)) if has_result else showing.EMPTY

    @admin.display(description="meta")
    def shown_meta(self, task: Task[Any]) -> str:
        return showing.text(showing.as_json(task.meta)) if task.meta else showing.EMPTY

    @admin.display(description="error")
    def shown_error(self, task: Task[Any]) -> str:
        return showing.text(task.error)

    @admin.display(description="traceback")
    def shown_traceback(self, task: Task[Any]) -> str:
        return showing.text(task.traceback)

    @admin.display(description="options")
    def shown_options(self, task: Task[Any]) -> str:
        names = ("atomic", "rerun_lost", "fail_fast", "force_chain", "retries")
        return ", ".join(f"{name}={getattr(task, name)}" for name in names)

    @admin.display(description="attempts")
    def shown_attempts(self, task: Task[Any]) -> str:
        if not task.attempts:
            return showing.EMPTY
        rows = (
            (
                entry.get("number", ""),
                showing.status(str(entry.get("outcome", ""))),
                showing.moment_of(entry.get("started")),
                showing.moment_of(entry.get("finished")),
                str(entry.get("error", ""))[: showing.LONGEST],
            )
            for entry in task.attempts[-LINES_SHOWN:]
        )
        return format_html(
            '<table class="cq-table"><tr><th>#</th><th>outcome</th><th>started</th>'
            "<th>finished</th><th>error</th></tr>{}</table>",
            format_html_join(
                "",
                '<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class="cq-wide">{}</td></tr>',
                rows,
            ),
        )

    @admin.display(description="log")
    def shown_log(self, task: Task[Any]) -> str:
        lines = task.logs
        if not lines:
            return showing.EMPTY
        rows = (
            (
                showing.moment_of(line["timestamp"]),
                logging.getLevelName(line["level"]),
                line["message"],
                showing.EMPTY
                if line["origin"] == str(task.id)
                else showing.link(line["origin"], "subtask"),
            )
            for line in lines[-LINES_SHOWN:]
        )
        return format_html(
            '<table class="cq-table">{}</table>',
            format_html_join(
                "",
                '<tr><td>{}</td><td>{}</td><td class="cq-wide">{}</td><td>{}</td></tr>',
                rows,
            ),
        )

    @admin.display(description="run of")
    def shown_schedule(self, task: Task[Any]) -> str:
        row = task.repeating_task
        if row is None:
            return showing.EMPTY
        url = reverse("admin:cq_repeatingtask_change", args=[row.pk])
        return format_html('<a href="{}">{}</a>, {}', url, row.name, showing.moment(task.slot))

    @admin.display(description="subtask of")
    def shown_parent(self, task: Task[Any]) -> str:
        return showing.links(showing.rows(id=task.parent_id)) if task.parent_id else showing.EMPTY

    @admin.display(description="after")
    def shown_previous(self, task: Task[Any]) -> str:
        return (
            showing.links(showing.rows(id=task.previous_id)) if task.previous_id else showing.EMPTY
        )

    @admin.display(description="followed by")
    def shown_successors(self, task: Task[Any]) -> str:
        return showing.links(showing.rows(previous_id=task.id)[:SUBTASKS_SHOWN])

    @admin.display(description="returned, and waits for")
    def shown_returned(self, task: Task[Any]) -> str:
        return (
            showing.links(showing.rows(id=task.returned_id)) if task.returned_id else showing.EMPTY
        )

    @admin.display(description="subtasks")
    def shown_subtasks(self, task: Task[Any]) -> str:
        """How many have which status, and the first few: by status, as the index has them."""
        below = showing.rows(parent_id=task.id)
        counts = below.order_by("status").values_list("status").annotate(Count("id"))
        numbers = [
            (
                f"{showing.list_url()}?parent={task.id}&status__exact={status}",
                number,
                showing.status(status),
            )
            for status, number in counts
        ]
        if not numbers:
            return showing.EMPTY
        return format_html(
            "<div>{}</div>{}",
            format_html_join(", ", '<a href="{}">{} {}</a>', numbers),
            showing.links(below.order_by("status")[:SUBTASKS_SHOWN]),
        )


@admin.register(Worker)
class WorkerAdmin(ReadOnly, WorkerAdminBase):
    list_display = ("__str__", "is_alive", "shown_queues", "started_at", "seen_at")
    ordering = ("-started",)
    fields = (
        "id",
        "host",
        "pid",
        "is_alive",
        "shown_queues",
        "started_at",
        "seen_at",
        "running",
        "shown_functions",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        alive = maintenance.alive().filter(id=OuterRef("id"))
        return super().get_queryset(request).annotate(lease_holds=Exists(alive))

    @admin.display(description="alive", boolean=True)
    def is_alive(self, worker: Worker) -> bool:
        return bool(getattr(worker, "lease_holds", False))

    @admin.display(description="queues")
    def shown_queues(self, worker: Worker) -> str:
        return ", ".join(worker.queues)

    @admin.display(description="started", ordering="started")
    def started_at(self, worker: Worker) -> str:
        return showing.moment(worker.started)

    @admin.display(description="last seen", ordering="seen")
    def seen_at(self, worker: Worker) -> str:
        return showing.moment(worker.seen)

    @admin.display(description="runs")
    def running(self, worker: Worker) -> str:
        held = showing.rows(status=Status.RUNNING, worker_id=worker.id)
        return showing.links(held[:SUBTASKS_SHOWN])

    @admin.display(description="knows")
    def shown_functions(self, worker: Worker) -> str:
        return showing.text("\n".join(worker.functions))
