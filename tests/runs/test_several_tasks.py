"""How tasks get along in one run: cosines that are logged, variances that learn, and looks that change nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from small import small_config, start, weights_that_count, without_noise

from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig
from chiasm.train.weighting import LossCombiner

PAIRS = {"cosine/retrieval~vqa", "cosine/retrieval~captioning", "cosine/vqa~captioning"}


def steps(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "loss" in row]


def last(folder: Path) -> dict[str, torch.Tensor]:
    return weights_that_count(max((folder / "checkpoints").glob("step-*")))


def five(**train: Any) -> RunConfig:
    settings = {"steps": 5, "validate_every": 5, "checkpoint_every": 5, "lr": 3e-4, "ema_decay": 0.0}
    return without_noise(small_config(**{**settings, **train}))


def test_looking_at_conflicts_logs_them_and_changes_nothing(tmp_path: Path) -> None:
    """Guards against a look in every step, and one that moves weights that no task reaches (the absent tokens)."""
    start(five(weight_decay=0.5), tmp_path / "blind")
    start(five(weight_decay=0.5, conflict_every=2), tmp_path / "looking")
    looked = steps(tmp_path / "looking")
    assert [row["step"] for row in looked if set(row) >= PAIRS] == [1, 3, 5]
    assert not any(name.startswith("cosine/") for row in looked if row["step"] in (2, 4) for name in row)
    assert all(-1 <= row[name] <= 1 and row[name] != 0 for row in looked for name in PAIRS & set(row))
    assert not any(name.startswith("cosine/") for row in steps(tmp_path / "blind") for name in row)
    torch.testing.assert_close(last(tmp_path / "looking"), last(tmp_path / "blind"), rtol=1e-4, atol=1e-5)
    first = safetensors.torch.load_file(tmp_path / "blind" / "checkpoints" / "step-00000000" / "model.safetensors")
    absent = [name for name in first if name.startswith("fusion.absent.")]
    assert absent and all(torch.equal(last(tmp_path / "looking")[name], first[name]) for name in absent)


def test_learned_variances_learn_and_are_saved(tmp_path: Path) -> None:
    """Guards against variances that stay at their start, and a run folder that forgets them."""
    start(five(weighting="uncertainty", lr=3e-3), tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    found = {name: float(value) for name, value in saved.items() if name.startswith("task_log_variance.")}
    assert set(found) == {f"task_log_variance.{task}" for task in ("retrieval", "vqa", "captioning")}
    # Losses above 1 are doubted more: their s rises towards log L.
    assert all(value > 1e-4 for value in found.values()), found
    row = steps(tmp_path)[0]
    weighed = 0.5 * row["retrieval_loss"] + row["vqa_loss"] + row["captioning_loss"]
    assert abs(row["loss"] - weighed) < 1e-4, "at the start every variance is 1"


def test_a_task_without_its_words_leaves_the_others_alone(tmp_path: Path, monkeypatch: Any) -> None:
    """Guards against a missing gradient of a task that finds nothing in a batch, where gradients are compared."""
    config = five(weighting="pcgrad", steps=2)
    config = replace(
        config, primary_metric="vqa_accuracy", tasks={"vqa": VqaConfig(), "captioning": CaptioningConfig()}
    )
    inner = LossCombiner.backward

    def silent(self: LossCombiner, model: Any, losses: Any, share: float, step: int) -> torch.Tensor:
        return inner(self, model, {**losses, "captioning": losses["captioning"] * 0}, share, step)

    with monkeypatch.context() as patch:
        patch.setattr(LossCombiner, "backward", silent)
        start(config, tmp_path)
    assert [row["cosine/vqa~captioning"] for row in steps(tmp_path)] == [0, 0]
