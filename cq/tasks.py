"""Task functions that come with django-cq."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING, Any

from django.core import management

from cq.api import task

if TYPE_CHECKING:
    from cq.models import Task


@task("cq.call_command", atomic=False)
def call_command(cqt: Task[str | None], command: str, /, *args: str, **options: Any) -> str | None:
    """Run a management command: `call_command.delay("clearsessions")`.

    What it writes to its `self.stdout` and `self.stderr` goes to the log, but for empty lines. The result
    is what its `handle()` returns. Not atomic, as a command opens what transactions it needs.
    """
    colorless = {} if "force_color" in options else {"no_color": True}
    out, err = _ToLog(cqt, logging.INFO), _ToLog(cqt, logging.WARNING)
    try:
        returned: Any = management.call_command(
            command, *args, **{**colorless, **options, "stdout": out, "stderr": err}
        )
    except SystemExit as end:
        if end.code:
            raise
        returned = None
    finally:
        out.end()
        err.end()
    return None if returned is None else str(returned)


class _ToLog(io.TextIOBase):
    """Whole lines, as they come."""

    def __init__(self, cqt: Task[Any], level: int) -> None:
        self._cqt = cqt
        self._level = level
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self._cqt.log(line, self._level)
        return len(text)

    def end(self) -> None:
        if self._begun:
            self.write("\n")
