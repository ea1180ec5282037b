"""Arguments and results as JSON: what may be stored, and how it comes back.

A datetime, date, time, timedelta, Decimal or UUID is stored as an object with one key, the tag:
`{"$datetime": "2026-01-31T12:00:00+00:00"}`. A dict of the user's own that has one key beginning
with `$` gets a second `$`, so that it is never taken for a tag. An aware datetime comes back as the
same instant with its offset from UTC; the name of its zone is not kept.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Model
from django.utils.dateparse import parse_duration
from django.utils.duration import duration_iso_string

from cq.exceptions import NotSerializable

Special = datetime | date | time | timedelta | Decimal | UUID
Stored = None | bool | int | float | str | list[Any] | dict[str, Any] | Special

MAX_DEPTH = 100
# What a row stores lies deeper than the argument itself: in the list of arguments, in signatures
# inside of containers, and a tag is one more level.
_STORED_DEPTH = 300
# A value's JSON takes at most this many bytes for each that `_Walk` counts: 12 for an emoji, 26
# for a float and its comma, 21 around the text of a timedelta.
_SPREAD = 40
# Beyond this many times the limit a value is not even measured: it may be endless in effect
# (`a = [a, a]`, sixty times), or need more memory than there is.
_PATIENCE = 4
_ELSEWHERE = "Store big data elsewhere and pass its key, or raise CQ_MAX_PAYLOAD."


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str | int] = []  # innermost first


class _TooLarge(Exception):
    pass


# -- Leaves. Methods are called on the built-in class, as a subclass may have made them its own.


class _Tagged(NamedTuple):
    kind: type[Any]
    tag: str
    write: Callable[[Any], str]
    read: Callable[[str], object]


def _with_offset(isoformat: Callable[[Any], str], offset: Callable[[Any], timedelta | None]) -> Any:
    def write(value: Any) -> str:
        if value.tzinfo is not None:
            away = offset(value)
            # A time's zone has none where it depends on the date. Python reads +00:00:00.5 as UTC.
            if away is None or away.microseconds:
                raise _Refused(
                    "its zone has no offset from UTC in whole seconds; "
                    "give a datetime in UTC, or one without a zone"
                )
        return isoformat(value)

    return write


def _decimal(value: Decimal) -> str:
    if not Decimal.is_finite(value):
        raise _Refused("Decimal NaN and Infinity are not JSON; give None or a finite number")
    return Decimal.__str__(value)


def _finite(text: str) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _duration(text: str) -> timedelta:
    value = parse_duration(text)
    if value is None:
        raise ValueError(text)
    return value


# A datetime is a date too, so it comes first.
_TAGGED = (
    _Tagged(
        datetime,
        "$datetime",
        _with_offset(datetime.isoformat, datetime.utcoffset),
        datetime.fromisoformat,
    ),
    _Tagged(date, "$date", date.isoformat, date.fromisoformat),
    _Tagged(time, "$time", _with_offset(time.isoformat, time.utcoffset), time.fromisoformat),
    _Tagged(timedelta, "$timedelta", duration_iso_string, _duration),
    _Tagged(Decimal, "$decimal", _decimal, _finite),
    _Tagged(UUID, "$uuid", UUID.__str__, UUID),
)
_READERS = {tagged.tag: tagged.read for tagged in _TAGGED}


def _text(value: str) -> str:
    value = str.__str__(value)
    if "\x00" in value:
        raise _Refused("NUL can't be stored in text; remove it: text.replace(chr(0), '')")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused(
                "a lone surrogate is no character and can't be stored; "
                "decode the bytes it came from with their encoding, or errors='replace'"
            ) from None
    return value


def _key(key: object) -> str:
    if not issubclass(type(key), str):
        raise _Refused(f"a key is of type {_name(type(key))}; JSON's are text, so give str(key)")
    try:
        return _text(key)  # type: ignore[arg-type]
    except _Refused as refused:
        raise _Refused(
            f"in the key {json.dumps(str.__str__(key)[:50])}, {refused.reason}"
        ) from None


def _integer(value: int) -> int:
    digits = sys.get_int_max_str_digits()
    # Short ones need no comparison: the limit is never below 640 digits, which are 2,126 bits.
    if digits and value.bit_length() > 2000 and abs(value) >= 10**digits:
        raise _Refused(f"an int of more than {digits:,} digits can't be printed; give it as hex()")
    return value


def _float(value: float) -> float:
    if not math.isfinite(value):
        raise _Refused(f"{json.dumps(value)} is not JSON; give None or a finite number")
    return value


def _plain(value: Any) -> int:
    """The bytes that `_Walk` counts for a leaf that is stored as it is, as most are; 0: look at it."""
    kind = type(value)
    if kind is str:
        return len(value) + 1 if value.isascii() and "\x00" not in value else 0
    if kind is int:
        bits: int = value.bit_length()
        return bits // 8 + 1 if bits <= 2000 else 0  # as in _integer()
    return int(value is None or kind is bool)


def _name(kind: type[Any]) -> str:
    try:
        name = str(kind.__qualname__)[:100]
    except Exception:  # noqa: BLE001  (a metaclass may make anything of it)
        return "unknown"
    return name.encode("ascii", "backslashreplace").decode()


def _reason(kind: type[Any]) -> str:
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return "bytes are not JSON; give text (base64, say), or store them and pass their key"
    if issubclass(kind, (set, frozenset)):
        return "a set is not JSON; give a list, sorted(…) for one"
    if issubclass(kind, Enum):
        return f"a member of the Enum {_name(kind)} is not JSON; give its value"
    if issubclass(kind, Model):
        return f"an instance of the model {_name(kind)} is not JSON; give its primary key"
    return (
        f"a value of type {_name(kind)} is not JSON; give text, a number, True, False, None, "
        "a list or dict of such, or a datetime, date, time, timedelta, Decimal or UUID"
    )


# -- The walk


class _Walk:
    """One pass over a value: checks it, and copies it plainly or, with `tagging`, as stored."""

    def __init__(self, *, tagging: bool = False, room: float = math.inf) -> None:
        self.tagging = tagging
        self.deepest = _STORED_DEPTH if tagging else MAX_DEPTH
        self.room = room
        self.spent = 0  # bytes that the JSON takes at least; at most it is _SPREAD times as many
        self.above: set[int] = set()

    def start(self, value: object, where: str) -> Any:
        try:
            return self.value(value)
        except _Refused as refused:
            raise NotSerializable(f"{where}{_path(refused.path)}: {refused.reason}") from None
        except RecursionError:
            raise NotSerializable(f"{where}: nested too deeply; give something flatter") from None

    def value(self, value: Any, depth: int = 0) -> Any:
        """Copy a value. Calls itself directly, as Python allows 1,000 calls inside each other."""
        if least := _plain(value):
            self.spend(least)
            return value
        kind = type(value)
        if not issubclass(kind, (list, dict, tuple)):
            return self.leaf(value, kind)
        if id(value) in self.above:
            raise _Refused("it contains itself; JSON can't")
        if depth >= self.deepest:
            raise _Refused(f"nested deeper than {self.deepest}; give something flatter")
        self.above.add(id(value))
        keys, items = self.parts(value, kind)
        copies: list[Any] = []
        try:
            for item in items:
                copies.append(self.value(item, depth + 1))  # noqa: PERF401  (how far it came)
        except _Refused as refused:
            refused.path.append(keys[len(copies)] if keys else len(copies))
            raise
        self.above.discard(id(value))
        if not issubclass(kind, dict):
            return copies
        if self.tagging and len(keys) == 1 and keys[0].startswith("$"):
            return {f"${keys[0]}": copies[0]}
        return dict(zip(keys, copies, strict=True))

    def parts(self, value: Any, kind: type[Any]) -> tuple[list[str], Iterable[Any]]:
        self.spend(2)
        if issubclass(kind, list):
            return [], list.__iter__(value)
        if issubclass(kind, tuple):
            return [], tuple.__iter__(value)
        found = list(dict.items(value))
        keys = [self.key(key) for key, _ in found]
        if len(set(keys)) < len(keys):
            raise _Refused("two of its keys are the same text; JSON can hold one")
        return keys, [item for _, item in found]

    def key(self, key: object) -> str:
        text = _key(key)
        self.spend(len(text) + 1)
        return text

    def leaf(self, value: Any, kind: type[Any]) -> Any:
        if issubclass(kind, str):
            self.spend(str.__len__(value) + 1)
            return _text(value)
        if issubclass(kind, int):
            self.spend(int.bit_length(value) // 8 + 1)
            return _integer(int.__int__(value))
        if issubclass(kind, float):
            self.spend(1)
            return _float(float.__float__(value))
        if not issubclass(kind, Enum):
            for tagged in _TAGGED:
                if issubclass(kind, tagged.kind):
                    return self.special(value, kind, tagged)
        raise _Refused(_reason(kind))

    def special(self, value: Any, kind: type[Any], tagged: _Tagged) -> Any:
        try:
            text = tagged.write(value)
            # Of a subclass (pandas.Timestamp) what will come back, now rather than later.
            plain = value if kind is tagged.kind else tagged.read(text)
        except _Refused:
            raise
        except Exception:  # noqa: BLE001  (a time zone is a class of the user's)
            raise _Refused(f"this {_name(kind)} can't be written down: it raises") from None
        self.spend(len(text))
        return {tagged.tag: text} if self.tagging else plain

    def spend(self, least: int) -> None:
        self.spent += least
        if self.spent > self.room:
            raise _TooLarge


def _path(innermost_first: list[str | int]) -> str:
    steps = [f"[{json.dumps(step)[:50]}]" for step in reversed(innermost_first)]
    if len(steps) > 10:
        steps[5:-5] = ["…"]
    return "".join(steps)


# -- JSON text


class Encoder(json.JSONEncoder):
    """What Django's JSONField writes with. Refuses what `normalise` refuses: NotSerializable."""

    def encode(self, o: Any) -> str:
        """Not the inherited one, which passes text on unchecked."""
        return "".join(self.iterencode(o, _one_shot=True))

    def iterencode(self, o: Any, _one_shot: bool = False) -> Iterator[str]:
        if not (type(o) is list and all(map(_plain, o))):  # most arguments are nothing else
            o = _Walk(tagging=True).start(o, "the value")
        return super().iterencode(o, _one_shot)


class Decoder(json.JSONDecoder):
    """What Django's JSONField reads with: whole values, and parts (`values("kwargs__when")`)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"object_hook": _revive, **options})

    def decode(self, s: str, *args: Any) -> Any:
        """Read it. Whatever is wrong with the text is a JSONDecodeError.

        With that, Django gives the text as it is; with any other error, one bad row
        would make the whole page, batch or sweep fail.
        """
        try:
            return super().decode(s, *args)
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), s, 0) from None


def _revive(found: dict[str, Any]) -> object:
    if len(found) != 1:
        return found
    ((tag, value),) = found.items()
    if tag.startswith("$$"):
        return {tag[1:]: value}
    read = _READERS.get(tag)
    if read is None or type(value) is not str:
        return found
    try:
        return read(value)
    except (ValueError, ArithmeticError):
        return found


def encode(value: object) -> str:
    """The text that is stored for a value."""
    return Encoder().encode(value)


def decode(text: str) -> object:
    """The value that a stored text stands for."""
    return Decoder().decode(text)


def size(value: object) -> int:
    """How many bytes of text a value is stored in."""
    return len(encode(value))


# -- Arguments and results


def normalise(value: object, where: str) -> Stored:
    """A copy of `value` that can be stored: tuples inside are lists, subclasses are plain.

    Raises NotSerializable, which names `where`, the path inside of it, and what to give instead.
    """
    return _Walk().start(value, where)  # type: ignore[no-any-return]


def arguments(
    args: Sequence[object], kwargs: Mapping[str, object], names: Sequence[str], limit: int
) -> tuple[list[Any], dict[str, Any]]:
    """Copies of a call's arguments that can be stored; together at most `limit` bytes.

    `names` are those of the positional parameters.
    """
    if not args and not kwargs:
        return [], {}
    keys = [_keyword(key) for key in kwargs]

    def label(number: int) -> str:
        if number < min(len(args), len(names)):
            return f"argument {names[number]!r}"
        if number < len(args):
            return f"argument {number + 1}"
        return f"argument {keys[number - len(args)][:50]!r}"

    copies = []
    counted = sum(len(key) + 1 for key in keys)
    for number, value in enumerate((*args, *kwargs.values())):
        copy, least = value, _plain(value)
        if not 0 < least <= limit:
            # `chain(f, (1, 2))` means `f(1, 2)`: a tuple that is an argument is likely a mistake.
            if issubclass(type(value), tuple):
                raise NotSerializable(f"{label(number)} is a tuple; give a list")
            copy, least = _within(value, label(number), limit)
        copies.append(copy)
        counted += least
    listed, keyed = copies[: len(args)], dict(zip(keys, copies[len(args) :], strict=True))
    if counted * _SPREAD > limit and (taken := size(listed) + size(keyed)) > limit:
        largest, number = max((size(copy), number) for number, copy in enumerate(copies))
        raise NotSerializable(
            f"the arguments take {taken:,} bytes as JSON, more than the limit of {limit:,}; "
            f"the largest is {label(number)} with {largest:,}. {_ELSEWHERE}"
        )
    return listed, keyed


def _keyword(key: object) -> str:
    try:
        return _key(key)
    except _Refused as refused:
        raise NotSerializable(f"the keyword arguments: {refused.reason}") from None


def _within(value: object, label: str, limit: int) -> tuple[Stored, int]:
    walk = _Walk(room=limit * _PATIENCE)
    try:
        return walk.start(value, label), walk.spent
    except _TooLarge:
        raise NotSerializable(
            f"{label} takes more than {walk.room:,} bytes as JSON; the limit is {limit:,}. "
            f"{_ELSEWHERE}"
        ) from None


def result(value: object, limit: int) -> Stored:
    """A copy of what a task function returned that can be stored, in at most `limit` bytes."""
    copy, counted = _within(value, "the result", limit)
    if counted * _SPREAD > limit and (taken := size(copy)) > limit:
        raise NotSerializable(
            f"the result takes {taken:,} bytes as JSON; the limit is {limit:,}. {_ELSEWHERE}"
        )
    return copy
