"""Direct calls: a task function runs here and now, without rows, and what it makes runs after it.

The meaning is that of a worker, told in memory: a subtask's failure fails the call, a successor
follows a success, `force_chain` follows anything, a returned task gives its result, retries are at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections, transaction

from cq import (
    context,
    database,
    execution,
    lifecycle,
    payload,
    registry,
    retry,
    settling,
    submission,
    tracebacks,
    workflow,
)
from cq.conf import settings
from cq.context import Run
from cq.exceptions import Revoked, TaskFailed, TooDeep
from cq.options import Options, restored
from cq.registry import Definition
from cq.states import ANSWERED, DONE, ERROR, Status
from cq.submission import Place

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


_Outcome = tuple[Any, Exception | Revoked | None]
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
    except (Exception, Revoked) as error:  # noqa: BLE001  (raised again, by answer())
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
    except (Exception, Revoked) as error:  # noqa: BLE001
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
            atomic=options.atomic,
            fail_fast=options.fail_fast,
        )
        task.root = task
        self._top = Run(task, options, "inline")
        self._step = _Step(definition, self._top, args, kwargs)
        self._below: dict[Any, list[Task[Any]]] = {}  # by parent, in the order in which they ran
        self._made: list[Task[Any]] = []
        self._released: list[Task[Any]] = []  # by what has just ended
        self._behind: dict[Any, list[Task[Any]]] = {}  # by what has not ended yet
        self._revoked: set[Any] = set()
        self._errors: dict[Any, Exception | Revoked] = {}

    def steps(self) -> _Steps:
        """Asks for one call after the other, and is told how each went."""
        yield from self._run(self._step)
        yield from self._follow_all([])

    def answer(self) -> Any:
        """The result of the whole."""
        task = self._top.task
        if task.status == Status.SUCCESS:
            return task.result
        if task.id in self._errors:
            raise self._errors[task.id]
        while task.id not in self._errors and (bad := self._bad_below(task)):
            task = bad[0]
        error = self._errors.get(task.id)
        raise TaskFailed(f"{task.func_name}: {task.error or task.status}") from error

    def _run(self, step: _Step) -> _Steps:
        """One task, with all under it. What is chained to it is released, for the caller to follow."""
        task = step.run.task
        while True:
            run, given = step.run, list(task.errorbacks)
            task.run = run
            result, error = yield step
            self._made += run.later
            if error is None and isinstance(result, database.task_model()):
                error = self._adopt(task, result)
            if error is None or not self._is_to_be_retried(run, error):
                break
            task.errorbacks = given  # each run gives its own
            yield from self._follow_all(self._left_by(run))
            step = _Step(step.definition, self._begun(task, run.options), step.args, step.kwargs)
        own = [made for made in run.later if made.previous is task]
        if error is None:
            yield from self._follow_all([made for made in run.later if made.previous is not task])
            self._end(task, result)
        else:
            self._fail(task, error)
            yield from self._follow_all(self._left_by(run))
        yield from self._answer(task)
        # A transaction that was rolled back made nothing.
        self._released += [] if error is not None and task.atomic else own
        self._released += self._behind.pop(task.id, [])

    def _is_to_be_retried(self, run: Run, error: Exception | Revoked) -> bool:
        """At once, as under CQ_SERIAL. Not what was called: its caller gets the exception."""
        task = run.task
        if task is self._top.task or isinstance(error, Revoked):
            return False
        try:
            if retry.next_delay(run.options, task.retries, task.failures, error) is None:
                return False
        except Exception:  # the user's predicate or delay
            logger.exception("%s: whether to retry could not be decided", task.func_name)
            return False
        text, _ = tracebacks.describe(error, [])
        task.attempts = [*task.attempts, lifecycle.attempt(task, Status.RETRY, text)]
        task.failures += 1
        return True

    def _left_by(self, run: Run) -> list[Task[Any]]:
        """What a run that failed made elsewhere: a transaction that was rolled back made nothing."""
        task = run.task
        if task.atomic:
            return []
        return [t for t in run.later if t.parent is not task and t.previous is not task]

    def _follow_all(self, made: Sequence[Task[Any]]) -> _Steps:
        """One after the other, each with what is chained to it: in a loop, as chains may be long."""
        work = deque([*self._taken(), *made])
        while work:
            yield from self._follow(work.popleft())
            work.extendleft(reversed(self._taken()))

    def _taken(self) -> list[Task[Any]]:
        released, self._released = self._released, []
        return released

    def _follow(self, made: Task[Any]) -> _Steps:
        previous = None if made.is_errorback else made.previous
        is_revoked = self._is_revoked(made)
        if previous is not None and previous.status not in DONE and not is_revoked:
            self._behind.setdefault(previous.id, []).append(made)
            return
        self._below.setdefault(made.parent_id, []).append(made)
        if is_revoked:
            self._revoked.add(made.id)
        if is_revoked or self._fails_fast(made):
            self._end_unrun(made, Status.REVOKED)
        elif not (previous is None or made.force_chain or previous.status == Status.SUCCESS):
            self._end_unrun(made, Status.SKIPPED)
        elif made.container:
            lifecycle.note(made, Status.WAITING)
            yield from self._fill(made)
        else:
            lifecycle.note(made, Status.RUNNING)
            definition = registry.get(made.func_name)
            run = self._begun(made, restored(definition.options, made.options))
            before = [made.previous and made.previous.result] if made.passes_result else []
            yield from self._run(_Step(definition, run, [*before, *made.args], made.kwargs))

    def _end_unrun(self, made: Task[Any], status: Status) -> None:
        lifecycle.note(made, status)
        self._released += self._behind.pop(made.id, [])

    def _begun(self, made: Task[Any], options: Options) -> Run:
        run = made.run = Run(made, options, "inline")
        run.revokes = self._top.revokes  # one list for the whole tree
        return run

    def _fill(self, container: Task[Any]) -> _Steps:
        """The members of a group or chain, and its end."""
        run = self._begun(container, Options())
        previous: Task[Any] | None = None
        for number, columns in enumerate(container.members):
            behind = previous if container.container == "chain" else None
            place = Place(parent=container, previous=behind, member_no=number)
            previous = self._make(run, columns, place)
        members = list(run.later)
        yield from self._follow_all(members)
        results = [member.result if member.is_ok else None for member in members]
        last = members[-1].result if members else None
        self._end(container, results if container.container == "group" else last)
        yield from self._answer(container)
        self._released += self._behind.pop(container.id, [])

    def _answer(self, task: Task[Any]) -> _Steps:
        """The errorbacks of a task that ended badly, told what settling tells them."""
        if task.status not in ANSWERED:
            return
        run = self._begun(task, Options())
        answers = []
        for kept in task.errorbacks:
            columns, place = settling.as_answer(task, kept["call"])
            answers.append(self._make(run, columns, place))
        yield from self._follow_all(answers)

    def _make(self, run: Run, columns: Mapping[str, Any], place: Place) -> Task[Any]:
        token = context.enter(run)
        try:
            made = submission.make(columns, place)
        finally:
            context.leave(token)
        self._made.append(made)
        return made

    def _is_revoked(self, made: Task[Any]) -> bool:
        """By revoke(): itself, what it is under, or what it is chained to."""
        ids = {made.id, made.parent_id, made.previous_id} - {None}
        return bool(ids & (self._revoked | set(self._top.revokes)))

    def _fails_fast(self, made: Task[Any]) -> bool:
        parent, spared = made.parent, made.is_errorback or (made.force_chain and made.previous_id)
        if parent is None or not parent.fail_fast or spared:
            return False
        return any(t.status in ERROR for t in self._below.get(parent.id, []))

    def _adopt(self, task: Task[Any], returned: Task[Any]) -> Exception | Revoked | None:
        """What workflow.adopt does, in memory."""
        if any(returned is one for one in self._waiting_for(task)):
            return workflow.endless(returned)
        task.returned = returned
        assert task.run is not None
        link: Task[Any] | None = returned
        while link is not None and link.id in task.run.made and link.parent_id is None:
            try:
                submission.check_depth(link.func_name, task.depth + 1 + link.depth)
            except TooDeep as error:
                return error
            link.parent, link.root, link.depth = task, task.root, task.depth + 1
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
        if task.id in self._top.revokes:  # by something under it
            self._revoked.add(task.id)
            lifecycle.note(task, Status.REVOKED)
            return
        bad = self._bad_below(task)
        task.result = result
        task.error = "; ".join(f"{t.func_name}: {t.error or t.status}" for t in bad)
        lifecycle.note(task, Status.INCOMPLETE if bad else Status.SUCCESS)

    def _bad_below(self, task: Task[Any]) -> list[Task[Any]]:
        """What keeps `task` from SUCCESS; errors first."""
        bad = [t for t in self._below.get(task.id, []) if t.status in ERROR]
        returned = task.returned
        if returned is not None and returned.status != Status.SUCCESS and returned not in bad:
            bad.append(returned)
        return bad

    def _fail(self, task: Task[Any], error: Exception | Revoked) -> None:
        self._errors[task.id] = error
        if isinstance(error, Revoked):
            self._revoked.add(task.id)
            lifecycle.note(task, Status.REVOKED)
            return
        task.error, task.traceback = tracebacks.describe(error, [])
        lifecycle.note(task, Status.FAILURE)
        if task is not self._top.task and task.parent_id is None:
            logger.error("%s, made by a direct call, failed", task.func_name, exc_info=error)
