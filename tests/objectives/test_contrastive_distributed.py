"""Two processes must train as one does on the whole batch, in value and gradient."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.distributed import all_reduce_gradients, gather_with_gradient, own_rows, rank, world_size
from chiasm.core.errors import JobError
from chiasm.core.shared_draws import seed_step
from chiasm.objectives.additive import additive_contrast
from chiasm.objectives.contrastive import HardNegatives, distilled_contrast, softmax_contrast
from chiasm.objectives.sigmoid import sigmoid_contrast
from chiasm.objectives.weighting import project_conflicts
from processes import together

WORLD = 2
IMAGE_GROUP = torch.tensor([0, 1, 2, 0, 4, 5])
TEXT_GROUP = torch.tensor([2, 0, 1, 1, 0, 5, 8, 2])
"""Rows 0 and 3 are one picture on two processes; picture 4 and text 8 have no partner, so the shares are unequal."""
TEXT_KEY = torch.tensor([40, 41, 42, 43, 42, 44, 40, 45])
"""Sentences 40 and 42 are on both processes, in different groups: text 8 has pictures by its words alone."""
WRONG_KEY = torch.tensor([60, 44, 61, 42, 62, 63, 40, 64])
IS_WRONG = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).bool()
"""Unequally many on the two processes; sentences 42, 44 and 40 are true of pictures of the other process too."""
IMAGE_INDEX = torch.tensor([2, 0, 1, 1, 3, 5, 4, 3])
"""Each text's picture for the additive contrast, always one of its own process."""
CONFLICTING = torch.tensor([[1.0, 0.0, 0.2], [-1.0, 1.0, 0.0], [-0.5, -1.0, 0.1]])
"""Gradients of three tasks for which the order of the projections matters."""


class Towers(nn.Module):
    """Two linear towers, a temperature, a bias, and a layer that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.image, self.text = nn.Linear(5, 4, dtype=torch.float64), nn.Linear(3, 4, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))
        self.unused = nn.Linear(2, 2)

    def terms(self, objective: str, part: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The terms of an objective on a part of the batch."""
        generator = torch.Generator().manual_seed(3)
        pictures = part(torch.randn(len(IMAGE_GROUP), 5, generator=generator, dtype=torch.float64))
        texts = part(torch.randn(len(TEXT_GROUP), 3, generator=generator, dtype=torch.float64))
        image, text = F.normalize(self.image(pictures), dim=-1), F.normalize(self.text(texts), dim=-1)
        scale, groups, key = self.log_scale.exp(), (part(IMAGE_GROUP), part(TEXT_GROUP)), part(TEXT_KEY)
        name, _, rows = objective.partition(" by ")
        chunk_rows = int(rows or 0)
        if name == "softmax":
            return softmax_contrast(image, text, scale, *groups, chunk_rows)
        if name == "keyed":
            return softmax_contrast(image, text, scale, *groups, chunk_rows, key)
        if name == "swapped":
            wrong = HardNegatives(F.normalize(text.flip(1).exp(), dim=-1), part(WRONG_KEY), part(IS_WRONG))
            return softmax_contrast(image, text, scale, *groups, chunk_rows, key, wrong)
        if name == "sigmoid":
            return sigmoid_contrast(image, text, scale, self.bias, *groups, chunk_rows, key)
        if name == "additive":
            first = rank() * len(pictures)
            return additive_contrast(image, text, scale, part(IMAGE_INDEX) - first, groups[0], chunk_rows, key)
        assert name == "distilled"
        teachers = F.normalize(pictures[:, :4].sin(), dim=-1), F.normalize(texts @ torch.ones(3, 4).double(), dim=-1)
        return distilled_contrast(image, text, *teachers, scale, *groups, 0.4, key, chunk_rows)


OBJECTIVES = [
    *(
        f"{name}{rows}"
        for name in ("softmax", "keyed", "swapped", "sigmoid", "additive", "distilled")
        for rows in ("", " by 2")
    ),
]


def one_process(process: int, store: str, results: str) -> None:
    """What each process does; its values and averaged gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=process, world_size=WORLD)
    assert (rank(), world_size()) == (process, WORLD)
    collected: dict[str, Tensor] = {}
    for objective in OBJECTIVES:
        towers = Towers()
        terms = towers.terms(objective, lambda whole: whole.chunk(WORLD)[process])
        terms["loss"].backward()
        all_reduce_gradients(towers.parameters())
        assert towers.unused.weight.grad is None
        collected |= {f"{objective} {name}": value.detach() for name, value in terms.items()}
        collected |= {f"{objective} {name}": p.grad for name, p in towers.named_parameters() if p.grad is not None}
    with pytest.raises(JobError, match="unequal shape"):
        gather_with_gradient(torch.zeros(2, process + 1))
    for dtype in (torch.int64, torch.bool, torch.bfloat16, torch.float64):
        ragged = gather_with_gradient(torch.full((3 * process, 2), process + 1).to(dtype))
        assert ragged.dtype == dtype and ragged.tolist() == [[2, 2]] * 3 if dtype != torch.bool else ragged.all()
    assert own_rows(3 * process) == slice(0, 3 * process)
    assert gather_with_gradient(torch.zeros(0, 4)).shape == (0, 4)
    lonely = nn.Parameter(torch.ones(2))
    if process == 0:
        lonely.sum().backward()
    all_reduce_gradients([lonely])
    collected["lonely"] = lonely.grad
    seed_step("conflicts", 0)
    collected["projected"] = torch.stack([project_conflicts(CONFLICTING) for _ in range(8)])
    torch.save(collected, f"{results}.{process}")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Guards against a gradient short by the number of processes, lost remote negatives, and unequal shares."""
    together(one_process, (str(tmp_path / "store"), str(tmp_path / "result")), WORLD)
    expected: dict[str, Tensor] = {}
    for objective in OBJECTIVES:
        towers = Towers()
        terms = towers.terms(objective.partition(" by ")[0], lambda whole: whole)
        terms["loss"].backward()
        expected |= {f"{objective} {name}": value.detach() for name, value in terms.items()}
        expected |= {f"{objective} {name}": p.grad for name, p in towers.named_parameters() if p.grad is not None}
    projected = []
    for process in range(WORLD):
        got = torch.load(f"{tmp_path}/result.{process}", weights_only=True)
        assert got.pop("lonely").tolist() == [0.5, 0.5]
        projected.append(got.pop("projected"))
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    # Both must step alike, or their weights part for good.
    assert torch.equal(*projected) and len(projected[0].unique(dim=0)) > 1


def test_one_process_needs_no_set_up() -> None:
    """Guards against a copy (or a crash) where torch.distributed was never started."""
    rows = torch.randn(2, 3)
    assert gather_with_gradient(rows) is rows
    assert (rank(), world_size()) == (0, 1)
    parameter = nn.Parameter(torch.ones(1))
    all_reduce_gradients([parameter])
    assert parameter.grad is None
