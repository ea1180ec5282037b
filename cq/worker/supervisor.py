"""The parent of a worker's processes: keeps them running and their leases renewed, runs no task code.

It has one thread, so that it may fork again when a process has died.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import uuid_utils.compat as uuid
from django.db import connections

from cq import bell, database, hosting, maintenance
from cq.begun import Begun
from cq.conf import settings
from cq.upkeep import Upkeep
from cq.worker import process
from cq.worker.process import Plan

logger = logging.getLogger("cq.worker")

TOO_SHORT = 1.0  # seconds: a process that lived no longer is not started again at once


@dataclass
class _Child:
    worker: UUID
    pid: int
    pipe: int
    begun: Begun
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    ready: bool = False
    cpu: float = 0.0


class Supervisor:
    """Starts the processes, keeps house, and ends when told to, or with --burst when all is done."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._children: dict[int, _Child] = {}
        self._stopping = 0
        self._obeyed = 0
        self._start_from = 0.0
        self._said_ready = False
        self._looked = time.monotonic()

    def run(self) -> None:
        """Returns after a stop, or a burst."""
        hosting.prepare_process()
        gc.collect()
        gc.freeze()  # what is there for good is neither looked through nor, after a fork, copied
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._upkeep = Upkeep(self._plan.queues, fires=self._plan.fires)
        if self._plan.burst:
            self._upkeep.step()
        self._start_missing()
        while self._children or not self._is_done():
            pause = self._upkeep.step()
            self._hear(min(pause, 0.25))
            self._reap()
            self._obey()
            if not self._stopping:
                self._replace_silent()
                if not self._plan.burst:
                    self._start_missing()
        bell.stop()
        connections.close_all()

    # Told by signals.

    def _on_signal(self, number: int, frame: object) -> None:
        """The first signal: what runs is finished. The second: now.

        Told to the processes at once, since the loop may hang in a database that does not answer.
        """
        self._stopping += 1
        for pid in list(self._children):
            _kill(pid, signal.SIGTERM if self._stopping == 1 else signal.SIGKILL)

    def _obey(self) -> None:
        wanted = min(self._stopping, 2)
        if wanted != self._obeyed:
            self._obeyed = wanted
            logger.info("cq worker stops %s", ("when what runs is finished", "now")[wanted - 1])

    # Processes.

    def _is_done(self) -> bool:
        """Asked when no process is left: --burst ends when nothing is owed."""
        if self._stopping:
            return True
        if not self._plan.burst:
            return False
        try:
            maintenance.settle_unsettled()
        except Exception:
            logger.exception("settling")
            connections.close_all()
        if process.is_work_left(list(self._plan.queues)):
            self._start_missing()
            return False
        return True

    def _start_missing(self) -> None:
        if time.monotonic() < self._start_from:
            return
        while len(self._children) < self._plan.processes:
            try:
                self._start_one()
            except Exception as error:  # noqa: BLE001  (the database may be away)
                logger.warning("a process could not be started, will try again: %s", error)
                database.discard(database.connection())
                self._start_from = time.monotonic() + TOO_SHORT
                return

    def _start_one(self) -> None:
        worker = uuid.uuid7()
        self._upkeep.add(worker, os.getpid())  # before the fork, so that its first claim is covered
        bell.stop()
        connections.close_all()  # nothing that a process and its parent must not share
        reading, writing = os.pipe()
        begun = Begun(self._plan.hands)
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came before the process has its own handlers, or is known here, would be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, process.HELD_BACK)
        try:
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                for child in self._children.values():
                    os.close(child.pipe)
                _be_child(worker, self._plan, writing, begun)
            os.set_blocking(reading, False)
            self._children[pid] = _Child(worker, pid, reading, begun)
            if self._stopping:
                _kill(pid, signal.SIGTERM)
        except OSError:  # no memory, or too many processes: nobody is to renew its lease
            os.close(reading)
            self._upkeep.remove(worker, set())
            raise
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, process.HELD_BACK)
        self._upkeep.add(worker, pid)

    def _hear(self, timeout: float) -> None:
        """Signs of life, and the silence of those that died."""
        pipes = {child.pipe: child for child in self._children.values()}
        readable, _, _ = select.select(list(pipes), [], [], timeout)
        for pipe in readable:
            if os.read(pipe, 4096):
                pipes[pipe].heard = time.monotonic()
                pipes[pipe].ready = True
        if len(readable) and all(not pipes[pipe].ready for pipe in readable):
            time.sleep(0.01)  # at its end, until it can be reaped
        if (
            not self._said_ready
            and len(self._children) == self._plan.processes
            and all(c.ready for c in self._children.values())
        ):
            self._said_ready = True
            of_tasks = f"{len(self._children)} process(es), queues {', '.join(self._plan.queues)}"
            logger.info(
                "cq worker ready: %s",
                of_tasks if self._children else "fires repeating tasks, runs none",
            )

    def _reap(self) -> None:
        for child in list(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            os.close(child.pipe)
            del self._children[child.pid]
            if code and self._obeyed < 2:
                logger.error("process %d of this worker died with %s", pid, _said(code))
            if time.monotonic() - child.started < TOO_SHORT and code:
                self._start_from = time.monotonic() + TOO_SHORT
            try:
                self._upkeep.remove(child.worker, child.begun.read())
            except Exception as error:  # noqa: BLE001  (the lease does it later)
                logger.warning("what process %d held waits for its lease to end: %s", pid, error)
                database.discard(database.connection())
            child.begun.close()

    def _replace_silent(self) -> None:
        """A process that gave no sign of life for a lease, and used no CPU, hangs or is stopped."""
        lease = settings().lease.total_seconds()
        stood_still = time.monotonic() - self._looked > 1.0
        self._looked = time.monotonic()
        for child in self._children.values():
            if stood_still:  # I heard nothing, whatever they said
                child.heard = time.monotonic()
            silent = time.monotonic() - child.heard
            if silent < lease:
                child.cpu = -1.0
                continue
            used = _cpu_seconds(child.pid)
            if child.cpu < 0:
                child.cpu = used
            elif silent > lease + 1 and used - child.cpu < 0.05:
                logger.error("process %d is silent; it is replaced", child.pid)
                _kill(child.pid, signal.SIGKILL)


def _be_child(worker: UUID, plan: Plan, writing: int, begun: Begun) -> NoReturn:
    code = 1
    try:
        code = process.main(worker, plan, writing, begun)
    except BaseException:
        logger.exception("this process could not go on")
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        logger.debug("process %d has gone already", pid)


def _said(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _cpu_seconds(pid: int) -> float:
    """CPU that a process used; ever more where this system can't tell, so that nothing is killed."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return time.monotonic()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
