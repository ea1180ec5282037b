"""Ends that are written behind the runs: many at once, each of them once, and nobody waits for another."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
import uuid_utils.compat as uuid
from django.db import OperationalError, connection, connections, transaction

from cq import database, execution, finishing, lifecycle, registry, task
from cq.finishing import Finisher
from cq.models import Task
from tests.app.models import Effect
from tests.processes import eventually
from tests.unit.running import renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)


@task("finishing.nothing")
def nothing(cqt, number=0):
    return number


@task("finishing.writes")
def writes(cqt, number=0):
    Effect.objects.create(name="finishing", number=number)


@task("finishing.reads")
def reads(cqt):
    return Effect.objects.count()


@task("finishing.calls_later")
def calls_later(cqt):
    transaction.on_commit(lambda: None)


@task("finishing.parent")
def parent(cqt, width):
    cqt.subtasks(nothing, range(width))


@task("finishing.secret", sensitive=("key",))
def secret(cqt, key):
    return 1


@pytest.fixture(autouse=True)
def as_in_a_worker():
    """Whose connections tell whether a task has asked them anything."""
    if connection.vendor == "mysql":
        database.prepare(connection)


class Kept:
    """A finisher that writes nothing."""

    def __init__(self):
        self.ends = []

    def put(self, end):
        self.ends.append(end)

    def look_above(self, parent_id):
        pass


@pytest.fixture
def finisher():
    broken = []
    one = Finisher(lambda: broken.append(True), lambda: False)
    one.start()
    yield one
    one.stop()
    assert [] == broken


def claim(count=100, worker=None):
    return lifecycle.claim("default", registry.names(), count, worker or uuid.uuid7())


def kept(*claimed):
    one = Kept()
    for task_ in claimed:
        execution.execute(task_, "worker", one)
    return one.ends


@pytest.mark.parametrize(
    ("function", "behind"),
    [
        (nothing, True),
        (writes, False),
        (reads, connection.vendor == "sqlite"),
        (calls_later, False),
    ],
)
def test_an_end_waits_only_where_nothing_is_committed_with_it(function, behind):
    made = function.delay()
    ends = kept(*claim())
    assert int(behind) == len(ends)
    assert ["RUNNING" if behind else "SUCCESS"] == statuses(made)


def test_ends_are_written_in_one_statement(django_assert_max_num_queries):
    made = nothing.delay_many(range(50))
    pairs = [(end.task, end.outcome) for end in kept(*claim())]
    with django_assert_max_num_queries(1 if connection.vendor == "postgresql" else 50):
        assert {one.id for one in made} == lifecycle.finish_many(pairs)
    renewed(*made)
    assert list(range(50)) == [one.result for one in made]
    assert {"SUCCESS"} == {one.status for one in made}
    assert all(one.finished and one.prune_at and len(one.attempts) == 1 for one in made)


def test_an_end_that_is_written_with_others_says_what_it_would_say_alone():
    made = [nothing.delay(5), nothing.using(result_ttl=None).delay(None), nothing.delay(5)]
    claimed = claim(2)
    lifecycle.finish_many([(end.task, end.outcome) for end in kept(*claimed)])
    (last,) = claim(1)
    with_orm = {**vars(last)}
    lifecycle._move(
        lifecycle.mine(last),
        ("RUNNING",),
        "SUCCESS",
        last,
        **lifecycle._changes(last, lifecycle.Outcome(status="SUCCESS", result=5)),
    )
    assert with_orm["id"] == made[2].id
    renewed(*made)
    for name in ("status", "result", "error", "traceback", "failures", "claim_no", "worker_id"):
        if name != "worker_id":
            assert getattr(made[0], name) == getattr(made[2], name), name
    assert made[0].attempts[0].keys() == made[2].attempts[0].keys()
    assert made[1].prune_at is None
    assert Task.objects.filter(id=made[1].id, result__isnull=True).exists()
    assert (made[0].prune_at - made[0].finished) == (made[2].prune_at - made[2].finished)


def test_a_sensitive_argument_is_forgotten_at_an_end_behind():
    made = secret.delay("hush")
    (end,) = kept(*claim())
    lifecycle.finish_many([(end.task, end.outcome)])
    assert ["***"] == renewed(made).args


def test_the_finisher_writes_ends_and_completes_what_is_above(finisher):
    made = parent.delay(20)
    execution.execute(claim(1)[0], "worker", finisher)
    for child in claim():
        execution.execute(child, "worker", finisher)
    eventually(lambda: finisher.is_idle)
    assert "SUCCESS" == renewed(made).status
    assert {"SUCCESS"} == set(made.subtasks.values_list("status", flat=True))


def test_what_is_revoked_meanwhile_stays_so(finisher):
    made = nothing.delay_many(range(3))
    ends = kept(*claim())
    made[1].revoke()
    for end in ends:
        finisher.put(end)
    eventually(lambda: finisher.is_idle)
    assert ["SUCCESS", "REVOKED", "SUCCESS"] == statuses(*made)


def test_what_is_linked_to_meanwhile_tells_its_successor(finisher):
    made = nothing.delay(3)
    (end,) = kept(*claim())
    after = made.then(nothing)
    finisher.put(end)
    eventually(lambda: finisher.is_idle)
    assert ["SUCCESS", "QUEUED"] == statuses(made, after)
    run_all()
    assert 3 == renewed(after).result


@contextmanager
def held(row):
    """Somebody's transaction holds the row until the block ends."""
    locked, done = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            Task.objects.select_for_update().get(id=row.id)
            locked.set()
            done.wait(30)
        connections.close_all()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.vendors("postgresql", "mysql")
def test_an_end_whose_row_is_held_keeps_no_other_waiting(finisher):
    made = nothing.delay_many(range(5))
    ends = kept(*claim())
    with held(made[2]):
        for end in ends:
            finisher.put(end)
        eventually(lambda: len(finisher.unwritten()) == 1, 5)
        assert {made[2].id} == finisher.unwritten()
        assert not finisher.is_idle
    eventually(lambda: finisher.is_idle)
    assert ["SUCCESS"] * 5 == statuses(*made)


@pytest.mark.parametrize("is_written", [False, True])
def test_an_end_is_written_once_whether_or_not_its_commit_was_answered(
    finisher, is_written, monkeypatch
):
    real, tries = lifecycle.finish_many, []

    def unanswered(ends, **given):
        tries.append(len(ends))
        if len(tries) > 2:
            return real(ends, **given)
        if is_written and len(tries) == 1:
            real(ends, **given)
            connections["default"].commit()
        raise OperationalError("server closed the connection unexpectedly")

    made = nothing.delay_many(range(3))
    ends = kept(*claim())
    monkeypatch.setattr(lifecycle, "finish_many", unanswered)
    for end in ends:
        finisher.put(end)
    eventually(lambda: finisher.is_idle)
    renewed(*made)
    assert [("SUCCESS", 1, 1)] * 3 == [
        (one.status, len(one.attempts), one.claim_no) for one in made
    ]
    assert len(tries) > 2


def test_one_end_that_the_database_refuses_spoils_no_other(finisher, monkeypatch):
    real = lifecycle.finish_many

    def refuses(ends, **given):
        if any(one.id == made[1].id for one, _ in ends):
            raise ValueError("refused")
        return real(ends, **given)

    made = nothing.delay_many(range(3))
    ends = kept(*claim())
    monkeypatch.setattr(lifecycle, "finish_many", refuses)
    for end in ends:
        finisher.put(end)
    eventually(lambda: finisher.is_idle)
    assert ["SUCCESS", "FAILURE", "SUCCESS"] == statuses(*made)
    assert "could not be stored" in made[1].error


def test_stopping_writes_what_there_is():
    one = Finisher(lambda: None, lambda: True)
    made = nothing.delay_many(range(finishing.MOST + 50))
    for end in kept(*claim(1000)):
        one.put(end)
    one.start()
    one.stop()
    assert {"SUCCESS"} == set(statuses(*made))
    assert set() == one.unwritten()
