"""`python -m demo count [folder]`: start a count, and watch it from the terminal."""

from __future__ import annotations

import shutil
import time

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from demo.counting import tasks
from demo.counting.files import STDLIB
from demo.counting.forms import FolderForm
from demo.counting.models import Report
from demo.counting.watching import State

SHOWN = 15
HINT_AFTER = 5  # seconds without a worker


class Command(BaseCommand):
    help = "Count lines, words and definitions of the Python files in a folder, one task a file."

    def add_arguments(self, parser):
        parser.add_argument("folder", nargs="?", default=str(STDLIB), help="default: %(default)s")

    def handle(self, folder, **options):
        form = FolderForm({"folder": folder})
        if not form.is_valid():
            raise CommandError(f"{folder}: {' '.join(form.errors['folder'])}")
        try:
            counting = tasks.start(form.cleaned_data["folder"])
        except DatabaseError as error:
            raise CommandError(
                f"Start `python -m demo` first, which makes the tables: {error}"
            ) from error
        self.stdout.write(f"Task {counting.id} counts {counting.args[0]}")
        self._watch(counting)
        self._report(Report.objects.filter(task_id=counting.id).first(), counting)

    def _watch(self, counting):
        begun, shown, hinted = time.monotonic(), "", False
        while True:
            counting.refresh_from_db()
            state = State.of(counting)
            line = self._line(state)
            if line != shown:
                self._rewrite(line)
                shown = line
            if state.finished:
                break
            late = time.monotonic() - begun > HINT_AFTER
            if late and not hinted and counting.status == counting.Status.QUEUED:
                self.stderr.write("\nNo worker has taken it yet. Does `python -m demo` run?")
                hinted = True
            time.sleep(0.25)
        if self.stdout.isatty():
            self.stdout.write("")

    def _line(self, state):
        filled = state.percent * 24 // 100
        last = state.log[-1]["message"] if state.log else ""
        bar = f"[{'#' * filled}{'.' * (24 - filled)}]"
        return f"{state.status:<10} {bar} {state.done:,.0f} of {state.total:,.0f}  {last}"

    def _rewrite(self, line):
        """Over the line before, on a terminal; elsewhere below it."""
        if self.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            self.stdout.write(f"\r\x1b[K{line}", ending="")
        else:
            self.stdout.write(line)
        self.stdout.flush()

    def _report(self, report, counting):
        if report is None:
            raise CommandError(f"No report was written: {counting.successors.first().error}")
        rows = report.counts.filter(error="").order_by("-lines", "name")
        self.stdout.write(f"\n{'Lines':>11}{'Words':>12}{'Definitions':>13}  File")
        for row in rows[:SHOWN]:
            self.stdout.write(f"{row.lines:>11,}{row.words:>12,}{row.definitions:>13,}  {row.name}")
        more = report.files - report.failed - SHOWN
        if more > 0:
            self.stdout.write(f"{'…':>11}{'…':>12}{'…':>13}  {more:,} more")
        total = f"{report.lines:>11,}{report.words:>12,}{report.definitions:>13,}"
        self.stdout.write(self.style.SUCCESS(f"{total}  in {report.files:,} files"))
        for row in report.counts.exclude(error=""):
            self.stdout.write(self.style.ERROR(f"\nFailed: {row.name}"))
            self.stdout.write(row.traceback or row.error)
        if report.error and not report.failed:
            self.stdout.write(self.style.ERROR(f"\n{report.error}"))
