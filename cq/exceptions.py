"""Every error that django-cq raises at a caller, and what a task may raise to steer its own run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


class CQError(Exception):
    """The root of them all."""


class NotSerializable(CQError, TypeError):
    """A value that JSON can't hold was given as an argument, or came back as a result."""


class InvalidOption(CQError, ValueError):
    """An option of `@task` or `using()` that is unknown, or has a value out of its range."""


class InvalidCall(CQError, TypeError):
    """Arguments that do not fit the signature of the task function."""


class UnknownTask(CQError, LookupError):
    """A name that no `@task` registered."""


class DuplicateTask(CQError, ValueError):
    """Two functions want the same task name."""


class UnknownQueue(CQError, ValueError):
    """A queue that neither a `@task` nor `CQ_QUEUES` names."""


class InvalidSchedule(CQError, ValueError):
    """A repeating task that could never fire, or not as it says. `field` is the one to mend."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> Any:
        return type(self), (self.field, str(self))


class ParentFinished(CQError):
    """A subtask or successor was added under a parent that has already ended."""


class NotRetryable(CQError):
    """`retry()` of a task that did not fail, or that nothing above it can wait for any more."""


class TooDeep(CQError):
    """A subtask would be deeper in its tree than `CQ_MAX_DEPTH`."""


class TaskFailed(CQError):
    """A task under one that was called directly has failed; its exception is the cause."""


class Fenced(CQError):
    """This run is no longer the task's own: another worker took it over, so nothing it did may stay."""


class Retry(Exception):
    """Raise it in a task to have it run again, whatever `retry_exceptions` says.

    Counts against `retries`. `delay` is a number of seconds or a timedelta; without it the
    task's own `retry_delay` holds.
    """

    def __init__(self, delay: float | timedelta | None = None, message: str = "") -> None:
        given: object = delay  # also what mypy has not seen
        if isinstance(given, bool) or not isinstance(given, int | float | timedelta | None):
            raise TypeError(f"Retry takes seconds or a timedelta, then a message; not {delay!r}")
        super().__init__(message or "asked to be run again")
        self.delay = timedelta(seconds=delay) if isinstance(delay, (int, float)) else delay


class Revoked(BaseException):
    """Raised inside a running task that has been revoked or overtaken."""
