"""Fixtures of the tests in Debian's Chromium, driven by Playwright over a pipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compared_runs import session_runs

from satx.reports.session_report import Report, session_pictures, write_report


@pytest.fixture(scope="module")  # its event loop must not outlive the browser tests of a process
def chromium() -> Iterator[Any]:
    """Run a headless Chromium for the session; skip the test if it is not installed."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # no page reaches another machine
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to run as root with it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page of its own; it takes the options of Playwright's `new_context`.

    The page gets two lists: `errors` of what its console and its scripts complained of, `requests` of what it loaded.
    """
    contexts = []

    def open_page(**options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.errors, page.requests = [], []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")  # its event loop must not outlive the browser tests of a process
def compare_html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of a sweep of 40 configurations, as `satx compare` does, and return its path."""
    folder = tmp_path_factory.mktemp("page")
    session = session_runs(num_runs=40)
    notes = ["Baseline of session2: logistic regression on frozen xception features: validation AUC 0.930."]
    report = Report("compare-session2", [session], [session_pictures(session)], notes)
    write_report(report, folder)
    return Path(report.files["html"])
