"""The workflow.

count_folder
├── count_directory              a subtask for each directory
│   ├── group of count_file      a task for each of its files, side by side
│   ├── then: add_up             the fan-in: the group's results, added up
│   └── errorback: note_broken   where one of the files was broken
└── …
chained: write_report            with force_chain: whatever failed
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from django.db import transaction

from cq import call_command, group, repeat, task
from cq.models import Task
from demo.counting.files import BROKEN, count, directories, is_text, python_files
from demo.counting.models import BrokenFile, FileCount, Report


def start(folder):
    """Make the tasks: both or, where the transaction is rolled back, none."""
    with transaction.atomic():
        counting = count_folder.using(label=str(folder)[-200:]).delay(str(folder))
        _chain_report(counting)
    return counting


def retry(counting):
    """What failed runs again, and what was skipped for that; a new report comes of it."""
    with transaction.atomic():
        counting.retry()
        BrokenFile.objects.filter(task_id=counting.id).delete()
        Report.objects.filter(task_id=counting.id).delete()
        _chain_report(counting)


def _chain_report(counting):
    # Without force_chain the report would be SKIPPED: one file is always broken.
    counting.chain(write_report.using(force_chain=True))


@task("demo.count_folder")
def count_folder(cqt, folder):
    """The parent: it only makes subtasks, and is WAITING until the last of them has ended."""

    def skip(reason):
        cqt.log(f"Skipped: {reason}", logging.WARNING)

    if not Path(folder).is_dir():
        raise NotADirectoryError(folder)
    names = directories(folder, skip)
    cqt.log(f"{len(names):,} directories with Python files in {folder}, and a broken file of ours")
    sample = count_directory.using(label="the demo's sample")
    cqt.subtask(sample, str(BROKEN.parent), ".", [BROKEN.name])
    for name in names:
        cqt.subtask(count_directory.using(label=name[-200:]), folder, name)


@task("demo.count_directory")
def count_directory(cqt, folder, directory, names=None):
    """Its files, without those of its directories; what it returns is the sum, once that is there."""
    if names is None:
        names = python_files(Path(folder, directory))
    paths = [os.path.normpath(Path(directory, name)) for name in names if is_text(name)]
    if len(paths) < len(names):
        cqt.log(f"{directory}: {len(names) - len(paths)} names are no text", logging.WARNING)
    files = cqt.subtask(
        group(*(count_file.using(label=path[-200:]).s(folder, path) for path in paths))
    )
    files.errorback(note_broken)
    return files.then(add_up)


@task("demo.count_file")
def count_file(cqt, folder, name):
    """One file. What it raises is its own failure, and nobody else's."""
    counted = count(Path(folder, name))
    cqt.log(f"{name}: {counted['lines']:,} lines, {counted['definitions']:,} definitions")
    return counted


@task("demo.add_up")
def add_up(cqt, files):
    """Runs when all files of a directory were counted; else it is SKIPPED, until they are retried."""
    names = ("lines", "words", "definitions")
    return {"files": len(files)} | {name: sum(one[name] for one in files) for name in names}


@task("demo.note_broken")
def note_broken(cqt, error):
    """Runs once for each directory with a broken file, when the last of its files has ended."""
    for failed in cqt.previous.subtasks.errors():
        cqt.log(f"{failed.label}: {failed.error}", logging.WARNING)
        BrokenFile.objects.create(
            task_id=cqt.root_id,
            name=failed.args[1],
            error=failed.error,
            traceback=failed.traceback,
        )


@task("demo.write_report")
def write_report(cqt):
    """The successor: rows of our own, which commit together with the end of this task."""
    counting = cqt.previous
    report = Report(task_id=counting.id, folder=counting.args[0], error=counting.error)
    below = Task.objects.filter(root=counting, parent__isnull=False)
    counted = below.succeeded().filter(func_name="demo.count_file")
    files = [FileCount(report=report, name=one.args[1], **one.result) for one in counted]
    report.add_up(files, failed=BrokenFile.objects.filter(task_id=counting.id).count())
    report.save()
    FileCount.objects.bulk_create(files, batch_size=500)
    cqt.log(f"Report written: {report.files:,} files, {report.failed:,} of them failed")
    return report.id


# Schedules: in the admin they stand under Repeating tasks.


@task("demo.take_stock", repeat="* * * * *", result_ttl=3600)
def take_stock(cqt):
    """Each minute, for the slot that it is of: what has been counted by now."""
    found = {"reports": Report.objects.count(), "files": FileCount.objects.count()}
    cqt.log(f"{cqt.scheduled_for:%H:%M}: {found['reports']:,} reports of {found['files']:,} files")
    return found


repeat("30 3 * * *", call_command, ("clearsessions",), name="forget old sessions")
