"""A real browser for the tests of this folder: `make browser-test`; `make test` leaves the folder alone.

The browser is the system's Chromium, driven by Playwright; nothing is downloaded. It reaches this machine only: a page
that asks for anything outside is refused, and `troubles` remembers it, beside what the page reports as errors.

    def test_a_page(page, troubles):
        page.goto(address)
        …
        assert not troubles.all()

`COURSE_CHROMIUM` names another Chromium.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Its own networking (updates, certificates, safe browsing) is off; --no-sandbox because containers run as root.
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
#: A page's own parts: files, what is built into the page, and servers on this machine.
INSIDE = re.compile(r"(file|data|blob|about|chrome):|(https?|wss?)://(localhost|127\.0\.0\.1|\[::1\])[:/]")
REACTION_MS = 200
REACTION_TIMES = pytest.StashKey[list]()
VIEWPORT = {"width": 1280, "height": 900}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reaction-times",
        action="store_true",
        help="demand that each widget answers a move within 200 ms (median); for an idle machine",
    )


def chromium_path() -> str | None:
    """The browser to drive: $COURSE_CHROMIUM, else the first of `BROWSERS` on the PATH."""
    return shutil.which(os.environ.get("COURSE_CHROMIUM") or "") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )


def missing() -> list[str]:
    """What must be installed first, each with how."""
    named = os.environ.get("COURSE_CHROMIUM")
    found = []
    if importlib.util.find_spec("playwright") is None:
        found.append("the Python package playwright (make setup)")
    if named and shutil.which(named) is None:
        found.append(f"COURSE_CHROMIUM names {named}, which does not run")
    elif chromium_path() is None:
        found.append("Chromium (apt install chromium, or COURSE_CHROMIUM=/path/to/it)")
    return found


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REACTION_TIMES] = []
    if absent := missing():
        raise pytest.UsageError(f"the browser tests need: {'; '.join(absent)}")


@dataclass
class Troubles:
    """What a page complained about: errors in its console, uncaught exceptions, addresses outside this machine."""

    console: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.console, *self.exceptions, *self.outside]


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """The browser (Playwright's `Browser`)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(SWITCHES))
        yield browser
        browser.close()


@contextmanager
def watched_page(browser) -> Iterator:
    """A fresh page with a memory of its own, 1280 × 900, that reaches only this machine → (page, its troubles)."""
    troubles = Troubles()
    context = browser.new_context(viewport=VIEWPORT, locale="en-GB")
    context.route(lambda address: not INSIDE.match(address), lambda route: _refuse(route, troubles))
    page = context.new_page()
    page.on("console", lambda message: _listen(message, troubles))
    page.on("pageerror", lambda error: troubles.exceptions.append(str(error)))
    try:
        yield page, troubles
    finally:
        context.close()


@pytest.fixture
def _watched(chromium) -> Iterator:
    with watched_page(chromium) as watched:
        yield watched


@pytest.fixture
def page(_watched):
    """A fresh page (Playwright's `Page`)."""
    return _watched[0]


@pytest.fixture
def troubles(_watched) -> Troubles:
    """What `page` has complained about so far."""
    return _watched[1]


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator:
    """A running JupyterLab (`laboratory.Laboratory`) with a copy of the lectures."""
    from laboratory import laboratory

    with laboratory(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def reaction_times(request) -> list[tuple[str, int, str, float]]:
    """Lecture, number of the widget, control and its median milliseconds: the table that is printed at the end."""
    return request.config.stash[REACTION_TIMES]


@pytest.fixture(scope="session")
def reaction_limit(request) -> float:
    """Milliseconds that a move may take (median); without --reaction-times there is no limit."""
    return REACTION_MS if request.config.getoption("--reaction-times") else math.inf


def pytest_terminal_summary(terminalreporter) -> None:
    if rows := terminalreporter.config.stash[REACTION_TIMES]:
        terminalreporter.section("reaction times: from the key to the new picture, median")
        for lecture, number, control, milliseconds in rows:
            terminalreporter.write_line(
                f"{lecture:<34} widget {number}  {control:<14} {milliseconds:6.0f} ms"
            )


def _refuse(route, troubles: Troubles) -> None:
    troubles.outside.append(route.request.url)
    route.abort()


def _listen(message, troubles: Troubles) -> None:
    if message.type == "error":
        troubles.console.append(f"{message.text} ({message.location.get('url', '')})")
