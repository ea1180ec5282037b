"""The migrations make the tables that the models describe, on every database."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.core.management import call_command
from django.db import connection, models
from django.db.migrations.executor import MigrationExecutor

from cq.models import Task
from tests.app.tasks import add


@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", "cq", "--check", "--dry-run", "-v0")


def test_the_first_migration_is_the_initial_one_and_needs_no_other_app():
    first = import_module("cq.migrations.0001_initial").Migration
    assert (True, []) == (first.initial, first.dependencies)


def test_task_has_plain_bases_there_since_django_52_cannot_write_generic():
    first = import_module("cq.migrations.0001_initial").Migration
    made = {operation.name: operation for operation in first.operations if hasattr(operation, "bases")}
    assert (models.Model,) == made["Task"].bases


@pytest.mark.django_db(transaction=True)
def test_they_go_back_and_forth():
    call_command("migrate", "cq", "zero", "-v0")
    assert "cq_task" not in connection.introspection.table_names()
    call_command("migrate", "cq", "-v0")
    assert "QUEUED" == Task.objects.get(id=add.delay(1).id).status


@pytest.mark.django_db
def test_a_migration_sees_tasks_as_they_were():
    add.delay(1)
    state = MigrationExecutor(connection).loader.project_state(("cq", "0001_initial"))
    old = state.apps.get_model("cq", "Task")
    assert [[1]] == [task.args for task in old.objects.all()]


@pytest.mark.django_db
def test_columns_have_no_constraint_that_would_lock_a_parent():
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, "cq_task")
    assert [] == [name for name, one in found.items() if one["foreign_key"]]


@pytest.mark.django_db
def test_the_claim_has_an_index():
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, "cq_task")
    claimable = found["cq_task_claimable"]["columns"]
    expected = ["queue", "priority", "ready_at", "id"]
    assert expected == [name for name in claimable if name != "status"]


@pytest.mark.django_db(transaction=True)
def test_tasks_of_before_go_with_the_second_one_and_back():
    made = [add.delay(number) for number in range(3)]
    call_command("migrate", "cq", "0001", "-v0")
    call_command("migrate", "cq", "-v0")
    rows = Task.objects.order_by("id")
    assert [(task.id, [n], False) for n, task in enumerate(made)] == [
        (row.id, row.args, row.alone) for row in rows
    ]
