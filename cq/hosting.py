"""Which runner this process has: the one that `cq_runworker` gave it, or, elsewhere, one made when a bell comes.

The latter is what Channels' own `runworker` gets: one sync task at a time, no instant rescue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time

import uuid_utils.compat as uuid
from asgiref.sync import sync_to_async
from django.db.backends.signals import connection_created

from cq import bell, database, logs, registry
from cq.conf import settings
from cq.polling import Poll
from cq.runner import Runner
from cq.upkeep import Upkeep

logger = logging.getLogger("cq.worker")

_runner: Runner | None = None
_lock = asyncio.Lock()
_tasks: set[asyncio.Task[None]] = set()  # a loop itself keeps none from being collected


def give(runner: Runner) -> None:
    """This process's bells go to `runner`."""
    global _runner
    _runner = runner


async def runner() -> Runner:
    """This process's runner."""
    if _runner is None:
        async with _lock:
            if _runner is None:
                give(await _own_runner())
    assert _runner is not None
    return _runner


def prepare_process() -> None:
    """What every process that runs tasks, or looks after some that do, needs once."""
    connection_created.connect(_on_connection, dispatch_uid="cq")


def _on_connection(connection: object, **kwargs: object) -> None:
    if connection is database.connection():
        database.prepare(database.connection())


async def _own_runner() -> Runner:
    prepare_process()
    # Which channels `runworker` was given it tells nobody: those that a bell comes from.
    made = Runner(uuid.uuid7(), None, threads=1, lanes=settings().async_concurrency)
    upkeep = Upkeep(sorted(registry.queues()), fires=settings().scheduler)
    await sync_to_async(upkeep.add)(made.worker, os.getpid())
    loop = asyncio.get_running_loop()
    made.start(loop)
    poll = Poll(made, made.look_everywhere, hears=bell.layer() is not None)
    _tasks.add(loop.create_task(poll.run()))
    threading.Thread(target=_work, args=(made,), name="cq-work", daemon=True).start()
    threading.Thread(target=_keep_up, args=(upkeep,), name="cq-upkeep", daemon=True).start()
    return made


def _work(made: Runner) -> None:
    try:
        made.work()
        made.join()
    except Exception:
        logger.exception("the runner could not go on")
    # Nobody but a broken runner stops: without it this process would swallow bells for ever, and
    # its lease would keep others from what it holds.
    logger.critical("this process ends, so that what it held is taken back")
    logs.stop()
    logging.shutdown()
    os._exit(1)


def _keep_up(upkeep: Upkeep) -> None:
    while True:
        time.sleep(upkeep.step())
