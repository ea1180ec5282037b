"""A small project, on the servers of tests.settings: the benchmarks' tasks alone; without Redis where none is named."""

from __future__ import annotations

from tests.settings import *  # noqa: F403  (all that it does not change)
from tests.settings import INSTALLED_APPS, REDIS_URL

INSTALLED_APPS = [*(name for name in INSTALLED_APPS if name != "tests.app"), "bench"]
ROOT_URLCONF = "bench.pages"

if not REDIS_URL:  # what a project has that says nothing of them
    del CHANNEL_LAYERS, CQ_CHANNEL_LAYER, CACHES  # noqa: F821  (from tests.settings)
