"""Questions about one's own images."""

from chiasm.models.config import ModelConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, TrainConfig


def vqa(tiny: bool = False) -> RunConfig:
    """Answer questions about your images: with answers of your training data, or written word by word.

    A frozen packaged tower encodes the image.

    The answer vocabulary is built from the training questions and saved with the model.
    For open questions, answers that are written: --set tasks.vqa.objective=generate
    To let the model say that it does not know: --set tasks.vqa.abstain_risk=0.1

    Command: chiasm train vqa --data QUESTIONS --out runs/vqa
    """
    config = RunConfig(
        recipe="vqa",
        model=ModelConfig(
            dim=256,
            heads=4,
            fusion_layers=2,
            dropout=0.3,
            image=EfficientNetLite0Config(size_px=224, frozen=True, grid=True),
            text=TransformerTextConfig(layers=1, max_tokens=48, vocabulary=4000),
        ),
        tasks={"vqa": VqaConfig()},
        train=TrainConfig(
            epochs=20, least_steps=300, least_batches=4, batch_size=64, lr=5e-4, ema_decay=0.995, patience=4
        ),
    )
    return few_steps(config, batch_size=8) if tiny else config
