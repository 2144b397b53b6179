"""Messages become turns: images where they stand, and what is no conversation is refused with a reason."""

from typing import Any

import numpy as np
import pytest

from chiasm.core.types import Turn
from chiasm.serve.messages import MessagesError, spoken

RED, BLUE = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts[0] if len(parts) == 1 else list(parts)}


def test_images_stand_where_they_are_shown() -> None:
    turns, images = spoken(
        [
            {"role": "developer", "content": "Be short."},
            user({"type": "image", "image": RED}, {"type": "text", "text": "What is it?"}),
            {"role": "assistant", "content": "Red."},
            user("And", {"type": "image_url", "image_url": {"url": "data:x"}}, {"image": BLUE}, "these?"),
        ]
    )
    assert turns == [
        Turn("system", "Be short."),
        Turn("user", "<image>\nWhat is it?"),
        Turn("assistant", "Red."),
        Turn("user", "And\n<image>\n<image>\nthese?"),
    ]
    assert images[0] is RED and images[1] == "data:x" and images[2] is BLUE


def test_a_text_and_images_beside_it() -> None:
    turns, images = spoken("What is it?", [RED, BLUE])
    assert turns == [Turn("user", "<image>\n<image>\nWhat is it?")] and len(images) == 2
    assert spoken("hello") == ([Turn("user", "hello")], [])


def test_images_alone_ask_for_a_description() -> None:
    (turn,), _ = spoken([user({"image": RED}, "  ")])
    assert turn.text == "<image>\nDescribe this image in one sentence."


def test_what_is_typed_is_no_image() -> None:
    """Guards against a user who types the placeholder, and shifts what the images belong to."""
    (turn,), images = spoken([user("look <image> here", {"image": RED})])
    assert turn.text == "look (image) here\n<image>" and len(images) == 1


def test_neighbours_of_one_role_are_one_turn() -> None:
    turns, _ = spoken([user("a"), user("b"), {"role": "assistant", "content": "c"}, user("d")])
    assert turns == [Turn("user", "a\nb"), Turn("assistant", "c"), Turn("user", "d")]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no message"),
        ([{"role": "robot", "content": "a"}], "the role 'robot'"),
        (["hello"], "message 1 is 'hello'"),
        ([{"role": "user"}], "message 1 is"),
        ([user("a"), {"role": "assistant", "content": "b"}], "the last message is not the user's"),
        ([{"role": "system", "content": "a"}], "the last message is not the user's"),
        ([{"role": "assistant", "content": "b"}, user("a")], "a turn of the assistant where the user's belongs"),
        ([user("a"), {"role": "system", "content": "b"}, user("c")], "a turn of the system"),
        ([user(" ")], "without words"),
        ([{"role": "user", "content": None}], "without words"),
        ([user({"type": "audio", "audio": "x"}, "a")], "message 1 has a part"),
        ([{"role": "system", "content": [{"image": RED}]}, user("a")], "of the system shows an image"),
    ],
)
def test_what_is_no_conversation(messages: list[Any], said: str) -> None:
    with pytest.raises(MessagesError, match=said):
        spoken(messages)
