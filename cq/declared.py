"""Schedules that code makes: once, in a data migration; or declared beside a task, and reconciled."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import IntegrityError, connections, models, transaction

from cq import database, repeating, signature
from cq.exceptions import InvalidOption, InvalidSchedule
from cq.options import Options
from cq.payload import normalise
from cq.registry import Definition
from cq.repeating import When
from cq.signature import Signature
from cq.slots import INTERVALS, Timing, zone_named

if TYPE_CHECKING:
    from cq.models import RepeatingTask

logger = logging.getLogger("cq.declared")

CONFLICT = "can't be as code says"

M = TypeVar("M", bound=models.Model)


# Made once.


def schedule_task(
    model: type[M],
    crontab: When,
    f: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **fields: Any,
) -> M:
    """Make a schedule, unless there is one of its name already; returns the row.

    `model` is RepeatingTask, in a migration the historical one. `crontab` is five or six fields or
    `@daily` and its like, or a timedelta of whole seconds; empty where `kind=…` says more. `f` is a
    task function, or the name of one. `fields` are those of RepeatingTask. Without a `name` it gets
    one from the function, its arguments and when it is due, so that it is safe to run twice.

    Raises InvalidSchedule.
    """
    row = _named(model, _draft(crontab, _function_name(f), args, kwargs, fields), fields)
    found = repeating.problems(row)
    if not row.is_known:
        # A migration must run for ever, also where its function has gone since.
        found.pop("func_name")
        logger.warning("No code here defines %s, which %s is to call.", row.func_name, row.name)
    for name, message in found.items():
        raise InvalidSchedule(name, f"{row.name}: {message}")
    table = _table(model)
    # SQLite refuses whoever has read what another then wrote, and wants to write himself.
    with database.begin_as("IMMEDIATE"), transaction.atomic(using=table.db):
        repeating.plan(row, database.read_clock())
        made, is_new = table.get_or_create(name=row.name, defaults=_columns(model, row))
    if not is_new:
        logger.info("There is a schedule %r already: it stays as it is.", row.name)
    return made


def unschedule_task(
    model: type[models.Model],
    crontab: When,
    f: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **fields: Any,
) -> bool:
    """Delete what `schedule_task()` makes of the same arguments. Returns whether it was there."""
    row = _named(model, _draft(crontab, _function_name(f), args, kwargs, fields), fields)
    table = _table(model)
    with database.begin_as("IMMEDIATE"):
        return bool(table.filter(name=row.name).delete()[0])


def _table(model: type[M]) -> models.QuerySet[M]:
    """Where schedules live. Raises ImproperlyConfigured where that is a database without tables yet."""
    alias = database.alias()
    if model._meta.db_table not in connections[alias].introspection.table_names():
        raise ImproperlyConfigured(
            f"CQ_DATABASE is {alias!r}, which has no table {model._meta.db_table} yet: run "
            f"`manage.py migrate --database {alias}` first."
        )
    return model._base_manager.using(alias)


def _columns(model: type[models.Model], row: RepeatingTask) -> dict[str, Any]:
    """What `row` says of the columns that there are where a migration stands."""
    values = {
        item.name: (getattr(row, item.name), item.null)
        for item in model._meta.concrete_fields
        if not item.primary_key
    }
    return {
        name: value
        for name, (value, may_be_null) in values.items()
        if may_be_null or value is not None
    }


def _named(
    model: type[models.Model], row: RepeatingTask, fields: Mapping[str, Any]
) -> RepeatingTask:
    """`row` with a name. Raises InvalidSchedule for fields that come later than the migration."""
    there = {item.name for item in model._meta.concrete_fields}
    for name in fields:
        if name not in there:
            newest = max(module.name for module in pkgutil.iter_modules(_migrations()))
            raise InvalidSchedule(
                name,
                f"RepeatingTask has no field {name!r} yet where this migration stands. "
                f'Write: dependencies = [("cq", "{newest}")]',
            )
    row.name = row.name or repeating.name_for(row)
    return row


def _migrations() -> Sequence[str]:
    import cq.migrations

    return cq.migrations.__path__


def _draft(
    when: When,
    func_name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    fields: Mapping[str, Any],
) -> RepeatingTask:
    """A row that is not saved, and may lack a name. Raises InvalidSchedule for what no row can hold."""
    args, kwargs = _arguments(args, kwargs)
    row = database.repeating_model()(
        func_name=func_name, args=normalise(args, "args"), kwargs=normalise(kwargs, "kwargs")
    )
    for name, value in repeating.given_timing(when, fields).items():
        setattr(row, name, _cleaned(row, name, value))
    return row


def _arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> tuple[list[Any], dict[str, Any]]:
    if not isinstance(args, list | tuple):
        raise InvalidSchedule("args", f"Give a list or tuple of arguments, not {args!r}.")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidSchedule("kwargs", f"Give keyword arguments as a dict, not {kwargs!r}.")
    return list(args), dict(kwargs or {})


def definition_of(f: object) -> Definition:
    """Of a task function. Raises InvalidSchedule for what is none."""
    definition = getattr(f, "definition", None)
    if isinstance(definition, Definition):
        return definition
    raise InvalidSchedule("func_name", f"{f!r} is not a task function: decorate it with @task.")


def _function_name(f: object) -> str:
    return f if isinstance(f, str) else definition_of(f).name


def _cleaned(row: RepeatingTask, name: str, value: Any) -> Any:
    """As the column holds it. Raises InvalidSchedule."""
    kept = {"id", "declared", "func_name", "args", "kwargs", *repeating.KEPT_BY_WORKERS}
    known = {item.name: item for item in row._meta.concrete_fields}
    free = known.keys() - kept | {"repeats"}
    if name not in free:
        raise InvalidSchedule(name, f"A repeating task has no {name!r}: {', '.join(sorted(free))}.")
    if name == "result_ttl":  # a number of seconds, too, as @task has it
        return _duration(value)
    column = known[name]
    if column.blank and (value is None or (value == "" and column.null)):
        return None if column.null else column.get_default()
    try:
        found = column.clean(value, row)
    except ValidationError as error:
        one_of = f" One of {', '.join(dict(column.choices))}." if column.choices else ""
        raise InvalidSchedule(name, f"{name}: {' '.join(error.messages)}{one_of}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidSchedule(name, f"{name}: {value!r} is no value for it: {error}.") from error
    if isinstance(found, str) and not _is_text(value):
        raise InvalidSchedule(name, f"{name}: {value!r} is no text that can be stored.")
    return found


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return isinstance(value, ZoneInfo) and value.key is not None
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _duration(value: Any) -> Any:
    try:
        return Options().using({"result_ttl": value}).result_ttl
    except InvalidOption as error:
        raise InvalidSchedule("result_ttl", str(error)) from error


# Declared, and reconciled.


@dataclass(frozen=True)
class Declaration:
    """What code says of one schedule."""

    name: str
    definition: Definition
    when: When
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    fields: Mapping[str, Any]

    def row(self) -> RepeatingTask:
        """As a new row. Raises InvalidSchedule."""
        fields = {**self.fields, "name": self.name}
        return _draft(self.when, self.definition.name, self.args, self.kwargs, fields)

    def says(self) -> dict[str, Any]:
        """By field, what it says; of the others it leaves people free. `repeats` is but a beginning."""
        row = self.row()
        said = {*repeating.given_timing(self.when, self.fields), "func_name", "args", "kwargs"}
        said = said - {"name", "repeats"} | {"enabled"}
        if row.start is None:  # planning may fill it in
            said.discard("start")
        return normalise({name: getattr(row, name) for name in sorted(said)}, "a schedule")  # type: ignore[return-value]


_declared: dict[str, Declaration] = {}


def declare(
    definition: Definition,
    when: When,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Keep a schedule for the next `sync()`. Its name, unless given, is the function's with the arguments.

    Raises InvalidSchedule, InvalidCall, NotSerializable. Needs no models, as task modules may be
    imported before these.
    """
    fields = dict(fields or {})
    timing = repeating.given_timing(when, fields)
    Timing(
        kind=repeating.kind_named(timing["kind"]),
        zone=zone_named(timing.get("timezone") or "UTC"),
        crontab=timing["crontab"],
        every=timing.get("every", 1),
        start=timing.get("start") or repeating.ANY_START,
    )
    args, kwargs = _arguments(args, kwargs)
    signature.call(Signature(definition, tuple(args), kwargs, definition.options))
    name = fields.get("name") or repeating.call_named(definition.name, args, kwargs)
    if not isinstance(name, str):
        raise InvalidSchedule("name", f"'name' must be text, not {name!r}.")
    if name in _declared and not apps.ready:  # later, it is a module read again
        raise InvalidSchedule("name", f"Two schedules are declared as {name!r}: give one a name=….")
    _declared[name] = Declaration(name, definition, when, args, kwargs, fields)


def declarations() -> list[Declaration]:
    """All of them."""
    return list(_declared.values())


def is_declared(name: str) -> bool:
    """Whether code declares a schedule of that name."""
    return name in _declared


def sync(*, keep: bool = True) -> list[tuple[str, str]]:
    """Have the table say what code says; what was done to which schedule. Without `keep`, what would be.

    New ones are added, changed ones changed, those that code does not declare any more disabled. What
    somebody has changed by hand since the last time stays as it is.
    """

    def step() -> list[tuple[str, str]]:
        done = [_merged(said) for said in declarations()]
        done += [("disabled", row.name) for row in _disable_gone()]
        if not keep:
            transaction.set_rollback(True, using=database.alias())
        return [(what, name) for what, name in done if what]

    return database.in_transaction(step)


def _merged(declaration: Declaration) -> tuple[str, str]:
    """One that can't be merged with what somebody changed by hand stops no other."""
    try:
        with transaction.atomic(using=database.alias()):
            return _reconcile(declaration), declaration.name
    except InvalidSchedule as error:
        logger.error("%s stays as it is: %s", declaration.name, error)  # noqa: TRY400
        return CONFLICT, f"{declaration.name}: {error}"


def _disable_gone() -> Iterator[RepeatingTask]:
    gone = repeating.rows().filter(declared__isnull=False, enabled=True)
    for row in gone.exclude(name__in=list(_declared)):
        if row.declared["enabled"]:  # else enabled by hand since it went
            row.enabled, row.declared = False, {**row.declared, "enabled": False}
            row.save(update_fields=["enabled", "declared"])
            yield row


def _reconcile(declaration: Declaration) -> str:
    says = declaration.says()
    row = database.lock(repeating.rows().filter(name=declaration.name)).first()
    if row is None:
        return _add(declaration, says)
    before = row.declared
    if before == says:
        return ""
    row.declared = says
    if before is None:
        row.save()
        return "found, made by hand"
    known = {name for name in {*says, *before} if hasattr(row, name)}  # else a later version's
    wanted = {name: says.get(name, _default(name)) for name in known}
    touched = {name for name in wanted if not _is_untouched(row, name, before)}
    if not touched.isdisjoint(repeating.WHEN):
        touched |= set(repeating.WHEN)  # half of each would be due when nobody said
    differing = {name for name in wanted if getattr(row, name) != wanted[name]}
    for name in differing - touched:
        setattr(row, name, wanted[name])
    if "kind" in differing - touched and row.kind not in INTERVALS and "start" not in known:
        row.start = None  # planning had filled it in
    row.save()
    return _told(differing - touched, differing & touched)


def _told(changed: Collection[str], kept: Collection[str]) -> str:
    said = [f"changed {' and '.join(sorted(changed))}"] if changed else []
    said += [f"kept {' and '.join(sorted(kept))} as somebody set it"] if kept else []
    return ", ".join(said)


def _add(declaration: Declaration, says: dict[str, Any]) -> str:
    row = declaration.row()
    row.declared = says
    try:
        with transaction.atomic(using=database.alias()):
            row.save()
    except IntegrityError:
        if not repeating.rows().filter(name=row.name).exists():
            raise
        return ""  # another `migrate` of the same code was first
    return "added"


def _is_untouched(row: RepeatingTask, name: str, before: Mapping[str, Any]) -> bool:
    if name not in before and name == "start" and row.kind in INTERVALS:
        return True  # planning has filled it in
    return bool(getattr(row, name) == before.get(name, _default(name)))


def _default(name: str) -> Any:
    found = database.repeating_model()._meta.get_field(name)
    assert isinstance(found, models.Field)
    return found.get_default()
