"""Retrieve images by text, and texts by image, trained on one's own captioned photos."""

from chiasm.models.config import ModelConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.models.encoders.minilm import MiniLMConfig
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig, TrainConfig


def retrieval(tiny: bool = False) -> RunConfig:
    """Find your photos by sentences: two frozen, packaged towers and a trained projection each.

    It starts from the starter, with which it is compared; a run that does not improve on it saves the starter.
    Photos with a class and without a caption get sentences made of the class name.

    Command: chiasm train retrieval --data PHOTOS --out runs/photos
    Cost and scores on Flickr8k: see the recipe `flickr8k_retrieval`, which is this one.
    """
    config = RunConfig(
        recipe="retrieval",
        primary_metric="text_to_image_R@1",
        model=ModelConfig(
            embedding_dim=512,
            dropout=0.3,
            image=EfficientNetLite0Config(size_px=224, frozen=True),
            text=MiniLMConfig(max_tokens=64, frozen=True),
        ),
        tasks={"retrieval": RetrievalConfig(captions_per_picture=5)},
        init_from="starter",
        train=TrainConfig(epochs=20, least_steps=200, batch_size=512, lr=1e-3, precision="fp32"),
    )
    return few_steps(config) if tiny else config
