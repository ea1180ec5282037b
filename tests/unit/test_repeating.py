"""Saving repeating tasks: names, next runs, what workers wrote meanwhile, and what is refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from cq import database, firing, repeating, task
from cq.exceptions import InvalidSchedule
from cq.models import RepeatingTask

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@task("repeating.send")
def send(cqt, to="", password=""): ...


def make(**fields):
    return RepeatingTask.objects.create(
        **{"func_name": send.name, "crontab": "0 8 * * *", **fields}
    )


def again(row):
    return RepeatingTask.objects.get(id=row.id)


def in_db(row, **changes):
    RepeatingTask.objects.filter(id=row.id).update(**changes)


# Names.


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "repeating.send 0 8 * * *"),
        ({"args": ["a"], "crontab": " @daily "}, "repeating.send NNN @daily"),
        ({"kwargs": {"to": "a", "password": "x"}}, "repeating.send NNN 0 8 * * *"),
        ({"timezone": "Asia/Tokyo"}, "repeating.send 0 8 * * * Asia/Tokyo"),
        ({"kind": "DAYS", "every": 2}, "repeating.send every 2 days"),
        (
            {"kind": "ONCE", "start": datetime(2999, 1, 1, tzinfo=UTC)},
            "repeating.send once from 2999-01-01T00:00:00+00:00",
        ),
        ({"name": "morning mail"}, "morning mail"),
    ],
)
def test_without_a_name_it_gets_one_that_says_what_and_when(fields, name):
    assert re.sub(r"\b[0-9a-f]{12}\b", "NNN", make(**fields).name) == name


def test_long_names_are_cut_and_stay_different():
    minutes, zone = ",".join(map(str, range(60))), "America/Argentina/Buenos_Aires"
    names = {make(crontab=f"{minutes} {hour} * * *", timezone=zone).name for hour in (1, 2)}
    assert [len(name) for name in names] == [200, 200]


# The next run.


def test_a_new_one_is_due_at_its_next_slot():
    row = make(timezone="Asia/Kathmandu")
    ahead = row.next_run - database.read_clock()
    assert timedelta(0) < ahead <= timedelta(days=1)
    assert (row.next_run.hour, row.next_run.minute) == (2, 15)
    assert row.planned


def test_every_n_is_counted_from_when_it_was_saved_and_begins_at_once():
    row = make(kind="HOURS", every=6)
    assert row.start == row.next_run
    assert row.start.microsecond == 0
    assert timedelta(0) < row.start - database.read_clock() + timedelta(seconds=1) <= 2 * HOUR
    assert row.upcoming(2) == [row.start, row.start + 6 * HOUR]


def test_saving_an_unrelated_field_does_not_move_it():
    row = make()
    moved = row.next_run + timedelta(minutes=1)
    in_db(row, next_run=moved, run_count=7, repeats=3)  # a worker, while somebody types
    row.name, row.queue = "another", "default"
    row.save()
    kept = again(row)
    assert (kept.next_run, kept.run_count, kept.repeats) == (moved, 7, 3)
    assert kept.name == "another"


def test_nor_does_saving_what_was_loaded_in_part():
    row = make()
    moved = row.next_run + timedelta(minutes=1)
    part = RepeatingTask.objects.only("name").get()
    in_db(row, next_run=moved)
    part.name = "another"
    part.save()
    assert (again(row).name, again(row).next_run) == ("another", moved)


@pytest.mark.parametrize(
    "change",
    [
        {"crontab": "30 9 * * *"},
        {"timezone": "Asia/Kathmandu"},
        {"kind": "MINUTES"},
        {"start": datetime(2999, 1, 1, tzinfo=UTC)},
    ],
)
def test_another_timing_moves_it(change):
    row = make()
    before = row.next_run
    for name, value in change.items():
        setattr(row, name, value)
    row.save()
    assert again(row).next_run == row.next_run != before


def test_what_only_update_fields_names_is_written_and_planned_for():
    row = make()
    before = row.next_run
    row.crontab, row.queue = "30 9 * * *", "nowhere"
    row.save(update_fields=["crontab"])
    assert again(row).next_run != before
    assert again(row).queue == ""


def test_set_by_hand_it_stays_until_it_was():
    row = make()
    by_hand = database.read_clock().replace(microsecond=0) + timedelta(minutes=7)
    row.next_run = by_hand
    row.save()
    row.name = "another"
    row.save()
    assert again(row).next_run == by_hand
    assert row.upcoming(2)[0] == by_hand
    row.next_run = None
    row.save()
    assert again(row).next_run not in (None, by_hand)


def test_set_by_hand_together_with_another_crontab_it_stays():
    row = make()
    by_hand = database.read_clock() + timedelta(minutes=7)
    row.crontab, row.next_run = "30 9 * * *", by_hand
    row.save()
    assert again(row).next_run == by_hand


def test_disabled_it_has_none_and_enabled_it_has_one_that_lies_ahead():
    row = make()
    assert repeating.enable([row], on=False) == 1
    assert (again(row).enabled, again(row).next_run, again(row).planned) == (False, None, False)
    assert repeating.enable([again(row)]) == 1
    assert again(row).next_run > database.read_clock()
    assert repeating.enable([again(row)]) == 0


def test_there_is_none_after_the_end_or_the_last_repeat():
    past = database.read_clock() - HOUR
    assert make(name="ended", start=past - HOUR, end=past).next_run is None
    assert make(name="used up", repeats=0).next_run is None
    assert make(name="twice", repeats=2, kind="HOURS").upcoming(5)[2:] == []


@pytest.mark.parametrize("kind", ["CRONTAB", "SECONDS", "DAYS", "MONTHS"])
def test_one_whose_end_has_passed_is_never_due(kind):
    row = RepeatingTask(func_name=send.name, kind=kind, end=database.read_clock() - HOUR)
    row.full_clean()
    row.save()
    assert again(row).next_run is None


def test_a_next_run_by_hand_after_the_end_comes_once():
    clock = database.read_clock()
    row = make(kind="DAYS", end=clock - HOUR, next_run=clock + HOUR)
    assert again(row).upcoming() == [clock + HOUR]
    assert repeating.timing_ahead(row).after(clock + HOUR) is None


def test_one_that_is_not_enabled_has_no_next_run_whoever_gave_one():
    assert make(enabled=False, next_run=database.read_clock() + HOUR).next_run is None


@pytest.mark.parametrize("number", [0, 1, 3])
def test_so_many_are_upcoming(number):
    assert len(make().upcoming(number)) == number


def test_without_repeats_left_it_is_over_at_once():
    row = make()
    row.repeats = 0
    row.save()
    assert again(row).next_run is None
    assert row.upcoming() == []


def test_what_was_put_aside_is_planned_anew_whatever_was_mended():
    row = make()
    in_db(row, next_run=None, planned=True, error="what it was")
    row = again(row)
    row.args = ["mended"]
    row.save()
    assert (again(row).error, again(row).next_run is None) == ("", False)


def test_once_in_the_past_is_over_but_not_if_it_was_meant_for_now():
    now = database.read_clock()
    assert make(name="old", kind="ONCE", start=now - timedelta(days=1)).next_run is None
    assert make(name="new", kind="ONCE", start=now - timedelta(minutes=5)).next_run


def test_a_next_run_by_hand_of_every_n_still_says_what_it_is_counted_from():
    by_hand = database.read_clock() + HOUR
    row = make(kind="DAYS", next_run=by_hand)
    assert row.start is not None
    other = make(name="other")
    other.kind, other.next_run = "HOURS", by_hand
    other.save()
    assert again(other).start is not None
    assert again(other).next_run == by_hand


def test_a_change_that_was_not_written_is_planned_for_when_it_is():
    row = make()
    before = row.next_run
    row.crontab = "30 9 * * *"
    row.save(update_fields=["name"])
    row.refresh_from_db(fields=["run_count"])
    assert again(row).next_run == before
    row.save()
    assert again(row).next_run == row.next_run != before


def test_a_stale_instance_takes_over_what_workers_wrote():
    row = make(repeats=1)
    in_db(row, repeats=0, next_run=None)  # it was fired
    row.repeats = 5
    row.save()
    assert (again(row).repeats, again(row).next_run is None) == (5, False)


@pytest.mark.parametrize("kind", ["CRONTAB", "HOURS"])
def test_an_instance_of_bulk_create_is_saved_as_any_other(kind):
    made = RepeatingTask(func_name=send.name, name="raw", kind=kind, crontab="0 8 1 1 *")
    RepeatingTask.objects.bulk_create([made])
    made.pk = RepeatingTask.objects.get().pk  # where the database did not tell
    firing.step()
    planned = again(made)
    made.queue = "default"
    made.save()
    assert (again(made).start, again(made).next_run) == (planned.start, planned.next_run)
    made.kind, made.crontab, made.repeats = "CRONTAB", "* * * * *", 7
    made.save()
    assert again(made).repeats == 7
    assert again(made).next_run - database.read_clock() <= timedelta(minutes=1)


def test_what_is_set_without_having_been_read_counts():
    row = make()
    part = RepeatingTask.objects.only("name").get()
    part.crontab, part.repeats = "30 9 * * *", 3
    part.save()
    assert again(row).next_run != row.next_run
    assert again(row).repeats == 3


def test_after_a_save_that_came_to_nothing_the_next_one_plans():
    row = make()
    before = row.next_run
    row.crontab = "30 9 * * *"
    try:
        with transaction.atomic():
            row.save()
            raise ZeroDivisionError
    except ZeroDivisionError:
        row.save()
    assert again(row).next_run == row.next_run != before


@pytest.mark.parametrize(
    "fields", [{"args": [1, 2, 3]}, {"queue": "gone"}, {"func_name": "repeating.gone"}]
)
def test_what_its_code_has_left_behind_is_not_to_be_mended_by_who_disables_it(fields):
    row = make()
    in_db(row, **fields)
    row = again(row)
    row.enabled = False
    row.full_clean()
    row.args = [9, 9, 9, 9]
    with pytest.raises(ValidationError):
        row.full_clean()


def test_an_argument_that_was_changed_in_place_was_changed():
    row = again(make(kwargs={"to": "me"}))
    row.kwargs["nonsense"] = 1
    with pytest.raises(ValidationError):
        row.full_clean()


def test_one_that_is_to_be_due_once_needs_a_start_whatever_it_was_before():
    row = again(make())
    row.kind = "ONCE"
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert list(caught.value.message_dict) == ["start"]


def test_update_fields_may_be_any_iterable():
    row = make()
    row.queue = "slow"
    row.save(update_fields=(name for name in ["queue"]))
    assert again(row).queue == "slow"


@pytest.mark.parametrize(
    "fields",
    [
        {"crontab": None},
        {"kind": None},
        {"kind": "DAYS", "start": "x"},
        {"repeats": "x"},
        {"catch_up": "ALL", "catch_up_limit": "x"},
        {"kind": "DAYS", "every": "x"},
    ],
)
def test_nonsense_of_the_wrong_type_is_an_error_as_any_other(fields):
    with pytest.raises(ValidationError):
        RepeatingTask(func_name=send.name, **fields).full_clean()
    if not fields.keys() & {"repeats", "catch_up_limit"}:  # what says when
        with pytest.raises(InvalidSchedule):
            RepeatingTask(func_name=send.name, **fields).save()


def test_what_is_broken_can_be_disabled():
    row = make()
    in_db(row, timezone="Mars/Olympus")
    assert repeating.enable([again(row)], on=False) == 1
    assert not again(row).enabled


def test_it_is_copied_as_any_other_row():
    row = make()
    row.pk, row.name = None, "copy"
    row.save()
    assert RepeatingTask.objects.count() == 2
    row = RepeatingTask.objects.get(name="copy")
    row.pk, row.name = row.pk + 1, "forced"
    row.save(force_insert=True)
    assert RepeatingTask.objects.count() == 3


def test_run_now_runs_here_where_delay_does(settings):
    settings.CQ_SERIAL = True
    assert make().run_now().status == "SUCCESS"


# What is refused.


def test_a_timing_that_makes_no_sense_is_refused_when_it_is_saved():
    with pytest.raises(InvalidSchedule, match="61 25"):
        make(crontab="61 25 * * *")
    row = make()
    row.timezone = "Europe/Pariss"
    with pytest.raises(InvalidSchedule, match="Did you mean Europe/Paris"):
        row.save()


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"func_name": "os.system"}, "func_name", "decorate the function with @task"),
        ({"crontab": "61 25 * * *"}, "crontab", "out of range"),
        ({"crontab": "0 0 30 2 *"}, "crontab", "never comes"),
        ({"timezone": "Mars/Olympus"}, "timezone", "There is no time zone"),
        ({"kind": "ONCE"}, "start", "Say when"),
        ({"kind": "DAYS", "every": 0}, "every", "above 0"),
        ({"queue": "nobody"}, "queue", "No queue 'nobody' is known"),
        ({"queue": "no queue!"}, "queue", "can't name a queue"),
        ({"priority": 101}, "priority", "from -100 to 100"),
        ({"args": [1, 2, 3]}, "args", "too many positional"),
        ({"args": {"to": 1}}, "args", "JSON list"),
        ({"kwargs": {"too": 1}}, "kwargs", "unexpected keyword"),
        ({"kwargs": []}, "kwargs", "JSON object"),
        ({"repeats": -2}, "repeats", "-1 or nothing"),
        ({"catch_up": "ALL", "catch_up_limit": 0}, "catch_up_limit", "from 1 to 1000"),
        ({"result_ttl": timedelta(days=-1)}, "result_ttl", "not negative"),
    ],
)
def test_a_form_is_told_which_field_and_why(fields, field, said):
    start = None if fields.get("kind") == "ONCE" else datetime(2026, 1, 1, tzinfo=UTC)
    row = RepeatingTask(**{"func_name": send.name, "name": "x", "start": start, **fields})
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert said in str(caught.value.message_dict[field])


def test_two_of_the_same_are_told_apart_by_a_name():
    make()
    with pytest.raises(ValidationError) as caught:
        RepeatingTask(func_name=send.name, crontab="0 8 * * *").full_clean()
    assert list(caught.value.message_dict) == ["name"]
