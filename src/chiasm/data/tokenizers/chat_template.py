"""A language model's chat template: where in a conversation each turn's text stands, and what the model has to write.

The template of a model is a Jinja program in its folder, which transformers runs in a sandbox. It is run over marks in
place of texts, so that nothing a user types can reach it, and so that the place of each text in the result is known.

What the assistant sees before it writes must be what `prompt` gives when it is asked, or it would learn something else
than it is asked for. A conversation is therefore put together from prompts: what the template writes after the last
answer and before the next one, as it writes it when the next one is still to come. For most templates that equals the
template over the whole conversation. Qwen3's drops an empty <think></think> before earlier answers and keeps it before
the last; here it stays before each. A template that changes earlier turns in another way is refused.

The templates of networks that take images want a turn's content as a list of parts, an image or a text each, and decide
themselves where an image stands and what is written around it (`ChatFormat.image`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import Role

PLAIN_TEMPLATE = (
    "{{ start_tokens }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
)
"""For base models, which have none (GPT-2, OPT, Gemma's base): each text and a line break, an answer closed by eos."""
_ONE_PROMPT = (
    "{% for message in messages %}{% if message['role'] == 'user' and loop.first %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ image_token }}{% endfor %}{{ bos_token }}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{{ behind_prompt }}"
    "{% elif message['role'] == 'assistant' and loop.index == 2 %}"
    "{{ before_answer + message['content'][0]['text'] + eos_token }}"
    "{% else %}{{ raise_exception('it answers one prompt') }}{% endif %}{% endfor %}"
)


class PromptLayout(NamedTuple):
    """How the processor of a network without chat template lays out one prompt: images, start token, prompt.

    Attributes:
        behind_prompt: what it writes behind the prompt.
        before_answer: what the network writes before an answer.
        wordings, sees_ahead: see `ChatFormat`.
        template: Jinja; it names `behind_prompt` and `before_answer`.
    """

    behind_prompt: str
    before_answer: str
    wordings: Mapping[str, str]
    sees_ahead: bool
    template: str = _ONE_PROMPT


PROMPT_LAYOUTS: Mapping[str, PromptLayout] = {
    "paligemma": PromptLayout(
        "\n", "", {"caption": "caption {language}", "question": "answer {language} {question}"}, True
    ),
    "blip-2": PromptLayout("", " ", {"caption": "", "question": "Question: {question} Answer:"}, False),
}
"""`model_type` of a network -> its layout: Beyer et al. 2024 ("PaliGemma"), section 3.2 and its task prefixes; Li et
al. 2023 ("BLIP-2"), section 4.1 (the prompt of questions; captions have none)."""
_DATE = "26 Jul 2024"
"""Llama-3.1 and others tell the day in a system message; here always this one, so that ids do not change overnight."""
_OPEN, _CLOSE = "\ue010", "\ue011"
_MARK = re.compile(rf"(\n\x0b|\x0b)?{_OPEN}(\d+){_CLOSE}(\x0b\n|\x0b)?")
"""A mark and what is left of the white space around it: that tells whether the template strips texts."""
SHOWN_TEXT = 60
"""Characters of a template's own message that an error repeats."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model's conversations are written.

    Attributes:
        template: Jinja.
        specials: what the template may name, such as bos_token and eos_token -> the token.
        ends: tokens that end an answer, by the model's config.
        name: of the model, for error messages.
        image: the token that the template writes for an image, where it takes contents as lists of parts; "" where it
            takes texts.
        sees_ahead: the tokens of a prompt attend to each other in both directions, so that prompts which begin alike
            share nothing.
        wordings: what is asked for, "caption" or "question" -> the words that the network was trained to be asked with,
            with `{language}` (ISO 639-1) and `{question}`; without an entry, those of `data.conversations.TEMPLATES`.
    """

    template: str
    specials: Mapping[str, str]
    ends: tuple[str, ...]
    name: str
    image: str = ""
    sees_ahead: bool = False
    wordings: Mapping[str, str] = field(default_factory=dict)


class Shape(NamedTuple):
    """A turn without its words: who speaks, and its parts in order, "text" or "image"."""

    role: Role
    parts: tuple[str, ...] = ("text",)


class Words(NamedTuple):
    """One text of a conversation; `left` and `right` say what the template strips: "", "all", or breaks.

    Attributes:
        number: which of the texts of all turns, from 0.
    """

    number: int
    left: str
    right: str

    def of(self, text: str) -> str:
        """The text as the template would write it."""
        text = text.lstrip() if self.left == "all" else text.lstrip(self.left) if self.left else text
        return text.rstrip() if self.right == "all" else text.rstrip(self.right) if self.right else text


class Reply(NamedTuple):
    """What an assistant writes: white space that the template puts before its words, the words, and the end token."""

    before: str
    words: Words
    end: str


Part = str | Words | Reply
"""Static text of the template, a turn's text, or an answer."""


class ChatLayout:
    """Lays out conversations by a template, known by the roles of their turns.

    Args:
        form: the template and its tokens.
        special: the tokens of the tokenizer that are no words.

    Attributes:
        ends: tokens that end an answer: those of the config, and the one that the template puts there.

    Raises:
        InputError: the template cannot lay out a question and its answer.
    """

    def __init__(self, form: ChatFormat, special: Sequence[str]) -> None:
        self.form = form
        alternatives = "|".join(re.escape(one) for one in sorted(special, key=len, reverse=True)) or "(?!)"
        self._end = re.compile(rf"\s*(?:{alternatives})")
        self._known: dict[tuple[Shape, ...], list[Part]] = {}
        self._appends_eos = False
        self.takes_system = True
        user, assistant = Shape("user"), Shape("assistant")
        closing = self._closing((user, assistant)) or self._closing((user, assistant, user))
        self._appends_eos = not closing
        self.ends = tuple(dict.fromkeys([*form.ends, *([closing.strip()] if closing else [])]))
        try:
            self.parts((Shape("system"), user, assistant, user, assistant))
        except InputError:
            self.takes_system = False

    def _closing(self, shapes: tuple[Shape, ...]) -> str:
        """The token that closes the answer in a short conversation, "" for none or where the template refuses it."""
        try:
            return next(part.end for part in self.parts(shapes) if isinstance(part, Reply))
        except InputError:
            if len(shapes) == 2:
                raise
            return ""
        finally:
            self._known.clear()

    @property
    def start(self) -> str:
        """What the template writes before a user's first words."""
        first = self.parts((Shape("user"), Shape("assistant")))[0]
        return first if isinstance(first, str) else ""

    def parts(self, shapes: Sequence[Shape]) -> list[Part]:
        """A conversation of these turns in parts, in the order in which they are written.

        An image is part of the static text, as the token `ChatFormat.image`.

        Raises:
            InputError: the template refuses the order of roles, repeats or drops a text, or changes earlier turns.
        """
        key = tuple(shapes)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._laid_out(key)
        return found

    def _laid_out(self, shapes: tuple[Shape, ...]) -> list[Part]:
        whole, stripped = self._rendered(shapes, False)
        headers: list[tuple[str, str, int]] = []
        last = ""  # the mark of the answer before
        for turn in (turn for turn, shape in enumerate(shapes) if shape.role == "assistant"):
            number = sum(shape.parts.count("text") for shape in shapes[:turn])
            mark = f"{_OPEN}{number}{_CLOSE}"
            seen = whole[whole.index(last) + len(last) : whole.index(mark)]
            asked, _ = self._rendered(shapes[:turn], True)
            asked = asked[asked.index(last) + len(last) :]
            if seen.startswith(asked):
                # Llama-2 writes a space before an answer that its prompt lacks: the model writes it. A role that the
                # prompt lacks is no word of the answer.
                gap = seen[len(asked) :]
                header, before = (asked, gap) if not gap.strip() else (seen, "")
            elif asked.startswith(seen):
                header, before = asked, ""
            else:
                raise self._refused(f"the template writes {len(shapes)} turns in another way than their beginning")
            headers.append((header, before, number))
            last = mark
        rest = whole[whole.index(last) + len(last) :]
        return self._joined(headers, rest, stripped)

    def _joined(self, headers: list[tuple[str, str, int]], rest: str, stripped: Mapping[int, Words]) -> list[Part]:
        """Parts out of (text before an answer, its white space, its number); the end token goes to the answer."""
        parts: list[Part] = []
        following = [*(header for header, _, _ in headers), rest][1:]
        for (header, before, number), after in zip(headers, following, strict=True):
            self._add_static(parts, header, stripped)
            closing = self._end.match(after)
            end = closing.group() if closing else self.form.specials.get("eos_token", "") if self._appends_eos else ""
            parts.append(Reply(before, stripped[number], end))
        self._add_static(parts, rest, stripped)
        return parts

    def _add_static(self, parts: list[Part], text: str, stripped: Mapping[int, Words]) -> None:
        """Add static text and the turns marked in it, without the end token that the answer before it has taken."""
        reply = parts[-1] if parts and isinstance(parts[-1], Reply) else None
        if reply is not None and text.startswith(reply.end):
            text = text[len(reply.end) :]
        for number, piece in enumerate(re.split(rf"{_OPEN}(\d+){_CLOSE}", text)):
            if number % 2:
                parts.append(stripped[int(piece)])
            elif piece:
                parts.append(piece)

    def _rendered(self, shapes: Sequence[Shape], asks: bool) -> tuple[str, dict[int, Words]]:
        """The template over marks -> text with bare marks, and how each text is stripped."""
        try:
            from transformers.utils.chat_template_utils import render_jinja_template
        except ImportError:
            raise MissingExtraError("transformers", "llm") from None
        messages = _messages(shapes, bool(self.form.image))
        template = with_fixed_date(self.form.template)
        try:
            told: dict[str, Any] = {**self.form.specials, "enable_thinking": False, "date_string": _DATE}
            written: Any = render_jinja_template(
                [messages], chat_template=template, add_generation_prompt=asks, **told
            )[0]
        except Exception as error:  # of many types: the template is a program of others
            why = " ".join(str(error).split())[:SHOWN_TEXT] or type(error).__name__
            raise self._refused(f"the template says: {why}, of turns by {_speakers(shapes)}") from None
        stripped: dict[int, Words] = {}

        def bare(match: re.Match[str]) -> str:
            left, number, right = match.groups()
            kinds = {None: "all", "\x0b": "\n"}
            stripped[int(number)] = Words(int(number), kinds.get(left, ""), kinds.get(right, ""))
            return f"{_OPEN}{number}{_CLOSE}"

        text = _MARK.sub(bare, written[0])
        order = [int(one) for one in re.findall(rf"{_OPEN}(\d+){_CLOSE}", text)]
        images = sum(shape.parts.count("image") for shape in shapes)
        if order != list(range(sum(shape.parts.count("text") for shape in shapes))):
            raise self._refused(f"of turns by {_speakers(shapes)} the template writes those at {order}")
        if self.form.image and text.count(self.form.image) != images:
            raise self._refused(f"it writes {text.count(self.form.image)} of {images} images as {self.form.image}")
        return text, stripped

    def _refused(self, why: str) -> InputError:
        return InputError(
            f"the chat template of {self.form.name}: {why}",
            "turns of user and assistant in turn, perhaps after a system text, and a template that writes each text "
            "once and leaves earlier turns as they were",
            "check the roles; or give the model another chat_template.jinja",
        )


def with_fixed_date(template: str) -> str:
    """The template, which tells `_DATE` where it would tell the day."""
    if "strftime_now" not in template:
        return template
    return f"{{%- macro strftime_now(format) -%}}{_DATE}{{%- endmacro -%}}" + template


def _messages(shapes: Sequence[Shape], in_parts: bool) -> list[dict[str, Any]]:
    """The turns as a template takes them, with a mark for each text."""
    found: list[dict[str, Any]] = []
    number = 0
    for shape in shapes:
        content: list[dict[str, str]] = []
        for kind in shape.parts:
            mark = f"\n\x0b{_OPEN}{number}{_CLOSE}\x0b\n"
            content.append({"type": "text", "text": mark} if kind == "text" else {"type": "image"})
            number += kind == "text"
        found.append({"role": shape.role, "content": content if in_parts else content[0]["text"]})
    return found


def _speakers(shapes: Sequence[Shape]) -> str:
    return ", ".join(shape.role for shape in shapes) or "nobody"
