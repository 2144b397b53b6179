"""Human statements, true or false, about images of three boxes, after pre-training on generated ones."""

from dataclasses import replace

from chiasm.core.config import override
from chiasm.data.files import FilesConfig
from chiasm.data.generated.boxes.dataset import BoxesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, StageConfig, TrainConfig


def nlvr(tiny: bool = False) -> RunConfig:
    """Cornell NLVR (Suhr et al. 2017): pre-train on generated boxes and statements, then train on human ones.

    There are few human statements (about 2,000 different ones in `train` and `hidden`), so the model is pre-trained on
    boxes and texts from a grammar, without any statement of NLVR: first on counting questions, then on statements. Both
    stages also train captions that list the items, which train the image tower faster than true and false do.

    Images of NLVR repeat by construction (six box permutations, few boxes): 221 of the 6,910 training images have
    the bytes of one in `dev`. They are left out of training (`data.on_leak` is "drop").

    Command: chiasm train nlvr --data NLVR --out runs/nlvr
    Cost: 40 minutes on one shared core of an AMD EPYC (bf16), set by the stages' time limits.
    Expect, on the 5,934 images of `dev`, from `train` and `hidden`: accuracy 0.667 (0.655-0.678); with images
    shuffled 0.534, the answer given most 0.553. Published on `dev`, from ten times as many examples (Suhr et al. 2017):
    CNN and RNN 0.566, neural module networks 0.631.
    """
    practice = BoxesConfig(train_pictures=200_000, eval_pictures=500, questions_per_picture=8)
    drawn = {"statements": VqaConfig(), "captioning": CaptioningConfig()}
    looking = TrainConfig(steps=2500, batch_size=24, lr=1e-3, warmup_steps=100, ema_decay=0.99, limit_s=480)
    config = RunConfig(
        recipe="nlvr",
        primary_metric="accuracy",
        data=FilesConfig(train_split="train+hidden", on_leak="drop"),
        model=ModelConfig(
            dim=128,
            heads=4,
            fusion_layers=2,
            image=ConvConfig(size_px=50, width_px=200, channels=(32, 64, 128, 128), layers=2, centred=True),
            text=TransformerTextConfig(layers=2, max_tokens=72, vocabulary=1500),
        ),
        stages={
            "looking": StageConfig(
                data=replace(practice, question_kinds=("how_many",)),
                tasks=drawn,
                train=looking,
                primary_metric="accuracy",
            ),
            "practice": StageConfig(
                data=practice,
                tasks=drawn,
                train=replace(looking, steps=8000, ema_decay=0.999, limit_s=1500),
                primary_metric="accuracy",
            ),
        },
        tasks={"statements": VqaConfig(label_smoothing=0.05)},
        # The evaluation split is measured once, at the end, and does not select weights.
        train=TrainConfig(
            epochs=3,
            batch_size=64,
            lr=2e-4,
            ema_decay=0.99,
            weight_decay=0.1,
            validate_every=10_000,
            checkpoint_every=100,
        ),
    )
    return _shrunk(config) if tiny else config


def _shrunk(config: RunConfig) -> RunConfig:
    few = TrainConfig(steps=4, batch_size=16, validate_every=2, precision="fp32")
    stages = {name: replace(stage, train=few) for name, stage in config.stages.items()}
    sizes = (f"stages.{name}.data.{key}" for name in stages for key in ("train_pictures=64", "eval_pictures=16"))
    return override(replace(config, stages=stages, train=few), sizes)
