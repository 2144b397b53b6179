"""The tokenizer of a pipeline: learned from the data, or read from a package, a folder or a run."""

from collections.abc import Iterable
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.dataset import texts_of
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.chat_folder import read_chat_tokenizer
from chiasm.data.tokenizers.clip_bpe import BPE_FILE, read_clip_words
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer, read_pretrained_tokenizer
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.encoders.base import (
    ChatTokenizerSource,
    FolderTokenizer,
    LearnedTokenizer,
    PackagedTokenizer,
    TextTowerConfig,
)
from chiasm.pipeline.config import PipelineConfig, read_pipeline_config


def make_tokenizer(config: PipelineConfig, examples: Iterable[Example]) -> TextTokenizer:
    """The text encoder's own tokenizer, or one learned from the texts of the examples."""
    text, source = config.model.text, config.model.text.tokenizer()
    if isinstance(source, LearnedTokenizer):
        return TextTokenizer.train(texts_of(examples), source.vocabulary, text.max_tokens, config.data.languages)
    return pretrained_tokenizer(text)


def pretrained_tokenizer(text: TextTowerConfig) -> TextTokenizer:
    """The tokenizer that a pre-trained text encoder brings, cut at `max_tokens`.

    Raises:
        InputError: the encoder learns its tokenizer; or its network cannot read texts of that length, or has fewer
            token embeddings than its tokenizer has tokens.
    """
    source = text.tokenizer()
    if isinstance(source, FolderTokenizer):
        return _from_folder(source, text.max_tokens)
    if isinstance(source, ChatTokenizerSource):
        return read_chat_tokenizer(source.folder(), text.max_tokens, source.takes_images)
    if isinstance(source, LearnedTokenizer):
        raise InputError(
            f"a tokenizer for model.text.kind {text.kind!r}, without texts to learn it from",
            "an encoder that brings its tokenizer",
            "--set model.text.kind=minilm, or give training data",
        )
    if source.is_wrap_stored:
        return PretrainedTokenizer(source.load(), text.max_tokens, source.before, source.after, source.pad, source.mask)
    return TextTokenizer(source.load(), text.max_tokens, _wrap(source), source.pad)


def tokenizer_from(config: PipelineConfig, folder: Path) -> TextTokenizer:
    """Read the tokenizer of a run folder."""
    text, source = config.model.text, config.model.text.tokenizer()
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if isinstance(source, LearnedTokenizer):
        return TextTokenizer.from_json(content, text.max_tokens)
    if isinstance(source, PackagedTokenizer) and not source.is_wrap_stored:
        return TextTokenizer.from_json(content, text.max_tokens, _wrap(source))
    if isinstance(source, ChatTokenizerSource):
        return ChatTokenizer.from_json(content, text.max_tokens)
    return PretrainedTokenizer.from_json(content, text.max_tokens)


def has_tokenizer_for(config: PipelineConfig, folder: Path) -> bool:
    """Whether the tokenizer of a run folder is of the kind that the config's text tower reads.

    A run whose image tower alone is taken, such as one with a text encoder for a language model that brings its own
    words, has none.
    """
    return type(read_pipeline_config(folder).model.text.tokenizer()) is type(config.model.text.tokenizer())


def _wrap(source: PackagedTokenizer) -> tuple[str, str]:
    (before,), (after,) = source.before, source.after
    return before, after


def _from_folder(source: FolderTokenizer, max_tokens: int) -> PretrainedTokenizer:
    limits, folder = source.limits(), source.folder
    is_wrong = max_tokens != limits.max_tokens if limits.pads_to_max else max_tokens > limits.max_tokens
    if is_wrong:
        longest = limits.max_tokens
        raise InputError(
            f"model.text.max_tokens is {max_tokens} for {folder}",
            f"{longest}, on which the network was trained" if limits.pads_to_max else f"at most {longest}",
            f"--set model.text.max_tokens={longest}",
        )
    has_merges = source.has_clip_merges and (folder / BPE_FILE).is_file()
    if has_merges and not (folder / "tokenizer.json").is_file():
        found = read_clip_words(folder / BPE_FILE, max_tokens)
    else:
        found = read_pretrained_tokenizer(folder, max_tokens, limits.pads_to_max)
    if found.vocabulary > limits.vocabulary:
        raise InputError(
            f"{folder}: the tokenizer has {found.vocabulary} tokens, the network {limits.vocabulary}",
            "a tokenizer and weights of one model",
            "take both from the same place",
        )
    return found
