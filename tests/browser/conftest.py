"""A headless Chromium: the system's own, driven by playwright."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    # Playwright runs a loop in this thread, which Django takes for an async context; after it, no
    # other can be run here: it is stopped with the module.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
    else:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@pytest.fixture
def page(browser, live_server, admin_client):
    """A page whose user may do everything. An error in its scripts fails the test."""
    context = browser.new_context(
        base_url=live_server.url, viewport={"width": 1200, "height": 1500}
    )
    cookie = admin_client.cookies["sessionid"]
    context.add_cookies([{"name": "sessionid", "value": cookie.value, "url": live_server.url}])
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []


@pytest.fixture
def picture(tmp_path_factory):
    """Takes a picture of the page, into CQ_TEST_PICTURES where that names a folder."""
    folder = Path(os.environ.get("CQ_TEST_PICTURES") or tmp_path_factory.mktemp("pictures"))

    def take(page, name):
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take
