"""How often a runner looks without having heard a bell."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from cq.polling import GROWTH, SHORTEST, Poll


class Runner(SimpleNamespace):
    def __init__(self):
        super().__init__(has_free_hands=True, when_found=None, looks=0)

    def look(self):
        self.looks += 1


@pytest.fixture
def runner():
    return Runner()


def pauses(poll, count):
    """The seconds before each of the next looks, all of which find nothing."""
    found = []
    for _ in range(count):
        found.append(poll._next())
        poll._tick()
    return found


def test_where_bells_are_heard_it_looks_once_in_an_interval(runner, settings):
    settings.CQ_POLL_INTERVAL = 10
    found = pauses(Poll(runner, runner.look, hears=True), 100)
    assert 9 <= min(found) < 9.5
    assert 10.5 < max(found) <= 11
    assert 100 == runner.looks


def test_where_nobody_rings_it_looks_ever_less_often_while_there_is_nothing(runner, settings):
    settings.CQ_POLL_INTERVAL = 1
    found = pauses(Poll(runner, runner.look, hears=False), 100)
    assert SHORTEST <= found[0] <= 1.1 * SHORTEST
    assert all(SHORTEST <= one <= 1 for one in found)
    assert all(0.9 * SHORTEST * GROWTH**n <= one for n, one in enumerate(found[:6]))
    assert sum(found[:8]) < 4 < 0.9 * 90 < sum(found[-90:])


def test_while_all_hands_are_full_it_neither_looks_nor_gets_slower(runner, settings):
    settings.CQ_POLL_INTERVAL = 1
    runner.has_free_hands = False
    assert max(pauses(Poll(runner, runner.look, hears=False), 20)) <= 1.1 * SHORTEST
    assert 0 == runner.looks


def test_an_interval_below_the_shortest_is_kept(runner, settings):
    settings.CQ_POLL_INTERVAL = 0.02
    assert {0.02} == set(pauses(Poll(runner, runner.look, hears=False), 20))


@pytest.mark.parametrize("how", ["found", "not heard"])
def test_it_wakes_from_a_long_pause(runner, settings, how):
    settings.CQ_POLL_INTERVAL = 3600

    async def scenario():
        poll = Poll(runner, runner.look, hears=how == "not heard")
        poll._pause = 3600
        running = asyncio.create_task(poll.run())
        await asyncio.sleep(0.1)
        assert 0 == runner.looks
        if how == "found":
            await asyncio.to_thread(runner.when_found)
        else:
            poll.hear(False)
        await asyncio.sleep(10 * SHORTEST)
        assert 1 <= runner.looks
        running.cancel()

    asyncio.run(scenario())


def test_what_is_found_where_bells_are_heard_changes_nothing(runner, settings):
    settings.CQ_POLL_INTERVAL = 3600

    async def scenario():
        running = asyncio.create_task(Poll(runner, runner.look, hears=True).run())
        await asyncio.sleep(0)
        await asyncio.to_thread(runner.when_found)
        await asyncio.sleep(4 * SHORTEST)
        running.cancel()

    asyncio.run(scenario())
    assert 0 == runner.looks


def test_a_loop_that_will_look_soon_is_not_woken(runner, settings):
    """Under load something is found hundreds of times a second."""
    settings.CQ_POLL_INTERVAL = 1
    woken = []

    async def scenario():
        poll = Poll(runner, runner.look, hears=False)
        running = asyncio.create_task(poll.run())
        await asyncio.sleep(0)
        loop = SimpleNamespace(call_soon_threadsafe=woken.append)
        for _ in range(100):
            poll._found(loop)
        running.cancel()

    asyncio.run(scenario())
    assert [] == woken


def test_found_in_a_process_that_ends_is_nobodys_error(runner):
    loop = asyncio.new_event_loop()
    loop.close()
    poll = Poll(runner, runner.look, hears=False)
    poll._pause = 1
    poll._found(loop)
