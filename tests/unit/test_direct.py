"""Direct calls: here and now, without a row; what they make runs inline after them."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from cq import Retry, TaskFailed, task
from cq.models import LogLine, Task
from tests.app.models import Effect

pytestmark = pytest.mark.django_db


class Broken(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_rows():
    yield
    assert 0 == Task.objects.count()
    assert 0 == LogLine.objects.count()


@task("direct.add")
def add(cqt, a, b=1):
    return a + b


@task("direct.add_to_previous")
def add_to_previous(cqt, b):
    return cqt.previous.result + b


@task("direct.effect")
def effect(cqt, name, error=None):
    Effect.objects.create(name=name)
    if error is not None:
        raise Broken(error)
    return name


@task("direct.effect_kept", atomic=False)
def effect_kept(cqt, name, error=None):
    Effect.objects.create(name=name)
    if error is not None:
        raise Broken(error)


forced = effect.using(force_chain=True)


def effects():
    return list(Effect.objects.order_by("id").values_list("name", flat=True))


def test_a_direct_call_gives_the_result():
    assert 3 == add(1, 2)
    assert 2 == add(a=1)
    assert 3 == add.using(priority=3)(1, 2)


def test_a_result_need_not_be_storable():
    @task("direct.object")
    def thing(cqt):
        return {1, (2, 3)}

    assert {1, (2, 3)} == thing()


def test_a_direct_call_raises_the_original_exception():
    with pytest.raises(Broken, match="why"):
        effect("a", "why")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        add()
    for error in (Retry(1), SystemExit(3), KeyboardInterrupt()):

        @task("direct.raises")
        def raises(cqt, error=error):
            raise error

        with pytest.raises(type(error)) as caught:
            raises()
        assert error is caught.value


def test_an_atomic_one_is_rolled_back_where_it_raises():
    with pytest.raises(Broken):
        effect("a", "why")
    assert [] == effects()
    with pytest.raises(Broken):
        effect_kept("b", "why")
    assert ["b"] == effects()


@pytest.mark.django_db(transaction=True)
def test_an_atomic_one_has_a_transaction_and_another_has_none():
    @task("direct.inside")
    def inside(cqt):
        return connection.in_atomic_block

    @task("direct.outside", atomic=False)
    def outside(cqt):
        return connection.in_atomic_block

    assert (True, False) == (inside(), outside())


def test_the_callers_transaction_survives_a_failure():
    with transaction.atomic():
        Effect.objects.create(name="before")
        with pytest.raises(Broken):
            effect("a", "why")
        Effect.objects.create(name="after")
    assert ["before", "after"] == effects()


def test_what_it_makes_runs_after_it_in_order():
    @task("direct.makes")
    def makes(cqt):
        cqt.subtask(effect, "subtask")
        effect.delay("delayed")
        assert 2 == cqt.subtasks(effect, ["many 1", "many 2"])
        effect.delay_many(["more 1", "more 2"])
        cqt.chain(effect, "chained")
        Effect.objects.create(name="own")
        return "done"

    assert "done" == makes()
    expected = ["own", "subtask", "delayed", "many 1", "many 2", "more 1", "more 2", "chained"]
    assert expected == effects()


@pytest.mark.parametrize("how", [1, 2])
def test_a_returned_chain_gives_its_last_result(how):
    @task("direct.calculates")
    def calculates(cqt):
        first = add.delay(3, 4)
        return first.chain(add_to_previous, (4,)) if how == 1 else first.then(add, 4)

    assert 11 == calculates()


def test_then_and_chain_go_on():
    @task("direct.goes_on")
    def goes_on(cqt):
        return cqt.subtask(add, 1, 2).then(add, 3).chain(add_to_previous, 4).then(add, (5,))

    assert 15 == goes_on()


def test_a_failed_subtask_fails_the_call_with_its_exception_as_the_cause():
    @task("direct.top")
    def top(cqt):
        Effect.objects.create(name="top")
        cqt.subtask(middle)
        return "fine"

    @task("direct.middle")
    def middle(cqt):
        cqt.subtask(effect, "good")
        cqt.subtask(effect, "bad", "why")

    with pytest.raises(TaskFailed, match="why") as caught:
        top()
    assert "Broken('why')" == repr(caught.value.__cause__)
    assert ["top", "good"] == effects()


def test_a_delayed_task_that_fails_is_none_of_the_callers(caplog):
    @task("direct.delays")
    def delays(cqt):
        effect.delay("bad", "why")
        return "fine"

    assert "fine" == delays()
    assert ["direct.effect, made by a direct call, failed"] == [
        r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR
    ]


def test_a_successor_of_what_failed_is_skipped_unless_it_is_forced():
    @task("direct.chains")
    def chains(cqt):
        bad = cqt.subtask(effect, "bad", "why")
        bad.chain(effect, "skipped").chain(effect, "skipped too").chain(forced, "forced too")
        bad.chain(forced, "forced")

    with pytest.raises(TaskFailed, match="why"):
        chains()
    assert {"forced", "forced too"} == set(effects())


def test_what_a_failed_function_had_made_does_not_run():
    @task("direct.fails_after")
    def fails_after(cqt):
        cqt.subtask(effect, "subtask")
        effect.delay("delayed")
        raise Broken("own")

    with pytest.raises(Broken, match="own"):
        fails_after()
    assert [] == effects()


def test_a_returned_chain_whose_beginning_failed_fails_the_call():
    @task("direct.returns_broken_chain")
    def returns(cqt):
        return effect.delay("bad", "why").chain(effect, "skipped").chain(effect, "skipped too")

    with pytest.raises(TaskFailed, match="why") as caught:
        returns()
    assert isinstance(caught.value.__cause__, Broken)
    assert [] == effects()


@pytest.mark.parametrize("which", ["itself", "parent", "successor", "successor's successor"])
def test_a_task_that_returns_what_waits_for_it_says_so(which):
    @task("direct.ring")
    def ring(cqt):
        if which == "itself":
            return cqt
        if which == "parent":
            return cqt.subtask(returns_parent)
        after = cqt.chain(add, 1)
        return after if which == "successor" else after.chain(add, 1)

    @task("direct.returns_parent")
    def returns_parent(cqt):
        return cqt.parent

    with pytest.raises((ValueError, TaskFailed), match="which waits for it"):
        ring()


def test_the_task_inside_can_be_looked_at():
    @task("direct.looks", label="label", meta={"a": 1})
    def looks(cqt, x):
        cqt.log("line", logging.DEBUG)
        cqt.log("quiet", publish=False, limit=3)
        cqt.set_progress(1, 2, "half")
        return [cqt.func_name, cqt.progress, cqt.is_done, cqt.parent, cqt.root_id == cqt.id]

    assert ["direct.looks", (1.0, 2.0, "half"), False, None, True] == looks(1)


def test_a_log_line_goes_to_logging_at_once(caplog):
    @task("direct.logs")
    def logs(cqt):
        cqt.log("hello", logging.WARNING)
        return [r.getMessage().rpartition(": ")[2] for r in caplog.records]

    assert ["hello"] == logs()


def test_a_subtask_knows_its_parent_and_meta():
    @task("direct.parent", meta={"tenant": 5})
    def parent(cqt):
        return cqt.subtask(child)

    @task("direct.child")
    def child(cqt):
        return [cqt.parent.func_name, cqt.meta, cqt.depth]

    assert ["direct.parent", {"tenant": 5}, 1] == parent()


def test_waiting_for_what_a_direct_call_made_is_an_error_and_no_hang():
    @task("direct.waits")
    def waits(cqt):
        return cqt.subtask(add, 1).wait(timeout=5).result

    with pytest.raises(RuntimeError, match="called directly; it runs when that one has returned"):
        waits()


def test_a_direct_call_within_a_direct_call_is_a_call():
    @task("direct.outer")
    def outer(cqt):
        return add(add(1, 2), 3)

    assert 6 == outer()


# -- Async


@task("direct.aeffect")
async def aeffect(cqt, name, error=None, barrier=None):
    await Effect.objects.acreate(name=name)
    if barrier is not None:
        await barrier.wait()
    if error is not None:
        raise Broken(error)
    return name


def test_calling_an_async_function_gives_a_coroutine():
    made = add_later(1)
    assert asyncio.iscoroutine(made)
    made.close()


@task("direct.add_later")
async def add_later(cqt, a):
    await asyncio.sleep(0)
    return a + 1


@pytest.mark.django_db(transaction=True)
def test_an_async_call_gives_the_result_or_the_original_exception():
    async def main():
        assert 2 == await add_later(1)
        assert "a" == await aeffect("a")
        with pytest.raises(Broken, match="why"):
            await aeffect("b", "why")

    asyncio.run(main())
    assert ["a"] == effects()


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.django_db(transaction=True)
def test_concurrent_async_calls_do_not_share_a_transaction():
    async def main():
        barrier = asyncio.Barrier(6)
        calls = [aeffect(f"{n}", "why" if n % 2 else None, barrier) for n in range(6)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(main())
    assert ["0", "2", "4"] == [one for one in found if isinstance(one, str)]
    assert {"0", "2", "4"} == set(effects())


@pytest.mark.django_db(transaction=True)
def test_an_async_call_runs_what_it_makes():
    @task("direct.amakes")
    async def amakes(cqt):
        await cqt.asubtask(effect, "sync subtask")
        await cqt.asubtask(aeffect, "async subtask")
        assert 2 == await cqt.asubtasks(aeffect, ["many 1", "many 2"])
        await effect.adelay("delayed")
        await aeffect.adelay_many(["more"])
        first = await add.adelay(1, 2)
        return await (await first.athen(add, 3)).achain(add_to_previous, 4)

    assert 10 == async_to_sync(amakes)()
    expected = ["sync subtask", "async subtask", "many 1", "many 2", "delayed", "more"]
    assert expected == effects()


@pytest.mark.django_db(transaction=True)
def test_a_sync_call_runs_async_subtasks():
    @task("direct.mixed")
    def mixed(cqt):
        return cqt.subtask(add_later, 1).then(add_later).then(add, 5)

    assert 8 == mixed()
