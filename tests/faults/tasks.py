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


@task("faults.quick")
def quick(cqt, name, number):
    """So short that many are claimed at once."""
    leave(name, number)


@task("faults.deadly_to_all")
def deadly_to_all(cqt, name, number):
    """Kills its worker whole."""
    say("dying", number)
    os.killpg(0, signal.SIGKILL)


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


@task("faults.late")
def late(cqt, name, number, before=0.0):
    """Its last statement adds one beside it."""
    time.sleep(before)
    leave(name, number)
    cqt.parent.subtask(effect, name, -number)


@task("faults.hub")
def hub(cqt, name, number, width):
    """Of its children the first adds one more."""
    leave(name, number)
    cqt.subtask(late, name, number + 1, 0.01)
    for child in range(2, width + 1):
        cqt.subtask(effect, name, number + child, 0.003 * child)


@task("faults.failing")
def failing(cqt, name, number, before=0.0):
    time.sleep(before)
    leave(name, number)
    raise ValueError(number)


@task("faults.answer")
def answer(cqt, error, name, number):
    """An errorback."""
    leave(name, number)


@task("faults.failing_hub")
def failing_hub(cqt, name, number, width, failures):
    """Of its children some fail, and each of those has an errorback."""
    leave(name, number)
    for child in range(1, width + 1):
        if child <= failures:
            cqt.subtask(failing, name, number + child).errorback(answer, name, -(number + child))
        else:
            cqt.subtask(effect, name, number + child)


@task("faults.strands")
def strands(cqt, count, length):
    """The root of strands: each goes on for `length` tasks, one of them at a time."""
    for _ in range(count):
        cqt.subtask(strand, length)


@task("faults.strand")
def strand(cqt, left):
    """Its last statement adds the next of its strand: beside it or under it."""
    say("strand", f"{cqt.id.hex} {time.time():.3f}")
    leave(cqt.id.hex, left)
    time.sleep(0.03)
    if left:
        (cqt if left % 2 else cqt.parent).subtask(strand, left - 1)


@task("faults.link")
def link(cqt, value, name, number):
    """One of a chain: what it makes of the result of the one before it is its own."""
    leave(name, number)
    time.sleep(0.01)
    return after_link(value, number)


def after_link(value, number):
    return (31 * (value or 0) + number) % 1_000_003


@task("faults.slot")
def slot(cqt, name, base, first):
    """Its number says for which slot it is."""
    leave(name, base + round((cqt.scheduled_for - first).total_seconds()))
