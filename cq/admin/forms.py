"""The form of a repeating task. Wording lives here, so that it makes no migrations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.html import format_html, format_html_join

from cq import registry, repeating
from cq.models import RepeatingTask
from cq.slots import CatchUp, Kind, zone_names

if TYPE_CHECKING:
    Form = forms.ModelForm[RepeatingTask]
else:
    Form = forms.ModelForm

KINDS = {
    Kind.CRONTAB: "Crontab",
    Kind.ONCE: "Once",
    Kind.SECONDS: "Every N seconds",
    Kind.MINUTES: "Every N minutes",
    Kind.HOURS: "Every N hours (1: hourly)",
    Kind.DAYS: "Every N days (1: daily)",
    Kind.WEEKS: "Every N weeks (1: weekly)",
    Kind.MONTHS: "Every N months (1: monthly)",
    Kind.QUARTERS: "Every N quarters (1: quarterly)",
    Kind.YEARS: "Every N years (1: yearly)",
}
CATCH_UPS = {
    CatchUp.SKIP: "None of them: wait for the next",
    CatchUp.ONE: "The latest of them, once",
    CatchUp.ALL: "Each of them, up to a limit",
}
COALESCE_BY = {
    RepeatingTask.CoalesceBy.SCHEDULE: "a task of this schedule is active",
    RepeatingTask.CoalesceBy.FUNCTION: "any task of the function is active",
}
HIDDEN = "***"


class Suggesting(forms.TextInput):
    """A text that is mostly one of a list."""

    def __init__(self, suggestions: Iterable[str], **attrs: Any) -> None:
        super().__init__(attrs={"class": "vTextField", "autocomplete": "off", **attrs})
        self._suggestions = suggestions

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> Any:
        known = f"{name}-known"
        text = super().render(name, value, {**(attrs or {}), "list": known}, renderer)
        options = format_html_join("", '<option value="{}">', ((s,) for s in self._suggestions))
        return format_html('{}<datalist id="{}">{}</datalist>', text, known, options)


class RepeatingTaskForm(Form):
    func_name = forms.ChoiceField(
        label="Function",
        help_text="Is yours missing? Decorate it with @task in an app's tasks.py.",
    )

    class Meta:
        model = RepeatingTask
        fields = "__all__"  # the admin names them
        labels = {
            "args": "Arguments",
            "kwargs": "Keyword arguments",
            "result_ttl": "Keep its tasks for",
            "kind": "Type",
            "every": "N",
            "timezone": "Time zone",
            "repeats": "Repeats left",
            "coalesce": "Skip a slot",
            "coalesce_by": "while",
            "catch_up": "Missed slots",
            "catch_up_limit": "At most",
            "next_run": "Next run",
        }
        help_texts = {
            "name": "For people. Left empty, it is made of the function, its arguments and when it is due.",
            "args": 'A JSON list, as in ["a@example.org", 3].',
            "kwargs": 'A JSON object, as in {"to": "a@example.org"}.',
            "queue": "Empty: the function's own.",
            "priority": "-100 to 100, higher first. Empty: the function's own.",
            "result_ttl": "After success, as in 7 00:00:00 (days hours:minutes:seconds). Empty: as the "
            "function has it.",
            "crontab": "Minute, hour, day of the month, month, day of the week, and seconds after them where "
            "they are wanted. Names, ranges, steps and lists; or @hourly, @daily, @weekly, @monthly, "
            "@yearly.",
            "timezone": "Whose clock counts, as in Europe/Paris. Empty: the project's TIME_ZONE.",
            "start": "Not before. “Every N …” is counted from here; left empty, from when it is saved.",
            "end": "Not after.",
            "repeats": "How many more runs. -1 or empty: for ever.",
            "coalesce": "It is counted, and the next run moves on.",
            "catch_up": "Those that passed while no worker was there.",
            "catch_up_limit": "The newest are made up for.",
            "next_run": "May be changed, for once. Emptied, it is found anew.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        row = self.instance
        if row.pk:
            self.initial["args"], self.initial["kwargs"] = repeating.shown_arguments(row)
        self._choose("func_name", _functions(row.func_name))
        self._choose("kind", KINDS)
        self._choose("catch_up", CATCH_UPS)
        self._choose("coalesce_by", COALESCE_BY)
        for name, widget in (
            ("timezone", Suggesting(zone_names())),
            ("queue", Suggesting(sorted(registry.queues()))),
            ("args", forms.Textarea({"rows": 2, "class": "vLargeTextField cq-json"})),
            ("kwargs", forms.Textarea({"rows": 2, "class": "vLargeTextField cq-json"})),
        ):
            if name in self.fields:
                self.fields[name].widget = widget
        for name in ("next_run", "repeats"):
            if name in self.fields:  # workers change them, too: a change is one of what was shown
                self.fields[name].show_hidden_initial = True

    def _choose(self, name: str, labels: Mapping[Any, str]) -> None:
        field: Any = self.fields.get(name)
        if field is not None:
            field.choices = [(str(value), label) for value, label in labels.items()]

    def clean(self) -> dict[str, Any]:
        """What nobody has changed stays as the row has it: to the microsecond, and with its secrets."""
        given = self.cleaned_data
        for name, empty in (("args", []), ("kwargs", {})):
            if name in given and given[name] in (None, ""):
                given[name] = empty
        if self.instance._state.adding:
            return given
        for name in list(given):
            if name not in self.changed_data:
                given[name] = getattr(self.instance, name)
            elif name in ("args", "kwargs"):
                given[name] = _revealed(given[name], getattr(self.instance, name))
        return given


def _functions(stored: str) -> dict[str, str]:
    names = sorted({registry.get(name).name for name in registry.names()})
    found = {"": "---------", **{name: name for name in names}}
    if stored and stored not in found:
        is_alias = stored in registry.names()
        found[stored] = f"{stored} ({'an alias' if is_alias else 'no code defines it'})"
    return found


def _revealed(given: Any, stored: Any) -> Any:
    """`given`, with what is stored where it says `***`."""
    if isinstance(given, list) and isinstance(stored, list):
        known = stored[: len(given)] + given[len(stored) :]
        return [old if new == HIDDEN else new for new, old in zip(given, known, strict=True)]
    if isinstance(given, dict) and isinstance(stored, dict):
        return {k: stored.get(k, v) if v == HIDDEN else v for k, v in given.items()}
    return given
