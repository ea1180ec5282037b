"""`Task`: one durable run of a task function."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import uuid_utils.compat as uuid
from asgiref.sync import sync_to_async
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from cq import logs, revival, serial, waiting, workflow
from cq.models.fields import ParentKey, PayloadField
from cq.models.querysets import TaskManager
from cq.signature import shown
from cq.states import ACTIVE, DONE, Status

if TYPE_CHECKING:
    from cq.api import TaskFunction
    from cq.context import Run, Transaction
    from cq.models.fields import Subtasks
    from cq.signature import Container, Later, Signature

P = ParamSpec("P")
R = TypeVar("R")
R2 = TypeVar("R2")


class Task(models.Model, Generic[R]):
    """One durable run of a task function.

    An instance is a snapshot; `wait()` and `refresh_from_db()` renew it. Only `cq.lifecycle`
    writes `status`.
    """

    Status = Status
    STATUS_PENDING = Status.PENDING
    STATUS_SCHEDULED = Status.SCHEDULED
    STATUS_QUEUED = Status.QUEUED
    STATUS_RUNNING = Status.RUNNING
    STATUS_WAITING = Status.WAITING
    STATUS_RETRY = Status.RETRY
    STATUS_SUCCESS = Status.SUCCESS
    STATUS_COMPLETE = Status.SUCCESS
    STATUS_FAILURE = Status.FAILURE
    STATUS_INCOMPLETE = Status.INCOMPLETE
    STATUS_LOST = Status.LOST
    STATUS_REVOKED = Status.REVOKED
    STATUS_SKIPPED = Status.SKIPPED

    id = models.UUIDField(primary_key=True, default=uuid.uuid7, editable=False)
    # What runs.
    func_name = models.CharField("function", max_length=200)
    args = PayloadField(default=list, blank=True)
    kwargs = PayloadField(default=dict, blank=True)
    label = models.CharField(max_length=200, blank=True, default="")
    meta = PayloadField(default=dict, blank=True)
    # Where and when.
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    queue = models.CharField(max_length=80, default="default")
    priority = models.SmallIntegerField(default=0)
    submitted = models.DateTimeField(db_default=Now())
    run_after = models.DateTimeField(null=True, blank=True)
    ready_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)
    # The graph. Without database constraints: inserting a subtask must not touch its parent's row.
    parent = ParentKey(
        "self",
        models.CASCADE,
        related_name="subtasks",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    previous = models.ForeignKey(
        "self",
        models.SET_NULL,
        related_name="successors",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    root = models.ForeignKey(
        "self",
        models.DO_NOTHING,  # by their parents its subtasks go with it
        related_name="+",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        help_text="The top task of its tree; of a top task, itself.",
    )
    returned = models.ForeignKey(
        "self",
        models.SET_NULL,
        related_name="returned_by",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        help_text="The task that this one returned, and waits for.",
    )
    depth = models.SmallIntegerField(default=0)
    parent_run = models.IntegerField(
        null=True, blank=True, help_text="The parent's run that made it; empty: made from outside."
    )
    linked = models.BooleanField(
        default=False,
        help_text="Its end concerns others than its parent: whoever ends it has to look.",
    )
    previous_run = models.IntegerField(
        null=True,
        blank=True,
        help_text="The predecessor's run that chained it; empty: chained from outside.",
    )
    passes_result = models.BooleanField(
        default=False, help_text="Its predecessor's result is its first argument."
    )
    is_errorback = models.BooleanField(
        default=False, help_text="It was made because its predecessor ended badly."
    )
    errorbacks = PayloadField(
        default=list, blank=True, help_text="Calls for the case that it ends badly."
    )
    container = models.CharField(
        max_length=10,
        blank=True,
        default="",
        choices=(("group", "group"), ("chain", "chain")),
        help_text="It is never executed: its subtasks are its members.",
    )
    members = PayloadField(
        default=list, blank=True, help_text="Of a container that waits: calls, not yet tasks."
    )
    member_no = models.IntegerField(
        null=True, blank=True, help_text="Its place in the container above it."
    )
    # How it runs.
    atomic = models.BooleanField(default=True)
    rerun_lost = models.BooleanField(default=False)
    fail_fast = models.BooleanField(default=False)
    force_chain = models.BooleanField(default=False)
    retries = models.SmallIntegerField(default=0)
    timeout = models.FloatField(null=True, blank=True)
    result_ttl = models.DurationField(null=True, blank=True)
    prune_at = models.DateTimeField(null=True, blank=True)
    delays = models.JSONField(
        default=dict,
        blank=True,
        help_text="Seconds of run_after and expires, counted from release.",
    )
    options = models.JSONField(default=dict, blank=True)
    unique_key = models.CharField(  # noqa: DJ001  (NULL is no duplicate of another)
        max_length=200, null=True, blank=True
    )
    concurrency_key = models.CharField(max_length=200, blank=True, default="")
    rate_key = models.CharField(max_length=200, blank=True, default="")
    repeating_task = models.ForeignKey(
        "RepeatingTask",
        models.SET_NULL,
        related_name="tasks",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )
    slot = models.DateTimeField(null=True, blank=True)
    # How it went.
    worker_id = models.UUIDField(null=True, blank=True)
    claim_no = models.IntegerField(default=0)
    failures = models.IntegerField(default=0)
    rescues = models.IntegerField(default=0)
    alone = models.BooleanField(
        default=False,
        db_default=False,
        help_text="A worker died that held it, and nobody knows whether it had begun: it is claimed "
        "by itself, so that the next death tells.",
    )
    attempts = models.JSONField(default=list, blank=True)
    result = PayloadField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    traceback = models.TextField(blank=True, default="")
    progress_done = models.FloatField(null=True, blank=True)
    progress_total = models.FloatField(null=True, blank=True)
    progress_message = models.TextField(blank=True, default="")
    log_lines = models.JSONField(null=True, blank=True)

    objects = TaskManager()
    if TYPE_CHECKING:
        subtasks: Subtasks

    # Set while it runs here; see cq.context.
    run: Run | None = None
    begun_at: float | None = None  # by time.monotonic()
    # Set when it is claimed; see cq.lifecycle.
    is_stray: bool = False
    clock: datetime | None = None  # the database's, and time.monotonic(), at that moment
    claimed_at: float = 0.0
    owes_start: bool = False  # it has begun, and its row does not say so yet
    # The transaction that made this instance; see cq.submission.
    made_in: Transaction | None = None

    class Meta:
        ordering = ("-id",)
        base_manager_name = "objects"
        # Each of a task's writes goes into every index that holds its row: a plain one's, besides the
        # primary key, into one of these.
        indexes = (
            models.Index(
                fields=("queue", "-priority", "ready_at", "id"),
                name="cq_task_claimable",
                condition=Q(status=Status.QUEUED),
            ),
            models.Index(
                fields=("ready_at",),
                name="cq_task_due",
                condition=Q(status__in=(Status.SCHEDULED, Status.RETRY)),
            ),
            models.Index(
                fields=("expires_at",),
                name="cq_task_expiring",
                condition=Q(status=Status.QUEUED, failures=0, rescues=0, expires_at__isnull=False),
            ),
            models.Index(
                fields=("status", "id"),
                name="cq_task_unfinished",
                condition=Q(status__in=(Status.RUNNING, Status.WAITING, Status.PENDING)),
            ),
            models.Index(fields=("root",), name="cq_task_tree", condition=Q(parent__isnull=False)),
            models.Index(
                fields=("parent", "status"),
                name="cq_task_subtasks",
                condition=Q(parent__isnull=False),
            ),
            models.Index(
                fields=("previous",), name="cq_task_successors", condition=Q(previous__isnull=False)
            ),
            models.Index(
                fields=("returned",),
                name="cq_task_returned_by",
                condition=Q(returned__isnull=False),
            ),
            models.Index(
                fields=("prune_at",), name="cq_task_prunable", condition=Q(prune_at__isnull=False)
            ),
            models.Index(  # in a list, so that the migration is always the same
                fields=("repeating_task", "status"),
                name="cq_task_repeating",
                condition=Q(status__in=sorted(ACTIVE), repeating_task__isnull=False),
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("repeating_task", "slot"),
                name="cq_task_one_per_slot",
                condition=Q(repeating_task__isnull=False),
            ),
            models.UniqueConstraint(
                fields=("unique_key",),
                name="cq_task_one_per_key",
                condition=Q(unique_key__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.label or self.func_name} {self.id}"

    def __repr__(self) -> str:
        args, kwargs = self.shown_arguments
        given = [repr(value) for value in args]
        given += [f"{name}={value!r}" for name, value in kwargs.items()]
        return f"<Task {self.id} {self.func_name}({', '.join(given)}) {self.status}>"

    @classmethod
    def check(cls, **kwargs: Any) -> list[Any]:
        """Without what Django says where indexes can't be partial: the migrations make whole ones there."""
        expected = ("models.W036", "models.W037")
        return [found for found in super().check(**kwargs) if found.id not in expected]

    # What is so.

    @property
    def is_done(self) -> bool:
        """Whether its status is final."""
        return self.status in DONE

    @property
    def is_ok(self) -> bool:
        """Whether it, and everything that counts under it, succeeded."""
        return self.status == Status.SUCCESS

    @property
    def revoked(self) -> bool:
        """Whether it is revoked; inside it, whether its code is about to be stopped: see `Revoked`."""
        return self.status == Status.REVOKED or (self.run is not None and self.run.revoked)

    @property
    def shown_arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """`args` and `kwargs` with the sensitive ones as `***`."""
        before = int(self.passes_result)
        return shown(self.func_name, self.args, self.kwargs, self.options, before)

    @property
    def logs(self) -> list[dict[str, Any]]:
        """Log lines of the whole tree, or, of a subtask, its own; oldest first.

        A line has `message`, `level` (logging's number), `timestamp` (ISO 8601, UTC) and
        `origin` (the id of the logging task, as text).
        """
        return logs.read(self)

    @property
    def progress(self) -> tuple[float, float | None, str]:
        """`(done, total, message)`; with subtasks, counted over them."""
        return workflow.progress(self)

    async def alogs(self) -> list[dict[str, Any]]:
        """`logs` for async code."""
        return await sync_to_async(logs.read)(self)

    async def aprogress(self) -> tuple[float, float | None, str]:
        """`progress` for async code."""
        return await sync_to_async(workflow.progress)(self)

    def position(self) -> int | None:
        """How many QUEUED tasks of its queue will be claimed before it; None when not QUEUED."""
        return waiting.position(self)

    async def aposition(self) -> int | None:
        return await sync_to_async(self.position)()

    @property
    def scheduled_for(self) -> datetime | None:
        """The slot of the repeating task that this is a run of."""
        return self.slot

    # Waiting for it.

    def wait(self, timeout: float | timedelta | None = None) -> Task[R]:
        """Block until its status is final; returns it, refreshed.

        `timeout` is in seconds. Raises TimeoutError, and RuntimeError inside the transaction
        that made the task, where the wait could never end.
        """
        return waiting.wait(self, timeout)

    async def async_wait(self, timeout: float | timedelta | None = None) -> Task[R]:
        """`wait()` for async code."""
        return await waiting.async_wait(self, timeout)

    # Making more of them.

    @overload
    def subtask(self, f: TaskFunction[P, R2], *args: P.args, **kwargs: P.kwargs) -> Task[R2]: ...
    @overload
    def subtask(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    def subtask(self, f: Signature[R2] | Container[R2]) -> Task[R2]: ...
    def subtask(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """A child: this task is complete only when the child is."""
        return serial.door(workflow.subtask, self, f, args, kwargs)

    @overload
    def chain(self, f: TaskFunction[P, R2], *args: P.args, **kwargs: P.kwargs) -> Task[R2]: ...
    @overload
    def chain(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    def chain(self, f: Signature[R2] | Container[R2]) -> Task[R2]: ...
    def chain(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """A successor: released when this one, with its whole tree, has succeeded.

        It reads `cqt.previous.result`. Returns the successor, so that chains go on.
        """
        return serial.door(workflow.chain, self, f, args, kwargs)

    @overload
    def then(
        self, f: TaskFunction[Concatenate[R, P], R2], *args: P.args, **kwargs: P.kwargs
    ) -> Task[R2]: ...
    @overload
    def then(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    def then(self, f: Signature[R2]) -> Task[R2]: ...
    def then(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """`chain()`, with this task's result (read when it runs) as first argument."""
        return serial.door(workflow.chain, self, f, args, kwargs, passes_result=True)

    @overload
    def errorback(
        self,
        f: TaskFunction[Concatenate[dict[str, Any], P], Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Self: ...
    @overload
    def errorback(
        self,
        f: TaskFunction[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Self: ...
    @overload
    def errorback(self, f: Signature[Any]) -> Self: ...
    def errorback(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        """Once it has ended as FAILURE, INCOMPLETE or LOST: a task `f(cqt, error, …)` beside it.

        `error` is a dict of `type`, `message` and `traceback`; `cqt.previous` is this task. Its
        parent waits for it. Returns this task. On one that ended so already, it runs now.
        """
        return serial.door(workflow.errorback, self, f, args, kwargs)

    # Their async forms, on the running task's own thread and in its transaction.

    @overload
    async def asubtask(
        self, f: TaskFunction[P, R2], *args: P.args, **kwargs: P.kwargs
    ) -> Task[R2]: ...
    @overload
    async def asubtask(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    async def asubtask(self, f: Signature[R2] | Container[R2]) -> Task[R2]: ...
    async def asubtask(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """`subtask()` for async code."""
        return await sync_to_async(serial.door)(workflow.subtask, self, f, args, kwargs)

    async def asubtasks(self, f: Later, items: Iterable[Any]) -> int:
        """`subtasks(f, items)` for async code."""
        return await sync_to_async(serial.door)(workflow.subtasks, self, f, items)

    @overload
    async def achain(
        self, f: TaskFunction[P, R2], *args: P.args, **kwargs: P.kwargs
    ) -> Task[R2]: ...
    @overload
    async def achain(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    async def achain(self, f: Signature[R2] | Container[R2]) -> Task[R2]: ...
    async def achain(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """`chain()` for async code."""
        return await sync_to_async(serial.door)(workflow.chain, self, f, args, kwargs)

    @overload
    async def athen(
        self, f: TaskFunction[Concatenate[R, P], R2], *args: P.args, **kwargs: P.kwargs
    ) -> Task[R2]: ...
    @overload
    async def athen(
        self,
        f: TaskFunction[..., R2],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Task[R2]: ...
    @overload
    async def athen(self, f: Signature[R2]) -> Task[R2]: ...
    async def athen(self, f: Any, *args: Any, **kwargs: Any) -> Task[Any]:
        """`then()` for async code."""
        return await sync_to_async(serial.door)(
            workflow.chain, self, f, args, kwargs, passes_result=True
        )

    @overload
    async def aerrorback(
        self,
        f: TaskFunction[Concatenate[dict[str, Any], P], Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Self: ...
    @overload
    async def aerrorback(
        self,
        f: TaskFunction[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] = ...,
        /,
    ) -> Self: ...
    @overload
    async def aerrorback(self, f: Signature[Any]) -> Self: ...
    async def aerrorback(self, f: Any, *args: Any, **kwargs: Any) -> Any:
        """`errorback()` for async code."""
        return await sync_to_async(serial.door)(workflow.errorback, self, f, args, kwargs)

    # Ending it, and beginning again.

    def revoke(self) -> bool:
        """At once REVOKED: it, all under it, and its successors with all under them.

        What runs of these can't commit any more, and is stopped within seconds. A task may revoke
        itself, or what is above it: this raises Revoked then. Renews itself; False: it had ended.
        """
        revoked = serial.door(workflow.revoke, self)
        if not self._state.adding:
            self.refresh_from_db()
        return revoked

    async def arevoke(self) -> bool:
        """`revoke()` for async code."""
        return await sync_to_async(self.revoke)()

    def retry(self) -> Self:
        """FAILURE, LOST: run again. INCOMPLETE: what did not succeed under it runs again.

        What was SKIPPED behind these waits again, and what was INCOMPLETE above them. `attempts`
        stay. Returns itself, renewed. Raises NotRetryable for any other status, and where what is
        above it ended otherwise.
        """
        return serial.door(revival.retry, self)

    async def aretry(self) -> Self:
        """`retry()` for async code."""
        return await sync_to_async(serial.door)(revival.retry, self)

    # From inside it, mostly.

    def log(
        self,
        message: object,
        level: int = logging.INFO,
        *,
        publish: bool = True,
        limit: int | None = None,
    ) -> None:
        """A line to `logging` at once, and to the top task's log; never blocks.

        `publish=False` keeps it in the process until the next published line or the end of the
        attempt. `limit=n` trims the top task's log to its newest n lines.
        """
        logs.append(self, message, level, publish=publish, limit=limit)

    def set_progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """A number to watch, rolled up over the tree; never blocks."""
        logs.set_progress(self, done, total, message)
