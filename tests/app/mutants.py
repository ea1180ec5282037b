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
from datetime import timedelta
from types import SimpleNamespace

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now
from django.utils import timezone


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

    patch(execution._Attempt, "_touched", lambda self: False)


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


@mutant
def added_after_commit(patch):
    """What a run adds is written when the run has ended, in a transaction of its own."""
    from cq import context, database, lifecycle

    insert = lifecycle.insert

    def later(task):
        def write():
            time.sleep(0.05)
            insert(task)

        if context.current() is None:
            insert(task)
        else:
            transaction.on_commit(write, using=database.alias())

    patch(lifecycle, "insert", later)


@mutant
def revoked_may_commit(patch):
    """The end of a run that was revoked is not written; its effects are."""
    from cq import database, lifecycle
    from cq.exceptions import Fenced

    finish = lifecycle.finish

    def unfenced(task, outcome):
        try:
            return finish(task, outcome)
        except Fenced:
            database.connection().needs_rollback = False
            return False

    patch(lifecycle, "finish", unfenced)


@mutant
def result_apart(patch):
    """The end is written, and told, before the result."""
    from cq import execution, lifecycle

    changes, settle = lifecycle._changes, execution._settle

    def without_result(task, outcome):
        task.to_be_written = outcome.result
        return {**changes(task, outcome), "result": None}

    def settle_first(task, *args):
        settle(task, *args)
        time.sleep(0.05)
        lifecycle.tasks().filter(id=task.id).update(result=task.to_be_written)

    patch(lifecycle, "_changes", without_result)
    patch(execution, "_settle", settle_first)


# What an end means for others.


@mutant
def complete_unlocked(patch):
    """A parent is looked at and then written, without its lock."""
    from cq import database

    patch(database, "lock", lambda rows, **options: rows)


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
    patch(execution, "_settle", lambda task, *args: None)


@mutant
def no_settle_in_sweep(patch):
    from cq import maintenance

    patch(maintenance, "settle_unsettled", lambda: 0)


@mutant
def complete_by_one_update(patch):
    """One UPDATE says whether anything under a parent is unfinished, and that it is complete."""
    from cq import graph, lifecycle

    def complete(task):
        complete = graph.completable().filter(id=task.id)
        return "SUCCESS" if complete.update(status="SUCCESS", finished=Now()) else None

    patch(graph, "may_complete", lambda task_id: True)
    patch(lifecycle, "complete", complete)


@mutant
def complete_by_one_statement(patch):
    """The parent is locked first, and what is under it looked at, but in the same statement."""
    from cq import database, graph, lifecycle

    sql = """
        WITH locked AS MATERIALIZED (
            SELECT id FROM cq_task WHERE id = %s AND status = 'WAITING' FOR NO KEY UPDATE
        )
        UPDATE cq_task SET status = 'SUCCESS', finished = now() FROM locked
        WHERE cq_task.id = locked.id AND NOT EXISTS (
            SELECT FROM cq_task below WHERE below.parent_id = locked.id AND below.status IN
            ('PENDING', 'SCHEDULED', 'QUEUED', 'RUNNING', 'WAITING', 'RETRY')
        )
    """

    def complete(task):
        with database.connection().cursor() as cursor:
            cursor.execute(sql, [task.id])
            return "SUCCESS" if cursor.rowcount else None

    patch(graph, "may_complete", lambda task_id: True)
    patch(lifecycle, "complete", complete)


@mutant
def complete_unguarded(patch):
    """All under a parent is read, then the parent written, whatever others did meanwhile."""
    from cq import graph, lifecycle
    from cq.states import ACTIVE

    def complete(task):
        if any(below.status in ACTIVE for below in graph.counted_subtasks(task)):
            return None
        time.sleep(0.01)
        lifecycle.tasks().filter(id=task.id).update(status="SUCCESS", finished=Now())
        return "SUCCESS"

    patch(lifecycle, "complete", complete)


@mutant
def nobody_is_too_late(patch):
    """What has ended may still be added to."""
    from cq import workflow

    patch(workflow, "DONE", frozenset())


@mutant
def answered_by_each(patch):
    """Whoever comes to complete what has ended badly inserts its errorbacks."""
    from cq import lifecycle, settling
    from cq.states import ANSWERED

    def end(task, move):
        time.sleep(0.02)
        status = move(task)
        if lifecycle.tasks().filter(id=task.id, status__in=ANSWERED).exists():
            settling._answer(task.id)
        return status

    patch(settling, "end", end)


@mutant
def answered_after_commit(patch):
    """Errorbacks are inserted when the bad end is committed, with what else it means for others."""
    from cq import execution, lifecycle, settling
    from cq.states import ANSWERED

    answer, settle = settling._answer, execution._settle

    def answer_and_settle(task, *args):
        time.sleep(0.01)
        if lifecycle.tasks().filter(id=task.id, status__in=ANSWERED).exists():
            answer(task.id)
        settle(task, *args)

    patch(settling, "finish", lifecycle.finish)
    patch(execution, "_settle", answer_and_settle)


@mutant
def revokes_what_it_saw(patch):
    """Looks once at each level, and revokes what was there."""
    from cq import lifecycle, revoking
    from cq.states import ACTIVE

    def revoke_under(ids, wait):
        level, revoked = list(ids), []
        while level:
            below = lifecycle.tasks().filter(parent_id__in=level, status__in=ACTIVE)
            level = list(below.values_list("id", flat=True))
            time.sleep(0.05)
            revoked += revoking._revoke_rows(level, wait=wait)
        return revoked

    patch(revoking, "revoke_under", revoke_under)


@mutant
def no_strays(patch):
    """Nobody asks, at a claim or in the sweep, whether what a task was made for is over."""
    from cq import execution, settling

    open_ = execution._Attempt.open

    def careless(self):
        self.task.is_stray = False
        return open_(self)

    patch(execution._Attempt, "open", careless)
    patch(settling, "revoke_strays", lambda: 0)


@mutant
def answered_twice(patch):
    """Each errorback is inserted two times."""
    from cq import settling

    answer = settling._answer
    patch(settling, "_answer", lambda task_id: (answer(task_id), answer(task_id)))


@mutant
def fails_slowly(patch):
    """`fail_fast` revokes nobody."""
    from cq import settling

    patch(settling, "_fail_fast", lambda parent: [])


@mutant
def not_forced(patch):
    """`force_chain` is not looked at."""
    from cq import settling

    release = settling.release_successors

    def release_successors(task):
        behind = settling.tasks().filter(previous_id=task.id, is_errorback=False)
        behind.update(force_chain=False)
        return release(task)

    patch(settling, "release_successors", release_successors)


# Claimed ahead.


@mutant
def begun_untold(patch):
    """A process tells its supervisor nothing of what it has begun."""
    from cq.begun import Begun

    patch(Begun, "note", lambda self, slot, task_id: None)


@mutant
def all_begun(patch):
    """All that a dead worker held is charged with its death."""
    from cq import lifecycle, maintenance

    def rescue_from(dead, begun):
        held = lifecycle.tasks().filter(status="RUNNING", worker_id=dead)
        return maintenance._each(held, maintenance._rescue)

    def take_back(unbegun, alone):
        maintenance._each(unbegun, maintenance._rescue)
        return []

    patch(maintenance, "rescue_from", rescue_from)
    patch(lifecycle, "take_back", take_back)


@mutant
def never_alone(patch):
    """What may have killed its worker is claimed with others, again and again."""
    from cq import lifecycle

    take_back = lifecycle.take_back
    patch(lifecycle, "take_back", lambda unbegun, alone: take_back(unbegun, alone=False))


@mutant
def stuck_is_kept(patch):
    """What stands behind a long task waits for its end."""
    from cq.hands import Hands

    patch(Hands, "stuck", lambda self: [])


@mutant
def all_may_wait(patch):
    """What may not run twice is claimed ahead as well."""
    from cq import lifecycle, statements

    patch(lifecycle, "_may_wait", lambda task: True)
    claims = statements.claims._CLAIM
    careless = {name: claims[name].replace("AND NOT may_wait", "AND FALSE") for name in claims}
    patch(statements.claims, "_CLAIM", careless)


# Leases.


@mutant
def no_rescue(patch):
    from cq import maintenance

    patch(maintenance, "rescue_silent", lambda: 0)


@mutant
def no_rescue_of_children(patch):
    """A supervisor says nothing of a process of its own that died."""
    from cq.upkeep import Upkeep

    patch(Upkeep, "remove", lambda self, worker, begun: self._pids.pop(worker, None))


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
    patch(maintenance, "sweep", lambda rescues, strays: sweep(rescues=True))


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
def no_notify(patch):
    """Nothing is said to all; what one says to oneself arrives."""
    from cq import notify

    say = notify.Speaker.say

    def silent(self, channel, text):
        if channel != notify.CHANNEL:
            say(self, channel, text)

    patch(notify.Speaker, "say", silent)


@mutant
def believes_listen(patch):
    """What takes LISTEN is believed to notify."""
    from cq.ear import Ear

    patch(Ear, "_judge", lambda self: self._hear(hears=True) or 60.0)


@mutant
def kept_in_tests(patch):
    """The connection that NOTIFY is said on is kept while a project's tests run, too."""
    from cq import notify

    patch(notify, "_kept", lambda: notify.KEPT)


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
    from cq.polling import Poll

    async def never(self):
        await asyncio.sleep(3600)

    patch(Poll, "run", never)


@mutant
def no_look_after(patch):
    """A hand that is free again waits to be told."""
    from cq.hands import Hands

    done = Hands.done
    patch(Hands, "done", lambda self, *args: done(self, *args) and False)


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

    atexit.unregister(bell._at_exit)


@mutant
def names_by_thread_pool(patch):
    """asyncio's own way to resolve host names, which is closed while the interpreter ends."""
    from cq import bell

    patch(bell, "_Loop", asyncio.SelectorEventLoop)


# What is rare.


@mutant
def fault_listens_in_vain(patch):
    """LISTEN is taken, and nothing arrives: a PgBouncer in transaction mode."""
    from cq.ear import Ear

    patch(Ear, "_execute", lambda self, sql: None)


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

    def dying(task, *args):
        chance.random = chance.random or _random()
        if chance.random.random() < 0.3:
            os.kill(os.getpid(), signal.SIGKILL)
        settle(task, *args)

    patch(execution, "_settle", dying)


@mutant
def fault_stopped_between_claim_and_run(patch):
    """SIGTERM comes when a task is claimed and has not begun."""
    from cq import lifecycle

    claim = lifecycle.claim

    def claim_and_stop(*args, **given):
        claimed = claim(*args, **given)
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
    from cq import database, lifecycle, statements

    local = threading.local()
    state = SimpleNamespace(random=None)

    def claim(*args, claim=lifecycle.claim, **given):
        local.claiming = True
        try:
            return claim(*args, **given)
        finally:
            local.claiming = False

    def breaking(step, link):
        state.random = state.random or _random()
        drawn = state.random.random()
        hit = getattr(local, "claiming", False) is claims and drawn < chance
        if hit and drawn < chance / 2:
            _cut(link)
        result = step()
        if hit:
            _cut(link)
            print("<an answer is lost>", flush=True)
            with link.wrap_database_errors:
                link.connection.execute("SELECT 1")
        return result

    def commits(self, commit=BaseDatabaseWrapper._commit):
        breaking(lambda: commit(self), self)

    def claims_at_once(*args, claim=statements.claim, **given):  # which commits by itself
        return breaking(lambda: claim(*args, **given), database.connection())

    patch(lifecycle, "claim", claim)
    patch(statements, "claim", claims_at_once)
    patch(BaseDatabaseWrapper, "_commit", commits)


def _cut(link):
    with socket.socket(fileno=os.dup(link.connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@mutant
def fault_commits(patch):
    _commits(patch, 0.4, claims=False)


@mutant
def fault_claims(patch):
    _commits(patch, 0.4, claims=True)


@mutant
def fault_lingers(patch):
    """Time passes between effects and their end, and between that and what it means for others."""
    from cq import execution, settling

    finish, settle = settling.finish, execution._settle

    def lingering_finish(task, outcome):
        time.sleep(0.02)
        return finish(task, outcome)

    def lingering_settle(task, *args):
        time.sleep(0.02)
        settle(task, *args)

    patch(settling, "finish", lingering_finish)
    patch(execution, "_settle", lingering_settle)


# Interrupts.


@mutant
def interrupts_forgotten(patch):
    """What was interrupted, and did not mind, ends as if nothing had been."""
    from cq.context import Run

    patch(Run, "interrupted", property(lambda self: False, lambda self, value: None))


@mutant
def interrupted_once(patch):
    """Whoever swallows an interrupt is left alone."""
    from cq import interrupts

    patch(interrupts, "AGAIN", 3600.0)


@mutant
def windows_stay_open(patch):
    """What has begun once is hit for ever: its end, and what comes after it."""
    from cq import interrupts

    patch(interrupts._Window, "is_open", property(lambda self: True, lambda self, value: None))
    patch(interrupts._Watch, "remove", lambda self, window: None)


@mutant
def interrupted_connections_kept(patch):
    from cq import interrupts

    patch(interrupts, "drop_connections", lambda: None)


@mutant
def interrupts_nobody(patch):
    """Nobody asks whether what runs has been revoked."""
    from cq import interrupts

    patch(interrupts._Watch, "_look", lambda self, held: None)


# Repeating tasks.


@mutant
def slots_moved_blindly(patch):
    """Read, then write: whoever has seen a slot makes its task, whatever became of it meanwhile."""
    from cq import firing

    def advance(row, following, missed):
        changes = {"next_run": following, "planned": True}
        return bool(firing.repeating.rows().filter(id=row.id).update(**changes))

    patch(firing, "_advance", advance)


@mutant
def slots_moved_before(patch):
    """The next run is moved on in a transaction of its own, before the task is made."""
    from cq import firing

    advance = firing._advance

    def apart(*args):
        moved = []

        def write():
            with transaction.atomic():
                moved.append(advance(*args))
            connections.close_all()

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        return moved[0]

    patch(firing, "_advance", apart)


@mutant
def fires_by_its_own_clock(patch):
    from cq import firing

    def soon():
        now = timezone.now()
        rows = firing.repeating.rows().filter(enabled=True, next_run__lte=now + firing.LOOK)
        found = list(rows.order_by("next_run"))
        for row in found:
            row.clock = now
        return found

    patch(firing, "_soon", soon)


@mutant
def fault_fires_slowly(patch):
    """Time to be killed between moving a schedule on and making its task, and after that."""
    _make_slowly(patch, 0.2)


@mutant
def fault_fires_with_pauses(patch):
    """Others look at what this one is about to change."""
    _make_slowly(patch, 0.02)


def _make_slowly(patch, longest):
    from cq import firing

    make = firing._make

    def slowly(*args, **kwargs):
        time.sleep(random.uniform(0, longest))
        made = make(*args, **kwargs)
        time.sleep(random.uniform(0, longest))
        return made

    patch(firing, "_make", slowly)


def _shifted(patch, seconds):
    now, moment = time.time, timezone.now
    patch(time, "time", lambda: now() + seconds)
    patch(timezone, "now", lambda: moment() + timedelta(seconds=seconds))


@mutant
def fault_clock_fast(patch):
    """This host's clock is an hour fast."""
    _shifted(patch, 3600)


@mutant
def fault_clock_slow(patch):
    _shifted(patch, -3600)
