"""What is sensitive is shown as `***`, and is gone from the row once nobody needs it."""

from __future__ import annotations

import logging

import pytest

from cq import task
from cq.models import Task
from cq.states import Status
from tests.unit.running import claim, renewed, run_all

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "hunter2-canary"


@task("sensitive.login")
def login(cqt, user, password, error=None):
    cqt.log(f"with {password}")
    if error:
        raise ValueError(f"{user} may not {password}")
    return len(password)


@task("sensitive.own", sensitive=("card", "owner"), capture_logs=True)
def own(cqt, card, *, owner=None):
    logging.getLogger("shop").warning("card %s of %s", card, owner)
    raise ValueError(f"{card} {owner}")


@task("sensitive.previous")
def gets_previous(cqt, user, password):
    return [user, len(password)]


def everything(made):
    """All that a person can see of a task."""
    row = renewed(made)
    return (
        f"{row!r} {row} {row.error} {row.traceback} {row.attempts} {row.logs} {row.shown_arguments}"
    )


@pytest.mark.parametrize(
    "call", [lambda: login.delay("u", SECRET), lambda: login.delay("u", password=SECRET)]
)
def test_it_is_hidden_while_it_is_needed_and_overwritten_after_success(call, caplog):
    caplog.set_level(logging.DEBUG)
    made = call()
    assert SECRET not in repr(made)
    assert "***" in repr(made)
    assert SECRET in f"{made.args} {made.kwargs}"
    run_all()
    assert len(SECRET) == renewed(made).result
    assert SECRET not in str(Task.objects.values().get())
    assert "***" in f"{made.args} {made.kwargs}"
    assert ["with ***"] == [line["message"] for line in made.logs]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("call", [lambda: login.delay("u", SECRET, 1), lambda: own.delay(SECRET)])
def test_after_a_failure_it_is_kept_for_retry_and_hidden(call, caplog):
    caplog.set_level(logging.DEBUG, "cq")
    made = call()
    run_all()
    assert "FAILURE" == renewed(made).status
    assert SECRET in f"{made.args} {made.kwargs}"
    assert SECRET not in everything(made)
    assert "***" in made.error
    assert "***" in made.traceback
    assert SECRET not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("cq"))


@pytest.mark.parametrize("owner", [{"name": SECRET, "x": 1}, [SECRET, ["deep", SECRET]], SECRET])
def test_what_is_inside_of_a_sensitive_argument_is_hidden_too(owner):
    made = own.delay("4111-1111", owner=owner)
    run_all()
    assert SECRET not in everything(made)


def test_what_a_skipped_task_was_given_is_gone():
    made = login.delay("u", SECRET, 1)
    after = made.chain(login, "u", SECRET)
    run_all()
    assert "SKIPPED" == renewed(after).status
    assert (["u", "***"], {}) == (after.args, after.kwargs)


def test_what_comes_by_then_does_not_shift_what_is_hidden():
    made = login.delay("u", "x" * 5)
    after = made.then(gets_previous, SECRET)
    assert (["***"], {}) == after.shown_arguments
    run_all()
    assert [5, len(SECRET)] == renewed(after).result
    assert ["***"] == after.args


def test_using_says_what_is_sensitive_for_one_call():
    made = login.using(sensitive=["user"]).delay(SECRET, "shown")
    assert (["***", "shown"], {}) == renewed(made).shown_arguments
    made = login.using(sensitive=[]).delay("u", "shown")
    assert (["u", "shown"], {}) == renewed(made).shown_arguments


@pytest.mark.parametrize("call", [lambda: own.delay(SECRET), lambda: own.delay(card=SECRET)])
def test_a_task_whose_function_is_unknown_is_masked_altogether(call):
    made = call()
    Task.objects.update(func_name="gone")
    assert "***" in repr(renewed(made))
    assert SECRET not in repr(made)


def test_a_row_of_an_unknown_function_may_keep_which_names_are_sensitive():
    made = login.using(sensitive=["user"]).delay(user=SECRET, password="shown")
    Task.objects.update(func_name="gone")
    assert ([], {"user": "***", "password": "shown"}) == renewed(made).shown_arguments


def test_arguments_that_do_not_fit_do_not_show_it():
    for call in (
        lambda: login.delay("u", SECRET, 1, 2),
        lambda: login.delay(SECRET.encode(), password=SECRET.encode()),
        lambda: login.delay("u", {SECRET.encode(): 1}),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert SECRET not in str(caught.value)


def test_a_retried_task_still_has_it():
    @task("sensitive.second", retries=1, retry_delay=0)
    def second(cqt, password):
        if not cqt.attempts:
            raise ValueError(password)
        return len(password)

    made = second.delay(SECRET)
    run_all()
    assert ("RETRY", "ValueError: ***") == (str(renewed(made).status), made.error)
    Task.objects.update(status=Status.QUEUED)
    assert 1 == run_all()
    assert (len(SECRET), ["***"]) == (renewed(made).result, made.args)
    assert SECRET not in everything(made)
    assert [] == claim()
