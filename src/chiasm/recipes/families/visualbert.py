"""VisualBERT: multimodal BERT, pre-trained on captions, then questions (Li et al. 2019)."""

from dataclasses import replace

from chiasm.recipes.families.setting import data_of, model_of, shrunk, training, words_of
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, StageConfig


def visualbert(tiny: bool = False, files: bool = False) -> RunConfig:
    """Merged attention over text tokens and a tower's features: masked tokens and matching first, then questions.

    Unlike in `vilt`, a tower encodes the image first, and no loss aligns words and patches. On files, which may have no
    questions, the run is the pre-training alone; `--set init_from=RUN` starts a recipe with questions from it.

    Command: chiasm train visualbert --out runs/visualbert
    On photos: chiasm train visualbert --data FLICKR8K --out runs/visualbert
    Cost: 17 minutes on one core of an AMD EPYC that other runs shared.
    Expect, on 500 test scenes: vqa_accuracy 0.659 (0.646-0.671, n 6,000); with shuffled images 0.456.
    On Flickr8k's 1,000 validation photos after 2 of 8 epochs (`train.epochs=2`, 41 minutes on one busy core) hardly
    anything is learned yet: matching_accuracy 0.521 (0.503-0.537, n 2,000; shuffled 0.514), masked words 0.227 with any
    image.
    """
    pre_training = {"masked_language_modelling": MaskingConfig(), "matching": MatchingConfig(negatives="random")}
    stages = {"pre_training": StageConfig(tasks=pre_training, train=training(files, steps=400, epochs=0))}
    config = RunConfig(
        recipe="visualbert",
        data=data_of(files),
        test_split="val" if files else "test",
        model=replace(model_of(files, words_of(files)), fusion="merged_attention", fusion_layers=3),
        stages={} if files else stages,
        tasks=pre_training if files else {"vqa": VqaConfig()},
        train=training(files, steps=400, epochs=8),
    )
    return shrunk(config) if tiny else config
