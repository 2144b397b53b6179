"""Several losses become one gradient: by fixed weights, by learned ones, and with conflicts taken out."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chiasm.tasks.base import TaskConfig
from chiasm.train.config import TrainConfig
from chiasm.train.weighting import LossCombiner

TASKS = {"one": TaskConfig(weight=0.5), "two": TaskConfig(weight=2.0)}
PARTS = torch.tensor([[1.0, -2.0, 0.5], [0.25, 1.0, -1.0]])
"""Two parts of a batch; the loss of a part depends on its row."""
AGAINST = torch.tensor([-1.0, -4.0, 3.0])
"""Puts the second task in conflict with the first."""


class TwoTasks(nn.Module):
    """Two losses over shared weights that pull in opposite directions, and one weight that no task reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.tensor([1.0, 0.5, -1.0]))
        self.own = nn.Parameter(torch.tensor([0.5]))
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.task_log_variance = nn.ParameterDict({"one": torch.tensor(0.3), "two": torch.tensor(-0.2)})

    def losses(self, part: Tensor) -> dict[str, Tensor]:
        one = (self.shared * part).sum() ** 2 + self.shared.square().sum()
        two = (1 - self.shared * part).square().sum() * self.own.sum() + (self.shared * AGAINST).sum()
        return {"one": one, "two": two}


def combined(
    weighting: str, model: TwoTasks, parts: Tensor, tasks: Mapping[str, TaskConfig] = TASKS, conflict_every: int = 0
) -> tuple[dict[str, Tensor | None], float, dict[str, float]]:
    """Gradients by name, the mean total, and the cosines of one step."""
    named = dict(model.named_parameters())
    train = TrainConfig(weighting=weighting, conflict_every=conflict_every)
    combiner = LossCombiner(train, tasks, list(named.values()))
    total = 0.0
    for part in parts:
        total += combiner.backward(model, model.losses(part), 1 / len(parts), 0).item() / len(parts)
    cosines = combiner.finish(list(tasks)) if combiner.compares(0) else {}
    return {name: parameter.grad for name, parameter in named.items()}, total, cosines


def by_task(parts: Tensor) -> np.ndarray:
    """Gradients of the shared and the own weight of each weighed task, by hand in float64: [2, 4]."""
    w, own = np.array([1.0, 0.5, -1.0]), 0.5
    rows = np.zeros((2, 4))
    for part in parts.double().numpy():
        rows[0, :3] += 0.5 * (2 * (w * part).sum() * part + 2 * w)
        rows[1, :3] += 2.0 * (-2 * (1 - w * part) * part * own + AGAINST.double().numpy())
        rows[1, 3] += 2.0 * np.square(1 - w * part).sum()
    return rows / len(parts)


def flat(gradients: Mapping[str, Tensor | None]) -> np.ndarray:
    found = [gradients["shared"], gradients["own"]]
    return torch.cat([g.detach() if g is not None else torch.zeros(1) for g in found]).double().numpy()


@pytest.mark.parametrize("conflict_every", [0, 1])
def test_fixed_weights_give_the_weighted_sum(conflict_every: int) -> None:
    """Guards against a lost weight or part, and a look at the conflicts that changes what is looked at."""
    gradients, total, cosines = combined("fixed", TwoTasks(), PARTS, conflict_every=conflict_every)
    assert flat(gradients) == pytest.approx(by_task(PARTS).sum(0), rel=1e-5)
    values = [[loss.item() for loss in TwoTasks().losses(part).values()] for part in PARTS]
    assert total == pytest.approx(np.mean([0.5 * one + 2 * two for one, two in values]), rel=1e-5)
    assert gradients["unused"] is None, "a gradient of zeros would let weight decay in"
    assert gradients["task_log_variance.one"] is None
    assert set(cosines) == ({"cosine/one~two"} if conflict_every else set())


def test_cosines_are_those_of_the_whole_batch() -> None:
    """Guards against the cosine of the last part alone, and one over the weights of a single task."""
    one, two = by_task(PARTS)
    expected = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    _, _, cosines = combined("fixed", TwoTasks(), PARTS, conflict_every=1)
    assert cosines["cosine/one~two"] == pytest.approx(expected, rel=1e-5) and expected < -0.05


def test_looks_come_when_they_are_due() -> None:
    """Guards against a backward pass a task in every step, and a comparison of one task with nothing."""
    looking = LossCombiner(TrainConfig(conflict_every=3), TASKS, [])
    assert [step for step in range(8) if looking.compares(step)] == [0, 3, 6]
    assert not any(LossCombiner(TrainConfig(), TASKS, []).compares(step) for step in range(4))
    alone = {"one": TaskConfig()}
    assert not LossCombiner(TrainConfig(weighting="pcgrad", conflict_every=1), alone, []).compares(0)
    assert all(LossCombiner(TrainConfig(weighting="pcgrad"), TASKS, []).compares(step) for step in range(4))


@pytest.mark.parametrize("conflict_every", [0, 1])
def test_learned_variances_follow_the_formula(conflict_every: int) -> None:
    """Guards against variances that weigh but do not learn: exp(-s) L + s of each weighed loss, and 1 - exp(-s) L."""
    gradients, total, _ = combined("uncertainty", TwoTasks(), PARTS, conflict_every=conflict_every)
    scale = np.array([math.exp(-0.3), math.exp(0.2)])
    assert flat(gradients) == pytest.approx((by_task(PARTS) * scale[:, None]).sum(0), rel=1e-5)
    values = np.array([[loss.item() for loss in TwoTasks().losses(part).values()] for part in PARTS])
    weighed = values.mean(0) * np.array([0.5, 2.0])
    assert total == pytest.approx((weighed * scale).sum() + 0.3 - 0.2, rel=1e-5)
    for place, name in enumerate(TASKS):
        found = gradients[f"task_log_variance.{name}"]
        assert found is not None and found.item() == pytest.approx(1 - scale[place] * weighed[place], rel=1e-5)


def projected(rows: np.ndarray) -> np.ndarray:
    """PCGrad of two tasks, by hand: each loses what goes against the other's own gradient."""
    one, two = rows
    inner = one @ two
    assert inner < 0, "the tasks of this test are in conflict"
    return one - inner / (two @ two) * two + two - inner / (one @ one) * one


@pytest.mark.parametrize("parts", [PARTS[:1], PARTS], ids=["one part", "two parts"])
def test_conflicts_are_taken_out_of_the_whole_batch(parts: Tensor) -> None:
    """Guards against a projection part by part, and one against a gradient that was already projected."""
    gradients, _, cosines = combined("pcgrad", TwoTasks(), parts)
    assert flat(gradients) == pytest.approx(projected(by_task(parts)), rel=1e-4)
    assert cosines["cosine/one~two"] < 0 and gradients["unused"] is None
    if len(parts) == 2:
        halves = np.mean([projected(by_task(part[None])) for part in parts], axis=0)
        assert flat(gradients) != pytest.approx(halves, rel=1e-2)


def test_tasks_that_agree_are_left_alone() -> None:
    """Guards against a projection with the wrong sign: without a conflict PCGrad is the sum."""

    class Agreeing(TwoTasks):
        def losses(self, part: Tensor) -> dict[str, Tensor]:
            return {"one": (self.shared * part).sum(), "two": (self.shared * part).sum() + self.own.sum()}

    expected = np.concatenate([2.5 * PARTS.mean(0).double().numpy(), [2.0]])
    for weighting in ("fixed", "pcgrad"):
        assert flat(combined(weighting, Agreeing(), PARTS)[0]) == pytest.approx(expected, rel=1e-5)


def test_gradients_of_a_copy_in_bfloat16_are_projected_in_full_precision() -> None:
    """Guards against inner products in bfloat16, and gradients of a type that the copy does not have."""
    model = TwoTasks().to(torch.bfloat16)
    gradients, _, _ = combined("pcgrad", model, PARTS.bfloat16())
    found = gradients["shared"]
    assert found is not None and found.dtype == torch.bfloat16
    assert flat(gradients) == pytest.approx(projected(by_task(PARTS)), rel=0.03, abs=0.05)


def test_a_second_step_starts_from_nothing() -> None:
    """Guards against gradients of the last step that are kept and added to the next."""
    model = TwoTasks()
    parameters = list(model.parameters())
    combiner = LossCombiner(TrainConfig(weighting="pcgrad"), TASKS, parameters)
    found = []
    for step in range(2):
        combiner.backward(model, model.losses(PARTS[0]), 1.0, step)
        combiner.finish(list(TASKS))
        found.append(model.shared.grad)
    assert torch.equal(*found)
