"""`python -m demo count [folder]`: start a count, and watch its tree from the terminal."""

from __future__ import annotations

import shutil
import time
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from cq import NotRetryable
from cq.models import Task
from demo.counting import tasks
from demo.counting.files import STDLIB
from demo.counting.forms import FolderForm
from demo.counting.models import BrokenFile, Report
from demo.counting.watching import State

SHOWN = 15
HINT_AFTER = 5  # seconds without a worker


class Command(BaseCommand):
    help = "Count lines, words and definitions of the Python files in a folder, one task a file."

    def add_arguments(self, parser):
        parser.add_argument("folder", nargs="?", default=str(STDLIB), help="default: %(default)s")
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--revoke", type=UUID, metavar="ID", help="stop a count")
        instead.add_argument("--retry", type=UUID, metavar="ID", help="what failed of a count")

    def handle(self, folder, revoke, retry, **options):
        try:
            if revoke:
                revoked = self._task(revoke).revoke()
                self.stdout.write("Revoked." if revoked else "It has ended already.")
                return
            counting = self._retried(retry) if retry else self._started(folder)
        except DatabaseError as error:
            raise CommandError(
                f"Start `python -m demo` first, which makes the tables: {error}"
            ) from error
        try:
            self._watch(counting)
        except KeyboardInterrupt:
            self.stdout.write(f"\nIt goes on. To stop it: count --revoke {counting.id}")
            return
        self._report(counting)

    def _started(self, folder):
        form = FolderForm({"folder": folder})
        if not form.is_valid():
            raise CommandError(f"{folder}: {' '.join(form.errors['folder'])}")
        counting = tasks.start(form.cleaned_data["folder"])
        self.stdout.write(f"Task {counting.id} counts {counting.args[0]}")
        return counting

    def _retried(self, task_id):
        counting = self._task(task_id)
        try:
            tasks.retry(counting)
        except NotRetryable as error:
            raise CommandError(str(error)) from error
        return counting

    def _task(self, task_id):
        found = Task.objects.filter(id=task_id, func_name="demo.count_folder").first()
        if found is None:
            raise CommandError(f"There is no count {task_id}.")
        return found

    def _watch(self, counting):
        begun, shown, hinted = time.monotonic(), [], False
        while True:
            counting.refresh_from_db()
            state = State.of(counting)
            if state.finished:
                break
            lines = [self._line(state), *self._tree(state, self._room())]
            if not self.stdout.isatty():
                lines = lines[:1]  # the tree comes at the end
            if lines != shown:
                self._rewrite(lines, len(shown))
                shown = lines
            late = time.monotonic() - begun > HINT_AFTER
            if late and not hinted and counting.status == counting.Status.QUEUED:
                self.stderr.write("\nNo worker has taken it yet. Does `python -m demo` run?")
                hinted, shown = True, []
            time.sleep(0.25)
        self._rewrite([self._line(state), *self._tree(state)], len(shown))

    def _line(self, state):
        filled = state.percent * 24 // 100
        last = " ".join(state.log[-1]["message"].split()) if state.log else ""
        bar = f"[{'#' * filled}{'.' * (24 - filled)}]"
        return f"{state.status:<10} {bar} {state.done:,} of {state.total:,}  {last}"

    def _tree(self, state, room=None):
        """A line for each directory; where there is no room for all, for those that are not done."""
        rows = state.directories
        if room is not None and len(rows) > room:
            rows = [row for row in rows if row["status"] != "SUCCESS"][:room]
        lines = [
            f"{row['status']:<10} {row['done']:>5,} of {row['total']:<5,} {'  ' * row['depth']}{row['name']}"
            + (f"  {row['lines']:,} lines" if row["lines"] is not None else "")
            for row in rows
        ]
        return [*lines, f"… and {state.more:,} directories more"] if state.more else lines

    def _room(self):
        return max(1, shutil.get_terminal_size().lines - 4)

    def _rewrite(self, lines, before):
        """Over the lines before, on a terminal; elsewhere below them."""
        if self.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            above = f"\x1b[{before}A" if before else ""
            self.stdout.write(f"\r{above}\x1b[J", ending="")
            lines = [line[:width] for line in lines]
        self.stdout.write("\n".join(lines))
        self.stdout.flush()

    def _report(self, counting):
        report = Report.objects.filter(task_id=counting.id).first()
        if counting.revoked:
            raise CommandError("It was revoked, and the report with it.")
        if report is None:
            raise CommandError(f"No report was written: {counting.successors.first().error}")
        rows = report.counts.order_by("-lines", "name")
        self.stdout.write(f"\n{'Lines':>11}{'Words':>12}{'Definitions':>13}  File")
        for row in rows[:SHOWN]:
            self.stdout.write(f"{row.lines:>11,}{row.words:>12,}{row.definitions:>13,}  {row.name}")
        more = report.files - report.failed - SHOWN
        if more > 0:
            self.stdout.write(f"{'…':>11}{'…':>12}{'…':>13}  {more:,} more")
        total = f"{report.lines:>11,}{report.words:>12,}{report.definitions:>13,}"
        self.stdout.write(self.style.SUCCESS(f"{total}  in {report.files:,} files"))
        for row in BrokenFile.objects.filter(task_id=counting.id):
            self.stdout.write(self.style.ERROR(f"\nFailed: {row.name}"))
            self.stdout.write(row.traceback or row.error)
        if report.error and not report.failed:
            self.stdout.write(self.style.ERROR(f"\n{report.error}"))
        if report.error:
            self.stdout.write(f"\nWhat failed can run again: count --retry {counting.id}")
