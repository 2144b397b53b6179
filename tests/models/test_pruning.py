"""Pruned layers compute what masked ones do, the score is that of single derivatives, and a pruned run opens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.models.pruning import choose, entries, kind_of, prunable, prune, resize, taylor_scores
from chiasm.models.transformer import Block
from chiasm.pipeline.pipeline import Pipeline

DIM, HEADS = 12, 3


class Two(nn.Module):
    """Two blocks, the second with cross-attention to a context of another width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Block(DIM, HEADS, 2.0), Block(DIM, HEADS, 2.0, context_dim=7)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.second(self.first(x), context=context)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 5, DIM, generator=generator), torch.randn(4, 6, 7, generator=generator)


def masked(model: Two, kept: dict[str, Tensor]) -> None:
    """Set what the removed parts send on to zero, in the whole layers."""
    with torch.no_grad():
        for name, parts in kept.items():
            module = model.get_submodule(name)
            last = module[2] if name.endswith(".mlp") else module.out
            count = prunable(model)[name]
            columns = torch.ones(count, dtype=torch.bool)
            columns[parts] = False
            last.weight[:, columns.repeat_interleave(last.in_features // count)] = 0


KEPT = {
    "first.self_attention": torch.tensor([0, 2]),
    "first.mlp": torch.tensor([1, 5, 6, 20]),
    "second.self_attention": torch.tensor([1]),
    "second.cross_attention": torch.tensor([0, 1]),
    "second.mlp": torch.arange(3, 17),
}


@pytest.mark.parametrize("names", [[name] for name in KEPT] + [list(KEPT)])
def test_pruned_equals_masked(names: list[str]) -> None:
    """Guards against rows of keys that are taken for rows of values, and heads that are mixed up."""
    kept = {name: KEPT[name] for name in names}
    small, whole = Two(), Two()
    assert torch.equal(small(*inputs()), whole(*inputs()))
    prune(small, kept)
    masked(whole, kept)
    assert torch.allclose(small(*inputs()), whole(*inputs()), atol=1e-5)
    sizes = [sum(one.numel() for one in model.parameters()) for model in (small, whole)]
    assert sizes[0] < sizes[1] and all(prunable(small)[name] == len(parts) for name, parts in kept.items())


def test_scores_are_sums_of_single_derivatives() -> None:
    """Guards against a score of summed gradients, of a wrong head, or of the last batch alone."""
    model = Two().double()
    x, context = (one.double() for one in inputs())
    batches = [(x[:2], context[:2]), (x[2:], context[2:])]
    found = taylor_scores(model, [lambda one=one: model(*one).square().mean() for one in batches])
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = torch.zeros(HEADS, dtype=torch.float64)
    units = torch.zeros(2 * DIM, dtype=torch.float64)
    for one in batches:
        model.zero_grad()
        model(*one).square().mean().backward()
        attention, mlp, width = model.second.cross_attention, model.first.mlp, DIM // HEADS
        for head in range(HEADS):
            for row in range(head * width, (head + 1) * width):
                pieces = [(attention.query.weight, row), (attention.query.bias, row)]
                pieces += [(attention.key_value.weight, place) for place in (row, row + DIM)]
                pieces += [(attention.key_value.bias, place) for place in (row, row + DIM)]
                for weight, place in pieces:
                    expected[head] += (weight[place] * weight.grad[place]).detach().square().sum() / 2
                column = attention.out.weight[:, row] * attention.out.weight.grad[:, row]
                expected[head] += column.detach().square().sum() / 2
        for unit in range(2 * DIM):
            for weight in (mlp[0].weight[unit] * mlp[0].weight.grad[unit], mlp[0].bias[unit] * mlp[0].bias.grad[unit]):
                units[unit] += weight.detach().square().sum() / 2
            units[unit] += (mlp[2].weight[:, unit] * mlp[2].weight.grad[:, unit]).detach().square().sum() / 2
    assert torch.allclose(found["second.cross_attention"], expected, rtol=1e-9)
    assert torch.allclose(found["first.mlp"], units, rtol=1e-9)


def test_frozen_modules_are_not_scored() -> None:
    """Guards against a frozen tower that is pruned because its score is zero."""
    model = Two()
    model.first.requires_grad_(False)
    found = taylor_scores(model, [lambda: model(*inputs()).sum()])
    assert found.keys() == {name for name in prunable(model) if name.startswith("second")}


def test_the_lowest_go_and_the_best_of_each_stays() -> None:
    """Guards against a module without any part, and a share that is taken of each module."""
    scores = {"a.mlp": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b.mlp": torch.tensor([0.1, 0.2])}
    kept = choose(scores, 0.5)
    assert {name: parts.tolist() for name, parts in kept.items()} == {"a.mlp": [2, 3], "b.mlp": [1]}
    assert choose(scores, 0.0) == {} == choose({}, 0.5)
    assert {name: len(parts) for name, parts in choose(scores, 0.99).items()} == {"a.mlp": 1, "b.mlp": 1}


class Stack(nn.Module):
    """Three blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(DIM, HEADS, 2.0) for _ in range(3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_removed_block_is_one_that_adds_nothing() -> None:
    """Guards against names that are read after blocks have new numbers, and sizes that are stated by the old ones."""
    small, whole = Stack(), Stack()
    kept = {"blocks": torch.tensor([0, 2]), "blocks.2.mlp": torch.tensor([3, 4]), "blocks.1.mlp": torch.tensor([5])}
    prune(small, kept)
    with torch.no_grad():
        for layer in (whole.blocks[1].self_attention.out, whole.blocks[1].mlp[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        whole.blocks[2].mlp[2].weight[:, [unit for unit in range(2 * DIM) if unit not in (3, 4)]] = 0
    assert torch.allclose(small(inputs()[0]), whole(inputs()[0]), atol=1e-5)
    stated, again = entries(small, prunable(small)), Stack()
    assert {"blocks=2", "blocks.1.mlp=2", f"blocks.0.mlp={2 * DIM}"} <= set(stated)
    resize(again, sorted(stated, reverse=True))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(inputs()[0]), small(inputs()[0]))


def test_the_score_of_a_block_is_that_of_all_its_weights() -> None:
    """Guards against a block that is ranked by a part of it, and blocks in the wrong order."""
    model = Stack().double()
    x = inputs()[0].double()
    found = taylor_scores(model, [lambda one=one: model(one).square().mean() for one in (x[:2], x[2:])])["blocks"]
    expected = torch.zeros(3, dtype=torch.float64)
    for one in (x[:2], x[2:]):
        model.zero_grad()
        model(one).square().mean().backward()
        for number, block in enumerate(model.blocks):
            for parameter in block.parameters():
                expected[number] += (parameter * parameter.grad).detach().square().sum() / 2
    assert torch.allclose(found, expected, rtol=1e-9)
    assert [kind_of(model, name) for name in ("blocks", "blocks.0.mlp", "blocks.0.self_attention")] == [
        "blocks",
        "units",
        "heads",
    ]


@pytest.mark.parametrize("with_blocks", [False, True])
def test_a_pruned_run_opens_and_answers(
    tmp_path: Path, pipeline: Pipeline, examples: list[Example], with_blocks: bool
) -> None:
    """Guards against a folder whose config does not know that its layers are smaller, or fewer."""
    model = pipeline.model
    names = prunable(model)
    assert {"text_encoder", "fusion", "heads"} <= {name.split(".")[0] for name in names}
    assert any(kind_of(model, name) == "blocks" and parts > 1 for name, parts in names.items())
    chosen = [name for name, parts in names.items() if parts > 1 and (with_blocks or kind_of(model, name) != "blocks")]
    prune(model, {name: torch.arange(0, names[name], 2) for name in chosen})
    after = prunable(model)
    assert with_blocks == (len(after) < len(names))
    config = pipeline.config
    pipeline.config = replace(config, model=replace(config.model, pruned=entries(model, after)))
    pipeline.save(tmp_path, examples[0], {})
    opened = Pipeline.load(tmp_path, torch.device("cpu"))
    image, words = examples[3].inputs["image"], {"text": examples[3].captions[0].text}
    assert opened.answers_of(image, words) == pipeline.answers_of(image, words)
    assert prunable(opened.model) == after


@pytest.mark.parametrize("entry", ["first.mlp=0", "first.mlp=25", "first.mlp", "third.mlp=2", "first.mlp=x"])
def test_sizes_that_do_not_fit_are_refused(entry: str) -> None:
    """Guards against an internal error about shapes from a config that was written by hand."""
    with pytest.raises(InputError, match=r"model\.pruned"):
        resize(Two(), [entry])
