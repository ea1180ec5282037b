"""How the admin's pages show things: escaped, cut to what a page can hold, linked."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from cq.models import Task
from cq.states import ANSWERED, Status

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 10_000
EMPTY = "-"


def rows(**conditions: Any) -> QuerySet[Task[Any]]:
    """Other tasks, with what a link shows of them."""
    rows: QuerySet[Task[Any]] = Task.objects.filter(**conditions)
    return rows.only("id", "func_name", "label", "status").order_by("id")


def links(rows: Iterable[Task[Any]]) -> str:
    found = format_html_join(
        "",
        "<div>{} {}</div>",
        ((status(task.status), link(task.id, task.label or task.func_name)) for task in rows),
    )
    return format_html("<div>{}</div>", found) if found else EMPTY


def link(task_id: UUID | str, text: str) -> str:
    url = reverse("admin:cq_task_change", args=[task_id])
    return format_html('<a href="{}">{}</a>', url, text)


def outcome_link(task_id: UUID, outcome: str, text: str) -> str:
    """A link to the task among those that ended as it did."""
    kind = "task"
    if outcome == Status.SUCCESS:
        kind = "successfultask"
    elif outcome in ANSWERED:
        kind = "failedtask"
    return format_html(
        '<a href="{}">{}</a>', reverse(f"admin:cq_{kind}_change", args=[task_id]), text
    )


def list_url() -> str:
    return reverse("admin:cq_task_changelist")


def status(status: str) -> str:
    return format_html('<span class="cq-status cq-{}">{}</span>', status, status)


def text(text: str) -> str:
    if not text:
        return EMPTY
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… [{len(text) - LONGEST} characters more]"
    return format_html('<pre class="cq-text">{}</pre>', text)


def as_json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, indent=2)


def moment(value: datetime | None) -> str:
    """To the millisecond, which Django's own formats do not show."""
    if value is None:
        return EMPTY
    local = timezone.localtime(value) if timezone.is_aware(value) else value
    return local.isoformat(sep=" ", timespec="milliseconds")[:23]


def in_lines(moment: str) -> SafeString:
    """In as few lines as there is room for; a date is not broken."""
    date, _, time = moment.partition(" ")
    return format_html('<span class="cq-moment">{}</span> {}', date, time)


def moment_of(text: object) -> str:
    try:
        return moment(parse_datetime(str(text)))
    except ValueError:
        return str(text)
