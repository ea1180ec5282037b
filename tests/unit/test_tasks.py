"""The task functions that come with django-cq."""

from __future__ import annotations

import logging

import pytest

import cq
from tests.unit.running import run_all

pytestmark = pytest.mark.django_db(transaction=True)


def ran(*args, **kwargs):
    made = cq.call_command.delay(*args, **kwargs)
    run_all()
    made.refresh_from_db()
    return made


def said(made):
    return [(line["level"], line["message"]) for line in made.logs]


def test_what_a_command_says_is_logged_without_empty_lines():
    made = ran("exits", "0")
    assert said(made) == [(logging.INFO, "to stdout"), (logging.WARNING, "to stderr")]


@pytest.mark.parametrize(("code", "status"), [(0, "SUCCESS"), (2, "FAILURE")])
def test_exit_with_0_is_a_success(code, status):
    assert ran("exits", str(code)).status == status


def test_a_command_may_be_asked_for_colours():
    assert ran("check", force_color=True).status == "SUCCESS"


def test_where_it_writes_is_not_for_the_caller():
    assert ran("check", stdout="a file", stderr=1).status == "SUCCESS"
