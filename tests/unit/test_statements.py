"""Rows that are inserted by statements are those that the ORM would insert, in every column."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
import uuid_utils.compat as uuid
from django.db import IntegrityError, connection, models, transaction
from django.db.models.expressions import DatabaseDefault
from django.db.models.signals import post_init, post_save, pre_save
from django.test.utils import CaptureQueriesContext

from cq import task
from cq.models import Task
from cq.statements import insert, insert_many, inserts

pytestmark = pytest.mark.django_db

FIELDS = Task._meta.concrete_fields
LEFT = ("submitted", "ready_at")
NASTY = """a\\b "c" 'd' {e},NULL %s %% 100% \t\n\r ü 漢 🐘 \u2028"""
AT = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
TAGGED = {
    "when": AT,
    "day": date(2026, 1, 1),
    "for": timedelta(days=-1, microseconds=3),
    "price": Decimal("1.50"),
    "id": UUID(int=7),
    "$tag": {"$uuid": "no"},
    NASTY: [NASTY, 1, 1.0, True, None, [], {}],
}
numbers = itertools.count(1)


@task("statements.job")
def job(cqt, *args): ...


def something(field):
    """A value that says something, of whatever kind the field is."""
    number = next(numbers)
    kind = (field.target_field if field.is_relation else field).get_internal_type()
    if field.choices:
        return list(field.choices)[-1][0]
    by_kind = {
        "UUIDField": uuid.uuid7,
        "BigAutoField": lambda: number,
        "CharField": lambda: f"{number}{NASTY}"[: field.max_length],
        "TextField": lambda: NASTY * 50,
        "JSONField": lambda: {"a": [NASTY, 1, True], "b": None},
        "SmallIntegerField": lambda: -number,
        "IntegerField": lambda: number,
        "FloatField": lambda: number + 0.1,
        "BooleanField": lambda: not field.default,
        "DateTimeField": lambda: AT + timedelta(seconds=number),
        "DurationField": lambda: timedelta(days=number, microseconds=1),
    }
    if type(field).__name__ == "PayloadField":
        return [TAGGED, number]
    return by_kind[kind]()


def full(**given):
    """A task that says something in every column."""
    return Task(**{field.attname: something(field) for field in FIELDS} | given)


def plain(**given):
    """A task that says as little as it can."""
    return Task(func_name="statements.job", **given)


def copy(one):
    """Another task of the same values, where it may have the same."""
    values = {field.attname: getattr(one, field.attname) for field in FIELDS}
    own = {"id": uuid.uuid7(), "slot": something(Task._meta.get_field("slot"))}
    if one.slot is None:
        del own["slot"]
    if one.unique_key is not None:
        own["unique_key"] = f"{next(numbers)}"
    return Task(**values | own)


def stored(one):
    """The row as the driver gives it: no field converts anything."""
    quote = connection.ops.quote_name
    columns = [field.column for field in FIELDS]
    with connection.cursor() as cursor:
        names = ", ".join(map(quote, columns))
        id_ = FIELDS[0].get_db_prep_save(one.id, connection)
        cursor.execute(f"SELECT {names} FROM cq_task WHERE id = %s", [id_])
        return dict(zip(columns, cursor.fetchone(), strict=True))


def unsaid(one):
    """The columns that the task leaves to the database."""
    return {name for name in LEFT if type(one.__dict__[name]) is DatabaseDefault}


def same_rows(expected, found, *, but=()):
    differs = {"id", "unique_key", "slot", *but}
    expected, found = stored(expected), stored(found)
    for name in set(expected) - differs:
        assert expected[name] == found[name], name
        assert type(expected[name]) is type(found[name]), name


MAKERS = {
    "full": full,
    "plain": plain,
    "no ttl": lambda: plain(result_ttl=None),
    "scheduled": lambda: plain(status="SCHEDULED", run_after=AT, ready_at=AT),
    "JSON null": lambda: plain(result=models.Value(None, models.JSONField())),
    "tagged": lambda: plain(args=[TAGGED], kwargs=TAGGED, result=AT),
    "1": lambda: plain(args=[1]),
    "1.0": lambda: plain(args=[1.0]),
    "True": lambda: plain(args=[True]),
    "0": lambda: plain(args=0, kwargs=False, meta=[], options=[]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_row_is_what_the_orm_makes_of_it(make):
    expected = make()
    found, left = copy(expected), unsaid(expected)
    expected.save(force_insert=True)
    insert(found)
    same_rows(expected, found, but=left)


def test_rows_are_what_the_orm_makes_of_them():
    makers = [make for name, make in MAKERS.items() if name != "JSON null"]
    expected = [make() for make in makers]
    expected += [copy(one) for one in expected]
    found, left = [copy(one) for one in expected], [unsaid(one) for one in expected]
    for one in expected:
        one.save(force_insert=True)
    insert_many(found)
    for one, other, names in zip(expected, found, left, strict=True):
        same_rows(one, other, but=names)


def test_what_differs_in_one_column_differs_in_the_rows():
    """One row after the other is the one that says something."""
    for field in FIELDS[1:]:
        made = [plain() for _ in range(3)]
        setattr(made[1], field.attname, something(field))
        expected = copy(made[1])
        expected.save(force_insert=True)
        insert_many(made)
        same_rows(expected, made[1], but=set(LEFT) - {field.attname})
        first = plain()
        first.save(force_insert=True)
        for one in made[0], made[2]:
            same_rows(first, one, but=LEFT)


def test_many_rows_are_more_than_one_statement_where_parameters_are_limited(monkeypatch):
    if connection.vendor != "postgresql":
        monkeypatch.setattr(type(connection.features), "max_query_params", 100, raising=False)
    made = [plain(args=[number]) for number in range(120)]
    with CaptureQueriesContext(connection) as queries:
        insert_many(made)
    assert (len(queries) == 1) == (connection.vendor == "postgresql")
    found = dict(Task.objects.values_list("id", "args"))
    assert {one.id: one.args for one in made} == found


def test_nothing_is_inserted_without_a_statement():
    with CaptureQueriesContext(connection) as queries:
        insert_many([])
    assert 0 == len(queries)


# -- Instances


def left_as(one):
    row = {**one.__dict__, "id": None}
    state = row.pop("_state")
    times = {name: type(row.pop(name, None)) for name in LEFT}
    return row, times, state.adding, state.db


@pytest.mark.parametrize("make", [plain, full], ids=["plain", "full"])
def test_an_instance_is_left_as_save_leaves_it(make):
    by_orm = make()
    alone, *beside = (copy(by_orm) for _ in range(3))
    by_orm.save(force_insert=True)
    insert(alone)
    insert_many(beside)
    for one in alone, *beside:
        for name in "unique_key", "slot":
            setattr(one, name, getattr(by_orm, name))
        assert left_as(by_orm) == left_as(one)
        renewed = Task.objects.get(id=one.id)
        for name in LEFT:
            assert getattr(renewed, name) == getattr(one, name)


def test_what_the_database_says_is_asked_for_where_it_can_not_be_returned(monkeypatch):
    features = type(connection.features)
    for name in "can_return_columns_from_insert", "can_return_rows_from_bulk_insert":
        monkeypatch.setattr(features, name, False, raising=False)
    inserts._listed_text.cache_clear()
    inserts._unnested_text.cache_clear()
    made = [plain(), plain(), plain(ready_at=AT)]
    insert(made[0])
    insert_many(made[1:])
    inserts._listed_text.cache_clear()
    inserts._unnested_text.cache_clear()
    assert {"submitted", "ready_at"} == made[0].get_deferred_fields()
    assert {"submitted"} == made[2].get_deferred_fields()
    for one in made:
        assert Task.objects.get(id=one.id).submitted == one.submitted
    assert AT == made[2].ready_at


def test_save_has_its_signals_and_bulk_has_none():
    heard = []

    def hear(signal, **given):
        heard.append((signal, given["instance"]._state.adding, given.get("created"), given))

    for signal in pre_save, post_save:
        signal.connect(hear, sender=Task)
    try:
        by_orm, by_hand = plain(), plain()
        by_orm.save(force_insert=True)
        insert(by_hand)
        insert_many([plain(), plain()])
    finally:
        for signal in pre_save, post_save:
            signal.disconnect(hear, sender=Task)
    assert 4 == len(heard)
    for expected, found in zip(heard[:2], heard[2:], strict=True):
        assert expected[:3] == found[:3]
        assert {**expected[3], "instance": by_hand} == found[3]


def test_a_task_of_delay_is_initialised():
    heard = []

    def hear(instance, **given):
        heard.append(instance)

    post_init.connect(hear, sender=Task)
    try:
        made = [job.delay(), *job.delay_many(range(2))]
    finally:
        post_init.disconnect(hear, sender=Task)
    assert made == heard


@pytest.mark.django_db(transaction=True)
def test_after_an_error_the_transaction_knows_that_it_is_broken():
    one = plain()
    insert(one)
    for again in (lambda: insert(copy_of(one)), lambda: insert_many([plain(), copy_of(one)])):
        with transaction.atomic():
            with pytest.raises(IntegrityError):
                again()
            assert connection.needs_rollback
            transaction.set_rollback(True)
    assert [one] == list(Task.objects.all())


def copy_of(one):
    return plain(id=one.id)


# -- Text


def test_a_default_that_is_no_plain_constant_is_a_parameter():
    class Meta:
        app_label = "cq"
        managed = False

    for default, constant in (
        ({"default": 1.5}, None),
        ({"default": "it's"}, None),
        ({"default": "100%"}, None),
        ({"default": AT}, None),
        ({"default": lambda: 3}, None),
        ({"db_default": "x"}, None),
        ({"default": "word"}, "'word'"),
        ({"default": ""}, "''"),
        ({"default": 7}, "7"),
        ({"default": False}, "FALSE"),
        ({"default": dict}, "'{}'"),
        ({"default": list}, "'[]'"),
        ({"null": True}, ""),
        ({"null": True, "default": None}, ""),
    ):
        field = models.JSONField(**default)
        field.set_attributes_from_name("some")
        column = inserts._column(field)
        assert (constant or "") == column.constant
        assert (constant is None) == (column.default is inserts._NONE)


def test_calls_of_one_kind_share_their_text():
    inserts._listed_text.cache_clear()
    for number in range(5):
        job.using(label="x").delay(number, "%s")
        job.delay()
    assert 2 == inserts._listed_text.cache_info().misses
