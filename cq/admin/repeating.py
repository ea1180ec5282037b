"""Repeating tasks in the admin: made, changed, watched, and run now."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import DateTimeField, ExpressionWrapper, OuterRef, QuerySet, Subquery
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.views.decorators.http import require_POST

from cq import database, declared, maintenance, repeating
from cq.admin import showing
from cq.admin.forms import CATCH_UPS, COALESCE_BY, KINDS, RepeatingTaskForm, applies
from cq.exceptions import InvalidSchedule
from cq.models import RepeatingTask, Task
from cq.words import code_says, in_words, in_zone, is_overdue

if TYPE_CHECKING:
    Base = admin.ModelAdmin[RepeatingTask]
else:
    Base = admin.ModelAdmin

RUNS_SHOWN = 5
_SAID = ("args", "kwargs", "kind", "catch_up", "coalesce_by")


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        return [("broken", "Broken"), ("declared", "Declared in code")]

    def queryset(self, request: Any, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "broken":
            # By what the list says of each, which no SQL knows: whether its arguments fit, say.
            broken = [row.pk for row in repeating.rows() if repeating.problem(row)]
            return queryset.filter(pk__in=broken)
        if self.value() == "declared":
            return queryset.filter(declared__isnull=False)
        return queryset


@admin.register(RepeatingTask)
class RepeatingTaskAdmin(Base):
    form = RepeatingTaskForm
    change_form_template = "cq/admin/repeating_task.html"
    list_display = ("name", "calls", "shown_next", "shown_last", "counts", "enabled")
    list_filter = ("enabled", StateFilter)
    search_fields = ("name", "func_name")
    actions = ("run_now", "enable", "disable")
    readonly_fields = (
        *("preview", "shown_last", "shown_skip", "counts", "shown_error", "shown_declared"),
        *("shown_tasks", "shown_args", "shown_kwargs"),
        *("shown_kind", "shown_catch_up", "shown_coalesce_by"),
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
        # Who may only look sees the columns themselves, but for these, in which something may be
        # sensitive, or which are in the form's words; and, as in the form, what applies.
        said = {name: f"shown_{name}" for name in _SAID}
        shown = partial(applies, kind=obj.kind, catch_up=obj.catch_up, coalesce=obj.coalesce)
        return [
            (title, {"fields": [said.get(name, name) for name in some["fields"] if shown(name)]})
            for title, some in fieldsets
        ]

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """What is said of the name depends on whose it is."""
        said = RepeatingTaskForm.Meta.help_texts
        kwargs["help_texts"] = {**said, "name": _help_for_name(obj) or said["name"]}
        return super().get_form(request, obj, change, **kwargs)

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
                clock=ExpressionWrapper(Now(), DateTimeField()),
            )
        )

    # What the list and the form show.

    @admin.display(description="calls", ordering="func_name")
    def calls(self, row: RepeatingTask) -> str:
        """What and when in one column, as a screen is not wide; and what is to be known of these."""
        problem, by_hand = repeating.problem(row), repeating.changed_by_hand(row)
        broken = mark = SafeString()
        if problem:
            broken = format_html(
                '<div class="cq-broken" title="{}">broken: {}</div>',
                problem[: showing.LONGEST],
                Truncator(problem).chars(100) if row.is_known else "no code defines it",
            )
        if by_hand:
            mark = format_html(
                ' <span class="cq-mark" title="{}">changed here</span>', ", ".join(sorted(by_hand))
            )
        called = Truncator(repeating.called(row)).chars(100)
        return format_html("{}<div>{}{}</div>{}", called, in_words(row), mark, broken)

    @admin.display(description="next run", ordering="next_run")
    def shown_next(self, row: RepeatingTask) -> str:
        if row.next_run is None:
            return showing.EMPTY
        late = is_overdue(row, row.clock)  # type: ignore[attr-defined]  # see get_queryset
        mark = format_html('<div class="cq-broken">{}</div>', "overdue") if late else ""
        return format_html("{}{}", _moment(row, row.next_run), mark)

    @admin.display(description="last run", ordering="last_run")
    def shown_last(self, row: RepeatingTask) -> str:
        if row.last_run is None:
            return showing.EMPTY
        task_id, status = getattr(row, "last_task", None), getattr(row, "last_status", None)
        if task_id is None or status is None:  # pruned
            return _moment(row, row.last_run)
        link = showing.outcome_link(task_id, status, _moment(row, row.last_run))
        return format_html("{} {}", link, showing.status(status))

    @admin.display(description="last skipped")
    def shown_skip(self, row: RepeatingTask) -> str:
        return _moment(row, row.last_skip) if row.last_skip else showing.EMPTY

    @admin.display(description="runs", ordering="run_count")
    def counts(self, row: RepeatingTask) -> str:
        others = ((row.skip_count, "skipped"), (row.miss_count, "missed"))
        said = [f"{number:,} {what}" for number, what in others if number]
        return ", ".join([f"{row.run_count:,}", *said])

    @admin.display(description="why it did not fire")
    def shown_error(self, row: RepeatingTask) -> str:
        """Why it could not fire. What is wrong with its fields stands on top, or at these."""
        if not row.error:
            return showing.EMPTY
        return format_html('<span class="cq-broken">{}</span>', row.error)

    @admin.display(description="code")
    def shown_declared(self, row: RepeatingTask) -> str:
        if row.declared is None:
            return showing.EMPTY
        if not declared.is_declared(row.name):
            return "Code declared it. The code that shows you this does not: it has gone, or is to come."
        by_hand = sorted(code_says(row).items())
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

    @admin.display(description="type")
    def shown_kind(self, row: RepeatingTask) -> str:
        return KINDS.get(row.kind, row.kind)

    @admin.display(description="missed slots")
    def shown_catch_up(self, row: RepeatingTask) -> str:
        return CATCH_UPS.get(row.catch_up, row.catch_up)

    @admin.display(description="tasks that count")
    def shown_coalesce_by(self, row: RepeatingTask) -> str:
        return COALESCE_BY.get(row.coalesce_by, row.coalesce_by)

    # What is to be seen first.

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """On SQLite, whoever has read and then writes is refused if others have written meanwhile."""
        writes = request.method == "POST"
        with database.begin_as("IMMEDIATE") if writes else nullcontext():
            return super().changeform_view(request, object_id, *args, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        # Not where it goes on to another page, which says it itself.
        if (
            request.method == "GET"
            and response.status_code == 200
            and not maintenance.alive().exists()
        ):
            said = (
                "No worker is alive: no task runs, and nothing fires unless a cq_runworker "
                "--scheduler-only does. Start one with manage.py cq_runworker."
            )
            self.message_user(request, said, messages.WARNING)
        return response

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row = context["original"]
        if row is not None and request.method == "GET":
            context["problem"] = repeating.problem(row)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Of what code declares, the page that asks says that it comes back."""
        deleted, *more = super().get_deleted_objects(objs, request)
        back = [row.name for row in objs if row.declared and declared.is_declared(row.name)]
        said = "{} is declared in code: it comes back with the next migrate. Disable it instead."
        return [*(format_html("<strong>" + said + "</strong>", n) for n in back), *deleted], *more

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
            self.log_change(request, row, f"Run now, as task {task.id}.")
            self.message_user(request, format_html("A task was made: {}", link))
            if Task.objects.active().filter(repeating_task=row).exclude(id=task.id).exists():
                said = f"Another task of {row} had not ended: both run."
                self.message_user(request, said, messages.WARNING)

    def _enable(self, request: HttpRequest, queryset: QuerySet[RepeatingTask], *, on: bool) -> None:
        changed, said = 0, "enabled" if on else "disabled"
        for row in queryset:
            try:
                if repeating.enable([row], on=on):
                    changed += 1
                    self.log_change(request, row, f"{said.capitalize()}.")
            except InvalidSchedule as error:
                self.message_user(request, f"{row}: {error}", messages.ERROR)
        self.message_user(request, f"{changed} repeating task(s) {said}.")


def _help_for_name(row: RepeatingTask | None) -> str:
    if row is None:
        return ""
    if row.declared is not None:
        says = "declares" if declared.is_declared(row.name) else "declared"
        return f"Code {says} it by this name."
    return "For people. It stays when the schedule changes. Clear it to have it made anew."


def _preview(row: RepeatingTask) -> SafeString:
    """The schedule in words, and its next runs."""
    if wrong := getattr(row, "wrong", []):  # the form has said what, at its fields
        said = f"Nothing, until it is mended: {', '.join(wrong)}."
        return render_to_string("cq/admin/preview.html", {"problem": said})
    is_broken = not row._state.adding and _is_held(row)
    enabled, row = row.enabled, copy.copy(row)  # the page shows the row as it is
    row.enabled = True
    runs: list[tuple[str, str]] = []
    problem = ""
    try:
        repeating.prepare(row, None, is_new=row._state.adding)
        runs = [
            (f"{run.astimezone(repeating.zone_of(row)):%a} {in_zone(row, run)}", _utc(run))
            for run in row.upcoming(RUNS_SHOWN)
        ]
    except InvalidSchedule:
        problem = "Nothing, until it is mended."  # what is wrong stands on top of the page
    shown = {"words": in_words(row), "runs": runs, "problem": problem, "enabled": enabled}
    return render_to_string("cq/admin/preview.html", {**shown, "is_broken": is_broken})


def _is_held(row: RepeatingTask) -> bool:
    """Whether no run comes until somebody mends it; what may pass is tried again."""
    is_set_aside = bool(row.error) and row.next_run is None
    is_to_be_saved = hasattr(row, "wrong")  # as the form has it, and that plans it anew
    return bool(repeating.problems(row)) or (is_set_aside and not is_to_be_saved)


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%a %Y-%m-%d %H:%M:%S} UTC"  # typed, it is in the site's zone


def _moment(row: RepeatingTask, moment: datetime) -> SafeString:
    return showing.in_lines(in_zone(row, moment))
