"""Sentences that stand for a class: one for training on labels, several together for naming classes never trained on.

A model that reads sentences finds a class better by a sentence than by its bare name, and better still by the mean of
several sentences' vectors (Radford et al. 2021, section 3.1.4). The sentences here are our own.
"""

from collections.abc import Iterable, Sequence

from chiasm.core.errors import InputError, nearest
from chiasm.data.script import language_of

PROMPT_SETS: dict[str, tuple[str, ...]] = {
    "photos_en": (
        "a photo of a {label}.",
        "a photo that shows a {label}.",
        "there is a {label} in this picture.",
        "a {label}, seen from nearby.",
        "a {label} in the distance.",
        "a {label} where one would expect it.",
        "a blurred photo of a {label}.",
        "a tiny photo of a {label}.",
        "the {label} fills the whole picture.",
        "a picture of {label}, its kind and its look.",
    ),
    "photos_zh": (
        "一张{label}的照片。",
        "照片里有{label}。",
        "这是{label}。",
        "近处的{label}。",
        "远处的{label}。",
        "一张模糊的{label}照片。",
        "一张很小的{label}照片。",
        "画面中间是{label}。",
    ),
    "drawings_en": (
        "a drawing of a {label}.",
        "an icon that means {label}.",
        "a simple picture of a {label} on white.",
        "a sign for {label}.",
        "{label}, drawn in a few lines.",
        "{label}",
    ),
    "drawings_zh": (
        "一幅{label}的图画。",
        "表示{label}的图标。",
        "白底上的{label}简图。",
        "{label}的符号。",
        "寥寥几笔画成的{label}。",
        "{label}",
    ),
}
"""Word that may stand in `data.label_prompts` and `--prompt` -> the sentences it stands for."""


def expanded(prompts: Iterable[str]) -> tuple[str, ...]:
    """Sentences with `{label}`, in which words of `PROMPT_SETS` are replaced by what they stand for.

    Raises:
        InputError: one that does not say where the label belongs, and is no word of the table.
    """
    found: list[str] = []
    for prompt in prompts:
        if prompt in PROMPT_SETS:
            found += PROMPT_SETS[prompt]
        elif "{label}" in prompt:
            found.append(prompt)
        else:
            raise InputError(
                f"the prompt {prompt!r} does not say where the label belongs{nearest(prompt, PROMPT_SETS)}",
                f'a sentence with {{label}}, such as "a photo of a {{label}}.", or one of {", ".join(PROMPT_SETS)}',
                "write {label} where the label belongs",
            )
    return tuple(dict.fromkeys(found))


def prompts_for(labels: Iterable[str], own: Sequence[str]) -> tuple[str, ...]:
    """The sentences that labels are put into: those of `own` in the labels' language, or packaged ones where none is.

    One Chinese label makes all of them Chinese.
    """
    language = "zh" if any(language_of(label) == "zh" for label in labels) else "en"

    def fits(prompt: str) -> bool:
        around = prompt.replace("{label}", "")
        return language_of(around) == language or not any(letter.isalpha() for letter in around)

    return tuple(filter(fits, expanded(own))) or PROMPT_SETS[f"photos_{language}"]


def filled(prompt: str, label: str) -> str:
    """The sentence with the label in it, "_" read as a space and "a" written "an" where a vowel follows."""
    words = label.replace("_", " ")
    if words[:1].lower() in tuple("aeiou"):
        prompt = prompt.replace(" a {label}", " an {label}")
        prompt = f"an {prompt[2:]}" if prompt.startswith("a {label}") else prompt
    return prompt.replace("{label}", words)
