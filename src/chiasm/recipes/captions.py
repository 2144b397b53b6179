"""Generate captions, trained on one's own captioned photos."""

from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.train.config import RunConfig, TrainConfig


def captions(tiny: bool = False) -> RunConfig:
    """Caption photos: a transformer decoder with cross-attention to the feature grid of a frozen packaged tower.

    Command: chiasm train captions --data PHOTOS --out runs/captions
    Cost and scores on Flickr8k: see the recipe `flickr8k_captions`, which is this one.
    """
    config = RunConfig(
        recipe="captions",
        primary_metric="CIDEr",
        model=ModelConfig(
            dim=256,
            heads=4,
            decoder_layers=2,
            dropout=0.3,
            image=EfficientNetLite0Config(size_px=224, frozen=True, grid=True),
            text=TransformerTextConfig(layers=0, max_tokens=32, vocabulary=3500),
        ),
        tasks={"captioning": CaptioningConfig(captions_per_picture=5, label_smoothing=0.1)},
        train=TrainConfig(
            epochs=10, least_steps=200, least_batches=4, batch_size=64, lr=1e-3, ema_decay=0.999, weight_decay=0.05
        ),
        decoding=DecodingConfig(method="beam", beams=3, no_repeat_ngram=3),
    )
    return few_steps(config) if tiny else config
