"""Durable tasks and workflows for Django, on the Channels machinery that a project already runs."""

from cq.api import AsyncTaskFunction, TaskFunction, Workflow, chain, group, task
from cq.exceptions import (
    CQError,
    DuplicateTask,
    InvalidCall,
    InvalidOption,
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

__all__ = (
    "AsyncTaskFunction",
    "CQError",
    "DuplicateTask",
    "InvalidCall",
    "InvalidOption",
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
    "chain",
    "group",
    "task",
)
