"""Conversations for a language model: captions, questions and labels by templates, and checks of those that files hold.

`TEMPLATES` has every sentence that a model is asked with. Wording 0 of a list is used for evaluation and serving;
training draws one by a counter-based seed. The instruction for short answers follows LLaVA-1.5 (Liu et al. 2023,
section 3.2): without one, a model that learns from short answers alone gives short answers to everything. Unlike there
it stands before the question, so that all questions about an image share it (`tasks.conversation_packing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng, counter_seed
from chiasm.core.types import IMAGE_PLACEHOLDER, Caption, Example, Question, Role, Source, Turn
from chiasm.data.dataset import choose_captions
from chiasm.data.modalities.image import images_of
from chiasm.data.script import language_of

Kind = Literal["caption", "question", "label"]
SeedKey = tuple[int | str, ...]
"""Counters that a wording is drawn by, such as (seed, epoch, example id)."""
EVALUATION: SeedKey = ()
"""The key that takes wording 0."""
Wordings = Mapping[str, str]
"""Kind -> the one wording that a network was trained with, which replaces those of `TEMPLATES` in every language;
`{language}` becomes the ISO 639-1 code, `{question}` the question (`data.tokenizers.chat_template.ChatFormat`)."""
NO_WORDINGS: Wordings = {}


@dataclass(frozen=True, slots=True)
class Templates:
    """The wordings of one language.

    `{shown}` becomes `one_image` or `images`; `{question}` the question.

    Attributes:
        one_image, images: what a single image and several images are called.
        captions: ask for a sentence about the image.
        short_answers: a question, and that the answer be short.
        labels: ask for the name of a class.
    """

    one_image: str
    images: str
    captions: tuple[str, ...]
    short_answers: tuple[str, ...]
    labels: tuple[str, ...]


TEMPLATES: Mapping[str, Templates] = {
    "en": Templates(
        "this image",
        "these images",
        (
            "Describe {shown} in one sentence.",
            "Write a one-sentence caption for {shown}.",
            "What can be seen in {shown}? Answer in one sentence.",
            "In one short sentence: what is the content of {shown}?",
            "Give a short description of {shown}.",
            "Summarise the content of {shown} in a sentence.",
            "Tell me in one sentence what is going on in {shown}.",
        ),
        (
            "Answer with a single word or phrase.\n{question}",
            "Give a short answer.\n{question}",
            "Answer in as few words as possible: {question}",
        ),
        (
            "What is shown? Answer with a class name.",
            "Which class does {shown} belong to? Answer with its name alone.",
            "Classify {shown}. Give only the name of the class.",
        ),
    ),
    "zh": Templates(
        "这张图片",
        "这些图片",
        (
            "用一句话描述{shown}。",
            "请为{shown}写一句说明。",
            "{shown}里有什么？请用一句话回答。",
            "简要说明{shown}的内容。",
            "请简短地描述{shown}。",
            "用一句话概括{shown}。",
            "请用一句话告诉我{shown}里正在发生什么。",
        ),
        (
            "请用一个词或短语回答。\n{question}",
            "请简短回答。\n{question}",
            "请用尽量少的字回答：{question}",
        ),
        (
            "图中是什么？请用类别名称回答。",
            "{shown}属于哪一类？只回答类别名称。",
            "请对{shown}分类，只给出类别名称。",
        ),
    ),
}
"""Language -> its wordings. A text in another language is asked for in English, with `IN_LANGUAGE` behind it."""
IN_LANGUAGE = " Answer in {language}."
LANGUAGE_NAMES: Mapping[str, str] = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""ISO 639-1 code -> English name."""
SHORT_WORDS, SHORT_LETTERS = 4, 12
"""Most words, and most letters of a text without spaces (Chinese), of an answer that is asked for as short."""


class TurnsError(InputError):
    """A conversation that cannot be trained on.

    Args:
        code: as the ledger counts it: "no_turns", "roles", "empty_turn", "empty_answer" or "placeholders".
        reason: what is wrong, without the place.
        source: the place.
        allowed: what would have been accepted.
    """

    def __init__(self, code: str, reason: str, source: Source, allowed: str) -> None:
        self.code, self.reason = code, reason
        super().__init__(f"{source}: {reason}", allowed, "repair the conversation, or leave it out")


def prompt_turns(
    kind: Kind,
    images: int,
    language: str = "",
    question: str = "",
    key: SeedKey = EVALUATION,
    short: bool = True,
    own: Wordings = NO_WORDINGS,
) -> tuple[Turn, ...]:
    """The user's turn that asks for a caption, an answer or a class, without the assistant's.

    Args:
        kind: what is asked for.
        images: number of images, whose placeholders stand first.
        language: ISO 639-1 code of what is asked for; "" is English.
        question: text of the question, of the kind "question" alone.
        key: draws the wording; `EVALUATION` takes wording 0.
        short: of a question, whether a short answer is asked for; else the question is asked as it is.
        own: the network's own wordings.
    """
    assert (kind == "question") == bool(question), "a question has a text, and nothing else has"
    if kind in own:
        text = own[kind].replace("{language}", language or "en")
        return (_user(images, text, question),)
    templates = TEMPLATES.get(language, TEMPLATES["en"])
    by_kind = {"caption": templates.captions, "label": templates.labels, "question": templates.short_answers}
    wordings = by_kind[kind] if short or kind != "question" else ("{question}",)
    wording = wordings[counter_seed("wording", kind, *key) % len(wordings)] if key else wordings[0]
    text = wording.replace("{shown}", templates.one_image if images == 1 else templates.images)
    if language and language not in TEMPLATES:
        text += IN_LANGUAGE.replace("{language}", LANGUAGE_NAMES.get(language, language))
    return (_user(images, text, question),)


def caption_turns(
    caption: Caption, images: int, key: SeedKey = EVALUATION, own: Wordings = NO_WORDINGS
) -> tuple[Turn, ...]:
    """A caption as a conversation: the user asks for a sentence in the caption's language, the assistant says it."""
    return *prompt_turns("caption", images, caption.language, key=key, own=own), _answer(caption.text)


def question_turns(
    question: Question, answer: str, images: int, key: SeedKey = EVALUATION, own: Wordings = NO_WORDINGS
) -> tuple[Turn, ...]:
    """A question as a conversation; an answer of few words (`is_short`) is asked for as such."""
    asked = prompt_turns("question", images, question.language, question.text, key, is_short(answer), own)
    return *asked, _answer(answer)


def label_turns(label: str, images: int, language: str = "", key: SeedKey = EVALUATION) -> tuple[Turn, ...]:
    """A class label as a conversation; "_" of the label is read as a space."""
    return *prompt_turns("label", images, language, key=key), _answer(label.replace("_", " "))


def turns_of(
    example: Example, seed: int, epoch: int, captions: int, questions: int, own: Wordings = NO_WORDINGS
) -> list[tuple[Turn, ...]]:
    """All conversations that an example trains on in an epoch.

    Its own conversation stands first; then follow captions and questions, of each up to the given count, drawn anew in
    each epoch. All captions of an example and a language share one wording, and so do all questions: rows that begin
    alike are computed together (`tasks.conversation_packing`). A label is asked for where the example has no other
    words. Captions and labels need an image.

    Args:
        example: any.
        seed: of the run; what is drawn depends on it, on the epoch and on the example's id alone.
        epoch: counted from 0.
        captions: most captions of the epoch.
        questions: most questions of the epoch.
        own: the network's own wordings.
    """
    images = len(images_of(example))
    found = [example.turns] if example.turns else []
    key = seed, epoch, example.id
    if images:
        chosen = choose_captions(example, captions, seed, epoch) if captions else []
        found += [caption_turns(one, images, key, own) for one in chosen]
    asked = _chosen_questions(example, questions, seed, epoch)
    found += [question_turns(one, one.answers[0], images, key, own) for one in asked]
    if example.label and images and not (example.turns or example.captions or example.questions):
        found.append(label_turns(example.label, images, language_of(example.label), key))
    return found


def check_turns(turns: Sequence[Turn], images: int, source: Source, for_training: bool = True) -> tuple[Turn, ...]:
    """Check a conversation about some images, and return it with a placeholder for each.

    Where there are images and no placeholder at all, the images are put before the first turn of the user, as LLaVA's
    files mean it. Any other number of placeholders than that of the images is refused.

    Args:
        turns: perhaps of a system first, then of user and assistant by turns.
        images: number of images of the example.
        source: the place, for the error.
        for_training: the last turn must be the assistant's; else it must be the user's.

    Raises:
        TurnsError: names file and row.
    """
    _check_roles(turns, source, for_training)
    for number, turn in enumerate(turns, 1):
        if not turn.text.strip():
            said = f"the {turn.role}'s words in turn {number} are empty"
            raise TurnsError("empty_answer" if turn.role == "assistant" else "empty_turn", said, source, "words")
        if turn.role != "user" and IMAGE_PLACEHOLDER in turn.text:
            said = f"{IMAGE_PLACEHOLDER} stands in the {turn.role}'s words in turn {number}"
            raise TurnsError("placeholders", said, source, f"{IMAGE_PLACEHOLDER} in the user's words")
    count = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
    if count == images:
        return tuple(turns)
    if count:
        said = f"{count} {IMAGE_PLACEHOLDER} and {images} images"
        allowed = f"as many {IMAGE_PLACEHOLDER} as images, or none, where the images stand first"
        raise TurnsError("placeholders", said, source, allowed)
    first = next(place for place, turn in enumerate(turns) if turn.role == "user")
    shown = Turn("user", _placeholders(images) + turns[first].text)
    return *turns[:first], shown, *turns[first + 1 :]


def is_short(answer: str) -> bool:
    """Whether an answer is of few words: at most `SHORT_WORDS`, or `SHORT_LETTERS` where a script has no spaces."""
    if language_of(answer) in ("zh", "ja"):
        return len(answer) <= SHORT_LETTERS
    return len(answer.split()) <= SHORT_WORDS


def without_placeholder(text: str) -> str:
    """Words of captions and questions: what reads like a placeholder becomes "(image)"."""
    return text.replace(IMAGE_PLACEHOLDER, "(image)")


def _check_roles(turns: Sequence[Turn], source: Source, for_training: bool) -> None:
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    if not spoken:
        raise TurnsError("no_turns", "the conversation has no turn of a user", source, "a question and its answer")
    order: tuple[Role, Role] = "user", "assistant"
    for number, turn in enumerate(spoken):
        if turn.role != order[number % 2]:
            said = f"turn {number + 1 + len(turns) - len(spoken)} is the {turn.role}'s, not the {order[number % 2]}'s"
            raise TurnsError("roles", said, source, "perhaps a system turn, then user and assistant by turns")
    last: Role = "assistant" if for_training else "user"
    if spoken[-1].role != last:
        said = f"the last turn is the {spoken[-1].role}'s, not the {last}'s"
        raise TurnsError("roles", said, source, f"a conversation that ends with the {last}")


def _chosen_questions(example: Example, count: int, seed: int, epoch: int) -> list[Question]:
    """Up to `count` different questions, drawn as `choose_captions` draws captions."""
    if len(example.questions) <= count:
        return list(example.questions)
    chosen = counter_rng("question", seed, epoch, example.id).permutation(len(example.questions))[:count]
    return [example.questions[number] for number in chosen]


def _placeholders(images: int) -> str:
    return f"{IMAGE_PLACEHOLDER}\n" * images


def _user(images: int, text: str, question: str) -> Turn:
    """The images, then the words; the question is put in last, since its own braces are no part of a wording."""
    return Turn("user", _placeholders(images) + text.replace("{question}", without_placeholder(question)))


def _answer(text: str) -> Turn:
    return Turn("assistant", without_placeholder(text))
