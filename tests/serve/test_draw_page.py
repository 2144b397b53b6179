"""The draw tab in a real browser: images that grow, files to save, words for what is wrong; in Chinese, on a phone."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Visit, browser, needs_browser
from doors import Door, running
from drawing_doors import CAPTION, CHINESE, SETTINGS, Slowed, drawing
from PIL import Image

from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.train.config import RunConfig
from drawing_pipeline import scene_examples

__all__ = ["browser", "drawing"]
pytestmark = needs_browser
SCREENSHOTS = os.environ.get("CHIASM_SCREENSHOTS", "")
"""Folder that pictures of the page are written to; none where it is empty."""
SCRIPT = "<img src=x onerror='window.harmed = 1'>"


@pytest.fixture
def service(drawing: Model) -> Service:
    return Service(drawing, "painter", SETTINGS)


@pytest.fixture
def door(service: Service) -> Iterator[Door]:
    with running(service) as open_door:
        yield open_door


def shoot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


def ready(page: Any, count: int) -> None:
    page.locator("#drawings a[download]").nth(count - 1).wait_for()
    page.wait_for_selector("#draw:not([hidden])")


def saved(page: Any, place: int, tmp_path: Path) -> tuple[str, Image.Image]:
    """What the link of an image saves: its name and the file."""
    with page.expect_download() as waiting:
        page.locator("#drawings a[download]").nth(place).click()
    path = tmp_path / f"{place}.png"
    waiting.value.save_as(path)
    return waiting.value.suggested_filename, Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize(("width", "locale", "prompt"), [(1280, "en-US", CAPTION), (360, "zh-CN", CHINESE)])
def test_images_by_keyboard(
    browser: Any, door: Door, drawing: Model, tmp_path: Path, width: int, locale: str, prompt: str
) -> None:
    """Guards against images that are not the engine's, a page that needs a mouse, and one wider than a phone."""
    visit = Visit(browser, door.address, width, locale=locale)
    page = visit.page
    assert page.get_attribute("#tab-draw", "aria-selected") == "true" and page.is_hidden("#drop")
    assert page.is_hidden("#draw-best"), "no run ranks here"
    for field, text in (("#prompt", prompt), ("#draw-number", "3"), ("#draw-seed", "11"), ("#draw-guidance", "1.5")):
        page.focus(field)
        page.keyboard.press("Control+A")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    ready(page, 3)
    expected = drawing.draw(prompt, 3, seed=11, guidance=1.5)
    for place, image in enumerate(expected):
        name, file = saved(page, place, tmp_path)
        assert np.array_equal(np.asarray(file), image) and file.info["prompt"] == prompt
        assert name == f"{re.sub(r'[^0-9a-zA-Z一-鿿]+', '-', prompt)}-{11 + place}.png"
        card = page.locator("#drawings li").nth(place)
        assert str(11 + place) in card.locator("p").text_content()
        assert prompt in card.locator("img").get_attribute("alt") and card.get_attribute("aria-busy") == "false"
        assert card.locator("img").evaluate("one => [one.naturalWidth, one.naturalHeight]") == [48, 48]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shoot(page, f"draw-{width}")
    page.locator("#drawings li").nth(2).locator("button").first.click()
    assert page.input_value("#draw-seed") == "13" and page.input_value("#draw-number") == "1"
    page.click("#language")
    page.locator("#tab-draw", has_text="Draw" if locale == "zh-CN" else "画图").wait_for()
    small = page.evaluate(
        "[...document.querySelectorAll('button, a')].filter(b => b.offsetHeight && b.offsetHeight < 36)"
    )
    assert not small and not visit.complaints
    assert all(one.startswith((door.address, "blob:", "data:")) for one in visit.requested), visit.requested


@pytest.mark.parametrize(("width", "locale"), [(1280, "en-US"), (360, "zh-CN")])
def test_an_image_is_varied(browser: Any, door: Door, drawing: Model, tmp_path: Path, width: int, locale: str) -> None:
    """Guards against a variation of another image, and one that stays on for words that have nothing to do with it."""
    visit = Visit(browser, door.address, width, locale=locale)
    page = visit.page
    page.fill("#prompt", CAPTION)
    page.fill("#draw-number", "2")
    page.fill("#draw-seed", "5")
    page.click("#draw")
    ready(page, 2)
    assert page.is_hidden("#draw-start")
    page.locator("#drawings li").nth(1).locator("button").nth(1).click()
    assert page.is_visible("#draw-start") and page.input_value("#draw-seed") == ""
    page.fill("#draw-seed", "20")
    page.click("#draw")
    ready(page, 4)
    first = Image.fromarray(np.asarray(saved(page, 3, tmp_path)[1]))
    for place, image in enumerate(drawing.draw(CAPTION, 2, seed=20, start=first)):
        assert np.array_equal(np.asarray(saved(page, place, tmp_path)[1]), image)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shoot(page, f"vary-{width}")
    page.click("#draw-start-drop")
    assert page.is_hidden("#draw-start")
    page.click("#draw")
    ready(page, 6)
    assert np.array_equal(np.asarray(saved(page, 0, tmp_path)[1]), drawing.draw(CAPTION, seed=20)[0])
    assert not visit.complaints


def test_images_grow_and_are_stopped(browser: Any, door: Door, service: Service) -> None:
    """Guards against images that appear only whole, and a server that draws on for nobody."""
    slowed = Slowed(service, 0.0)
    slowed.held_from = 6
    page = Visit(browser, door.address, locale="en-US", color_scheme="dark").page
    page.fill("#prompt", CAPTION)
    page.click("#draw")
    page.locator("#drawings li", has_text="2 of 3 rows").nth(3).wait_for()
    assert page.is_hidden("#draw") and page.locator("#drawings img[src]").count() == 4
    rows = page.locator("#drawings img").first.evaluate("""image => {
        const canvas = document.createElement('canvas'), brush = canvas.getContext('2d');
        canvas.width = canvas.height = 48;
        brush.drawImage(image, 0, 0);
        return [8, 24, 40].map(row => brush.getImageData(24, row, 1, 1).data[3]);
    }""")
    assert rows[0] == rows[1] == 255 and rows[2] == 0, "what is not drawn yet is left open"
    shoot(page, "draw-growing")
    page.click("#draw-stop")
    page.wait_for_selector("#draw:not([hidden])")
    assert page.locator("#drawings li").count() == 0 and page.is_hidden("#problem-draw")
    page.wait_for_timeout(200)  # until the server has heard of it
    slowed.goes_on.set()
    page.wait_for_timeout(200)
    assert service.batcher.admitted == 0 and service.drawings.rows == 0  # type: ignore[union-attr]
    assert len(slowed.steps) == 7, "the step that was being computed, and no other"
    page.click("#draw")
    ready(page, 4)


def test_what_is_wrong_is_said_in_words(browser: Any, door: Door, service: Service) -> None:
    """Guards against codes for words, a bubble of the browser in another language, and images that are left behind."""
    visit = Visit(browser, door.address, locale="zh-CN")
    page, problem = visit.page, visit.page.locator("#problem-draw")
    page.click("#draw")
    problem.filter(has_text="请先输入文字").wait_for()
    page.fill("#prompt", "xylophone qwertz")
    page.click("#draw")
    problem.filter(has_text="一个词都不认识").wait_for()
    page.click("#language")
    assert problem.is_hidden()
    page.fill("#prompt", CAPTION)
    for field, value, said in (
        ("#draw-number", "7", "Images: a number from 1 to 6."),
        ("#draw-number", "1.5", "Images: a number from 1 to 6."),
        ("#draw-seed", "-1", "Seed: a number from 0"),
        ("#draw-guidance", "101", "Guidance: a number from 0 to 100."),
    ):
        page.fill(field, value)
        page.click("#draw")
        problem.filter(has_text=said).wait_for()
        assert page.evaluate("'#' + document.activeElement.id") == field
        page.fill(field, "")
    page.fill("#prompt", f"{CAPTION} {SCRIPT}")
    page.click("#draw")
    ready(page, 1)
    assert problem.is_hidden() and "words not in training: img, src" in page.text_content("#draw-remarks")
    assert "tokens are unknown to the model." in page.text_content("#draw-remarks")
    page.click("#language")
    page.fill("#prompt", f"{CAPTION} xylophone, " * 20)
    page.click("#draw")
    ready(page, 2)
    remarks = page.text_content("#draw-remarks")
    assert "文字太长" in remarks and "模型不认识" in remarks and not re.search("token|model", remarks)
    page.click("#language")
    shoot(page, "draw-remarks")
    slowed = Slowed(service, 0.0)
    slowed.fails = True
    page.fill("#prompt", CAPTION)
    page.click("#draw")
    problem.filter(has_text="internal error").wait_for()
    assert page.locator("#drawings li").count() == 2 and page.text_content("#draw-remarks") == ""
    assert page.evaluate("window.harmed") is None


@pytest.mark.parametrize(("width", "locale", "prompt"), [(1280, "en-US", CAPTION), (360, "zh-CN", CHINESE)])
def test_the_best_of_many(
    browser: Any, drawing: Model, config: RunConfig, tmp_path: Path, width: int, locale: str, prompt: str
) -> None:
    """Guards against candidates that are shown, a choice other than the engine's, and a seed that is ranked again."""
    ranker = Model(Pipeline.build(config, scene_examples(), torch.device("cpu")))
    with running(Service(drawing, "painter", SETTINGS, ranker=ranker)) as door:
        visit = Visit(browser, door.address, width, locale=locale)
        page = visit.page
        for field, text in (("#prompt", prompt), ("#draw-number", "2"), ("#draw-best-of", "1"), ("#draw-seed", "4")):
            page.fill(field, text)
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem-draw:not([hidden])")
        assert "2" in page.inner_text("#problem-draw") and "6" in page.inner_text("#problem-draw")
        page.fill("#draw-best-of", "5")
        page.keyboard.press("Enter")
        ready(page, 2)
        shoot(page, f"draw-best-{width}")
        assert page.locator("#drawings li").count() == 2
        for place, image in enumerate(drawing.draw(prompt, 2, seed=4, best_of=5, rank_by=ranker)):
            _, file = saved(page, place, tmp_path)
            assert np.array_equal(np.asarray(file), image)
        page.locator("#drawings li button").first.click()
        assert page.input_value("#draw-best-of") == "" and page.input_value("#draw-number") == "1"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
