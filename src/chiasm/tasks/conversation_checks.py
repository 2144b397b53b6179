"""Conversations checked before the first step: placeholders, a word of the assistant, and length.

Nearly all are far shorter than the longest that is read. A bound by their bytes tells so without tokenizing them.
"""

import unicodedata
from collections.abc import Iterable, Sequence

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, IMAGE_ID, IMAGE_PLACEHOLDER, Example, Turn
from chiasm.data.conversations import check_turns, turns_of
from chiasm.data.modalities.base import references_of
from chiasm.data.tokenizers.chat import ChatTokenizer

ALL = 1 << 30
"""More captions or questions than an example has."""


class ConversationLengths:
    """Tokens of conversations: the exact number, and a bound of it that costs a tenth of the time.

    The bound is twice the bytes of the turns in Unicode's longest normal form (NFKD), since each piece of a tokenizer
    covers a byte of the normalised text, and half of it is room for tokenizers that change case or add spaces. What
    the template and the images add depends on the roles and on the number of images alone: it is at most the exact
    number of the first conversation with the same ones.

    Args:
        tokenizer: the language model's.
        image_tokens: tokens of an image.
    """

    def __init__(self, tokenizer: ChatTokenizer, image_tokens: int) -> None:
        self._tokenizer, self._image_tokens = tokenizer, image_tokens
        self._first: dict[tuple[str, ...], int] = {}

    def exact(self, turns: Sequence[Turn]) -> tuple[int, bool]:
        """Number of tokens, and whether any of them is the assistant's."""
        spans = self._tokenizer.conversation(turns)
        length = len(spans.ids) + (self._image_tokens - 1) * spans.ids.count(IMAGE_ID)
        self._first.setdefault(_form(turns), length)
        return length, any(spans.is_counted)

    def bound(self, turns: Sequence[Turn]) -> int | None:
        """At least the number of tokens; None where nothing is known of such a conversation.

        That is the first of its roles and images, and one whose assistant says no letter or digit.
        """
        added = self._first.get(_form(turns))
        if added is None or not any(_has_word(turn.text) for turn in turns if turn.role == "assistant"):
            return None
        written = (unicodedata.normalize("NFKD", turn.text).encode("utf-8", "replace") for turn in turns)
        return added + 2 * sum(map(len, written))


def check_conversations(
    examples: Iterable[Example], tokenizer: ChatTokenizer, image_tokens: int, longest_tokens: int
) -> None:
    """Check every conversation that training could make of the examples.

    Args:
        examples: of which captions, questions, labels and turns become conversations.
        tokenizer: the language model's.
        image_tokens: tokens of an image.
        longest_tokens: of a conversation with its images; it is never cut.

    Raises:
        InputError: names file and row of the first without a word of the assistant or with other placeholders than
            images, or of the longest that is too long.
    """
    lengths, most = ConversationLengths(tokenizer, image_tokens), 0
    over: Example | None = None
    for example in examples:
        if example.turns:
            check_turns(example.turns, len(references_of(example.inputs.get(IMAGE))), example.source)
        for turns in turns_of(example, 0, 0, ALL, ALL, tokenizer.form.wordings):
            bound = lengths.bound(turns)
            if bound is not None and bound <= longest_tokens:
                continue
            length, is_answered = lengths.exact(turns)
            if not is_answered:
                raise InputError(
                    f"{example.source}: a conversation without a word of the assistant",
                    "one in which the assistant says something",
                    "correct the row, or leave it out",
                )
            if length > max(most, longest_tokens):
                most, over = length, example
    if over is not None:
        raise InputError(
            f"{over.source}: a conversation of {most} tokens, {image_tokens} for each image among them",
            f"at most {longest_tokens} tokens; a conversation is never cut",
            f"--set model.text.max_tokens={most}, or leave the row out",
        )


def _form(turns: Sequence[Turn]) -> tuple[str, ...]:
    """Roles and images of a conversation."""
    return *(turn.role for turn in turns), str(sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns))


def _has_word(text: str) -> bool:
    return any(map(str.isalnum, text))
