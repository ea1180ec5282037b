"""The app's place in Django."""

from __future__ import annotations

from django.apps import AppConfig


class CountingConfig(AppConfig):
    name = "demo.counting"
    verbose_name = "Counting"
