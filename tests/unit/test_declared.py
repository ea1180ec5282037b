"""Schedules that code makes: once by schedule_task(), or declared and reconciled with the table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

import cq
from cq import declared, registry, repeating, task
from cq.exceptions import InvalidCall, InvalidOption, InvalidSchedule
from cq.models import RepeatingTask, Task, schedule_task, unschedule_task
from tests.unit.running import run_all

pytestmark = pytest.mark.django_db


@task("declared.report")
def report(cqt, to="all"): ...


@task("declared.strict")
def strict(cqt, to): ...


@pytest.fixture
def code(monkeypatch):
    """What code declares: nothing yet. `code.clear()` is code that has gone."""
    monkeypatch.setattr(declared, "_declared", found := {})
    monkeypatch.setattr(declared, "apps", SimpleNamespace(ready=False))  # modules are imported
    return found


def rows():
    return {row.name: row for row in RepeatingTask.objects.all()}


def the_row():
    return RepeatingTask.objects.get()


# schedule_task().


def test_it_makes_a_schedule_that_fires():
    row = schedule_task(RepeatingTask, "* * * * *", report, kwargs={"to": "me"}, priority=5)
    assert (row.name, row.priority) == (repeating.name_for(row), 5)
    assert row.planned
    assert row.next_run


def test_twice_is_once_and_what_was_changed_by_hand_stays():
    schedule_task(RepeatingTask, "* * * * *", report)
    RepeatingTask.objects.update(crontab="0 0 * * *")
    assert schedule_task(RepeatingTask, "* * * * *", report).crontab == "0 0 * * *"
    assert RepeatingTask.objects.count() == 1


def test_it_is_undone_by_the_same_arguments():
    schedule_task(RepeatingTask, "* * * * *", report, ("me",))
    assert not unschedule_task(RepeatingTask, "* * * * *", report)
    assert unschedule_task(RepeatingTask, "* * * * *", report, ("me",))
    assert not RepeatingTask.objects.exists()


@pytest.mark.parametrize(
    ("call", "field", "said"),
    [
        (("61 25 * * *", report), "crontab", "out of range"),
        (("", report), "crontab", "give a crontab"),
        (("* * * * *", len), "func_name", "decorate it with @task"),
        (("* * * * *", strict), "args", "missing a required argument"),
        (("* * * * *", report, (1, 2)), "args", "too many"),
        ((timedelta(milliseconds=1500), report), "crontab", "whole seconds"),
        ((7, report), "crontab", "whole seconds"),
        (("* * * * *", report, 1), "args", "list or tuple"),
        (("* * * * *", report, (), [2]), "kwargs", "as a dict"),
    ],
)
def test_what_could_not_fire_is_refused(call, field, said):
    with pytest.raises(InvalidSchedule, match=said) as caught:
        schedule_task(RepeatingTask, *call)
    assert caught.value.field == field
    assert not RepeatingTask.objects.exists()


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(InvalidSchedule, match=r"has no 'prio': .*priority"):
        schedule_task(RepeatingTask, "* * * * *", report, prio=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("start", datetime(2027, 1, 1)),  # noqa: DTZ001
        ("start", "2027-01-01"),
        ("end", datetime(9999, 12, 31, tzinfo=UTC)),
        ("timezone", 5),
        ("timezone", []),
        ("priority", float("inf")),
        ("name", "a\0b"),
        ("name", "\ud800"),
        ("func_name", "declared.strict"),
        ("every", "five"),
        ("repeats", "x"),
        ("kind", "FORTNIGHTLY"),
        ("catch_up", "Never"),
        ("coalesce_by", "x"),
        ("result_ttl", "long"),
        ("result_ttl", -1),
        ("name", "x" * 300),
        ("next_run", datetime(2027, 1, 1, tzinfo=UTC)),
        ("run_count", 7),
    ],
)
def test_a_value_that_a_field_can_not_hold_is_refused(code, field, value):
    with pytest.raises(InvalidSchedule) as caught:
        schedule_task(RepeatingTask, "* * * * *", report, **{field: value})
    assert caught.value.field == field


def test_a_name_that_no_code_defines_any_more_stops_no_migration():
    row = schedule_task(RepeatingTask, "* * * * *", "declared.gone", (1,))
    assert not RepeatingTask.objects.get(id=row.id).is_known


def test_its_name_is_the_same_whether_or_not_code_knows_the_function(monkeypatch):
    """Which arguments are sensitive is known by code alone, and that comes and goes."""
    known = schedule_task(RepeatingTask, "@daily", report, ["north"])
    with monkeypatch.context() as gone:
        gone.delitem(registry._definitions, report.name)
        assert schedule_task(RepeatingTask, "@daily", report.name, ["north"]).id == known.id
        assert schedule_task(RepeatingTask, "@daily", report.name, ["south"]).id != known.id
        assert unschedule_task(RepeatingTask, "@daily", report.name, ["north"])
    assert unschedule_task(RepeatingTask, "@daily", report, ["south"])
    assert not RepeatingTask.objects.exists()


@pytest.mark.parametrize("more", [{"kind": "DAYS"}, {"every": 5}])
def test_when_is_said_once(code, more):
    """A crontab beside kind="DAYS" would be one that counts for nothing."""
    with pytest.raises(InvalidSchedule, match="says when already"):
        schedule_task(RepeatingTask, "0 5 * * *", report, **more)
    with pytest.raises(InvalidSchedule, match="says when already"):
        cq.repeat("0 5 * * *", report, **more)


def test_a_crontab_may_stand_beside_its_kind_and_no_other(code):
    cq.repeat("", report, kind="CRONTAB", crontab="0 8 * * *")
    declared.sync()
    assert (the_row().kind, the_row().crontab) == ("CRONTAB", "0 8 * * *")
    with pytest.raises(InvalidSchedule, match="counts for nothing"):
        cq.repeat("", report, kind="DAYS", crontab="0 8 * * *")


def test_a_zone_may_be_given_as_one():
    row = schedule_task(RepeatingTask, "@daily", report, timezone=ZoneInfo("Asia/Tokyo"))
    assert row.timezone == "Asia/Tokyo"


def test_seconds_are_a_duration_as_in_the_decorator():
    row = schedule_task(RepeatingTask, "@daily", report, result_ttl=3600)
    assert row.result_ttl == timedelta(hours=1)


def test_other_kinds_and_a_timedelta():
    every = schedule_task(RepeatingTask, timedelta(minutes=90), report)
    assert (every.kind, every.every) == ("MINUTES", 90)
    monthly = schedule_task(RepeatingTask, "", report, kind="MONTHS", every=2)
    assert monthly.name == "declared.report every 2 months"


@pytest.mark.django_db(transaction=True)
def test_the_model_of_the_first_migration_will_do():
    """Where a project's migration stands before ours of later: the columns of then, and what came after."""
    call_command("migrate", "cq", "0001", "-v0")
    try:
        state = MigrationExecutor(connection).loader.project_state(("cq", "0001_initial"))
        then = state.apps.get_model("cq.RepeatingTask")
        schedule_task(then, "0 0 * * *", report)
        with pytest.raises(
            InvalidSchedule, match=r'dependencies = \[\("cq", "0003_repeating_tasks"\)\]'
        ):
            schedule_task(then, "0 1 * * *", report, catch_up="ALL")
    finally:
        call_command("migrate", "cq", "-v0")
    row = RepeatingTask.objects.get(func_name=report.name)
    assert (row.priority, row.catch_up, row.coalesce_by) == (None, "ONE", "SCHEDULE")
    assert row.next_run


# Declared.


def test_it_is_added_changed_and_disabled_with_the_code(code):
    cq.repeat("0 8 * * *", report, timezone="Europe/Paris")
    assert declared.sync() == [("added", "declared.report")]
    assert declared.sync() == []
    before = the_row().next_run
    code.clear()
    cq.repeat("0 9 * * *", report, timezone="Europe/Paris", priority=3)
    assert declared.sync() == [("changed crontab and priority", "declared.report")]
    assert (the_row().crontab, the_row().priority) == ("0 9 * * *", 3)
    assert the_row().next_run != before
    code.clear()
    assert declared.sync() == [("disabled", "declared.report")]
    assert not the_row().enabled
    assert declared.sync() == []
    cq.repeat("0 9 * * *", report, timezone="Europe/Paris", priority=3)
    assert declared.sync() == [("changed enabled", "declared.report")]
    assert the_row().enabled
    assert the_row().next_run


def test_what_is_said_no_more_is_the_default_again(code):
    cq.repeat("0 8 * * *", report, priority=3, start=(start := repeating.database.read_clock()))
    declared.sync()
    assert the_row().start == start
    code.clear()
    cq.repeat(timedelta(hours=2), report)
    declared.sync()
    row = the_row()
    assert (row.priority, row.kind, row.every, row.crontab) == (None, "HOURS", 2, "")


def test_what_was_changed_by_hand_stays_and_is_shown(code):
    cq.repeat("0 8 * * *", report)
    declared.sync()
    row = the_row()
    row.crontab = "30 7 * * *"
    row.enabled = False
    row.save()
    assert repeating.changed_by_hand(the_row()) == {"crontab": "0 8 * * *", "enabled": True}
    code.clear()
    cq.repeat("0 9 * * *", report, priority=3)
    done = "changed priority, kept crontab and enabled as somebody set it"
    assert declared.sync() == [(done, "declared.report")]
    row = the_row()
    assert (row.crontab, row.enabled, row.priority) == ("30 7 * * *", False, 3)
    assert repeating.changed_by_hand(row) == {"crontab": "0 9 * * *", "enabled": True}


@pytest.mark.parametrize(
    ("first", "by_hand", "then"),
    [
        (timedelta(minutes=5), {"every": 30}, timedelta(hours=2)),
        ("0 3 * * *", {"crontab": "0 6 * * *"}, timedelta(minutes=5)),
        (timedelta(hours=3), {"kind": "CRONTAB", "crontab": "0 3 * * *"}, timedelta(hours=2)),
    ],
)
def test_when_it_is_due_is_changed_by_code_as_a_whole_or_not_at_all(code, first, by_hand, then):
    """Of every 30 minutes by hand and every 2 hours in code nobody made every 30 hours."""
    cq.repeat(first, report)
    declared.sync()
    RepeatingTask.objects.update(**by_hand)
    before = RepeatingTask.objects.values("kind", "crontab", "every").get()
    code.clear()
    cq.repeat(then, report)
    declared.sync()
    assert RepeatingTask.objects.values("kind", "crontab", "every").get() == before
    assert repeating.changed_by_hand(the_row())


@pytest.mark.parametrize(
    ("when", "fields"),
    [(" 0  8 * * * ", {}), ("", {"kind": "CRONTAB", "crontab": "0  8 * * *"})],
)
def test_white_space_in_a_crontab_is_nobodys_change(code, when, fields):
    cq.repeat(when, report, **fields)
    declared.sync()
    assert not repeating.changed_by_hand(the_row())
    code.clear()
    cq.repeat("0 9 * * *", report)
    assert declared.sync() == [("changed crontab", "declared.report")]


@pytest.mark.parametrize("field", ["start", "end", "queue", "timezone", "repeats", "priority"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_is_what_a_field_has_when_it_is_not_said(code, field, nothing):
    cq.repeat("0 8 * * *", report, **{field: nothing})
    declared.sync()
    assert getattr(the_row(), field) == RepeatingTask._meta.get_field(field).get_default()
    assert not repeating.changed_by_hand(the_row())


def test_a_start_that_planning_filled_in_is_nobodys_change(code):
    for when, fields in (
        (timedelta(days=1), {}),
        ("0 8 * * *", {}),
        ("0 8 * * *", {"start": datetime(2990, 1, 1, tzinfo=UTC)}),
    ):
        code.clear()
        cq.repeat(when, report, **fields)
        declared.sync()
    assert the_row().next_run.year == 2990


def test_one_that_was_made_by_hand_under_the_name_is_left_as_it_is(code):
    RepeatingTask.objects.create(name="nightly", func_name=report.name, crontab="0 3 * * *")
    cq.repeat("0 8 * * *", report, name="nightly")
    assert declared.sync() == [("found, made by hand", "nightly")]
    assert the_row().crontab == "0 3 * * *"
    assert repeating.changed_by_hand(the_row()) == {"crontab": "0 8 * * *"}


def test_one_that_was_enabled_by_hand_after_it_had_gone_stays_so(code):
    cq.repeat("0 8 * * *", report)
    declared.sync()
    code.clear()
    declared.sync()
    repeating.enable([the_row()])
    assert declared.sync() == []
    assert the_row().enabled


def test_one_that_can_not_be_merged_stops_no_other(code):
    start, end = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)
    cq.repeat("0 8 * * *", report, start=start)
    declared.sync()
    row = the_row()
    row.end = end
    row.save()
    code.clear()
    cq.repeat("0 8 * * *", report, start=datetime(2028, 1, 1, tzinfo=UTC))
    cq.repeat("0 8 * * *", report, name="other")
    done = dict(declared.sync())
    assert done["added"] == "other"
    assert "declared.report: It ends before it starts" in done[declared.CONFLICT]
    assert RepeatingTask.objects.get(name="declared.report").start == start
    with pytest.raises(CommandError):
        command("sync")


def test_what_nobody_declared_is_left_alone(code):
    RepeatingTask.objects.create(name="by hand", func_name=report.name)
    assert declared.sync() == []
    assert the_row().enabled


def test_several_of_one_function_have_their_arguments_or_names(code):
    cq.repeat("0 8 * * *", report, ("a",))
    cq.repeat("0 8 * * *", report, kwargs={"to": "b"}, repeats=5)
    cq.repeat("0 8 * * *", report, name="third")
    declared.sync()
    assert sorted(rows()) == ['declared.report("a")', 'declared.report(to="b")', "third"]
    with pytest.raises(InvalidSchedule, match="Two schedules are declared as 'third'"):
        cq.repeat("0 9 * * *", report, name="third")
    RepeatingTask.objects.filter(repeats=5).update(repeats=2)
    assert declared.sync() == []


def test_it_stands_beside_the_function(code):
    @task("declared.beside", repeat="0 8 * * mon-fri", timezone="Europe/Paris")
    def beside(cqt): ...

    @task("declared.often", repeat=timedelta(minutes=5))
    def often(cqt): ...

    declared.sync()
    found = rows()
    assert (found["declared.beside"].crontab, found["declared.beside"].timezone) == (
        "0 8 * * mon-fri",
        "Europe/Paris",
    )
    assert (found["declared.often"].kind, found["declared.often"].every) == ("MINUTES", 5)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"repeat": "61 * * * *"}, InvalidSchedule, "out of range"),
        ({"repeat": "* * * * *", "timezone": "Pariss"}, InvalidSchedule, "no time zone"),
        ({"repeat": ""}, InvalidSchedule, "does not say when"),
        ({"repeat": 5}, InvalidOption, "a crontab or a timedelta"),
        ({"timezone": "Europe/Paris"}, InvalidOption, "there is no 'repeat'"),
    ],
)
def test_it_is_refused_where_it_is_written(code, options, error, said):
    with pytest.raises(error, match=said):

        @task("declared.refused", **options)
        def refused(cqt): ...


def test_a_function_that_needs_arguments_gets_them_by_repeat(code):
    with pytest.raises(InvalidCall, match="missing a required argument"):
        cq.repeat("* * * * *", strict)
    cq.repeat("* * * * *", strict, ("me",))
    with pytest.raises(InvalidOption, match="belongs to the function"):
        report.using(repeat="* * * * *")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("* * * * *", lambda cqt: None), "decorate it with @task"),
        (("* * * * *", "declared.report"), "decorate it with @task"),
        (("* * * * *", report, 9), "list or tuple"),
        (("* * * * *", report, (), "ab"), "as a dict"),
    ],
)
def test_repeat_says_what_it_was_given_wrong(code, call, said):
    with pytest.raises(InvalidSchedule, match=said):
        cq.repeat(*call)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "DAYS", "every": "2"},
        {"timezone": 5},
        {"start": datetime(2027, 1, 1)},  # noqa: DTZ001
        {"start": "2027-01-01 09:00"},
    ],
)
def test_a_timing_that_makes_no_sense_is_said_where_it_is_declared(code, fields):
    with pytest.raises(InvalidSchedule):
        cq.repeat("" if "kind" in fields else "@daily", report, **fields)


def test_a_check_finds_what_is_only_known_later(code):
    cq.repeat("* * * * *", report, queue="nobody-listens")
    cq.repeat("* * * * *", report, ("a",), color="red")
    cq.repeat("* * * * *", report, ("b",), result_ttl="x")
    found = [error for error in cq_checks() if error.id == "cq.E013"]
    said = ["No queue 'nobody-listens'", "has no 'color'", "'result_ttl'"]
    assert [one in str(error) for one, error in zip(said, found, strict=True)] == [True] * 3


def cq_checks():
    from django.core.checks import run_checks

    return run_checks(tags=["cq"])


@pytest.mark.django_db(transaction=True)
def test_migrate_brings_it_in_and_says_so(code):
    cq.repeat("0 8 * * *", report)
    out = StringIO()
    call_command("migrate", stdout=out)
    assert "Repeating task added: declared.report" in out.getvalue()
    assert the_row().declared
    call_command("migrate", "cq", "0001", "-v0")  # where there is no column for it
    call_command("migrate", "-v0")


# cq_schedule.


def command(*arguments):
    out = StringIO()
    call_command("cq_schedule", *arguments, stdout=out)
    return out.getvalue()


def test_the_list_says_that_nobody_fires_and_why_one_is_off(code):
    cq.repeat("0 8 * * *", report)
    declared.sync()
    code.clear()
    declared.sync()
    said = command("list")
    assert "No worker is alive" in said
    assert "disabled, and no code here declares it any more" in said


def test_they_are_listed():
    assert "no repeating tasks" in command("list")
    schedule_task(RepeatingTask, "0 8 * * *", report, timezone="Asia/Tokyo", name="morning")
    RepeatingTask.objects.create(name="broken", func_name="gone.away")
    said = command("list")
    assert "08:00:00 JST" in said
    assert "decorate the function with @task" in said
    found = {row["name"]: row for row in json.loads(command("list", "--json"))}
    assert found["morning"]["crontab"] == "0 8 * * *"
    assert found["broken"]["problem"]


def test_the_list_says_what_was_skipped_and_what_is_late():
    row = schedule_task(RepeatingTask, "0 8 * * *", report, timezone="Asia/Tokyo", name="morning")
    moment = datetime(2026, 1, 1, 23, tzinfo=UTC)
    RepeatingTask.objects.filter(pk=row.pk).update(
        next_run=moment, last_skip=moment, skip_count=3, miss_count=1
    )
    said = command("list")
    both = "2026-01-02 08:00:00 JST (2026-01-01 23:00:00 UTC)"
    assert f"next     {both}, overdue" in said
    assert f"3 skipped (the last {both}), 1 missed" in said


def test_the_list_says_what_code_says_without_its_secrets(code):
    @cq.task("declared.login", sensitive=["password"])
    def login(cqt, user="", password=""): ...

    cq.repeat("0 8 * * *", login, kwargs={"user": "me", "password": "hush"}, name="in")
    declared.sync()
    RepeatingTask.objects.update(crontab="0 9 * * *", kwargs={"user": "you"})
    said = command("list")
    assert 'changed  crontab, by hand; code says: "0 8 * * *"' in said
    assert 'kwargs, by hand; code says: {"user": "me", "password": "***"}' in said
    assert "hush" not in said


def test_djangos_own_options_may_stand_after_the_action_too():
    for options in (["list", "--settings", "x"], ["--settings", "x", "list"]):
        parser = load_command_class("cq", "cq_schedule").create_parser("manage.py", "cq_schedule")
        found = parser.parse_args(["-v", "2", *options])
        assert (found.settings, found.verbosity, found.action) == ("x", 2, "list")


def test_they_are_run_enabled_and_disabled_by_name():
    schedule_task(RepeatingTask, "0 8 * * *", report, name="morning")
    assert "morning: disabled" in command("disable", "morning")
    assert "morning: already disabled" in command("disable", "morning")
    assert not the_row().enabled
    assert "task" in command("run", "morning")
    assert Task.objects.get().repeating_task == the_row()
    assert "morning: enabled" in command("enable", "morning")
    assert the_row().next_run
    with pytest.raises(CommandError, match="no repeating task 'evening'"):
        command("run", "evening")


def test_what_is_broken_can_not_be_run():
    RepeatingTask.objects.create(name="broken", func_name="gone.away")
    with pytest.raises(CommandError, match="decorate"):
        command("run", "broken")


def test_sync_tells_and_check_only_tells(code):
    cq.repeat("0 8 * * *", report)
    with pytest.raises(CommandError, match="cq_schedule sync"):
        command("sync", "--check")
    assert not rows()
    assert "added: declared.report" in command("sync")
    assert "says what code says" in command("sync", "--check")


# cq.call_command.


@pytest.mark.django_db(transaction=True)
def test_a_management_command_runs_as_a_task_and_its_output_is_the_log():
    made = cq.call_command.delay("cq_schedule", "list")
    failing = cq.call_command.delay("no_such_command")
    run_all()
    made.refresh_from_db()
    failing.refresh_from_db()
    assert made.status == "SUCCESS"
    assert [line["message"] for line in made.logs] == ["There are no repeating tasks."]
    assert failing.status == "FAILURE"
    assert "Unknown command" in failing.error


def test_a_management_command_can_be_repeated():
    row = schedule_task(RepeatingTask, "@daily", cq.call_command, ("clearsessions",))
    assert repeating.problems(RepeatingTask.objects.get(id=row.id)) == {}
