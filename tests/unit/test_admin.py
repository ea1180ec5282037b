"""The admin: what it shows, what it hides, what it costs, and that nothing can be changed in it."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
import uuid_utils.compat as uuid
from django.urls import reverse
from django.utils import timezone

from cq import registry
from cq.models import LogLine, RepeatingTask, Task, Worker
from cq.options import options_of_function
from cq.states import Status

LIST = reverse("admin:cq_task_changelist")
EVIL = "<script>alert(1)</script>"

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(admin_client):
    """Gets an admin page as text."""

    def get(url, status=200, **query):
        response = admin_client.get(url, query)
        assert response.status_code == status, response
        return response.content.decode()

    return get


@pytest.fixture
def login(monkeypatch):
    """A registered function with a sensitive argument."""

    def log_in(cqt, name, password): ...

    options = options_of_function({"name": "tests.log_in"})
    registry.register(log_in, options)
    yield "tests.log_in"
    del registry._definitions["tests.log_in"]


def make(**values):
    values = {"func_name": "tests.gone", "status": Status.QUEUED, **values}
    task = Task(**values)
    task.root_id = task.root_id or (task.parent.root_id if task.parent else task.id)
    task.save()
    return task


def change(task):
    return reverse("admin:cq_task_change", args=[task.pk])


# The list.


def test_list_shows_tasks(page):
    make(label="Monthly report", status=Status.WAITING)
    text = page(LIST)
    assert "Monthly report (tests.gone)" in text
    assert "cq-WAITING" in text


def test_list_filters(page, login):
    queued, failed = make(label="one"), make(label="two", status=Status.FAILURE, queue="slow")
    assert str(failed.id) not in page(LIST, status__exact="QUEUED")
    assert str(queued.id) not in page(LIST, queue="slow")
    assert str(queued.id) not in page(LIST, func_name=login)
    assert "?func_name=tests.log_in" in page(LIST)
    child = make(parent=queued)
    assert str(child.id) not in page(LIST, place="top")
    assert str(queued.id) not in page(LIST, place="sub").replace(f"root={queued.id}", "")
    assert str(child.id) in page(LIST, parent=queued.id, status__exact="QUEUED")


def test_the_list_names_the_schedule_of_each_and_the_one_it_shows(page):
    row = RepeatingTask.objects.create(name="nightly", func_name="tests.gone")
    of, other = make(repeating_task=row), make()
    assert "nightly" in page(LIST)
    text = page(LIST, repeating_task=row.pk)
    assert (str(of.id) in text, str(other.id) in text) == (True, False)
    assert "By schedule" in text
    assert "By schedule" not in page(LIST)
    for picked in ("abc", "9" * 40):
        page(LIST, 302, repeating_task=picked)  # Django's answer to filters that make no sense
    assert "One that is gone" in page(LIST, repeating_task=row.pk + 1)
    assert str(other.id) not in page(LIST, repeating_task=row.pk + 1)


@pytest.mark.parametrize("entry", ["task", "failedtask"])
def test_statuses_are_spelled_in_filters_as_in_lists(page, entry):
    text = page(reverse(f"admin:cq_{entry}_changelist"))
    assert re.search(r"status__exact=FAILURE\"[^>]*>\s*FAILURE", text)


def test_search(page):
    one, other = make(label="Monthly report"), make(func_name="mail.send")
    for wanted, term in [
        (one, "monthly"),
        (other, "mail.s"),
        (other, str(other.id)),
        (one, f" {one.id.hex} "),
    ]:
        text = page(LIST, q=term)
        assert change(wanted) in text
        assert change(other if wanted is one else one) not in text


def test_list_costs_the_same_however_many(page, django_assert_max_num_queries):
    for number in range(30):
        parent = make(label=f"{number}")
        make(parent=parent, args=["x" * 1000])
    with django_assert_max_num_queries(6) as queries:
        page(LIST)
    assert not any('"args"' in query["sql"] or "`args`" in query["sql"] for query in queries)
    counts = [
        query["sql"] for query in queries if "COUNT(" in query["sql"] and "cq_task" in query["sql"]
    ]
    assert counts
    assert not any("JOIN" in sql or "cq_repeatingtask" in sql for sql in counts)


# One task.


def test_task_that_failed(page):
    task = make(
        status=Status.FAILURE,
        error=f"ValueError: {EVIL}",
        traceback=f"Traceback:\n  line 1, in {EVIL}",
        kwargs={"name": EVIL, "of": {"a": datetime(2026, 1, 2, tzinfo=UTC)}},
        options={"sensitive": []},  # without, the arguments of an unknown function are hidden
        label=EVIL,
        meta={"tenant": EVIL},
        started=timezone.now(),
        finished=timezone.now() + timedelta(seconds=2),
        attempts=[
            {
                "number": 1,
                "started": "2026-11-21T01:02:03.456+00:00",
                "finished": "2026-11-21T01:02:04+00:00",
                "outcome": "RETRY",
                "error": EVIL,
                "worker": "w",
            }
        ],
        progress_done=3,
        progress_total=10,
        progress_message="rows",
    )
    text = page(change(task))
    assert EVIL not in text
    assert "ValueError: &lt;script&gt;" in text
    assert '<pre class="cq-text">Traceback:' in text
    assert "2026-01-02 00:00:00+00:00" in text
    assert "2026-11-21 01:02:03.456" in text
    assert "cq-RETRY" in text
    assert "3 of 10 rows" in text
    assert EVIL not in page(LIST)


def test_sensitive_arguments_are_hidden(page, login):
    task = make(func_name=login, args=["anna", "tops3cret"], status=Status.FAILURE)
    other = make(kwargs={"password": "tops3cret", "name": "otto"})  # a function that nobody knows
    for text in page(change(task)), page(change(other)), page(LIST):
        assert "tops3cret" not in text
    assert "anna" in page(change(task))
    assert "***" in page(change(task))


def test_log(page):
    task = make()
    child = make(parent=task)
    for origin, text in [(task, EVIL), (child, "from below")]:
        LogLine.objects.create(
            root=task,
            origin=origin.id,
            level=logging.WARNING,
            message=text,
            timestamp="2026-11-21T01:02:03.456789+00:00",
        )
    text = page(change(task))
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "WARNING" in text
    assert "from below" in text
    assert change(child) in text


def test_relations_are_links(page):
    parent = make(label="the parent")
    first = make(label="first", parent=parent)
    second = make(label="second", parent=parent, previous=first, status=Status.PENDING)
    waiter = make(label="waiter", returned=second)
    text = page(change(second))
    for task in parent, first:
        assert f'<a href="{change(task)}">{task.label}</a>' in text
    assert change(second) in page(change(first)), "successors"
    assert change(second) in page(change(waiter))
    text = page(change(parent))
    assert change(first) in text
    assert f"{LIST}?parent={parent.id}&amp;status__exact=PENDING" in text


def test_a_big_tree_costs_no_more(page, django_assert_max_num_queries):
    parent = make(status=Status.WAITING, linked=True)
    Task.objects.bulk_create(
        Task(func_name="tests.gone", parent=parent, root=parent, status=status, label="a leaf")
        for status in [Status.QUEUED] * 200 + [Status.FAILURE] * 3
    )
    with django_assert_max_num_queries(12):
        text = page(change(parent))
    assert text.count("a leaf") == 25
    assert "200 <span" in text
    assert text.index("cq-FAILURE") < text.index("cq-QUEUED")


def test_huge_values_are_cut(page):
    task = make(error="e" * 100_000, result=["r" * 100_000], status=Status.SUCCESS)
    text = page(change(task))
    assert len(text) < 60_000
    assert "characters more]" in text


def test_pointers_to_what_is_gone(page):
    """Rows are pruned tree by tree, and there are no database constraints."""
    gone = uuid.uuid7()
    task = make()
    Task.objects.filter(id=task.id).update(parent=gone, previous=gone, returned=gone)
    page(change(task))


# Workers.


def test_workers(page):
    worker = Worker.objects.create(host="web-1", pid=7, queues=["default"], functions=["a.b"])
    Worker.objects.create(host="web-2", pid=8)
    Worker.objects.filter(host="web-2").update(seen=timezone.now() - timedelta(hours=1))
    task = make(status=Status.RUNNING, worker_id=worker.id)
    text = page(reverse("admin:cq_worker_changelist"))
    assert "web-1:7" in text
    assert 'alt="True"' in text
    assert 'alt="False"' in text
    text = page(reverse("admin:cq_worker_change", args=[worker.pk]))
    assert change(task) in text
    assert "a.b" in text


# Nothing can be changed.


def test_nothing_can_be_changed(page, admin_client):
    task, worker = make(), Worker.objects.create(host="web-1", pid=7)
    for name, row in [("task", task), ("worker", worker)]:
        page(reverse(f"admin:cq_{name}_add"), status=403)
        page(reverse(f"admin:cq_{name}_delete", args=[row.pk]), status=403)
        url = reverse(f"admin:cq_{name}_change", args=[row.pk])
        assert admin_client.post(url, {"status": "SUCCESS"}).status_code == 403
        listed = page(reverse(f"admin:cq_{name}_changelist"))
        assert 'name="action"' not in listed
        assert f"cq/{name}/add/" not in listed
        assert 'type="submit" value="Save' not in page(url)
        before = row.__class__.objects.count()
        admin_client.post(
            reverse(f"admin:cq_{name}_changelist"),
            {"action": "delete_selected", "_selected_action": str(row.pk), "post": "yes"},
        )
        assert row.__class__.objects.count() == before
    task.refresh_from_db()
    assert task.status == Status.QUEUED


def test_looking_needs_the_permission(client, django_user_model):
    client.force_login(django_user_model.objects.create(username="staff", is_staff=True))
    assert client.get(LIST).status_code == 403
    assert client.get(change(make())).status_code == 403


def test_admin_is_not_needed(process):
    """Neither the admin, nor channels as an app, nor any other app of Django's."""
    code = (
        "import django, sys; django.setup();"
        "assert 'cq.admin' not in sys.modules and 'django.contrib.admin' not in sys.modules;"
        "from cq.models import Task; print(Task.objects.count())"
    )
    one = process("-c", code, settings={"INSTALLED_APPS": ["cq"]})
    assert (one.wait(), one.output) == (0, "0\n")
