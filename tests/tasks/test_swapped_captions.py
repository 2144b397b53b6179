"""Swapped captions in a batch: which rows they are, that a frozen tower read them, and their loss."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Caption, Example
from chiasm.data.dataset import ListDataset
from chiasm.data.hard_captions.swaps import swaps_of
from chiasm.data.ledger import Ledger
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig


def swapping(config: RunConfig, share: float = 1.0) -> RunConfig:
    return replace(config, tasks={"retrieval": RetrievalConfig(captions_per_picture=2, hard_negatives=share)})


def test_rows_after_the_captions_are_swaps_of_them(config: RunConfig, examples: list[Example]) -> None:
    """Guards against a swap beside another caption, and one of another picture."""
    chosen = swapping(config)
    pipeline = Pipeline.build(chosen, examples, torch.device("cpu"))
    fields = make_batch(examples[:5], pipeline.tasks, pipeline.codec, chosen, 0).by_task["retrieval"]
    captions = len(fields["image_index"])
    assert len(fields["text_ids"]) == captions + len(fields["swap_of"]) and len(fields["swap_of"]) > 5
    said = [pipeline.codec.tokenizer.decode(row[1:]) for row in fields["text_ids"].tolist()]
    every = {one.text: example for example in examples[:5] for one in example.captions}
    for text, of in zip(said[captions:], fields["swap_of"].tolist(), strict=True):
        caption = next(one for one in every[said[of]].captions if one.text == said[of])
        assert text in {swap.text for swap in swaps_of(every[said[of]], caption)}
    other = make_batch(examples[:5], pipeline.tasks, pipeline.codec, chosen, 1).by_task["retrieval"]
    assert fields["swap_key"].tolist() != other["swap_key"].tolist()


def test_loss_is_the_contrast_with_further_columns(config: RunConfig, examples: list[Example]) -> None:
    """Guards against swaps that are counted as captions, or put beside the wrong ones: a slow loop over pictures."""
    chosen = swapping(config)
    pipeline = Pipeline.build(chosen, examples, torch.device("cpu"))
    batch = make_batch(examples[:5], pipeline.tasks, pipeline.codec, chosen, 0)
    model, fields = pipeline.model, batch.by_task["retrieval"]
    image = model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))
    found = pipeline.tasks["retrieval"].loss(model, {IMAGE: image}, batch)
    vectors = model.embed_text(model.encode_text(torch_tokens(fields)).pooled)
    logits = model.logit_scale.exp() * model.embed_image(image) @ vectors.T
    losses = []
    for picture, row in enumerate(logits):
        own = [number for number, of in enumerate(fields["image_index"].tolist()) if of == picture]
        losses.append(-F.log_softmax(row, 0)[own].mean())
    torch.testing.assert_close(found["image_to_text"], torch.stack(losses).mean())


def torch_tokens(fields: dict[str, torch.Tensor]) -> object:
    from chiasm.core.types import TextTokens

    return TextTokens(fields["text_ids"], fields["text_is_real"])


@pytest.mark.parametrize("key", ["hard_negatives", "text_teacher"])
def test_other_contrasts_refuse_the_option(config: RunConfig, examples: list[Example], key: str) -> None:
    """Guards against an option that is silently ignored."""
    for other in ({"objective": "sigmoid"}, {"objective": "additive"}, {"distil": 0.4}):
        task = RetrievalConfig(**{key: 0.5, **other})
        with pytest.raises(InputError, match=f"tasks.retrieval.{key} 0.5"):
            Pipeline.build(replace(config, tasks={"retrieval": task}), examples, torch.device("cpu"))


def test_a_frozen_tower_reads_every_swap_beforehand(
    config: RunConfig, tmp_path: Path, picture_files: Callable[[int], list[Example]]
) -> None:
    """Guards against a text tower that is run again in every step because one swap is not in the cache."""
    text = replace(config.model.text, frozen=True, summary_tokens=0)
    chosen = replace(swapping(config), model=replace(config.model, text=text))
    pictures = [
        replace(one, captions=(Caption(f"two red cars in front of {number} blue houses", "en"),))
        for number, one in enumerate(picture_files(4))
    ]
    pipeline = Pipeline.build(chosen, pictures, torch.device("cpu"))
    ledger = Ledger()
    ledger.offer(4)
    ledger.use(4)
    ready = prepare(pipeline, ListDataset("train", pictures, ledger), tmp_path, lambda *_: None)
    batch = make_batch([ready.example(n) for n in range(4)], pipeline.tasks, pipeline.codec, chosen, 0)
    fields = batch.by_task["retrieval"]
    assert "text_ids" not in fields and len(fields["text_vectors"]) == 4 + 4
    assert torch.isfinite(
        pipeline.tasks["retrieval"].loss(
            pipeline.model,
            {IMAGE: pipeline.model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))},
            batch,
        )["loss"]
    )
