"""What tasks of the benchmarks leave behind."""

from __future__ import annotations

from django.db import models


class Effect(models.Model):
    """One row of one task."""

    name = models.CharField(max_length=200)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} {self.number}"
