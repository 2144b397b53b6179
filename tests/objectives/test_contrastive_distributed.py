"""Two processes must train as one does on the whole batch, in value and gradient."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.distributed import average_gradients, gather_with_gradient, rank, world_size
from chiasm.core.errors import JobError
from chiasm.objectives.contrastive import softmax_contrast

WORLD = 2
IMAGE_GROUP = torch.tensor([0, 1, 2, 0, 4, 5])
TEXT_GROUP = torch.tensor([2, 0, 1, 1, 0, 5, 8, 2])
"""Rows 0 and 3 are one picture on two processes; picture 4 and text 8 have no partner, so the shares are unequal."""


class Towers(nn.Module):
    """Two linear towers, a temperature, and a layer that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.image, self.text = nn.Linear(5, 4, dtype=torch.float64), nn.Linear(3, 4, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.unused = nn.Linear(2, 2)

    def terms(
        self, pictures: Tensor, texts: Tensor, groups: tuple[Tensor, Tensor], chunk_rows: int
    ) -> dict[str, Tensor]:
        image, text = F.normalize(self.image(pictures), dim=-1), F.normalize(self.text(texts), dim=-1)
        return softmax_contrast(image, text, self.log_scale.exp(), *groups, chunk_rows=chunk_rows)


def whole_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(len(IMAGE_GROUP), 5, generator=generator, dtype=torch.float64)
    return pictures, torch.randn(len(TEXT_GROUP), 3, generator=generator, dtype=torch.float64)


def one_process(process: int, store: str, results: str) -> None:
    """What each process does; its values and averaged gradients go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=process, world_size=WORLD)
    assert (rank(), world_size()) == (process, WORLD)
    collected: dict[str, Tensor] = {}
    for chunk_rows in (0, 2):
        towers = Towers()
        pictures, texts, *groups = (part.chunk(WORLD)[process] for part in (*whole_batch(), IMAGE_GROUP, TEXT_GROUP))
        terms = towers.terms(pictures, texts, (groups[0], groups[1]), chunk_rows)
        terms["loss"].backward()
        average_gradients(towers.parameters())
        assert towers.unused.weight.grad is None
        collected |= {f"{chunk_rows} {name}": value.detach() for name, value in terms.items()}
        collected |= {f"{chunk_rows} {name}": p.grad for name, p in towers.named_parameters() if p.grad is not None}
    with pytest.raises(JobError, match="unequal shape"):
        gather_with_gradient(torch.zeros(process + 1, 4))
    lonely = nn.Parameter(torch.ones(2))
    if process == 0:
        lonely.sum().backward()
    average_gradients([lonely])
    collected["lonely"] = lonely.grad
    torch.save(collected, f"{results}.{process}")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Guards against a gradient short by the number of processes, lost remote negatives, and unequal shares."""
    mp.spawn(one_process, args=(str(tmp_path / "store"), str(tmp_path / "result")), nprocs=WORLD)
    towers = Towers()
    terms = towers.terms(*whole_batch(), (IMAGE_GROUP, TEXT_GROUP), 0)
    terms["loss"].backward()
    expected = {name: value.detach() for name, value in terms.items()}
    expected |= {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    for process in range(WORLD):
        got = torch.load(f"{tmp_path}/result.{process}", weights_only=True)
        assert got.pop("lonely").tolist() == [0.5, 0.5]
        for chunk_rows in (0, 2):
            # Gradients are averaged in float32, hence the tolerance.
            torch.testing.assert_close(
                {name: got[f"{chunk_rows} {name}"] for name in expected}, expected, rtol=1e-5, atol=1e-7
            )


def test_one_process_needs_no_set_up() -> None:
    """Guards against a copy (or a crash) where torch.distributed was never started."""
    rows = torch.randn(2, 3)
    assert gather_with_gradient(rows) is rows
    assert (rank(), world_size()) == (0, 1)
    parameter = nn.Parameter(torch.ones(1))
    average_gradients([parameter])
    assert parameter.grad is None
