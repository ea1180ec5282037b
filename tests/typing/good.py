"""What mypy must accept, and the types it must find."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from cq import AsyncTaskFunction, Retry, Signature, Workflow, chain, group, task
from cq.models import Task


@task
def add(cqt: Task[int], a: int, b: int = 1) -> int:
    return a + b


@task
def bare(cqt: Any, name: str) -> list[str]:
    return [name]


@task("typing.named", retries=3, retry_delay=[1, timedelta(minutes=1)], queue="typing")
def named(cqt: Task[str], x: int) -> str:
    cqt.log("line", publish=False, limit=10)
    cqt.set_progress(1, 2, "half")
    if x > 5:
        raise Retry(timedelta(seconds=3))
    return str(cqt.id)


@task(atomic=False, sensitive=("key",), meta={"a": 1}, result_ttl=None)
def with_options(cqt: Task[None], *, key: str) -> None:
    cqt.subtask(add, 1, 2)


@task
async def later(cqt: Task[float], x: float) -> float:
    child = await cqt.asubtask(add, 1)
    assert_type(child, Task[int])
    assert_type(await child.achain(named, 1), Task[str])
    assert_type(await child.athen(named), Task[str])
    assert_type(await cqt.asubtasks(add, [1, (2, 3)]), int)
    assert_type(await later(1.0), float)
    return x


@task
def text_of(cqt: Task[str], number: int, unit: str = "m") -> str:
    return f"{number} {unit}"


@task
def total(cqt: Task[int], numbers: list[int | None]) -> int:
    return sum(n for n in numbers if n is not None)


@task
def count(cqt: Task[int], found: list[Any]) -> int:
    return len(found)


@task
def note(cqt: Task[None], error: dict[str, Any], where: str = "") -> None:
    cqt.log(f"{where}: {error['type']}")


@task
async def anote(cqt: Task[str], error: dict[str, Any]) -> str:
    return str(error["message"])


def calls() -> None:
    assert_type(add(1), int)
    assert_type(add(1, b=2), int)
    assert_type(add.delay(1, 2), Task[int])
    assert_type(add.delay(a=1, b=2), Task[int])
    assert_type(bare.delay("x"), Task[list[str]])
    assert_type(with_options.delay(key="k"), Task[None])
    assert_type(add.delay_args([1], {"b": 2}, priority=3), Task[int])
    assert_type(add.delay_many([1, (2, 3)]), list[Task[int]])
    assert_type(add.s(1, 2), Signature[int])
    assert_type(add.name, str)


def options() -> None:
    assert_type(add.using(priority=3).delay(1), Task[int])
    copy = named.using(run_after=datetime(2026, 1, 1, tzinfo=UTC), expires=60, label="x")
    assert_type(copy.delay(1), Task[str])
    add.using(retry_exceptions=(ValueError, KeyError), retry_delay=[1, 2], timeout=5)


def links() -> None:
    first = add.delay(1)
    assert_type(first.then(text_of, "km"), Task[str])
    assert_type(first.then(text_of, unit="km"), Task[str])
    assert_type(first.then(add).then(add, 3).then(text_of), Task[str])
    assert_type(first.chain(bare, "x"), Task[list[str]])
    assert_type(first.subtask(add, 1, b=2), Task[int])
    assert_type(first.subtask(add, (1, 2)), Task[int])
    assert_type(first.subtask(bare, ("x",), {}), Task[list[str]])
    assert_type(first.chain(text_of, (4,), {"unit": "m"}), Task[str])
    assert_type(first.chain(add.s(4)), Task[int])
    assert_type(first.subtask(later, 1.5), Task[float])
    assert_type(first.subtasks(add, [1, 2]), int)
    for child in first.subtasks.all():
        child.wait()


def workflows() -> None:
    numbers = group(add.s(1), add.s(2, b=3))
    assert_type(numbers, Workflow[list[int | None]])
    assert_type(numbers.delay(), Task[list[int | None]])
    assert_type(numbers.delay().then(total), Task[int])
    assert_type(numbers.then(total), Workflow[int])
    assert_type(numbers.then(total).then(text_of).delay(), Task[str])
    assert_type(numbers.chain(add, 1, b=2), Workflow[int])
    assert_type(numbers.delay().then(total.using(force_chain=True)).then(text_of), Task[str])
    assert_type(numbers.using(fail_fast=True, label="x").delay(), Task[list[int | None]])
    assert_type(group(*(add.s(n) for n in range(3))), Workflow[list[int | None]])
    nested = group(numbers, group(add.s(4)))
    assert_type(nested.delay(), Task[list[list[int | None] | None]])
    assert_type(chain(add.s(1), text_of.s(1)), Workflow[Any])
    mixed = group(chain(add.s(1), text_of.s(1)), text_of.s(2))
    assert_type(mixed.delay().then(count), Task[int])
    made = add.delay(1)
    assert_type(made.subtask(numbers), Task[list[int | None]])
    assert_type(made.subtask(numbers).then(total), Task[int])
    assert_type(made.chain(numbers), Task[list[int | None]])
    assert_type(made.subtasks(add.using(priority=1), ((n, n) for n in range(5))), int)


def ends() -> None:
    made = add.delay(1)
    assert_type(made.errorback(note), Task[int])
    assert_type(made.errorback(note, "here").errorback(note, where="there"), Task[int])
    assert_type(made.errorback(anote).then(text_of), Task[str])
    assert_type(made.errorback(note, ("here",), {}), Task[int])
    assert_type(made.errorback(note.using(priority=5)), Task[int])
    assert_type(made.revoke(), bool)
    assert_type(made.retry(), Task[int])
    assert_type(made.retry().wait(5), Task[int])
    assert_type(made.revoked, bool)


def state() -> None:
    made = add.delay(1)
    assert_type(made.wait(timeout=5), Task[int])
    assert_type(made.is_done, bool)
    assert_type(made.is_ok, bool)
    assert_type(made.position(), int | None)
    assert_type(made.progress, tuple[float, float | None, str])
    assert_type(made.logs, list[dict[str, Any]])
    assert_type(made.error, str)
    if made.status == Task.STATUS_COMPLETE:
        made.refresh_from_db()


async def asynchronous() -> None:
    made = await add.adelay(1)
    assert_type(made, Task[int])
    assert_type(await made.async_wait(5), Task[int])
    assert_type(await add.adelay_many([1]), list[Task[int]])
    assert_type(later.delay(1.0), Task[float])
    assert_type(await later.adelay(1.0), Task[float])
    coroutine: Coroutine[Any, Any, float] = later(1.0)
    assert_type(await coroutine, float)
    function: AsyncTaskFunction[[float], float] = later
    assert_type(await function(1.0), float)
    assert_type(await group(add.s(1)).adelay(), Task[list[int | None]])
    assert_type(await made.aerrorback(note, "here"), Task[int])
    assert_type(await made.arevoke(), bool)
    assert_type(await made.aretry(), Task[int])
