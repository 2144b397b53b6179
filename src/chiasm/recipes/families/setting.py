"""Settings common to all families, so that they can be compared: the data, the towers, their sizes, and `tiny`."""

from dataclasses import replace

from chiasm.data.config import DataConfig
from chiasm.data.files import FilesConfig
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.base import ImageTowerConfig, TextTowerConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite0Config
from chiasm.models.encoders.text import ScratchTextConfig, TransformerTextConfig
from chiasm.train.config import RunConfig, TrainConfig

SCENES = ScenesConfig(languages=("en",), train_pictures=65_536, eval_pictures=500, questions_per_picture=12)
FILES = FilesConfig()
SCENE_TOWER = ConvConfig(size_px=48, channels=(32, 64, 128, 128), layers=1)
PHOTO_TOWER = EfficientNetLite0Config(size_px=224, frozen=True, grid=True)


def data_of(files: bool) -> DataConfig:
    """Generated scenes, or the user's files in `data.path`."""
    return FILES if files else SCENES


def tower_of(files: bool) -> ImageTowerConfig:
    """A small convolutional tower from scratch for scenes, or the frozen packaged one with its grid for files."""
    return PHOTO_TOWER if files else SCENE_TOWER


def model_of(files: bool, text: TextTowerConfig) -> ModelConfig:
    """Sizes of a family's model: width 128 on scenes, 256 and dropout on photos, which are few."""
    if files:
        return ModelConfig(dim=256, heads=4, dropout=0.2, image=tower_of(files), text=text)
    return ModelConfig(dim=128, heads=4, image=tower_of(files), text=text)


def words_of(files: bool, layers: int = 1, encoder: type[ScratchTextConfig] = TransformerTextConfig) -> TextTowerConfig:
    """A text encoder from scratch, with the maximum length that the captions need."""
    return encoder(layers=layers, max_tokens=48 if files else 64, vocabulary=4000 if files else 500)


def training(files: bool, steps: int, epochs: float) -> TrainConfig:
    """`steps` training steps on scenes; `epochs` epochs on files, but at least 200 steps."""
    if files:
        return TrainConfig(epochs=epochs, least_steps=200, batch_size=128, lr=5e-4, ema_decay=0.995)
    return TrainConfig(steps=steps, batch_size=48, lr=1e-3, warmup_steps=100, ema_decay=0.995)


def shrunk(config: RunConfig) -> RunConfig:
    """Shrink every stage to seconds, to test that the run works."""

    def few(train: TrainConfig) -> TrainConfig:
        return replace(train, steps=4, epochs=0, batch_size=16, warmup_steps=2, validate_every=2, precision="fp32")

    stages = {name: replace(stage, train=few(stage.train)) for name, stage in config.stages.items()}
    data = replace(SCENES, train_pictures=256, eval_pictures=32) if config.data == SCENES else config.data
    return replace(config, data=data, stages=stages, train=few(config.train))
