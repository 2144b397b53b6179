"""SigLIP: two towers and a sigmoid contrast of pairs (Zhai et al. 2023)."""

from dataclasses import replace

from chiasm.recipes.families.setting import data_of, model_of, shrunk, training, words_of
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig


def siglip(tiny: bool = False, files: bool = False) -> RunConfig:
    """As `clip`, with a binary loss for each pair in place of a softmax over the batch.

    The loss of a pair does not depend on the others, so the batch may be small; logit scale and bias start at 10, -10.

    Command: chiasm train siglip --out runs/siglip
    On photos: chiasm train siglip --data FLICKR8K --out runs/siglip
    Cost: 84 s on one busy core of an AMD EPYC.
    Expect, on 500 test scenes: image_to_text_R@1 0.996 (0.986-0.999), text_to_image_R@1 0.996 (0.990-1.000); with
    shuffled images 0.000.
    On Flickr8k's 1,000 validation photos after 6 of 15 epochs (`train.epochs=6`, 12 minutes on one busy core):
    image_to_text_R@1 0.089 (0.073-0.108), text_to_image_R@1 0.061 (0.053-0.070); shuffled at most 0.001.
    """
    config = RunConfig(
        recipe="siglip",
        data=data_of(files),
        test_split="val" if files else "test",
        model=replace(model_of(files, words_of(files)), embedding_dim=256),
        tasks={"retrieval": RetrievalConfig(captions_per_picture=5, objective="sigmoid")},
        train=training(files, steps=500, epochs=15),
    )
    return shrunk(config) if tiny else config
