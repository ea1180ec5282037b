"""The form of a repeating task, as somebody fills it in."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from cq import database, firing, task
from cq.models import RepeatingTask, Task
from cq.states import Status

pytestmark = pytest.mark.django_db(transaction=True)

expect = pytest.importorskip("playwright.sync_api").expect
ADD = "/admin/cq/repeatingtask/add/"
LIST = "/admin/cq/repeatingtask/"


@task("browser.mail")
def mail(cqt, to="", password=""): ...


def make(**fields):
    return RepeatingTask.objects.create(
        **{"func_name": mail.name, "name": "mail", "crontab": "0 8 * * *", **fields}
    )


def test_it_says_what_it_comes_to_while_it_is_filled_in(page, picture):
    page.goto(ADD)
    panel = page.locator("#cq-preview")
    expect(panel).to_contain_text("Every minute")
    expect(page.locator(".field-every")).to_be_hidden()
    picture(page, "empty")
    page.select_option("#id_func_name", mail.name)
    page.fill("#id_crontab", "0 8 * * mon-fri")
    page.fill("#id_timezone", "Asia/Kathmandu")
    expect(panel).to_contain_text("At 08:00, Monday through Friday, Asia/Kathmandu time")
    rows = panel.locator("tr", has=page.locator("td"))
    expect(rows).to_have_count(5)
    for row in rows.all():
        expect(row.locator("td").nth(0)).to_have_text(re.compile(r"08:00:00 \+0545"))
        expect(row.locator("td").nth(1)).to_have_text(re.compile(r"02:15:00 UTC"))
    picture(page, "filled")
    page.click("input[name=_save]")
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    assert RepeatingTask.objects.get().crontab == "0 8 * * mon-fri"


def test_fields_come_and_go_with_the_type(page):
    page.goto(ADD)
    page.select_option("#id_kind", "DAYS")
    expect(page.locator(".field-every")).to_be_visible()
    expect(page.locator(".field-crontab")).to_be_hidden()
    page.fill("#id_every", "2")
    expect(page.locator("#cq-preview")).to_contain_text("Every 2 days")
    page.select_option("#id_kind", "ONCE")
    expect(page.locator(".field-every")).to_be_hidden()
    expect(page.locator(".field-start .cq-live")).to_contain_text("Say when")
    page.select_option("#id_catch_up", "ALL")
    expect(page.locator(".field-catch_up_limit")).to_be_visible()
    page.uncheck("#id_coalesce")
    expect(page.locator(".field-coalesce_by")).to_be_hidden()


def test_an_error_stands_at_its_field_before_it_is_saved_and_after(page, picture):
    page.goto(ADD)
    page.select_option("#id_func_name", mail.name)
    page.fill("#id_crontab", "61 25 * * *")
    page.fill("#id_args", "[1, 2, 3]")
    page.fill("#id_timezone", "Europe/Pariss")
    expect(page.locator(".field-timezone .cq-live")).to_contain_text("Did you mean Europe/Paris?")
    expect(page.locator(".field-args .cq-live")).to_contain_text("too many positional arguments")
    page.fill("#id_timezone", "Europe/Paris")
    expect(page.locator(".field-timezone .cq-live")).to_have_count(0)
    expect(page.locator(".field-crontab .cq-live")).to_contain_text("out of range")
    picture(page, "errors")
    page.click("input[name=_save]")
    expect(page.locator(".field-crontab .errorlist")).to_contain_text("out of range")
    expect(page.locator(".field-args .errorlist")).to_contain_text("too many positional arguments")
    assert not RepeatingTask.objects.exists()


def test_another_name_leaves_the_next_run_that_a_worker_moved_meanwhile(page):
    row = make()
    page.goto(f"{LIST}{row.pk}/change/")
    moved = row.next_run + timedelta(days=1)
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=moved)
    page.fill("#id_name", "renamed")
    page.click("input[name=_save]")
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    row.refresh_from_db()
    assert (row.name, row.next_run) == ("renamed", moved)


def test_run_now_and_the_last_run_leads_to_how_it_ended(page, picture):
    row = make(kwargs={"to": "me", "password": "hush"})
    broken = make(name="of a function that is gone")
    RepeatingTask.objects.filter(pk=broken.pk).update(func_name="gone.away")
    page.goto(f"{LIST}{broken.pk}/change/")
    expect(page.locator(".errornote")).to_contain_text("This schedule is broken")
    expect(page.locator("#cq-preview")).to_contain_text("None of these will run")
    picture(page, "broken")
    page.goto(f"{LIST}{row.pk}/change/")
    page.uncheck("#id_enabled")
    expect(page.locator("#cq-preview")).to_contain_text("It is not enabled")
    picture(page, "off")
    page.click("text=Run now")
    expect(page.locator(".messagelist")).to_contain_text("A task was made")
    assert "hush" not in page.content()
    picture(page, "change")
    Task.objects.update(status=Status.FAILURE, error="ValueError: no")
    page.goto(LIST)
    picture(page, "list")
    page.click("td.field-shown_last a")
    expect(page).to_have_url(re.compile("/admin/cq/failedtask/"))
    expect(page.locator("#content")).to_contain_text("ValueError: no")
    page.get_by_role("link", name="mail", exact=True).click()
    expect(page).to_have_url(re.compile(f"/repeatingtask/{row.pk}/"))


def test_a_field_with_an_error_is_never_hidden(page):
    page.goto(ADD)
    page.select_option("#id_func_name", mail.name)
    page.locator("#id_crontab").evaluate("input => input.removeAttribute('maxlength')")
    page.fill("#id_crontab", "*" * 201)
    page.select_option("#id_kind", "DAYS")
    expect(page.locator(".field-crontab .cq-live")).to_be_visible()
    page.click("input[name=_save]")
    expect(page.locator(".field-crontab .errorlist")).to_be_visible()
    page.fill("#id_crontab", "* * * * *")
    expect(page.locator(".field-crontab .errorlist")).to_have_count(0)
    expect(page.locator(".field-crontab")).to_be_hidden()


def test_a_number_is_asked_for_where_the_type_has_one(page, picture):
    row = make()
    page.goto(f"{LIST}{row.pk}/change/")
    page.select_option("#id_kind", "DAYS")
    page.fill("#id_every", "0")
    expect(page.locator(".field-every .cq-live")).to_contain_text("above 0")
    expect(page.locator("#cq-preview")).to_have_text("Nothing, until it is mended: N.")
    picture(page, "nothing")
    page.click("input[name=_save]")
    expect(page.locator(".field-every .errorlist")).to_contain_text("above 0")
    page.select_option("#id_kind", "CRONTAB")  # there it says nothing, and is no error
    expect(page.locator("#cq-preview")).to_contain_text("At 08:00")
    page.click("input[name=_save]")
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")


def test_an_error_stands_once(page):
    row = make()
    for url in (ADD, f"{LIST}{row.pk}/change/"):
        page.goto(url)
        page.fill("#id_crontab", "61 25 * * *")
        expect(page.locator(".field-crontab .cq-live")).to_contain_text("out of range")
        expect(page.get_by_text("out of range")).to_have_count(1)
        page.click("input[name=_save]")
        expect(page.locator(".field-crontab .errorlist")).to_contain_text("out of range")
        expect(page.get_by_text("out of range")).to_have_count(1)


def test_the_list_fits_a_screen(page, picture):
    make(name="", timezone="Asia/Kathmandu", kwargs={"to": "somebody@example.org", "password": "x"})
    make(name="late", every=2, kind="WEEKS", args=[1, 2, 3], timezone="America/Argentina/Ushuaia")
    for row in RepeatingTask.objects.all()[:1]:
        row.run_now()
    RepeatingTask.objects.update(
        next_run=database.read_clock() - timedelta(hours=1), run_count=1234, skip_count=56
    )
    page.set_viewport_size({"width": 1300, "height": 700})
    for name, url in (("list-1300", LIST), ("tasks-1300", "/admin/cq/task/")):
        page.goto(url)
        picture(page, name)
        box = page.locator("#changelist .results")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth"), url


def test_it_can_be_read_in_the_dark_and_on_a_telephone(page, picture):
    row = make(declared={"crontab": "0 9 * * *"})
    RepeatingTask.objects.filter(pk=row.pk).update(next_run=database.read_clock())
    firing.step()
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto(f"{LIST}{row.pk}/change/")
    expect(page.locator("#cq-preview")).to_contain_text("At 08:00")
    picture(page, "dark")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 400
