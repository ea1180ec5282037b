"""Repeating tasks in the admin: made, changed, watched, and run now."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from cq import declared, registry, repeating
from cq.admin import showing
from cq.admin.forms import RepeatingTaskForm
from cq.exceptions import InvalidSchedule
from cq.models import RepeatingTask, Task
from cq.words import in_words

if TYPE_CHECKING:
    Base = admin.ModelAdmin[RepeatingTask]
else:
    Base = admin.ModelAdmin

RUNS_SHOWN = 5


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [("broken", "Broken"), ("declared", "Declared in code")]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "broken":
            return queryset.filter(~Q(func_name__in=registry.names()) | ~Q(error=""))
        if self.value() == "declared":
            return queryset.filter(declared__isnull=False)
        return queryset


@admin.register(RepeatingTask)
class RepeatingTaskAdmin(Base):
    form = RepeatingTaskForm
    change_form_template = "cq/admin/repeating_task.html"
    list_display = (
        *("name", "shown_function", "words", "shown_next", "shown_last", "counts", "enabled"),
    )
    list_filter = ("enabled", StateFilter)
    search_fields = ("name", "func_name")
    actions = ("run_now", "enable", "disable")
    readonly_fields = (
        *("preview", "shown_last", "shown_skip", "counts", "shown_error", "shown_declared"),
        *("shown_tasks", "shown_args", "shown_kwargs"),
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *("name", "func_name", "args", "kwargs"),
                    *("queue", "priority", "result_ttl"),
                )
            },
        ),
        (
            "When",
            {
                "fields": (
                    *("enabled", "kind", "crontab", "every", "timezone", "start", "end", "repeats"),
                    *("preview", "next_run"),
                )
            },
        ),
        (
            "What holds it back",
            {"fields": ("coalesce", "coalesce_by", "catch_up", "catch_up_limit")},
        ),
    )
    history = (
        "How it goes",
        {
            "fields": (
                *("shown_last", "shown_skip", "counts", "shown_error"),
                *("shown_declared", "shown_tasks"),
            )
        },
    )

    class Media:
        css = {"all": ["cq/admin.css"]}
        js = ["cq/repeating.js"]

    def get_fieldsets(self, request: HttpRequest, obj: RepeatingTask | None = None) -> Any:
        fieldsets: Any = [*self.fieldsets, self.history] if obj else self.fieldsets
        if self.has_change_permission(request, obj) or obj is None:
            return fieldsets
        # Who may only look sees the columns themselves, but for these, which may be sensitive.
        hidden = {"args": "shown_args", "kwargs": "shown_kwargs"}
        return [
            (title, {"fields": [hidden.get(name, name) for name in some["fields"]]})
            for title, some in fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: RepeatingTask | None = None) -> Any:
        """By its name code finds again what it declares."""
        declares = obj is not None and obj.declared is not None
        return (*self.readonly_fields, "name") if declares else self.readonly_fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[RepeatingTask]:
        last = Task.objects.filter(repeating_task=OuterRef("pk"), slot=OuterRef("last_run"))
        last = last.order_by()
        return (
            super()
            .get_queryset(request)
            .annotate(
                last_task=Subquery(last.values("id")[:1]),
                last_status=Subquery(last.values("status")[:1]),
            )
        )

    # What the list and the form show.

    @admin.display(description="function", ordering="func_name")
    def shown_function(self, row: RepeatingTask) -> str:
        problem = repeating.problem(row)
        if not problem:
            return row.func_name
        return format_html(
            '{}<div class="cq-broken" title="{}">broken: {}</div>',
            row.func_name,
            problem[: showing.LONGEST],
            "no code defines it" if not row.is_known else f"{problem[:100]}",
        )

    @admin.display(description="when")
    def words(self, row: RepeatingTask) -> str:
        by_hand = repeating.changed_by_hand(row)
        if not by_hand:
            return in_words(row)
        mark = '{} <span class="cq-mark" title="{}">changed here</span>'
        return format_html(mark, in_words(row), ", ".join(sorted(by_hand)))

    @admin.display(description="next run", ordering="next_run")
    def shown_next(self, row: RepeatingTask) -> str:
        return _local(row, row.next_run) if row.next_run else showing.EMPTY

    @admin.display(description="last run", ordering="last_run")
    def shown_last(self, row: RepeatingTask) -> str:
        if row.last_run is None:
            return showing.EMPTY
        task_id, status = getattr(row, "last_task", None), getattr(row, "last_status", None)
        if task_id is None or status is None:  # pruned
            return _local(row, row.last_run)
        link = showing.outcome_link(task_id, status, _local(row, row.last_run))
        return format_html("{} {}", link, showing.status(status))

    @admin.display(description="last skipped")
    def shown_skip(self, row: RepeatingTask) -> str:
        return _local(row, row.last_skip) if row.last_skip else showing.EMPTY

    @admin.display(description="runs", ordering="run_count")
    def counts(self, row: RepeatingTask) -> str:
        others = ((row.skip_count, "skipped"), (row.miss_count, "missed"))
        said = [f"{number:,} {what}" for number, what in others if number]
        return ", ".join([f"{row.run_count:,}", *said])

    @admin.display(description="error")
    def shown_error(self, row: RepeatingTask) -> str:
        problem = repeating.problem(row)
        return (
            format_html('<span class="cq-broken">{}</span>', problem) if problem else showing.EMPTY
        )

    @admin.display(description="code")
    def shown_declared(self, row: RepeatingTask) -> str:
        if row.declared is None:
            return showing.EMPTY
        if not declared.is_declared(row.name):
            return "Code declared it, and does not any more."
        by_hand = sorted(repeating.changed_by_hand(row).items())
        if not by_hand:
            return "Declared in code, as it stands here."
        lines = ((name, showing.as_json(value)) for name, value in by_hand)
        return format_html(
            "Declared in code, and changed here. Code says: {}",
            format_html_join("; ", "{} = {}", lines),
        )

    @admin.display(description="tasks")
    def shown_tasks(self, row: RepeatingTask) -> str:
        url = f"{showing.list_url()}?repeating_task={row.pk}"
        return format_html('<a href="{}">All tasks that it made</a>', url)

    @admin.display(description="arguments")
    def shown_args(self, row: RepeatingTask) -> str:
        return showing.text(showing.as_json(repeating.shown_arguments(row)[0]))

    @admin.display(description="keyword arguments")
    def shown_kwargs(self, row: RepeatingTask) -> str:
        return showing.text(showing.as_json(repeating.shown_arguments(row)[1]))

    # What it comes to, while the form is filled in.

    @admin.display(description="Comes to")
    def preview(self, row: RepeatingTask) -> str:
        url = reverse("admin:cq_repeatingtask_preview", args=[row.pk or 0])
        return format_html('<div id="cq-preview" data-url="{}">{}</div>', url, _preview(row))

    def get_urls(self) -> list[Any]:
        def named(route: str, view: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(view), name=f"cq_repeatingtask_{name}")

        return [
            named("<int:row_id>/preview/", require_POST(self.preview_view), "preview"),
            named("<int:row_id>/run/", require_POST(self.run_view), "run"),
            *super().get_urls(),
        ]

    def preview_view(self, request: HttpRequest, row_id: int) -> HttpResponse:
        """What the form as it stands comes to, and what is wrong with it, by field."""
        row = get_object_or_404(self.get_queryset(request), pk=row_id) if row_id else None
        may = self.has_change_permission(request, row) if row else self.has_add_permission(request)
        if not may:
            raise PermissionDenied
        form = self.get_form(request, row, change=row is not None)(request.POST, instance=row)
        form.is_valid()
        return JsonResponse({"html": _preview(form.instance), "errors": form.errors})

    # Doing.

    @admin.action(description="Run now", permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[RepeatingTask]) -> None:
        for row in queryset:
            self._run(request, row)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[RepeatingTask]) -> None:
        self._enable(request, queryset, on=True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[RepeatingTask]) -> None:
        self._enable(request, queryset, on=False)

    def run_view(self, request: HttpRequest, row_id: int) -> HttpResponse:
        row = get_object_or_404(RepeatingTask.objects.all(), pk=row_id)
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        self._run(request, row)
        return redirect("admin:cq_repeatingtask_change", row_id)

    def _run(self, request: HttpRequest, row: RepeatingTask) -> None:
        try:
            task = row.run_now()
        except InvalidSchedule as error:
            self.message_user(request, f"{row}: {error}", messages.ERROR)
        else:
            link = showing.link(task.id, row.name)
            self.message_user(request, format_html("A task was made: {}", link))

    def _enable(self, request: HttpRequest, queryset: QuerySet[RepeatingTask], *, on: bool) -> None:
        changed = 0
        for row in queryset:
            try:
                changed += repeating.enable([row], on=on)
            except InvalidSchedule as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)
        said = "enabled" if on else "disabled"
        self.message_user(request, f"{changed} repeating task(s) {said}.")


def _preview(row: RepeatingTask) -> SafeString:
    """The schedule in words, and its next runs; what is wrong with it where there are none."""
    enabled, row = row.enabled, copy.copy(row)  # the page shows the row as it is
    row.enabled = True
    runs: list[tuple[str, str]] = []
    problem = ""
    try:
        repeating.prepare(row, None, is_new=row._state.adding)
        zone = repeating.zone_of(row)
        runs = [(_at(run.astimezone(zone)), _at(run)) for run in row.upcoming(RUNS_SHOWN)]
    except InvalidSchedule as error:
        problem = str(error)
    shown = {"words": in_words(row), "runs": runs, "problem": problem, "enabled": enabled}
    return render_to_string("cq/admin/preview.html", shown)


def _local(row: RepeatingTask, moment: datetime) -> str:
    try:
        return _short(moment.astimezone(repeating.zone_of(row)))
    except InvalidSchedule:
        return _short(moment.astimezone(UTC))


def _at(moment: datetime) -> str:
    return f"{moment:%a} {_short(moment)}"


def _short(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
