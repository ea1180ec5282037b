"""Protections taken away, and faults put in, by replacing parts of cq: the package itself knows nothing of it.

`CQ_TEST_MUTANT` names some of them, comma-separated; tests.app applies them in every process that a
test starts, and a test applies them to its own with `apply(names, monkeypatch.setattr)`. A mutant has
to make the scenario fail that its protection is for. What is named `fault_…` breaks no protection:
it makes something happen that is rare.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import signal
import socket
import threading
import time
from types import SimpleNamespace

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now


def apply(names, patch=setattr):
    for name in filter(None, names.split(",")):
        MUTANTS[name](patch)


MUTANTS = {}


def mutant(function):
    MUTANTS[function.__name__] = function
    return function


# Rows.


@mutant
def insert_apart(patch):
    """delay() writes on a connection of its own, whatever becomes of the caller's transaction."""
    from cq import lifecycle

    insert = lifecycle.insert

    def elsewhere(task):
        def write():
            insert(task)
            connections.close_all()

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()

    patch(lifecycle, "insert", elsewhere)


@mutant
def no_fence(patch):
    """The end of a run is written whoever holds the row, and whatever its status."""
    from cq import lifecycle

    def finish(task, outcome):
        changes = lifecycle._changes(task, outcome)
        row = lifecycle.tasks().filter(id=task.id)
        row.update(status=outcome.status, finished=Now(), **changes)
        return True

    patch(lifecycle, "finish", finish)


@mutant
def effects_apart(patch):
    """Effects are committed first, the end after them."""
    from cq import execution

    patch(execution._Attempt, "_wrote", lambda self: False)


@mutant
def guess_not_committed(patch):
    """A COMMIT whose answer was lost is taken for one that failed."""
    from cq import execution

    def guess(self):
        self._roll_back(RuntimeError())
        return False

    patch(execution._Attempt, "_committed", guess)


@mutant
def guess_committed(patch):
    """A COMMIT whose answer was lost is taken for one that worked."""
    from cq import database, execution

    def guess(self):
        database.discard(database.connection())
        return True

    patch(execution._Attempt, "_committed", guess)


@mutant
def nothing_passes(patch):
    """A database that went away is the task's own failure."""
    from cq import execution

    patch(execution._Attempt, "_is_passing", lambda self, error, **kwargs: False)


@mutant
def no_waiting_for_database(patch):
    """While the database is away, a task's tries run out."""
    from cq import execution

    patch(execution._Attempt, "_await_database", lambda self: None)


@mutant
def no_reconciling(patch):
    """A claim whose COMMIT got no answer is taken for one that failed."""
    from cq import lifecycle

    patch(lifecycle, "give_back_unknown", lambda worker, known: 0)


@mutant
def no_give_back(patch):
    from cq import lifecycle

    patch(lifecycle, "give_back", lambda claimed: 0)


@mutant
def no_death_count(patch):
    from cq import lifecycle

    rescue = lifecycle.rescue

    def forgetful(task):
        task.rescues = 0
        return rescue(task)

    patch(lifecycle, "rescue", forgetful)


@mutant
def rescue_runs_all(patch):
    """What was begun runs again, atomic or not."""
    from cq import lifecycle

    rescue = lifecycle.rescue

    def careless(task):
        task.rerun_lost = True
        return rescue(task)

    patch(lifecycle, "rescue", careless)


@mutant
def rescue_runs_none(patch):
    """What was begun is LOST, atomic or not."""
    from cq import lifecycle

    rescue = lifecycle.rescue

    def timid(task):
        task.atomic = task.rerun_lost = False
        return rescue(task)

    patch(lifecycle, "rescue", timid)


# What an end means for others.


@mutant
def complete_unlocked(patch):
    """A parent is looked at and then written, without its lock."""
    from cq import database

    patch(database, "lock", lambda rows: rows)


@mutant
def settle_inside(patch):
    """The parent is looked at in the child's own transaction, before its commit."""
    from cq import execution, lifecycle, settling

    finish = lifecycle.finish

    def finish_and_settle(task, outcome):
        concerns_others = finish(task, outcome)
        if concerns_others or task.parent_id is not None:
            settling.settle(task.id)
            time.sleep(0.01)
        return concerns_others

    patch(lifecycle, "finish", finish_and_settle)
    patch(execution, "_settle", lambda task, step: None)


@mutant
def no_settle_in_sweep(patch):
    from cq import maintenance

    patch(maintenance, "settle_unsettled", lambda: 0)


# Leases.


@mutant
def no_rescue(patch):
    from cq import maintenance

    patch(maintenance, "rescue_silent", lambda: 0)


@mutant
def no_rescue_of_children(patch):
    """A supervisor says nothing of a process of its own that died."""
    from cq.upkeep import Upkeep

    patch(Upkeep, "remove", lambda self, worker: self._pids.pop(worker, None))


@mutant
def no_heartbeat(patch):
    """A worker takes itself for alive, and writes it nowhere."""
    from cq.upkeep import Upkeep

    def beat(self):
        self._last_beat = time.monotonic()
        return self._beat_every

    patch(Upkeep, "_beat", beat)


@mutant
def orphans_stay(patch):
    """A process does not notice that its supervisor is gone."""
    from cq.worker import process

    def pulse(runner, sign_of_life, parent):
        while os.getppid() == parent:
            os.write(sign_of_life, b".")
            time.sleep(process.PULSE)

    patch(process, "_pulse", pulse)


@mutant
def rescue_before_heartbeat(patch):
    """After the database was away, a sweep takes all workers for dead that could not beat."""
    from cq import maintenance

    sweep = maintenance.sweep
    patch(maintenance, "sweep", lambda rescues: sweep(rescues=True))


@mutant
def stop_at_once(patch):
    """SIGTERM ends a process in the middle of what it runs."""
    from cq.runner import Runner

    patch(Runner, "stop", lambda self: os._exit(0))


@mutant
def one_sigterm_is_enough(patch):
    """A second SIGTERM is not heard."""
    from cq.worker.supervisor import Supervisor

    real = Supervisor._on_signal

    def on_signal(self, number, frame):
        if not self._stopping:
            real(self, number, frame)

    patch(Supervisor, "_on_signal", on_signal)


# The bell.


@mutant
def no_send(patch):
    from cq import bell

    async def silent(self, queue, passed):
        pass

    patch(bell._Ringer, "_send_one", silent)


@mutant
def send_in_caller(patch):
    """The caller sends, waits, and gets what the layer raises."""
    from asgiref.sync import async_to_sync

    from cq import bell, database

    def announce(tasks):
        for queue in {task.queue for task in tasks if task.status == "QUEUED"}:
            transaction.on_commit(
                lambda queue=queue: async_to_sync(send)(queue), using=database.alias()
            )

    async def send(queue):
        sending = bell.layer().send(bell.channel(queue), bell.message(queue))
        await asyncio.wait_for(sending, 2)

    patch(bell, "announce", announce)


@mutant
def no_poll(patch):
    """The bell alone says that there is work."""
    from cq.worker.listening import Listener

    async def never(self):
        await asyncio.sleep(3600)

    patch(Listener, "_poll", never)


@mutant
def no_look_after(patch):
    """A hand that is free again waits to be told."""
    from cq.runner import Runner

    done = Runner.done

    def silent(self, task, *, lane):
        with self._changed:
            stopping, self._stopping = self._stopping, True
            done(self, task, lane=lane)
            self._stopping = stopping

    patch(Runner, "done", silent)


@mutant
def not_passed_on(patch):
    """A worker whose hands are full keeps to itself that there may be more."""
    from cq import bell, runner

    silent = {"ring": lambda queue: None, "pass_on": lambda queue, passed: None}
    patch(runner, "bell", SimpleNamespace(**{**vars(bell), **silent}))


@mutant
def one_channel(patch):
    """All queues ring on one channel."""
    from cq import bell

    patch(bell, "channel", lambda queue: "cq-tasks")


@mutant
def no_flush_at_exit(patch):
    from cq import bell

    atexit.unregister(bell.flush)


@mutant
def names_by_thread_pool(patch):
    """asyncio's own way to resolve host names, which is closed while the interpreter ends."""
    from cq import bell

    patch(bell, "_Loop", asyncio.SelectorEventLoop)


# What is rare.


@mutant
def fault_deaf_once(patch):
    """Listening ends, the first time, of what nobody thought of."""
    from cq.worker.listening import Listener

    run = Listener.run

    async def fails(self):
        patch(Listener, "run", run)
        raise RuntimeError

    patch(Listener, "run", fails)


def _random():
    return random.Random(int(os.environ.get("CQ_TEST_SEED", "0")) + os.getpid())


@mutant
def fault_dies_before_settle(patch):
    """A process dies after the commit of what it ran, before it says what that means for others."""
    from cq import execution

    settle = execution._settle
    chance = SimpleNamespace(random=None)

    def dying(task, step):
        chance.random = chance.random or _random()
        if chance.random.random() < 0.3:
            os.kill(os.getpid(), signal.SIGKILL)
        settle(task, step)

    patch(execution, "_settle", dying)


@mutant
def fault_stopped_between_claim_and_run(patch):
    """SIGTERM comes when a task is claimed and has not begun."""
    from cq import lifecycle

    claim = lifecycle.claim

    def claim_and_stop(*args):
        claimed = claim(*args)
        if claimed:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(1)
        return claimed

    patch(lifecycle, "claim", claim_and_stop)


@mutant
def fault_sweeps_before_heartbeat(patch):
    """After the database was away, a worker's first sweep comes before its first heartbeat."""
    from cq.upkeep import Upkeep

    beat, sweep = Upkeep._beat, Upkeep._sweep
    waiting = set()

    def late(self):
        if self in waiting:
            return 0.05
        try:
            return beat(self)
        except Exception:
            waiting.add(self)
            raise

    def swept(self):
        pause = sweep(self)
        waiting.discard(self)
        return pause

    late.__name__, swept.__name__ = "_beat", "_sweep"
    patch(Upkeep, "_beat", late)
    patch(Upkeep, "_sweep", swept)


def _commits(patch, chance, *, claims):
    """COMMITs whose session is killed before, or whose answer is lost after, they were done."""
    from cq import lifecycle

    commit = BaseDatabaseWrapper._commit
    local = threading.local()
    state = SimpleNamespace(random=None)

    def claim(*args, claim=lifecycle.claim):
        local.claiming = True
        try:
            return claim(*args)
        finally:
            local.claiming = False

    def breaking(self):
        state.random = state.random or _random()
        drawn = state.random.random()
        hit = getattr(local, "claiming", False) is claims and drawn < chance
        if hit and drawn < chance / 2:
            _cut(self)
        commit(self)
        if not hit:
            return
        _cut(self)
        print("<an answer is lost>", flush=True)
        with self.wrap_database_errors:
            self.connection.execute("SELECT 1")

    patch(lifecycle, "claim", claim)
    patch(BaseDatabaseWrapper, "_commit", breaking)


def _cut(link):
    with socket.socket(fileno=os.dup(link.connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@mutant
def fault_commits(patch):
    _commits(patch, 0.4, claims=False)


@mutant
def fault_claims(patch):
    _commits(patch, 0.4, claims=True)
