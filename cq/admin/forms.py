"""The form of a repeating task. Wording lives here, so that it makes no migrations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html, format_html_join

from cq import database, registry, repeating
from cq.conf import FIRST_YEAR, LAST_YEAR
from cq.exceptions import NotSerializable
from cq.models import RepeatingTask
from cq.payload import Decoder, Encoder, normalise
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
_ZONE = "In this site's time zone, not in the one above."
_MOMENTS = ("start", "end", "next_run")


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


class ArgumentsField(forms.JSONField):
    """JSON that can be stored, of one type; what is none is shown again as it was typed."""

    def __init__(self, kind: type[list[Any] | dict[str, Any]], **options: Any) -> None:
        super().__init__(encoder=Encoder, decoder=Decoder, required=False, **options)
        self._kind = kind

    def to_python(self, value: Any) -> Any:
        found = super().to_python(value)
        if found is None:
            return self._kind()
        if not isinstance(found, self._kind):
            raise ValidationError(f"Give a JSON {'list' if self._kind is list else 'object'}.")
        try:
            return normalise(found, "the value")
        except NotSerializable as error:
            raise ValidationError(str(error)) from error

    def prepare_value(self, value: Any) -> Any:
        try:
            return super().prepare_value(value)
        except NotSerializable:
            return json.dumps(value)


class RepeatingTaskForm(Form):
    func_name = forms.ChoiceField(
        label="Function",
        help_text="Is yours missing? Decorate it with @task in an app's tasks.py.",
    )
    args = ArgumentsField(
        list,
        label="Arguments",
        initial=list,
        widget=forms.Textarea({"rows": 2, "class": "vLargeTextField cq-json"}),
        help_text='A JSON list, as in ["a@example.org", 3].',
    )
    kwargs = ArgumentsField(
        dict,
        label="Keyword arguments",
        initial=dict,
        widget=forms.Textarea({"rows": 2, "class": "vLargeTextField cq-json"}),
        help_text='A JSON object, as in {"to": "a@example.org"}.',
    )

    class Meta:
        model = RepeatingTask
        fields = "__all__"  # the admin names them
        labels = {
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
            "queue": "Empty: the function's own.",
            "priority": "-100 to 100, higher first. Empty: the function's own.",
            "result_ttl": "After success, as in 7 00:00:00 (days hours:minutes:seconds). Empty: as the "
            "function has it.",
            "crontab": "Minute, hour, day of the month, month, day of the week, and seconds after them where "
            "they are wanted. Names, ranges, steps and lists; or @hourly, @daily, @weekly, @monthly, "
            "@yearly.",
            "timezone": "Whose clock counts, as in Europe/Paris. Empty: the project's TIME_ZONE.",
            "start": "Not before. “Every N …” is counted from here; left empty, from when it is saved. "
            f"{_ZONE}",
            "end": f"Not after. {_ZONE}",
            "repeats": "How many more runs. -1 or empty: for ever.",
            "coalesce": "It is counted, and the next run moves on.",
            "catch_up": "Those that passed while no worker was there.",
            "catch_up_limit": "The newest are made up for.",
            "next_run": f"May be changed, for once. Emptied, it is found anew. {_ZONE}",
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
        ):
            if name in self.fields:
                self.fields[name].widget = widget
        for name in ("next_run", "repeats"):
            if name in self.fields:  # workers change them, too: a change is one of what was shown
                self.fields[name].show_hidden_initial = True

    def _update_errors(self, errors: ValidationError) -> None:
        """Of a field that has an error already, what follows from that is not said as well."""
        faulty = set(self.errors)
        if faulty & {"args", "kwargs"}:
            faulty |= {"args", "kwargs"}
        left = {name: e for name, e in errors.update_error_dict({}).items() if name not in faulty}
        if left:
            super()._update_errors(ValidationError(left))  # type: ignore[misc]  # its stubs lack it

    def _choose(self, name: str, labels: Mapping[Any, str]) -> None:
        field: Any = self.fields.get(name)
        if field is not None:
            field.choices = [(str(value), label) for value, label in labels.items()]

    def clean(self) -> dict[str, Any]:
        """What nobody has changed stays as the row has it: to the microsecond, and with its secrets."""
        super().clean()
        given = self.cleaned_data
        self._check_moments(given)
        if self.instance._state.adding:
            return given
        for name in _MOMENTS:
            if name in self.errors and name not in self.changed_data:
                del self.errors[name]  # an hour that comes twice: what is shown does not say which
                given[name] = getattr(self.instance, name)
        for name in list(given):
            if name not in self.changed_data:
                given[name] = getattr(self.instance, name)
        for name in ("args", "kwargs"):
            if name in given and name in self.changed_data:
                self._reveal(name)
        return given

    def _check_moments(self, given: dict[str, Any]) -> None:
        for name in _MOMENTS:
            moment = given.get(name)
            if moment is not None and not FIRST_YEAR <= moment.year <= LAST_YEAR:
                self.add_error(name, f"Give a year from {FIRST_YEAR} to {LAST_YEAR}.")
        start = given.get("start")
        is_once = given.get("kind") == Kind.ONCE and "start" in self.changed_data
        if is_once and start and start < database.read_clock() - repeating.LATE:
            self.add_error("start", "That has passed: it would never run.")

    def _reveal(self, name: str) -> None:
        """Put back what was shown as `***`, where it still stands at its place."""
        shown, stored = self.initial[name], getattr(self.instance, name)
        same_function = "func_name" not in self.changed_data
        given = self.cleaned_data[name]
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        revealed = type(given)(given)
        for key, value in pairs:
            if value != HIDDEN:
                continue
            if not (same_function and _at(shown, key) == HIDDEN):
                self.add_error(name, f"{HIDDEN} stands for what is not shown: give {key!r} again.")
                return
            revealed[key] = _at(stored, key)
        self.cleaned_data[name] = revealed


def _functions(stored: str) -> dict[str, str]:
    names = sorted({registry.get(name).name for name in registry.names()})
    found = {"": "---------", **{name: name for name in names}}
    if stored and stored not in found:
        is_alias = stored in registry.names()
        found[stored] = f"{stored} ({'an alias' if is_alias else 'no code defines it'})"
    return found


def _at(values: Any, key: Any) -> Any:
    try:
        return values[key]
    except (LookupError, TypeError):
        return None
