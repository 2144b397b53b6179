"""Structured pruning of the transformer's blocks: heads of attention and hidden units of MLPs are removed for good.

What remains are ordinary, smaller layers: they compute what the whole ones would with the outputs of the removed parts
set to zero. `model.pruned` in a config says how many parts each module has kept, "MODULE=KEPT", so that a run folder
opens with layers of the right size.

Parts are ranked by the first-order Taylor score of Molchanov et al. 2019 ("Importance estimation for neural network
pruning", equation 8): the sum of (gradient times weight) squared over the weights of a part, averaged over training
batches. It estimates how much the squared loss would change without each weight.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.transformer import Attention, Block

MLP = ".mlp"
Kept = Mapping[str, Tensor]
"""Module -> int64 [k], ascending, the parts that stay."""


def parts_of_module(model: nn.Module, name: str) -> int:
    """Number of heads of an attention, or of hidden units of a block's MLP."""
    module = model.get_submodule(name)
    return module.heads if isinstance(module, Attention) else cast(nn.Linear, _mlp(module)[0]).out_features


def prunable(model: nn.Module) -> dict[str, int]:
    """Every module that can be pruned, by name, and the number of its parts."""
    found = [
        name
        for path, module in model.named_modules()
        for name in ([path] if isinstance(module, Attention) else [path + MLP] if isinstance(module, Block) else [])
    ]
    return {name: parts_of_module(model, name) for name in found}


def prune(model: nn.Module, kept: Kept) -> None:
    """Remove all other parts of the named modules, in place; each keeps at least one."""
    for name, parts in kept.items():
        module = model.get_submodule(name)
        if isinstance(module, Attention):
            width = module.out.in_features // module.heads
            rows = (parts[:, None] * width + torch.arange(width)).flatten()
            both = torch.cat([rows, rows + module.out.in_features])
            module.query, module.key_value = _outputs(module.query, rows), _outputs(module.key_value, both)
            module.out, module.heads = _inputs(module.out, rows), len(parts)
        else:
            mlp = _mlp(module)
            mlp[0], mlp[2] = _outputs(mlp[0], parts), _inputs(mlp[2], parts)


def resize(model: nn.Module, pruned: Sequence[str]) -> None:
    """Give modules the sizes that `model.pruned` states; which parts stay is decided by the weights that are loaded.

    Raises:
        InputError: an entry does not fit the model.
    """
    known, kept = prunable(model), dict[str, Tensor]()
    for entry in pruned:
        name, _, count = entry.rpartition("=")
        if name not in known or not count.isdigit() or not 0 < int(count) <= known[name]:
            allowed = f"MODULE=KEPT, of {', '.join(known) or 'nothing'}"
            raise InputError(f"model.pruned has {entry!r}", allowed, "take model.pruned from the pruned run")
        kept[name] = torch.arange(int(count))
    prune(model, kept)


def entries(model: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """`model.pruned` of the named modules as they are now."""
    return tuple(f"{name}={parts_of_module(model, name)}" for name in names)


def taylor_scores(model: nn.Module, losses: Iterable[Callable[[], Tensor]]) -> dict[str, Tensor]:
    """The score of each part of each prunable module, float64 [parts].

    Modules without a gradient are left out: frozen ones, and those that no loss uses.

    Args:
        model: gradients that it holds are dropped.
        losses: each computes the loss of a batch.
    """
    names, total, count = prunable(model), dict[str, Tensor](), 0
    for loss in losses:
        model.zero_grad(set_to_none=True)
        loss().backward()
        count += 1
        for name in names:
            if (score := _scores(model.get_submodule(name))) is not None:
                total[name] = total.get(name, torch.zeros_like(score)) + score
    model.zero_grad(set_to_none=True)
    return {name: score / count for name, score in total.items()}


def choose(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Remove the lowest scored share of the heads, and of the hidden units, of all modules together.

    Args:
        scores: of `taylor_scores`.
        share: in [0, 1), of the parts of each kind.

    Returns:
        The parts that stay, of the modules that lose some; each keeps its best part at least.
    """
    found = {}
    for is_kind in (lambda name: name.endswith(MLP), lambda name: not name.endswith(MLP)):
        own = {name: score for name, score in scores.items() if is_kind(name)}
        if not own:
            continue
        every = torch.cat(list(own.values()))
        best = torch.cat([torch.arange(len(score)) == score.argmax() for score in own.values()])
        order = torch.where(best, torch.inf, every).argsort(stable=True)
        is_kept = torch.ones(len(every), dtype=torch.bool)
        is_kept[order[: min(int(share * len(every)), len(every) - len(own))]] = False
        for name, rows in zip(own, is_kept.split([len(score) for score in own.values()]), strict=True):
            if not rows.all():
                found[name] = rows.nonzero()[:, 0]
    return found


def _scores(module: nn.Module) -> Tensor | None:
    if isinstance(module, Attention):
        sides = [(module.query, 1), (module.key_value, 2)]
        last, parts = module.out, module.heads
    else:
        first, last = (cast(nn.Linear, _mlp(module)[place]) for place in (0, 2))
        sides, parts = [(first, 1)], first.out_features
    if last.weight.grad is None or any(layer.weight.grad is None for layer, _ in sides):
        return None
    found = _squares(last.weight).sum(0).view(parts, -1).sum(1)
    for layer, times in sides:
        for own in (layer.weight, layer.bias):
            if own is not None:
                found = found + _squares(own).view(times, parts, -1).sum((0, 2))
    return found


def _squares(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "scores come after backward"
    return (weight.detach() * weight.grad).double().square()


def _mlp(module: nn.Module) -> nn.Sequential:
    assert isinstance(module, nn.Sequential), "a block's MLP is a sequence of three"
    return module


@torch.no_grad()
def _outputs(layer: nn.Module, rows: Tensor) -> nn.Linear:
    """A linear layer with some of the outputs."""
    whole = cast(nn.Linear, layer)
    made = nn.Linear(whole.in_features, len(rows), whole.bias is not None)
    return _filled(made, whole, whole.weight[rows], None if whole.bias is None else whole.bias[rows])


@torch.no_grad()
def _inputs(layer: nn.Module, columns: Tensor) -> nn.Linear:
    """A linear layer with some of the inputs."""
    whole = cast(nn.Linear, layer)
    made = nn.Linear(len(columns), whole.out_features, whole.bias is not None)
    return _filled(made, whole, whole.weight[:, columns], whole.bias)


def _filled(made: nn.Linear, whole: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made.__class__ = type(whole)
    made.weight = nn.Parameter(weight.clone(), whole.weight.requires_grad)
    if bias is not None and whole.bias is not None:
        made.bias = nn.Parameter(bias.clone(), whole.bias.requires_grad)
    return made
