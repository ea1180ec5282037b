"""A worker's work, done in the test's own process and thread: for what needs no second process."""

from __future__ import annotations

import uuid_utils.compat as uuid
from django.db import connection

from cq import execution, lifecycle, registry
from cq.models import Task


def claim(limit=1, queue="default", worker=None):
    """What a worker would claim now."""
    return lifecycle.claim(queue, registry.names(), limit, worker or uuid.uuid7())


def run_all(queue="default"):
    """Run what is QUEUED, and what becomes so, one after the other. Returns how many runs that were."""
    worker, runs = uuid.uuid7(), 0
    while claimed := claim(1, queue, worker):
        execution.execute(claimed[0])
        runs += 1
    return runs


def renewed(*tasks):
    """The tasks as their rows are now."""
    for task in tasks:
        task.refresh_from_db()
    return tasks[0] if len(tasks) == 1 else tasks


def statuses(*tasks):
    return [str(task.status) for task in map(renewed, tasks)]


def statements(rows):
    """How many it may take to insert so many, with some more: SQLite has a limit for parameters."""
    limit = connection.features.max_query_params or 10**6
    return 20 + rows // max(1, limit // (len(Task._meta.concrete_fields) + 1))
