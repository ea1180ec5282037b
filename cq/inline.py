"""Direct calls: a task function runs here and now, without rows, and what it makes runs after it.

The meaning is that of a worker, told in memory: a subtask's failure fails the call, a successor
follows a success, `force_chain` follows anything, a returned task gives its result.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction

from cq import context, database, execution, lifecycle, payload, registry, workflow
from cq.conf import settings
from cq.context import Run
from cq.exceptions import TaskFailed
from cq.options import Options, restored
from cq.registry import Definition
from cq.states import ERROR, Status

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.inline")


def call(
    definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run it and all that it makes. Returns the result; raises its exception, or TaskFailed."""
    tree = _Tree(definition, options, args, kwargs)
    steps = tree.steps()
    step = next(steps, None)
    while step is not None:
        step = _next(steps, step, _called(step))
    return tree.answer()


async def acall(
    definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """The same for an async function, on the caller's loop, with a thread and connection of its own."""
    tree = _Tree(definition, options, args, kwargs)
    steps = tree.steps()
    step = next(steps, None)
    async with ThreadSensitiveContext():
        try:
            while step is not None:
                if step.definition.is_async:
                    outcome = await _acalled(step)
                else:
                    outcome = await sync_to_async(_called)(step)
                step = await sync_to_async(_next)(steps, step, outcome)
        finally:
            await sync_to_async(connections.close_all)()
    return tree.answer()


class _Step:
    """One function to call."""

    def __init__(
        self, definition: Definition, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self.definition, self.run, self.args, self.kwargs = definition, run, args, kwargs


_Outcome = tuple[Any, Exception | None]
_Steps = Generator[_Step, _Outcome, None]


def _next(steps: _Steps, step: _Step, outcome: _Outcome) -> _Step | None:
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def _called(step: _Step) -> _Outcome:
    token = context.enter(step.run)
    try:
        task = step.run.task
        if not step.run.options.atomic:
            return execution.invoke(step.definition, task, step.args, step.kwargs), None
        with transaction.atomic(using=database.alias()):
            return execution.invoke(step.definition, task, step.args, step.kwargs), None
    except Exception as error:  # noqa: BLE001  (raised again, by answer())
        return None, error
    finally:
        context.leave(token)


async def _acalled(step: _Step) -> _Outcome:
    block = transaction.atomic(using=database.alias()) if step.run.options.atomic else None
    token = context.enter(step.run)
    try:
        if block is not None:
            await sync_to_async(block.__enter__)()
        try:
            result = await step.definition.function(step.run.task, *step.args, **step.kwargs)
        except BaseException as error:
            if block is not None:
                await sync_to_async(block.__exit__)(type(error), error, error.__traceback__)
            raise
        if block is not None:
            await sync_to_async(block.__exit__)(None, None, None)
    except Exception as error:  # noqa: BLE001
        return None, error
    else:
        return result, None
    finally:
        context.leave(token)


class _Tree:
    """What was called, and all that came of it."""

    def __init__(
        self,
        definition: Definition,
        options: Options,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        task = database.task_model()(
            func_name=definition.name,
            status=Status.RUNNING,
            queue=options.queue,
            label=options.label,
            meta=dict(options.meta),
        )
        task.root = task
        self._top = Run(task, options, "inline")
        self._step = _Step(definition, self._top, args, kwargs)
        self._tasks: list[Task[Any]] = [task]  # in the order in which they ran
        self._made: list[Task[Any]] = []
        self._errors: dict[Any, Exception] = {}

    def steps(self) -> _Steps:
        """Asks for one call after the other, and is told how each went."""
        yield from self._run(self._step)

    def answer(self) -> Any:
        """The result of the whole."""
        task = self._top.task
        if task.status == Status.SUCCESS:
            return task.result
        if task.id in self._errors:
            raise self._errors[task.id]
        while task.id not in self._errors and (bad := self._bad_below(task)):
            task = bad[0]
        raise TaskFailed(f"{task.func_name}: {task.error}") from self._errors.get(task.id)

    def _run(self, step: _Step) -> _Steps:
        task, run = step.run.task, step.run
        task.run = run
        result, error = yield step
        self._made += run.later
        if error is None and isinstance(result, database.task_model()):
            error = self._adopt(task, result)
        if error is not None:
            self._fail(task, error)
            return
        own = [made for made in run.later if made.previous is task]
        for made in run.later:
            if made.previous is not task:
                yield from self._follow(made, task)
        self._end(task, result)
        for made in own:
            yield from self._follow(made, task)

    def _follow(self, made: Task[Any], maker: Task[Any]) -> _Steps:
        previous = made.previous
        self._tasks.append(made)
        if previous is not None and not (previous.status == Status.SUCCESS or made.force_chain):
            lifecycle.note(made, Status.SKIPPED)
            return
        definition = registry.get(made.func_name)
        run = Run(made, restored(definition.options, made.options), "inline")
        args = made.args
        if made.passes_result:
            args = [previous.result if previous is not None else None, *args]
        lifecycle.note(made, Status.RUNNING)
        yield from self._run(_Step(definition, run, args, made.kwargs))

    def _adopt(self, task: Task[Any], returned: Task[Any]) -> Exception | None:
        """What workflow.adopt does, in memory."""
        if any(returned is one for one in self._waiting_for(task)):
            return workflow.endless(returned)
        task.returned = returned
        assert task.run is not None
        link: Task[Any] | None = returned
        while link is not None and link.id in task.run.made and link.parent_id is None:
            link.parent = task
            link = link.previous
        return None

    def _waiting_for(self, task: Task[Any]) -> list[Task[Any]]:
        """Everything that can't end before `task` does."""
        found = [task]
        for waiting in found:  # which grows meanwhile
            above = [] if waiting.parent is None else [waiting.parent]
            after = [t for t in self._made if t.previous is waiting or t.returned is waiting]
            found += [t for t in above + after if not any(t is one for one in found)]
        return found

    def _end(self, task: Task[Any], result: Any) -> None:
        try:
            if task.returned is not None:
                if not task.returned._state.adding:
                    task.returned.wait()
                result = task.returned.result
            elif task is not self._top.task:
                result = payload.result(result, settings().max_payload)
        except Exception as error:  # noqa: BLE001  (the task's own end)
            self._fail(task, error)
            return
        bad = self._bad_below(task)
        task.result = result
        task.error = "; ".join(f"{t.func_name}: {t.error or t.status}" for t in bad)
        lifecycle.note(task, Status.INCOMPLETE if bad else Status.SUCCESS)

    def _bad_below(self, task: Task[Any]) -> list[Task[Any]]:
        """What keeps `task` from SUCCESS; errors first."""
        bad = [t for t in self._tasks if t.parent is task and t.status in ERROR]
        returned = task.returned
        if returned is not None and returned.status != Status.SUCCESS and returned not in bad:
            bad.append(returned)
        return bad

    def _fail(self, task: Task[Any], error: Exception) -> None:
        self._errors[task.id] = error
        task.error = f"{type(error).__name__}: {error}"
        lifecycle.note(task, Status.FAILURE)
        if task is not self._top.task and task.parent_id is None:
            logger.error("%s, made by a direct call, failed", task.func_name, exc_info=error)
