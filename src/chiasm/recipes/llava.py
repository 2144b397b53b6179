"""A language model that sees: LLaVA's two stages on one's own files."""

from dataclasses import replace

from chiasm.data.files import FilesConfig
from chiasm.models.bridge.pixel_shuffle import PixelShuffleConfig
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite2Config
from chiasm.models.encoders.language_model import SmolLM2Config
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.conversation import ConversationConfig
from chiasm.train.config import RunConfig, StageConfig, TrainConfig


def llava(tiny: bool = False) -> RunConfig:
    """Let a language model see: SmolLM2 reads the grid of a frozen packaged tower and talks about it.

    Stage "align" trains the projector alone, the run itself projector and LoRA on everything (Liu et al. 2023, "Visual
    Instruction Tuning", section 4.2). Where LLaVA aligns by the language model's loss, this stage learns which words
    are said of an image (`objectives.word_mixture`), without a pass through the language model: a step of 128 images
    costs less than one of 8 with it. Beside the data it answers questions after objects that an image has and has not
    (`data.object_questions`), without which it denies every object, and goes on with conversations of its own
    (`tasks.conversation.rehearsed`), without which it forgets how to answer. Its own weights never change. An image is
    16 tokens: blocks of 2 x 2 cells of the tower's grid of 8 x 8 (`models/bridge/pixel_shuffle.py`).

    Command: chiasm train llava --data DATA --out runs/llava
    """
    # Written before the first step, which takes minutes: a tiny run does without.
    task = ConversationConfig(projector=PixelShuffleConfig(), rehearsed=0 if tiny else 100)
    config = RunConfig(
        recipe="llava",
        primary_metric="reply_token_probability",
        data=FilesConfig(object_questions=4),
        model=ModelConfig(
            image=EfficientNetLite2Config(size_px=256, frozen=True, grid=True),
            text=SmolLM2Config(lora_rank=16, lora_alpha=32.0),
        ),
        tasks={"conversation": task},
        stages={
            "align": StageConfig(
                tasks={"conversation": replace(task, objective="words", writes=False)},
                train=TrainConfig(
                    epochs=15,
                    least_steps=100,
                    batch_size=128,
                    lr=1e-3,
                    trainable=("heads.*",),
                    validate_examples=32,
                ),
                primary_metric="reply_token_probability",
            )
        },
        train=TrainConfig(epochs=3, least_steps=100, batch_size=8, lr=1e-3, weight_decay=0.0, validate_examples=256),
        decoding=DecodingConfig(method="beam", beams=3, max_words=32),
    )
    return few_steps(config, batch_size=4) if tiny else config
