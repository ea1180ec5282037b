"""The workflow: count_folder, a subtask count_file for each file, then write_report, whatever failed."""

from __future__ import annotations

import logging
from pathlib import Path

from django.db import transaction

from cq import InvalidOption, NotSerializable, task
from demo.counting.files import BROKEN, count, python_files
from demo.counting.models import FileCount, Report


def start(folder):
    """Make the tasks: both or, where the transaction is rolled back, none."""
    with transaction.atomic():
        counting = count_folder.using(label=str(folder)[-200:]).delay(str(folder))
        # Without force_chain the report would be SKIPPED: one file is always broken.
        counting.chain(write_report.using(force_chain=True))
    return counting


@task("demo.count_folder")
def count_folder(cqt, folder):
    """The parent: it only makes subtasks, and is WAITING until the last of them has ended."""

    def skip(reason):
        cqt.log(f"Skipped: {reason}", logging.WARNING)

    if not Path(folder).is_dir():
        raise NotADirectoryError(folder)
    names = python_files(folder, skip)
    cqt.log(f"{len(names):,} Python files in {folder}, and a broken one of ours")
    cqt.subtask(count_file.using(label=BROKEN.name), str(BROKEN.parent), BROKEN.name)
    for name in names:
        try:
            cqt.subtask(count_file.using(label=name[-200:]), folder, name)
        except (InvalidOption, NotSerializable) as error:  # a name that is no text
            skip(f"{name!a}: {error}")


@task("demo.count_file")
def count_file(cqt, folder, name):
    """One file. What it raises is its own failure, and nobody else's."""
    counted = count(Path(folder, name))
    cqt.log(f"{name}: {counted['lines']:,} lines, {counted['definitions']:,} definitions")
    return counted


@task("demo.write_report")
def write_report(cqt):
    """The successor: rows of our own, which commit together with the end of this task."""
    counting = cqt.previous
    report = Report(task_id=counting.id, folder=counting.args[0], error=counting.error)
    files = [FileCount.of(report, subtask) for subtask in counting.subtasks.all()]
    report.add_up(files)
    report.save()
    FileCount.objects.bulk_create(files, batch_size=500)
    cqt.log(f"Report written: {report.files:,} files, {report.failed:,} of them failed")
    return report.id
