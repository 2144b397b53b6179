"""Classify one's own images: a packaged tower, and a linear layer fitted on labels."""

from chiasm.models.config import ModelConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.models.encoders.minilm import MiniLMConfig
from chiasm.tasks.classification import ClassificationConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig, TrainConfig


def classify(tiny: bool = False) -> RunConfig:
    """Classify images: logistic regression on the features of a frozen packaged tower, in seconds.

    The data are a folder for each class, or files with a label. It is the fit of `chiasm probe`, saved as a model. It
    keeps the starter's shared space, for search and for other class names. To train the tower too, continue from the
    run: --set init_from=RUN --set tasks.classification.linear_probe=false --set model.image.frozen=false
    --set train.epochs=5 --set train.lr=1e-4

    Command: chiasm train classify --data CLASSES --out runs/classes
    """
    return RunConfig(
        recipe="classify",
        model=ModelConfig(
            image=EfficientNetLite0Config(size_px=224, frozen=True),
            text=MiniLMConfig(max_tokens=64, frozen=True),
        ),
        tasks={"classification": ClassificationConfig(linear_probe=True), "retrieval": RetrievalConfig()},
        init_from="starter",
        train=TrainConfig(batch_size=256, precision="fp32"),
    )
