"""`manage.py cq_runworker`: run tasks."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentTypeError
from typing import Any

from channels.layers import channel_layers
from django.conf import settings as django_settings  # noqa: TID251  (--layer changes one)
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from cq import database, registry
from cq.conf import settings
from cq.models import Task
from cq.worker.process import Plan
from cq.worker.supervisor import Supervisor


class Command(BaseCommand):
    help = "Run tasks: a supervisor and its processes, until SIGTERM or Ctrl-C."
    leave_locale_alone = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--queues", help="comma-separated; default: all known queues")
        parser.add_argument(
            "--processes", type=_positive, help="default: CQ_PROCESSES, or one a core, at most 4"
        )
        parser.add_argument(
            "--threads",
            type=_positive,
            help="sync tasks a process runs at a time; default: CQ_THREADS, or 1",
        )
        parser.add_argument(
            "--async-concurrency",
            type=_positive,
            help="async tasks a process runs at a time; default: 20",
        )
        parser.add_argument(
            "--burst", action="store_true", help="exit 0 once nothing is left to run"
        )
        scheduler = parser.add_mutually_exclusive_group()
        scheduler.add_argument(
            "--no-scheduler", action="store_true", help="leave repeating tasks to other workers"
        )
        scheduler.add_argument(
            "--scheduler-only", action="store_true", help="fire repeating tasks, and run none"
        )
        parser.add_argument("--layer", help="alias in CHANNEL_LAYERS; default: CQ_CHANNEL_LAYER")

    def handle(self, *args: Any, **options: Any) -> None:
        if not hasattr(os, "fork"):
            raise CommandError(
                "cq_runworker needs os.fork(), which this system lacks; Channels' own "
                "`manage.py runworker cq-tasks` runs tasks, too."
            )
        if options["scheduler_only"] and (options["burst"] or options["processes"]):
            raise CommandError("--scheduler-only runs no tasks: not with --burst or --processes.")
        if options["layer"]:
            if options["layer"] not in channel_layers:
                raise CommandError(f"CHANNEL_LAYERS has no {options['layer']!r}.")
            django_settings.CQ_CHANNEL_LAYER = options["layer"]
            settings.cache_clear()
        chosen = settings()
        if not logging.getLogger().handlers:
            logging.basicConfig(
                level=logging.INFO,
                stream=sys.stderr,
                format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",
            )
        plan = Plan(
            queues=_queues(options["queues"]),
            processes=0 if options["scheduler_only"] else options["processes"] or chosen.processes,
            threads=options["threads"] or chosen.threads,
            async_concurrency=options["async_concurrency"] or chosen.async_concurrency,
            burst=options["burst"],
            fires=options["scheduler_only"] or (chosen.scheduler and not options["no_scheduler"]),
        )
        _check_tables()
        Supervisor(plan).run()


def _check_tables() -> None:
    """One sentence, where each step of the worker would fail for ever."""
    try:
        missing = Task._meta.db_table not in database.connection().introspection.table_names()
    except DatabaseError as error:
        logging.getLogger("cq.worker").warning("the database can't be reached yet: %s", error)
        return
    finally:
        database.connection().close()
    if missing:
        raise CommandError(
            f"The database {database.alias()!r} has no table {Task._meta.db_table}: "
            "run manage.py migrate first."
        )


def _queues(given: str | None) -> tuple[str, ...]:
    known = registry.queues()
    if given is None:
        return tuple(sorted(known))
    wanted = tuple(name.strip() for name in given.split(",") if name.strip())
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise CommandError(
            f"Unknown queue {', '.join(unknown) or given!r}; known: {', '.join(sorted(known))}."
        )
    return wanted


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
