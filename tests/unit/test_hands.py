"""How much may be claimed for so many hands, and in which order they take it."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from cq import hands
from cq.hands import Hands


def tasks(*priorities, first=0):
    return [
        SimpleNamespace(priority=priority, ready_at=first, id=first + number)
        for number, priority in enumerate(priorities)
    ]


def made(number=1, seconds=None):
    """Hands that have learned how long a task takes."""
    one = Hands(number, lambda count: None)
    if seconds is not None:
        for _ in range(100):
            one.put(tasks(0))
            one.take()
            one.done(seconds)
    return one


def test_before_anything_is_known_free_hands_are_filled_and_no_more():
    assert (3, 0) == made(3).room()


@pytest.mark.parametrize(
    ("seconds", "ahead"), [(0.0001, hands.MOST), (0.001, 100), (0.01, 10), (0.2, 0), (3.0, 0)]
)
def test_as_much_is_claimed_ahead_as_a_tenth_of_a_second_takes(seconds, ahead):
    assert (1, ahead) == pytest.approx(made(1, seconds).room(), abs=1)


def test_hands_that_are_full_have_no_room():
    one = made(2, 1.0)
    one.put(tasks(0, 0))
    assert (0, 0) == one.room()
    one.take(), one.take()
    assert (0, 0) == one.room()
    one.done(1.0)
    assert (1, 0) == one.room()


def test_more_is_claimed_when_half_of_it_is_gone():
    one = made(1, 0.001)
    one.put(tasks(*[0] * 100))
    asked = []
    for _ in range(100):
        one.take()
        if one.done(0.001):
            asked.append(one.room())
    assert 45 <= len(asked) <= 55
    assert (0, 50) == pytest.approx(asked[0], abs=4)


def test_while_all_hands_are_at_something_long_nothing_is_claimed_ahead():
    one = made(1, 0.0001)
    one.put(tasks(0))
    one.take()
    time.sleep(2 * hands.AHEAD)
    assert (0, 0) == one.room()


def test_they_take_the_most_urgent_whenever_it_was_claimed():
    one = made(1)
    one.put(tasks(0, -5, first=0))
    one.put(tasks(7, 0, first=10))
    assert [10, 0, 11, 1] == [one.take().id for _ in range(4)]


def test_what_stands_still_is_told_once():
    one = made(1)
    one.put(tasks(0, 0, 0))
    one.take()
    assert [] == one.stuck()
    time.sleep(1.1 * hands.PATIENCE)
    assert [1, 2] == sorted(task.id for task in one.stuck())
    assert [] == one.stuck()
    assert one.take() is None


def test_what_moves_is_not_stuck():
    one = made(1)
    one.put(tasks(*[0] * 10))
    for _ in range(5):
        time.sleep(0.4 * hands.PATIENCE)
        one.take()
        assert [] == one.stuck()
        one.done(0.1)


def test_one_long_task_does_not_keep_short_ones_from_being_claimed_for_long():
    one = made(1, 0.001)
    one.put(tasks(0))
    one.take()
    one.done(3600)
    for _ in range(60):
        one.put(tasks(0))
        one.take()
        one.done(0.001)
    assert one.room()[1] > 20


def test_the_last_that_ends_is_told_so():
    one, told = made(2), []
    one.put(tasks(0, 0))
    one.take(), one.take()
    one.done(0.1, lambda: told.append(1))
    assert [] == told
    one.done(0.1, lambda: told.append(2))
    assert [2] == told


def test_what_may_not_wait_keeps_others_from_being_claimed_ahead_until_a_hand_is_free():
    one = made(1, 0.001)
    one.put(tasks(0))
    one.take()
    assert one.room()[1] > 50
    one.cut()
    assert (0, 0) == one.room()
    one.done(0.001)
    assert 1 == one.room()[0]
    assert one.room()[1] > 50
