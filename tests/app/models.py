"""Where tasks of the tests leave what they did."""

from __future__ import annotations

from django.db import models


class Effect(models.Model):
    """One thing that a task did. No unique key: what is done twice has to show as two rows."""

    name = models.CharField(max_length=200)
    number = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} {self.number}"
