"""Schedules in words."""

from __future__ import annotations

import pytest

from cq.models import RepeatingTask
from cq.words import in_words


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"crontab": "0 8 * * mon-fri"}, "At 08:00, Monday through Friday"),
        ({"crontab": "0 8 * * *", "timezone": "Asia/Tokyo"}, "At 08:00, Asia/Tokyo time"),
        ({"crontab": "@daily"}, "At 00:00"),
        ({"crontab": "0 0 * * * 30"}, "At 00:00:30"),
        ({"crontab": "* * * * * */10"}, "Every 10 seconds"),
        ({"crontab": "61 25 * * *"}, "61 25 * * *"),
        ({"kind": "ONCE"}, "Once"),
        ({"kind": "DAYS"}, "Every day"),
        ({"kind": "WEEKS", "every": 2}, "Every 2 weeks"),
    ],
)
def test_when_it_is_due(fields, said):
    assert in_words(RepeatingTask(func_name="x", **fields)) == said


def test_the_hosts_language_is_not_mixed_in(monkeypatch):
    monkeypatch.setattr("locale.getlocale", lambda *args: ("de_DE", "UTF-8"))
    assert in_words(RepeatingTask(crontab="0 8 * * 1-5")) == "At 08:00, Monday through Friday"
