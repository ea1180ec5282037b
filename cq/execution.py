"""Run one task, from its claim to its end: the only caller of task functions.

The user's exceptions become data here. Nothing that a function does may escape as anything but an
outcome on its row; a run that is no longer the task's own leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import enum
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from cq import (
    context,
    database,
    interrupts,
    lifecycle,
    logs,
    payload,
    registry,
    retry,
    settling,
    tracebacks,
    workflow,
)
from cq.conf import settings
from cq.context import How, Run
from cq.exceptions import Fenced, InvalidCall, Revoked, UnknownTask
from cq.finishing import End, Finisher
from cq.lifecycle import Outcome
from cq.options import restored
from cq.registry import Definition
from cq.signature import Container, Signature, has_secrets, hidden
from cq.states import Status

if TYPE_CHECKING:
    from cq.models import Task

logger = logging.getLogger("cq.execution")

LEFTOVERS = 5.0  # seconds that asyncio tasks which a run left behind get to be cancelled
TRIES = 6
"""How often an atomic task is run when the database, and not the task, is to blame."""


class WorkerBroken(Exception):
    """An end could not be written at all: this process must go, so that its tasks are rescued."""


class _Next(enum.Enum):
    DONE = "the end is written, and concerns nobody but its parent"
    SETTLE = "the end is written, and concerns others"
    AGAIN = "rolled back, and to be run again at once"
    BEHIND = "the end is on its way, and what it means for the parent is seen to behind it"
    GONE = "another worker has the task"
    HELD = "somebody else holds the row, for a moment or for long"


def execute(task: Task[Any], how: How = "worker", finisher: Finisher | None = None) -> None:
    """Run a claimed task here and now. Raises nothing but WorkerBroken.

    An end that has nothing to be committed with is left to `finisher`, where there is one.
    """
    step: _Next | None = None
    for tries in range(TRIES + 1):
        attempt = _Attempt(task, how, tries, finisher)
        step = attempt.open()
        if step is None:
            result, error = _call(attempt)
            step = attempt.close(result, error)
        if step is not _Next.AGAIN:
            break
    _settle(task, step, finisher)


async def aexecute(task: Task[Any], finisher: Finisher | None = None) -> None:
    """The same for an async function, whose transaction is entered and left in its own thread."""
    step: _Next | None = None
    for tries in range(TRIES + 1):
        attempt = _Attempt(task, "worker", tries, finisher)
        step = await sync_to_async(attempt.open)()
        if step is None:
            result, error = await _acall(attempt)
            step = await sync_to_async(attempt.close)(result, error)
        if step is not _Next.AGAIN:
            break
    if step not in (_Next.BEHIND, _Next.GONE):
        await sync_to_async(_settle)(task, step, finisher)


def _call(attempt: _Attempt) -> tuple[Any, BaseException | None]:
    if attempt.how == "worker":  # what it sets in its context must not be seen by the next task
        return contextvars.copy_context().run(_call_here, attempt)
    return _call_here(attempt)


def _call_here(attempt: _Attempt) -> tuple[Any, BaseException | None]:
    token = context.enter(attempt.run)
    run, args = attempt.run, (attempt.args, attempt.kwargs)
    try:
        if attempt.how == "worker":
            return interrupts.call(run, partial(invoke, attempt.definition, run.task, *args))
        return invoke(attempt.definition, run.task, *args), None
    except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt fail the task, too)
        return None, error
    finally:
        context.leave(token)


async def _acall(attempt: _Attempt) -> tuple[Any, BaseException | None]:
    token = context.enter(attempt.run)
    call = asyncio.create_task(_awaited(attempt))  # its own, which is all that it can cancel
    try:
        return await call
    except asyncio.CancelledError as error:  # by itself, and then it returned
        return None, error
    finally:
        await _end_leftovers(attempt.run, call)
        context.leave(token)


def keep_track(loop: asyncio.AbstractEventLoop) -> None:
    """Know which asyncio tasks a run begins on `loop`."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        made: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **kwargs)
        run = context.current()
        if run is not None:
            run.spawned.add(made)
            made.add_done_callback(run.spawned.discard)
        return made

    loop.set_task_factory(make)


async def _end_leftovers(run: Run, call: asyncio.Task[Any]) -> None:
    """What a run left on the loop would write into the next one's transaction."""
    left = [made for made in run.spawned if made is not call and not made.done()]
    for made in left:
        made.cancel()
    if left:
        logger.warning(
            "%s %s ended with %d asyncio task(s) under way; they were cancelled",
            run.task.func_name,
            run.task.id,
            len(left),
        )
        await asyncio.wait(left, timeout=LEFTOVERS)


async def _awaited(attempt: _Attempt) -> tuple[Any, BaseException | None]:
    function = attempt.definition.function
    call = partial(function, attempt.run.task, *attempt.args, **attempt.kwargs)
    return await interrupts.acall(attempt.run, call)


def invoke(definition: Definition, task: Task[Any], args: Any, kwargs: Any) -> Any:
    """Call the function; an async one on a loop of its own."""
    if definition.is_async:
        return async_to_sync(definition.function)(task, *args, **kwargs)
    return definition.function(task, *args, **kwargs)


def _settle(task: Task[Any], step: _Next | None, finisher: Finisher | None = None) -> None:
    """What the end means for others; the sweep does it where this can't."""
    if step in (_Next.BEHIND, _Next.GONE):
        return
    if step is _Next.SETTLE:
        settling.try_to(settling.settle, task.id)
    elif step is _Next.DONE and task.parent_id is not None:
        if finisher is not None:
            finisher.look_above(task.parent_id)
        else:
            settling.try_to(settling.complete_above, task.parent_id)
    elif step is _Next.DONE and (task.attempts or (task.run is not None and task.run.logged)):
        settling.try_to(logs.store, task.id)
    if task.run is not None:
        for task_id in task.run.concerned:
            settling.try_to(settling.settle, task_id)


def _is_expired(task: Task[Any]) -> bool:
    """Not begun in time. What has begun once may be tried again however late."""
    if task.expires_at is None or task.started is None or task.failures or task.rescues:
        return False
    return bool(task.expires_at <= task.started)


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _copied(args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    if _PLAIN.issuperset(map(type, args)) and _PLAIN.issuperset(map(type, kwargs.values())):
        return list(args), dict(kwargs)  # forty times quicker
    return copy.deepcopy((args, kwargs))


class _Attempt:
    """One run: what it needs, its transaction, and its end."""

    definition: Definition
    run: Run
    args: list[Any]
    kwargs: dict[str, Any]
    _link: BaseDatabaseWrapper
    """This thread's connection."""

    def __init__(
        self, task: Task[Any], how: How, tries: int, finisher: Finisher | None = None
    ) -> None:
        self.task = task
        self.how = how
        self.tries = tries
        self.finisher = finisher
        self._block: Any = None
        self._savepoint: str | None = None
        self._depth = 0
        self._mark = 0

    # Begin.

    def open(self) -> _Next | None:
        """Look up the function, begin the transaction. None: go on and call it."""
        task = self.task
        try:
            lifecycle.begin(task)
            self.definition = registry.get(task.func_name)
            self.run = task.run = Run(task, self.definition.options, self.how)
            self.run.options = restored(self.definition.options, task.options)
            names = self.definition.names[int(task.passes_result) :]
            if self.run.options.capture_logs:
                logs.capture()
            sensitive = self.run.options.sensitive
            may = (
                self.run.options is not self.definition.options or self.definition.may_take_secrets
            )
            self.run.has_secrets = may and has_secrets(task, sensitive, names)
            if self.run.has_secrets:
                self.run.hide = hidden(task, sensitive, names)
            if task.is_stray:
                settling.revoke(task.id)
                return _Next.GONE
            if _is_expired(task):
                return self._refuse("expired before it began")
            self._link = database.connection()
            self._depth = len(self._link.atomic_blocks)
            # What a function does to its arguments must not reach its next attempt.
            self.args, self.kwargs = _copied(task.args, task.kwargs)
            if task.passes_result:
                self.args = [task.previous.result if task.previous else None, *task.args]
            self._begin()
        except UnknownTask as error:
            return self._refuse(str(error))
        except Exception as error:
            if self._is_passing(error):
                return self._again(error)
            logger.exception("%s %s could not begin", task.func_name, task.id)
            self._roll_back(error)
            return self._write(self._failure(error))
        return None

    def _refuse(self, error: str) -> _Next:
        return self._write(Outcome(status=Status.FAILURE, error=error, begun=False))

    def _begin(self) -> None:
        if not self.task.atomic:
            if self.how == "serial" and self._depth:
                self._savepoint = self._link.savepoint()
            return
        mode = "IMMEDIATE" if self.tries else "DEFERRED"
        with database.begin_as(mode, self._link):
            block = transaction.atomic(using=self._link.alias)
            block.__enter__()
        self._block = block
        self._mark = database.touch_mark(self._link)

    # End.

    def close(self, result: Any, error: BaseException | None) -> _Next:
        """Write the end: with the effects where it succeeded, without them where it failed."""
        if self.run.interrupted:
            error = interrupts.told(self.run, error)
            interrupts.drop_connections()
        if self.run.revokes:
            return self._revoke(error)
        if error is None:
            step, error = self._succeed(result)
            if step is not None:
                return step
        assert error is not None
        if isinstance(error, Fenced) or self.run.revoked:
            return self._fenced(error)
        if self._is_passing(error):
            return self._again(error)
        self._roll_back(error)
        return self._write(self._failure(error))

    def _succeed(self, result: Any) -> tuple[_Next | None, BaseException | None]:
        try:
            self._check_transaction()
            outcome = self._outcome(result)
            if self._block is not None and self.how == "worker" and not self._touched():
                self._leave()  # there is nothing to commit; on SQLite, its snapshot ends
                if self._may_end_behind(outcome):
                    return self._end_behind(outcome), None
            if self._block is None:
                return self._write(outcome), None
            concerns_others = self._finish(outcome)
        except BaseException as error:  # noqa: BLE001
            return None, error
        step = _Next.SETTLE if concerns_others else _Next.DONE
        try:
            self._leave()
        except BaseException as error:
            # The COMMIT failed, its answer was lost, or a callback of on_commit() raised after it.
            if not self._committed():
                return None, error
            logger.exception(
                "%s %s was committed; what followed failed", self.task.func_name, self.task.id
            )
        return step, None

    def _touched(self) -> bool:
        return database.touched_since(self._mark, self._link)

    def _may_end_behind(self, outcome: Outcome) -> bool:
        """Whether nothing that follows the end has to wait for it here."""
        task, run = self.task, self.run
        says_more = run.logged or run.progress is not None or run.concerned or task.attempts
        return self.finisher is not None and lifecycle.is_plain(task, outcome) and not says_more

    def _end_behind(self, outcome: Outcome) -> _Next:
        assert self.finisher is not None
        self.finisher.put(End(self.task, outcome, partial(self._write_alone, outcome)))
        return _Next.BEHIND

    def _write_alone(self, outcome: Outcome, unsure: bool) -> bool:
        """From the finisher, where it could not be written with others. False: not now."""
        step = self._write(outcome, tries=int(unsure), waits=False)
        if step is _Next.HELD:
            return False
        _settle(self.task, step, self.finisher)
        return True

    def _finish(self, outcome: Outcome) -> bool:
        if self.task.run is not None:
            outcome.changes |= logs.at_end(self.task.run)
        if outcome.returned is not None:
            workflow.adopt(self.run, outcome.returned)
        if outcome.begun and outcome.status != Status.RETRY:  # another run adds its own
            outcome.errorbacks = self.run.errorbacks
        return settling.finish(self.task, outcome)

    def _leave(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(None, None, None)

    def _check_transaction(self) -> None:
        """The transaction that was begun is the one that would be committed, whatever was done to it."""
        link = self._link
        expected = self._depth + (1 if self._block is not None else 0)
        if link.closed_in_transaction:
            raise RuntimeError(
                "the task closed the database connection that its transaction was on"
            )
        if len(link.atomic_blocks) > expected:
            raise RuntimeError("the task left a transaction.atomic() block open")
        if len(link.atomic_blocks) < expected or (expected and link.needs_rollback):
            raise RuntimeError(
                "the task's transaction was broken by an error that it caught; "
                "put transaction.atomic() around what may fail"
            )
        if self._switched_autocommit_off(link):
            raise RuntimeError("the task switched autocommit off, and left it so")

    @staticmethod
    def _switched_autocommit_off(link: BaseDatabaseWrapper) -> bool:
        return link.connection is not None and not link.in_atomic_block and not link.autocommit

    def _outcome(self, result: Any) -> Outcome:
        run = self.run
        if isinstance(result, database.task_model()):
            workflow.check_returned(run.task, result)
            return Outcome(status=Status.SUCCESS, returned=result, concerns_others=True)
        if isinstance(result, (Signature, Container)):
            raise InvalidCall(f"it returned {result!r}, a call that was not made: delay() it.")
        stored = payload.result(result, settings().max_payload)
        return Outcome(status=Status.SUCCESS, result=stored, concerns_others=run.concerns_others)

    def _failure(self, error: BaseException) -> Outcome:
        task = self.task
        text, trace = tracebacks.describe(error, self.run.hide)
        try:
            delay = retry.next_delay(self.run.options, task.retries, task.failures, error)
        except Exception as broken:  # noqa: BLE001  (the user's predicate or delay)
            delay = None
            more, more_trace = tracebacks.describe(broken, self.run.hide)
            text += f"; and whether to retry could not be decided: {more}"
            trace += f"\n\n{more_trace}"
        # Of the described error, in which sensitive values are hidden, not of the exception itself.
        if delay is None:
            logger.error("%s %s failed: %s\n%s", task.func_name, task.id, text, trace)
            return Outcome(status=Status.FAILURE, error=text, traceback=trace)
        again = f"{delay.total_seconds():g}"
        logger.warning(
            "%s %s failed, and is tried again in %s s: %s", task.func_name, task.id, again, text
        )
        return Outcome(status=Status.RETRY, error=text, traceback=trace, delay=delay)

    def _write(self, outcome: Outcome, *, tries: int = 0, waits: bool = True) -> _Next:
        """An end without effects, in a transaction of its own: what must itself be unable to fail.

        Without `waits`, HELD where somebody holds the row.
        """
        refused = False
        while True:
            try:
                return self._write_once(outcome, waits=waits)
            except Fenced as error:
                if tries and self._is_written(outcome):  # by the try whose answer was lost
                    return _Next.SETTLE
                return self._fenced(error)
            except Exception as error:
                if not self._is_passing(error, atomic=True):
                    logger.exception("the end of %s %s", self.task.func_name, self.task.id)
                    if outcome.error == _UNWRITABLE:
                        raise WorkerBroken from error
                    if refused:
                        outcome = Outcome(status=Status.FAILURE, error=_UNWRITABLE)
                    refused = True
                self._roll_back(error)
                if refused and self.how == "worker":  # the task may have done it to the connection
                    database.discard(database.connection())
                database.pause(tries)
                tries += 1

    def _write_once(self, outcome: Outcome, *, waits: bool) -> _Next:
        with transaction.atomic(using=database.alias()):
            if not waits and lifecycle.is_held(self.task):
                return _Next.HELD
            concerns_others = self._finish(outcome)
        return _Next.SETTLE if concerns_others else _Next.DONE

    def _is_written(self, outcome: Outcome) -> bool:
        row = database.tasks().filter(id=self.task.id, claim_no=self.task.claim_no)
        may_be = {outcome.status, Status.WAITING} - {Status.QUEUED}
        return row.filter(status__in=may_be, worker_id=self.task.worker_id).exists()

    def _fenced(self, error: BaseException) -> _Next:
        self._roll_back(error)
        if self.task.owes_start:
            settling.try_to(self._confess, self.task.id)
        if self.run.revoked:
            logger.info("%s %s was stopped: it is revoked", self.task.func_name, self.task.id)
            return _Next.GONE
        logger.warning(
            "fenced: %s %s is no longer run %d of this worker; nothing of it was kept",
            self.task.func_name,
            self.task.id,
            self.task.claim_no,
        )
        return _Next.GONE

    def _confess(self, task_id: UUID) -> None:
        lifecycle.confess(self.task)

    def _revoke(self, error: BaseException | None) -> _Next:
        """It revoked itself, or what is above it: nothing of it stays but that."""
        self._roll_back(error or Revoked())
        for task_id in self.run.revokes:
            self._revoke_one(task_id)
        if self.task.owes_start:
            settling.try_to(self._confess, self.task.id)
        return _Next.GONE

    def _revoke_one(self, task_id: UUID) -> None:
        """Until it is done: nobody else knows of it, and nobody takes this row from a live worker."""
        tries = 0
        while True:
            try:
                settling.revoke(task_id)
            except Exception as error:
                if not database.passing(error):
                    raise WorkerBroken from error
                logger.debug("%s could not be revoked yet: %s", task_id, error)
                if self.how == "worker":
                    database.discard(database.connection())
                database.pause(tries)
                tries += 1
            else:
                return

    def _is_passing(self, error: BaseException, *, atomic: bool | None = None) -> bool:
        atomic = self.task.atomic if atomic is None else atomic
        return atomic and self.how == "worker" and database.passing(error)

    def _again(self, error: BaseException) -> _Next:
        self._roll_back(error)
        if self.tries >= TRIES - 1:
            return self._write(self._failure(error))
        logger.debug("%s %s is run again at once: %s", self.task.func_name, self.task.id, error)
        database.pause(self.tries)
        self._await_database()
        return _Next.AGAIN

    def _await_database(self) -> None:
        """Its being away for a while is one failure, not as many as there are tries in that time."""
        tries = 0
        while True:
            try:
                database.connection().ensure_connection()
            except Exception as error:  # noqa: BLE001
                logger.debug("the database is away: %s", error)
                database.discard(database.connection())
                database.pause(tries)
                tries += 1
            else:
                return

    def _roll_back(self, error: BaseException) -> None:
        """Undo what the run did, and whatever state it left its connection in."""
        link, self._block = database.connection(), None
        try:
            database.unwind(self._depth)
            strange = link.in_atomic_block or self._switched_autocommit_off(link)
            if self.how == "worker" and (strange or database.passing(error)):
                database.discard(link)
            if self._savepoint is not None and (link.needs_rollback or not link.is_usable()):
                # It broke the caller's transaction: all that it did goes, or nothing else could be done.
                link.savepoint_rollback(self._savepoint)
                link.needs_rollback = False
        except Exception as broken:  # noqa: BLE001
            logger.debug("rolling back: %s", broken)
            if self.how == "worker":
                database.discard(link)

    def _committed(self) -> bool:
        """Whether the end that was to be committed is there. Asks by locking the row, until told."""
        if self.how != "worker":
            return False
        tries = 0
        while True:
            database.discard(database.connection())
            try:
                with transaction.atomic(using=database.alias()):
                    return not list(database.lock(lifecycle.mine(self.task)).values_list("id"))
            except Exception as error:
                if not database.passing(error):
                    logger.exception("looking for the end of %s", self.task.id)
                database.pause(tries)
                tries += 1


_UNWRITABLE = "it failed, and its error could not be stored; see the worker's log"
