"""A worker that has loaded this (CQ_TASK_MODULES) tells its slowest statements."""

from __future__ import annotations

import sys
import time

from django.db.backends.signals import connection_created

_slowest = 0.0


def _timed(execute, sql, params, many, context):
    global _slowest
    began = time.perf_counter()
    try:
        return execute(sql, params, many, context)
    finally:
        took = (time.perf_counter() - began) * 1000
        if took > max(_slowest, 20):
            _slowest = took
            print(f"<statement {took:.0f} ms> {sql}", flush=True)


def _watch(connection, **kwargs):
    connection.execute_wrappers.append(_timed)


if "cq_runworker" in sys.argv:
    connection_created.connect(_watch)
