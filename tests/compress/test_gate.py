"""The gate compares item by item, counts points as it says, and refuses what loses more."""

from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.compress import gate
from chiasm.compress.gate import AS_IT_WAS, Candidate, cosines, judge, refusal, sizes, unsure, vectors_of
from chiasm.core.errors import InputError
from chiasm.core.types import Example, Score
from chiasm.metrics.paired import PairedResult
from chiasm.models.packing import FILE
from chiasm.pipeline.pipeline import Pipeline
from chiasm.report.compression import Variant


def loses(points: float, low: float = -1.0, high: float = -1.0) -> PairedResult:
    return PairedResult(-points / 100, low, high, 0.5, 300)


def test_a_loss_is_refused_above_the_limit_alone() -> None:
    """Guards against a sign or a factor of a hundred: a better model is never refused, 1.01 points at 1 always."""
    assert refusal("int8", "acc1", loses(1.01), 1.0) and not refusal("int8", "acc1", loses(0.99), 1.0)
    assert not refusal("int8", "acc1", loses(-5), 0.0) and refusal("int8", "acc1", loses(0.01), 0.0)
    message = refusal("int8", "acc1", loses(3, -0.045, -0.012), 1.0)
    assert "3.00 points of acc1" in message and "1.20 to 4.50" in message and "n 300" in message


def test_what_is_not_a_number_does_not_pass() -> None:
    """Guards against a comparison that is false for NaN, and lets a broken model through."""
    assert refusal("int8", "acc1", PairedResult(float("nan"), 0.0, 0.0, 1.0, 3), 1.0)


def test_a_split_too_small_to_exclude_a_loss_is_told() -> None:
    """Guards against a pass on thirty items that is taken for a proof."""
    known = {"folder_bytes": 1, "whole_bytes": 1, "latency_s": {}, "memory_bytes": 1}
    score = Score(0.5, 0.4, 0.6, 30)
    wide = Variant(name="int8", score=score, difference=loses(0, -0.035, 0.03), **known)
    assert "3.50 points" in unsure(wide, 1.0) and unsure(wide, 4.0) == ""


def test_cosines_are_those_of_rows() -> None:
    """Guards against a cosine of whole matrices, where a single turned vector does not show."""
    first = np.eye(4, 5)
    turned = first.copy()
    turned[2] = -turned[2]
    assert cosines([first], [first]) == (1.0, 1.0)
    assert cosines([first], [turned]) == (0.5, -1.0)
    assert cosines([first, np.zeros((1, 3))], [2 * first, np.zeros((1, 3))]) == (1.0, 1.0)


def test_vectors_are_those_of_the_shared_space(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a comparison of vectors that no search uses."""
    images, texts = vectors_of(pipeline, examples)
    model, width = pipeline.model, pipeline.config.model.embedding_dim
    expected = model.embed_image(pipeline.encode_images([one.inputs["image"] for one in examples]))
    assert np.allclose(images, expected.detach().numpy(), atol=1e-6)
    assert texts.shape[1] == width and np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def test_sizes_count_what_the_folder_has(pipeline: Pipeline, examples: list[Example], tmp_path: Path) -> None:
    """Guards against a size of the whole folder, reports and checkpoints included."""
    pipeline.save(tmp_path, examples[0], {"report.html": b"x" * 10_000_000})
    stored = (tmp_path / FILE).stat().st_size
    assert sizes(pipeline, tmp_path) == (stored, stored)


def test_a_ruined_model_is_refused_and_a_copy_passes(
    pipeline: Pipeline, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a gate that lets everything through: the ruined model answers the opposite of the first."""
    monkeypatch.setattr(gate, "peak_memory_bytes", lambda folder: 1)
    monkeypatch.setattr(gate, "timed", lambda pipelines, requests: [(0.1, 0.2)] * len(pipelines))
    right = [example.questions[0].answers[0] for example in examples]
    with torch.no_grad():  # The head's bias alone decides: the most common right answer.
        head = pipeline.model.heads["vqa"]
        last = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.zero_()
        last.bias[pipeline.codec.answers.index(max(set(right), key=right.count))] = 5.0
    pipeline.save(tmp_path / "run", examples[0], {})
    first, same, ruined = (Pipeline.load(tmp_path / "run", torch.device("cpu")) for _ in range(3))
    with torch.no_grad():
        layers = [layer for layer in ruined.model.heads["vqa"].modules() if isinstance(layer, torch.nn.Linear)]
        layers[-1].bias.neg_()
    names = {AS_IT_WAS: first, "same": same, "ruined": ruined}
    candidates = [Candidate(name, one, tmp_path / "run", examples) for name, one in names.items()]
    before, copy, broken = judge(candidates[0], candidates[1:], 1.0)
    assert before.difference is None and copy.difference is not None and copy.difference.difference == 0
    assert copy.refusal == "" and copy.cosine == pytest.approx((1, 1), abs=1e-9)
    assert before.score.value > broken.score.value and "ruined loses" in broken.refusal
    assert copy.latency_s == {1: (0.1, 0.2), 16: (0.1, 0.2)}


def test_a_split_without_the_primary_metric_is_refused(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a gate that passes because there was nothing to compare."""
    import dataclasses

    bare = [dataclasses.replace(example, questions=()) for example in examples]
    with pytest.raises(InputError, match="vqa_accuracy"):
        judge(Candidate(AS_IT_WAS, pipeline, Path(), bare), [], 1.0)
