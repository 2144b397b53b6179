"""Structured pruning of transformers: heads of attention, hidden units of MLPs and whole blocks are removed for good.

What remains are ordinary, smaller layers, and fewer of them: they compute what the whole ones would with the outputs of
the removed parts set to zero. `model.pruned` in a config says how many parts each module has kept, "MODULE=KEPT", so
that a run folder opens with layers of the right size.

Parts are ranked by the first-order Taylor score of Molchanov et al. 2019 ("Importance estimation for neural network
pruning", equation 8): the sum of (gradient times weight) squared over the weights of a part, averaged over training
batches. It estimates how much the squared loss would change without each weight.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.transformer import Attention, Block

MLP = ".mlp"
Kind = Literal["heads", "units", "blocks"]
Kept = Mapping[str, Tensor]
"""Module -> int64 [k], ascending, the parts that stay."""


def kind_of(model: nn.Module, name: str) -> Kind:
    """What the parts of a prunable module are."""
    if name.endswith(MLP):
        return "units"
    return "blocks" if is_stack(model.get_submodule(name)) else "heads"


def is_stack(module: nn.Module) -> bool:
    """Whether the module is a list of blocks, each of which adds to its input: without one the others still fit."""
    return isinstance(module, nn.ModuleList) and len(module) > 0 and all(isinstance(one, Block) for one in module)


def parts_of_module(model: nn.Module, name: str) -> int:
    """Number of blocks of a stack, of heads of an attention, or of hidden units of a block's MLP."""
    module = model.get_submodule(name)
    if is_stack(module):
        return len(cast(nn.ModuleList, module))
    return module.heads if isinstance(module, Attention) else cast(nn.Linear, _mlp(module)[0]).out_features


def prunable(model: nn.Module) -> dict[str, int]:
    """Every module that can be pruned, by name, and the number of its parts."""
    found = [
        name
        for path, module in model.named_modules()
        for name, is_one in (
            (path, isinstance(module, Attention) or is_stack(module)),
            (path + MLP, isinstance(module, Block)),
        )
        if is_one
    ]
    return {name: parts_of_module(model, name) for name in found}


def prune(model: nn.Module, kept: Kept) -> None:
    """Remove all other parts of the named modules, in place; each keeps at least one.

    Names are those of the model as it is given: blocks are removed last, and then have new numbers.
    """
    for name, parts in sorted(kept.items(), key=lambda one: is_stack(model.get_submodule(one[0]))):
        module = model.get_submodule(name)
        if is_stack(module):
            blocks = cast(nn.ModuleList, module)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, nn.ModuleList(blocks[int(part)] for part in parts))
        elif isinstance(module, Attention):
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
    stacks = {name for name in prunable(model) if is_stack(model.get_submodule(name))}
    names = {entry: entry.rpartition("=")[0] for entry in pruned}
    _resize(model, [entry for entry in pruned if names[entry] in stacks])
    # The rest is named as the model is then.
    _resize(model, [entry for entry in pruned if names[entry] not in stacks])


def _resize(model: nn.Module, pruned: Sequence[str]) -> None:
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
    """Remove the lowest scored share of the parts of all given modules together.

    Args:
        scores: of `taylor_scores`, of modules of one kind: scores of a head and of a block do not compare.
        share: in [0, 1).

    Returns:
        The parts that stay, of the modules that lose some; each keeps its best part at least.
    """
    if not scores:
        return {}
    every = torch.cat(list(scores.values()))
    best = torch.cat([torch.arange(len(score)) == score.argmax() for score in scores.values()])
    order = torch.where(best, torch.inf, every).argsort(stable=True)
    is_kept = torch.ones(len(every), dtype=torch.bool)
    is_kept[order[: min(int(share * len(every)), len(every) - len(scores))]] = False
    by_module = zip(scores, is_kept.split([len(score) for score in scores.values()]), strict=True)
    return {name: rows.nonzero()[:, 0] for name, rows in by_module if not rows.all()}


def _scores(module: nn.Module) -> Tensor | None:
    if is_stack(module):
        blocks = [list(block.parameters()) for block in module.children()]
        if any(parameter.grad is None for parameters in blocks for parameter in parameters):
            return None
        return torch.stack([torch.stack([_squares(one).sum() for one in parameters]).sum() for parameters in blocks])
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
