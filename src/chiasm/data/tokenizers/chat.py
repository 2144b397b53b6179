"""The tokenizer of a causal language model: conversations -> ids by the model's own chat template, and back.

Of a conversation, the loss counts what an assistant wrote: its words and the token that ends its turn. What a user
typed never becomes a special token, and an image is one place (`IMAGE_ID`), which the model fills with its tokens.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import DecodeStream

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_ID, IMAGE_PLACEHOLDER, Turn
from chiasm.data.tokenizers.chat_template import ChatFormat, ChatLayout, Reply, Shape, Words
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer

_IMAGE, _BREAK = "\ue000", "\ue001"
"""Special tokens of the private copy: an image, and a place where no piece may go across. Removed from users' texts."""
_FORM = ("template", "specials", "ends", "name", "image", "sees_ahead", "wordings")
_PRIVATE = str.maketrans(dict.fromkeys("\ue000\ue001\ue010\ue011", "\ufffd"))


class Spans(NamedTuple):
    """A conversation as ids.

    Attributes:
        ids: token ids, `IMAGE_ID` for each image.
        is_counted: True where the token is one that an assistant has to write: its words, and what ends its turn.
    """

    ids: list[int]
    is_counted: list[bool]


class _Draft:
    """The text of a conversation, with where texts of turns stand in it and where answers do, in characters."""

    def __init__(self) -> None:
        self.text = ""
        self.typed: list[list[int]] = []
        self.replies: list[list[int]] = []

    def type(self, words: str) -> None:
        start = len(self.text)
        self.text += words
        self.typed.append([start, len(self.text)])

    def insert(self, place: int, what: str, replaces: int = 0) -> None:
        """Put `what` at a place, in place of as many characters as told; an answer that starts there starts there."""
        self.text = self.text[:place] + what + self.text[place + replaces :]
        moved = len(what) - replaces
        for start_and_end in (*self.typed, *self.replies):
            start_and_end[0] += moved * (start_and_end[0] > place)
            start_and_end[1] += moved * (start_and_end[1] > place)


class ChatTokenizer(PretrainedTokenizer):
    """Conversations and texts -> ids of a causal language model.

    A system text goes to the template where it takes one; otherwise it is put before the first user's text, with an
    empty line between (Gemma 2, Mistral). Templates may add a system text of their own where there is none (SmolLM2,
    Qwen2.5): it is kept, because the model was trained with it.

    Args:
        tokenizer: the pieces.
        max_tokens: longest conversation that `fits`, and longest text of `ids`, which cuts what is longer.
        before: special tokens before a plain text (bos, or none).
        pad: the padding token; a real one where the model has none.
        form: the chat template and its tokens.

    Attributes:
        end_ids: tokens that end an assistant's turn.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, before: Sequence[str], pad: str, form: ChatFormat
    ) -> None:
        super().__init__(tokenizer, max_tokens, before, form.ends[:1], pad)
        self.form = form
        added = self.tokenizer.get_added_tokens_decoder().values()
        self.layout = ChatLayout(form, [token.content for token in added if token.special])
        self.end_ids = tuple(dict.fromkeys(self._id(one) for one in self.layout.ends))

    @classmethod
    def from_json(cls, text: str, max_tokens: int, wrap: tuple[str, str] = ("", "")) -> "ChatTokenizer":
        """Rebuild from `to_json`; `wrap` is part of what is stored."""
        stored = json.loads(text)
        if not isinstance(stored, dict) or set(stored) != {"tokenizer", "before", "pad", "form"}:
            raise InputError(
                "the stored tokenizer is another kind's", "that of a language model", "check the run folder"
            )
        form = stored["form"]
        form["ends"] = tuple(form["ends"])
        tokenizer = Tokenizer.from_str(json.dumps(stored["tokenizer"]))
        return cls(tokenizer, max_tokens, stored["before"], stored["pad"], ChatFormat(**form))

    def to_json(self) -> str:
        """Everything that decides the ids, as JSON."""
        form = {name: getattr(self.form, name) for name in _FORM}
        told: dict[str, Any] = {"tokenizer": json.loads(self.tokenizer.to_str()), "before": self.before}
        return json.dumps(told | {"pad": self.pad, "form": form}, ensure_ascii=False)

    @property
    def suppressed_ids(self) -> list[int]:
        """Ids that no generated text may hold: every special token but those that end a turn."""
        return [number for number in self.special_ids if number not in self.end_ids]

    def fits(self, ids: Sequence[int]) -> bool:
        """Whether a conversation is within `max_tokens`, each image counted as one."""
        return len(ids) <= self.max_tokens

    def conversation(self, turns: Sequence[Turn]) -> Spans:
        """Ids of a whole conversation, and which of them are the assistant's; nothing is cut.

        Raises:
            InputError: the template refuses the order of the turns.
        """
        ids, is_counted, _ = self._encoded(self._folded(turns))
        return Spans(ids, is_counted)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Ids up to where the assistant starts to write: the beginning of `conversation` with its answer added.

        Raises:
            InputError: the template refuses the order of the turns.
        """
        ids, _, last_start = self._encoded([*self._folded(turns), Turn("assistant", "a")])
        return ids[:last_start]

    def user_start(self) -> list[int]:
        """Ids up to where the user's first words start: what a language model continues with words of a user."""
        return self._marked.encode(self.layout.start, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids up to the first that ends a turn: without special tokens, images, and white space around it."""
        kept = []
        for one in ids:
            if one in self.end_ids:
                break
            if one != IMAGE_ID:
                kept.append(int(one))
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def stream(self) -> "Stream":
        """What turns ids into text while they are written."""
        return Stream(self)

    def _folded(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns, a system text in the first user's where the template takes none."""
        found = list(turns)
        if self.layout.takes_system or not found or found[0].role != "system":
            return found
        if len(found) < 2 or found[1].role != "user":
            return found  # the template refuses it
        return [Turn("user", f"{found[0].text}\n\n{found[1].text}"), *found[2:]]

    def _encoded(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool], int]:
        """Ids, which of them are counted, and at which the last answer starts."""
        draft = self._drafted(turns)
        encoding = self._without_planted(draft)
        starts = []
        for reply in draft.replies:
            before = self._marked.encode(draft.text[: reply[0]], add_special_tokens=False).ids
            if encoding.ids[: len(before)] != before:  # a piece goes across: "\n" of the prompt and of the answer
                draft.insert(reply[0], _BREAK)
                encoding = self._marked.encode(draft.text, add_special_tokens=False)
                before = self._marked.encode(draft.text[: reply[0]], add_special_tokens=False).ids
            starts.append(len(before))
        found, offsets = encoding.ids, encoding.offsets  # each access makes a list
        is_counted = [False] * len(found)
        for start, (_, end) in zip(starts, draft.replies, strict=True):
            for place in range(start, len(found)):
                if offsets[place][0] >= end:
                    break
                is_counted[place] = True
        image, line = (self._marked.token_to_id(one) for one in (_IMAGE, _BREAK))
        kept = [place for place, one in enumerate(found) if one != line]
        ids = [IMAGE_ID if found[place] == image else found[place] for place in kept]
        counted = [is_counted[place] and found[place] != image for place in kept]
        return ids, counted, sum(place < starts[-1] for place in kept) if starts else len(ids)

    def _drafted(self, turns: Sequence[Turn]) -> _Draft:
        texts, shapes = self._taken_apart(turns)
        draft = _Draft()

        def typed(words: Words) -> str:
            text = texts[words.number].encode("utf-8", "replace").decode("utf-8").translate(_PRIVATE)
            return words.of(text.replace(IMAGE_PLACEHOLDER, _IMAGE))

        for part in self.layout.parts(shapes):
            if isinstance(part, Reply):
                start = len(draft.text)
                draft.text += part.before
                draft.type(typed(part.words))
                draft.text += part.end
                draft.replies.append([start, len(draft.text)])
            elif isinstance(part, Words):
                draft.type(typed(part))
            else:
                draft.text += part.replace(self.form.image, _IMAGE) if self.form.image else part
        return draft

    def _taken_apart(self, turns: Sequence[Turn]) -> tuple[list[str], list[Shape]]:
        """The texts of all turns, and the turns without them; a template of texts takes images within the text.

        White space between an image and a text is the template's to write.
        """
        if not self.form.image:
            return [turn.text for turn in turns], [Shape(turn.role) for turn in turns]
        texts: list[str] = []
        shapes = []
        for turn in turns:
            parts: list[str] = []
            for number, text in enumerate(turn.text.split(IMAGE_PLACEHOLDER)):
                parts += ["image"] * (number > 0)
                text = text.lstrip() if number else text
                if text.strip() or (turn.role == "assistant" and not parts):
                    parts.append("text")
                    texts.append(text)
            shapes.append(Shape(turn.role, tuple(parts)))
        return texts, shapes

    def _without_planted(self, draft: _Draft) -> Any:
        """Encode, after special tokens that the texts of turns would become have been broken in two."""
        while True:
            encoding = self._marked.encode(draft.text, add_special_tokens=False)
            ids, offsets = encoding.ids, encoding.offsets
            for place in reversed(range(len(ids))):
                if ids[place] not in self._typeable:
                    continue
                start, end = offsets[place]
                found = draft.text[start:end]  # with white space around it where the token takes that in
                start, end = end - len(found.lstrip()), start + len(found.rstrip())
                if any(start < last and end > first for first, last in draft.typed):
                    draft.insert(start + (end - start > 1), *((_BREAK,) if end - start > 1 else ("\ufffd", 1)))
                    break
            else:
                return encoding

    @cached_property
    def _typeable(self) -> frozenset[int]:
        """Special tokens that a text might spell."""
        return frozenset(self.special_ids)

    @cached_property
    def _marked(self) -> Tokenizer:
        """A copy that reads special tokens, and knows images and breaks as such."""
        stored = json.loads(self.tokenizer.to_str())
        stored["post_processor"] = None  # would shift the offsets of white space
        copy = Tokenizer.from_str(json.dumps(stored))
        copy.encode_special_tokens = False
        copy.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in (_IMAGE, _BREAK)])
        return copy


class Stream:
    """Text of ids as they come: the parts that `add` and `finish` return make up `decode` of all ids.

    A part never holds half a character; white space is held back until a word follows. Where ids end in a character,
    its bytes come out of `finish` as replacement characters, of which `decode` may make more or fewer.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self._unread: list[int] = []  # ids since the last that gave text
        self._steps = DecodeStream(skip_special_tokens=True)
        self._held, self._sent, self._ended = "", "", False

    def add(self, one: int) -> str:
        """The text that is sure after one more id; "" where none is, and after the end of the turn."""
        self._ended = self._ended or one in self.tokenizer.end_ids
        if self._ended or one == IMAGE_ID:
            return ""
        self.ids.append(one)
        self._unread.append(one)
        read = self._steps.step(self.tokenizer.tokenizer, one)
        if read:
            self._unread.clear()
            self._held += read
        if not self._sent:
            self._held = self._held.lstrip()
        sure = self._held.rstrip()
        self._held = self._held[len(sure) :]
        self._sent += sure
        return sure

    def finish(self) -> str:
        """What is left at the end: a character that was never completed, as replacement characters."""
        whole = self.tokenizer.decode(self.ids)
        if whole.startswith(self._sent):
            left = whole[len(self._sent) :]
        else:  # byte pieces before it were a character of their own, and decoded at once they are none
            left = self._held + self.tokenizer.decode(self._unread)
        self._sent, self._held = self._sent + left, ""
        self._unread.clear()
        return left
