"""Networks of transformers in which a language model sees images: what all of them share.

The inner language model is the model's text tower, so that splicing, cached keys and values, packed rows, low-rank
changes and decoding are those of a model that is trained here (`models.bridge`).

Axis legend: k images, l tokens, c their width, e width of word embeddings.
"""

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.bridge.language_bridge import LanguageBridge
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.language_model import CausalLanguageModelConfig, LanguageModel
from chiasm.models.heads import HeadSpec, LanguageWriter
from chiasm.models.lora import LoraLinear
from chiasm.models.networks.base import NetworkSpec, PretrainedVLM
from chiasm.models.vision_language import Parts

PROBED_TOKENS = 6
"""Words that are read by both when a network is opened."""
TOLERANCE, COARSE = 1e-3, 0.1
"""Largest difference of logits, absolute and relative; and in 16 bits, as a share of the largest logit."""
AXES = 3
"""Time, row and column: the axes of positions of networks that have M-RoPE (`get_rope_index` of transformers)."""


class NetworkBridge(LanguageBridge):
    """A bridge that a network brings: `projector` is its own, and no norm follows.

    Args:
        projector: module, Tokens [k, l, c] -> Tokens [k, p, e].
    """

    def __init__(self, projector: nn.Module) -> None:
        nn.Module.__init__(self)
        self.projector, self.norm = projector, None


class LayersOnTokens(nn.Module):
    """A module that changes each token by itself, as a projector.

    Args:
        layers: module, [..., c] -> [..., e].
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tokens: Tokens) -> Tokens:
        """As many tokens as before."""
        return tokens._replace(values=self.layers(tokens.values))


class LanguageNetwork(PretrainedVLM):
    """A network whose `image_encoder` gives tokens of images, and whose one head is a bridge to its language model."""

    names: ClassVar[tuple[tuple[str, str], ...]] = ()
    head_names: ClassVar[dict[str, tuple[str, str]]] = {}
    projector_name: ClassVar[str] = ""
    """Name of the projector in transformers' network; "" where there is none of its own."""
    image_name: ClassVar[str] = ""
    """Name of the image tower there."""
    sees_ahead: ClassVar[bool] = False
    """See `LanguageModel`."""
    inner_name: str = ""
    """Name of the inner language model there."""

    @classmethod
    def wrap(cls, config: ModelConfig, parts: Parts, spec: NetworkSpec, network: Any) -> "LanguageNetwork":
        """Take over image tower, projector and language model."""
        text = config.text
        if not isinstance(text, CausalLanguageModelConfig) or text.is_packaged:
            raise InputError(
                f"model.text.kind {text.kind!r} with a {spec.network}",
                "the network's own language model",
                f"--set model.text.kind=language_model --set model.text.name={config.network}; or to train it further, "
                f"--set init_from={config.network} in place of model.network",
            )
        made = cls(config, parts, spec)
        network.eval()
        causal = causal_model(network)
        made.inner_name = inner_name(network)
        theirs = None if causal is getattr(_core(network), made.inner_name) else _probed(network, cls.sees_ahead)
        made.image_encoder, bridge = made.eyes(network)
        made._take_head(bridge)
        axes = AXES if hasattr(_core(network), "get_rope_index") else 0
        made.text_encoder = LanguageModel(causal, text, axes, cls.sees_ahead)
        if theirs is not None:
            made._check_words(theirs, text)
        return made

    @abstractmethod
    def eyes(self, network: Any) -> tuple[nn.Module, NetworkBridge]:
        """The image tower, images -> Tokens, and the bridge from its tokens to the language model."""

    @torch.no_grad()
    def image_tokens(self, task: str) -> int:
        """As in `VisionLanguageModel`; the size of images is the network's own."""
        height, width = self.spec.fixed.size_px
        parameter = next(self.image_encoder.parameters())
        blank = torch.zeros(1, 3, height, width, device=parameter.device)
        return self.bridge(task)(self.encode_image(blank)).values.shape[1]

    def _check_words(self, theirs: Tensor, text: CausalLanguageModelConfig) -> None:
        """Compare the logits of a text alone with the network's own: some scale or cap them in one place of two."""
        language = self.language
        ids, positions = _probe(language.vocabulary)
        allowed = torch.ones(1, PROBED_TOKENS, PROBED_TOKENS, dtype=torch.bool)
        allowed = allowed if self.sees_ahead else allowed.tril()
        with language.without_adapters():
            ours = language.words(language.states(language.embed(ids), allowed, positions)).detach()
        if not are_alike(ours, theirs, language):
            raise InputError(
                f"a {self.spec.network} around a {type(language.network).__name__}, whose logits are other than those "
                f"of the language model alone, by up to {float((ours - theirs).abs().max()):.1e}",
                "a network that reads texts as its language model does, word after word",
                "use transformers itself for this folder",
            )

    def _names(self) -> list[tuple[str, str]]:
        """Beginnings of names of weights here, and in transformers."""
        inner = self.language.network
        prefix = inner.base_model_prefix
        head = next(name for name, module in inner.named_modules() if module is inner.get_output_embeddings())
        names = [
            (f"text_encoder.network.{prefix}.", f"model.{self.inner_name}."),
            (f"text_encoder.network.{head}.", "lm_head."),
        ]
        if self.projector_name:
            names.append(("image_encoder.model.", f"model.{self.image_name}."))
            names += [(f"heads.{task}.projector.layers.", f"model.{self.projector_name}.") for task in self.heads]
        else:
            names.append(("image_encoder.network.", "model."))
        return names

    def hugging_face_tensors(self) -> dict[str, Tensor]:
        """All weights under the names that transformers gives them; low-rank changes are merged."""
        names = self._names()
        merged = {
            f"{name}.weight": module.merged().weight
            for name, module in self.named_modules()
            if isinstance(module, LoraLinear)
        }
        found = {}
        for name, value in self.state_dict().items():
            for ours, theirs in names:
                if name.startswith(ours) and not name.endswith((".lora_a", ".lora_b")):
                    found[theirs + name.removeprefix(ours)] = merged.get(name, value)
        return found


def language_writers(*networks: str) -> dict[str, type[HeadSpec]]:
    """The entry `offers` of networks with a language model."""
    return dict.fromkeys(networks, LanguageWriter)


def are_alike(ours: Tensor, theirs: Tensor, language: LanguageModel) -> bool:
    """Whether logits agree as far as the number format of a language model lets them."""
    if next(language.parameters()).dtype == torch.float32:
        return torch.allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
    return float((ours - theirs).abs().max()) <= COARSE * float(theirs.abs().max())


def _core(network: Any) -> Any:
    """What holds the parts of a network: `model`, or itself (BLIP-2)."""
    return getattr(network, "model", network)


def inner_name(network: Any) -> str:
    """Name of the language model inside; "" where there is none."""
    return next((name for name in ("language_model", "text_model") if hasattr(_core(network), name)), "")


def causal_model(network: Any) -> Any:
    """The language model inside a network as transformers' causal language model, sharing its weights.

    One that transformers does not have alone is its states and the network's output layer; `LanguageNetwork` compares
    the logits of both.

    Raises:
        InputError: there is no language model inside, or it lacks weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    text = network.config.get_text_config()
    inner = getattr(_core(network), inner_name(network), None)
    if inner is None or network.get_output_embeddings() is None:
        raise InputError(
            f"a {type(network).__name__} around a {text.model_type}",
            "a network around a causal language model",
            "use transformers itself for this folder",
        )
    if inner.get_output_embeddings() is network.get_output_embeddings():
        return inner.eval()
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return _with_output_layer(inner, network.get_output_embeddings())
    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(text, attn_implementation=inner.config._attn_implementation)
    setattr(made, made.base_model_prefix, inner)
    made.set_output_embeddings(network.get_output_embeddings())
    left = [name for name, value in made.state_dict().items() if value.is_meta]
    if left:
        raise InputError(
            f"a {type(network).__name__}, whose language model lacks {left[0]}",
            "a whole language model inside",
            "use transformers itself for this folder",
        )
    return made.eval()


def _with_output_layer(inner: Any, output: nn.Module) -> Any:
    """A causal language model whose logits are the output layer's of the inner model's last states."""
    from transformers.modeling_outputs import CausalLMOutput

    family: Any = type(inner).__bases__[0]

    class StatesToLogits(family):  # type: ignore[misc]  # so that it is a model of transformers, with what that can do
        base_model_prefix = "model"

        def __init__(self) -> None:
            super().__init__(inner.config)
            self.model, self.lm_head = inner, output

        def forward(self, **given: Any) -> CausalLMOutput:
            return CausalLMOutput(logits=self.lm_head(self.model(**given).last_hidden_state))

    return StatesToLogits().eval()


def _probe(vocabulary: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(PROBED_TOKENS)[None]
    return (positions * 7 + 1) % vocabulary, positions


@torch.no_grad()
def _probed(network: Any, sees_ahead: bool) -> Tensor | None:
    """The network's own logits of a text alone, of a prompt; None for one without weights (on the meta device)."""
    table = network.get_input_embeddings().weight
    if table.is_meta:
        return None
    ids, _ = _probe(table.shape[0])
    given = {"token_type_ids": torch.zeros_like(ids)} if sees_ahead else {}
    return cast(Tensor, network(input_ids=ids, attention_mask=torch.ones_like(ids), **given).logits.float())
