"""`manage.py cq_schedule`: repeating tasks, from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from cq import database, declared, maintenance, repeating
from cq.exceptions import InvalidSchedule
from cq.models import RepeatingTask
from cq.words import code_says, in_words, in_zone, is_overdue


class _Common(BaseCommand):
    """Django's own options, to stand after the action too: not given there, they are as before it."""

    def add_base_argument(self, parser: CommandParser, *args: Any, **kwargs: Any) -> None:
        super().add_base_argument(parser, *args, **{**kwargs, "default": argparse.SUPPRESS})


# Of `list --json`; the arguments, of which some may be sensitive, are part of what it `calls`.
_FIELDS = (
    *("name", "func_name", "queue", "priority", "enabled"),
    *("kind", "crontab", "every", "timezone", "start", "end", "repeats"),
    *("coalesce", "coalesce_by", "catch_up", "catch_up_limit"),
    *("next_run", "last_run", "last_skip", "run_count", "skip_count", "miss_count"),
)


class Command(BaseCommand):
    help = "List repeating tasks; run, enable or disable them by name; bring in what code declares."

    def add_arguments(self, parser: CommandParser) -> None:
        common = [_Common().create_parser("manage.py", "cq_schedule", add_help=False)]
        actions = parser.add_subparsers(
            dest="action", required=True, metavar="{list,run,enable,disable,sync}"
        )
        listing = actions.add_parser(
            "list", help="all of them, and when each is due next", parents=common
        )
        listing.add_argument("--json", action="store_true", help="a JSON list, for programs")
        for action, text in (
            ("run", "make a task of each here and now, whatever is due or active"),
            ("enable", "fire from the next slot on"),
            ("disable", "do not fire"),
        ):
            some = actions.add_parser(action, help=text, parents=common)
            some.add_argument("names", nargs="+", metavar="name")
        sync = actions.add_parser(
            "sync", help="bring in what code declares, as migrate does", parents=common
        )
        sync.add_argument(
            "--check", action="store_true", help="change nothing; exit 1 where something would be"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        action = options["action"]
        if action == "list":
            self._list(as_json=options["json"])
        elif action == "sync":
            self._sync(check=options["check"])
        else:
            rows = _named(options["names"])
            if action == "run":
                self._run(rows)
            else:
                self._enable(rows, on=action == "enable")

    def _list(self, *, as_json: bool) -> None:
        rows = list(RepeatingTask.objects.all())
        if as_json:
            self.stdout.write(json.dumps([_as_json(row) for row in rows], indent=2))
            return
        if not rows:
            self.stdout.write("There are no repeating tasks.")
        elif not maintenance.alive().exists():
            self.stdout.write(
                "No worker is alive: nothing fires unless a cq_runworker --scheduler-only does."
            )
        now = database.read_clock()
        for row in rows:
            self.stdout.write(row.name)
            self.stdout.write(f"  calls    {repeating.called(row)}: {in_words(row)}")
            self.stdout.write(f"  next     {_next(row, now)}")
            self.stdout.write(
                f"  last     {_said(row, row.last_run)}; {row.run_count} runs, "
                f"{row.skip_count} skipped{_last(row)}, {row.miss_count} missed"
            )
            for name, value in sorted(code_says(row).items()):
                code = json.dumps(value, default=str, ensure_ascii=False)
                self.stdout.write(f"  changed  {name}, by hand; code says: {code}")
            if problem := repeating.problem(row):
                self.stdout.write(self.style.ERROR(f"  broken   {problem}"))

    def _run(self, rows: Iterable[RepeatingTask]) -> None:
        for row in rows:
            try:
                task = row.run_now()
            except InvalidSchedule as error:
                raise CommandError(f"{row}: {error}") from error
            self.stdout.write(f"{row}: task {task.id}")

    def _enable(self, rows: Iterable[RepeatingTask], *, on: bool) -> None:
        for row in rows:
            try:
                changed = repeating.enable([row], on=on)
            except InvalidSchedule as error:
                raise CommandError(f"{row}: {error}") from error
            already = "" if changed else "already "
            self.stdout.write(f"{row}: {already}{'enabled' if on else 'disabled'}")

    def _sync(self, *, check: bool) -> None:
        done = list(declared.sync(keep=not check))
        for what, name in done:
            self.stdout.write(f"{what}: {name}")
        if not done:
            self.stdout.write("The table says what code says.")
        if any(what == declared.CONFLICT for what, _ in done):
            raise CommandError("What can't be as code says is left as it is.")
        if check and done:
            raise CommandError("Run manage.py migrate, or manage.py cq_schedule sync.")


def _named(names: Iterable[str]) -> list[RepeatingTask]:
    found = {row.name: row for row in RepeatingTask.objects.filter(name__in=names)}
    if unknown := [name for name in names if name not in found]:
        raise CommandError(
            f"There is no repeating task {', '.join(map(repr, unknown))}; "
            "`manage.py cq_schedule list` shows their names."
        )
    return [found[name] for name in names]


def _next(row: RepeatingTask, now: datetime) -> str:
    if not row.enabled:
        is_gone = row.declared is not None and not declared.is_declared(row.name)
        return "disabled" + ", and no code here declares it any more" * is_gone
    if row.next_run is None:
        return "none" if row.planned else "as soon as a worker has planned it"
    return _said(row, row.next_run) + ", overdue" * is_overdue(row, now)


def _said(row: RepeatingTask, moment: datetime | None) -> str:
    """In its zone and in UTC."""
    if moment is None:
        return "never"
    local, utc = in_zone(row, moment), f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return local if local == utc else f"{local} ({utc})"


def _last(row: RepeatingTask) -> str:
    return f" (the last {_said(row, row.last_skip)})" if row.last_skip else ""


def _as_json(row: RepeatingTask) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _FIELDS}
    return {
        **{n: v.isoformat() if isinstance(v, datetime) else v for n, v in values.items()},
        "calls": repeating.called(row),
        "changed_by_hand": sorted(repeating.changed_by_hand(row)),
        "problem": repeating.problem(row),
    }
