"""Images out of words: an image tokenizer, then a prior over captions and its codes (DALL-E)."""

from dataclasses import replace

from chiasm.data.files import FilesConfig
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.models.codebooks.color_cell import ColorCellConfig
from chiasm.models.codebooks.vector import VectorConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.models.image_sampling import SamplingConfig
from chiasm.tasks.drawing import DrawingConfig
from chiasm.tasks.reconstruction import ReconstructionConfig
from chiasm.train.config import RunConfig, StageConfig, TrainConfig

SCENES = ScenesConfig(languages=("en", "zh"), train_pictures=65_536, eval_pictures=500, questions_per_picture=1)


def dalle(tiny: bool = False, files: bool = False) -> RunConfig:
    """Draw images from captions: an image tokenizer, then one transformer over words and image codes.

    Stage "codes" trains the image tokenizer on the images alone. The run itself encodes each image once with the frozen
    tokenizer and learns the words of a caption, then the codes of its image (Ramesh et al. 2021, "Zero-Shot
    Text-to-Image Generation"). A share of the captions is dropped, so that drawing can be guided.

    An image is squares of 8 pixels. Of scenes a square is two codes, its pattern and its colours
    (`models.codebooks.color_cell`), so that colours and shapes are drawn together that training never combined; of
    files it is one. Smaller squares (`model.image.stride_px`) show more, and drawing takes as many times longer as
    there are more of them. `tiny` has one code for each 16 pixels of a scene.

    Command: chiasm train dalle --out runs/dalle
    Cost: 20 minutes on two CPU cores, three of them for the image tokenizer, 15 for the prior, two for measuring.
    Expect on 500 test scenes, 200 of them drawn: whole_image_true 0.970 (0.945-0.990; with captions shuffled 0.000),
    objects_iou 0.988 (0.977-0.996; 0.009), in English and in Chinese alike; of pairs of colour and shape that training
    never had (`--split compositional`) 0.900 (0.855-0.940) and 0.960 (0.941-0.976).
    On files with captions: chiasm train dalle --data DATA --out runs/dalle
    """
    tokenizer = (
        ImageCodesConfig(size_px=64, stride_px=8, width=128, grid=True, quantizer=VectorConfig(codes=1024, dim=32))
        if files
        else ImageCodesConfig(size_px=48, stride_px=8, width=192, grid=True, quantizer=ColorCellConfig())
    )
    config = RunConfig(
        recipe="dalle",
        data=FilesConfig() if files else SCENES,
        test_split="val" if files else "test",
        model=ModelConfig(
            dim=256,
            heads=4,
            decoder_layers=6,
            dropout=0.1 if files else 0.0,
            image=replace(tokenizer, continuous_steps=20),
            # The tower lends the prior its word embedding and has no blocks of its own.
            text=TransformerTextConfig(layers=0, max_tokens=64, vocabulary=4000 if files else 500),
        ),
        stages={
            "codes": StageConfig(
                tasks={"reconstruction": ReconstructionConfig(objective="smooth_l1")},
                train=replace(
                    _training(files, steps=2000, epochs=20, lr=5e-4, limit_s=180), weight_decay=0.0, ema_decay=0.99
                ),
                primary_metric="psnr",
            )
        },
        tasks={"drawing": DrawingConfig(sampling=SamplingConfig(guidance=1.5))},
        train=replace(
            _training(files, steps=12_000, epochs=100, lr=1e-3, limit_s=900),
            adapt="locked_image",
            warmup_steps=200,
            ema_decay=0.999,
        ),
    )
    return _shrunk(config) if tiny else config


def _training(files: bool, steps: int, epochs: float, lr: float, limit_s: float) -> TrainConfig:
    """`steps` steps on scenes within a time limit; `epochs` on files, but at least 400 steps."""
    shared = TrainConfig(batch_size=64, lr=lr, validate_examples=256)
    return replace(shared, epochs=epochs, least_steps=400) if files else replace(shared, steps=steps, limit_s=limit_s)


def _shrunk(config: RunConfig) -> RunConfig:
    """A few steps of a small model, to test that the run works."""

    def few(train: TrainConfig) -> TrainConfig:
        return replace(
            train,
            steps=4,
            epochs=0.0,
            batch_size=16,
            warmup_steps=1,
            validate_every=2,
            validate_examples=16,
            ema_decay=0.0,
            precision="fp32",
        )

    tokenizer = config.model.image
    assert isinstance(tokenizer, ImageCodesConfig)
    small = replace(tokenizer, width=16, decoder_blocks=1, continuous_steps=2)
    if config.data == SCENES:
        small = replace(small, stride_px=16, quantizer=VectorConfig(codes=512, dim=64))
    stages = {name: replace(stage, train=few(stage.train)) for name, stage in config.stages.items()}
    return replace(
        config,
        data=replace(SCENES, train_pictures=256, eval_pictures=32) if config.data == SCENES else config.data,
        model=replace(config.model, dim=32, heads=2, decoder_layers=2, image=small),
        stages=stages,
        tasks={"drawing": DrawingConfig(sampling=SamplingConfig(guidance=1.5), images_drawn=8)},
        train=few(config.train),
    )
