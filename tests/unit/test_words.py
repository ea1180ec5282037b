"""Schedules in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cq.models import RepeatingTask
from cq.words import in_words, in_zone, is_overdue

START = datetime(2026, 11, 27, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crontab": "0 8 * * mon-fri"}, "At 08:00, Monday through Friday"),
        ({"crontab": "0 8 * * *", "timezone": "Asia/Tokyo"}, "At 08:00, Asia/Tokyo time"),
        ({"crontab": "@daily"}, "At 00:00"),
        ({"crontab": "0 0 * * * 30"}, "At 00:00:30"),
        ({"crontab": "* * * * * */10"}, "Every 10 seconds"),
        ({"crontab": "61 25 * * *"}, "61 25 * * *"),
        ({"crontab": "*/15 * * * *"}, "Every 15 minutes"),
        ({"crontab": "*/90 * * * *"}, "Every hour"),
        ({"crontab": "*/45 * * * *"}, "At 0 and 45 minutes past the hour"),
        ({"crontab": "5/25 * * * *"}, "At 5, 30, and 55 minutes past the hour"),
        ({"crontab": "0 */5 * * *"}, "At 00:00, 05:00, 10:00, 15:00 and 20:00"),
        ({"crontab": "0 9-17/2 * * *"}, "At 09:00, 11:00, 13:00, 15:00 and 17:00"),
        ({"crontab": "0 0 */10 * *"}, "At 00:00, on day 1, 11, 21, and 31 of the month"),
        ({"crontab": "0 0 l * *"}, "At 00:00, on the last day of the month"),
        ({"crontab": "0 0 15w * *"}, "At 00:00, on the weekday nearest day 15 of the month"),
        ({"crontab": "0 0 l,15 * *"}, "0 0 l,15 * *"),
        ({"crontab": "0-59/25 * * * *"}, "At 0, 25, and 50 minutes past the hour"),
        ({"crontab": "*/7,* 0 * * *"}, "*/7,* 0 * * *"),
        ({"crontab": "0 0 * * mon#1,fri#3"}, "0 0 * * mon#1,fri#3"),
        ({"crontab": "0 9 * * 0-7"}, "At 09:00"),
        ({"crontab": "0 9 * * fri-mon/2"}, "At 09:00, only on Sunday and Friday"),
        ({"crontab": "0 9 13 * fri"}, "At 09:00, on day 13 of the month, or on Friday"),
        (
            {"crontab": "0 9 1 * mon-wed"},
            "At 09:00, on day 1 of the month, or on Monday, Tuesday, and Wednesday",
        ),
        ({"crontab": "0 0 */1 * 4"}, "At 00:00, between day 1 and 31 of the month, or on Thursday"),
        ({"crontab": "0 0 */1 * */3"}, "At 00:00, only on Sunday, Wednesday, and Saturday"),
        ({"crontab": "0 16-12/5 * * *"}, "At 03:00, 08:00, 16:00 and 21:00"),
        ({"crontab": "0 0 * dec/7,4,12,8 *"}, "At 00:00, only in April, August, and December"),
        ({"crontab": "0 0 * 10-jun/5 *"}, "At 00:00, only in April and October"),
        ({"crontab": "* 0,14 * * * 16"}, "* 0,14 * * * 16"),
        ({"crontab": "0 22-3 * * *"}, "At 00:00, 01:00, 02:00, 03:00, 22:00 and 23:00"),
        ({"kind": "ONCE"}, "Once"),
        (
            {"kind": "ONCE", "start": START, "timezone": "Europe/Paris"},
            "Once, on 2026-11-27 at 09:00, Europe/Paris time",
        ),
        ({"kind": "DAYS"}, "Every day"),
        ({"kind": "WEEKS", "every": 2}, "Every 2 weeks"),
        (
            {"kind": "DAYS", "every": 2, "start": START, "timezone": "Europe/Paris"},
            "Every 2 days at 09:00 from 2026-11-27, Europe/Paris time",
        ),
        ({"kind": "HOURS", "start": START}, "Every hour from 2026-11-27 08:00"),
        (
            {"kind": "YEARS", "start": START, "timezone": "Mars/Utopia"},
            "Every year at 08:00 from 2026-11-27, UTC",
        ),
    ],
)
def test_when_it_is_due(fields, said):
    assert in_words(RepeatingTask(func_name="x", **fields)) == said


def test_the_hosts_language_is_not_mixed_in(monkeypatch):
    monkeypatch.setattr("locale.getlocale", lambda *args: ("de_DE", "UTF-8"))
    assert in_words(RepeatingTask(crontab="0 8 * * 1-5")) == "At 08:00, Monday through Friday"


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("Europe/Paris", "2026-11-27 09:00:00 CET"),
        ("", "2026-11-27 08:00:00 UTC"),
        ("Mars/Utopia", "2026-11-27 08:00:00 UTC"),
    ],
)
def test_a_moment_is_shown_by_the_clock_of_the_schedule(zone, said):
    assert in_zone(RepeatingTask(timezone=zone), START) == said


def test_a_next_run_that_should_have_come_is_overdue():
    row = RepeatingTask(next_run=START)
    assert not is_overdue(row, START + timedelta(seconds=5))
    assert is_overdue(row, START + timedelta(seconds=15))
    row.enabled = False
    assert not is_overdue(row, START + timedelta(days=1))
