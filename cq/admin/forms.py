"""The form of a repeating task. Wording lives here, so that it makes no migrations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminIntegerFieldWidget
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from cq import database, registry, repeating
from cq.exceptions import InvalidSchedule, NotSerializable
from cq.models import RepeatingTask
from cq.payload import Decoder, Encoder, normalise
from cq.slots import INTERVALS, MOST, CatchUp, Kind, check_moment, zone_names

if TYPE_CHECKING:
    Form = forms.ModelForm[RepeatingTask]
else:
    Form = forms.ModelForm

KINDS: Mapping[str, str] = {
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
CATCH_UPS: Mapping[str, str] = {
    CatchUp.SKIP: "None of them: wait for the next",
    CatchUp.ONE: "The latest of them, once",
    CatchUp.ALL: "Each of them, up to a limit",
}
COALESCE_BY: Mapping[str, str] = {
    RepeatingTask.CoalesceBy.SCHEDULE: "Tasks of this schedule",
    RepeatingTask.CoalesceBy.FUNCTION: "All tasks of the function",
}
HIDDEN = "***"
_MOMENTS = ("start", "end", "next_run")
_ARGUMENTS = ("args", "kwargs")
_WHEN = ("kind", "crontab", "every", "timezone", "start", "end", "repeats", "next_run")
_NO_NUMBER = "Give a whole number above 0."


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


def applies(name: str, kind: object, catch_up: object, *, coalesce: bool) -> bool:
    """Whether a field says something: the page shows those that do."""
    if name == "crontab":
        return kind == Kind.CRONTAB
    if name == "every":
        return kind in INTERVALS
    if name == "coalesce_by":
        return coalesce
    return name != "catch_up_limit" or catch_up == CatchUp.ALL


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
    every = forms.IntegerField(
        label="N",
        required=False,  # where it applies, clean() asks for it
        widget=AdminIntegerFieldWidget,
        initial=1,
        min_value=1,
        max_value=MOST,
        error_messages={"min_value": _NO_NUMBER, "invalid": _NO_NUMBER},
    )

    class Meta:
        model = RepeatingTask
        fields = "__all__"  # the admin names them
        labels = {
            "result_ttl": "Keep its tasks for",
            "kind": "Type",
            "timezone": "Time zone",
            "repeats": "Repeats left",
            "coalesce": "Skip a slot while a task is active",
            "coalesce_by": "Tasks that count",
            "catch_up": "Missed slots",
            "catch_up_limit": "Limit of missed slots",
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
            "start": "Not before. “Every N …” is counted from here; left empty, from when it is saved.",
            "end": "Not after.",
            "repeats": "How many more runs. -1 or empty: for ever.",
            "coalesce": "It is counted, and the next run moves on.",
            "coalesce_by": "While one of them is active, a slot is skipped.",
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
        ):
            if name in self.fields:
                self.fields[name].widget = widget
        for name in self.fields.keys() & set(_MOMENTS):
            zone = timezone.get_current_timezone_name()
            self.fields[name].help_text += f" In {zone} time, whatever time zone stands above."
        if "catch_up_limit" in self.fields:  # as N
            self.fields["catch_up_limit"].required = False
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
        self._check_numbers(given)
        if not self.instance._state.adding:
            self._keep(given)
        self._check_moments(given)
        return given

    def _keep(self, given: dict[str, Any]) -> None:
        for name in _MOMENTS:
            if name in self.errors and name not in self.changed_data:
                del self.errors[name]  # an hour that comes twice: what is shown does not say which
                given[name] = getattr(self.instance, name)
        new_function = "func_name" in self.changed_data
        for name in list(given):
            if name not in self.changed_data and not (new_function and name in _ARGUMENTS):
                given[name] = getattr(self.instance, name)
        if new_function:  # it may not hide what the old one hid: nothing here knows that any more
            for name in _ARGUMENTS:
                setattr(self.instance, name, self.initial[name])
        for name in _ARGUMENTS:
            if name in given and (new_function or name in self.changed_data):
                self._reveal(name, new_function=new_function)

    def _post_clean(self) -> None:
        """The row then knows what of its timing is wrong: it comes to nothing."""
        super()._post_clean()  # type: ignore[misc]  # its stubs lack it
        wrong = [str(self.fields[name].label) for name in _WHEN if name in self.errors]
        self.instance.wrong = wrong  # type: ignore[attr-defined]

    def validate_unique(self) -> None:
        """Its name is all that is: the error says which it is, also where nobody typed it."""
        row = self.instance
        is_made_up = not self.cleaned_data.get("name")
        if "name" not in self.fields or "name" in self.errors or (is_made_up and self.errors):
            return  # what it is made of is to be mended first
        if repeating.rows().filter(name=row.name).exclude(pk=row.pk).exists():
            made = " It was made up, as none was typed." if is_made_up else ""
            self.add_error(
                "name",
                f"There is a repeating task {row.name!r} already: give this one another name.{made}",
            )

    def _check_moments(self, given: dict[str, Any]) -> None:
        for name in _MOMENTS:
            if name in self.changed_data and name in given:
                try:
                    check_moment(name, given[name])
                except InvalidSchedule as error:
                    self.add_error(name, str(error))
        new = set(self.changed_data)
        if given.get("kind") == Kind.ONCE and new & {"kind", "start"}:
            self._refuse_past("start", "it would never run")
        if "end" in new:
            self._refuse_past("end", "it would never run")
        if "next_run" in new:
            self._refuse_past("next_run", "all slots since then would be missed")

    def _refuse_past(self, name: str, what: str) -> None:
        moment = self.cleaned_data.get(name)
        if moment is not None and moment < database.read_clock() - repeating.LATE:
            self.add_error(name, f"That has passed: {what}. Give a moment to come.")

    def _check_numbers(self, given: dict[str, Any]) -> None:
        """Needed where they apply; elsewhere, whatever stands there, the row keeps its own."""
        says = (given.get("kind"), given.get("catch_up"))
        for name in ("every", "catch_up_limit"):
            if name not in self.fields:
                continue
            if not applies(name, *says, coalesce=True):
                if name in self.errors or given.get(name) is None:
                    self.errors.pop(name, None)
                    given[name] = getattr(self.instance, name)
            elif name not in self.errors and given[name] is None:
                self.add_error(name, _NO_NUMBER)

    def _reveal(self, name: str, *, new_function: bool) -> None:
        """Put back what was shown as `***`, where it still stands at its place, of the same function."""
        shown, stored = self.initial[name], getattr(self.instance, name)
        given = self.cleaned_data[name]
        pairs = given.items() if isinstance(given, dict) else enumerate(given)
        revealed = type(given)(given)
        for key, value in pairs:
            if value != HIDDEN:
                continue
            if new_function or _at(shown, key) != HIDDEN:
                which = repr(key) if isinstance(given, dict) else f"argument {key + 1}"
                why = ", and another function was selected" if new_function else ""
                self.add_error(
                    name, f"{HIDDEN} stands for what is not shown{why}: give {which} again."
                )
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
