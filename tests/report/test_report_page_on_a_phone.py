"""The report and the contact sheet in a real browser, 360 pixels wide: nothing scrolls sideways, nothing is cut."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.core.files import write_text
from chiasm.report.contact_sheet import Thumbnail, contact_page

CHROMIUM = os.environ.get("CHIASM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (set CHIASM_CHROMIUM)")


@pytest.fixture(scope="module")
def phone() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True).new_page()
        yield page
        browser.close()


def assert_fits(page: Any, path: Path) -> None:
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = page.evaluate("""() => [...document.querySelectorAll('main *, header *')]
        .filter(one => !one.closest('pre, .hidden, thead') && one.getBoundingClientRect().right > 361)
        .map(one => one.outerHTML.slice(0, 80))""")
    assert not wide, wide


def test_the_report(phone: Any, tiny_run: Path) -> None:
    """Guards against a table wider than the phone, and a verdict that is not on the first screen."""
    assert_fits(phone, tiny_run / "report.html")
    verdict = phone.locator(".panel").bounding_box()
    assert 0 < verdict["y"] < 740 and verdict["width"] > 300
    phone.locator("nav a").last.click()
    assert phone.locator("section").last.bounding_box()["y"] < 740


def test_the_contact_sheet(phone: Any, tmp_path: Path) -> None:
    """Guards against scores that are broken letter by letter beside a thumbnail of a finger's width."""
    pixels = np.full((120, 200, 3), 90, dtype=np.uint8)
    sheet = [Thumbnail(pixels, "+0.123", f"a_folder/{'long' * 20}{number}.jpg", number < 3) for number in range(7)]
    path = tmp_path / "found.html"
    write_text(path, contact_page("a query " * 12, "Weak match: nothing fits", sheet, "7 pictures."))
    assert_fits(phone, path)
    for card in phone.locator(".contact .card").all():
        assert card.bounding_box()["width"] >= 150
        assert card.locator("img").bounding_box()["width"] >= 140
        assert card.locator("strong").bounding_box()["height"] < 30
