"""Repeating tasks in the admin: the form, what it comes to, the list, and what can be done there."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.db.models import F
from django.urls import reverse

import cq
from cq import database, declared, firing, task
from cq.models import RepeatingTask, Task, Worker
from cq.states import Status

pytestmark = pytest.mark.django_db

LIST = reverse("admin:cq_repeatingtask_changelist")
ADD = reverse("admin:cq_repeatingtask_add")
EVIL = "<script>alert(1)</script>"


@task("admin.mail")
def mail(cqt, to="", password=""): ...


@task("admin.talk", sensitive=[])
def talk(cqt, to="", password=""): ...


def make(**fields):
    return RepeatingTask.objects.create(
        **{"func_name": mail.name, "name": "mail", "crontab": "0 8 * * *", **fields}
    )


def change(row):
    return reverse("admin:cq_repeatingtask_change", args=[row.pk])


def preview(row=None):
    return reverse("admin:cq_repeatingtask_preview", args=[row.pk if row else 0])


def fill(client, row=None, **fields):
    """What a browser would send: the form as it is shown, and what somebody has typed."""
    response = client.get(change(row) if row else ADD)
    form = response.context["adminform"].form
    data = {}
    for bound in form:
        widget = bound.field.widget
        names = [bound.html_name]
        if bound.field.show_hidden_initial:
            names.append(bound.html_initial_name)
        for name in names:
            context = widget.get_context(name, bound.value(), {})["widget"]
            for part in context.get("subwidgets") or [context]:
                value = part["value"]
                if part.get("type") == "checkbox":
                    value = "on" if part["attrs"].get("checked") else None
                if isinstance(value, list):
                    value = value[0] if value else ""
                if value is not None:
                    data[part["name"]] = value
    data |= {"coalesce": "on", "enabled": "on"} if row is None else {}
    return {key: value for key, value in {**data, **fields}.items() if value is not None}


def post(client, url, data):
    response = client.post(url, data)
    if response.status_code == 200 and "adminform" in getattr(response, "context", {}):
        pytest.fail(f"not saved: {response.context['adminform'].form.errors}")
    return response


def again(row):
    return RepeatingTask.objects.get(pk=row.pk)


@pytest.fixture
def code(monkeypatch):
    """Nothing is declared, whatever the project of the tests says."""
    monkeypatch.setattr(declared, "_declared", {})


# The form.


def test_one_is_made_with_a_function_from_the_list(admin_client):
    page = admin_client.get(ADD).content.decode()
    assert '<option value="admin.mail">' in page
    assert "Decorate it with @task" in page
    post(admin_client, ADD, fill(admin_client, func_name=mail.name, crontab="0 8 * * mon-fri"))
    row = RepeatingTask.objects.get()
    assert row.name == "admin.mail 0 8 * * mon-fri"
    assert (row.args, row.kwargs, row.priority) == ([], {}, None)
    assert row.next_run > database.read_clock()


@pytest.mark.parametrize(
    ("typed", "field", "said"),
    [
        ({"crontab": "61 25 * * *"}, "crontab", "out of range"),
        ({"timezone": "Europe/Pariss"}, "timezone", "Did you mean Europe/Paris?"),
        ({"func_name": ""}, "func_name", "required"),
        ({"kwargs": "{"}, "kwargs", "valid JSON"),
        ({"func_name": "os.system"}, "func_name", "Select a valid choice"),
        ({"queue": "nobody"}, "queue", "No queue"),
        ({"args": "[1, 2, 3]"}, "args", "too many positional"),
        ({"args": "[1"}, "args", "valid JSON"),
        ({"args": '"x"'}, "args", "JSON list"),
        ({"kwargs": '"x"'}, "kwargs", "JSON object"),
        ({"kwargs": '{"too": 1}'}, "kwargs", "unexpected keyword"),
        ({"kind": "DAYS", "every": "0"}, "every", "above 0"),
        ({"kind": "DAYS", "every": "-1"}, "every", "above 0"),
        ({"kind": "DAYS", "every": ""}, "every", "above 0"),
        ({"kind": "DAYS", "every": "9" * 30}, "every", "less than or equal"),
        ({"catch_up": "ALL", "catch_up_limit": ""}, "catch_up_limit", "above 0"),
        ({"start_0": "soon", "start_1": "0:00"}, "start", "valid date"),
        ({"start_0": "2999-01-01"}, "start", "valid time"),
        ({"start_0": "1066-01-01", "start_1": "0:00"}, "start", "year from 1900"),
        ({"kind": "ONCE"}, "start", "Say when"),
        ({"kind": "ONCE", "start_0": "2020-01-01", "start_1": "0:00"}, "start", "has passed"),
        ({"end_0": "2020-01-01", "end_1": "0:00"}, "end", "has passed"),
        ({"next_run_0": "2020-01-01", "next_run_1": "0:00"}, "next_run", "has passed"),
        ({"next_run_0": "1066-01-01", "next_run_1": "0:00"}, "next_run", "year from 1900"),
        ({"priority": "1000"}, "priority", "from -100 to 100"),
    ],
)
def test_an_error_stands_at_its_field(admin_client, typed, field, said):
    data = fill(admin_client, **{"func_name": mail.name, **typed})
    errors = admin_client.post(ADD, data).context["adminform"].form.errors
    assert said in str(errors[field])
    assert list(errors) == [field]
    assert not RepeatingTask.objects.exists()


def test_saving_an_unrelated_field_leaves_what_workers_wrote_meanwhile(admin_client):
    row = make(repeats=9)
    moved = row.next_run + timedelta(days=1, microseconds=7)
    data = fill(admin_client, row, name="renamed")
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=moved, repeats=8, run_count=1)
    post(admin_client, change(row), data)
    kept = again(row)
    assert (kept.name, kept.next_run, kept.repeats, kept.run_count) == ("renamed", moved, 8, 1)


@pytest.mark.vendors("sqlite")
@pytest.mark.django_db(transaction=True)
def test_saving_is_not_refused_where_workers_write_meanwhile(admin_client):
    """On SQLite, where the page has read and then writes."""
    row, done = make(), threading.Event()

    def write():
        while not done.wait(0.001):
            RepeatingTask.objects.filter(pk=row.pk).update(run_count=F("run_count") + 1)
        connections.close_all()

    worker = threading.Thread(target=write)
    worker.start()
    try:
        for number in range(20):
            post(admin_client, change(row), fill(admin_client, row, name=f"mail {number}"))
    finally:
        done.set()
        worker.join()


def test_saving_nothing_changes_nothing_to_the_microsecond(admin_client):
    start = database.read_clock().replace(microsecond=0) + timedelta(microseconds=1234)
    row = make(kind="DAYS", start=start, kwargs={"to": "me", "password": "secret"})
    before = RepeatingTask.objects.values().get()
    post(admin_client, change(row), fill(admin_client, row))
    assert RepeatingTask.objects.values().get() == before


def test_the_next_run_can_be_set_and_found_anew(admin_client):
    row = make()
    data = fill(admin_client, row, next_run_0="2999-01-01", next_run_1="12:00:00")
    post(admin_client, change(row), data)
    assert again(row).next_run.year == 2999
    data = fill(admin_client, row, next_run_0="", next_run_1="")
    post(admin_client, change(row), data)
    assert again(row).next_run == row.next_run


@pytest.mark.parametrize("typed", ["", "0", "x"])
def test_a_field_that_does_not_apply_is_no_error_and_keeps_its_value(admin_client, typed):
    row = make(every=7, catch_up_limit=9)
    data = fill(admin_client, row, every=typed, catch_up_limit=typed and "x")
    post(admin_client, change(row), data)
    assert (again(row).every, again(row).catch_up_limit) == (7, 9)


def test_another_function_is_not_given_secrets_that_nobody_typed_again(admin_client):
    row = make(name="", args=["me"], kwargs={"password": "hush"})
    for typed in ({}, {"name": ""}, {"name": "", "args": "["}):
        data = fill(admin_client, row, func_name=talk.name, **typed)
        response = admin_client.post(change(row), data)
        assert "another function was selected" in str(
            response.context["adminform"].form.errors["kwargs"]
        )
        assert "hush" not in response.content.decode()
        assert "hush" not in admin_client.post(preview(row), data).content.decode()
    typed = {"func_name": talk.name, "kwargs": '{"password": "new"}'}
    post(admin_client, change(row), fill(admin_client, row, **typed))
    assert (again(row).args, again(row).kwargs) == (["me"], {"password": "new"})


def test_what_a_function_that_is_gone_was_given_is_not_handed_to_another(admin_client):
    row = make(args=["hush"])
    RepeatingTask.objects.filter(pk=row.pk).update(func_name="gone.away")
    response = admin_client.post(change(row), fill(admin_client, row, func_name=talk.name))
    assert "argument 1 again" in str(response.context["adminform"].form.errors["args"])
    assert "hush" not in response.content.decode()


def test_once_is_refused_where_its_old_start_has_passed(admin_client):
    row = make(kind="DAYS", start=datetime(2020, 1, 1, tzinfo=UTC))
    data = fill(admin_client, row, kind="ONCE")
    assert "has passed" in str(
        admin_client.post(change(row), data).context["adminform"].form.errors["start"]
    )


def test_a_secret_is_not_shown_and_not_lost(admin_client):
    row = make(kwargs={"to": "me", "password": "hush"}, name="")
    for page in (admin_client.get(change(row)), admin_client.get(LIST)):
        assert "hush" not in page.content.decode()
    typed = json.dumps({"to": "you", "password": "***"})
    post(admin_client, change(row), fill(admin_client, row, kwargs=typed))
    assert again(row).kwargs == {"to": "you", "password": "hush"}


def test_who_may_only_look_sees_no_secret_and_no_form(client):
    row = make(kwargs={"password": "hush"})
    user = User.objects.create(username="looks", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_repeatingtask"))
    client.force_login(user)
    page = client.get(change(row)).content.decode()
    assert "hush" not in page
    assert "***" in page
    assert "Run now" not in page
    assert client.post(preview(row), {}).status_code == 403
    run = reverse("admin:cq_repeatingtask_run", args=[row.pk])
    assert client.post(run).status_code == 403
    client.post(LIST, {"action": "run_now", "_selected_action": [row.pk]})
    assert not Task.objects.exists()


def test_who_may_only_look_reads_what_the_form_says_and_only_what_applies(client):
    row = make(kind="DAYS", every=7, crontab="1 2 3 4 5", catch_up="ALL", coalesce=False)
    user = User.objects.create(username="looks", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_repeatingtask"))
    client.force_login(user)
    page = client.get(change(row)).content.decode()
    for said in ("Every N days", "Each of them, up to a limit", "field-every", "catch_up_limit"):
        assert said in page
    for not_said in ("1 2 3 4 5", "field-shown_coalesce_by", "DAYS", "Tasks of this schedule"):
        assert not_said not in page


@pytest.mark.parametrize("name", ["taken", ""])
def test_a_name_that_is_taken_is_an_error_at_the_name(admin_client, name):
    make(name="taken")
    make(name="")
    data = fill(admin_client, func_name=mail.name, crontab="0 8 * * *", name=name)
    errors = admin_client.post(ADD, data).context["adminform"].form.errors
    assert list(errors) == ["name"]
    there = name or "admin.mail 0 8 * * *"
    assert f"a repeating task {there!r} already: give this one another name" in errors["name"][0]
    other = make(name="other")
    data = fill(admin_client, other, name="taken")
    assert "name" in admin_client.post(change(other), data).context["adminform"].form.errors


def test_a_made_up_name_that_is_taken_hides_behind_no_other_error(admin_client):
    make(name="")
    data = fill(admin_client, func_name=mail.name, crontab="0 8 * * *", priority="1000")
    assert list(admin_client.post(ADD, data).context["adminform"].form.errors) == ["priority"]


def test_it_is_said_how_a_name_is_made_anew(admin_client):
    assert "Left empty, it is made of" in admin_client.get(ADD).content.decode()
    row = make(name="")
    assert "Clear it to have it made anew" in admin_client.get(change(row)).content.decode()
    post(admin_client, change(row), fill(admin_client, row, crontab="0 9 * * *", name=""))
    assert again(row).name == "admin.mail 0 9 * * *"


def test_json_that_can_not_be_stored_is_an_error_and_is_shown_again(admin_client):
    for typed in ('["\\u0000"]', "[1e999]", '["\\ud800"]'):
        response = admin_client.post(ADD, fill(admin_client, func_name=mail.name, args=typed))
        assert response.status_code == 200
        assert list(response.context["adminform"].form.errors) == ["args"]


def test_a_secret_stays_with_its_function_and_place(admin_client):
    row = make(args=["me", "hush"])
    for typed in ({"args": '["***"]'}, {"args": "[]", "kwargs": '{"password": "***"}'}):
        response = admin_client.post(change(row), fill(admin_client, row, **typed))
        assert "again" in str(response.context["adminform"].form.errors)
    response = admin_client.post(
        change(row), fill(admin_client, row, func_name="cq.call_command", args='["me", "***"]')
    )
    assert "hush" not in response.content.decode()
    assert again(row).args == ["me", "hush"]


def test_moments_of_an_hour_that_comes_twice_lock_nothing(admin_client, settings):
    settings.TIME_ZONE = "Europe/Paris"
    twice = datetime(2027, 10, 31, 0, 30, tzinfo=UTC)
    row = make(kind="YEARS", start=twice, next_run=twice)
    post(admin_client, change(row), fill(admin_client, row, name="renamed"))
    assert (again(row).name, again(row).start, again(row).next_run) == ("renamed", twice, twice)


def test_looking_at_it_changes_nothing_of_what_is_shown(admin_client):
    row = make()
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=None, planned=True, error="it fell")
    page = admin_client.get(change(row)).content.decode()
    assert "it fell" in page


def test_what_code_declares_keeps_its_name(admin_client):
    row = make(declared={"crontab": "0 8 * * *"})
    page = admin_client.get(change(row)).content.decode()
    assert 'name="name"' not in page
    assert "Code declared it by this name" in page
    post(admin_client, change(row), fill(admin_client, row, crontab="0 9 * * *"))
    assert (again(row).name, again(row).crontab) == ("mail", "0 9 * * *")


# What it comes to.


def test_it_is_said_in_words_with_the_next_five_runs_in_its_zone_and_in_utc(admin_client):
    data = fill(
        admin_client, func_name=mail.name, crontab="0 8 * * mon-fri", timezone="Asia/Kathmandu"
    )
    answer = admin_client.post(preview(), data).json()
    assert answer["errors"] == {}
    assert "At 08:00, Monday through Friday, Asia/Kathmandu time" in answer["html"]
    assert answer["html"].count("08:00:00 +0545") == answer["html"].count("02:15:00 UTC") == 5


@pytest.mark.parametrize("zone", ["America/New_York", "UTC"])
def test_a_moment_that_was_typed_is_of_the_sites_zone_and_is_shown_in_utc(
    admin_client, settings, zone
):
    settings.TIME_ZONE = zone
    assert f"In {zone} time" in admin_client.get(ADD).content.decode()
    typed = {"kind": "ONCE", "start_0": "2999-01-15", "start_1": "09:00", "timezone": "Asia/Tokyo"}
    data = fill(admin_client, func_name=mail.name, **typed)
    found = admin_client.post(preview(), data).json()["html"]
    hour = {"UTC": "09", "America/New_York": "14"}[zone]
    assert f"2999-01-15 {hour}:00:00 UTC" in found
    assert "JST" in found


def test_errors_come_while_it_is_filled_in(admin_client):
    data = fill(admin_client, func_name=mail.name, crontab="0 0 31 2 *")
    answer = admin_client.post(preview(), data).json()
    assert "never comes" in answer["errors"]["crontab"][0]
    assert "Nothing, until it is mended: Crontab." in answer["html"]  # and not the reason again


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ({"kind": "ONCE", "start_0": "2020-01-01", "start_1": "0:00"}, "start"),
        ({"start_0": "soon", "start_1": "0:00"}, "start"),
        ({"start_0": "2999-01-01"}, "start"),
        ({"kind": "DAYS", "every": "-1"}, "every"),
        ({"kind": "DAYS", "every": "0"}, "every"),
        ({"kind": "DAYS", "every": ""}, "every"),
        ({"kind": "DAYS", "every": "9" * 30}, "every"),
        ({"repeats": "-2"}, "repeats"),
    ],
)
def test_no_runs_are_shown_of_what_would_not_be_saved(admin_client, typed, field):
    data = fill(admin_client, func_name=mail.name, **typed)
    answer = admin_client.post(preview(), data).json()
    assert list(answer["errors"]) == [field]
    assert "until it is mended" in answer["html"]
    assert "UTC" not in answer["html"]
    saved = admin_client.post(ADD, data)
    assert saved.context["adminform"].form.errors == answer["errors"]
    assert "until it is mended" in saved.content.decode()


def test_what_comes_of_another_timing_is_shown_before_it_is_saved(admin_client):
    row = make()
    answer = admin_client.post(preview(row), fill(admin_client, row, crontab="30 9 * * *")).json()
    assert answer["html"].count("09:30:00 UTC") == 10
    assert again(row).crontab == "0 8 * * *"


def test_a_disabled_one_and_a_finished_one_are_said_to_be(admin_client):
    off = fill(admin_client, func_name=mail.name, enabled=None)
    assert "not enabled" in admin_client.post(preview(), off).json()["html"]
    over = fill(admin_client, func_name=mail.name, repeats="0")
    assert "no further run" in admin_client.post(preview(), over).json()["html"]


# The list, and the last run.


def fire(row, status=Status.SUCCESS):
    moment = database.read_clock() - timedelta(seconds=1)
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=moment)
    firing.step()
    Task.objects.update(status=status)
    return Task.objects.get()


@pytest.mark.parametrize(
    ("status", "entry"),
    [
        (Status.SUCCESS, "successfultask"),
        (Status.FAILURE, "failedtask"),
        (Status.INCOMPLETE, "failedtask"),
        (Status.LOST, "failedtask"),
        (Status.RUNNING, "task"),
    ],
)
def test_the_last_run_leads_to_its_task_among_those_that_ended_so(admin_client, status, entry):
    row = make()
    made = fire(row, status)
    url = reverse(f"admin:cq_{entry}_change", args=[made.pk])
    for page in (LIST, change(row)):
        assert url in admin_client.get(page).content.decode()
    response = admin_client.get(url)
    assert response.status_code == 200
    assert change(row) in response.content.decode()


def test_successful_and_failed_tasks_are_entries_of_their_own(admin_client):
    for status in Status:
        Task(func_name=f"is.{status}", status=status).save()
    names = [f"is.{status}" for status in Status]

    def listed(entry):
        page = admin_client.get(reverse(f"admin:cq_{entry}_changelist")).content.decode()
        return [name for name in names if name in page]

    assert listed("successfultask") == ["is.SUCCESS"]
    assert sorted(listed("failedtask")) == ["is.FAILURE", "is.INCOMPLETE", "is.LOST"]
    assert "Successful tasks" in admin_client.get(reverse("admin:index")).content.decode()


def test_the_list_of_failed_tasks_says_why(admin_client):
    made = mail.delay()
    Task.objects.filter(id=made.id).update(status=Status.FAILURE, error=f"{EVIL} {'x' * 500}")
    found = admin_client.get(reverse("admin:cq_failedtask_changelist")).content.decode()
    assert "&lt;script&gt;" in found
    assert "x" * 60 in found
    assert "x" * 200 not in found


def test_a_function_that_no_code_defines_is_shown_as_broken_and_can_be_disabled(admin_client):
    row = make()
    RepeatingTask.objects.filter(pk=row.pk).update(func_name=f"gone.{EVIL}")
    for url in (LIST, change(row)):
        page = admin_client.get(url).content.decode()
        assert "no code defines it" in page
        assert EVIL not in page
    post(admin_client, change(row), fill(admin_client, row, enabled=None))
    assert not again(row).enabled
    data = {"action": "run_now", "_selected_action": [row.pk]}
    assert "decorate the function" in admin_client.post(LIST, data, follow=True).content.decode()


def test_what_is_broken_is_said_on_top_and_under_its_runs(admin_client):
    row = make(args=[1, 2, 3, 4])
    page = admin_client.get(change(row)).content.decode()
    assert "This schedule is broken: admin.mail: too many" in page
    assert "None of these will run until it is mended" in page
    RepeatingTask.objects.filter(pk=row.pk).update(args=[], error="it fell", next_run=None)
    page = admin_client.get(change(row)).content.decode()
    assert "None of these will run until it is mended" in page
    mended = admin_client.post(preview(row), fill(admin_client, row, crontab="0 9 * * *")).json()
    assert "None of these" not in mended["html"]
    RepeatingTask.objects.filter(pk=row.pk).update(
        crontab="61 * * * *", error="", next_run=row.next_run
    )
    page = admin_client.get(change(row)).content.decode()
    assert page.count("out of range") == 1
    assert "Nothing, until it is mended" in page
    whole = admin_client.get(change(make(name="whole"))).content.decode()
    assert "broken:" not in whole
    assert "None of these" not in whole


def test_that_no_worker_is_alive_is_said_above_the_list(admin_client):
    said = "No worker is alive: no task runs, and nothing fires"
    assert said in admin_client.get(LIST).content.decode()
    worker = Worker.objects.create(host="here", pid=1)
    assert said not in admin_client.get(LIST).content.decode()
    Worker.objects.filter(pk=worker.pk).update(seen=database.read_clock() - timedelta(days=1))
    assert said in admin_client.get(LIST).content.decode()


def test_a_next_run_that_should_have_come_is_marked(admin_client):
    row = make()
    assert "overdue" not in admin_client.get(LIST).content.decode()
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=datetime(2026, 1, 1, tzinfo=UTC))
    assert "overdue" in admin_client.get(LIST).content.decode()


def test_a_long_reason_ends_in_an_ellipsis(admin_client):
    row = make()
    RepeatingTask.objects.filter(pk=row.pk).update(error="why " * 100)
    assert "why…</div>" in admin_client.get(LIST).content.decode()


def test_the_broken_and_the_declared_can_be_picked_out(admin_client):
    make(name="whole")
    broken = make(name="in pieces")
    RepeatingTask.objects.filter(pk=broken.pk).update(func_name="gone.away")
    make(name="too much", args=[1, 2, 3, 4])
    page = admin_client.get(LIST, {"state": "broken"}).content.decode()
    assert ("in pieces" in page, "too much" in page, "whole" in page) == (True, True, False)
    assert "in pieces" not in admin_client.get(LIST, {"state": "declared"}).content.decode()


def test_what_was_changed_against_the_code_is_marked(admin_client):
    row = make(declared={"crontab": "0 9 * * *"})
    assert "changed here" in admin_client.get(LIST).content.decode()
    page = admin_client.get(change(row)).content.decode()
    assert "The code that shows you this does not" in page


def test_what_code_says_is_shown_without_its_secrets(admin_client, code):
    cq.repeat("0 8 * * *", mail, kwargs={"to": "me", "password": "hush"}, name="mail")
    declared.sync()
    RepeatingTask.objects.update(kwargs={"to": "you"}, func_name=talk.name)
    page = admin_client.get(change(RepeatingTask.objects.get())).content.decode()
    assert "Code declares it by this name" in page
    assert "Code says" in page
    assert "hush" not in page


def test_that_a_declared_one_comes_back_is_said_before_it_is_deleted(admin_client, code):
    cq.repeat("0 8 * * *", mail, name="mail")
    declared.sync()
    row, other = RepeatingTask.objects.get(), make(name="by hand")
    said = "mail is declared in code: it comes back"
    url = reverse("admin:cq_repeatingtask_delete", args=[row.pk])
    assert said in admin_client.get(url).content.decode()
    assert said in act(admin_client, "delete_selected", row, other)
    assert "it comes back" not in act(admin_client, "delete_selected", other)


def test_a_hundred_cost_no_more_queries_than_two(admin_client, django_assert_num_queries):
    make()
    with django_assert_num_queries(6):
        admin_client.get(LIST)
    for number in range(20):
        make(name=f"{number}")
    with django_assert_num_queries(6):
        admin_client.get(LIST)


# Doing.


def act(client, action, *rows):
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(LIST, data, follow=True).content.decode()


def test_they_are_run_disabled_and_enabled_by_actions(admin_client):
    row = make()
    assert "A task was made" in act(admin_client, "run_now", row)
    assert Task.objects.get().repeating_task == row
    act(admin_client, "disable", row)
    assert (again(row).enabled, again(row).next_run) == (False, None)
    act(admin_client, "enable", row)
    assert (again(row).enabled, again(row).next_run is None) == (True, False)


def test_who_ran_enabled_or_disabled_one_is_in_its_history(admin_client):
    row = make()
    act(admin_client, "run_now", row)
    act(admin_client, "enable", row)  # it is already
    act(admin_client, "disable", row)
    act(admin_client, "enable", row)
    admin_client.post(reverse("admin:cq_repeatingtask_run", args=[row.pk]))
    said = [entry.get_change_message() for entry in LogEntry.objects.order_by("id")]
    first, last = Task.objects.order_by("id")
    runs = [f"Run now, as task {made.pk}." for made in (first, last)]
    assert said == [runs[0], "Disabled.", "Enabled.", runs[1]]
    assert {entry.object_id for entry in LogEntry.objects.all()} == {str(row.pk)}


def test_a_second_run_beside_the_first_is_told(admin_client):
    row = make()
    url = reverse("admin:cq_repeatingtask_run", args=[row.pk])
    said = "had not ended: both run"
    assert said not in admin_client.post(url, follow=True).content.decode()
    assert said in admin_client.post(url, follow=True).content.decode()


def test_run_now_is_a_button_too(admin_client):
    row = make()
    url = reverse("admin:cq_repeatingtask_run", args=[row.pk])
    assert url in admin_client.get(change(row)).content.decode()
    assert admin_client.get(url).status_code == 405
    page = admin_client.post(url, follow=True).content.decode()
    assert "A task was made" in page
    assert Task.objects.get().repeating_task == row


def test_one_is_deleted_and_its_tasks_stay(admin_client):
    row = make()
    row.run_now()
    url = reverse("admin:cq_repeatingtask_delete", args=[row.pk])
    admin_client.post(url, {"post": "yes"})
    assert not RepeatingTask.objects.exists()
    assert Task.objects.get().repeating_task is None
