"""Which migrations `migrate` takes for ones that make schedules."""

from __future__ import annotations

import types

import pytest
from django.db.migrations import Migration, RunPython

import cq
from cq import migrating
from cq.models import schedule_task

plan = schedule_task
theirs = types.ModuleType("theirs")
theirs.schedule_task = print


def by_name(apps, editor):
    schedule_task(apps, "@daily", "a.b")


def imported_inside(apps, editor):
    from cq.models import schedule_task as make

    make(apps, "@daily", "a.b")


def nested(apps, editor):
    def each():
        return schedule_task(apps, "@daily", "a.b")

    each()


def by_module(apps, editor):
    cq.models.schedule_task(apps, "@daily", "a.b")


def another_of_that_name(apps, editor):
    theirs.schedule_task("x")


def another_imported_inside(apps, editor):
    from theirs import schedule_task

    schedule_task("x")


def by_another_name(apps, editor):
    plan(apps, "@daily", "a.b")


def nothing_of_it(apps, editor):
    apps.get_model("cq", "RepeatingTask").objects.all()


def elsewhere(function):
    """As if it stood in a module that has not imported ours."""
    return types.FunctionType(function.__code__, {"theirs": theirs})


@pytest.mark.parametrize(
    ("function", "is_ours"),
    [
        (by_name, True),
        (imported_inside, True),
        (nested, True),
        (by_module, True),
        (by_another_name, True),
        (elsewhere(imported_inside), True),
        (elsewhere(another_of_that_name), False),
        (elsewhere(another_imported_inside), False),
        (nothing_of_it, False),
        (types.MethodType(by_name, object()), True),
        (print, False),
    ],
)
def test_only_those_that_call_schedule_task_need_the_dependency(function, is_ours):
    step = Migration("0001", "app")
    step.operations = [RunPython(function)]
    assert migrating._schedules(step) is is_ours
