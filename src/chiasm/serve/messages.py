"""Messages in OpenAI's shape -> turns of a conversation, and the images that it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_PLACEHOLDER, Role, Turn
from chiasm.data.conversations import prompt_turns, without_placeholder
from chiasm.serve.given import ImageInput

ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Role of a message -> of a turn."""
TEXT_PARTS, IMAGE_PARTS = ("text", "input_text"), ("image", "image_url", "input_image")


class MessagesError(InputError):
    """Messages that are no conversation that somebody could answer."""


def spoken(
    messages: str | Sequence[Mapping[str, Any]], images: Sequence[ImageInput] = ()
) -> tuple[list[Turn], list[ImageInput]]:
    """Read a conversation.

    Neighbouring messages of one role become one turn. A user's turn of images alone asks for a description. What reads
    like a placeholder in a text is none.

    Args:
        messages: a text of the user, or messages `{"role": ..., "content": ...}`; the content is a text, or a list of
            texts and parts: `{"type": "text", "text": ...}`, `{"type": "image", "image": IMAGE}`, or OpenAI's
            `{"type": "image_url", "image_url": {"url": DATA_URI}}`.
        images: shown before the user's first words.

    Returns:
        Turns, whose last is the user's, with a placeholder for each image; and the images in the order of these.

    Raises:
        MessagesError: names the message, counted from 1.
    """
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    shown: list[ImageInput] = []
    said: list[tuple[Role, list[str]]] = []
    rest = list(images)
    for number, message in enumerate(given, 1):
        role, parts = _role(message, number), []
        if role == "user" and rest:
            parts, shown, rest = [IMAGE_PLACEHOLDER] * len(rest), [*shown, *rest], []
        for part in _parts(message, number):
            if isinstance(part, str):
                parts += [without_placeholder(part)] if part.strip() else []
                continue
            if role != "user":
                raise MessagesError(f"message {number} of the {role} shows an image", "images of the user", "move it")
            parts.append(IMAGE_PLACEHOLDER)
            shown.append(part[0])
        if said and said[-1][0] == role:
            said[-1][1].extend(parts)
        else:
            said.append((role, parts))
    _check(said)
    return [Turn(role, _text(parts)) for role, parts in said], shown


def _role(message: Any, number: int) -> Role:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise MessagesError(
            f"message {number} is {str(message)[:60]!r}",
            'messages such as {"role": "user", "content": "What is this?"}',
            "give each message a role and a content",
        )
    role = message["role"]
    if role not in ROLES:
        raise MessagesError(f"message {number} has the role {role!r}", ", ".join(ROLES), "give it one of these")
    return ROLES[role]


def _parts(message: Mapping[str, Any], number: int) -> list[str | tuple[ImageInput]]:
    """Texts, and images in a tuple of one."""
    content = message["content"]
    if content is None:
        return []
    found: list[str | tuple[ImageInput]] = []
    for part in [content] if isinstance(content, str | Mapping) else content:
        if isinstance(part, str):
            found.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        name = next((one for one in (*TEXT_PARTS, *IMAGE_PARTS) if one == kind or (kind is None and one in part)), None)
        value = (
            None
            if name is None
            else part.get("text" if name in TEXT_PARTS else name.replace("input_image", "image_url"))
        )
        if isinstance(value, Mapping):
            value = value.get("url")
        if name is None or value is None:
            raise MessagesError(
                f"message {number} has a part {str(part)[:60]!r}",
                'texts, {"type": "text", "text": ...} and {"type": "image", "image": ...}',
                "give the part one of these shapes",
            )
        found.append(str(value) if name in TEXT_PARTS else (value,))
    return found


def _check(said: Sequence[tuple[Role, list[str]]]) -> None:
    """User and assistant by turns, perhaps after a system turn, and the last the user's."""
    if not said:
        raise MessagesError("no message", "one or more, the last the user's", "say something")
    turns = said[1:] if said[0][0] == "system" else said
    for place, (role, parts) in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            raise MessagesError(
                f"a turn of the {role} where the {expected}'s belongs",
                "perhaps a system message first, then user and assistant by turns",
                "put the messages in order",
            )
        if not parts:
            raise MessagesError(f"a message of the {role} without words", "words or images", "say something")
    if len(turns) % 2 == 0:
        raise MessagesError("the last message is not the user's", "a conversation that the user ends", "ask something")


def _text(parts: Sequence[str]) -> str:
    text = "\n".join(parts)
    if parts and set(parts) == {IMAGE_PLACEHOLDER}:
        (turn,) = prompt_turns("caption", len(parts))
        return turn.text
    return text
