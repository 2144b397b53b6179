"""Causal language models of transformers as text towers: any architecture that takes `inputs_embeds`.

A task writes with it (`tasks.conversation`): image tokens stand among the word embeddings, and the network continues
them. Without adaptation its weights stay as they were read; low-rank changes belong to the model, beside them.

Axis legend: m rows, l tokens, q query and k key positions, e width of the word embeddings, d width of the states.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.device import has_bf16, pick_device
from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.base import ChatTokenizerSource, EncoderShape, TextTowerConfig, TokenizerSource
from chiasm.models.int8 import Int8Weights
from chiasm.models.lora import add_lora, without_lora
from chiasm.models.pretrained.attention import use_matrix_attention
from chiasm.models.pretrained.gguf_file import language_model_folder
from chiasm.models.pretrained.hugging_face_folder import need_transformers, read_network, reading
from chiasm.models.pretrained.key_values import KeyValues
from chiasm.models.pretrained.recomputation import recomputed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPEC_FILE = "language_model.json"
"""File of a run folder: the network's config, as transformers writes it."""
PROBED_TOKENS = 4
PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalLanguageModelConfig(TextTowerConfig):
    """Keys that all language models share."""

    max_tokens: int = 512
    """Longest conversation in tokens, those of its images included."""
    frozen: bool = True
    """Keep the network's own weights; with `lora_rank` the low-rank changes are trained beside them."""
    lora_rank: int = 0
    """Rank of the low-rank change of every linear layer (Hu et al. 2022), kept beside the weights; 0 adds none."""
    lora_alpha: float = 16.0
    """The low-rank change is scaled by lora_alpha / lora_rank."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format that the frozen network is kept in: bf16 takes half of the memory, and of the time on a machine
    with instructions for it; "auto" takes it there. Low-rank changes are kept in fp32."""
    writing_weights: Literal["auto", "int8", "own"] = "auto"
    """Weights that replies are written with on a CPU: "own" are the network's; "int8" are a copy in eight bits
    (`models.int8`), with low-rank changes added to it, which takes half of the time of a token; "auto" takes them where
    the network is kept in bf16. Likelihoods are always measured with the network's own."""
    recompute: bool = False
    """Compute each block again in the backward pass in place of keeping its activations: less memory, a third more
    time (gradient checkpointing, Chen et al. 2016)."""

    keeps_lora: ClassVar[bool] = True
    is_chat_model: ClassVar[bool] = True

    @abstractmethod
    def source(self) -> str:
        """What `language_model_folder` opens: a packaged model's name, a folder, or a GGUF file."""

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        return load_language_model(language_model_folder(self.source()), self)

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        return ChatTokenizerSource(lambda: language_model_folder(self.source()))

    def with_lora(self, rank: int, alpha: float) -> TextTowerConfig:
        """See `TextTowerConfig.with_lora`."""
        return replace(self, frozen=True, lora_rank=rank, lora_alpha=alpha)


class PackagedLanguageModelConfig(CausalLanguageModelConfig, ABC):
    """A language model of `LANGUAGE_MODELS`, named by its kind."""

    __slots__ = ()

    is_packaged: ClassVar[bool] = True

    def source(self) -> str:
        """See `CausalLanguageModelConfig.source`."""
        return self.kind


@dataclass(frozen=True, kw_only=True, slots=True)
class SmolLM2Config(PackagedLanguageModelConfig):
    """SmolLM2-135M-Instruct, English, from an installed package (Apache-2.0)."""

    kind: Literal["smollm2"] = "smollm2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemma3Config(PackagedLanguageModelConfig):
    """Gemma 3 270M, many languages with Chinese, without a chat template, from an installed package (Gemma's terms)."""

    kind: Literal["gemma3_270m"] = "gemma3_270m"


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelConfig(CausalLanguageModelConfig):
    """A causal language model out of a local folder in Hugging Face layout, or out of a GGUF file."""

    kind: Literal["language_model"] = "language_model"
    name: str = ""
    """The folder or file; its weights travel in the run folder."""

    def source(self) -> str:
        """See `CausalLanguageModelConfig.source`."""
        return self.name

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`; from a run folder the network is built without weights, which the run has."""
        stored = Path(self.name) / SPEC_FILE
        if stored.is_file():
            return LanguageModel(_from_spec(stored), self)
        return CausalLanguageModelConfig.build(self, shape)

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`; of a whole network, the tokenizer and template with an image token."""
        path = Path(self.name) / "config.json"
        told = read_json(path, "the model's config") if path.is_file() else {}
        if isinstance(told, dict) and "vision_config" in told:
            return ChatTokenizerSource(lambda: Path(self.name), takes_images=True)
        return CausalLanguageModelConfig.tokenizer(self)

    def moved_to(self, folder: Path) -> TextTowerConfig:
        """See `TextTowerConfig.moved_to`."""
        return replace(self, name=str(folder))

    def describing_files(self, encoder: nn.Module) -> dict[str, bytes]:
        """The architecture."""
        assert isinstance(encoder, LanguageModel), "a language model's config describes a language model"
        content = {"model_type": encoder.network.config.model_type, **encoder.network.config.to_diff_dict()}
        return {SPEC_FILE: (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode()}


class LanguageModel(nn.Module):
    """A causal language model: word embeddings, states of all positions, logits of the next token.

    Against `CausalTextEncoder` it is pre-trained, comes with its tokenizer, and reads embeddings that are no words.

    Args:
        network: transformers' model with its output layer.
        config: low-rank changes and recomputation.
        axes: of its positions, where image tokens have a place by row and column (M-RoPE); 0 where all are counted.
        sees_ahead: whether a prompt's tokens attend to each other in both directions, its images included (PaliGemma).

    Attributes:
        dim: width of the states.
        embedding_dim: width of the word embeddings, which image tokens must have.
        logit_scale: factor of the output layer's numbers.
        logit_cap: bound of the logits, which tanh keeps; None without one.

    Raises:
        InputError: the network's logits are not a function of its last states that is known here.
    """

    def __init__(
        self,
        network: "PreTrainedModel",
        config: CausalLanguageModelConfig,
        axes: int = 0,
        sees_ahead: bool = False,
    ) -> None:
        super().__init__()
        _as_linear(network)
        self.axes, self.sees_ahead = axes, sees_ahead
        self.network, self.max_tokens, self.recompute = network, config.max_tokens, config.recompute
        text = network.config.get_text_config()
        self.embedding_dim = int(cast(Any, network.get_input_embeddings()).embedding_dim)
        self.dim = int(self.output_layer.in_features)
        self.vocabulary = int(cast(Any, network.get_input_embeddings()).num_embeddings)
        divisor = float(getattr(text, "logits_scaling", None) or 1.0)
        self.logit_scale = float(getattr(text, "logit_scale", None) or 1.0) / divisor
        self.logit_cap: float | None = getattr(text, "final_logit_softcapping", None) or None
        self._window, self._all_slide = _window(text)
        # transformers renames this argument.
        self._cache_key = (
            "cache" if "cache" in inspect.signature(self._blocks.forward).parameters else "past_key_values"
        )
        use_matrix_attention(network)
        self._check_logits()
        if config.frozen and (config.precision == "bf16" or (config.precision == "auto" and has_bf16(pick_device()))):
            network.to(torch.bfloat16)  # type: ignore[arg-type]
        if config.lora_rank:
            add_lora(self._blocks, ("",), config.lora_rank, config.lora_alpha, is_kept=True)
        is_bf16 = next(iter(network.parameters())).dtype == torch.bfloat16
        self._writes_int8 = config.writing_weights == "int8" or (config.writing_weights == "auto" and is_bf16)
        self._int8: Int8Weights | None = None

    @property
    def _blocks(self) -> nn.Module:
        """The network without its output layer."""
        return self.network.base_model

    def embed(self, ids: Int[Tensor, "*m"]) -> Float[Tensor, "*m e"]:
        """Token ids -> word embeddings, scaled as the network scales them."""
        return cast(Tensor, cast(Any, self.network.get_input_embeddings())(ids))

    @property
    def output_layer(self) -> nn.Linear:
        """From states to logits, before `logit_scale` and `logit_cap`."""
        return cast(nn.Linear, self.network.get_output_embeddings())

    @property
    def embedding_rms(self) -> float:
        """Root mean square of the numbers of the word embeddings: the size that image tokens should have."""
        with torch.no_grad():
            some = torch.arange(0, self.vocabulary, max(self.vocabulary // 4096, 1), device=self._device)
            return float(self.embed(some).float().square().mean().sqrt())

    @property
    def _device(self) -> torch.device:
        return cast(Tensor, cast(Any, self.network.get_input_embeddings()).weight).device

    def states(
        self,
        embeddings: Float[Tensor, "m q e"],
        allowed: Bool[Tensor, "m q k"] | None,
        positions: Int[Tensor, "m q"],
        cache: KeyValues | None = None,
        axes: Int[Tensor, "m q a"] | None = None,
    ) -> Float[Tensor, "m q d"]:
        """Last states of the given positions.

        Args:
            embeddings: words and images.
            allowed: True where a position may attend; the keys are those of `cache`, then the given ones. None is
                causal without padding.
            positions: place of each in its text, from 0.
            cache: of the positions before; extended.
            axes: place on each of `self.axes` axes; None for words, which follow what the cache holds.
        """
        assert axes is None or self.axes, "this language model counts places on one axis"
        recomputes = self.recompute and torch.is_grad_enabled() and cache is None
        if self.axes and axes is None and cache is not None:
            axes = cache.axes_of_words(positions, self.axes)
        key_positions = positions if cache is None else cache.add_positions(positions, axes)
        with recomputed(self.network, recomputes):
            found = self._blocks(
                inputs_embeds=embeddings,
                attention_mask=None if allowed is None else self._masks(allowed, positions, key_positions),
                position_ids=positions if axes is None else torch.cat([positions[None], axes.permute(2, 0, 1)]),
                use_cache=cache is not None,
                **({} if cache is None else {self._cache_key: cache.cache}),
            )
        return cast(Tensor, found.last_hidden_state)

    def words(self, states: Float[Tensor, "*r d"]) -> Float[Tensor, "*r v"]:
        """Logits, float32, of the token after each state."""
        logits = cast(Tensor, self.output_layer(states)).float() * self.logit_scale
        return logits if not self.logit_cap else torch.tanh(logits / self.logit_cap) * self.logit_cap

    def forward(self, text: TextTokens) -> Tokens:
        """States of a text of words alone; `pooled` is that of its last token. Padding stands on the right."""
        ids, is_real = text
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        values = self.states(self.embed(ids), None, positions)
        last = (is_real.sum(1) - 1).clamp_min(0)
        values = values.float()
        return Tokens(values, is_real, values[torch.arange(len(ids), device=ids.device), last])

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Within the block the network is the one that was read, bit for bit."""
        with without_lora(self.network):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within the block states and words are computed with `writing_weights`; gradients are not."""
        if not self._writes_int8 or self._device.type != "cpu":
            yield
            return
        if self._int8 is None or not self._int8.is_current:
            self._int8 = Int8Weights(self.network)
        with self._int8.used():
            yield

    def _masks(self, allowed: Tensor, positions: Tensor, key_positions: Tensor) -> Tensor | dict[str, Tensor]:
        """Masks as transformers takes them: one, or one for each kind of layer of a network with sliding windows."""
        dtype = next(iter(self.network.parameters())).dtype
        if self._window is None:
            return _additive(allowed, dtype)
        if self.sees_ahead and allowed.shape[2] > self._window:
            raise InputError(
                f"a prompt of {allowed.shape[2]} tokens, those of its images included",
                f"up to {self._window}, within which all layers of this language model see the same",
                "ask a shorter question, or show fewer images",
            )
        near = _additive(allowed & (positions[:, :, None] - key_positions[:, None, :] < self._window), dtype)
        if self._all_slide:
            return near
        return {"full_attention": _additive(allowed, dtype), "sliding_attention": near}

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Compare with the network's own forward pass: masks, positions and logits are those that it computes with."""
        positions = torch.arange(PROBED_TOKENS, device=self._device)[None]
        ids = positions % self.vocabulary
        allowed = torch.ones(1, PROBED_TOKENS, PROBED_TOKENS, dtype=torch.bool, device=self._device).tril()
        was_training = self.network.training
        self.network.eval()
        theirs = self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        try:
            ours, said = self.words(self.states(self.embed(ids), allowed, positions)), "other logits"
        except (TypeError, ValueError, RuntimeError) as error:
            ours, said = torch.full_like(theirs, torch.nan), str(error)
        self.network.train(was_training)
        if not torch.allclose(ours, theirs, atol=PROBE_TOLERANCE, rtol=PROBE_TOLERANCE):
            raise InputError(
                f"a {type(self.network).__name__}, which cannot read embeddings with a mask and positions ({said})",
                "an architecture with an output layer on its last states: Llama, Qwen, Gemma, Phi, GPT-2, OPT, others",
                "give another language model",
            )


def load_language_model(folder: Path, config: CausalLanguageModelConfig) -> LanguageModel:
    """Open a folder in Hugging Face layout, float32, in evaluation mode; nothing is downloaded.

    Raises:
        MissingExtraError: transformers is not installed.
        InputError: the folder holds no causal language model.
    """
    need_transformers()
    from transformers import AutoModelForCausalLM

    return LanguageModel(read_network(folder, AutoModelForCausalLM), config).eval()


def _from_spec(path: Path) -> "PreTrainedModel":
    """The network of a run folder, with weights that the caller replaces."""
    need_transformers()

    def build() -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        told = read_json(path, "the language model's description")
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**told))

    return cast("PreTrainedModel", reading(path.parent, "the language model's description", build))


def _as_linear(network: nn.Module) -> None:
    """Replace the transposed linear layers of GPT-2 by ordinary ones, which low-rank adaptation changes."""
    from transformers.pytorch_utils import Conv1D

    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv1D):
                width_in, width_out = layer.weight.shape
                made = nn.Linear(width_in, width_out, device="meta")
                made.weight, made.bias = nn.Parameter(layer.weight.detach().t().contiguous()), layer.bias
                setattr(parent, name, made)


def _window(text: Any) -> tuple[int | None, bool]:
    """Positions that a query of the sliding layers reaches back, and whether all layers slide (Mistral).

    None where every layer reaches all.
    """
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if not window or (kinds and "sliding_attention" not in kinds):
        return None, False
    return int(window), not kinds


def _additive(allowed: Bool[Tensor, "m q k"], dtype: torch.dtype) -> Float[Tensor, "m 1 q k"]:
    """0 where a query may attend, the least number elsewhere."""
    least = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, least)[:, None]
