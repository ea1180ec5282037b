"""What is kept of a count, also when its tasks have been pruned."""

from __future__ import annotations

from django.db import models
from django.urls import reverse


class Report(models.Model):
    task_id = models.UUIDField(unique=True, editable=False)
    folder = models.TextField()
    written = models.DateTimeField(auto_now_add=True)
    files = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    lines = models.PositiveBigIntegerField(default=0)
    words = models.PositiveBigIntegerField(default=0)
    definitions = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True, help_text="Why not all was counted.")

    class Meta:
        ordering = ["-written"]

    def __str__(self):
        return self.folder

    def get_absolute_url(self):
        return reverse("counting:count", args=[self.task_id])

    def add_up(self, files, failed):
        self.files = len(files) + failed
        self.failed = failed
        self.lines = sum(file.lines for file in files)
        self.words = sum(file.words for file in files)
        self.definitions = sum(file.definitions for file in files)


class FileCount(models.Model):
    report = models.ForeignKey(Report, models.CASCADE, related_name="counts")
    name = models.TextField()
    lines = models.PositiveIntegerField(default=0)
    words = models.PositiveIntegerField(default=0)
    definitions = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name


class BrokenFile(models.Model):
    """Noted by an errorback as soon as it is known, before there is a report."""

    task_id = models.UUIDField(db_index=True, editable=False)
    name = models.TextField()
    error = models.TextField()
    traceback = models.TextField(blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name
