"""A model for search and classification that nobody has trained: the packaged towers, joined by ImageNet's classes.

A picture becomes a distribution over 1,000 classes, and a sentence the mixture of those whose sentences mean something
near, by MiniLM. It knows things, not people, actions or colours; a trained run finds more.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.run_config import DataConfig, ModelConfig, RunConfig, TaskConfig
from chiasm.core.tower_config import ImageTowerConfig, TextTowerConfig
from chiasm.core.types import Example, TextTokens
from chiasm.data.image import image_ref_from_array
from chiasm.data.ledger import Ledger
from chiasm.data.sources.records import language_of
from chiasm.data.text import TextTokenizer
from chiasm.models.encoders.efficientnet_lite import HEAD_CHANNELS, EfficientNetLite0
from chiasm.models.encoders.imagenet import ClassDistribution, ClassMixture, class_vectors, imagenet_classes
from chiasm.tasks.batching import FEATURES
from chiasm.tasks.codecs import make_codec
from chiasm.tasks.features import cache_root, cache_texts, cached_pictures
from chiasm.tasks.pipeline import Pipeline

STARTER = "starter"
"""The word that stands where a run folder would."""
TOP_CLASSES, CLASS_TEMPERATURE, WORD_TEMPERATURE, OFFSET_SHARE = 20, 1.5, 0.15, 0.5
"""Chosen on the training pictures of cifar10_subset and Flickr8k (docs/log.md)."""
PICTURES_OF_NOTHING, CELLS = 24, (4, 8, 16, 32)
"""Noise whose finest detail is one of so many cells wide."""


class EnglishTokenizer(TextTokenizer):
    """The packaged tokenizer, which would read Chinese as unknown words and answer at random."""

    def batch(self, texts: Sequence[str]) -> TextTokens:
        """Tokenise; refuse what the text tower cannot read."""
        foreign = next((text for text in texts if language_of(text) != "en"), None)
        if foreign is not None:
            raise InputError(
                f"the text {foreign!r}",
                "English: the starter's text tower reads no other language",
                "train a run on yours",
            )
        return super().batch(texts)


def starter_pipeline(device: torch.device) -> Pipeline:
    """Build the starter; nothing is downloaded, nothing read but the packaged weights and the list of classes.

    What the towers say of the classes and of pictures of nothing is kept in the cache of features.

    Raises:
        MissingExtraError: the extra [weights] is not installed.
    """
    config = RunConfig(
        recipe=STARTER,
        data=DataConfig(),
        model=ModelConfig(
            embedding_dim=1000,
            image=ImageTowerConfig(kind="efficientnet_lite0", size_px=224, frozen=True),
            text=TextTowerConfig(kind="minilm", max_tokens=64, frozen=True),
        ),
        tasks={"retrieval": TaskConfig()},
    )
    codec = make_codec(config, [])
    codec.tokenizer = EnglishTokenizer(codec.tokenizer.tokenizer, config.model.text.max_tokens, ("[CLS]", "[SEP]"))
    pipeline = Pipeline.build(config, [], device, codec)
    model = pipeline.model
    classes = imagenet_classes()
    sentences = [one.sentences() for one in classes]
    flat = [text for part in sentences for text in part]
    # Two thousand sentences are seconds of work: they are encoded once a machine, not once a command.
    cache_texts(pipeline, flat, cache_root(), lambda done, total, what: None)
    pooled = torch.from_numpy(np.stack([codec.text_vectors[text] for text in flat])).to(device)
    codec.text_vectors.clear()
    vectors = class_vectors(F.normalize(pooled, dim=-1), [len(part) for part in sentences])
    assert isinstance(model.image_encoder, EfficientNetLite0), "the starter's tower has a classifier"
    offset = OFFSET_SHARE * model.image_encoder.class_logits(_nothing_seen(pipeline)).mean(0).detach()
    classifier = model.image_encoder.classifier
    pictures = ClassDistribution(classifier, HEAD_CHANNELS, offset, CLASS_TEMPERATURE)
    model.image_projection = pictures  # type: ignore[assignment]
    model.text_projection = ClassMixture(vectors, TOP_CLASSES, WORD_TEMPERATURE)  # type: ignore[assignment]
    model.requires_grad_(False).eval()
    return pipeline


def picture_of_nothing(number: int, size_px: int) -> npt.NDArray[np.uint8]:
    """Coloured noise uint8 [size_px, size_px, 3], coarse and fine added up as in photos, by its number."""
    rng = counter_rng("picture of nothing", number)
    finest, cells = CELLS[number % len(CELLS)], 2
    seen = torch.zeros(1, 3, size_px, size_px)
    while cells <= finest:
        grey, colour = rng.normal(size=(1, 1, cells, cells)), rng.normal(scale=0.6, size=(1, 3, cells, cells))
        layer = torch.from_numpy(grey + colour).float()
        seen += F.interpolate(layer, size=(size_px, size_px), mode="bicubic") / cells**0.5
        cells *= 2
    return (127 + 50 * seen[0]).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _nothing_seen(pipeline: Pipeline) -> torch.Tensor:
    """What the tower says of pictures of nothing: float32 [n, d], from the cache."""
    size_px = pipeline.config.model.image.size_px
    shown = [image_ref_from_array(picture_of_nothing(number, size_px)) for number in range(PICTURES_OF_NOTHING)]
    examples = [Example(f"nothing {number}", {"image": one}) for number, one in enumerate(shown)]
    seen = cached_pictures(pipeline, examples, Ledger(), cache_root(), lambda done, total, what: None)
    return torch.from_numpy(np.stack([one.inputs[FEATURES].pooled for one in seen])).to(pipeline.device)
