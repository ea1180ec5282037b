"""Arguments and results as JSON: what goes in comes back, and what can't be stored is refused in words."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from django.db import models
from django.utils.safestring import SafeString
from hypothesis import example, given
from hypothesis import strategies as st

from cq.exceptions import NotSerializable
from cq.payload import Decoder, Encoder, arguments, decode, encode, normalise, result, size
from tests.app.models import Effect

MEGABYTE = 1024 * 1024

offsets = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.datetimes(timezones=st.none() | st.just(UTC) | offsets)
    | st.dates()
    | st.times(timezones=st.none() | offsets)
    | st.timedeltas()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.uuids()
)
tags = st.sampled_from(
    ["$datetime", "$date", "$time", "$timedelta", "$decimal", "$uuid", "$$", "$", "$$uuid", "$new"]
)
keys = text | tags | text.map("${}".format)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(tags, inner | st.just("2026-01-31"), min_size=1, max_size=1)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal, and of the same types all through: 1 is not True, nor 1.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float | Decimal):
        return str(a) == str(b)  # -0.0, 1.50
    if isinstance(a, datetime | time):
        return a == b and a.utcoffset() == b.utcoffset()
    return a == b


def refusal(value, where="it"):
    with pytest.raises(NotSerializable) as caught:
        normalise(value, where)
    return str(caught.value)


# -- What comes back


@given(values)
@example({"$datetime": "2026-01-31T12:00:00"})
@example({"$$datetime": {"$datetime": datetime(2026, 1, 31, tzinfo=UTC)}})
@example([timedelta.min, timedelta.max, timedelta(microseconds=-1)])
@example(Decimal("1E+999999"))
@example("a top-level text")
def test_whatever_can_be_stored_comes_back_as_it_went(value):
    assert same(decode(encode(value)), value)


@given(values)
def test_normalising_changes_nothing_that_is_plain_already(value):
    copy = normalise(value, "it")
    assert same(copy, value)
    assert same(decode(encode(copy)), value)


@given(values)
def test_stored_text_is_ascii_json_and_is_as_large_as_it_says(value):
    stored = encode(value)
    json.loads(stored, parse_constant=pytest.fail)
    assert len(stored.encode("ascii")) == size(value)


def test_a_copy_shares_no_container_with_what_was_given():
    given_value = {"a": [1]}
    copy = normalise(given_value, "it")
    given_value["a"].append(2)
    assert copy == {"a": [1]}


def test_tuples_inside_come_back_as_lists():
    Point = namedtuple("Point", "x y")  # noqa: PYI024  (as users have them)
    assert same(normalise({"a": (1, (2,), Point(3, 4))}, "it"), {"a": [1, [2], [3, 4]]})
    assert encode((1, (2,))) == "[1, [2]]"


class Shade(models.TextChoices):
    DARK = "dark"


class Level(IntEnum):
    LOW = 1


class Liar(str):
    """Text whose every method is somebody else's."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError

    __repr__ = __eq__ = __len__ = __iter__ = encode = isascii = __contains__ = __format__ = __str__
    __hash__ = str.__hash__


class Moment(datetime):
    def isoformat(self, *_args):
        raise RuntimeError


def test_subclasses_become_plain_values():
    given_value = [Shade.DARK, Level.LOW, SafeString("<b>"), Liar("x"), OrderedDict(a=True)]
    assert same(normalise(given_value, "it"), ["dark", 1, "<b>", "x", {"a": True}])
    assert same(normalise({SafeString("k"): 1}, "it"), {"k": 1})
    assert same(normalise(Moment(2026, 1, 31), "it"), datetime(2026, 1, 31))  # noqa: DTZ001
    assert encode([Shade.DARK, Level.LOW, Liar("x")]) == '["dark", 1, "x"]'


def test_a_datetime_in_a_zone_comes_back_as_the_same_instant_with_its_offset():
    paris = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Europe/Paris"))
    back = decode(encode(paris))
    assert back == paris
    assert back.utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize("tag", ["datetime", "date", "time", "timedelta", "decimal", "uuid", "new"])
@given(inner=text | values)
@example(inner="NaN")
@example(inner="1E+99999999999999999999999")
@example(inner="P999999999999999999D")
@example(inner="P" + "9" * 400 + "D")
@example(inner=None)
@example(inner="{}")
def test_a_malformed_or_unknown_tag_gives_the_dict_itself_and_never_an_error(tag, inner):
    raw = {f"${tag}": inner if isinstance(inner, str) else json.loads(encode(inner))}
    found = decode(json.dumps(raw))
    if isinstance(found, dict):
        assert list(found) == [f"${tag}"]
    else:  # by chance it was a good one, so it can be stored again
        assert type(found).__name__.lower() == tag
        assert same(decode(encode(found)), found)
    assert decode('{"$datetime": "yesterday", "b": 1}') == {"$datetime": "yesterday", "b": 1}
    assert decode('{"$new": "x"}') == {"$new": "x"}
    assert decode('{"$decimal": "sNaN"}') == {"$decimal": "sNaN"}


@pytest.mark.parametrize("broken", ["[", "9" * 5000, "[" * 100_000])
def test_text_that_cannot_be_read_is_the_one_error_that_django_forgives(broken):
    with pytest.raises(json.JSONDecodeError):
        decode(broken)


# -- Where Django uses the classes


def test_encoder_and_decoder_serve_every_way_that_django_calls_them():
    value = {"when": date(2026, 1, 31), "own": {"$date": "x"}}
    dumps = functools.partial(json.dumps, cls=Encoder)  # psycopg's Jsonb
    assert json.loads(dumps(value), cls=Decoder) == value
    assert (
        json.loads(json.dumps(value, cls=Encoder, indent=2, sort_keys=True), cls=Decoder) == value
    )
    assert json.dumps("é", cls=Encoder, ensure_ascii=False) == '"é"'  # forms.JSONField
    assert json.loads('{"$date": "2026-01-31"}', cls=Decoder) == value["when"]  # a KeyTransform
    for refused in (math.nan, "\x00", {"a": object()}, {1: 2}):
        with pytest.raises(TypeError):  # which JSONField.validate() shows as a form error
            json.dumps(refused, cls=Encoder)


def test_a_full_depth_argument_can_still_be_stored_inside_of_a_row():
    value = datetime(2026, 1, 31, tzinfo=UTC)
    for _ in range(100):
        value = [value]
    listed, _ = arguments([value], {}, ["x"], MEGABYTE)
    assert decode(encode({"members": [{"members": [{"args": listed}]}]}))


IN_A_DATABASE = """
import sys, json, datetime, decimal, uuid, django
from django.conf import settings
settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True)
django.setup()
from django.db import connection, models
from cq.payload import Encoder, Decoder
class Row(models.Model):
    kwargs = models.JSONField(encoder=Encoder, decoder=Decoder)
    class Meta:
        app_label = "payload"
when = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
value = {"user": 5, "when": when, "price": decimal.Decimal("1.50"), "own": {"$x": [1]}, "name": "a"}
with connection.schema_editor() as editor:
    editor.create_model(Row)
Row.objects.create(kwargs=value)
Row.objects.create(kwargs={"user": 6})
found = Row.objects.get(kwargs__user=5)
assert found.kwargs == value, found.kwargs
assert type(found.kwargs["price"]) is decimal.Decimal
for lookup in ({"user": 5}, {"when": when}, {"price": value["price"]}, {"own": {"$x": [1]}}):
    (name, wanted), = lookup.items()
    assert Row.objects.get(**{f"kwargs__{name}": wanted}) == found, name
    assert Row.objects.filter(kwargs__has_key=name, pk=found.pk).exists()
assert Row.objects.get(kwargs__user__in=[5, 7]) == found
assert Row.objects.get(kwargs=value) == found
row = Row.objects.filter(pk=found.pk).values("kwargs__when", "kwargs__own", "kwargs__name").get()
assert row == {"kwargs__when": when, "kwargs__own": {"$x": [1]}, "kwargs__name": "a"}, row
found.full_clean()
print("fine")
"""


def test_a_json_field_keeps_and_finds_values_in_a_real_database():
    # In a process of its own, as the model is no part of the test project.
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DATABASE, json.dumps(database)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


# -- What is refused


class Colour(Enum):
    RED = 1


class Sly:
    """Anything that is asked of it raises."""

    def __getattribute__(self, name):
        raise RuntimeError

    __repr__ = __str__ = __hash__ = __eq__ = __bool__ = __len__ = __iter__ = __getattribute__


class SlyType(type):
    def __getattribute__(cls, name):
        raise RuntimeError


def of_sly_type():
    return SlyType("X", (), {})()


class NoOffset(tzinfo):
    def utcoffset(self, moment):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "cause", "mend"),
    [
        (math.nan, "NaN is not JSON", "give None or a finite number"),
        (math.inf, "Infinity is not JSON", "give None"),
        (-math.inf, "-Infinity is not JSON", "give None"),
        (Decimal("NaN"), "Decimal NaN", "give None"),
        (Decimal("-Infinity"), "Infinity", "give None"),
        (b"x", "bytes", "base64"),
        (bytearray(b"x"), "bytes", "base64"),
        ({1}, "a set", "give a list"),
        (frozenset(), "a set", "give a list"),
        ("a\x00b", "NUL", "remove it"),
        ("\udc80", "surrogate", "errors='replace'"),
        ({"\udc80": 1}, r'in the key "\udc80", a lone surrogate', "decode"),
        ({"a\x00": 1}, r'in the key "a\u0000", NUL', "remove it"),
        ({1: 2}, "a key is of type int", "str(key)"),
        ({None: 2}, "a key is of type NoneType", "str(key)"),
        (lambda: 10**5000, "4,300 digits", "hex()"),
        (lambda: -(10**4300), "4,300 digits", "hex()"),
        (Colour.RED, "Enum Colour", "give its value"),
        (Effect(pk=1), "model Effect", "give its primary key"),
        (object(), "type object", "give text"),
        (Sly, "type Sly", "give text"),
        (of_sly_type, "type unknown", "give text"),
        (print, "type builtin_function_or_method", "give text"),
        (1j, "type complex", "give text"),
        (time(12, tzinfo=ZoneInfo("Europe/Paris")), "no offset from UTC", "give a datetime"),
        (time(12, tzinfo=timezone(timedelta(microseconds=1))), "in whole seconds", "give a"),
        (datetime(2026, 1, 1, tzinfo=NoOffset()), "it raises", "can't be written down"),
        (object.__new__(UUID), "this UUID", "can't be written down"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_with_its_path_and_how_to_mend_it(
    value, cause, mend
):
    if callable(value) and value is not print:
        value = value()  # made here: pytest itself can't bear them
    message = refusal({"a": [0, 1, value]}, "argument 'x'")
    assert message.startswith("argument 'x'[\"a\"][2]: ")
    assert cause in message
    assert mend in message


def test_the_longest_int_that_python_prints_is_stored():
    assert decode(encode(10**4300 - 1)) == 10**4300 - 1


def test_a_value_that_contains_itself_is_refused_and_one_that_is_used_twice_is_not():
    ring = {"a": []}
    ring["a"].append(ring)
    assert refusal(ring) == 'it["a"][0]: it contains itself; JSON can\'t'
    twice = [1]
    assert normalise([twice, twice], "it") == [[1], [1]]


def test_nesting_is_taken_up_to_a_hundred_deep():
    value = []
    for _ in range(99):
        value = [value]
    assert normalise(value, "it") == value
    message = refusal({"a": value})
    assert "nested deeper than 100" in message
    assert len(message) < 300  # the path is shortened
    for _ in range(100_000):
        value = [value]
    assert "nested deeper than 100" in refusal(value)
    with pytest.raises(NotSerializable):
        encode(value)


def test_it_is_an_error_in_words_where_python_itself_is_too_deep():
    value = []
    for _ in range(60):
        value = [value]

    def deeper(left):
        return deeper(left - 1) if left else normalise(value, "it")

    said = set()
    for left in range(0, sys.getrecursionlimit(), 10):
        try:
            deeper(left)
        except NotSerializable as error:
            said.add(str(error))
        except RecursionError:  # before it was called
            break
    assert said == {"it: nested too deeply; give something flatter"}


class Twin(str):
    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def test_two_keys_of_the_same_text_are_refused_rather_than_one_lost():
    assert "two of its keys" in refusal({Twin("a"): 1, Twin("a"): 2})


# -- Arguments and results


def test_arguments_are_named_by_their_parameters():
    for args, kwargs, start in [
        ([1, math.nan], {}, "argument 'y': "),
        ([1, 2, [math.nan]], {}, "argument 3[0]: "),
        ([], {"z": {"a": math.nan}}, "argument 'z'[\"a\"]: "),
        ([], {1: 2}, "the keyword arguments: a key is of type int"),
        ([], {"\x00": 2}, "the keyword arguments: in the key"),
    ]:
        with pytest.raises(NotSerializable) as caught:
            arguments(args, kwargs, ["x", "y"], MEGABYTE)
        assert str(caught.value).startswith(start)


def test_arguments_come_back_as_plain_copies():
    one = uuid4()
    listed, keyed = arguments(([1, (2,)], one), {SafeString("k"): Shade.DARK}, ["x"], MEGABYTE)
    assert same(listed, [[1, [2]], one])
    assert same(keyed, {"k": "dark"})
    assert arguments((), {}, ["x"], 0) == ([], {})


@pytest.mark.parametrize(("args", "kwargs"), [([(1,)], {}), ([], {"x": ()})])
def test_a_tuple_as_a_whole_argument_is_refused(args, kwargs):
    with pytest.raises(NotSerializable, match=r"^argument 'x' is a tuple; give a list$"):
        arguments(args, kwargs, ["x"], MEGABYTE)


@given(st.lists(values, max_size=3), st.dictionaries(text, values, max_size=3), st.integers(0, 600))
@example(["😀" * 10], {}, 120)
@example([], {"\x01" * 10: None}, 60)
@example([timedelta(0), 0.1, -2.2250738585072014e-308], {}, 60)
@example([2**300], {}, 60)
@example([[None] * 10, [[]] * 10], {}, 50)
@example([{"k" * 2000: None}], {}, 600)
@example([], {"k" * 2000: None}, 600)
@example([Decimal("1" * 2000)], {}, 600)
def test_the_limit_holds_to_the_byte_however_it_is_reckoned(args, kwargs, limit):
    taken = size(args) + size(kwargs)
    if (args or kwargs) and taken > limit:
        with pytest.raises(NotSerializable, match="CQ_MAX_PAYLOAD"):
            arguments(args, kwargs, [], limit)
    else:
        assert arguments(args, kwargs, [], limit) == (args, kwargs)


def test_too_much_is_refused_with_its_size_the_limit_and_the_largest_argument():
    with pytest.raises(NotSerializable) as caught:
        arguments([1, "a" * 1500], {"z": "b" * 500}, ["x", "y"], 2000)
    assert str(caught.value) == (
        "the arguments take 2,016 bytes as JSON, more than the limit of 2,000; "
        "the largest is argument 'y' with 1,502. "
        "Store big data elsewhere and pass its key, or raise CQ_MAX_PAYLOAD."
    )


def test_what_is_endless_in_effect_is_refused_at_once():
    value = []
    for _ in range(90):
        value = [value, value]  # 2 ** 90 lists in JSON
    with pytest.raises(NotSerializable, match="argument 'x' takes more than 4,000 bytes"):
        arguments([value], {}, ["x"], 1000)
    with pytest.raises(NotSerializable, match="the result takes more than 4,000 bytes"):
        result({"a": value}, 1000)


def test_a_result_is_kept_under_the_same_rules():
    assert same(result((1, (2,)), MEGABYTE), [1, [2]])
    assert result(None, MEGABYTE) is None
    with pytest.raises(NotSerializable, match=r'^the result\["a"\]: a set is not JSON'):
        result({"a": {1}}, MEGABYTE)
    assert result("a" * 98, 100) == "a" * 98
    with pytest.raises(
        NotSerializable, match="the result takes 101 bytes as JSON; the limit is 100"
    ):
        result("a" * 99, 100)
