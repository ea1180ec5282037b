"""When schedules are due: on the right side of clock changes, in every zone."""

from __future__ import annotations

import itertools
import os
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from cq.exceptions import InvalidSchedule
from cq.slots import Kind, Timing
from tests.unit.walk import MINUTE, ZONES, any_start, examples, walk

EXAMPLES = 5000 if os.environ.get("CQ_TEST_LONG") else 300
PARIS = ZoneInfo("Europe/Paris")
HORIZON = timedelta(hours=30)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(text, zone=PARIS, **more):
    zone = ZoneInfo(zone) if isinstance(zone, str) else zone
    return Timing(kind=Kind.CRONTAB, crontab=text, zone=zone, **more)


def slots(timing, after, until):
    found = itertools.takewhile(lambda slot: slot <= at(until), timing.following(at(after)))
    return [f"{slot:%m-%d %H:%M}" + (f":{slot:%S}" if slot.second else "") for slot in found]


@pytest.mark.timeout(600)
def test_random_crontabs_are_due_when_a_walk_over_every_minute_says_so(seed):
    for zone, crontab, start in examples(seed, EXAMPLES):
        if not crontab.ever_comes():
            with pytest.raises(InvalidSchedule, match="never comes"):
                cron(crontab.text, zone)
            continue
        timing = cron(crontab.text, zone)
        found = []
        for slot in timing.following(start):
            if slot > start + HORIZON:
                break
            found.append(slot)
        assert found == walk(crontab, zone, start, HORIZON), (zone, crontab.text, start)
        assert all(one < other for one, other in itertools.pairwise([start, *found]))


@pytest.mark.parametrize(
    "kind", ["SECONDS", "MINUTES", "HOURS", "DAYS", "WEEKS", "MONTHS", "YEARS"]
)
def test_slots_of_every_kind_increase_and_do_not_depend_on_where_one_begins_to_look(kind, seed):
    rnd = random.Random(seed)
    for _ in range(EXAMPLES // 25):
        name = rnd.choice(ZONES)
        start = any_start(rnd, name)
        timing = Timing(kind=Kind(kind), every=rnd.randint(1, 5), zone=ZoneInfo(name), start=start)
        all_of_them = list(itertools.islice(timing.following(start - MINUTE), 40))
        assert all_of_them[0] == start
        assert all(one < other for one, other in itertools.pairwise(all_of_them))
        number = rnd.randint(1, 39)
        between = all_of_them[number - 1] + (all_of_them[number] - all_of_them[number - 1]) * 0.9
        assert timing.after(all_of_them[number - 1]) == all_of_them[number]
        assert timing.after(between) == all_of_them[number]
        assert (
            timing.newest(5, all_of_them[2], all_of_them[number])
            == all_of_them[3 : number + 1][-5:]
        )


def test_a_daily_time_that_comes_twice_fires_the_first_time():
    assert slots(cron("30 2 * * *"), "2026-10-24", "2026-10-26 12:00") == [
        "10-24 00:30",
        "10-25 00:30",
        "10-26 01:30",
    ]


def test_a_daily_time_that_does_not_come_fires_when_the_clock_is_past_it():
    assert slots(cron("30 2 * * *"), "2026-03-28", "2026-03-30 12:00") == [
        "03-28 01:30",
        "03-29 01:00",
        "03-30 00:30",
    ]


def test_times_that_fall_on_one_instant_fire_once():
    assert slots(cron("*/20 2 * * *"), "2026-03-29", "2026-03-29 12:00") == ["03-29 01:00"]


def test_every_hour_is_every_hour_of_a_day_of_25():
    found = slots(cron("0 * * * *"), "2026-10-24 21:59", "2026-10-25 22:59")
    assert (len(found), len(set(found))) == (25, 25)


def test_a_date_that_the_zone_skipped_has_none():
    daily = cron("0 12 * * *", "Pacific/Apia")
    assert slots(daily, "2011-12-29", "2012-01-01") == ["12-29 22:00", "12-30 22:00", "12-31 22:00"]
    first_of_them = daily.after(at("2011-12-30"))
    assert f"{first_of_them.astimezone(daily.zone):%d}" == "31"


def test_midnight_where_there_is_none_is_when_the_day_begins():
    assert slots(cron("0 0 * * *", "Asia/Beirut"), "2026-03-28", "2026-03-30") == [
        "03-28 22:00",
        "03-29 21:00",
    ]
    found = slots(cron("0 0 * * *", "America/Sao_Paulo"), "2018-11-03 04:00", "2018-11-05")
    assert found == ["11-04 03:00"]


def test_half_an_hour_of_lord_howe():
    assert slots(cron("45 1 * * *", "Australia/Lord_Howe"), "2026-04-04", "2026-04-05") == [
        "04-04 14:45"
    ]
    assert slots(
        cron("45 * * * *", "Australia/Lord_Howe"), "2026-04-04 14:00", "2026-04-04 16:00"
    ) == [
        "04-04 14:45",
        "04-04 15:15",
    ]


def test_seconds_come_last():
    assert slots(cron("0 0 * * * */20"), "2026-05-31 21:59", "2026-05-31 22:01") == [
        "05-31 22:00",
        "05-31 22:00:20",
        "05-31 22:00:40",
    ]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@daily", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("0 8 * JAN-mar MON-fri", "0 8 * 1-3 1-5"),
        ("0 8 * * 7", "0 8 * * 0"),
        ("  0  8 * *   * ", "0 8 * * *"),
    ],
)
def test_words_and_names(text, same):
    start = at("2026-01-01")
    for one, other in zip(
        itertools.islice(cron(text).following(start), 50), cron(same).following(start), strict=False
    ):
        assert one == other


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("61 25 * * *", "61"),
        ("0 0 31 2 *", "never comes"),
        ("* * * *", "5|minute, hour"),
        ("* * * * * * 2030", "minute, hour"),
        ("@reboot", "minute, hour"),
        ("", "minute, hour"),
        ("R * * * *", "other times in each process"),
        ("h(0-5) * * * *", "other times in each process"),
        ("a b c d e", "no crontab"),
        ("0 9 8 * fri#2", "Make two schedules"),
        ("0 9 L * fri", "Make two schedules"),
        ("0 9 15w * mon", "Make two schedules"),
        ("0 9 28 * L5", "Make two schedules"),
    ],
)
def test_what_is_no_crontab_is_said(text, said):
    with pytest.raises(InvalidSchedule, match=said) as caught:
        cron(text)
    assert caught.value.field == "crontab"


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 9 L * *", "01-31 02-28"),
        ("0 9 15W * ?", "01-15 02-16"),
        ("0 9 * * fri#2", "01-09 02-13"),
        ("0 9 ? * L5", "01-30 02-27"),
        ("0 9 * * wed", "01-07 01-14"),
        ("0 9 */1 * fri#2", "01-09 02-13"),
    ],
)
def test_days_that_are_found_in_the_month(text, days):
    found = itertools.islice(cron(text).following(at("2026-01-03")), 2)
    assert " ".join(f"{slot:%m-%d}" for slot in found) == days


def test_up_to_hours_it_is_elapsed_time_and_from_days_on_wall_time():
    start = at("2026-03-28 01:30")  # 02:30 in Paris
    hourly = Timing(kind=Kind.HOURS, every=24, zone=PARIS, start=start)
    daily = Timing(kind=Kind.DAYS, zone=PARIS, start=start)
    assert slots(hourly, "2026-03-28", "2026-03-31") == [
        "03-28 01:30",
        "03-29 01:30",
        "03-30 01:30",
    ]
    assert slots(daily, "2026-03-28", "2026-03-31") == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_a_day_that_a_month_lacks_is_its_last_and_it_comes_back_to_its_own():
    monthly = Timing(kind=Kind.MONTHS, zone=PARIS, start=at("2027-01-31 12:00"))
    found = [f"{s:%m-%d}" for s in itertools.islice(monthly.following(at("2027-01-01")), 5)]
    assert found == ["01-31", "02-28", "03-31", "04-30", "05-31"]
    yearly = Timing(kind=Kind.YEARS, zone=PARIS, start=at("2028-02-29 12:00"))
    found = [f"{s:%y-%m-%d}" for s in itertools.islice(yearly.following(at("2028-01-01")), 5)]
    assert found == ["28-02-29", "29-02-28", "30-02-28", "31-02-28", "32-02-29"]
    quarterly = Timing(kind=Kind.QUARTERS, zone=PARIS, start=at("2027-01-31 12:00"))
    found = [f"{s:%m-%d}" for s in itertools.islice(quarterly.following(at("2027-01-01")), 4)]
    assert found == ["01-31", "04-30", "07-31", "10-31"]


def test_a_start_in_the_second_of_two_hours_is_a_slot_itself():
    start = at("2026-10-25 01:30")  # 02:30 for the second time
    daily = Timing(kind=Kind.DAYS, zone=PARIS, start=start)
    assert slots(daily, "2026-10-25", "2026-10-27") == ["10-25 01:30", "10-26 01:30"]


def test_nothing_is_due_before_the_start_or_after_the_end():
    bounded = cron("0 * * * *", start=at("2026-05-01 10:00"), end=at("2026-05-01 12:00"))
    assert slots(bounded, "2026-04-01", "2026-06-01") == [
        "05-01 10:00",
        "05-01 11:00",
        "05-01 12:00",
    ]


def test_the_newest_are_found_however_long_ago_the_oldest_is():
    minutely = cron("* * * * *")
    until = at("2026-05-01 10:00")
    assert minutely.newest(3, at("1996-05-01"), until) == [
        until - 2 * MINUTE,
        until - MINUTE,
        until,
    ]
    assert minutely.newest(3, until - MINUTE, until) == [until]
    assert minutely.newest(3, until, until) == []
    yearly = cron("0 0 29 2 *")
    assert [slot.year for slot in yearly.newest(2, at("1996-05-01"), until)] == [2020, 2024]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"every": 0}, "every"),
        ({"start": None}, "start"),
        ({"end": at("2020-01-01")}, "end"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_field(wrong, field):
    fields = {"kind": Kind.DAYS, "zone": PARIS, "start": at("2026-01-01"), **wrong}
    with pytest.raises(InvalidSchedule) as caught:
        Timing(**fields)
    assert caught.value.field == field


def test_there_is_an_end_to_time():
    far = Timing(kind=Kind.YEARS, every=5000, zone=PARIS, start=at("2026-01-01"))
    assert list(far.following(at("2026-01-01"))) == [at("7026-01-01")]
    never = Timing(kind=Kind.DAYS, every=2**31 - 1, zone=PARIS, start=at("2026-01-01"))
    assert never.after(at("2026-01-01")) is None
