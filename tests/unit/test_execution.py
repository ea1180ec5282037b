"""One run of a task: what it is given, what its end writes."""

from __future__ import annotations

import asyncio

import pytest
import uuid_utils.compat as uuid
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import OperationalError, connections

from cq import execution, lifecycle, task
from cq.models import Task
from tests.app.models import Effect

pytestmark = pytest.mark.django_db(transaction=True)

seen = []


@task("execution.pops")
def pops(cqt, items, *, options):
    seen.append(list(items))
    items.pop()
    options.clear()
    if len(seen) == 1:
        raise OperationalError("database is locked")
    return len(items)


@task("execution.add")
def add(cqt, a, b=1):
    return a + b


@task("execution.returns_successor")
def returns_successor(cqt, task_id):
    return Task.objects.get(id=task_id).chain(add, 1)


@task("execution.leaves_one_behind")
async def leaves_one_behind(cqt):
    async def late():
        await asyncio.sleep(0.2)
        await Effect.objects.acreate(name="late")

    left.append(asyncio.ensure_future(late()))


left = []


def test_what_an_async_task_leaves_on_the_loop_ends_with_it(caplog):
    claimed = lifecycle.claim_one(leaves_one_behind.delay().id, uuid.uuid7())

    async def lane():
        execution.keep_track(asyncio.get_running_loop())
        async with ThreadSensitiveContext():
            await execution.aexecute(claimed)
            await asyncio.sleep(0.3)
            await sync_to_async(connections.close_all)()

    asyncio.run(lane())
    assert left.pop().cancelled()
    assert not Effect.objects.filter(name="late").exists()
    assert "1 asyncio task(s) under way; they were cancelled" in caplog.text


def run(made):
    """Be the worker for one task."""
    claimed = lifecycle.claim_one(made.id, uuid.uuid7())
    assert claimed is not None
    execution.execute(claimed)
    made.refresh_from_db()
    return made


def test_what_runs_again_at_once_gets_its_arguments_as_they_were():
    seen.clear()
    made = run(pops.delay([1, 2, 3], options={"a": 1}))
    assert [[1, 2, 3], [1, 2, 3]] == seen
    assert ("SUCCESS", 2) == (made.status, made.result)
    assert ([[1, 2, 3]], {"options": {"a": 1}}) == (made.args, made.kwargs)


def test_a_predecessor_made_elsewhere_keeps_its_place():
    elsewhere = add.delay(1)
    returner = run(returns_successor.delay(str(elsewhere.id)))
    elsewhere.refresh_from_db()
    assert (None, elsewhere.id) == (elsewhere.parent_id, elsewhere.root_id)
    assert ("WAITING", returner.id) == (returner.status, returner.returned.parent_id)
    run(elsewhere)
    run(Task.objects.get(previous=elsewhere))
    returner.refresh_from_db()
    assert ("SUCCESS", 2) == (returner.status, returner.result)


@task("execution.fails", retries=1, retry_delay=0)
def fails(cqt, password):
    raise ValueError(f"no entry with {password}")


def test_a_failure_is_in_the_workers_log_without_its_secrets(caplog):
    made = fails.delay(password="hunter22")
    run(made)
    lifecycle.hurry(made)
    run(made)
    tried, final = (r for r in caplog.records if r.name == "cq.execution")
    assert ("WARNING", "ERROR") == (tried.levelname, final.levelname)
    assert f"execution.fails {made.id} failed: ValueError: no entry with ***" in final.getMessage()
    assert "Traceback (most recent call last):" in final.getMessage()
    assert "hunter22" not in caplog.text
