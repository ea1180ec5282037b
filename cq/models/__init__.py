"""The rows: a task, a schedule, a worker, a log line. Data and one-line doors; the verbs have modules of their own."""

from cq.declared import schedule_task, unschedule_task
from cq.models.fields import PayloadField
from cq.models.log_line import LogLine
from cq.models.outcomes import FailedTask, SuccessfulTask
from cq.models.repeating_task import RepeatingTask
from cq.models.task import Task
from cq.models.worker import Worker

__all__ = (
    "FailedTask",
    "LogLine",
    "PayloadField",
    "RepeatingTask",
    "SuccessfulTask",
    "Task",
    "Worker",
    "schedule_task",
    "unschedule_task",
)
