"""What can be seen of a count: for the page, its JSON, and the command alike."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass

from cq.models import Task
from demo.counting.models import Report

LINES = 200  # of the log; the queue keeps the newest 1,000


@dataclass
class State:
    """A snapshot of one count."""

    status: str
    done: float
    total: float
    tasks: list[dict]
    log: list[dict]
    failures: list[dict]
    finished: bool

    @classmethod
    def of(cls, counting):
        report_task = counting.successors.first()
        done, total, _ = counting.progress
        subtasks = Counter(counting.subtasks.order_by().values_list("status", flat=True))
        successor = [report_task] if report_task else []
        return cls(
            status=counting.status,
            done=done,
            total=total or 0,
            tasks=[
                _task("count_folder", {counting.status: 1}, "the parent"),
                _task("count_file", subtasks, "a subtask for each file"),
                _task(
                    "write_report",
                    {one.status: 1 for one in successor},
                    "chained, with force_chain",
                ),
            ],
            log=[_line(line) for one in [counting, *successor] for line in one.logs[-LINES:]],
            failures=[
                {"name": one.args[1], "error": one.error, "traceback": one.traceback}
                for one in counting.subtasks.errors().order_by("finished")[:20]
            ],
            finished=report_task is None or report_task.is_done,
        )

    @property
    def percent(self):
        return int(100 * self.done / self.total) if self.total else 0

    def as_json(self):
        return {**asdict(self), "percent": self.percent}


def latest(number=8):
    """The newest counts, each with its report, if that is written."""
    found = list(Task.objects.filter(func_name="demo.count_folder").order_by("-submitted")[:number])
    reports = Report.objects.filter(task_id__in=[one.id for one in found]).in_bulk(
        field_name="task_id"
    )
    return [(one, reports.get(one.id)) for one in found]


def _task(name, statuses, role):
    order = list(Task.Status)
    counts = sorted(statuses.items(), key=lambda item: order.index(item[0]))
    return {
        "name": name,
        "role": role,
        "counts": [{"status": str(status), "number": number} for status, number in counts],
    }


def _line(line):
    return {
        "time": line["timestamp"][11:19],
        "level": logging.getLevelName(line["level"]).lower(),
        "message": line["message"],
    }
