"""What a task may have changed of its process, and the next one must find as it was."""

from __future__ import annotations

import locale
import os
import time
from dataclasses import dataclass
from pathlib import Path

from django.utils import timezone, translation


@dataclass(frozen=True)
class Surroundings:
    """The directory, locale and time zone of this process, to be put back."""

    directory: str
    locale: str
    zone: str | None

    @classmethod
    def now(cls) -> Surroundings:
        return cls(str(Path.cwd()), locale.setlocale(locale.LC_ALL), os.environ.get("TZ"))

    def restore(self) -> None:
        """Put back what differs."""
        translation.deactivate()
        timezone.deactivate()
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
        return str(Path.cwd())
    except OSError:  # it was removed under the process
        return None
