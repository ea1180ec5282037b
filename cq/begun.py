"""What a process has begun, told to whoever outlives it: a page that it shares with its supervisor."""

from __future__ import annotations

import mmap
from uuid import UUID

_SIZE = 16  # bytes of an id
_NONE = bytes(_SIZE)


class Begun:
    """One slot for each hand, which holds the id of the task that it runs."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._page = mmap.mmap(-1, max(1, slots) * _SIZE)  # shared with what is forked later

    def note(self, slot: int, task_id: UUID) -> None:
        """This hand begins this task."""
        self._page[slot * _SIZE : (slot + 1) * _SIZE] = task_id.bytes

    def clear(self, slot: int) -> None:
        """What this hand had begun has ended."""
        self._page[slot * _SIZE : (slot + 1) * _SIZE] = _NONE

    def read(self) -> set[UUID]:
        """What was begun and has not ended."""
        found = (self._page[at : at + _SIZE] for at in range(0, self._slots * _SIZE, _SIZE))
        return {UUID(bytes=one) for one in found if one != _NONE}

    def close(self) -> None:
        """Give the page back."""
        self._page.close()
