"""A real worker fires repeating tasks: made, changed and stopped while it runs."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from cq import database, repeating
from cq.models import RepeatingTask, Task, schedule_task
from tests.app import tasks

SECOND = timedelta(seconds=1)


def done():
    return Task.objects.succeeded().exclude(slot=None)


def test_one_that_is_made_while_it_runs_fires_with_its_slots(worker, eventually):
    worker("--processes", "1").wait_ready()
    row = schedule_task(RepeatingTask, "* * * * * *", tasks.slot)
    eventually(lambda: done().count() >= 3)
    for made in done():
        assert made.result == made.slot == made.scheduled_for
        assert made.slot.microsecond == 0
        assert made.submitted >= made.slot
    row.refresh_from_db()
    assert row.run_count >= 3
    assert row.last_run


def test_one_that_is_changed_while_it_runs_goes_by_what_it_says_now(worker, eventually):
    row = schedule_task(RepeatingTask, "0 0 1 1 *", tasks.slot)
    worker("--processes", "1").wait_ready()
    row.crontab = "* * * * * *"
    row.save()
    eventually(lambda: done().count() >= 2)
    repeating.enable([row], on=False)
    eventually(lambda: not Task.objects.active().exists())
    made = Task.objects.count()
    row.refresh_from_db()
    assert row.next_run is None
    assert Task.objects.count() == made


def test_what_is_slow_does_not_pile_up(worker, eventually):
    worker("--processes", "2").wait_ready()
    row = schedule_task(RepeatingTask, "* * * * * *", tasks.nap, (2.5,))

    def skipped():
        row.refresh_from_db()
        return row.skip_count >= 2 and row.run_count >= 2

    eventually(skipped, 20)
    made = list(Task.objects.order_by("slot"))
    for one, other in pairwise(made):
        assert one.finished is not None
        assert one.finished <= other.submitted


@pytest.mark.parametrize(
    ("arguments", "settings"), [(["--no-scheduler"], {}), ([], {"CQ_SCHEDULER": False})]
)
def test_a_worker_that_is_told_not_to_leaves_it_to_others(worker, eventually, arguments, settings):
    worker("--processes", "1", *arguments, settings=settings).wait_ready()
    schedule_task(RepeatingTask, "* * * * * *", tasks.slot)
    later = tasks.add.using(run_after=2 * SECOND).delay(1)
    later.wait(20)  # what is due for another reason runs all the same
    assert not Task.objects.exclude(slot=None).exists()
    worker("--scheduler-only").wait_ready()
    eventually(lambda: done().exists())


def test_a_worker_that_only_fires_runs_nothing(worker, eventually):
    started = worker("--scheduler-only").wait_ready()
    row = schedule_task(RepeatingTask, "* * * * * *", tasks.slot, coalesce=False)
    eventually(lambda: Task.objects.count() >= 2)
    assert started.children() == []
    assert set(Task.objects.values_list("status", flat=True)) == {"QUEUED"}
    row.delete()
    assert started.stop() == 0


def test_a_burst_fires_what_is_due(worker):
    row = schedule_task(RepeatingTask, "@yearly", tasks.slot)
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=database.read_clock() - SECOND)
    assert worker("--burst", "--processes", "1").wait() == 0
    assert done().count() == 1


def test_they_live_where_cq_database_says(process, tmp_path):
    """Whoever makes them: save(), schedule_task(), what code declares."""
    code = """
import django; django.setup()
import cq
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from cq import database, declared
from cq.models import RepeatingTask, schedule_task
from tests.app.tasks import slot
cq.repeat("0 8 * * *", slot, name="declared")
call_command("migrate", verbosity=0)
try:
    schedule_task(RepeatingTask, "0 8 * * *", slot, name="too soon")
except ImproperlyConfigured as error:
    print(error)
call_command("migrate", database="tasks", verbosity=0)
RepeatingTask(func_name=slot.name, name="saved").save()
schedule_task(RepeatingTask, "0 8 * * *", slot, name="scheduled")
print(sorted(RepeatingTask.objects.values_list("name", flat=True)), declared.sync())
print(list(RepeatingTask.objects.using("default").values_list("name", flat=True)))
"""
    databases = {
        alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / alias)}
        for alias in ("default", "tasks")
    }
    started = process("-c", code, settings={"DATABASES": databases, "CQ_DATABASE": "tasks"})
    assert started.wait(60) == 0, started.output
    assert "run `manage.py migrate --database tasks` first" in started.output
    assert started.output.splitlines()[-2:] == ["['declared', 'saved', 'scheduled'] []", "[]"]
