"""What a step is shown of its pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Caption, Example, Stacked
from chiasm.data.dataset import ListDataset
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.ledger import Ledger
from chiasm.pipeline.batching import image_tensor
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train import loader
from chiasm.train.config import RunConfig
from chiasm.train.loader import Loader


@pytest.fixture
def config() -> RunConfig:
    """Two small towers from scratch, on files."""
    sizes = ["model.dim=16", "model.embedding_dim=8", "model.image.size_px=16", "model.image.channels=4,8"]
    settings = ["data.path=here", "model.image.kind=conv", "model.image.frozen=false", "train.batch_size=8", *sizes]
    return override(find_recipe("clip", tiny=True, files=True), settings)


def pictures_of(batch: Batch) -> dict[str, torch.Tensor]:
    assert isinstance(batch.inputs[IMAGE], torch.Tensor)
    return dict(zip(batch.ids, batch.inputs[IMAGE], strict=True))


def test_training_sees_another_window_in_each_epoch(config: RunConfig) -> None:
    """Guards against windows that are drawn once, or anew at each look, and against whole pictures that are not."""
    rng = np.random.default_rng(0)
    examples = [
        Example(
            f"{number}",
            {"image": image_ref_from_array(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))},
            (Caption(f"picture number {number}", "en"),),
        )
        for number in range(8)
    ]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    dataset, tasks = ListDataset("train", examples, Ledger()), {"retrieval": pipeline.tasks["retrieval"]}
    cut = Loader(dataset, tasks, pipeline.codec, replace(config, data=replace(config.data, random_crop=0.3)))
    whole = Loader(dataset, tasks, pipeline.codec, config)
    first, again, second, plain = (
        pictures_of(loader.batches(step)[0]) for loader, step in ((cut, 0), (cut, 0), (cut, 1), (whole, 1))
    )
    differ = 0
    pictures = image_tensor(examples, config.model.image.preprocessing().resizing, 0)
    for example, picture in zip(examples, pictures, strict=True):
        assert torch.equal(plain[example.id], picture)
        assert torch.equal(first[example.id], again[example.id])
        assert not torch.equal(first[example.id], second[example.id])
        differ += not torch.equal(first[example.id], picture)
    assert differ >= 6, "a window may be the whole picture, now and then"


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (3, 1), (4, 2), (1, 3), (2, 4)])
def test_shares_of_a_step_are_its_examples_in_order(
    processes: int, parts: int, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a picture that no process gets or two do, and shares that are gathered in another order."""
    picture = image_ref_from_array(np.zeros((16, 16, 3), dtype=np.uint8))
    examples = [Example(f"{number}", {"image": picture}, (Caption(f"number {number}", "en"),)) for number in range(25)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    dataset = ListDataset("train", examples, Ledger())
    monkeypatch.setattr(loader, "world_size", lambda: processes)
    run = replace(config, train=replace(config.train, batch_size=11, accumulate=parts))
    shared = Loader(dataset, pipeline.tasks, pipeline.codec, run)
    _, numbers = shared.indices(1)
    found: list[list[list[str]]] = []
    for rank in range(processes):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        found.append([batch.ids for batch in shared.batches(1)])
    assert [one for part in zip(*found, strict=True) for share in part for one in share] == [str(n) for n in numbers]
    sizes = {len(share) for of_process in found for share in of_process}
    assert max(sizes) - min(sizes) <= 1
    monkeypatch.setattr(loader, "world_size", lambda: 12)
    with pytest.raises(InputError, match="11 images for 12 processes"):
        Loader(dataset, pipeline.tasks, pipeline.codec, run)


def test_an_epochs_order_depends_on_the_seed_and_the_epoch(config: RunConfig) -> None:
    """Guards against runs of several seeds that see one order, epochs that repeat it, and examples that are lost."""
    picture = image_ref_from_array(np.zeros((16, 16, 3), dtype=np.uint8))
    examples = [Example(f"{number}", {"image": picture}, (Caption(f"number {number}", "en"),)) for number in range(32)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    dataset = ListDataset("train", examples, Ledger())

    def epoch_of(seed: int, epoch: int) -> tuple[int, ...]:
        numbered = Loader(dataset, pipeline.tasks, pipeline.codec, replace(config, seed=seed))
        steps = range(epoch * numbered.steps_per_epoch, (epoch + 1) * numbered.steps_per_epoch)
        return tuple(number for step in steps for number in numbered.indices(step)[1])

    orders = {(seed, epoch): epoch_of(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4 and all(sorted(one) == list(range(32)) for one in orders.values())
    assert epoch_of(1, 1) == orders[1, 1]


def test_windows_need_a_tower_that_looks_again(config: RunConfig) -> None:
    """Guards against a key that does nothing: a frozen tower encodes each picture once."""
    frozen = ["model.image.kind=efficientnet_lite0", "model.image.frozen=true"]
    with pytest.raises(InputError, match=r"data\.random_crop 0\.5 with model\.image\.frozen true"):
        override(config, [*frozen, "data.random_crop=0.5"]).check()


def test_windows_are_drawn_for_each_of_several_images_and_for_none(config: RunConfig) -> None:
    """Guards against one window for two images, and a step that stops at an example of several images or none."""
    rng = np.random.default_rng(0)
    image = image_ref_from_array(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    caption = (Caption("a picture", "en"),)
    shown: list[dict[str, object]] = [{"image": image}, {"image": (image, image)}, {}]
    examples = [Example(f"{number}", one, caption) for number, one in enumerate(shown)]
    pipeline = Pipeline.build(config, examples, torch.device("cpu"))
    run = replace(config, train=replace(config.train, batch_size=3), data=replace(config.data, random_crop=0.3))
    cut = Loader(
        ListDataset("train", examples, Ledger()), {"retrieval": pipeline.tasks["retrieval"]}, pipeline.codec, run
    )
    batch = cut.batches(0)[0]
    stacked = batch.inputs[IMAGE]
    assert isinstance(stacked, Stacked) and isinstance(stacked.values, torch.Tensor)
    assert [batch.ids[row] for row in stacked.row.tolist()].count("1") == 2 and stacked.rows == 3
    assert len({pixels.numpy().tobytes() for pixels in stacked.values}) == 3
