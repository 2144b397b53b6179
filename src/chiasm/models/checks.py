"""What every encoder and every fusion block must hold: run by our own tests over each, and by anybody over theirs.

Each check raises AssertionError with a sentence, and changes nothing about the module that it is given.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens

TOLERANCE = 1e-4
"""Largest difference, absolute and relative, between two ways of computing one thing in float32."""
LOW_PRECISION_COSINE = 0.99
"""Least cosine between a row's vector computed in bfloat16 and in float32."""
Encodable = Tensor | TextTokens


def check_encoder(encoder: nn.Module, batch: Encodable, without_gradient: Collection[str] = ()) -> None:
    """Check an encoder: `batch` -> Tokens.

    Args:
        encoder: any module that states the width of `pooled` as `dim`, and that of `values` as `token_dim` where it
            is another; a copy is put into evaluation mode.
        batch: pictures float [n, 3, h, w], n >= 2, or TextTokens of which at least one row is padded.
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
    _check_gradients(encoder, lambda module: module(batch), without_gradient)
    _check_saved(encoder, lambda module: module(batch))
    low = copy.deepcopy(encoder).to(torch.bfloat16)
    with torch.no_grad():
        out = low(batch if isinstance(batch, TextTokens) else batch.to(torch.bfloat16))
    _check_tokens(out, rows, encoder, torch.bfloat16)
    _check_cosine(out.pooled, tokens.pooled)


def check_fusion(
    fusion: nn.Module,
    tokens: Mapping[str, Tokens],
    required: Sequence[str] = ("text",),
    without_gradient: Collection[str] = (),
) -> None:
    """Check a fusion block: dict of Tokens -> Tokens of width `fusion.dim`.

    Args:
        fusion: a module with an attribute `dim`, called with a dict that holds any of `tokens` but all `required`.
        tokens: modality -> Tokens of equally many rows, n >= 2; at least one of them has padded tokens.
        required: modalities without which the block cannot be called.
        without_gradient: names of parameters that the block states to leave without gradient.

    Besides what `check_encoder` checks: each modality that is not required may be missing, and has an influence where
    it is there.

    Raises:
        AssertionError: with what does not hold.
    """
    fusion = copy.deepcopy(fusion).eval()
    given = dict(tokens)
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
            if name not in required:
                without = fusion({other: part for other, part in given.items() if other != name})
                _check_tokens(without, rows, fusion, torch.float32)
                assert not torch.allclose(without.pooled, fused.pooled, atol=TOLERANCE), f"{name} has no influence"
    for name, part in given.items():
        _check_padded_tokens(fusion, given, name, part)
    _check_gradients(fusion, lambda module: module(given), without_gradient)
    _check_saved(fusion, lambda module: module(given))
    low = copy.deepcopy(fusion).to(torch.bfloat16)
    with torch.no_grad():
        out = low({name: Tokens(p.values.bfloat16(), p.is_real, p.pooled.bfloat16()) for name, p in given.items()})
    _check_tokens(out, rows, fusion, torch.bfloat16)
    _check_cosine(out.pooled, fused.pooled)


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


def _check_padded_tokens(fusion: nn.Module, given: dict[str, Tokens], name: str, part: Tokens) -> None:
    noise = torch.randn(part.values.shape, generator=torch.Generator().manual_seed(1)) * 10
    values = torch.where(part.is_real[..., None], part.values, noise.to(part.values)).requires_grad_()
    changed = fusion({**given, name: Tokens(values, part.is_real, part.pooled)})
    with torch.no_grad():
        _check_same(changed, fusion(given), f"another value under the padding of {name}")
    (gradient,) = torch.autograd.grad(_total(changed), values)
    assert not gradient[~part.is_real].any(), f"a padded token of {name} gets a gradient"
    assert gradient[part.is_real].any(), f"no real token of {name} gets a gradient"


def _check_gradients(module: nn.Module, call: Callable[[nn.Module], Tokens], without: Collection[str]) -> None:
    names = {name for name, _ in module.named_parameters()}
    assert set(without) <= names, f"no such parameter: {sorted(set(without) - names)}"
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    for name, gradient in _gradients(module, _total(call(module))).items():
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
