"""Initialise the head of a classification task by a linear probe, before the first step."""

import numpy as np
import torch
from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.data.dataset import Dataset
from chiasm.evaluate.linear_probe.run import Labelled, cut, fit_probe
from chiasm.pipeline.batching import pooled_features
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.requirements import checked_examples


def fit_heads(pipeline: Pipeline, training: Dataset, console: Console) -> None:
    """Set the head of the task with a `head_to_fit` to the fit of `chiasm probe`; other runs do not change.

    The fit uses the training split only: a fifth of it, split by group, selects the weight decay, and the final fit
    uses all of it. Training continues from there (linear probing, then fine-tuning: Kumar et al. 2022).

    Args:
        pipeline: new, with a frozen image tower.
        training: the training split as `prepare` returns it.
        console: receives progress bars and messages.

    Raises:
        InputError: the tower is not frozen, or there are too few images.
    """
    heads = [(task, task.head_to_fit(pipeline.model)) for task in pipeline.tasks.values()]
    found = next(((task, head) for task, head in heads if head is not None), None)
    if found is None:
        return
    task, head = found
    if not pipeline.config.model.image.frozen:
        raise InputError(
            f"tasks.{task.name}.linear_probe is true and model.image.frozen false",
            "a frozen image tower; to train the tower, start from a run with a fitted head",
            f"--set tasks.{task.name}.linear_probe=false and --set init_from=RUN",
        )
    examples = [example for example in checked_examples(training) if example.label]
    features = torch.from_numpy(np.stack([pooled_features(example) for example in examples]))
    codec = pipeline.codec
    labels = torch.tensor([codec.classes.index(str(example.label)) for example in examples])
    fitted, choosing = cut(Labelled(examples, features[None], labels))
    if not fitted.examples or not choosing.examples:
        raise InputError(
            f"{len(examples)} labelled images to train on", "enough to fit on most and choose on a fifth", "add some"
        )
    probe = fit_probe(fitted, choosing, len(codec.classes))
    weight = probe.map.weight * probe.map.scale
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(probe.map.bias - weight @ probe.map.shift)
    console.print(
        f"linear probe: {len(examples):,} images of {len(codec.classes)} classes fitted; of the "
        f"{len(choosing.examples):,} that chose the weight decay ({probe.decay:g}) "
        f"{probe.shares[probe.decay]:.1%} were right",
        highlight=False,
    )
