"""Zero-shot model for search and classification without training: packaged towers joined by the ImageNet classes.

Training may start from its space (`init_from=starter`): `take_classes` puts it beside the trained projections.

An image is embedded as a distribution over 1,000 classes, and a sentence as a mixture of the classes with similar
sentences, by MiniLM or, for fifteen other languages, by a multilingual encoder that is loaded at its first use. The
classes cover objects, not people, actions or colours; a trained run retrieves better.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.files import cache_root
from chiasm.core.random import counter_rng
from chiasm.core.types import Example
from chiasm.data.dataset import ListDataset, examples_of
from chiasm.data.files import FilesConfig
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.ledger import Ledger
from chiasm.data.tokenizers.by_language import OtherTokenizer, TokenizerByLanguage
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite, EfficientNetLite0Config
from chiasm.models.encoders.imagenet import CLASSES, ClassDistribution, ClassMixture, class_vectors, imagenet_classes
from chiasm.models.encoders.language_router import LanguageRouter, OtherEncoder, RoutedMixture
from chiasm.models.encoders.minilm import MiniLM, MiniLMConfig
from chiasm.models.encoders.multilingual_use import (
    PAD,
    WRAP,
    MultilingualUSEConfig,
    has_multilingual_use,
    load_multilingual_use_tokenizer,
)
from chiasm.models.projection import class_heads
from chiasm.pipeline.batching import FEATURES
from chiasm.pipeline.codec import make_codec
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.feature_cache import cache_texts, encode_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.codec import Codec
from chiasm.tasks.imported import dual_encoder_tasks

STARTER = "starter"
"""Name of this model in place of a run folder."""
OFFSET_SHARE = 0.5
"""Share of the mean logits on noise images that is subtracted; selected like the temperatures."""
READERS = ("minilm", "multilingual_use")
"""Kinds of text tower whose vectors of sentences lie near those of the classes' sentences."""
NOISE_IMAGES, CELLS = 24, (4, 8, 16, 32)
"""Number of noise images, and the numbers of cells across the finest detail of the noise."""


class OtherLanguages(OtherTokenizer, OtherEncoder):
    """The multilingual encoder with its tokenizer and class mixture, each opened when it is first needed.

    A command with English texts alone does not wait for a second network.

    Args:
        max_tokens: longest text.
        open_encoder: tokenizer -> the encoder, and the mixture of the classes in its space.
    """

    def __init__(
        self, max_tokens: int, open_encoder: Callable[[PretrainedTokenizer], tuple[nn.Module, ClassMixture]]
    ) -> None:
        self._max_tokens, self._open = max_tokens, open_encoder

    @property
    def installed(self) -> bool:
        """Whether the package with its weights is installed."""
        return has_multilingual_use()

    @cached_property
    def tokenizer(self) -> PretrainedTokenizer:
        """Its tokenizer.

        Raises:
            InputError: the package is not installed.
        """
        try:
            return PretrainedTokenizer(load_multilingual_use_tokenizer(), self._max_tokens, *WRAP, PAD)
        except MissingExtraError:
            raise InputError(
                "a text that is not English",
                "English, as long as the extra [multilingual] is not installed",
                "pip install 'chiasm[multilingual]', or train a run on your language",
            ) from None

    @cached_property
    def opened(self) -> tuple[nn.Module, ClassMixture]:
        """Its encoder, and the mixture of the classes in its space."""
        return self._open(self.tokenizer)


def starter_pipeline(device: torch.device) -> Pipeline:
    """Build the starter; nothing is downloaded, nothing read but the packaged weights and the list of classes.

    The feature cache stores the vectors of the class sentences and of the noise images.

    Raises:
        MissingExtraError: the extra [weights] is not installed.
    """
    config = PipelineConfig(
        recipe=STARTER,
        data=FilesConfig(),
        model=ModelConfig(
            embedding_dim=1000,
            image=EfficientNetLite0Config(size_px=224, frozen=True),
            text=MiniLMConfig(max_tokens=64, frozen=True),
        ),
        tasks=dual_encoder_tasks("softmax"),
    )
    codec = make_codec(config, [])
    pipeline = Pipeline.build(config, [], device, codec)
    model = pipeline.model
    mixture = _mixture(pipeline)
    others = OtherLanguages(config.model.text.max_tokens, partial(_second_tower, config, device))
    words = codec.tokenizer
    tokenizer = TokenizerByLanguage(words.tokenizer, words.max_tokens, words.wrap, others)
    codec.tokenizer = tokenizer
    model.image_projection = _distribution(pipeline)  # type: ignore[assignment]
    assert isinstance(model.text_encoder, MiniLM), "the starter reads English by MiniLM"
    english = model.text_encoder
    model.text_encoder = LanguageRouter(english, words.vocabulary, others, tokenizer.rule_numbers())  # type: ignore[assignment]
    model.text_projection = RoutedMixture(mixture, english.dim, others)  # type: ignore[assignment]
    model.requires_grad_(False).eval()
    return pipeline


def misfit(model: ModelConfig) -> str:
    """Reason why a model cannot start from the starter's space: the key and its value; "" if it can."""
    image, text = model.image, model.text
    wanted = {
        "model.network": (model.network, ("",)),
        "model.image.kind": (image.kind, ("efficientnet_lite0",)),
        "model.image.pool_queries": (image.pool_queries, (0,)),
        "model.image.projection": (image.projection, ("norm", "classes")),
        "model.text.kind": (text.kind, READERS),
        "model.text.projection": (text.projection, ("norm", "classes")),
    }
    for key, (value, allowed) in wanted.items():
        if value not in allowed:
            return f"{key} is {value!r}, not {' or '.join(map(repr, allowed))}"
    return "model.fusion is 'align_then_fuse'" if model.fusion == "align_then_fuse" else ""


def in_class_space(model: ModelConfig) -> ModelConfig:
    """The model with the classes' space beside each trained projection, which makes the shared space wider."""
    image, text = replace(model.image, projection="classes"), replace(model.text, projection="classes")
    is_there = model.image.projection == model.text.projection == "classes"
    width = model.embedding_dim + (0 if is_there else CLASSES)
    return replace(model, image=image, text=text, embedding_dim=width)


def without_classes(pipeline: Pipeline) -> None:
    """Leave the trained projections alone in a pipeline whose classes have no share, in a space without them."""
    model, config = pipeline.model, pipeline.config
    image, text = class_heads(model)
    model.image_projection, model.text_projection = image.trained, text.trained
    model.config = replace(
        config.model,
        image=replace(config.model.image, projection="norm"),
        text=replace(config.model.text, projection="norm"),
        embedding_dim=config.model.embedding_dim - CLASSES,
    )
    pipeline.config = replace(config, model=model.config)


@torch.no_grad()
def take_classes(pipeline: Pipeline) -> None:
    """Copy the starter's class space into the class half of an untrained pipeline's projections.

    Args:
        pipeline: of a config by `in_class_space`.
    """
    heads = class_heads(pipeline.model)
    assert len(heads) == 2, "both projections have the classes beside them"
    for head, known in zip(heads, (_distribution(pipeline), _mixture(pipeline)), strict=True):
        head.classes.load_state_dict(known.state_dict())


def _distribution(pipeline: Pipeline) -> ClassDistribution:
    """Class distribution of a pipeline's image tower, with half of the mean logits on noise images subtracted."""
    tower = pipeline.model.image_encoder
    assert isinstance(tower, EfficientNetLite), "the starter's tower has a classifier"
    offset = OFFSET_SHARE * tower.class_logits(_noise_features(pipeline)).mean(0).detach()
    return ClassDistribution(tower.classifier.weight, tower.classifier.bias, offset)


def _mixture(pipeline: Pipeline) -> ClassMixture:
    """Class vectors of a pipeline's text tower.

    Encoding two thousand sentences takes seconds, so they are cached on disk.
    """
    sentences = [each.sentences() for each in imagenet_classes()]
    flat = [text for part in sentences for text in part]
    cache_texts(pipeline, flat, cache_root(), lambda done, total, what: None)
    known = pipeline.codec.text_vectors
    pooled = torch.from_numpy(np.stack([known[text] for text in flat])).to(pipeline.device)
    known.clear()
    vectors = class_vectors(F.normalize(pooled, dim=-1), [len(part) for part in sentences])
    return ClassMixture(vectors)


def _second_tower(
    config: PipelineConfig, device: torch.device, tokenizer: PretrainedTokenizer
) -> tuple[nn.Module, ClassMixture]:
    """Text tower for other languages, and its class vectors, computed from the English class sentences."""
    text = MultilingualUSEConfig(max_tokens=config.model.text.max_tokens, frozen=True)
    config = replace(config, model=replace(config.model, text=text))
    pipeline = Pipeline.build(config, [], device, Codec(tokenizer))
    mixture = _mixture(pipeline)
    pipeline.model.requires_grad_(False)
    return pipeline.model.text_encoder, mixture


def noise_image(number: int, size_px: int) -> npt.NDArray[np.uint8]:
    """Coloured noise uint8 [size_px, size_px, 3], coarse and fine added up as in photos, by its number."""
    rng = counter_rng("picture of nothing", number)
    finest, cells = CELLS[number % len(CELLS)], 2
    noise = torch.zeros(1, 3, size_px, size_px)
    while cells <= finest:
        grey, colour = rng.normal(size=(1, 1, cells, cells)), rng.normal(scale=0.6, size=(1, 3, cells, cells))
        layer = torch.from_numpy(grey + colour).float()
        noise += F.interpolate(layer, size=(size_px, size_px), mode="bicubic") / cells**0.5
        cells *= 2
    return (127 + 50 * noise[0]).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _noise_features(pipeline: Pipeline) -> torch.Tensor:
    """Features of the noise images by the image tower: float32 [n, d], from the cache."""
    size_px = pipeline.config.model.image.size_px
    images = [image_ref_from_array(noise_image(number, size_px)) for number in range(NOISE_IMAGES)]
    examples = [Example(f"nothing {number}", {"image": image}) for number, image in enumerate(images)]
    encoded = encode_images(pipeline, ListDataset("", examples, Ledger()), cache_root(), lambda done, total, what: None)
    return torch.from_numpy(np.stack([example.inputs[FEATURES].pooled for example in examples_of(encoded)])).to(
        pipeline.device
    )
