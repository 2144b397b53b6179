"""The small language model of `scenes_language.py`: what its folder holds, and a run through it, from end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra [llm]")

from chiasm.core.types import IMAGE_ID, Turn
from chiasm.data.tokenizers.chat_folder import read_chat_tokenizer
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.language_model import LanguageModel, LanguageModelConfig
from small_language_model import write_language_model

TEXTS = ["is there a red circle?", "yes", "a small red circle top left, a large blue square center"] * 4
ROOT = Path(__file__).resolve().parents[2]


def test_a_question_costs_two_tokens_beside_its_own(tmp_path: Path) -> None:
    """Guards against roles that are spelled in bytes, which doubled the tokens of a scene."""
    weights = write_language_model(tmp_path, TEXTS, vocabulary=320, dim=64, layers=1)
    tokenizer = read_chat_tokenizer(tmp_path, 64)
    spans = tokenizer.conversation([Turn("user", "<image>is there a red circle?"), Turn("assistant", "yes")])
    own = tokenizer.tokenizer.encode("is there a red circle?", add_special_tokens=False).ids
    user, end, assistant = (tokenizer.tokenizer.token_to_id(one) for one in ("<|user|>", "<|end|>", "<|assistant|>"))
    (yes,) = tokenizer.tokenizer.encode("yes", add_special_tokens=False).ids
    assert spans.ids == [user, IMAGE_ID, *own, end, assistant, yes, end]
    assert spans.is_counted == [False] * (len(own) + 4) + [True, True]
    network = LanguageModelConfig(name=str(tmp_path), precision="fp32").build(
        EncoderShape(dim=8, heads=1, vocabulary=1)
    )
    assert isinstance(network, LanguageModel) and network.dim == 64
    assert sum(parameter.numel() for parameter in network.parameters()) == weights


def test_a_seed_decides_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_language_model(tmp_path / name, TEXTS, vocabulary=320, dim=64, layers=1, seed=seed)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == again and first != other


@pytest.mark.long
def test_scenes_are_learned_captions_first(tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a benchmark that breaks when configs change, which nobody sees until half an hour is over."""
    script, out = ROOT / "benchmarks" / "scenes_language.py", tmp_path / "scores.json"
    subprocess.run([sys.executable, str(script), str(tiny_run), "--tiny", "--json", str(out)], check=True, cwd=tmp_path)
    scores = json.loads(out.read_text())["metrics"]
    assert {"vqa_accuracy", "caption_truth"} <= scores.keys() and out.with_suffix(".html").is_file()
