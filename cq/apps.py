"""The Django app: finds the project's task functions once everything is loaded."""

from __future__ import annotations

from django.apps import AppConfig


class CQConfig(AppConfig):
    name = "cq"
    verbose_name = "Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from cq import checks, migrating, registry  # apps must be loaded first

        checks.register()
        migrating.connect(self)
        registry.discover()
