"""ViLT: no towers, one transformer over text and image tokens (Kim et al. 2021)."""

from dataclasses import replace

from chiasm.recipes.families.setting import SCENE_TOWER, data_of, model_of, shrunk, training, words_of
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, StageConfig


def vilt(tiny: bool = False, files: bool = False) -> RunConfig:
    """Merged attention pre-trained by matching, word-patch alignment and masked tokens; then questions on scenes.

    Wrong pairs are drawn uniformly, as published; alignment by optimal transport has weight 0.1. On files, which may
    have no questions, the run is the pre-training alone.

    Command: chiasm train vilt --out runs/vilt
    On photos: chiasm train vilt --data FLICKR8K --out runs/vilt
    Cost: 17 minutes on one core of an AMD EPYC that other runs shared.
    Expect, on 500 test scenes: vqa_accuracy 0.724 (0.711-0.736, n 6,000); with shuffled images 0.451.
    On Flickr8k's 1,000 validation photos after 2.5 of 8 epochs (`train.epochs=2.5`, 49 minutes, one busy core) nothing
    is learned yet: matching_accuracy 0.496 (0.474-0.518, n 2,000; shuffled 0.490), masked words 0.153 with any image.
    """
    words = words_of(files, layers=0)
    pre_training = {
        "matching": MatchingConfig(negatives="random", word_patch_weight=0.1),
        "masked_language_modelling": MaskingConfig(),
    }
    model = replace(model_of(files, words), fusion="merged_attention", fusion_layers=3)
    stages = {"pre_training": StageConfig(tasks=pre_training, train=training(files, steps=400, epochs=0))}
    config = RunConfig(
        recipe="vilt",
        data=data_of(files),
        test_split="val" if files else "test",
        model=replace(model, image=model.image if files else replace(SCENE_TOWER, layers=0)),
        stages={} if files else stages,
        tasks=pre_training if files else {"vqa": VqaConfig()},
        train=training(files, steps=400, epochs=8),
    )
    return shrunk(config) if tiny else config
