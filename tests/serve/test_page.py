"""The page in a real browser: it answers, searches and names; works by keyboard, in Chinese, on a phone; runs alone."""

import io
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Visit, browser, needs_browser
from doors import Door, running
from PIL import Image
from PIL import Image as PillowImage

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from chiasm.serve.index import Index
from chiasm.serve.index.strength import Strength

__all__ = ["browser"]
pytestmark = needs_browser
SIZE = "(({naturalWidth: w, naturalHeight: h}) => [w, h])(document.getElementById('picture'))"
SCRIPT = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"


@pytest.fixture
def picture(files: list[bytes], tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    path.write_bytes(files[1])
    return path


def expected_map(model: Model, picture: bytes) -> Any:
    return model.ask(picture, "how many circles are there?", heat_map=True).evidence["heat_map"]


def test_everything_by_keyboard(browser: Any, door: Door, index: Index, files: list[bytes], picture: Path) -> None:
    """Guards against a page that needs a mouse, asks other hosts, or shows other answers than the engine gives."""
    visit, model = Visit(browser, door.address, locale="en-US"), door.service.model
    page = visit.page
    page.set_input_files("#file", picture)
    page.focus("#question")
    page.keyboard.type("how many circles are there?")
    page.keyboard.press("Enter")
    expected = model.ask(files[1], "how many circles are there?")
    assert page.text_content("#answers h3").split(" (")[0] == expected.answer
    assert f"{100 * expected.confidence:.1f}%" in page.text_content("#answers .bar")
    page.wait_for_selector("#heat:not([hidden])")
    shades = page.evaluate("""() => {
        const heat = document.getElementById('heat'), {width, height} = heat;
        const data = heat.getContext('2d').getImageData(0, 0, width, height).data, seen = [];
        for (let n = 0; n < data.length; n += 4) if (data[n + 3] > 40) seen.push([data[n], data[n + 1], data[n + 2]]);
        return {dark: seen.filter(([r, g, b]) => r + g + b < 240).length, tinted: seen.length,
                alphas: [...new Set(data.filter((_, n) => n % 4 === 3))]};
    }""")
    assert shades["dark"] == 0 and shades["tinted"] > 0, "the picture is tinted, not blackened"
    assert page.locator("#picture").bounding_box()["width"] >= 250, "48 pixels are shown large enough to see"
    assert len(shades["alphas"]) > 10 and 150 < max(shades["alphas"]) <= 190
    assert page.is_visible("#legend") and page.text_content("#legend [data-word=heatMost]") == "most"
    assert page.is_visible("#legend-frame") == (expected_map(model, files[1])["covers"] == "middle")
    page.focus("#tab-ask")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.wait_for_selector("#panel-caption:not([hidden])")
    page.focus('#panel-caption [type="submit"]')
    page.keyboard.press("Enter")
    assert page.text_content("#captions h3") == model.caption([files[1]])[0].answer
    page.focus("#tab-caption")
    page.keyboard.press("ArrowRight")
    page.fill("#labels", f"red circle\nblue square，{SCRIPT}")
    page.focus('#panel-classify [type="submit"]')
    page.keyboard.press("Enter")
    page.wait_for_selector("#classes li")
    assert SCRIPT in page.text_content("#classes")
    page.focus("#tab-classify")
    page.keyboard.press("ArrowRight")
    page.focus("#by-picture")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits img")
    assert page.locator("#hits img").count() == 6
    assert page.locator("#hits img").first.get_attribute("alt") == index.search(image=files[1])[0].id
    page.fill("#query", "a red circle")
    page.keyboard.press("Enter")
    page.locator("#found", has_text="6").wait_for()
    page.check("#rerank")
    assert page.locator("#panel-search").bounding_box()["x"] < page.locator("#drop").bounding_box()["x"]
    assert page.is_hidden("#heat") and page.is_hidden("#legend"), "the map belongs to an answer"
    page.focus("#query")
    with page.expect_response("**/v1/search") as answered:
        page.keyboard.press("Enter")
    again = index.search("a red circle", count=24, rerank=True)
    assert [(hit["id"], hit["score"]) for hit in answered.value.json()["hits"]] == [
        (hit.id, hit.score) for hit in again
    ]
    page.locator("#hits button", has_text=f"{100 * again[0].score:.1f}%").first.wait_for()
    assert page.evaluate("window.harmed") is None
    assert all(one.startswith((door.address, "blob:", "data:")) for one in visit.requested), visit.requested
    assert not visit.complaints


def test_chinese_on_a_phone_in_the_dark(browser: Any, door: Door, model: Model, picture: Path) -> None:
    """Guards against a page that scrolls sideways on a phone, stays white at night, or speaks English to everybody."""
    visit = Visit(browser, door.address, 360, locale="zh-CN", color_scheme="dark", has_touch=True, is_mobile=True)
    page = visit.page
    assert page.text_content("#tab-ask") == "提问" and page.get_attribute("html", "lang") == "zh-Hans"
    assert sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))) < 150
    page.set_input_files("#file", picture)
    page.tap("#tab-caption")
    page.locator("#panel-caption .check", has_text="中文").tap()
    page.tap('#panel-caption [type="submit"]')
    expected = model.caption([picture], "zh")[0].answer
    assert page.text_content("#captions h3") == expected
    for tab in ("ask", "caption", "classify", "search"):
        page.tap(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.evaluate(
            "[...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 36)"
        )
        assert not small
    page.tap("#language")
    assert page.text_content("#tab-ask") == "Ask" and not visit.complaints


@pytest.mark.parametrize(
    ("width", "locale", "said"), [(360, "zh-CN", "与训练数据不同"), (1280, "en-US", "Unlike what")]
)
def test_what_is_unlike_training_is_said(
    browser: Any, door: Door, tmp_path: Path, width: int, locale: str, said: str
) -> None:
    """Guards against a confident bar under a picture and a question of another world, and words that are markup."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    visit = Visit(browser, door.address, width, locale=locale, color_scheme="dark" if width < 400 else "light")
    page = visit.page
    page.set_input_files("#file", tmp_path / "noise.png")
    page.fill("#question", f"why <b>meaning</b> {'long' * 40}?")
    page.click('#panel-ask [type="submit"]')
    line = page.text_content("#answers .outside")
    assert line.startswith(said) and "meaning" in line and "longlong" in line
    assert ("not sure" if width > 400 else "不确定") in page.text_content("#answers h3")
    page.click("#tab-caption")
    page.click('#panel-caption [type="submit"]')
    assert page.text_content("#captions .outside").startswith(said)
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not visit.complaints


def test_what_cannot_be_done_is_hidden_with_a_reason(
    browser: Any, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against buttons that end in an error, and errors that nobody understands."""
    monkeypatch.delitem(model.pipeline.tasks, "vqa")
    with running(Service(model, "demo", ServerSettings())) as door:
        page = Visit(browser, door.address, locale="en-US").page
        assert [one.get_attribute("data-tab") for one in page.locator('[role="tab"]').all()] == ["caption", "classify"]
        reasons = page.text_content("#cannot")
        assert "not trained on questions" in reasons and "without an index" in reasons
        (tmp_path / "broken.png").write_bytes(b"no picture at all")
        page.set_input_files("#file", tmp_path / "broken.png")
        page.click('#panel-caption [type="submit"]')
        page.locator("#problem-caption", has_text="no image").wait_for()
        button = page.locator('#panel-caption [type="submit"]').bounding_box()
        problem = page.locator("#problem-caption").bounding_box()
        assert 0 < problem["y"] - button["y"] < 120, "beside the button that caused it"
        page.click("#tab-classify")
        assert page.is_hidden("#problem-caption"), "what was said is taken back"
        page.click('#panel-classify [type="submit"]')
        assert page.text_content("#problem-classify") == "Give two or more different labels."


def test_it_opens_with_an_example_and_what_the_model_knows(
    browser: Any, door: Door, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an empty page that asks about circles of any picture, and an example of another run."""
    visit = Visit(browser, door.address, locale="en-US")
    page, stored = visit.page, model.pipeline.example
    assert stored is not None
    page.wait_for_selector("#shown:not([hidden])")
    size = page.evaluate(SIZE)
    assert tuple(size) == PillowImage.open(io.BytesIO(stored.png)).size
    assert page.text_content("#file-name").startswith("Example")
    told = page.text_content("#facts")
    for words in ("Ask, Describe, Classify, Search", "English, Chinese", "recipe demo", "6 images"):
        assert words in told, words
    chips = [one.text_content() for one in page.locator("#questions .chip").all()]
    assert chips == list(stored.questions) and page.get_attribute("#question", "placeholder") == chips[0]
    page.locator("#questions .chip").last.click()
    page.wait_for_selector("#answers li")
    assert page.text_content("#answers p") == chips[-1]
    assert page.text_content("#answers h3").split(" (")[0] == model.ask(stored.png, chips[-1]).answer
    page.click("#tab-search")
    page.locator("#queries .chip").first.click()
    page.wait_for_selector("#hits img")
    assert page.input_value("#query") == stored.texts[0]
    gallery = page.locator("#hits").bounding_box()
    assert gallery["y"] < page.locator("#queries").bounding_box()["y"], "results stand before what else could be tried"
    page.click("#language")
    assert "这个模型会什么" in page.text_content("#knows") and page.text_content("#file-name").startswith("示例")
    assert not visit.complaints
    monkeypatch.setattr(model.pipeline, "example", None)
    bare = Visit(browser, door.address, locale="en-US")
    assert bare.page.is_visible("#invite") and bare.page.locator(".chip").count() == 0
    assert "recipe" not in bare.page.text_content("#facts") and not bare.complaints


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_have_contrast(mode: int) -> None:
    """WCAG AA (4.5 to 1) of text on what it stands on, in light (0) and dark (1) mode."""
    css = (files("chiasm.serve.page") / "page.css").read_text(encoding="utf-8")
    part = css.split("@media (prefers-color-scheme: dark)")[mode].split("\n* {")[0]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))

    def luminance(name: str) -> float:
        parts = [int(found[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(text, surface) for text in ("ink", "quiet", "accent", "wrong") for surface in ("ground", "card")]
    for text, surface in [*pairs, ("ink", "tint"), ("on-accent", "accent")]:
        low, high = sorted((luminance(text), luminance(surface)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, surface)


def test_a_weak_match_is_told(browser: Any, door: Door, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against pictures that fit nothing shown as a result like any other."""
    visit = Visit(browser, door.address, locale="en-US")
    page = visit.page
    page.click("#tab-search")
    for unrelated, fits in ((0.9, (False,) * 6), (0.0, (True, True, False, False, False, False))):
        judged = Strength(unrelated, fits, 200)
        monkeypatch.setattr(Index, "strength", lambda self, text, hits, where, told=judged: told)
        page.fill("#query", "a dog in the snow")
        with page.expect_response("**/v1/search") as answered:
            page.keyboard.press("Enter")
        said = answered.value.json()
        assert said["weak"] == judged.is_weak and tuple(hit["fits"] for hit in said["hits"]) == fits
        page.locator("#more", has_text=f"{3 if judged.is_weak else 4} weaker").wait_for()
        assert page.locator("#hits li:not([hidden])").count() == (3 if judged.is_weak else 2)
        page.click("#more")
        assert page.locator("#hits li:not([hidden])").count() == 6 and page.is_hidden("#more")
        assert page.is_visible("#weak") == judged.is_weak
        assert page.locator("#hits span", has_text="weak").count() == (6 if judged.is_weak else 4)
    assert not visit.complaints
