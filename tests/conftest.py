"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import browser
import pytest


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Browser]:
    """One browser for all tests of pages."""
    program = browser.find()
    if program is None:
        pytest.skip(f"needs one of {', '.join(browser.NAMES)}")
    with browser.opened(program) as running:
        yield running


@pytest.fixture
def page(chromium: browser.Browser) -> browser.Page:
    """A tab of its own."""
    return chromium.new_page()
