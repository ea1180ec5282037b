"""Django settings of the tests, and of the workers that tests start; what differs comes by the environment.

tests/servers.py says where the servers are; CQ_TEST_DATABASE_NAME is the test database, for processes beside
pytest; CQ_TEST_SETTINGS, a JSON object, goes over everything here.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import dj_database_url

# Without the plugin (mypy, makemigrations) nothing has to run.
DATABASE_URL = os.environ.get(
    "CQ_TEST_DATABASE_URL", f"sqlite:///{tempfile.gettempdir()}/cq-tests.sqlite3"
)
REDIS_URL = os.environ.get("CQ_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
REDIS_PREFIX = os.environ.get("CQ_TEST_PREFIX", "cq-test")


def _database() -> dict[str, Any]:
    database: dict[str, Any] = {**dj_database_url.parse(DATABASE_URL)}
    # By process, so that two runs can share a server.
    test: dict[str, Any] = {"NAME": f"test_cq_{os.getpid()}"}
    engine = database["ENGINE"]
    if engine == "django.db.backends.sqlite3":
        # A file, since the workers are other processes.
        test["NAME"] = str(Path(database["NAME"]).with_name(f"{test['NAME']}.sqlite3"))
        database["OPTIONS"] = {"timeout": 20, "init_command": "PRAGMA journal_mode=WAL"}
    if engine == "django.db.backends.mysql":
        import pymysql

        pymysql.install_as_MySQLdb()  # nothing to compile; Django takes it from 1.2 on
        database["OPTIONS"] = {"charset": "utf8mb4", **database.get("OPTIONS", {})}
        test["CHARSET"] = "utf8mb4"
    return {
        **database,
        "NAME": os.environ.get("CQ_TEST_DATABASE_NAME", database["NAME"]),
        "TEST": test,
    }


DATABASES = {"default": _database()}

SECRET_KEY = "tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.urls"
ASGI_APPLICATION = "tests.asgi.application"
STATIC_URL = "/static/"

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.admin",
    "cq",
    "tests.app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

CHANNEL_LAYERS: dict[str, Any] = {
    "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "long": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [REDIS_URL],
            "prefix": f"{REDIS_PREFIX}:layer",
            "expiry": 1800,
            "channel_capacity": {"cq-tasks*": 1000},
        },
    },
}
CACHES: dict[str, Any] = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": f"{REDIS_PREFIX}:cache",
    }
}
CQ_CHANNEL_LAYER = "long"
CQ_PREFIX = f"{REDIS_PREFIX}:cq"

globals().update(json.loads(os.environ.get("CQ_TEST_SETTINGS", "{}")))
