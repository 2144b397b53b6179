"""The chat tab in a real browser: images, streamed words, stop, anew; by keyboard, in Chinese, on a phone."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Visit, browser, needs_browser
from doors import Door, running
from PIL import Image
from talking import talking

from chiasm.serve.engine import Model
from chiasm.serve.http.service import Service
from chiasm.serve.http.settings import ServerSettings
from tiny_talker import pictures

__all__ = ["browser", "talking"]
pytestmark = needs_browser
SCREENSHOTS = os.environ.get("CHIASM_SCREENSHOTS", "")
"""Folder that pictures of the page are written to; none where it is empty."""


@pytest.fixture(scope="module")
def talking_door(talking: Model) -> Iterator[Door]:
    with running(Service(talking, "talker", ServerSettings(max_new_tokens=48, max_chat_images=3))) as open_door:
        yield open_door


@pytest.fixture
def chosen_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for path, image in zip(paths, pictures(4), strict=True):
        Image.fromarray(image).resize((240, 160)).save(path)
    return paths


def ready(page: Any) -> None:
    page.wait_for_selector("#send:not([hidden])")
    page.wait_for_selector('#talk[aria-busy="false"]')


def shoot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


@pytest.mark.parametrize(("width", "locale"), [(1280, "en-US"), (360, "zh-CN")])
def test_a_conversation_by_keyboard(
    browser: Any, talking_door: Door, talking: Model, chosen_files: list[Path], width: int, locale: str
) -> None:
    """Two turns and three images: the replies are the engine's with the whole history."""
    visit = Visit(browser, talking_door.address, width, locale=locale)
    page = visit.page
    assert page.get_attribute("#tab-chat", "aria-selected") == "true" and page.is_hidden("#drop")
    page.set_input_files("#chat-file", chosen_files[:2])
    page.locator("#attached img").nth(1).wait_for()
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("a dog?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("两只狗")
    page.keyboard.press("Enter")
    ready(page)
    messages: list[Any] = [
        {"role": "user", "content": [*({"image": one} for one in chosen_files[:2]), "a dog?\n两只狗"]}
    ]
    first = talking.chat(messages, max_tokens=48)
    assert page.text_content("#talk .assistant p") == first.answer
    assert page.locator("#talk .user img").count() == 2 and page.locator("#attached img").count() == 0
    page.set_input_files("#chat-file", chosen_files[2:])
    page.wait_for_selector("#problem-chat:not([hidden])")
    assert "3" in page.text_content("#problem-chat") and page.locator("#attached img").count() == 1
    page.keyboard.type("<b>And?</b>")
    page.keyboard.press("Enter")
    ready(page)
    messages += [{"role": "assistant", "content": first.answer}]
    messages += [{"role": "user", "content": [{"image": chosen_files[2]}, "<b>And?</b>"]}]
    second = talking.chat(messages, max_tokens=48).answer
    assert page.locator("#talk .assistant > p:first-of-type").last.text_content() == second
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shoot(page, f"chat-{width}")
    page.focus("#anew")
    page.keyboard.press("Enter")
    assert page.locator("#talk li").count() == 0 and page.evaluate("document.activeElement.id") == "words"
    assert all(one.startswith((talking_door.address, "blob:", "data:")) for one in visit.requested), visit.requested
    small = page.evaluate("[...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 36)")
    assert not small and not visit.complaints


def test_an_answer_is_stopped(browser: Any, talking: Model) -> None:
    """What was read stays and is remembered; the place in the batch is free."""
    service = Service(talking, "talker", ServerSettings())
    decoder = talking.talker.decoder()
    step = decoder.step
    decoder.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
    service.conversations._decoder = decoder
    with running(service) as door:
        page = Visit(browser, door.address, 1280, locale="en-US", color_scheme="dark").page
        page.fill("#words", "What is there?")
        page.click("#send")
        page.locator("#talk .assistant p", has_text=re.compile(r".{5}")).first.wait_for()
        assert page.is_hidden("#send")
        shoot(page, "chat-writing")
        page.click("#stop")
        ready(page)
        assert page.locator("#talk .assistant", has_text="Stopped.").count() == 1
        page.wait_for_timeout(300)
        assert len(decoder) == 0 and service.batcher.admitted == 0
        page.fill("#words", "dog " * 900)
        page.click("#send")
        page.locator("#problem-chat", has_text="too long").wait_for()
        assert page.input_value("#words").startswith("dog dog"), "the words are there to be changed"
        assert page.locator("#talk .user").count() == 1


def test_other_models_hide_it(browser: Any, door: Door) -> None:
    page = Visit(browser, door.address, locale="en-US").page
    assert page.locator("#tab-chat").count() == 0 and "Chatting is hidden" in page.text_content("#cannot")
