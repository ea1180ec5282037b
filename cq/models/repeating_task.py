"""`RepeatingTask`: a schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from django.core.exceptions import ValidationError
from django.db import models

from cq import database, firing, repeating, serial
from cq.models.fields import PayloadField
from cq.models.querysets import TasksDatabaseManager
from cq.slots import CatchUp, Kind

if TYPE_CHECKING:
    from cq.models import Task


class CoalesceBy(models.TextChoices):
    """Which task, while it is active, keeps a schedule from making another: its own, any of the function."""

    SCHEDULE = "SCHEDULE"
    FUNCTION = "FUNCTION"


class RepeatingTask(models.Model):
    """A schedule: which function is called, with which arguments, and when.

    Workers fire it. `save()` names it and plans its next run; that stays, and so does what workers
    write, when something else is saved. Rows that come about without `save()` are planned by the
    first worker that sees them.
    """

    Kind = Kind
    CatchUp = CatchUp
    CoalesceBy = CoalesceBy

    name = models.CharField(max_length=200, unique=True, blank=True)
    # What it calls.
    func_name = models.CharField("function", max_length=200)
    args = PayloadField(default=list, blank=True)
    kwargs = PayloadField(default=dict, blank=True)
    queue = models.CharField(max_length=80, blank=True, default="")  # empty: the function's own
    priority = models.SmallIntegerField(null=True, blank=True)  # so here
    result_ttl = models.DurationField(null=True, blank=True)  # and here
    # When.
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CRONTAB)
    crontab = models.CharField(max_length=200, blank=True, default="* * * * *")
    every = models.PositiveIntegerField(default=1)
    timezone = models.CharField(max_length=64, blank=True, default="")  # empty: TIME_ZONE
    start = models.DateTimeField(null=True, blank=True)
    end = models.DateTimeField(null=True, blank=True)
    repeats = models.IntegerField(null=True, blank=True)  # left; -1 or NULL: for ever
    enabled = models.BooleanField(default=True)
    # What keeps a slot from becoming a task.
    coalesce = models.BooleanField(default=True)
    coalesce_by = models.CharField(
        max_length=10,
        choices=CoalesceBy.choices,
        default=CoalesceBy.SCHEDULE,
        db_default=CoalesceBy.SCHEDULE,
    )
    catch_up = models.CharField(
        max_length=10, choices=CatchUp.choices, default=CatchUp.ONE, db_default=CatchUp.ONE
    )
    catch_up_limit = models.PositiveSmallIntegerField(default=100, db_default=100)
    # How it goes.
    next_run = models.DateTimeField(null=True, blank=True, db_index=True)
    planned = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Its next run was found: where there is none, there is none.",
    )
    last_run = models.DateTimeField(
        null=True, blank=True, help_text="The last slot that became a task."
    )
    last_skip = models.DateTimeField(
        null=True, blank=True, help_text="The last slot that did not, as a task was still active."
    )
    run_count = models.IntegerField(default=0, db_default=0)
    skip_count = models.IntegerField(default=0, db_default=0)
    miss_count = models.IntegerField(
        default=0, db_default=0, help_text="Slots that passed, and were not made up for."
    )
    error = models.TextField(
        blank=True, default="", db_default="", help_text="Why it could not fire, the last time."
    )
    declared = PayloadField(null=True, blank=True, help_text="What code says of it.")

    objects = TasksDatabaseManager()

    loaded: dict[str, Any] = {}

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Names it, and plans its next run where that is another now. Raises InvalidSchedule."""
        is_new = self._state.adding or not self.pk or bool(kwargs.get("force_insert"))
        if is_new:
            kwargs["using"] = kwargs.get("using") or database.alias()
        written = repeating.prepare(self, kwargs.get("update_fields"), is_new=is_new)
        kwargs["update_fields"] = written
        super().save(*args, **kwargs)
        repeating.remember(self, written)

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        row = super().from_db(*args, **kwargs)
        repeating.remember(row)
        return row

    def refresh_from_db(  # type: ignore[override]  # what it takes differs between Djangos
        self, using: str | None = None, fields: Iterable[str] | None = None, **kwargs: Any
    ) -> None:
        super().refresh_from_db(using, fields, **kwargs)
        repeating.remember(self, fields)

    def clean(self) -> None:
        """Raises ValidationError, by field, for what could never fire. Names it, where nobody did."""
        found = repeating.problems(self)
        if not found and not self.name:
            self.name = repeating.name_for(self)
        if not self._state.adding and not self._changed(repeating.CALL):
            # The code may have changed since: whoever sets something else need not mend that.
            found = {name: said for name, said in found.items() if name not in repeating.CALL}
        if found:
            raise ValidationError(found)

    def _changed(self, names: Iterable[str]) -> bool:
        """Whether any of these is not as it was read."""
        return any(
            name in self.__dict__ and self.__dict__[name] != self.loaded.get(name) for name in names
        )

    @property
    def is_known(self) -> bool:
        """Whether code here defines its function."""
        return repeating.is_known(self)

    def upcoming(self, number: int = 5) -> Sequence[datetime]:
        """Its next runs, in UTC. Raises InvalidSchedule."""
        return repeating.upcoming(self, number)

    def run_now(self) -> Task[Any]:
        """A task of it, here and now, whatever is due or active. Raises InvalidSchedule."""
        return serial.door(firing.run_now, self)
