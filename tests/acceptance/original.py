"""The task bodies of the original package's README, unchanged."""

# fmt: off
# ruff: noqa: E704, N805, PIE790, UP031
from __future__ import annotations

import logging

from cq import task
from tests.app.models import Effect

email_addresses = ["a@dummy.org", "b@dummy.org"]


@task
def send_email(cqt, addr):
    ...
    return 'OK'


@task
def send_emails(cqt):
    ...
    for addr in email_addresses:
        cqt.subtask(send_email, addr)
    ...
    return 'OK'


@task
def task_a(cqt):
    Effect.objects.create(name="a")


@task
def task_b(cqt):
    Effect.objects.create(name="b")


@task
def parent(cqt):
    task_a.delay()  # not a subtask
    cqt.subtask(task_b)  # subtask


@task
def calc_a(cqt, a):
    return a * 10


@task
def add_a_to_4(cqt, b):
    return cqt.previous.result + b


@task
def calculate_something(cqt):
    return calc_a.delay(3).chain(add_a_to_4, (4,))


@task(atomic=False)
def unsafe_task(cqt):
    pass


class First:
    @task
    def long_task(cqt):
        cqt.log('standard old log')
        cqt.log('debugging log', logging.DEBUG)


class Second:
    @task
    def long_task(cqt):
        for ii in range(100):
            cqt.log('iteration %d' % ii, publish=False)
        cqt.log('done')  # publish=True


class Third:
    @task
    def long_task(cqt):
        for ii in range(100):
            cqt.log('iteration %d' % ii, publish=False)
        cqt.log('done', limit=10)
