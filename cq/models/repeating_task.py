"""`RepeatingTask`: a schedule."""

from __future__ import annotations

from django.db import models

from cq.models.fields import PayloadField
from cq.models.querysets import TasksDatabaseManager


class RepeatingTask(models.Model):
    """A schedule. What fires it comes with a later version; the table is here from the first one."""

    class Kind(models.TextChoices):
        CRONTAB = "CRONTAB"
        ONCE = "ONCE"
        SECONDS = "SECONDS"
        MINUTES = "MINUTES"
        HOURS = "HOURS"
        DAYS = "DAYS"
        WEEKS = "WEEKS"
        MONTHS = "MONTHS"
        QUARTERS = "QUARTERS"
        YEARS = "YEARS"

    name = models.CharField(max_length=200, unique=True)
    func_name = models.CharField("function", max_length=200)
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CRONTAB)
    crontab = models.CharField(max_length=200, blank=True, default="* * * * *")
    every = models.PositiveIntegerField(default=1)
    timezone = models.CharField(max_length=64, blank=True, default="")
    args = PayloadField(default=list, blank=True)
    kwargs = PayloadField(default=dict, blank=True)
    queue = models.CharField(max_length=80, blank=True, default="")
    priority = models.SmallIntegerField(default=0)
    result_ttl = models.DurationField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    coalesce = models.BooleanField(default=True)
    repeats = models.IntegerField(null=True, blank=True)
    start = models.DateTimeField(null=True, blank=True)
    end = models.DateTimeField(null=True, blank=True)
    next_run = models.DateTimeField(null=True, blank=True, db_index=True)
    last_run = models.DateTimeField(null=True, blank=True)

    objects = TasksDatabaseManager()

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name
