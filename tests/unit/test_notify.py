"""NOTIFY: said from this process, and heard by it."""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace

import pytest
import uuid_utils.compat as uuid
from django.core import mail
from django.db import connection, connections, transaction

from cq import bell, ear, notify
from cq.bell import Carrier
from tests.app import mutants
from tests.app.tasks import add
from tests.processes import eventually

pytestmark = pytest.mark.vendors("postgresql")


@pytest.fixture
def no_layer(settings, transactional_db):
    settings.CHANNEL_LAYERS = {}
    yield
    bell.stop()


@pytest.fixture
def other(transactional_db):
    """Another connection to the test database."""
    link = connections.create_connection("default")
    yield link
    link.close()


@pytest.fixture
def kept(monkeypatch):
    """The connection is kept for a while, as it is outside of tests."""
    monkeypatch.delattr(mail, "outbox")


def listening(link):
    with link.cursor() as cursor:
        cursor.execute(f"LISTEN {notify.CHANNEL}")


def heard(link, timeout=0.5):
    """What comes within that time."""
    return [one.payload for one in link.connection.notifies(timeout=timeout)]


def speakers():
    """Pids of the backends that NOTIFY was said on last."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE query LIKE 'SELECT pg_notify%%' AND datname = current_database()"
        )
        return [pid for (pid,) in cursor.fetchall()]


# -- Who rings


def test_who_carries_the_bell(settings, transactional_db, monkeypatch):
    assert Carrier.LAYER == bell.carrier()
    memory = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    for layers in {}, {"long": memory}:
        settings.CHANNEL_LAYERS = layers
        assert Carrier.NOTIFY == bell.carrier()
    psycopg2 = SimpleNamespace(__name__="psycopg2")
    with monkeypatch.context() as patch:
        patch.setattr(type(connections["default"]), "Database", psycopg2)
        assert Carrier.NOBODY == bell.carrier()


# -- Said


def test_a_committed_task_is_said_once_and_a_rolled_back_one_never(no_layer, other):
    listening(other)
    with transaction.atomic():
        for number in range(50):
            add.delay(number)
        assert [] == heard(other, 0.2)
    assert heard(other) in (["default"], ["default"] * 2)
    with transaction.atomic():
        add.delay(1)
        transaction.set_rollback(True)
    assert [] == heard(other, 0.2)


def test_a_loop_of_rings_is_a_few_words(no_layer, other, kept):
    listening(other)
    begun = time.monotonic()
    for _ in range(2000):
        bell.ring("default")
        bell.ring("mail")
        time.sleep(0.0001)
    most = (time.monotonic() - begun) / bell.GAP + 2
    bell.flush()
    words = heard(other)
    assert {"default", "mail"} == set(words)
    assert 5 < words.count("default") <= most


def test_what_is_said_last_is_heard(no_layer, other, kept):
    """However it falls between two words."""
    listening(other)
    for _ in range(50):
        bell.ring("default")
        heard(other, 0.001)
    bell.ring("default")
    assert "default" in heard(other)


def test_no_connection_is_left_in_tests(no_layer):
    bell.ring("default")
    bell.flush()
    eventually(lambda: not speakers(), 2)


def test_a_connection_is_kept_and_then_closed(no_layer, kept, monkeypatch):
    monkeypatch.setattr(notify, "KEPT", 1.0)
    bell.ring("default")
    bell.flush()
    (first,) = speakers()
    bell.ring("default")
    bell.flush()
    assert [first] == speakers()
    eventually(lambda: not speakers(), 4)
    bell.ring("default")
    bell.flush()
    assert 1 == len(speakers())
    bell.stop()
    eventually(lambda: not speakers(), 2)


def test_a_connection_that_was_lost_is_replaced(no_layer, other, kept):
    listening(other)
    bell.ring("default")
    bell.flush()
    assert ["default"] == heard(other)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", speakers())
    bell.ring("default")
    bell.flush()
    assert ["default"] == heard(other)


@pytest.fixture
def complaints(monkeypatch, no_layer):
    """What would be logged once a minute."""
    found = []
    monkeypatch.setattr(bell, "_complain", lambda what, error: found.append(what))
    bell.stop()
    return found


def test_a_database_that_does_not_answer_holds_up_nobody(complaints, other, monkeypatch):
    settings = {**connection.settings_dict, "HOST": "192.0.2.1"}  # which answers nobody
    with monkeypatch.context() as context:
        context.setitem(connections.settings, "default", settings)
        begun = time.monotonic()
        for _ in range(100):
            bell.ring("default")
        assert time.monotonic() - begun < 0.5
        bell.flush()
        bell.stop()
        assert time.monotonic() - begun < 3
    listening(other)
    bell.ring("mail")
    bell.flush()
    assert ["mail"] == heard(other)


def test_what_could_not_be_said_is_complained_of(complaints, monkeypatch):
    settings = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": "1"}
    monkeypatch.setitem(connections.settings, "default", settings)
    bell.ring("default")
    bell.flush()
    assert ["default"] == complaints


def test_a_fork_leaves_the_connection_to_its_parent(no_layer, other, kept):
    listening(other)
    bell.ring("default")
    bell.flush()
    (pid,) = speakers()
    child = os.fork()
    if not child:
        code = 1
        try:
            bell.ring("forked")
            bell.flush()
            bell.stop()
            code = 0
        finally:
            os._exit(code)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    bell.ring("mail")
    bell.flush()
    assert [pid] == speakers()
    assert {"default", "forked", "mail"} == set(heard(other))


IN_TESTS = """
import time
import django
django.setup()
from django.test.runner import DiscoverRunner
from tests.app.tasks import add
from cq import bell
runner = DiscoverRunner(verbosity=0, interactive=False)
runner.setup_test_environment()
made = runner.setup_databases()
for number in range(2):
    add.delay(number)
bell.flush()
runner.teardown_databases(made)
print("dropped")
"""


@pytest.mark.parametrize("mutant", ["", "kept_in_tests"])
def test_a_project_can_drop_its_test_database(process, mutant):
    started = process(
        "-c",
        IN_TESTS,
        settings={"CHANNEL_LAYERS": {"long": MEMORY}},
        env={"CQ_TEST_MUTANT": mutant},
    )
    started.wait()
    assert ("dropped" in started.output) is not bool(mutant), started.output
    if mutant:
        assert "is being accessed by other users" in started.output


MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


# -- Heard


class Told:
    """An ear on this thread's connection, and what it has told."""

    def __init__(self):
        self.queues, self.changes = [], []
        self.ear = ear.Ear(uuid.uuid7())
        self.ear.heard = self.queues.append
        self.ear.changed = self.changes.append

    def until(self, predicate, timeout=3):
        """Pauses as the claimer does, until something is so."""
        end = time.monotonic() + timeout
        while True:
            wait = self.ear.listen()
            if predicate():
                return True
            if (left := end - time.monotonic()) <= 0:
                return False
            files = [self.ear.fileno()] if self.ear.fileno() is not None else []
            select.select(files, [], [], min(wait, left))


@pytest.fixture
def told(no_layer):
    yield Told()
    connection.close()


def test_an_ear_is_trusted_when_its_own_word_has_come(told):
    assert told.ear.listen() <= ear.PATIENCE
    assert told.until(lambda: told.ear.hears)
    assert [True] == told.changes
    assert ear.PATIENCE < told.ear.listen() <= ear.TRIAL
    bell.ring("default")
    assert told.until(lambda: told.queues)
    assert ["default"] == told.queues


def test_what_comes_during_a_query_is_heard(told):
    assert told.until(lambda: told.ear.hears)
    for queue in "a", "b", "a":
        bell.ring(queue)
        bell.flush()
        time.sleep(2 * bell.GAP)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.2)")
    assert not select.select([told.ear.fileno()], [], [], 0)[0]
    assert told.until(lambda: told.queues)
    assert ["a", "b"] == sorted(told.queues)


def test_nobody_else_hears_a_trial(told, other):
    listening(other)
    assert told.until(lambda: told.ear.hears)
    assert [] == heard(other, 0.2)


def test_a_silent_one_is_not_trusted_and_says_so_once(told, monkeypatch, caplog):
    monkeypatch.setattr(ear, "PATIENCE", 0.1)
    monkeypatch.setattr(ear, "TRIAL", 0.1)
    with monkeypatch.context() as context:
        mutants.apply("fault_listens_in_vain", context.setattr)
        assert not told.until(lambda: told.ear.hears, 1)
        assert [] == told.changes
        assert 1 == len([one for one in caplog.records if "does not arrive" in one.message])
    connection.close()
    monkeypatch.setattr(ear, "PATIENCE", 2.0)
    assert told.until(lambda: told.ear.hears)
    assert [True] == told.changes


def test_one_that_fell_silent_is_tried_again(told, monkeypatch):
    monkeypatch.setattr(ear, "TRIAL", 0.2)
    assert told.until(lambda: told.ear.hears)
    with monkeypatch.context() as context:
        context.setattr(ear, "PATIENCE", 0.1)
        context.setattr(bell, "try_out", lambda channel: None)
        assert told.until(lambda: not told.ear.hears)
    assert told.until(lambda: told.ear.hears)
    assert [True, False, True] == told.changes


@pytest.mark.parametrize("how", ["terminated", "discarded"])
def test_a_connection_that_has_gone_is_listened_to_again(told, other, monkeypatch, how):
    monkeypatch.setattr(ear, "FAULT_PAUSE", 0.1)
    assert told.until(lambda: told.ear.hears)
    if how == "terminated":
        with other.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(%s)", [connection.connection.info.backend_pid]
            )
        assert told.until(lambda: not told.ear.hears)
        assert told.ear.fileno() is None
    else:
        connection.close()
    assert told.until(lambda: told.changes[1:] == [False, True])
    bell.ring("default")
    assert told.until(lambda: told.queues)


def test_a_database_that_is_away_is_nobodys_error(told, monkeypatch, caplog):
    assert told.until(lambda: told.ear.hears)
    connection.close()
    with monkeypatch.context() as context:
        context.setitem(connection.settings_dict, "HOST", "127.0.0.1")
        context.setitem(connection.settings_dict, "PORT", "1")
        assert 0 < told.ear.listen() <= ear.FAULT_PAUSE
        assert told.ear.fileno() is None
        assert [True, False] == told.changes
    assert told.until(lambda: told.ear.hears)
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
