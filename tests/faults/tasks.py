"""Task functions of the fault tests; `print` tells the test, which reads the worker's output, how far they are."""

from __future__ import annotations

import os
import signal
import time

from cq import task
from tests.app.models import Effect


def say(word, number):
    print(f"<{word} {number}>", flush=True)


def leave(name, number):
    Effect.objects.create(name=name, number=number)


@task("faults.effect")
def effect(cqt, name, number, before=0.0, after=0.0):
    """Sleeps before and after it has written."""
    say("begun", number)
    time.sleep(before)
    leave(name, number)
    time.sleep(after if cqt.rescues == 0 else 0)
    return number


@task("faults.logging")
def logging(cqt, name, number):
    cqt.log("written")
    cqt.set_progress(1, 1)
    leave(name, number)


@task("faults.loose", atomic=False)
def loose(cqt, name, number, after=0.0):
    """Its effects are committed at once, each by itself."""
    say("begun", number)
    leave(name, number)
    time.sleep(after)


@task("faults.loose_again", atomic=False, rerun_lost=True)
def loose_again(cqt, name, number, after=0.0):
    say("begun", number)
    leave(name, number)
    time.sleep(after if cqt.rescues == 0 else 0)


@task("faults.deadly")
def deadly(cqt, name, number):
    leave(name, number)
    say("dying", number)
    os.kill(os.getpid(), signal.SIGKILL)


@task("faults.meet", atomic=False)
def meet(cqt, name, number, count, patience):
    """Succeeds if `count` of these run at one time."""
    leave(name, number)
    end = time.monotonic() + patience
    while Effect.objects.filter(name=name).count() < count:
        if time.monotonic() > end:
            raise TimeoutError("the others did not come")
        time.sleep(0.02)


@task("faults.tree")
def tree(cqt, name, number, width, depth, before=0.0):  # noqa: PLR0917
    """One effect for each node, whose numbers are those of a heap."""
    time.sleep(before)
    leave(name, number)
    if depth:
        first = number * width + 1
        for child in range(first, first + width):
            cqt.subtask(tree, name, child, width, depth - 1, before)


@task("faults.total")
def total(cqt, name, number):
    """Behind a tree: what of it was there when it had ended."""
    leave(name, number)
    return Effect.objects.filter(name=name).count()
