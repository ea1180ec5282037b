"""What can be seen of a count: for the page, its JSON, and the command alike."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass

from django.db.models import Count, Q

from cq.models import Task
from demo.counting.models import BrokenFile, Report

LINES = 200  # of the log; the queue keeps the newest 1,000
DIRECTORIES = 300

ROLES = {
    "demo.count_folder": "the parent",
    "demo.count_directory": "a subtask for each directory",
    "cq.group": "its files, side by side",
    "demo.count_file": "a task for each file",
    "demo.add_up": "the fan-in, with then()",
    "demo.note_broken": "the errorback",
    "demo.write_report": "chained, with force_chain",
}


@dataclass
class State:
    """A snapshot of one count, by a handful of queries, however large it is."""

    status: str
    done: int
    total: int
    tasks: list[dict]
    directories: list[dict]
    more: int
    log: list[dict]
    failures: list[dict]
    finished: bool
    retryable: bool

    @classmethod
    def of(cls, counting):
        report_task = counting.successors.order_by("-id").first()
        successor = [report_task] if report_task else []
        statuses = _statuses(counting)
        statuses["demo.write_report"] = {one.status: 1 for one in successor}
        files = _files(counting)
        finished = report_task is None or report_task.is_done
        directories = counting.subtasks.filter(func_name="demo.count_directory").order_by("id")
        return cls(
            status=counting.status,
            done=sum(done for done, _ in files.values()),
            total=sum(total for _, total in files.values()),
            tasks=[_task(name, statuses[name]) for name in ROLES],
            directories=[_directory(one, *files[one.id]) for one in directories[:DIRECTORIES]],
            more=max(0, sum(statuses["demo.count_directory"].values()) - DIRECTORIES),
            log=[_line(line) for one in [counting, *successor] for line in one.logs[-LINES:]],
            failures=[
                {"name": one.name, "error": one.error, "traceback": one.traceback}
                for one in BrokenFile.objects.filter(task_id=counting.id)[:20]
            ],
            finished=finished,
            retryable=finished and counting.status in ("FAILURE", "LOST", "INCOMPLETE"),
        )

    @property
    def percent(self):
        return int(100 * self.done / self.total) if self.total else 0

    def as_json(self):
        return {**asdict(self), "percent": self.percent}


def latest(number=8):
    """The newest counts, each with its report, if that is written."""
    found = list(Task.objects.filter(func_name="demo.count_folder").order_by("-id")[:number])
    reports = Report.objects.filter(task_id__in=[one.id for one in found]).in_bulk(
        field_name="task_id"
    )
    return [(one, reports.get(one.id)) for one in found]


def _statuses(counting):
    """How many tasks of the tree have which status, by their function."""
    found = defaultdict(dict)
    tree = Q(id=counting.id) | Q(root=counting, parent__isnull=False)
    rows = Task.objects.filter(tree).order_by().values("func_name", "status")
    for row in rows.annotate(number=Count("id")):
        found[row["func_name"]][row["status"]] = row["number"]
    return found


def _files(counting):
    """How many files of each directory are done, and how many it has.

    `counting.progress` says as much of the whole, and asks about one directory after the other.
    """
    below = Task.objects.filter(root=counting, parent__isnull=False)
    files = below.filter(func_name="demo.count_file").order_by()
    rows = files.values_list("parent__parent_id").annotate(Count("finished"), Count("id"))
    return defaultdict(lambda: (0, 0), {directory: numbers for directory, *numbers in rows})


def _directory(task, done, total):
    return {
        "name": task.label,
        "depth": task.label.count(os.sep) + 1,
        "status": task.status,
        "done": done,
        "total": total,
        "lines": task.result["lines"] if task.is_ok else None,
    }


def _task(name, statuses):
    order = list(Task.Status)
    counts = Counter(statuses)
    return {
        "name": name.removeprefix("demo.").removeprefix("cq."),
        "role": ROLES[name],
        "counts": [
            {"status": str(status), "number": counts[status]} for status in order if counts[status]
        ],
    }


def _line(line):
    return {
        "time": line["timestamp"][11:19],
        "level": logging.getLevelName(line["level"]).lower(),
        "message": line["message"],
    }
