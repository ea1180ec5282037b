"""`delay()` is one INSERT in the caller's transaction; `delay_many()` one transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from cq import TooDeep, task
from cq.models import Task
from tests.unit.running import claim, renewed

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@task("submission.job")
def job(cqt, x=0):
    return x


@task("submission.other", queue="submission-other")
def other(cqt, x=0): ...


def verbs(queries):
    return [q["sql"].split()[0] for q in queries]


@pytest.mark.django_db(transaction=True)
def test_delay_is_one_insert_and_nothing_else():
    with CaptureQueriesContext(connection) as queries:
        job.delay(1)
    assert ["INSERT"] == verbs(queries)
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        job.using(priority=3, label="x", retries=2, meta={"a": 1}).delay(1)
    assert ["BEGIN", "INSERT", "COMMIT"] == verbs(queries)


@pytest.mark.django_db(transaction=True)
def test_delay_many_is_one_transaction_of_batches():
    with CaptureQueriesContext(connection) as queries:
        made = job.delay_many(range(1001))
    found = verbs(queries)
    assert ("BEGIN", "COMMIT") == (found[0], found[-1])
    assert {"INSERT"} == set(found[1:-1])
    assert list(range(1001)) == [t.args[0] for t in made]
    assert 1001 == Task.objects.queued().count()
    assert 1001 == len({t.id for t in made})


@pytest.mark.django_db(transaction=True)
def test_the_database_is_asked_for_its_clock_once_however_many_tasks_there_are():
    with CaptureQueriesContext(connection) as queries:
        made = job.using(run_after=HOUR, expires=60).delay_many(range(50))
    assert 1 >= len([sql for sql in verbs(queries) if sql == "SELECT"])
    assert 1 == len({t.run_after for t in made})


def test_a_new_task_is_queued_with_its_times():
    made = Task.objects.get(id=job.delay(1).id)
    assert Task.Status.QUEUED == made.status
    assert made.submitted is not None
    assert made.ready_at == made.submitted
    assert (None, None, None) == (made.run_after, made.expires_at, made.started)
    assert (made.id, None, None, 0) == (made.root_id, made.parent_id, made.previous_id, made.depth)
    assert (0, 0, 0, []) == (made.claim_no, made.failures, made.rescues, made.attempts)


def test_ids_rise_with_time():
    ids = [job.delay().id for _ in range(50)]
    assert sorted(ids) == ids


@pytest.mark.parametrize("run_after", [HOUR, datetime(2999, 1, 1, tzinfo=UTC)])
def test_a_task_whose_time_lies_ahead_is_scheduled(run_after):
    made = renewed(job.using(run_after=run_after).delay())
    assert Task.Status.SCHEDULED == made.status
    assert made.ready_at == made.run_after
    if isinstance(run_after, datetime):
        assert run_after == made.run_after
    else:
        assert timedelta(seconds=5) > abs(made.run_after - made.submitted - HOUR)
    assert [] == claim()


@pytest.mark.parametrize("run_after", [None, timedelta(0), datetime(2001, 1, 1, tzinfo=UTC)])
def test_a_task_whose_time_is_over_is_queued(run_after):
    made = renewed(job.using(run_after=run_after).delay())
    assert Task.Status.QUEUED == made.status
    assert [made] == claim()


def test_expires_counts_from_when_it_could_first_run():
    plain = renewed(job.using(expires=60).delay())
    later = renewed(job.using(expires=60, run_after=HOUR).delay())
    dated = renewed(job.using(expires=datetime(2999, 1, 1, tzinfo=UTC)).delay())
    assert timedelta(seconds=5) > abs(plain.expires_at - plain.submitted - timedelta(seconds=60))
    assert timedelta(seconds=60) == later.expires_at - later.run_after
    assert datetime(2999, 1, 1, tzinfo=UTC) == dated.expires_at


def test_a_successor_waits_and_its_times_begin_when_it_is_released():
    top = job.delay()
    made = renewed(top.chain(job.using(run_after=HOUR, expires=60)))
    assert Task.Status.PENDING == made.status
    assert (None, None) == (made.run_after, made.expires_at)
    assert {"run_after": 3600.0, "expires": 60.0} == made.delays


def test_a_subtask_knows_its_tree():
    top = job.delay()
    child = top.subtask(job)
    grandchild = child.subtask(job)
    after = grandchild.chain(job)
    assert [0, 1, 2, 2] == [t.depth for t in (top, child, grandchild, after)]
    assert {top.id} == {t.root_id for t in (top, child, grandchild, after)}
    assert [None, top, child, child] == [t.parent for t in (top, child, grandchild, after)]
    assert [grandchild] == list(child.subtasks.exclude(id=after.id))
    assert [after] == list(grandchild.successors.all())


def test_a_successor_without_a_parent_is_its_own_top_task():
    top = job.delay()
    after = top.chain(job)
    assert (after.id, None, top) == (after.root_id, after.parent, after.previous)


def test_meta_is_inherited_and_can_be_changed():
    top = job.using(meta={"tenant": 1, "a": 1}).delay()
    child = top.subtask(job.using(meta={"a": 2}))
    grandchild = child.subtask(job)
    assert {"tenant": 1, "a": 2} == child.meta == grandchild.meta
    assert {"tenant": 1, "a": 1} == top.meta


def test_a_tree_has_a_deepest_level(settings):
    settings.CQ_MAX_DEPTH = 2
    deepest = job.delay().subtask(job).subtask(job)
    with pytest.raises(TooDeep, match="3 levels below its top task; CQ_MAX_DEPTH allows 2"):
        deepest.subtask(job)
    deepest.chain(job)
    assert 4 == Task.objects.count()


@pytest.mark.django_db(transaction=True)
def test_a_rollback_leaves_nothing_and_rings_nothing():
    def stop():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        top = job.delay()
        job.delay_many(range(700))
        top.subtask(job)
        top.subtasks(job, range(3))
        top.chain(job).then(job)
        assert len(connection.run_on_commit) > 0
        stop()
    assert 0 == Task.objects.count()
    assert [] == connection.run_on_commit


@pytest.mark.django_db(transaction=True)
def test_an_item_that_does_not_fit_leaves_nothing_of_delay_many():
    def items():
        yield from range(600)
        yield 1, 2, 3

    top = job.delay()
    for call in (job.delay_many, lambda given: top.subtasks(job, given)):
        with pytest.raises(TypeError, match=r"submission\.job: too many"):
            call(items())
    assert [top] == list(Task.objects.all())


@pytest.mark.django_db(transaction=True)
def test_one_bell_for_each_queue_of_a_burst_is_waiting_to_be_rung(settings):
    with transaction.atomic():
        job.delay_many(range(600))
        other.delay_many(range(600))
        job.using(run_after=HOUR).delay()
        rung = [str(call) for _, call, _ in connection.run_on_commit if "ring" in str(call)]
    assert {True, False} == {"submission-other" in text for text in rung}
    assert 4 >= len(rung)


def test_tasks_of_one_delay_many_differ_in_their_arguments_alone():
    using = job.using(
        meta={"a": 1}, label="x", expires=60, run_after=HOUR, retry_delay=[1], sensitive=["x"]
    )
    top = using.delay(0)
    alone = [top, *(using.delay(number) for number in range(1, 4))]
    together = using.delay_many([0, 1, (2,), (3,)])
    own = {"id", "root_id", "submitted", "ready_at", "run_after", "expires_at"}
    for one, other in zip(renewed(*alone), renewed(*together), strict=True):
        for field in Task._meta.concrete_fields:
            if field.attname not in own:
                assert getattr(one, field.attname) == getattr(other, field.attname)
        assert other.id == other.root_id
        assert other.run_after == together[0].run_after
        assert other.ready_at == other.run_after == other.expires_at - timedelta(seconds=60)
    assert 3 == top.subtasks(using, range(3))
    for one in top.subtasks.all():
        assert (top.id, top.id, 1) == (one.parent_id, one.root_id, one.depth)
    assert 3 == len({one.id for one in top.subtasks.all()})


def test_tasks_of_one_delay_many_share_nothing_that_can_change():
    first, second = job.using(meta={"a": [1]}).delay_many([[1], [1]])
    for field in Task._meta.concrete_fields:
        value = getattr(first, field.attname)
        if isinstance(value, list | dict):
            assert value is not getattr(second, field.attname)


def test_arguments_are_as_they_were_when_they_were_given():
    one = {"a": [1]}
    first, second = job.delay_many([one, one])
    one["a"].append(2)
    assert [{"a": [1]}] == first.args == second.args
    assert [[{"a": [1]}]] * 2 == [t.args for t in renewed(first, second)]


def test_delay_many_of_nothing_makes_nothing():
    assert [] == job.delay_many([])
    assert 0 == job.delay().subtasks(job, [])


def test_position_counts_what_is_claimed_before():
    first = job.delay()
    low = job.using(priority=-5).delay()
    high = job.using(priority=5).delay()
    second = job.delay()
    other.delay()
    later = job.using(run_after=HOUR).delay()
    pending = first.chain(job)
    Task.objects.filter(id=second.id).update(ready_at=F("ready_at") + timedelta(seconds=1))
    found = [t.position() for t in (high, first, second, low)]
    assert [0, 1, 2, 3] == found
    assert (None, None) == (later.position(), pending.position())
    claimed = claim(4)
    assert [high, first, second, low] == claimed
    assert None is low.position()


def test_there_is_a_query_for_every_status():
    names = {
        "PENDING": "pending",
        "SCHEDULED": "scheduled",
        "QUEUED": "queued",
        "RUNNING": "running",
        "WAITING": "waiting",
        "RETRY": "retrying",
        "SUCCESS": "succeeded",
        "FAILURE": "failed",
        "INCOMPLETE": "incomplete",
        "LOST": "lost",
        "REVOKED": "revoked",
        "SKIPPED": "skipped",
    }
    assert set(names) == {str(status) for status in Task.Status}
    made = {status: job.delay() for status in names}
    for status, one in made.items():
        Task.objects.filter(id=one.id).update(status=status)
    for status, name in names.items():
        assert [made[status]] == list(getattr(Task.objects, name)())
    active = {"PENDING", "SCHEDULED", "QUEUED", "RUNNING", "WAITING", "RETRY"}
    assert active == {t.status for t in Task.objects.active()}
    assert set(names) - active == {t.status for t in Task.objects.done()}
    assert {"FAILURE", "INCOMPLETE", "LOST", "REVOKED"} == {t.status for t in Task.objects.errors()}
