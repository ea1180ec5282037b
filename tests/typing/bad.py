"""What mypy must refuse: a comment says which error it finds on the line."""

# ruff: noqa: F841
from __future__ import annotations

from datetime import timedelta
from typing import Any

from cq import chain, group, task
from cq.models import Task


@task
def add(cqt: Task[int], a: int, b: int = 1) -> int:
    return a + b


@task
def text_of(cqt: Task[str], number: int, unit: str = "m") -> str:
    return f"{number} {unit}"


@task
async def later(cqt: Task[float], x: float) -> float:
    return x


@task
def total(cqt: Task[int], numbers: list[int | None]) -> int:
    return len(numbers)


@task
def note(cqt: Task[None], error: dict[str, Any], where: str = "") -> None: ...


@task
def note_of_text(cqt: Task[None], error: str) -> None: ...


@task
def nothing(cqt: Task[None]) -> None: ...


def calls(cqt: Task[Any]) -> None:
    add("one")  # E: arg-type
    add()  # E: call-arg
    add.delay("one")  # E: arg-type
    add.delay()  # E: call-arg
    add.delay(1, 2, 3)  # E: call-arg
    add.delay(1, c=2)  # E: call-arg
    add.delay(cqt, 1)  # E: arg-type
    add.delay((1, 2))  # E: arg-type
    add.s("one")  # E: arg-type
    number: str = add(1)  # E: assignment
    task_of_text: Task[str] = add.delay(1)  # E: assignment


async def asynchronous() -> None:
    await add.adelay("one")  # E: arg-type
    await later("one")  # E: arg-type
    await add(1)  # E: misc
    number: float = later(1.0)  # E: assignment


def options() -> None:
    add.using(priority="high")  # E: arg-type
    add.using(prority=3)  # E: call-arg
    add.using(atomic=False)  # E: call-arg
    task(priority="high")  # E: call-overload
    task(run_afer=timedelta(0))  # E: call-overload


def links(made: Task[int]) -> None:
    made.subtask(add, "one")  # E: call-overload
    made.subtask(add)  # E: call-overload
    made.chain(text_of, "one")  # E: call-overload
    made.then(text_of, 5)  # E: call-overload
    made.then(text_of).then(text_of)  # E: call-overload
    made.then(add).then(add, 3, 4)  # E: call-overload
    made.subtask(print, 1)  # E: call-overload
    number: str = made.subtasks(add, [1])  # E: assignment
    found: Task[str] = made.chain(add, 1)  # E: call-overload
    made.nothing()  # E: attr-defined


def workflows(made: Task[int], text: Task[str]) -> None:
    text.then(add)  # E: call-overload
    text_of.delay(1).then(add, 2)  # E: call-overload
    text_of.delay(1).then(total)  # E: call-overload
    group(add)  # E: arg-type
    group(add.s(1), 2)  # E: arg-type
    group(add.s(n) for n in range(3))  # E: arg-type
    group([add.s(1)])  # E: arg-type
    group(add.s("one"))  # E: arg-type
    chain(add.s(1), text_of)  # E: arg-type
    group(text_of.s(1)).delay().then(total)  # E: call-overload
    group(text_of.s(1)).then(total)  # E: call-overload
    group(add.s(1)).delay().then(add)  # E: call-overload
    group(add.s(1)).delay(1)  # E: call-arg
    group(add.s(1)).using(retries=3)  # E: call-arg
    group(add.s(1)).using(fail_fast="yes")  # E: arg-type
    number: Task[int] = group(add.s(1)).delay()  # E: assignment
    made.subtask(group(add.s(1)), 1)  # E: call-overload
    made.then(group(add.s(1)))  # E: call-overload
    made.errorback(group(add.s(1)))  # E: call-overload


def ends(made: Task[int]) -> None:
    made.errorback(nothing)  # E: call-overload
    made.errorback(add, 1)  # E: call-overload
    made.errorback(note_of_text)  # E: call-overload
    made.errorback(note, 1)  # E: call-overload
    made.errorback(note, here="x")  # E: call-overload
    made.errorback(print)  # E: call-overload
    text: Task[str] = made.retry()  # E: assignment
    made.revoke(1)  # E: call-arg


@task  # E: arg-type
def takes_no_task() -> None: ...
