"""The interface of all fusion methods: the rows of one modality are fused with those of the others.

Axis legend: m rows of the text, n rows of the other modalities, r rows of these with one more that stands for none,
l, q, k tokens, d width, s summary tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Tokens
from chiasm.models.transformer import POSITION_STD, Attention


@dataclass(frozen=True, slots=True)
class FusionShape:
    """Sizes that all methods share, so that one can be put in the place of another."""

    dim: int
    """Token width of all modalities."""
    layers: int
    """Depth; each method says of what."""
    heads: int
    """Attention heads, where there is attention."""
    mlp_ratio: float = 4.0
    """Hidden width of each MLP over `dim`."""
    dropout: float = 0.0
    """Probability, in [0, 1), on each residual branch."""
    summary_tokens: int = 0
    """Summary tokens that replace the word tokens; 0 keeps the word tokens."""
    modality_dropout: float = 0.0
    """Probability, in [0, 1), that a training row loses its other modalities, and as often its text."""
    modalities: tuple[str, ...] = ("text", "image")
    """The first attends; the others are attended to."""


class FusionInputs(NamedTuple):
    """Complete rows for `Fusion.fuse`: every row of every modality has a real token."""

    text: Tokens
    """The first modality: m rows, values float [m, q, d]."""
    others: Mapping[str, Tokens]
    """The other modalities in the order of `FusionShape.modalities`: r rows each, values float [r, l, d]."""
    row_index: Int[Tensor, " m"] | None
    """int64 [m], in [0, r): the row of `others` that each text row belongs to; None: r equals m, row by row."""
    text_allowed: Bool[Tensor, "m q k"] | None
    """bool [m, q, k], True where text token q may attend to text token k, on top of padding; the others then attend to
    no text. None: no restriction; always None where `Fusion.keeps_words` is False."""


class Fusion(nn.Module, ABC):
    """dict of Tokens -> Tokens. Leaves implement `fuse`; this base replaces missing modalities first.

    A modality that is missing, in one row or in all, is replaced by learned tokens of its own (`absent`), as BERT's
    mask token stands for a word: one token, or `summary_tokens` for a text of these. To learn them, training with
    `modality_dropout` hides whole modalities of single rows ("ModDrop", Neverova et al. 2015). An image hidden from
    one question stays visible to the other questions about it.

    Attributes:
        keeps_words: True where `values[:, :l]` stand for the l text tokens, in order; masked language modelling
            reads them.
        reads_pooled: True where of the text its `pooled` vector alone is read.
        least_layers: fewest layers with which the modalities meet at all.
        dim: width of `pooled`.
        token_dim: width of `values`.

    Raises:
        InputError: `layers` or `modality_dropout` is out of range.
    """

    keeps_words: ClassVar[bool]
    reads_pooled: ClassVar[bool] = False
    least_layers: ClassVar[int] = 1

    def __init__(self, shape: FusionShape) -> None:
        super().__init__()
        assert len(shape.modalities) >= 2, "fusion needs a modality that asks and one to attend to"
        if not 0 <= shape.modality_dropout < 1:
            raise InputError(
                f"model.modality_dropout is {shape.modality_dropout}", "a number in [0, 1)", "0.1 is common; 0 is off"
            )
        if shape.layers < self.least_layers:
            raise InputError(
                f"model.fusion_layers is {shape.layers}",
                f"{self.least_layers} or more for {type(self).__name__}",
                "--set model.fusion_layers=2",
            )
        self.shape = shape
        self.dim = self.token_dim = shape.dim
        asking, *looked_at = shape.modalities
        lengths = {asking: max(shape.summary_tokens, 1), **dict.fromkeys(looked_at, 1)}
        self.absent = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(length, shape.dim) * POSITION_STD) for name, length in lengths.items()}
        )

    def cross_attentions(self) -> list[Attention]:
        """The attention modules, in order, whose queries attend to the other modalities' tokens; [] if there are none.

        Their keys are those tokens, after the text's own where there are more; their queries begin with the words,
        unless they are learned ones.
        """
        return []

    @abstractmethod
    def fuse(self, inputs: FusionInputs) -> Tokens:
        """Fuse complete rows: every row of every modality has a real token."""

    def forward(
        self,
        tokens: Mapping[str, Tokens],
        image_index: Int[Tensor, " m"] | None = None,
        text_allowed: Bool[Tensor, "m q k"] | None = None,
    ) -> Tokens:
        """Fuse the first modality's m rows with the others' n rows.

        Args:
            tokens: modality -> Tokens. Any of them may be missing, or have rows without a real token.
            image_index: which of the n rows each text row belongs to; None: n equals m, row by row.
            text_allowed: True where text token q may attend to text token k, on top of padding; each token must be
                allowed a real one. Other modalities then attend to no text, through which words would see what they
                may not. Only where `keeps_words`.

        Raises:
            InputError: a row has no modality at all.
        """
        asking, *looked_at = known = self.shape.modalities
        assert set(tokens) <= set(known), f"{sorted(tokens)} given, {known} known"
        assert text_allowed is None or self.keeps_words, f"{type(self).__name__} keeps no words to restrict"
        assert text_allowed is None or asking in tokens, f"text_allowed restricts {asking}, which is missing"
        if not tokens:
            raise InputError("no modality is given", f"one or more of {', '.join(known)}", "give a text or an image")
        text, others = tokens.get(asking), {name: tokens[name] for name in looked_at if name in tokens}
        rows, count, index = _sizes(text, others, image_index)
        text_here, others_here = self._here([text], rows), take(self._here(others.values(), count), index)
        if not (text_here | others_here).all():
            row = int((text_here | others_here).int().argmin())
            raise InputError(f"row {row} has no modality", f"one or more of {', '.join(known)}", "leave the row out")
        hidden = None
        if self.training and self.shape.modality_dropout:
            lost = torch.rand(2, rows, device=text_here.device) < self.shape.modality_dropout
            hidden = lost[0] & text_here
            text_here = text_here & ~(lost[1] & others_here & ~hidden)
        whole = {
            name: self._complete(name, part, self._here([part], count))
            for name, part in ((name, others.get(name)) for name in looked_at)
        }
        if hidden is not None:
            whole = {name: _with_row(part, self.absent[name]) for name, part in whole.items()}
            index = torch.where(hidden, count, torch.arange(rows, device=hidden.device) if index is None else index)
        if text_allowed is not None:
            text_allowed = text_allowed | ~text_here[:, None, None]
        return self.fuse(FusionInputs(self._complete(asking, text, text_here), whole, index, text_allowed))

    def _here(self, parts: Iterable[Tokens | None], rows: int) -> Bool[Tensor, " m"]:
        """True where a row of any of `parts` has a real token."""
        given = [part.is_real.any(1) for part in parts if part is not None]
        device = self.absent[self.shape.modalities[0]].device
        return torch.stack(given).any(0) if given else torch.zeros(rows, dtype=torch.bool, device=device)

    def _complete(self, name: str, part: Tokens | None, here: Bool[Tensor, " m"]) -> Tokens:
        """Put the learned tokens into the rows that are not `here`."""
        absent = self.absent[name]
        length, rows = len(absent), len(here)
        if part is None:
            is_real = torch.ones(rows, length, dtype=torch.bool, device=here.device)
            return Tokens(absent.expand(rows, -1, -1), is_real, absent.mean(0).expand(rows, -1))
        if here.all():
            return part
        values, is_real, pooled = part[:3]
        short = max(length - values.shape[1], 0)
        values, is_real = F.pad(values, (0, 0, 0, short)), F.pad(is_real, (0, short))
        filler, is_filler = _padded(absent, values)
        return Tokens(
            torch.where(here[:, None, None], values, filler),
            torch.where(here[:, None], is_real, is_filler),
            torch.where(here[:, None], pooled, absent.mean(0).to(pooled.dtype)),
        )


class Aligning(ABC):
    """A fusion that starts in a space shared by all modalities, in which a contrast compares their pooled vectors."""

    @abstractmethod
    def align(self, name: str, pooled: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Pooled vectors of modality `name` -> unit vectors in the shared space, float32."""


class Join(nn.Module):
    """Several modalities' tokens -> one sequence, each marked by a learned type where there is more than one.

    Args:
        modalities: names in the order in which they are joined.
        dim: token width.
    """

    def __init__(self, modalities: tuple[str, ...], dim: int) -> None:
        super().__init__()
        self.modalities = modalities
        self.types = nn.Embedding(len(modalities), dim) if len(modalities) > 1 else None

    def forward(self, parts: Mapping[str, Tokens]) -> tuple[Float[Tensor, "r l d"], Bool[Tensor, "r l"]]:
        """Join along the token axis: values and `is_real`. A single modality passes unchanged."""
        if self.types is None:
            return parts[self.modalities[0]].values, parts[self.modalities[0]].is_real
        marked = [parts[name].values + kind for name, kind in zip(self.modalities, self.types.weight, strict=True)]
        return torch.cat(marked, dim=1), torch.cat([parts[name].is_real for name in self.modalities], dim=1)


def take(values: Tensor, index: Tensor | None) -> Tensor:
    """Rows of `values` that `index` names; all of them, in order, without an index."""
    return values if index is None else values[index]


def _sizes(
    text: Tokens | None, others: Mapping[str, Tokens], index: Int[Tensor, " m"] | None
) -> tuple[int, int, Int[Tensor, " m"] | None]:
    """m, n, and which of the n rows each of the m belongs to, from whatever is given."""
    counts = {len(part.values) for part in others.values()}
    assert len(counts) <= 1, f"modalities that are attended to have different numbers of rows: {counts}"
    if not counts:
        assert text is not None, "checked by the caller"
        # One row of absent tokens stands for all, so that it is projected once.
        return len(text.values), 1, torch.zeros(len(text.values), dtype=torch.int64, device=text.values.device)
    count = counts.pop()
    rows = count if index is None else len(index)
    assert text is None or len(text.values) == rows, f"{len(text.values)} rows of text, {rows} of the others"
    return rows, count, index


def _padded(absent: Float[Tensor, "k d"], values: Float[Tensor, "_ l d"]) -> tuple[Tensor, Tensor]:
    """The learned tokens as one row of the length of `values`, and its `is_real`."""
    length = values.shape[1]
    row = F.pad(absent, (0, 0, 0, length - len(absent))).to(values.dtype)
    return row, torch.arange(length, device=values.device) < len(absent)


def _with_row(part: Tokens, absent: Float[Tensor, "k d"]) -> Tokens:
    """Append a row of the learned tokens, which rows that lose this modality point at."""
    row, is_row = _padded(absent, part.values)
    pooled = absent.mean(0).to(part.pooled.dtype)
    return Tokens(
        torch.cat([part.values, row[None]]),
        torch.cat([part.is_real, is_row[None]]),
        torch.cat([part.pooled, pooled[None]]),
    )
