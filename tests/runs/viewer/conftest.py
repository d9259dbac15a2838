"""Chromium without a window; the tests that need it are skipped where it is missing."""

import os
import shutil
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A browser for the whole session."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'hero_pl[browser]'")
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    with api.sync_playwright() as made:
        path = path or made.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("needs Chromium: install it, or run: playwright install chromium")
        opened = made.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser) -> Iterator:
    """A page that may neither complain nor ask for anything but itself."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.is_navigation_request() or requests.append(request.url))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert complaints == []
    assert requests == []
