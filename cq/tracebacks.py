"""An exception as bounded, storable text.

Recording a failure must itself be unable to fail: nothing here trusts what a user's exception says
of itself, and nothing copies a huge message as a whole. No locals are shown, as they hold secrets.
"""

from __future__ import annotations

import json
import linecache
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

MESSAGE = 2_000  # characters of one exception's message
TRACEBACK = 32_000  # characters of a whole traceback
FRAMES = 30  # of one exception, at each end of its stack
LINKS = 5  # exceptions of one chain of causes, at each of its ends
WALKED = 10_000  # exceptions of one chain that are looked at
EXCEPTIONS = 30  # in one traceback, with all children of groups
DEPTH = 5  # of groups in groups
NOTES = 10
LINE = 300  # characters of a path, a name, a source line
SHORTEST = 3  # a hidden value below this is in every text

_PACKAGE = str(Path(__file__).parent) + os.sep
_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


# -- Text


def clean(text: str) -> str:
    """The text with NUL and lone surrogates made visible: no database stores them."""
    text = text.replace("\x00", "\\x00")
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def redact(text: str, hide: Sequence[str]) -> str:
    """The text with each of the values to hide replaced by `***`."""
    return _masked(text, _forms(hide), len(text))


def _forms(hide: Sequence[str]) -> list[str]:
    """The hidden values, also as they look inside of a repr or of JSON. Longest first."""
    forms = set()
    for value in hide:
        if len(value) >= SHORTEST:
            forms |= {value, clean(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
    return sorted(forms, key=len, reverse=True)


def _masked(text: str, forms: list[str], stop: int) -> str:
    """`text[:stop]`, redacted. One that reaches across `stop` is hidden whole, not half."""
    if not forms:
        return text[:stop]
    window = text[: stop + len(forms[0])]
    spans = []
    for form in forms:
        at = window.find(form)
        while at >= 0:
            spans.append((at, at + len(form)))
            at = window.find(form, at + 1)
    out = []
    done = 0
    # Those that overlap are hidden together: what is left of the one might tell the other.
    for start, end in sorted(spans):
        if start >= stop:
            break
        if start >= done:
            out += [window[done:start], "***"]
        done = max(done, end)
    out.append(window[done:stop])
    return "".join(out)


def _excerpt(text: str, limit: int, forms: list[str]) -> str:
    """At most `limit` characters of the text, redacted and clean, and how many are left out."""
    shown = clean(_masked(text, forms, limit))
    left_out = max(len(text) - limit, 0) + max(len(shown) - limit, 0)
    return f"{shown[:limit]}… [{left_out:,} characters cut]" if left_out else shown


def _middle_out(text: str, limit: int) -> str:
    """At most `limit` characters, of the beginning and, rather, of the end."""
    if len(text) <= limit:
        return text
    room = limit - 50  # for the line that says so
    head = text[: room // 3]
    tail = text[len(text) - (room - len(head)) :]
    return f"{head}\n… [{len(text) - room:,} characters cut] …\n{tail}"


# -- What an exception says of itself. Its class may have overridden anything.


def _own(exc: BaseException, name: str) -> Any:
    """An attribute as BaseException itself keeps it."""
    return BaseException.__dict__[name].__get__(exc)


def _name(kind: type[Any]) -> str:
    return str.__str__(type.__dict__["__name__"].__get__(kind))


def _qualified(kind: type[Any]) -> str:
    """With its module, as Python writes it in a traceback."""
    try:
        module = str.__str__(type.__dict__["__module__"].__get__(kind))
    except Exception:  # noqa: BLE001  (a class body can set it to anything)
        module = "?"
    return _name(kind) if module in {"builtins", "__main__"} else f"{module}.{_name(kind)}"


def _message(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))
    # BaseException: it is the user's code, which may be stopped by a timeout in this very moment;
    # the failure must be written down all the same.
    except BaseException as problem:  # noqa: BLE001
        return f"<its message can't be read: {_name(type(problem))} in __str__>"


def _notes(exc: BaseException) -> list[str]:
    try:
        found = getattr(exc, "__notes__", ())
        notes = [found] if issubclass(type(found), str) else list(islice(found, NOTES + 1))
    except BaseException as problem:  # noqa: BLE001  (the user's code, as above)
        return [f"<its notes can't be read: {_name(type(problem))}>"]
    shown = [_note(note) for note in notes[:NOTES]]
    return [*shown, "[more notes left out]"] if len(notes) > NOTES else shown


def _note(note: object) -> str:
    kind = type(note)
    return str.__str__(note) if issubclass(kind, str) else f"<a note of type {_name(kind)}>"


def _children(exc: BaseException) -> tuple[BaseException, ...]:
    if not issubclass(type(exc), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = BaseExceptionGroup.__dict__["exceptions"].__get__(exc)
    return found


def _before(exc: BaseException) -> BaseException | None:
    cause: BaseException | None = _own(exc, "__cause__")
    if cause is not None or _own(exc, "__suppress_context__"):
        return cause
    context: BaseException | None = _own(exc, "__context__")
    return context


def _frames(exc: BaseException) -> Iterator[tuple[FrameType, int]]:
    """From the outermost to where it was raised, without what called the user's code."""
    step: TracebackType | None = _own(exc, "__traceback__")
    first = step
    while step is not None and step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        step = step.tb_next
    step = step or first  # an error of our own: all of it
    while step is not None:
        yield step.tb_frame, step.tb_lineno
        step = step.tb_next


def _source(frame: FrameType, line: int) -> str:
    try:
        return linecache.getline(frame.f_code.co_filename, line, frame.f_globals).strip()
    except Exception:  # noqa: BLE001  (a module's __loader__ is asked, which may be anybody's)
        return ""


def _ends(items: Iterable[T], count: int) -> tuple[list[T], int, list[T]]:
    """The first `count`, how many are left out, and the last `count`."""
    rest = iter(items)
    head = list(islice(rest, count))
    tail: deque[T] = deque(maxlen=count)
    seen = 0
    for item in rest:
        tail.append(item)
        seen += 1
    return head, seen - len(tail), list(tail)


# -- The report


class _Report:
    def __init__(self, hide: Sequence[str]) -> None:
        self.forms = _forms(hide)
        self.lines: list[str] = []
        self.seen: set[int] = set()
        self.room = EXCEPTIONS
        self.messages: dict[int, str] = {}  # a huge one is asked for once

    def title(self, name: str, exc: BaseException) -> str:
        if id(exc) not in self.messages:
            self.messages[id(exc)] = _excerpt(_message(exc), MESSAGE, self.forms)
        message = self.messages[id(exc)]
        name = _excerpt(name, LINE, self.forms)
        return f"{name}: {message}" if message else name

    def add(self, depth: int, text: str) -> None:
        indent = "  | " * depth
        self.lines.append(indent + text.replace("\n", "\n" + indent))

    def chain(self, exc: BaseException, depth: int = 0) -> None:
        """An exception after those that led to it, the oldest first, as Python does."""
        newest, left_out, oldest = _ends(islice(self.links(exc), WALKED), LINKS)
        order = [*newest, *oldest]
        for at in reversed(range(len(order))):
            self.one(order[at], depth)
            if at == LINKS and left_out:
                self.add(depth, f"\n[{left_out:,} exceptions left out]\n")
            elif at:
                caused = _own(order[at - 1], "__cause__") is order[at]
                self.add(depth, f"\n{_CAUSE if caused else _CONTEXT}\n")

    def links(self, exc: BaseException | None) -> Iterator[BaseException]:
        while exc is not None and id(exc) not in self.seen:
            self.seen.add(id(exc))
            yield exc
            exc = _before(exc)

    def one(self, exc: BaseException, depth: int) -> None:
        self.room -= 1
        head, left_out, tail = _ends(_frames(exc), FRAMES)
        if head:
            self.add(depth, "Traceback (most recent call last):")
        for frame, line in head:
            self.frame(frame, line, depth)
        if left_out:
            self.add(depth, f"  [{left_out:,} frames left out]")
        for frame, line in tail:
            self.frame(frame, line, depth)
        self.add(depth, self.title(_qualified(type(exc)), exc))
        for note in _notes(exc):
            self.add(depth, _excerpt(note, MESSAGE, self.forms))
        self.children(_children(exc), depth)

    def frame(self, frame: FrameType, line: int, depth: int) -> None:
        code = frame.f_code
        file, name = (_excerpt(text, LINE, self.forms) for text in (code.co_filename, code.co_name))
        self.add(depth, f'  File "{file}", line {line}, in {name}')
        if source := _source(frame, line):
            self.add(depth, f"    {_excerpt(source, LINE, self.forms)}")

    def children(self, found: Sequence[BaseException], depth: int) -> None:
        for number, child in enumerate(found, 1):
            if self.room <= 0 or depth >= DEPTH:
                self.add(depth, f"  [{len(found) - number + 1:,} exceptions left out]")
                return
            self.add(depth, f"  + {number} of {len(found)}")
            if id(child) in self.seen:
                self.room -= 1
                self.add(depth + 1, f"[shown elsewhere: {_name(type(child))}]")
            else:
                self.chain(child, depth + 1)


def describe(exc: BaseException, hide: Sequence[str] = ()) -> tuple[str, str]:
    """An exception as a line, "ValueError: bad", and as a traceback, both bounded and storable.

    The values to hide are shown as `***`. Never raises.
    """
    error = "an exception that can't be described"
    try:
        error = clean(_name(type(exc)))[:LINE]
        report = _Report(hide)
        error = report.title(_name(type(exc)), exc)
        report.chain(exc)
        return error, _middle_out("\n".join(report.lines), TRACEBACK)
    # Without a record the task would look as if it still ran.
    except BaseException as problem:  # noqa: BLE001
        return error, f"[the traceback can't be written: {type(problem).__name__}]"
