"""The app whose tasks and rows the tests use."""

from __future__ import annotations

import os

from django.apps import AppConfig

from tests.app import mutants


class TestAppConfig(AppConfig):
    name = "tests.app"
    label = "testapp"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        mutants.apply(os.environ.get("CQ_TEST_MUTANT", ""))
