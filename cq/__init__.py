"""Durable tasks and workflows for Django, on the Channels machinery that a project already runs."""

from cq.api import AsyncTaskFunction, TaskFunction, Workflow, chain, group, repeat, task
from cq.exceptions import (
    CQError,
    DuplicateTask,
    InvalidCall,
    InvalidOption,
    InvalidSchedule,
    NotRetryable,
    NotSerializable,
    ParentFinished,
    Retry,
    Revoked,
    TaskFailed,
    TooDeep,
    UnknownQueue,
    UnknownTask,
)
from cq.signature import Signature
from cq.tasks import call_command

__all__ = (
    "AsyncTaskFunction",
    "CQError",
    "DuplicateTask",
    "InvalidCall",
    "InvalidOption",
    "InvalidSchedule",
    "NotRetryable",
    "NotSerializable",
    "ParentFinished",
    "Retry",
    "Revoked",
    "Signature",
    "TaskFailed",
    "TaskFunction",
    "TooDeep",
    "UnknownQueue",
    "UnknownTask",
    "Workflow",
    "call_command",
    "chain",
    "group",
    "repeat",
    "task",
)
