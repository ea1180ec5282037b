"""Rows of workflows: what they forget, what the admin shows of them, what goes with what."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from cq import chain, execution, group, lifecycle, maintenance, task
from cq.models import Task
from tests.app.models import Effect
from tests.unit.flow import add, fan, job, note, total
from tests.unit.running import claim, renewed, run_all, statuses

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@task("rows.secret")
def secret(cqt, error_or_user, password):
    Effect.objects.create(name="secret", number=len(password))


def due():
    lifecycle.make_due()
    return run_all()


# -- Sensitive arguments


SECRET = "hunter2-canary"


def everything():
    return str(list(Task.objects.values()))


@pytest.mark.parametrize("end", ["SUCCESS", "INCOMPLETE", "REVOKED", "SKIPPED", "PENDING"])
def test_calls_kept_on_rows_forget_what_is_sensitive(failing, page, end):
    failing.add(1)
    before = job.using(priority=-9).delay(1 if end == "SKIPPED" else 2)
    made = before.chain(group(secret.s("u", password=SECRET), group(secret.s("u", SECRET))))
    made.errorback(secret, SECRET)
    assert SECRET in everything()
    assert SECRET not in repr(list(Task.objects.all()))
    if end == "REVOKED":
        made.revoke()
    if end == "PENDING":
        for one in Task.objects.all():
            assert SECRET not in page(one)
        return
    execution.execute(claim()[0])
    if end == "INCOMPLETE":
        made.subtasks.order_by("id").first().revoke()
    run_all()
    assert [end] == statuses(made)
    if end == "INCOMPLETE":  # its errorback has run; after retry() it may be needed again
        assert 2 == Effect.objects.filter(name="secret", number=len(SECRET)).count()
        assert SECRET in str(made.errorbacks)
        Task.objects.update(errorbacks=[])
    assert SECRET not in everything()
    if end == "SUCCESS":
        assert [] == made.errorbacks


def test_a_task_that_succeeded_forgets_its_errorbacks():
    made = job.delay(1).errorback(secret, SECRET)
    run_all()
    assert (["SUCCESS"], []) == (statuses(made), made.errorbacks)
    assert SECRET not in everything()


# -- The admin


@pytest.fixture
def page(admin_client):
    def get(made):
        response = admin_client.get(reverse("admin:cq_task_change", args=[made.id]))
        assert 200 == response.status_code
        return response.content.decode()

    return get


def test_the_admin_shows_them_all(failing, page, admin_client):
    failing.add(1)
    made = group(job.s(1), chain(job.s(2), group())).using(label="all of it").delay()
    made.errorback(note)
    waits = made.chain(chain(job.s(5)))
    later = group(job.s(3)).using(run_after=HOUR).delay()
    shown = {one.id: page(one) for one in Task.objects.all()}
    run_all()
    for one in Task.objects.all():
        assert (one.label or one.func_name) in page(one)
    assert "cq-PENDING" in shown[waits.id]
    assert "cq-SCHEDULED" in shown[later.id]
    assert "cq-SKIPPED" in page(waits)
    assert "all of it" in page(Task.objects.get(is_errorback=True))
    assert "null,\n  2" not in page(made)
    assert "[\n  null,\n  []\n]" in page(made)
    assert 200 == admin_client.get(reverse("admin:cq_task_changelist")).status_code


def test_the_list_does_not_load_what_may_be_large(admin_client):
    group(*(job.s(n) for n in range(50))).using(run_after=HOUR).delay().errorback(note)
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(reverse("admin:cq_task_changelist"))
    found = " ".join(query["sql"] for query in queries if "cq_task" in query["sql"])
    assert "func_name" in found
    for name in ("members", "errorbacks", "args", "result"):
        assert f'"{name}"' not in found.replace("`", '"'), name


# -- What goes, and with what


def prunable(*made):
    for one in made:
        Task.objects.filter(id=one.id).update(prune_at=F("submitted") - HOUR)


def test_a_tree_is_pruned_as_one(failing):
    failing.add(1)
    made = group(job.s(1), chain(job.s(2), group(job.s(3)))).delay().errorback(note)
    made.subtasks.get(member_no=0).errorback(note)
    other = job.delay(4)
    run_all()
    (own,) = Task.objects.filter(is_errorback=True, parent=None)
    assert {made.id, own.id, other.id} == set(
        Task.objects.exclude(prune_at=None).values_list("id", flat=True)
    )
    prunable(made)
    assert 8 == maintenance.prune() + 1
    assert {own.id, other.id} == set(Task.objects.values_list("id", flat=True))
    assert None is renewed(own).previous_id


def test_what_an_errorback_or_a_successor_still_needs_is_kept(failing):
    failing.add(1)
    made = job.delay(1).errorback(note.using(run_after=HOUR))
    other = group(job.s(2)).delay()
    other.then(total.using(run_after=HOUR))
    run_all()
    prunable(made, other)
    assert 0 == maintenance.prune()
    Task.objects.update(ready_at=F("submitted"))
    due()
    assert {"FAILURE", "SUCCESS"} == set(Task.objects.values_list("status", flat=True))
    assert 3 == maintenance.prune()


def test_deleting_a_task_deletes_all_under_it():
    made = group(job.s(1), chain(job.s(2), group(job.s(3)))).delay()
    after = made.chain(job, 5)
    run_all()
    made.delete()
    assert [after] == list(Task.objects.all())
    assert None is renewed(after).previous_id


def test_deleting_a_subtask_lets_its_parent_end():
    made = group(job.s(1), job.s(2)).delay()
    made.subtasks.get(member_no=0).delete()
    run_all()
    maintenance.sweep()
    assert ("SUCCESS", [2]) == (renewed(made).status, made.result)


def test_rolled_back_nothing_of_a_tree_was():
    with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012
        made = fan.delay(1)
        made.chain(add, 1)
        made.errorback(note)
        made.subtask(job, 2)
        raise ZeroDivisionError
    assert 0 == Task.objects.count()
