"""What every encoder and every fusion block must hold: run by our own tests over each, and by anybody over theirs.

Each check raises AssertionError with a sentence, and changes nothing about the module that it is given.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import TextTokens, Tokens
from chiasm.models.fusion.base import Fusion
from chiasm.models.transformer import masked_mean

TOLERANCE = 1e-4
"""Largest difference, absolute and relative, between two ways of computing one thing in float32."""
LOW_PRECISION_COSINE = 0.99
"""Least cosine between a row's vector computed in bfloat16 and in float32."""
DROPOUT_ROWS = 400
"""Rows that modality dropout is counted over: 5 standard deviations are 0.125 of them at a probability of a half."""
Encodable = Tensor | TextTokens


def check_encoder(encoder: nn.Module, batch: Encodable, without_gradient: Collection[str] = ()) -> None:
    """Check an encoder: `batch` -> Tokens.

    Args:
        encoder: any module that states the width of `pooled` as `dim`, and that of `values` as `token_dim` where it
            is another; a copy is put into evaluation mode.
        batch: images float [n, 3, h, w], n >= 2, or TextTokens of which at least one row is padded.
        without_gradient: names of parameters that the encoder states to leave without gradient.

    Checked are shapes and number formats, that rows know nothing of each other, that padded tokens change neither
    values nor gradients, that every parameter gets a gradient, that saved weights give equal outputs, and bfloat16.

    Raises:
        AssertionError: with what does not hold.
    """
    encoder = copy.deepcopy(encoder).eval()
    with torch.no_grad():
        tokens = encoder(batch)
    rows = len(batch[0]) if isinstance(batch, TextTokens) else len(batch)
    assert rows >= 2, "give at least two rows, or nothing can be said about their independence"
    _check_tokens(tokens, rows, encoder, torch.float32)
    turned = torch.arange(rows).roll(1)
    with torch.no_grad():
        _check_same(encoder(_take(batch, turned)), tokens.rows(turned), "another order of rows")
        for row in range(rows):
            alone = encoder(_take(batch, torch.tensor([row])))
            _check_same(alone, tokens.rows(torch.tensor([row])), f"row {row} alone")
    if isinstance(batch, TextTokens):
        _check_padded_text(encoder, batch)
    _check_gradients(encoder, lambda module: [module(batch)], without_gradient)
    _check_saved(encoder, lambda module: module(batch))
    low = copy.deepcopy(encoder).to(torch.bfloat16)
    with torch.no_grad():
        out = low(batch if isinstance(batch, TextTokens) else batch.to(torch.bfloat16))
    _check_tokens(out, rows, encoder, torch.bfloat16)
    _check_cosine(out.pooled, tokens.pooled)


def check_fusion(fusion: Fusion, tokens: Mapping[str, Tokens], without_gradient: Collection[str] = ()) -> None:
    """Check a fusion method: dict of Tokens -> Tokens.

    Args:
        fusion: the method; a copy is put into evaluation mode.
        tokens: all of its modalities, equally many rows each, n >= 2, at least one of them padded; a text of
            `summary_tokens` has no padding. `pooled` is made anew, as the mean of the real values.
        without_gradient: names of parameters that the method states to leave without gradient.

    Checked is what `check_encoder` checks, and besides: every modality has an influence; each may be missing, in
    single rows or in all; an `image_index` equals repeated rows; modality dropout hides whole modalities of single
    rows as often as it should; text tokens keep their places where `keeps_words` says so, and keep to `text_allowed`.

    Raises:
        AssertionError: with what does not hold.
    """
    fusion = copy.deepcopy(fusion).eval()
    given = {name: _pooled(part.values, part.is_real) for name, part in tokens.items()}
    assert set(given) == set(fusion.shape.modalities), f"give tokens of {fusion.shape.modalities}"
    rows = len(next(iter(given.values())).values)
    assert rows >= 2, "give at least two rows, or nothing can be said about their independence"
    assert any(not part.is_real.all() for part in given.values()), "give a modality with padded tokens"
    with torch.no_grad():
        fused = fusion(given)
        _check_tokens(fused, rows, fusion, torch.float32)
        turned = torch.arange(rows).roll(1)
        moved = fusion({name: part.rows(turned) for name, part in given.items()})
        _check_same(moved, fused.rows(turned), "another order of rows")
        for name in given:
            _check_absence(fusion, given, name, fused)
        _check_modality_dropout(fusion, given)
        _check_words(fusion, given, fused)
    _check_shared_rows(fusion, given)
    for name, part in given.items():
        _check_padded_tokens(fusion, given, name, part)
    _check_gradients(
        fusion, lambda module: [module(given), *(module(_without(given, n)) for n in given)], without_gradient
    )
    _check_saved(fusion, lambda module: module(given))
    low = copy.deepcopy(fusion).to(torch.bfloat16)
    with torch.no_grad():
        out = low({name: Tokens(p.values.bfloat16(), p.is_real, p.pooled.bfloat16()) for name, p in given.items()})
    _check_tokens(out, rows, fusion, torch.bfloat16)
    _check_cosine(out.pooled, fused.pooled)


def _pooled(values: Tensor, is_real: Tensor) -> Tokens:
    return Tokens(values, is_real, masked_mean(values, is_real))


def _without(given: Mapping[str, Tokens], name: str) -> dict[str, Tokens]:
    return {other: part for other, part in given.items() if other != name}


def _take(batch: Encodable, index: Tensor) -> Encodable:
    return TextTokens(batch.ids[index], batch.is_real[index]) if isinstance(batch, TextTokens) else batch[index]


def _check_tokens(tokens: Tokens, rows: int, module: nn.Module, dtype: torch.dtype) -> None:
    dim = getattr(module, "dim", None)
    token_dim = getattr(module, "token_dim", dim)
    assert isinstance(dim, int) and isinstance(token_dim, int), "the module states its width as an int `dim`"
    assert isinstance(tokens, Tokens), f"returns Tokens, not {type(tokens).__name__}"
    length = tokens.values.shape[1]
    assert tokens.values.shape == (rows, length, token_dim), f"values are {tuple(tokens.values.shape)}"
    assert tokens.pooled.shape == (rows, dim), f"pooled is {tuple(tokens.pooled.shape)}"
    assert tokens.is_real.shape == (rows, length), f"is_real is {tuple(tokens.is_real.shape)}"
    assert tokens.is_real.dtype == torch.bool, f"is_real is {tokens.is_real.dtype}"
    assert tokens.values.dtype == tokens.pooled.dtype == dtype, f"values are {tokens.values.dtype}, not {dtype}"
    assert bool(tokens.is_real.any(1).all()), "every row has a real token"
    assert bool(tokens.pooled.isfinite().all()) and bool(tokens.values[tokens.is_real].isfinite().all()), "finite"


def _check_same(got: Tokens, expected: Tokens, what: str) -> None:
    assert torch.equal(got.is_real, expected.is_real), f"{what} changes is_real"
    for name, one, other in (
        ("pooled", got.pooled, expected.pooled),
        ("values", got.values[got.is_real], expected.values[expected.is_real]),
    ):
        scale = float(other.detach().abs().max().clamp_min(1))
        assert torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * scale), f"{what} changes {name}"


def _total(tokens: Tokens) -> Tensor:
    """A number in which every real value and every pooled value has its own weight."""
    generator = torch.Generator().manual_seed(0)
    real = tokens.values[tokens.is_real]
    weights = [torch.randn(part.shape, generator=generator).to(part) for part in (real, tokens.pooled)]
    return (real * weights[0]).sum() + (tokens.pooled * weights[1]).sum()


def _gradients(module: nn.Module, total: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*module.named_parameters(), strict=True)
    if not total.requires_grad:  # nothing that the output depends on is trained
        return dict.fromkeys(names)
    return dict(zip(names, torch.autograd.grad(total, parameters, allow_unused=True), strict=True))


def _check_padded_text(encoder: nn.Module, batch: TextTokens) -> None:
    assert not batch.is_real.all(), "give a batch with a padded row"
    # Ids that stand elsewhere in the batch are legal ids, whatever the vocabulary.
    other = TextTokens(torch.where(batch.is_real, batch.ids, batch.ids.flip(0).roll(1, 1)), batch.is_real)
    assert not torch.equal(other.ids, batch.ids), "the batch's padding could not be changed; give more varied texts"
    wider = TextTokens(
        torch.cat([batch.ids, batch.ids[:, :1]], 1),
        torch.cat([batch.is_real, batch.is_real.new_zeros(len(batch[0]), 1)], 1),
    )
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    expected = encoder(batch)
    gradients = _gradients(encoder, _total(expected))
    changed = encoder(other)
    _check_same(changed, expected, "another id under the padding")
    for name, gradient in _gradients(encoder, _total(changed)).items():
        before = gradients[name]
        if before is not None and gradient is not None and before.numel():
            scale = float(before.abs().max().clamp_min(1))
            assert torch.allclose(gradient, before, rtol=1e-3, atol=TOLERANCE * scale), f"padding moves {name}"
    with torch.no_grad():
        widened = encoder(wider)
    assert torch.allclose(widened.pooled, expected.pooled, TOLERANCE, TOLERANCE), "more padding changes pooled"


def _check_absence(fusion: Fusion, given: dict[str, Tokens], name: str, fused: Tokens) -> None:
    rows = len(fused.pooled)
    without = fusion(_without(given, name))
    _check_tokens(without, rows, fusion, torch.float32)
    assert not torch.allclose(without.pooled, fused.pooled, atol=TOLERANCE), f"{name} has no influence"
    # Nothing may be read from a row without a real token, not even what is not a number.
    is_absent = torch.arange(rows) == 0
    values, is_real, pooled = given[name][:3]
    empty = Tokens(
        values.masked_fill(is_absent[:, None, None], float("nan")),
        is_real & ~is_absent[:, None],
        pooled.masked_fill(is_absent[:, None], float("nan")),
    )
    emptied = fusion({**given, name: empty})
    expected = torch.where(is_absent[:, None], without.pooled, fused.pooled)
    same = torch.allclose(emptied.pooled, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert same, f"a row without {name} is not as if {name} were missing, or changes other rows"
    real, expected = emptied.values[0][emptied.is_real[0]], without.values[0][without.is_real[0]]
    same = real.shape == expected.shape and torch.allclose(real, expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert same, f"a row without {name} has other values than if {name} were missing"
    alone = {other: Tokens(p.values, p.is_real & ~is_absent[:, None], p.pooled) for other, p in given.items()}
    for nothing in ({}, alone):
        try:
            fusion(nothing)
        except InputError:
            continue
        raise AssertionError("a row without any modality is accepted")


def _check_shared_rows(fusion: Fusion, given: dict[str, Tokens]) -> None:
    asking = fusion.shape.modalities[0]
    index = torch.arange(len(given[asking].values)).flip(0) // 2
    rows = {name: part if name == asking else part.rows(index) for name, part in given.items()}
    for name in ("", *given):
        shared, repeated = _without(given, name), _without(rows, name)
        fused, expected = fusion(shared, index), fusion(repeated)
        _check_same(fused, expected, "an index in the place of repeated rows")
        gradients = _gradients(fusion, _total(expected))
        for parameter, gradient in _gradients(fusion, _total(fused)).items():
            before = gradients[parameter]
            assert (gradient is None) == (before is None), f"an index changes whether {parameter} is used"
            if before is not None and gradient is not None:
                scale = float(before.abs().max().clamp_min(1))
                same = torch.allclose(gradient, before, rtol=1e-3, atol=TOLERANCE * scale)
                assert same, f"an index in the place of repeated rows changes the gradient of {parameter}"


def _check_modality_dropout(fusion: Fusion, given: dict[str, Tokens]) -> None:
    """At a probability of a half, a row keeps all in 1/4 of the cases, loses its text in 1/4, the others in 1/2."""
    fusion = copy.deepcopy(fusion)
    fusion.shape = replace(fusion.shape, modality_dropout=0.5)
    asking = fusion.shape.modalities[0]
    many = {**given, asking: given[asking].rows(torch.zeros(DROPOUT_ROWS, dtype=torch.int64))}
    shared = torch.zeros(DROPOUT_ROWS, dtype=torch.int64)
    first = {name: part.rows(shared[:1]) for name, part in given.items()}
    kept = {"all": first, "others": _without(first, asking), "text": {asking: first[asking]}}
    known = torch.stack([fusion(part).pooled[0] for part in kept.values()])
    assert torch.allclose(fusion(many, shared).pooled, known[:1], TOLERANCE, TOLERANCE), "dropout in evaluation"
    # This module alone is in training: other dropout would hide which case a row is.
    fusion.training = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooled = fusion(many, shared).pooled
        for case in ("text", "others"):
            lone = {name: part if name == asking else part.rows(shared) for name, part in many.items()}
            lone = {asking: lone[asking]} if case == "text" else _without(lone, asking)
            same = torch.allclose(fusion(lone).pooled, known[list(kept).index(case)], TOLERANCE, TOLERANCE)
            assert same, f"modality dropout hides {case} from rows that have nothing else"
    distances = (pooled[:, None] - known).abs().amax(-1)
    scale = float(known.abs().max().clamp_min(1))
    assert distances.amin(1).max() < TOLERANCE * scale, "modality dropout gives a row that has lost all, or a part"
    shares = F.one_hot(distances.argmin(1), 3).double().mean(0)
    expected = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    close = (shares - expected).abs().max() < 5 * (0.25 / DROPOUT_ROWS) ** 0.5
    assert close, f"modality dropout keeps {dict(zip(kept, shares.tolist(), strict=True))}, not {expected.tolist()}"


def _check_words(fusion: Fusion, given: dict[str, Tokens], fused: Tokens) -> None:
    asking = fusion.shape.modalities[0]
    values, is_real, _ = given[asking][:3]
    rows, length = is_real.shape
    allowed = torch.ones(length, length, dtype=torch.bool).tril().expand(rows, -1, -1)
    if not fusion.keeps_words:
        try:
            fusion(given, text_allowed=allowed)
        except AssertionError:
            return
        raise AssertionError("text_allowed is ignored by a method that keeps no words")
    assert torch.equal(fused.is_real[:, :length], is_real), "the text's tokens do not come first in the values"
    causal = fusion(given, text_allowed=allowed).values[:, :length]
    generator = torch.Generator().manual_seed(7)
    for place in range(length):
        noise = torch.randn(rows, values.shape[2], generator=generator)
        moved = torch.cat([values[:, :place], values[:, place : place + 1] + noise[:, None], values[:, place + 1 :]], 1)
        changed = {**given, asking: _pooled(moved, is_real)}
        shift = (fusion(changed).values - fused.values)[:, :length].norm(dim=-1).masked_fill(~is_real, 0)
        most = int(shift[is_real[:, place]].sum(0).argmax())
        assert most == place, f"text token {place} moves the value at {most} most"
        shift = (
            (fusion(changed, text_allowed=allowed).values[:, :length] - causal).norm(dim=-1).masked_fill(~is_real, 0)
        )
        assert float(shift[:, :place].sum()) < TOLERANCE, f"text token {place} is seen from where it may not be"
        after = shift[:, place + 1 :][is_real[:, place + 1 :]]
        assert bool((after > TOLERANCE).all()), f"text token {place} is not seen from where it may be"
    empty = {**given, asking: Tokens(values, is_real & (torch.arange(rows) > 0)[:, None], given[asking].pooled)}
    hidden = fusion(empty, text_allowed=allowed & (torch.arange(length) > 0)).pooled[0]
    same = torch.allclose(hidden, fusion(empty, text_allowed=torch.ones_like(allowed)).pooled[0], TOLERANCE, TOLERANCE)
    assert same, "text_allowed hides the token that stands for an absent text"


def _check_padded_tokens(fusion: nn.Module, given: dict[str, Tokens], name: str, part: Tokens) -> None:
    noise = torch.randn(part.values.shape, generator=torch.Generator().manual_seed(1)) * 10
    values = torch.where(part.is_real[..., None], part.values, noise.to(part.values)).requires_grad_()
    changed = fusion({**given, name: _pooled(values, part.is_real)})
    with torch.no_grad():
        _check_same(changed, fusion(given), f"another value under the padding of {name}")
    (gradient,) = torch.autograd.grad(_total(changed), values)
    assert not gradient[~part.is_real].any(), f"a padded token of {name} gets a gradient"
    assert gradient[part.is_real].any(), f"no real token of {name} gets a gradient"


def _check_gradients(module: nn.Module, call: Callable[[nn.Module], list[Tokens]], without: Collection[str]) -> None:
    names = {name for name, _ in module.named_parameters()}
    assert set(without) <= names, f"no such parameter: {sorted(set(without) - names)}"
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    total = torch.stack([_total(tokens) for tokens in call(module)]).sum()
    for name, gradient in _gradients(module, total).items():
        is_moved = gradient is not None and (gradient.numel() == 0 or bool(gradient.abs().sum() > 0))
        assert is_moved or name in without, f"{name} gets no gradient"
        assert gradient is None or bool(gradient.isfinite().all()), f"the gradient of {name} is not finite"


def _check_saved(module: nn.Module, call: Callable[[nn.Module], Tokens]) -> None:
    """Weights that were saved, and loaded into a module that had others, give the same outputs."""
    state = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    content = safetensors.torch.save(state)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
        other.load_state_dict(safetensors.torch.load(content))
        got, expected = call(other), call(module)
    assert torch.equal(got.values, expected.values), "loaded weights give other values"
    assert torch.equal(got.pooled, expected.pooled), "loaded weights give another pooled vector"


def _check_cosine(low: Tensor, high: Tensor) -> None:
    least = float(F.cosine_similarity(low.float(), high.float(), dim=-1).min())
    assert least > LOW_PRECISION_COSINE, f"bfloat16 turns a row's vector to a cosine of {least:.3f} with float32"
