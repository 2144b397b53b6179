"""XLNet for questions: tokens predicted in any order, then answers (Yang et al. 2019)."""

from dataclasses import replace

from chiasm.models.encoders.two_stream import TwoStreamTextConfig
from chiasm.recipes.families.setting import data_of, model_of, shrunk, training, words_of
from chiasm.tasks.texts import CaptionConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, StageConfig


def xlnet_vqa(tiny: bool = False, files: bool = False) -> RunConfig:
    """A two-stream text tower, pre-trained by permutation language modelling with the image; then questions.

    Positions are absolute, where XLNet has relative ones with memory for long documents. On files, which may have no
    questions, the run is the pre-training alone.

    Command: chiasm train xlnet_vqa --out runs/xlnet_vqa
    On photos: chiasm train xlnet_vqa --data FLICKR8K --out runs/xlnet_vqa
    Cost: 10 minutes on one core of an AMD EPYC that other runs shared.
    Expect, on 500 test scenes: vqa_accuracy 0.765 (0.753-0.776, n 6,000); with shuffled images 0.448.
    On Flickr8k's 1,000 validation photos after 3 of 8 epochs (`train.epochs=3`, 7 minutes, one busy core): masked words
    0.222 (0.196-0.248), with another photo 0.221: it has learned the language and does not yet use the image.
    """
    pre_training = {"permutation_language_modelling": CaptionConfig()}
    stages = {"pre_training": StageConfig(tasks=pre_training, train=training(files, steps=400, epochs=0))}
    words = words_of(files, layers=2, encoder=TwoStreamTextConfig)
    config = RunConfig(
        recipe="xlnet_vqa",
        data=data_of(files),
        test_split="val" if files else "test",
        model=replace(model_of(files, words), fusion_layers=2),
        stages={} if files else stages,
        tasks=pre_training if files else {"vqa": VqaConfig()},
        train=training(files, steps=400, epochs=8),
    )
    return shrunk(config) if tiny else config
