"""Image-text retrieval on real photos with pre-trained towers."""

from chiasm.core.run_config import ModelConfig, RunConfig, TaskConfig, TrainConfig
from chiasm.core.tower_config import ImageTowerConfig, TextTowerConfig
from chiasm.recipes.tiny import few_steps


def flickr8k_retrieval(tiny: bool = False) -> RunConfig:
    """Two frozen, packaged towers and a trained projection each.

    Command: chiasm train flickr8k_retrieval --set data.path=FLICKR8K --out runs/flickr8k
    Cost: under 2 minutes of training; the first run also encodes 7,000 photos and 35,000 captions (8 minutes on
    one core).
    Expect, on the 1,000 validation photos with five captions each: image_to_text_R@1 0.272, text_to_image_R@1 0.205;
    with shuffled photos 0.002 and 0.001. With --set model.image.size_px=288: 0.282 and 0.221. A second run from the
    first that trains the towers too: 0.381 and 0.278 (docs/adapting.md).
    """
    config = RunConfig(
        recipe="flickr8k_retrieval",
        primary_metric="text_to_image_R@1",
        model=ModelConfig(
            embedding_dim=512,
            dropout=0.3,
            image=ImageTowerConfig(kind="efficientnet_lite0", size_px=224, frozen=True),
            text=TextTowerConfig(kind="minilm", max_tokens=64, frozen=True),
        ),
        tasks={"retrieval": TaskConfig(captions_per_picture=5)},
        train=TrainConfig(epochs=20, batch_size=512, lr=1e-3, precision="fp32"),
    )
    return few_steps(config) if tiny else config
