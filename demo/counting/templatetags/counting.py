"""How numbers and statuses look."""

from __future__ import annotations

from django import template
from django.utils.html import format_html

register = template.Library()


@register.filter
def grouped(number):
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


@register.filter
def took(task):
    """How long it was, of a task that has ended."""
    if not (task.started and task.finished):
        return ""
    return f"{(task.finished - task.started).total_seconds():.1f} s"


@register.simple_tag
def status(name, number=None):
    shown = "" if number is None else format_html("<b>{}</b> ", grouped(number))
    return format_html('<span class="status {}">{}{}</span>', name.lower(), shown, name)
