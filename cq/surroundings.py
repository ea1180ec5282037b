"""What a task may have changed of its process, and the next one must find as it was.

What it changed of its context (the active language and time zone, too) ends with that.
"""

from __future__ import annotations

import locale
import os
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Surroundings:
    """The directory, locale and TZ of this process, to be put back."""

    directory: str
    locale: str
    zone: str | None

    @classmethod
    def now(cls) -> Surroundings:
        return cls(_directory() or "/", locale.setlocale(locale.LC_ALL), os.environ.get("TZ"))

    def restore(self) -> None:
        """Put back what differs."""
        if _directory() != self.directory:
            os.chdir(self.directory)
        if locale.setlocale(locale.LC_ALL) != self.locale:
            locale.setlocale(locale.LC_ALL, self.locale)
        if os.environ.get("TZ") != self.zone:
            if self.zone is None:
                os.environ.pop("TZ", None)
            else:
                os.environ["TZ"] = self.zone
            if hasattr(time, "tzset"):
                time.tzset()


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  (after every task)
    except OSError:  # it was removed under the process
        return None
