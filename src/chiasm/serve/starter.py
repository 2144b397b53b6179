"""A model for search and classification that nobody has trained: the packaged towers, joined by ImageNet's classes.

A picture becomes a distribution over 1,000 classes, and that a place among the sentences of MiniLM (ConSE, Norouzi et
al. 2014). It knows things, not people, actions or colours; a trained run finds several times more.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from chiasm.core.errors import InputError
from chiasm.core.run_config import DataConfig, ImageTowerConfig, ModelConfig, RunConfig, TaskConfig, TextTowerConfig
from chiasm.core.types import TextTokens
from chiasm.data.sources.records import language_of
from chiasm.data.text import TextTokenizer
from chiasm.models.encoders.efficientnet_lite import HEAD_CHANNELS, EfficientNetLite0
from chiasm.models.encoders.imagenet import Centred, LabelBridge, class_vectors, imagenet_classes
from chiasm.tasks.pipeline import Pipeline, make_codec

STARTER = "starter"
"""The word that stands where a run folder would."""
TOP_CLASSES, TEMPERATURE = 10, 2.0
"""Chosen on the training pictures of cifar10_subset and Flickr8k."""
SENTENCES_AT_ONCE = 128


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

    Raises:
        MissingExtraError: the extra [weights] is not installed.
    """
    config = RunConfig(
        recipe=STARTER,
        data=DataConfig(),
        model=ModelConfig(
            embedding_dim=384,
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
    starts = range(0, len(flat), SENTENCES_AT_ONCE)
    pooled = torch.cat([pipeline.encode_texts(flat[at : at + SENTENCES_AT_ONCE]).pooled for at in starts])
    vectors = class_vectors(F.normalize(pooled, dim=-1), [len(part) for part in sentences])
    mean = vectors.mean(0)
    assert isinstance(model.image_encoder, EfficientNetLite0), "the starter's tower has a classifier"
    bridge = LabelBridge(
        model.image_encoder.classifier, HEAD_CHANNELS, F.normalize(vectors - mean, dim=-1), TOP_CLASSES, TEMPERATURE
    )
    model.image_projection = bridge  # type: ignore[assignment]
    model.text_projection = Centred(mean)  # type: ignore[assignment]
    model.requires_grad_(False).eval()
    return pipeline
