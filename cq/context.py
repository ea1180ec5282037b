"""What runs here: the run of a task, as everything that its function calls can find it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    from cq.models import Task
    from cq.options import Options

How = Literal["worker", "serial", "inline"]


@dataclass(eq=False)
class Transaction:
    """The one that made a task; `block` is its outermost `atomic` until it has committed.

    A decorated function's block is the same object each time, so that its identity alone says
    nothing about a transaction.
    """

    block: object | None

    def end(self) -> None:
        self.block = None


@dataclass(eq=False)
class Run:
    """One attempt at a task, from its beginning to its end, in this process."""

    task: Task[Any]
    options: Options
    how: How
    hide: list[str] = field(default_factory=list)
    has_secrets: bool = True
    """Whether it was given a sensitive argument."""
    concerns_others: bool = False
    """It made a subtask, or a successor of itself."""
    logged: bool = False
    made: set[UUID] = field(default_factory=set)
    """What it made without a parent: it adopts these, should it return one."""
    unpublished: list[dict[str, Any]] = field(default_factory=list)
    """Log lines that wait for the next published one, or for the end of the attempt."""
    log_trim: int | None = None
    progress: tuple[float, float | None, str] | None = None
    spawned: set[Any] = field(default_factory=set)
    """Asyncio tasks that its function began: none of them outlives it."""
    errorbacks: list[dict[str, Any]] = field(default_factory=list)
    """What an atomic run added to itself: its end writes it, good or bad."""
    revokes: list[UUID] = field(default_factory=list)
    """Itself, or what is above it: to be revoked once it is rolled back."""
    concerned: list[UUID] = field(default_factory=list)
    """What is to be settled once what an atomic run did to it is committed."""
    deadline: float | None = None  # by time.monotonic()
    is_overdue: bool = False
    revoked: bool = False
    """Its row is known to be no longer its own."""
    interrupted: bool = False
    """Its function was hit for one of these, whatever became of that."""
    later: list[Task[Any]] = field(default_factory=list)
    """Inline: what this run made, in order, to be run after it."""


_current: ContextVar[Run | None] = ContextVar("cq_run", default=None)

current = _current.get
enter = _current.set
leave = _current.reset
