"""What is claimed before it can begin: which tasks may be, and what their rows say."""

from __future__ import annotations

from contextlib import closing

import pytest
import uuid_utils.compat as uuid
from django.db import connection

from cq import execution, lifecycle, maintenance, registry, statements, task
from cq.models import Task
from tests.app import mutants
from tests.unit.running import renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@task("ahead.job")
def job(cqt, number=0):
    return number


@task("ahead.loose", atomic=False)
def loose(cqt): ...


@task("ahead.loose_again", atomic=False, rerun_lost=True)
def loose_again(cqt): ...


def claim(free, ahead, worker=None):
    return lifecycle.claim(
        "default", registry.names(), free, worker or uuid.uuid7(), ahead=ahead, whole=False
    )


def begun(*tasks):
    renewed(*tasks)
    return [task.started is not None for task in tasks]


def test_those_that_begin_at_once_have_started_and_those_ahead_have_not():
    made = job.delay_many(range(4))
    claimed = claim(1, 2)
    assert [task.id for task in made[:3]] == [task.id for task in claimed]
    assert ["RUNNING"] * 3 + ["QUEUED"] == statuses(*made)
    assert [True, False, False, False] == begun(*made)
    assert [True, False, False] == [task.started is not None for task in claimed]


def test_the_most_urgent_are_claimed_in_their_order():
    low = job.using(priority=-1).delay()
    made = job.delay_many(range(2))
    high = job.using(priority=1).delay()
    expected = [high.id, made[0].id, made[1].id, low.id]
    assert expected == [task.id for task in claim(1, 9)]


@pytest.mark.parametrize(("function", "may"), [(job, True), (loose, False), (loose_again, True)])
def test_what_may_not_run_twice_is_claimed_into_a_free_hand_alone(function, may):
    job.delay()
    function.delay()
    job.delay()
    assert (3 if may else 1) == len(claim(1, 5))
    if not may:
        left = claim(0, 5)
        assert [] == left
        assert left.is_cut is (connection.vendor != "sqlite")
        assert 2 == len(claim(1, 5))


def test_the_end_of_one_that_waited_says_when_it_began():
    made = job.delay_many(range(2))
    first, second = claim(1, 1)
    execution.execute(first)
    execution.execute(second)
    renewed(*made)
    assert made[1].submitted < made[1].started <= made[1].finished
    assert made[1].started.isoformat()[:23] == made[1].attempts[0]["started"][:23]


@pytest.mark.vendors("postgresql", "mysql")
def test_a_row_says_that_its_task_has_begun_once_it_is_marked():
    (made,) = job.delay_many(range(1))
    (claimed,) = claim(0, 1)
    lifecycle.begin(claimed)
    assert [False] == begun(made)
    lifecycle.mark_begun(claimed)
    assert [True] == begun(made)
    assert claimed.started == made.started


def test_a_mark_comes_too_late_for_what_is_anothers():
    (made,) = job.delay_many(range(1))
    (claimed,) = claim(0, 1)
    lifecycle.begin(claimed)
    lifecycle.give_back([claimed])
    lifecycle.mark_begun(claimed)
    assert ("QUEUED", None) == (renewed(made).status, made.started)


def test_what_had_not_begun_is_taken_back_without_being_charged():
    made = job.delay_many(range(3))
    worker = uuid.uuid7()
    claim(1, 2, worker)
    assert 3 == maintenance.rescue_from(worker, {made[1].id})
    assert ["QUEUED"] * 3 == statuses(*made)
    assert [1, 1, 0] == [task.rescues for task in made]
    assert [1, 1, 0] == [len(task.attempts) for task in made]
    assert [False] * 3 == [task.alone for task in made]


@pytest.mark.parametrize("mutant", ["", "never_alone"])
def test_what_may_have_killed_its_worker_is_claimed_alone(mutant, monkeypatch):
    mutants.apply(mutant, monkeypatch.setattr)
    made = job.delay_many(range(3))
    claim(1, 2)  # by a worker that is gone
    assert 3 == maintenance.rescue_silent()
    renewed(*made)
    assert [1, 0, 0] == [task.rescues for task in made]
    assert [False, not mutant, not mutant] == [task.alone for task in made]
    # Two are to be claimed alone, so that the next death is that of one.
    assert (1 if not mutant else 3) == len(claim(1, 9))


def test_what_was_alone_runs_like_any_other():
    made = job.delay_many(range(3))
    claim(0, 3)
    maintenance.rescue_silent()
    assert 3 == run_all()
    assert ["SUCCESS"] * 3 == statuses(*made)


def test_what_is_given_back_is_where_it_was():
    made = job.delay_many(range(3))
    before = list(Task.objects.order_by("id").values_list("id", "ready_at"))
    assert 3 == lifecycle.give_back(claim(1, 5))
    assert before == list(Task.objects.order_by("id").values_list("id", "ready_at"))
    assert [task.id for task in made] == [task.id for task in claim(3, 0)]


@pytest.mark.vendors("postgresql")
def test_a_claim_is_one_statement(django_assert_num_queries):
    job.delay_many(range(3))
    with django_assert_num_queries(1):
        assert 3 == len(claim(1, 5))


@pytest.mark.vendors("postgresql")
def test_a_claim_passes_over_what_another_claims():
    made = job.delay_many(range(2))
    with closing(connection.copy()) as other, other.cursor() as cursor:
        other.set_autocommit(False)
        cursor.execute("SELECT id FROM cq_task WHERE id = %s FOR UPDATE", [made[0].id])
        assert [made[1].id] == [task.id for task in claim(1, 5)]
        other.rollback()
    assert [made[0].id] == [task.id for task in claim(1, 5)]


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_claimed_can_be_asked_for_all_that_its_row_says(whole):
    """On a loop, where nothing can be loaded, without a query."""
    made = job.using(label="one").delay(3)
    (claimed,) = lifecycle.claim("default", registry.names(), 1, uuid.uuid7(), whole=whole)
    if whole or not statements.batches():
        assert set() == claimed.get_deferred_fields()
    renewed(made)
    for field in Task._meta.concrete_fields:
        assert getattr(made, field.attname) == getattr(claimed, field.attname), field.attname
