"""Slots become tasks: once each, coalesced, caught up with, and skipped where that is said."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now
from django.db.models.signals import post_save
from django.test.utils import CaptureQueriesContext

from cq import database, firing, lifecycle, repeating, task
from cq.exceptions import InvalidSchedule
from cq.models import RepeatingTask, Task
from cq.states import Status
from tests.unit.running import run_all

pytestmark = pytest.mark.django_db(transaction=True)

MINUTE = timedelta(minutes=1)


@task("firing.note")
def note(cqt, *args, **kwargs):
    return cqt.scheduled_for


@task("firing.other", aliases=["firing.formerly"])
def other(cqt):
    pass


def now():
    return database.read_clock()


def due(past=timedelta(seconds=1), **fields):
    """A schedule whose next run was to be `past` ago."""
    row = RepeatingTask.objects.create(**{"func_name": note.name, "name": "due", **fields})
    while not 2 <= now().second < 57:  # a minute that begins meanwhile would be a slot, too
        time.sleep(0.2)
    moment = (now() - past).replace(microsecond=0)
    RepeatingTask.objects.filter(id=row.id).update(next_run=moment)
    row.refresh_from_db()
    return row


def fire():
    """Until nothing is due. Returns the tasks, oldest slot first."""
    while firing.step() == 0.0:
        pass
    return list(Task.objects.order_by("slot"))


def test_a_due_slot_becomes_one_task_and_the_next_run_moves_on():
    row = due(crontab="* * * * *")
    slot = row.next_run
    (made,) = fire()
    row.refresh_from_db()
    assert (made.repeating_task, made.slot, made.status) == (row, slot, Status.QUEUED)
    assert (row.last_run, row.run_count) == (slot, 1)
    assert now() < row.next_run <= now() + MINUTE
    assert (row.next_run.second, row.next_run.microsecond) == (0, 0)


def test_the_task_reads_its_slot():
    row = due(kwargs={"a": 1}, queue="default", priority=7, result_ttl=timedelta(hours=1))
    slot = row.next_run
    fire()
    run_all()
    made = Task.objects.get()
    assert (made.result, made.scheduled_for) == (slot, slot)
    assert (made.kwargs, made.priority, made.result_ttl) == ({"a": 1}, 7, timedelta(hours=1))


def test_what_is_not_due_or_not_enabled_makes_nothing():
    ahead = RepeatingTask.objects.create(func_name=note.name, crontab="0 0 1 1 *")
    off = due(name="off")
    repeating.enable([off], on=False)
    before = ahead.next_run
    assert 0 < firing.step() <= 1
    assert fire() == []
    ahead.refresh_from_db()
    assert ahead.next_run == before


def test_a_pass_with_nothing_due_reads_twice_and_writes_nothing():
    RepeatingTask.objects.create(func_name=note.name, crontab="0 0 1 1 *")
    firing.step()  # which, once a minute, looks for what nobody knows
    with CaptureQueriesContext(connection) as queries:
        firing.step()
    assert len(queries) == 2
    assert all(query["sql"].startswith("SELECT") for query in queries)


def test_it_sleeps_no_longer_than_to_the_next_slot():
    row = RepeatingTask.objects.create(func_name=note.name, crontab="0 0 1 1 *")
    RepeatingTask.objects.filter(id=row.id).update(next_run=now() + timedelta(seconds=0.8))
    assert 0 < firing.step() <= 0.8


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING"])
def test_while_a_task_of_it_is_active_a_slot_is_skipped_and_counted(status):
    row = due()
    fire()
    if status == "RUNNING":
        lifecycle.claim("default", [note.name], 1, Task.objects.get().id)
    assert Task.objects.get().status == status
    RepeatingTask.objects.filter(id=row.id).update(next_run=(slot := now() - timedelta(seconds=2)))
    assert len(fire()) == 1
    row.refresh_from_db()
    assert (row.skip_count, row.last_skip, row.run_count) == (1, slot, 1)
    assert row.next_run > now()


def test_without_coalesce_the_slot_becomes_a_task_whatever_is_active():
    row = due(coalesce=False)
    fire()
    RepeatingTask.objects.filter(id=row.id).update(next_run=now())
    assert len(fire()) == 2


def test_tasks_of_the_function_hold_back_only_where_that_was_chosen():
    note.delay()
    due()
    assert len(fire()) == 2
    Task.objects.all().delete()
    other.delay()
    row = due(name="by function", func_name="firing.formerly", coalesce_by="FUNCTION")
    assert len(fire()) == 1
    row.refresh_from_db()
    assert row.skip_count == 1


@pytest.mark.parametrize(
    ("catch_up", "limit", "made", "missed"),
    [("SKIP", 100, 0, 5), ("ONE", 100, 1, 4), ("ALL", 100, 5, 0), ("ALL", 3, 3, 2)],
)
def test_slots_that_passed_are_left_out_made_up_for_once_or_each(catch_up, limit, made, missed):
    row = due(
        timedelta(hours=4, minutes=30),
        kind="HOURS",
        start=(now() - timedelta(days=1, minutes=30)).replace(microsecond=0),
        coalesce=False,
        catch_up=catch_up,
        catch_up_limit=limit,
    )
    first = row.next_run
    slots = [task.slot for task in fire()]
    hours = [first + timedelta(hours=n) for n in range(5)]
    row.refresh_from_db()
    assert slots == hours[5 - made :]
    assert row.miss_count == missed
    assert row.next_run == first + timedelta(hours=5)


def test_skip_still_fires_what_is_only_a_little_late():
    due(timedelta(seconds=20), catch_up="SKIP", kind="HOURS", start=now() - timedelta(seconds=20))
    assert len(fire()) == 1


def test_a_year_of_missed_minutes_takes_no_longer_than_one():
    row = due(timedelta(days=365))
    with CaptureQueriesContext(connection) as queries:
        fire()
    row.refresh_from_db()
    assert row.run_count == 1
    assert now() - row.last_run < MINUTE
    assert len(queries) < 20


def test_repeats_are_counted_down_to_the_end():
    row = due(repeats=2, coalesce=False, catch_up="ALL", crontab="* * * * * *")
    assert len(fire()) == 2
    row.refresh_from_db()
    assert (row.repeats, row.next_run, row.enabled) == (0, None, True)
    assert len(fire()) == 2
    row.repeats = 1
    row.save()
    assert row.next_run is not None


def test_minus_one_is_for_ever():
    row = due(repeats=-1)
    fire()
    row.refresh_from_db()
    assert row.repeats == -1
    assert row.next_run


def test_a_next_run_by_hand_with_none_left_comes_once():
    row = due(repeats=0)
    assert row.upcoming() == [row.next_run]
    assert len(fire()) == 1
    row.refresh_from_db()
    assert (row.repeats, row.next_run) == (0, None)


def test_moments_that_the_database_wrote_are_moments():
    """SQLite keeps them as text, and can write one in two ways."""
    row = due()
    RepeatingTask.objects.filter(id=row.id).update(next_run=Now())
    assert len(fire()) == 1
    RepeatingTask.objects.filter(id=row.id).update(start=Now(), next_run=None, planned=False)
    firing.step()
    row.refresh_from_db()
    assert row.planned


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.parametrize("state", ["due", "new", "broken"])
def test_a_row_that_somebody_holds_stops_no_heartbeat(state):
    row = due()
    changes = {"new": {"next_run": None, "planned": False}, "broken": {"crontab": "x"}, "due": {}}
    RepeatingTask.objects.filter(id=row.id).update(**changes[state])
    held, over = threading.Event(), threading.Event()

    def hold():
        with transaction.atomic():
            RepeatingTask.objects.filter(id=row.id).update(queue="")
            held.set()
            over.wait(20)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        held.wait(10)
        began = time.monotonic()
        assert firing.step() > 0
        assert time.monotonic() - began < 10
        assert not over.is_set()
    finally:
        over.set()
        holder.join()
    if state == "due":
        assert len(fire()) == 1


@pytest.mark.parametrize("kind", ["CRONTAB", "MINUTES"])
def test_one_with_an_end_goes_on_until_then(kind):
    row = due(kind=kind, end=now() + 10 * MINUTE, coalesce=False)
    fire()
    row.refresh_from_db()
    assert now() < row.next_run <= now() + MINUTE
    assert row.upcoming(50)[-1] <= row.end
    assert len(row.upcoming(50)) >= 9


def test_once_is_once():
    row = RepeatingTask.objects.create(func_name=note.name, kind="ONCE", start=now())
    assert len(fire()) == 1
    row.refresh_from_db()
    assert row.next_run is None
    row.save()
    assert len(fire()) == 1


def test_once_at_another_time_by_hand_is_once_too():
    row = due(kind="ONCE", start=now() + 5 * MINUTE)
    assert row.upcoming() == [row.next_run]
    assert len(fire()) == 1
    row.refresh_from_db()
    assert row.next_run is None


@pytest.mark.parametrize(
    "change", [{"args": [2]}, {"func_name": "firing.other"}, {"priority": 5}, {"queue": "slow"}]
)
def test_what_is_called_otherwise_by_now_is_not_called_as_it_was(change):
    row = due(crontab="* * * * *", args=[1])
    (found,) = firing._soon()
    RepeatingTask.objects.filter(id=row.id).update(**change)
    assert not firing._fire(found, until=time.monotonic() + 1)
    assert not Task.objects.exists()


def test_a_slot_that_was_fired_is_not_fired_again_when_the_next_run_is_put_back():
    row = due(coalesce=False)
    slot = row.next_run
    fire()
    Task.objects.update(status=Status.SUCCESS)
    RepeatingTask.objects.filter(id=row.id).update(next_run=slot)
    fire()
    assert Task.objects.filter(slot=slot).count() == 1


def test_a_next_run_put_back_by_hand_fires_what_was_not_fired_and_nothing_twice():
    row = due(timedelta(seconds=5), crontab="* * * * * *", coalesce=False, catch_up="ALL")
    fire()
    fired = set(Task.objects.values_list("slot", flat=True))
    RepeatingTask.objects.filter(id=row.id).update(next_run=row.next_run - timedelta(seconds=3.5))
    slots = [task.slot for task in fire()]
    row.refresh_from_db()
    assert fired < set(slots)
    assert len(slots) == len(set(slots))
    assert (row.error, row.last_run) == ("", max(slots))


def test_a_function_that_is_not_known_here_is_left_to_others_and_fires_when_it_is_back():
    row = due(name="broken")
    RepeatingTask.objects.filter(id=row.id).update(func_name="gone.away")
    assert fire() == []
    row.refresh_from_db()
    assert not row.is_known
    RepeatingTask.objects.filter(id=row.id).update(func_name=note.name)
    assert len(fire()) == 1


def test_what_is_overdue_and_known_to_nobody_is_told_once_a_minute(monkeypatch, caplog):
    monkeypatch.setattr(firing, "_told_until", 0.0)
    RepeatingTask.objects.filter(id=due(MINUTE).id).update(func_name="firing.gone")
    firing.step()
    firing.step()
    assert [record.message for record in caplog.records] == [
        "1 repeating task(s) overdue, of no function known here: firing.gone"
    ]


def test_arguments_that_do_not_fit_any_more_are_said_on_the_schedule_and_it_goes_on():
    row = due()
    RepeatingTask.objects.filter(id=row.id).update(func_name=other.name, args=[1])
    assert fire() == []
    row.refresh_from_db()
    assert "too many positional arguments" in row.error
    assert row.miss_count == 1
    assert row.next_run > now()
    row.args = []
    row.next_run = now()
    row.save()
    fire()
    row.refresh_from_db()
    assert row.error == ""


def test_a_crontab_that_nobody_can_read_is_put_aside_and_hinders_no_other():
    broken = due(name="broken")
    RepeatingTask.objects.filter(id=broken.id).update(crontab="61 25 * * *")
    due(name="whole")
    assert len(fire()) == 1
    broken.refresh_from_db()
    assert broken.next_run is None
    assert "61 25" in broken.error
    broken.crontab = "0 0 * * *"
    broken.save()
    assert broken.next_run
    assert broken.error == ""


def test_a_fault_that_may_pass_puts_nothing_aside(monkeypatch):
    row = due()

    def fails(**kwargs):
        raise OSError("no space left")

    post_save.connect(fails, sender=Task)
    try:
        assert firing.step() > 0
    finally:
        post_save.disconnect(fails, sender=Task)
    row.refresh_from_db()
    assert "no space left" in row.error
    assert row.next_run < now()
    assert fire() == []  # it rests
    monkeypatch.setattr(firing, "_resting", {})
    assert len(fire()) == 1
    row.refresh_from_db()
    assert row.error == ""


def test_what_is_put_aside_is_not_what_somebody_mended_meanwhile(monkeypatch):
    row = due()
    RepeatingTask.objects.filter(id=row.id).update(crontab="61 25 * * *")
    timing_of = repeating.timing_of

    def mended_meanwhile(seen, **more):
        RepeatingTask.objects.filter(id=row.id).update(crontab="* * * * *")
        return timing_of(seen, **more)

    monkeypatch.setattr(repeating, "timing_of", mended_meanwhile)
    firing.step()
    monkeypatch.undo()
    assert len(fire()) == 1


def test_a_long_catch_up_leaves_time_for_heartbeats(monkeypatch):
    row = due(
        timedelta(seconds=300),
        crontab="* * * * * *",
        coalesce=False,
        catch_up="ALL",
        catch_up_limit=1000,
    )
    monkeypatch.setattr(firing, "LONGEST", 0.05)
    assert firing.step() == 0.0
    row.refresh_from_db()
    assert 0 < row.run_count < 200
    assert len(fire()) >= 300
    row.refresh_from_db()
    assert (row.skip_count, row.miss_count) == (0, 0)


def test_what_is_moved_by_hand_during_a_catch_up_stays_where_it_was_put(monkeypatch):
    row = due(timedelta(seconds=10), crontab="* * * * * *", coalesce=False, catch_up="ALL")
    far = now() + timedelta(days=30)
    make = firing._make

    def move_after(*args, **kwargs):
        made = make(*args, **kwargs)
        transaction.on_commit(lambda: RepeatingTask.objects.filter(id=row.id).update(next_run=far))
        return made

    monkeypatch.setattr(firing, "_make", move_after)
    assert len(fire()) == 1
    row.refresh_from_db()
    assert row.next_run == far


def test_rows_that_came_about_without_save_are_planned_by_the_first_who_looks():
    RepeatingTask.objects.bulk_create(
        [RepeatingTask(name="raw", func_name=note.name, crontab="0 0 * * *")]
    )
    firing.step()
    row = RepeatingTask.objects.get()
    assert row.planned
    assert row.next_run > now()


def test_run_now_makes_a_task_whatever_is_active_and_leaves_the_next_run():
    row = RepeatingTask.objects.create(func_name=note.name, crontab="0 0 1 1 *", repeats=3)
    before = row.next_run
    first, second = row.run_now(), row.run_now()
    assert first.repeating_task == second.repeating_task == row
    assert row.last_run == second.slot
    assert (row.next_run, row.repeats, row.run_count) == (before, 3, 2)


def test_run_now_by_several_at_once_makes_a_task_for_each():
    row = due(crontab="0 0 1 1 *")

    def run(number):
        try:
            for _ in range(15):
                firing.run_now(RepeatingTask.objects.get(id=row.id))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    assert Task.objects.values("slot").distinct().count() == 60


def test_run_now_of_one_that_is_gone_makes_nothing():
    row = due(crontab="0 0 1 1 *")
    RepeatingTask.objects.all().delete()
    with pytest.raises(RepeatingTask.DoesNotExist):
        firing.run_now(row)
    assert not Task.objects.exists()


def test_run_now_says_what_is_broken():
    row = RepeatingTask.objects.create(func_name="gone.away")
    with pytest.raises(InvalidSchedule, match="decorate the function"):
        row.run_now()
