"""A contrast over the parts of a step is that of the whole batch: loss, gradient, draws, and what it refuses."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.shared_draws import seed_step
from chiasm.core.types import Batch, Example
from chiasm.data.dataset import ListDataset
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.models.encoders.base import ImageTowerConfig
from chiasm.models.encoders.folder import FolderImageConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.base import Teacher
from chiasm.tasks.contrast import ContrastRows
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train import parts
from chiasm.train.config import RunConfig, TrainConfig, weighed_tasks
from chiasm.train.execution.averaging import AveragedModel
from chiasm.train.gradient_cache import check_exact
from chiasm.train.loader import Loader
from chiasm.train.parts import Step
from chiasm.train.trainer import Hooks, Trainer

SEED = ("step", 0, 3)
CAPTIONS = (2, 0, 1, 3, 1, 1)
"""Captions of each picture: parts have unequally many, and one picture has none."""
CASES = {
    "softmax": RetrievalConfig(captions_per_picture=3),
    "sigmoid": RetrievalConfig(captions_per_picture=3, objective="sigmoid"),
    "additive": RetrievalConfig(captions_per_picture=3, objective="additive"),
    "swapped": RetrievalConfig(captions_per_picture=3, hard_negatives=0.7),
    "distilled": RetrievalConfig(captions_per_picture=3, distil=0.4),
}
CUTS = [(0, 2, 4, 6), (0, 1, 2, 3, 4, 5, 6)]
"""Where the six pictures are cut into parts; with six parts, one of them has a picture and no text."""


def small_run(case: str, dropout: float, **train: Any) -> RunConfig:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    model = replace(demo.model, dim=16, embedding_dim=8, projection_hidden=12, dropout=dropout, image=image)
    settings = {"batch_size": 6, "steps": 1, "lr": 1e-3, "precision": "fp32", "ema_decay": 0.9, **train}
    return replace(demo, model=model, tasks={"retrieval": CASES[case]}, train=TrainConfig(**settings))


def pictures() -> list[Example]:
    """Scenes of which two show the same and two share a sentence."""
    scenes = open_dataset(find_recipe("demo", tiny=True).data, "train", 0)
    found = []
    for number, captions in enumerate(CAPTIONS):
        whole = scenes.example(number)
        said = [replace(one, text=f"{one.text} {more}") for more in ("a", "b", "c") for one in whole.captions[:1]]
        said = [
            replace(one, text="one sentence") if (number, row) in ((0, 0), (4, 0)) else one
            for row, one in enumerate(said)
        ]
        group = "same" if number in (0, 3) else ""
        found.append(replace(whole, id=str(number), captions=tuple(said[:captions]), group=group))
    return found


def built(case: str, dropout: float, image: ImageTowerConfig | None = None) -> tuple[Pipeline, list[Example]]:
    torch.manual_seed(0)
    examples, run = pictures(), small_run(case, dropout)
    if image is not None:
        run = replace(run, model=replace(run.model, image=image))
    pipeline = Pipeline.build(run, examples, torch.device("cpu"))
    pipeline.model.double().train()
    return pipeline, examples


def averaged(pipeline: Pipeline, case: str) -> AveragedModel | None:
    """Another model, as the teacher of momentum distillation."""
    if not CASES[case].distil:
        return None
    names = [name for name, _ in pipeline.model.named_parameters()]
    average = AveragedModel(pipeline.model, names)
    generator = torch.Generator().manual_seed(1)
    for value in average.parameters.values():
        value.add_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.1)
    return average


def cut(pipeline: Pipeline, examples: Sequence[Example], cuts: Sequence[int]) -> list[Batch]:
    pieces = [examples[start:stop] for start, stop in pairwise(cuts)]
    return [make_batch(piece, pipeline.tasks, pipeline.codec, pipeline.config, 0) for piece in pieces]


def loss_and_gradient(
    pipeline: Pipeline, batches: Sequence[Batch], average: AveragedModel | None, is_exact: bool = True
) -> dict[str, Tensor]:
    """The mean over the parts, as an execution plan computes it."""
    model = copy.deepcopy(pipeline.model)
    step = Step(pipeline.tasks, batches, pipeline.device, torch.float64, is_exact, True, SEED)
    values = []
    for part in step.parts():
        losses = part(model, average)
        (losses["retrieval"] / len(batches)).backward()
        values.append(losses["retrieval"].detach())
    return gradients(model) | {"loss": torch.stack(values).mean()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("case", sorted(CASES))
def test_parts_have_the_loss_and_gradient_of_the_whole_batch(case: str, cuts: tuple[int, ...]) -> None:
    """Guards against negatives, positives and a temperature of one part, and an index that points into one part."""
    pipeline, examples = built(case, dropout=0.0)
    average = averaged(pipeline, case)
    whole = loss_and_gradient(pipeline, cut(pipeline, examples, (0, 6)), average)
    found = loss_and_gradient(pipeline, cut(pipeline, examples, cuts), average)
    assert "logit_scale" in whole and ("logit_bias" in whole) == (case == "sigmoid")
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-12)
    if len(cuts) < 6:  # the null control: contrast within parts is another loss
        within = loss_and_gradient(pipeline, cut(pipeline, examples, cuts), average, is_exact=False)
        assert abs(within["loss"] - whole["loss"]) > 1e-3


@pytest.mark.parametrize("case", ["softmax", "distilled", "patches"])
def test_dropout_draws_the_same_in_both_passes(case: str, tmp_path: Path) -> None:
    """Guards against a gradient at other embeddings than those whose loss was computed."""
    image = None
    if case == "patches":
        pytest.importorskip("transformers", reason="needs the extra [hf]")
        from hf_folders import vision_folder

        vision_folder(tmp_path, "clip_vision")
        case, image = "softmax", FolderImageConfig(name=str(tmp_path), patch_dropout=0.5)
    pipeline, examples = built(case, dropout=0.3, image=image)
    average, batches = averaged(pipeline, case), cut(pipeline, examples, CUTS[0])
    model, task = copy.deepcopy(pipeline.model), pipeline.tasks["retrieval"]
    rows = []
    for place, batch in enumerate(batches):
        seed_step(*SEED, place)
        inputs = {name: to_model_range(value, torch.float64) for name, value in batch.inputs.items()}
        teacher: Teacher | None = None if average is None else average.encode(inputs)
        rows.append(task.embed(model, model.encode(inputs), batch, teacher))
    loss = task.compare(model, ContrastRows.joined(rows))["loss"]
    loss.backward()
    found = loss_and_gradient(pipeline, batches, average)
    torch.testing.assert_close(found, gradients(model) | {"loss": loss.detach()}, rtol=1e-10, atol=1e-12)
    pipeline.model.eval()
    still = loss_and_gradient(pipeline, batches, average)
    assert abs(still["loss"] - loss) > 1e-3, "dropout changes the loss"


def test_a_step_without_a_caption_costs_nothing() -> None:
    """Guards against a comparison of no texts, which is an error, and a loss that backward cannot pass."""
    pipeline, examples = built("softmax", dropout=0.0)
    silent = [replace(one, captions=()) for one in examples]
    found = loss_and_gradient(pipeline, cut(pipeline, silent, CUTS[0]), None)
    assert not found.pop("loss") and not any(value.any() for value in found.values())


def trainer(run: RunConfig, folder: Path) -> Trainer:
    torch.manual_seed(0)
    examples = pictures()
    pipeline = Pipeline.build(run, examples, torch.device("cpu"), learned_weights=weighed_tasks(run))
    loader = Loader(ListDataset("train", examples, Ledger()), pipeline.tasks, pipeline.codec, run)
    made = Trainer(pipeline, loader, folder, Hooks(dict, dict, dict), "loss")
    made.start(None, "fp32", "")
    return made


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty", "pcgrad"])
def test_steps_with_another_task_are_those_of_the_whole(weighting: str, tmp_path: Path) -> None:
    """Guards against a contrast that counts once a part beside the words of another task, in a real step."""
    run = small_run("softmax", 0.0, weighting=weighting)
    run = replace(run, tasks={**run.tasks, "vqa": VqaConfig(weight=0.5)})
    rows = []
    for count in (1, 3):
        made = trainer(replace(run, train=replace(run.train, accumulate=count)), tmp_path)
        rows.append([made.step(made.loader.batches(0)), made.step(made.loader.batches(0))])
    for found, expected in zip(rows[1], rows[0], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_rows_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    """Guards against an exactness that batch norm breaks, and codebooks that count an image twice."""
    check_exact(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    with pytest.raises(InputError, match=r"train.exact_contrast true with 1, a BatchNorm2d"):
        check_exact(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2)))
    run = small_run("softmax", 0.0, accumulate=2)
    run = replace(run, model=replace(run.model, image=ImageCodesConfig(size_px=24, width=16, decoder_blocks=1)))
    with pytest.raises(InputError, match="codebook"):
        trainer(run, tmp_path)
    for free in ({"exact_contrast": False}, {"accumulate": 1}):
        trainer(replace(run, train=replace(run.train, **free)), tmp_path)


def test_the_last_steps_see_whole_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against patch dropout to the last step, after which evaluation sees images as training never did."""
    seen: list[bool] = []
    monkeypatch.setattr(parts, "switch_patch_dropout", lambda model, is_on: seen.append(is_on))
    made = trainer(small_run("softmax", 0.0, steps=10, unmasked_share=0.25), tmp_path)
    for step in range(10):
        made.step(made.loader.batches(step))
        made.progress.step += 1
    assert seen == [True] * 8 + [False] * 2
