"""Tokenizer, chat template and prompt layout of a folder in Hugging Face layout -> `ChatTokenizer`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.chat_template import PLAIN_TEMPLATE, PROMPT_LAYOUTS, ChatFormat, ChatLayout
from chiasm.data.tokenizers.pretrained import open_tokenizer, tokens_around


def read_chat_tokenizer(folder: Path, max_tokens: int, takes_images: bool = False) -> ChatTokenizer:
    """Read the tokenizer and chat template of a causal language model in Hugging Face layout, from disk alone.

    With `takes_images` the folder holds a network of images and words, whose template writes a token of its own for an
    image.

    Where the model has no padding token, its end token pads (`is_real` tells them apart), then its unknown token. A
    model without chat template gets `PLAIN_TEMPLATE`.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: no tokenizer that can be read, or one without a token that ends a text.
    """
    found, pieces = open_tokenizer(folder)
    own = Tokenizer.from_str(pieces.to_str())
    before, after = tokens_around(own)
    ends = _end_tokens(folder, own, found.eos_token or (after[-1] if after else None))
    if not ends:
        raise InputError(f"{folder}: no token ends a text", "eos_token in tokenizer_config.json", "set it there")
    template = found.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    specials = {name: token for name, token in found.special_tokens_map.items() if isinstance(token, str)}
    specials.setdefault("eos_token", ends[0])
    form = ChatFormat(template or "", specials, ends, folder.name)
    if takes_images:
        form = _with_images(form, folder, own, found.bos_token, before)
    elif not template:
        form = replace(form, template=PLAIN_TEMPLATE, specials=specials | {"start_tokens": "".join(before)})
    tokens = (found.pad_token, form.ends[0], found.unk_token)
    pad = next(one for one in tokens if one and own.token_to_id(one) is not None)
    return ChatTokenizer(own, max_tokens, before, pad, form)


def _with_images(
    form: ChatFormat, folder: Path, pieces: Tokenizer, start: str | None, before: Sequence[str]
) -> ChatFormat:
    """The format of a network of images and words: its template, or the layout of its processor."""
    config = read_json(folder / "config.json", "the model's config")
    image = _image_token(folder, pieces)
    specials = {**form.specials, "image_token": image}
    layout = PROMPT_LAYOUTS.get(str(config.get("model_type"))) if not form.template else None
    if layout is not None:
        # What ends an answer is the language model's own to say, such as the line break of BLIP-2's OPT.
        own = pieces.id_to_token((config.get("text_config") or {}).get("eos_token_id") or -1)
        ends = _end_tokens(folder, pieces, own) or form.ends
        specials |= {"behind_prompt": layout.behind_prompt, "before_answer": layout.before_answer}
        number = pieces.token_to_id(ends[0])
        assert number is not None, "the token of an id"
        specials["eos_token"] = pieces.decode([number], skip_special_tokens=False)
        form = replace(form, template=layout.template, specials=specials, ends=ends, image=image)
        return replace(form, sees_ahead=layout.sees_ahead, wordings=layout.wordings)
    form = replace(form, template=form.template or _stored_template(folder), specials=specials, image=image)
    first = ChatLayout(form, [token.content for token in pieces.get_added_tokens_decoder().values()]).start
    if start and first.startswith(start):
        return form
    # As transformers' processors do: the tokenizer's own start, unless the template writes it.
    specials["start_tokens"] = "".join(before)
    return replace(form, template="{{ start_tokens }}" + form.template, specials=specials)


def _stored_template(folder: Path) -> str:
    """The template that older folders keep in chat_template.json."""
    path = folder / "chat_template.json"
    told = read_json(path, "the chat template").get("chat_template") if path.is_file() else None
    if isinstance(told, str) and told:
        return told
    raise InputError(
        f"{folder} has no chat template",
        "chat_template.jinja, chat_template.json, or one in tokenizer_config.json: a guessed one gives bad answers",
        "take the file from the model's page",
    )


def _image_token(folder: Path, pieces: Tokenizer) -> str:
    """The token that stands for an image, as the config says."""
    told = read_json(folder / "config.json", "the model's config")
    number = told.get("image_token_id", told.get("image_token_index"))
    found = pieces.id_to_token(number) if isinstance(number, int) and number >= 0 else None
    if found is None:
        raise InputError(
            f"{folder}: image_token_id is {number!r}, and the tokenizer has no such token",
            "the id of the token that stands for an image",
            "take config.json and the tokenizer of one model",
        )
    return str(found)


def _end_tokens(folder: Path, pieces: Tokenizer, eos: str | None) -> tuple[str, ...]:
    """The tokenizer's end token, and those of the generation config and config."""
    found: list[str | None] = [eos] if eos and pieces.token_to_id(eos) is not None else []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        told = read_json(path, "the model's config") if path.is_file() else {}
        number = told.get("eos_token_id")
        ids = number if isinstance(number, list) else [number]
        found += [pieces.id_to_token(one) for one in ids if isinstance(one, int)]
    return tuple(dict.fromkeys(one for one in found if one))
