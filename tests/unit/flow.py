"""Task functions that the tests of workflows share. `failing` holds the numbers that make `job` fail."""

from __future__ import annotations

from cq import task
from tests.app.models import Effect

failing = set()


@task("flow.job")
def job(cqt, x=0):
    Effect.objects.create(name="job", number=x)
    if x in failing:
        raise ValueError(f"bad {x}")
    return x


@task("flow.add")
def add(cqt, a, b=1):
    return a + b


@task("flow.add_to_previous")
def add_to_previous(cqt, b):
    return cqt.previous.result + b


@task("flow.total")
def total(cqt, numbers):
    return sum(number or 0 for number in numbers)


@task("flow.fan")
def fan(cqt, *numbers):
    cqt.subtasks(job, numbers)
    return "fanned"


@task("flow.note")
def note(cqt, error, where="", *, more=""):
    Effect.objects.create(name=f"note {where}{more}")
    return [error, cqt.previous.func_name, cqt.previous.status]


@task("flow.kept", atomic=False)
def kept(cqt, x=0):
    Effect.objects.create(name="kept", number=x)
    if x in failing:
        raise ValueError(f"bad {x}")
    return x


forced = job.using(force_chain=True)


def numbers():
    """What `job` was run with, in order."""
    found = Effect.objects.filter(name="job").order_by("id")
    return list(found.values_list("number", flat=True))


def notes():
    found = Effect.objects.filter(name__startswith="note").order_by("id")
    return list(found.values_list("name", flat=True))
