"""Where the demo keeps its data, and what a running one tells to commands that are started beside it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("DEMO_DATA") or ROOT / "demo" / ".data").resolve()
NOTE = DATA / "running.json"


def redis_url():
    """What the environment says; else what a running demo uses; None: poll."""
    if os.environ.get("DEMO_PLAIN"):
        return None
    return os.environ.get("REDIS_URL") or (note() or {}).get("redis_url")


def database_url():
    """What the environment says; else what a running demo uses; None: SQLite."""
    return os.environ.get("DATABASE_URL") or (note() or {}).get("database_url")


def note():
    """What the demo that runs on this data wrote down; None where none runs."""
    try:
        with NOTE.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:  # it is held by who wrote it, as long as that lives
                return json.loads(file.read() or "{}")
    except FileNotFoundError:
        pass
    return None


class Note:
    """Held while the demo runs: the lock goes with its process, however that ends."""

    def __init__(self):
        DATA.mkdir(parents=True, exist_ok=True)
        self._file = NOTE.open("a+")
        NOTE.chmod(0o600)  # an address may hold a password
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def write(self, **known):
        self._file.truncate(0)
        json.dump(known, self._file)
        self._file.flush()

    def remove(self):
        NOTE.unlink(missing_ok=True)
        self._file.close()
