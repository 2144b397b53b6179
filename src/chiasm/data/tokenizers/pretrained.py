"""The tokenizer of a pre-trained text network, in place of one learned from the data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.files import read_json
from chiasm.core.types import TextTokens
from chiasm.data.tokenizers.wordpiece import TextTokenizer


class PretrainedTokenizer(TextTokenizer):
    """Texts -> ids as the network was trained on them: its own pieces, with its special tokens before and after.

    Padding stands on the right. Special tokens are never made from a user's text.

    Args:
        tokenizer: the pieces.
        max_tokens: longest text, special tokens included; what is longer is cut, and counted in `num_truncated`.
        before: special tokens before each text; may be empty (XLNet).
        after: special tokens after it.
        pad: the padding token.
        mask: the token that stands for a hidden word; "" where the network knows none.
        pads_to_max: every text is padded to `max_tokens`, as SigLIP was trained.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        before: Sequence[str],
        after: Sequence[str],
        pad: str,
        mask: str = "",
        pads_to_max: bool = False,
    ) -> None:
        ends = (before[0] if before else pad, after[-1] if after else pad)
        super().__init__(tokenizer, max_tokens, ends, pad)
        self.before, self.after, self.mask, self.pads_to_max = tuple(before), tuple(after), mask, pads_to_max
        self._before_ids, self._after_ids = [self._id(one) for one in before], [self._id(one) for one in after]
        if max_tokens <= len(before) + len(after):
            raise InputError(
                f"model.text.max_tokens is {max_tokens}",
                f"more than the {len(before) + len(after)} special tokens of this tokenizer",
                "--set model.text.max_tokens=64",
            )

    @classmethod
    def from_json(cls, text: str, max_tokens: int, wrap: tuple[str, str] = ("", "")) -> "PretrainedTokenizer":
        """Rebuild from `to_json`; `wrap` is part of what is stored."""
        stored = json.loads(text)
        names = {"tokenizer", "before", "after", "pad", "mask", "pads_to_max"}
        if not isinstance(stored, dict) or set(stored) != names:
            raise InputError(
                "the stored tokenizer is another kind's", "that of a pre-trained text tower", "check init_from"
            )
        tokenizer = Tokenizer.from_str(json.dumps(stored.pop("tokenizer")))
        return cls(tokenizer, max_tokens, **stored)

    def to_json(self) -> str:
        """Everything that decides the ids, as JSON."""
        told: dict[str, Any] = {"tokenizer": json.loads(self.tokenizer.to_str())}
        told |= {"before": self.before, "after": self.after, "pad": self.pad, "mask": self.mask}
        return json.dumps(told | {"pads_to_max": self.pads_to_max}, ensure_ascii=False)

    @property
    def mask_id(self) -> int:
        """Id that stands for a hidden word.

        Raises:
            InputError: the network knows no such token.
        """
        if not self.mask:
            raise InputError("this text tower has no mask token", "one that has, such as BERT", "choose another tower")
        return self._id(self.mask)

    @property
    def padded_tokens(self) -> int | None:
        """See `TextTokenizer.padded_tokens`."""
        return self.max_tokens if self.pads_to_max else None

    def pieces(self, text: str) -> list[int]:
        """Token ids of the words of one text, all of them."""
        readable = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.tokenizer.encode(readable, add_special_tokens=False).ids)

    def padded_length(self, length: int) -> int:
        """`length`, or `max_tokens` with `pads_to_max`."""
        return self.max_tokens if self.pads_to_max else length

    def batch(self, texts: Sequence[str]) -> TextTokens:
        """Pad to the longest text given, or to `max_tokens` with `pads_to_max`: ids int64 [m, l], is_real bool."""
        rows = [self.ids(text) for text in texts]
        width = self.padded_length(max(map(len, rows), default=1))
        width = max(width, 1)
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows])
        return TextTokens(ids.view(len(rows), width), torch.arange(width) < lengths[:, None])


def read_pretrained_tokenizer(folder: Path, max_tokens: int, pads_to_max: bool) -> PretrainedTokenizer:
    """Read the tokenizer of a folder in Hugging Face layout; nothing is downloaded and no code of it is run.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: no tokenizer, or one that only another package can read.
    """
    return _wrapped(*open_tokenizer(folder), folder, max_tokens, pads_to_max)


def open_tokenizer(folder: Path) -> tuple[Any, Tokenizer]:
    """The tokenizer of a folder as transformers reads it, and its pieces; raises as `read_pretrained_tokenizer`."""
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError:
        raise MissingExtraError("transformers", "hf") from None
    said = ""
    # A class that needs an absent package (sentencepiece) may still have its tokenizer.json beside it.
    for kind in (AutoTokenizer, PreTrainedTokenizerFast):
        if kind is PreTrainedTokenizerFast and not (folder / "tokenizer.json").is_file():
            break
        try:
            found = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of many types
            said = " ".join(str(error).split())[:200]
            continue
        pieces = getattr(found, "backend_tokenizer", None)
        # Without its vocabulary, transformers makes a tokenizer of special tokens alone and says nothing.
        has_words = any((folder / name).is_file() for name in found.vocab_files_names.values())
        if pieces is not None and has_words:
            return found, pieces
    raise InputError(
        f"{folder} has no tokenizer that can be read here" + (f" ({said})" if said else ""),
        "tokenizer.json, or the vocabulary files of a fast tokenizer",
        "where the model was made: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )


def _check_lower_case(pieces: Tokenizer, folder: Path) -> None:
    """Refuse a tokenizer that should lower its texts and does not.

    SigLIP's does so in code that needs sentencepiece; the tokenizer.json beside it may lack the step, and every capital
    would then be another piece than in training.
    """
    path = folder / "tokenizer_config.json"
    told = read_json(path, "the tokenizer's config") if path.is_file() else {}
    if told.get("do_lower_case") is not True:
        return
    small, large = (pieces.encode(text, add_special_tokens=False).ids for text in ("a dog", "A DOG"))
    if small != large:
        raise InputError(
            f"{folder}: tokenizer_config.json says do_lower_case, and tokenizer.json keeps capitals",
            "one that lowers texts as in training; otherwise other words are read and nothing fails",
            "where sentencepiece is installed: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)",
        )


def tokens_around(pieces: Tokenizer) -> tuple[list[str], list[str]]:
    """Special tokens that the tokenizer puts before and after a text."""
    encoding = pieces.encode("a", add_special_tokens=True)
    bare = len(pieces.encode("a", add_special_tokens=False).ids)
    is_special = [bool(one) for one in encoding.special_tokens_mask]
    start = is_special.index(False) if False in is_special else 0
    return list(encoding.tokens[:start]), list(encoding.tokens[start + bare :])


def _wrapped(found: Any, pieces: Tokenizer, folder: Path, max_tokens: int, pads_to_max: bool) -> PretrainedTokenizer:
    """Take apart what the tokenizer puts around a text."""
    if found.pad_token is None:
        raise InputError(f"{folder}: the tokenizer has no padding token", "one that has", "set pad_token in its config")
    before, after = tokens_around(pieces)
    own = Tokenizer.from_str(pieces.to_str())
    _check_lower_case(own, folder)
    return PretrainedTokenizer(own, max_tokens, before, after, found.pad_token, found.mask_token or "", pads_to_max)
