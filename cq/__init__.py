"""Durable tasks and workflows for Django, on the Channels machinery that a project already runs."""

from cq.api import AsyncTaskFunction, TaskFunction, task
from cq.exceptions import (
    CQError,
    DuplicateTask,
    InvalidCall,
    InvalidOption,
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

__all__ = (
    "AsyncTaskFunction",
    "CQError",
    "DuplicateTask",
    "InvalidCall",
    "InvalidOption",
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
    "task",
)
