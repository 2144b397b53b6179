"""Networks whose images become any number of tokens: LLaVA-NeXT, LLaVA-OneVision, Idefics3, SmolVLM.

Tiles, row and column tokens, and line ends are what each network's own processor and `get_image_features` make of an
image; the result stands among the words as one row of tokens. transformers' causal mask and positions are those of a
text, so one wrapper serves all of them. Any other network that transformers calls image-text-to-text is opened in the
same way if its logits of a small image and a few words are reproduced, and refused otherwise.

Axis legend: k images, l tokens, e width of word embeddings, h/w height and width in pixels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_ID, Tokens
from chiasm.models.bridge.splicing import GivenRows
from chiasm.models.config import ModelConfig
from chiasm.models.heads import HeadSpec, LanguageWriter
from chiasm.models.networks.base import NetworkSpec
from chiasm.models.networks.language import AXES, LanguageNetwork, NetworkBridge, are_alike
from chiasm.models.pretrained.image_text_processor import ImageTextProcessor, image_text_processor
from chiasm.models.vision_language import Parts

DIGIT = 1024
"""Base of the two digits of a token's id, each exact in 16 bits."""
USUAL_PX = (480, 640)
"""Height and width of the image whose tokens are counted where a conversation's length is checked."""
PROBE_PX = (32, 48)
PROBE_WORDS = range(20, 30)
"""Ids of the words of the comparison, as far as they are no image token."""
_INNER = "image features in inner layers (DeepStack), which are put in before the first here"
_BOTH_WAYS = "attention in both directions within images, where here it is causal"
_READING = "queries that read the question too, which are made of the image alone here"
MISSING = {
    "Qwen3VLForConditionalGeneration": _INNER,
    "Gemma3ForConditionalGeneration": _BOTH_WAYS,
    "InstructBlipForConditionalGeneration": _READING,
    "MllamaForConditionalGeneration": "cross-attention to images in layers of their own",
}
"""Class of transformers -> what it does that is not computed here; other classes are compared when they are opened."""


class WholeEyes(nn.Module):
    """Images at their own sizes -> tokens of the language model's width, with the words that stand between them.

    Two further channels hold id + 1 of a word, in digits of base `DIGIT`; both are 0 for a token of the image. With
    positions of several axes, as many more hold `Tokens.steps`.

    Args:
        network: transformers' network without its language model.
        processor: its processor.
        width: e.
    """

    def __init__(self, network: Any, processor: ImageTextProcessor, width: int) -> None:
        super().__init__()
        self.network, self.processor = network, processor
        self.width, self.dim = width, width + 2 + (1 + AXES if hasattr(network, "get_rope_index") else 0)
        self._takes = frozenset(signature(type(network).get_image_features).parameters)

    def forward(self, image: Float[Tensor, "k 4 h w"]) -> Tokens:
        """Canvases with values in [-1, 1]; the image is where the fourth channel is above 0, in the upper left corner.

        `pooled` is the mean of the image's own tokens.
        """
        rows, pooled = zip(*(self._one(canvas) for canvas in image), strict=True)
        values = pad_sequence(list(rows), batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=values.device)
        is_real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
        return Tokens(values, is_real, torch.stack(pooled))

    def _one(self, canvas: Float[Tensor, "4 h w"]) -> tuple[Tensor, Tensor]:
        found = self.processor.prepare(pixels_of(canvas))
        ids = found.pop("input_ids")[0].to(canvas.device)
        given = {name: value.to(canvas.device) for name, value in found.items() if name in self._takes}
        features = self.network.get_image_features(**given).pooler_output
        features = torch.cat([one.flatten(0, -2) for one in features]) if not isinstance(features, Tensor) else features
        features = features.flatten(0, -2).float()
        is_image = ids == self.processor.image_id
        if int(is_image.sum()) != len(features):
            raise InputError(
                f"{len(features)} features of an image for {int(is_image.sum())} places in the text",
                "a processor and a network of one model",
                "take the processor's files and config.json from one place",
            )
        row = features.new_zeros(len(ids), self.dim)
        row[is_image, : self.width] = features
        number = torch.where(is_image, 0, ids + 1)
        row[:, self.width : self.width + 2] = torch.stack([number // DIGIT, number % DIGIT], 1).to(row.dtype)
        if self.dim > self.width + 2:
            row[:, self.width + 2 :] = self._steps(ids, found).to(row.dtype)
        return row, torch.nn.functional.pad(features.mean(0), (0, self.dim - self.width))

    def _steps(self, ids: Tensor, found: dict[str, Tensor]) -> Tensor:
        """`Tokens.steps` by the network's own positions; the places that an image takes follow its last token."""
        kinds, grid = found["mm_token_type_ids"].to(ids.device), found["image_grid_thw"]
        places = self.network.get_rope_index(ids[None], mm_token_type_ids=kinds, image_grid_thw=grid)[0][:, 0].T
        ahead = torch.zeros_like(ids)
        ahead[-1] = places.max() + 1
        return torch.cat([ahead[:, None], places], 1)


class WordsBetween(nn.Module):
    """Projector that puts in the words which stand between an image's tokens; it has no weights of its own.

    Args:
        words: the language model's word embeddings, which belong to the text tower.
    """

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self._words = (words,)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens [k, l, e + 2], or with steps -> [k, l, e]."""
        width = int(cast(Any, self._words[0]).embedding_dim)
        digits = tokens.values[..., width : width + 2].round().long()
        number = digits[..., 0] * DIGIT + digits[..., 1]
        words = self._words[0]((number - 1).clamp_min(0))
        values = torch.where((number > 0)[..., None], words.to(tokens.values.dtype), tokens.values[..., :width])
        steps = tokens.values[..., width + 2 :].round().long()
        return tokens._replace(values=values, steps=steps if steps.shape[-1] else None)


class _Writers(dict[str, type[HeadSpec]]):
    """Every network of this kind has the one head."""

    def __missing__(self, network: str) -> type[HeadSpec]:
        return LanguageWriter


class ImageTextNetwork(LanguageNetwork):
    """A network with tiles; `spec.network` says which."""

    offers: ClassVar[dict[str, type[HeadSpec]]] = _Writers(
        dict.fromkeys(
            (
                "LlavaNextForConditionalGeneration",
                "LlavaOnevisionForConditionalGeneration",
                "Idefics3ForConditionalGeneration",
                "SmolVLMForConditionalGeneration",
                "Qwen2VLForConditionalGeneration",
                "Qwen2_5_VLForConditionalGeneration",
            ),
            LanguageWriter,
        )
    )

    @classmethod
    def check_folder(cls, network: str, architecture: Mapping[str, Any], folder: Path) -> None:
        """See `PretrainedVLM.check_folder`; classes that are known to differ."""
        if network in MISSING:
            raise InputError(
                f"{folder} holds a {network}, which has {MISSING[network]}",
                ", ".join(cls.offers) + ", LlavaForConditionalGeneration",
                "use transformers itself for this folder, or give another one",
            )

    @classmethod
    def wrap(cls, config: ModelConfig, parts: Parts, spec: NetworkSpec, network: Any) -> "ImageTextNetwork":
        """Take over the network; one that is not tested against transformers is compared with it first."""
        is_known = spec.network in cls.offers or spec.is_compared
        if is_known:
            return cast(ImageTextNetwork, super().wrap(config, parts, spec, network))
        with _refusing(spec.network):
            theirs = _logits_of_probe(network.eval(), _processor(spec, config))
            made = cast(ImageTextNetwork, super().wrap(config, parts, spec, network))
            made._compare(theirs)
        made.spec = replace(spec, is_compared=True)
        return made

    def eyes(self, network: Any) -> tuple[nn.Module, NetworkBridge]:
        """See `LanguageNetwork.eyes`."""
        words = network.get_input_embeddings()
        core = network.model
        setattr(core, self.inner_name, None)
        width = int(words.embedding_dim)
        return WholeEyes(core, _processor(self.spec, self.config), width), NetworkBridge(WordsBetween(words))

    @torch.no_grad()
    def image_tokens(self, task: str) -> int:
        """As in `VisionLanguageModel`: of an image of `USUAL_PX`; larger ones may become more."""
        return self.encode_image(_canvas(np.zeros((*USUAL_PX, 3), dtype=np.uint8))).values.shape[1]

    @property
    def _eyes(self) -> WholeEyes:
        return cast(WholeEyes, self.image_encoder)

    @torch.no_grad()
    def _compare(self, theirs: Tensor) -> None:
        ids = torch.tensor([[IMAGE_ID, *_probe_words(self._eyes.processor)]])
        given = GivenRows(ids, torch.ones_like(ids, dtype=torch.bool))
        language = self.language
        image = self.encode_image(_canvas(_probe_image()))
        bridge = self.bridge(next(iter(self.heads)))
        rows = bridge.rows(language, image, given, torch.zeros(1, dtype=torch.long))
        ours = language.words(language.states(rows.embeddings, rows.allowed, rows.positions, axes=rows.axes))[0]
        if ours.shape != theirs.shape or not are_alike(ours, theirs, language):
            raise InputError(
                f"a {self.spec.network}: its logits of an image and words are not those of images put among words "
                "under a causal mask, with positions counted one by one",
                "a network without further positions (M-RoPE), masks (prefix, image blocks) or cross-attention",
                "use transformers itself for this folder",
            )


@contextmanager
def _refusing(network: str) -> Iterator[None]:
    """Turn the errors of a network that cannot be taken apart, which are of many types, into a refusal."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"a {network}, which cannot be compared with transformers here ({type(error).__name__}: {said})",
            "a network with get_image_features, a language model inside, and a processor that writes image tokens",
            "use transformers itself for this folder",
        ) from error


def pixels_of(canvas: Float[Tensor, "4 h w"]) -> np.ndarray:
    """The image on a canvas, uint8 [h, w, 3]."""
    real = canvas[3] > 0
    height, width = int(real[:, 0].sum()), int(real[0].sum())
    values = ((canvas[:3, :height, :width].float() + 1) * 127.5).round().clamp(0, 255)
    return values.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _processor(spec: NetworkSpec, config: ModelConfig) -> ImageTextProcessor:
    return image_text_processor(spec.processor, Path(config.network))


def _probe_words(processor: ImageTextProcessor) -> list[int]:
    return [number for number in PROBE_WORDS if number != processor.image_id]


def _probe_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*PROBE_PX, 3), dtype=np.uint8)


def _canvas(image: np.ndarray) -> Tensor:
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.cat([values, torch.ones_like(values[:, :1])], 1)


@torch.no_grad()
def _logits_of_probe(network: Any, processor: ImageTextProcessor) -> Tensor:
    """Transformers' own logits, float32 [l, v], of an image and some words."""
    found = processor.prepare(_probe_image())
    words = _probe_words(processor)
    ids = torch.cat([found.pop("input_ids"), torch.tensor([words])], 1)
    takes = signature(type(network).forward).parameters
    given = {name: value for name, value in found.items() if name in takes and name != "attention_mask"}
    for name in given.keys() & {"token_type_ids", "mm_token_type_ids"}:
        given[name] = torch.nn.functional.pad(given[name], (0, len(words)))
    return cast(Tensor, network(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits[0].float())
