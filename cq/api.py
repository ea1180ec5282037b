"""What users import: `@task`, and the task function that it makes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from asgiref.sync import markcoroutinefunction, sync_to_async

from cq import context, declared, inline, registry, serial, submission
from cq.conf import settings
from cq.exceptions import InvalidOption
from cq.options import (
    CallOptions,
    ContainerOptions,
    Options,
    TaskOptions,
    options_of_function,
)
from cq.registry import Definition
from cq.signature import Container, Signature, call, calls, signature, taking_result

if TYPE_CHECKING:
    from cq.models import Task

P = ParamSpec("P")
R = TypeVar("R")
R2 = TypeVar("R2")


class TaskFunction(Generic[P, R]):
    """A registered function: called, it runs here and now; `delay()` makes a task of it."""

    def __init__(self, definition: Definition, options: Options) -> None:
        self.definition = definition
        self.options = options
        functools.update_wrapper(self, definition.function)

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return self.definition.name

    def __repr__(self) -> str:
        return f"<task function {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here and now, without a row; an atomic one in `transaction.atomic()`."""
        return cast("R", inline.call(self.definition, self.options, args, kwargs))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """A call to make later."""
        return Signature(self.definition, args, kwargs, self.options)

    def using(self, **options: Unpack[CallOptions]) -> Self:
        """A copy with other options. Raises InvalidOption."""
        return type(self)(self.definition, self.options.using(options))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """Make a task, in the caller's transaction: one INSERT; workers are told once it commits.

        Raises InvalidCall where the arguments do not fit, NotSerializable where JSON can't hold
        them, UnknownQueue.
        """
        return self.delay_args(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """`delay()` for async code."""
        return await self.adelay_args(args, kwargs)

    def delay_args(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Task[R]:
        """`using(**options).delay(*args, **kwargs)`, for callers that hold the arguments as data."""
        chosen = self.options.using(options) if options else self.options
        made = call(Signature(self.definition, tuple(args), kwargs or {}, chosen))
        task = submission.submit(made)
        return serial.finished(task) if _serially() else task

    async def adelay_args(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Task[R]:
        """`delay_args()` for async code."""
        return await sync_to_async(self.delay_args)(args, kwargs, **options)

    def delay_many(self, items: Iterable[Any]) -> list[Task[R]]:
        """A task for each item: bulk INSERTs in one transaction, one bell per queue.

        A tuple is an argument list, anything else the one argument.
        """
        batches = submission.submit_many(calls(self, items))
        tasks = [task for batch in batches for task in batch]
        if _serially():
            for task in tasks:
                serial.finished(task)
        return tasks

    async def adelay_many(self, items: Iterable[Any]) -> list[Task[R]]:
        """`delay_many()` for async code."""
        return await sync_to_async(self.delay_many)(items)


class AsyncTaskFunction(TaskFunction[P, R]):
    """A registered `async def`: called, it gives a coroutine."""

    def __init__(self, definition: Definition, options: Options) -> None:
        super().__init__(definition, options)
        markcoroutinefunction(self)

    def __call__(  # type: ignore[override]  # what an async function's call gives
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        """A coroutine that runs it on the caller's loop, without a row."""
        return inline.acall(self.definition, self.options, args, kwargs)


class Workflow(Container[R]):
    """A group or chain of calls: one task, never executed, that ends when its members have."""

    def using(self, **options: Unpack[ContainerOptions]) -> Self:
        """A copy with other options. Raises InvalidOption."""
        return dataclasses.replace(self, options=self.chosen(options))

    def delay(self) -> Task[R]:
        """Make the task and its members, in the caller's transaction."""
        return serial.door(submission.submit, call(self))

    async def adelay(self) -> Task[R]:
        """`delay()` for async code."""
        return await sync_to_async(self.delay)()

    @overload
    def chain(self, f: TaskFunction[P, R2], *args: P.args, **kwargs: P.kwargs) -> Workflow[R2]: ...
    @overload
    def chain(
        self, f: TaskFunction[..., R2], args: tuple[Any, ...], kwargs: Mapping[str, Any] = ..., /
    ) -> Workflow[R2]: ...
    @overload
    def chain(self, f: Signature[R2] | Container[R2]) -> Workflow[R2]: ...
    def chain(self, f: Any, *args: Any, **kwargs: Any) -> Workflow[Any]:
        """A chain of this and one more call."""
        return self._and(signature(f, args, kwargs))

    @overload
    def then(
        self, f: TaskFunction[Concatenate[R, P], R2], *args: P.args, **kwargs: P.kwargs
    ) -> Workflow[R2]: ...
    @overload
    def then(
        self, f: TaskFunction[..., R2], args: tuple[Any, ...], kwargs: Mapping[str, Any] = ..., /
    ) -> Workflow[R2]: ...
    @overload
    def then(self, f: Signature[R2]) -> Workflow[R2]: ...
    def then(self, f: Any, *args: Any, **kwargs: Any) -> Workflow[Any]:
        """`chain()`, with the result of this as first argument: `group(…).then(total)` is fan-in."""
        return self._and(taking_result(signature(f, args, kwargs)))

    def _and(self, last: Signature[Any] | Container[Any]) -> Workflow[Any]:
        is_plain = self.kind == "chain" and self.options == Options()
        return Workflow("chain", (*(self.members if is_plain else (self,)), last))


def group(*members: Signature[R] | Container[R]) -> Workflow[list[R | None]]:
    """Calls that run side by side; the result is the list of theirs, in order.

    None stands for a member that failed; the group is INCOMPLETE then. Of nothing: SUCCESS, `[]`.
    Raises InvalidCall for what is no signature.
    """
    return Workflow("group", members)


def chain(*members: Signature[Any] | Container[Any]) -> Workflow[Any]:
    """Calls that run one after the other, as by `task.chain()`; the result is that of the last.

    Raises InvalidCall for what is no signature.
    """
    return Workflow("chain", members)


def repeat(
    when: str | timedelta,
    f: TaskFunction[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Declare a schedule of `f`, as `@task(repeat=…)` does, with arguments and any field of RepeatingTask.

    `when` is a crontab, or a timedelta of whole seconds. Its name, unless given, is the function's
    with the arguments; under that name it is found again when `when` changes. `manage.py migrate`
    and `cq_schedule sync` put it into the table.

    Raises InvalidSchedule, and InvalidCall where the arguments do not fit.
    """
    declared.declare(declared.definition_of(f), when, args, kwargs, fields)


def _serially() -> bool:
    run = context.current()
    return settings().serial and (run is None or run.how != "inline")


# The first parameter is left open: `cqt: Task`, `cqt: Task[int]` and a bare `cqt` all fit.
Sync = Callable[Concatenate[Any, P], R]
Async = Callable[Concatenate[Any, P], Awaitable[R]]


class _Decorator:
    """What `@task(…)` gives."""

    def __init__(self, options: Options) -> None:
        self._options = options

    @overload
    def __call__(self, function: Async[P, R]) -> AsyncTaskFunction[P, R]: ...
    @overload
    def __call__(self, function: Sync[P, R]) -> TaskFunction[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> TaskFunction[..., Any]:
        definition = registry.register(function, self._options)
        if self._options.repeat is not None:
            zone = {"timezone": self._options.timezone}
            declared.declare(definition, self._options.repeat, fields=zone)
        made = AsyncTaskFunction if definition.is_async else TaskFunction
        return made(definition, definition.options)


@overload
def task(function: Async[P, R], /) -> AsyncTaskFunction[P, R]: ...
@overload
def task(function: Sync[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(name: str = ..., /, **options: Unpack[TaskOptions]) -> _Decorator: ...
def task(function: Any = "", /, **options: Any) -> Any:
    """Register a function as a task: `@task`, `@task("mail.send", retries=3)`, `@task(queue="slow")`.

    The function takes its own task first, then its arguments. Raises InvalidOption and, where two
    functions want one name, DuplicateTask.
    """
    if isinstance(function, str):
        if function:
            if "name" in options:
                raise InvalidOption("'name' is given twice.")
            options["name"] = function
        return _Decorator(options_of_function(options))
    return _Decorator(Options())(function)
