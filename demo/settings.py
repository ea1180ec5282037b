"""Django settings of the demo. From the environment, all optional:

DATABASE_URL  where tasks and reports live; else SQLite in demo/.data
REDIS_URL     a Redis or Valkey; else `python -m demo` starts one
DEMO_PLAIN    1: without any of that; workers poll the database
DEMO_DATA     instead of demo/.data

Commands that are started beside a running demo find its database and its Redis by themselves.
"""

from __future__ import annotations

from demo import running

DATA = running.DATA
DATABASE_URL = running.database_url()
REDIS_URL = running.redis_url()

# -- What django-cq is about.

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "cq",
    "demo.counting",
]
ASGI_APPLICATION = "demo.asgi.application"

if REDIS_URL:
    CHANNEL_LAYERS = {
        "long": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                # Without the timeout, redis-py 8 gives up a read after as long as the layer waits.
                "hosts": [{"address": REDIS_URL, "socket_timeout": None}],
                "prefix": "cq-demo:layer",
                "expiry": 1800,
                "channel_capacity": {"cq-tasks*": 1000},
            },
        }
    }
    CQ_CHANNEL_LAYER = "long"
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": REDIS_URL,
            "KEY_PREFIX": "cq-demo:cache",
        }
    }
    CQ_PREFIX = "cq-demo:cq"

if DATABASE_URL:
    import dj_database_url

    DATABASES = {"default": dj_database_url.parse(DATABASE_URL)}
else:
    DATA.mkdir(parents=True, exist_ok=True)
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA / "demo.sqlite3",
            # Readers and a writer do not wait for each other; writers wait their turn.
            "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL", "timeout": 20},
        }
    }

# -- What any project has. It listens to this machine alone, so its secrets are none.

SECRET_KEY = "the demo's, for this machine alone"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "demo.urls"
STATIC_URL = "static/"
LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s  %(message)s", "datefmt": "%H:%M:%S"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
    # One line for each file would bury the rest here: the page and the command show those.
    "loggers": {"cq.task": {"level": "ERROR"}},
}
