"""The encoder contract over every encoder."""

from collections.abc import Callable, Collection

import pytest
import torch
from torch import nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.checks import check_encoder
from chiasm.models.codebooks import QUANTIZERS
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.conv import ConvEncoder
from chiasm.models.encoders.efficientnet_lite import EfficientNetLite
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.keypoints import KeypointEncoder
from chiasm.models.encoders.minilm import MiniLM
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder


def pictures(height: int, width: int = 0) -> torch.Tensor:
    return torch.rand(3, 3, height, width or height, generator=torch.Generator().manual_seed(0)) * 2 - 1


def texts() -> TextTokens:
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    return TextTokens(ids, torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None])


def minilm() -> nn.Module:
    """The class with small random weights; the packaged weights are checked in tests/models."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MiniLM(transformers.BertModel(transformers.BertConfig(vocab_size=40, **sizes), add_pooling_layer=False))


def image_codes(kind: str, height: int = 32, width: int = 48) -> nn.Module:
    """An image tokenizer whose codes have started: beside random ones all images are alike."""
    config = ImageCodesConfig(
        size_px=height,
        width_px=width,
        stride_px=4,
        width=16,
        encoder_blocks=1,
        decoder_blocks=1,
        quantizer=QUANTIZERS[kind](),
    )
    tower = config.build(EncoderShape(dim=16, heads=2))
    with torch.no_grad():
        tower.quantizer.start(tower._latents(pictures(height, width)).flatten(0, 1), 0)
    return tower


ENCODERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor | TextTokens]]] = {
    "conv": (lambda: ConvEncoder((20, 20), (4, 8), 16, 1, 2), lambda: pictures(20)),
    "conv, centred": (lambda: ConvEncoder((20, 20), (4, 8), 16, 1, 2, centred=True), lambda: pictures(20)),
    "conv without blocks": (lambda: ConvEncoder((16, 16), (4, 8, 8), 16, 0, 2), lambda: pictures(16)),
    "conv, not square": (lambda: ConvEncoder((12, 20), (4, 8), 16, 1, 2), lambda: pictures(12, 20)),
    "keypoints": (lambda: KeypointEncoder((20, 20), (4, 8), 16, 5, 2, 4), lambda: pictures(20)),
    "keypoints, not square": (lambda: KeypointEncoder((12, 20), (4, 8), 16, 3, 0, 2), lambda: pictures(12, 20)),
    **{
        f"image_codes, {kind}": (lambda kind=kind: image_codes(kind), lambda: pictures(32, 48))  # type: ignore[misc]
        for kind in QUANTIZERS
    },
    "efficientnet_lite0": (EfficientNetLite, lambda: pictures(40)),
    "efficientnet_lite0 with grid": (lambda: EfficientNetLite(grid=True), lambda: pictures(40)),
    "text": (lambda: TextEncoder(40, 12, 16, 2, 2), texts),
    "text with summary": (lambda: TextEncoder(40, 12, 16, 2, 4, summary_tokens=3), texts),
    "causal": (lambda: CausalTextEncoder(40, 12, 16, 2, 2), texts),
    "two_stream": (lambda: TwoStreamTextEncoder(40, 12, 16, 2, 2), texts),
    "minilm": (minilm, texts),
}
DECODER = tuple(name for name, _ in image_codes("vector").named_parameters() if name.startswith("decoder."))
WITHOUT_GRADIENT: dict[str, Collection[str]] = {
    # The decoder is asked through `decode`; moving averages change a codebook without a gradient.
    "image_codes, vector": (*DECODER, "quantizer.book"),
    "image_codes, gumbel": DECODER,
    "image_codes, fsq": DECODER,
    "image_codes, color_cell": (*DECODER, "quantizer.patterns.book", "quantizer.colors.book"),
    # The classifier is asked through `class_logits`, never for tokens.
    "efficientnet_lite0": ("classifier.weight", "classifier.bias"),
    "efficientnet_lite0 with grid": ("classifier.weight", "classifier.bias"),
    # The query stream is asked through `two_stream`.
    "two_stream": ("query_token",),
}


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_contract_holds(name: str) -> None:
    """Guards every encoder against the bugs named in `check_encoder`."""
    torch.manual_seed(0)
    build, batch = ENCODERS[name]
    check_encoder(build(), batch(), WITHOUT_GRADIENT.get(name, ()))


class Broken(nn.Module):
    """A text tower with one bug, to see that the contract finds it."""

    def __init__(self, bug: str) -> None:
        super().__init__()
        self.bug, self.dim = bug, 8
        self.embedding = nn.Embedding(40, 8)
        self.unused = nn.Linear(8, 8) if bug == "unused parameter" else None
        self.noise = torch.randn(8)

    def forward(self, text: TextTokens) -> Tokens:
        values = self.embedding(text.ids)
        is_real = text.is_real if self.bug != "padding is real" else torch.ones_like(text.is_real)
        if self.bug == "rows mix":
            values = values + values[:1].mean(1, keepdim=True)
        weight = (torch.ones_like(is_real) if self.bug == "padding is pooled" else is_real)[..., None].to(values.dtype)
        pooled = (values * weight).sum(1) / weight.sum(1)
        if self.bug == "hidden state":
            pooled = pooled + self.embedding.weight.detach().mean() * 0 + id(self) % 1_000_003
        if self.bug == "float32 inside":
            return Tokens(values.float(), is_real, pooled.float())
        return Tokens(values, is_real.long() if self.bug == "mask of numbers" else is_real, pooled)


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("padding is real", "padding"),
        ("padding is pooled", "padding"),
        ("rows mix", "rows|alone"),
        ("unused parameter", "unused.weight gets no gradient"),
        ("hidden state", "pooled"),
        ("float32 inside", "float32"),
        ("mask of numbers", "is_real"),
    ],
)
def test_the_contract_finds_a_broken_encoder(bug: str, message: str) -> None:
    """The null control: a check that nothing can fail proves nothing."""
    check_encoder(Broken(""), texts())
    with pytest.raises(AssertionError, match=message):
        check_encoder(Broken(bug), texts())
