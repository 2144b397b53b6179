"""Sets trained on together: shares, order over the epochs, and what is left of the single sets."""

from collections import Counter
from math import inf

import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Example, Source
from chiasm.data.dataset import ListDataset
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.data.ledger import Ledger
from chiasm.data.mixture import MixedDataset


def listed(name: str, size: int) -> ListDataset:
    ledger = Ledger()
    ledger.offer(size + 1)
    ledger.use(size)
    ledger.reject(Source(name), "missing_image", "gone")
    return ListDataset("train", [Example(f"{name}{number}", {}) for number in range(size)], ledger)


def mixed(sizes: dict[str, int], weights: tuple[float, ...], temperature: float, seed: int = 0) -> MixedDataset:
    return MixedDataset({name: listed(name, size) for name, size in sizes.items()}, weights, temperature, seed)


def shown(dataset: MixedDataset, epoch: int) -> list[str]:
    return [dataset.example(index, epoch).id for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("sizes", "weights", "temperature", "counts"),
    [
        ((90, 10), (1, 1), 1, [90, 10]),
        ((90, 10), (1, 1), inf, [50, 50]),
        ((90, 10), (1, 1), 2, [75, 25]),  # roots 9.49 and 3.16: 3 to 1
        ((90, 10), (1, 9), 1, [50, 50]),
        ((10, 10, 10), (1, 1, 1), inf, [10, 10, 10]),
        ((5, 3, 3), (1, 1, 1), inf, [4, 4, 3]),  # 3.67 each: the two left over go to the first
        ((40, 60), (3, 1), 1, [67, 33]),  # 120 to 60
    ],
)
def test_shares(sizes: tuple[int, ...], weights: tuple[float, ...], temperature: float, counts: list[int]) -> None:
    """Guards against a wrong exponent, weights that are ignored, and counts that do not add up to the epoch."""
    dataset = mixed(dict(zip("abc", sizes, strict=False)), weights, temperature)
    assert len(dataset) == sum(sizes) == sum(counts)
    for epoch in (0, 3):
        found = Counter(name[0] for name in shown(dataset, epoch))
        assert [found[name] for name in "abc"[: len(sizes)]] == counts


@pytest.mark.parametrize("temperature", [1, 3, inf])
def test_every_example_of_a_set_is_used_equally_often(temperature: float) -> None:
    """Guards against an epoch that starts a set anew, which would never reach the end of a large set."""
    dataset = mixed({"a": 23, "b": 7, "c": 4}, (1, 2.5, 0.4), temperature)
    used: Counter[str] = Counter()
    for epoch in range(12):
        used.update(shown(dataset, epoch))
        for name, size in (("a", 23), ("b", 7), ("c", 4)):
            times = [used[f"{name}{number}"] for number in range(size)]
            assert max(times) - min(times) <= 1, (epoch, name)


def test_a_place_is_a_function_of_seed_epoch_and_index() -> None:
    """Guards against state that a resumed run, or another process, does not have; and against one order for all."""
    sizes = {"a": 30, "b": 8}
    one, other = mixed(sizes, (1, 2), 1), mixed(sizes, (1, 2), 1)
    forwards = [shown(one, epoch) for epoch in range(4)]
    assert forwards == [shown(other, epoch) for epoch in reversed(range(4))][::-1]
    assert forwards[0] != forwards[1] != forwards[2]
    assert shown(mixed(sizes, (1, 2), 1, seed=1), 0) != forwards[0]
    ids = [name for name in forwards[0] if name[0] == "a"]
    assert ids != sorted(ids, key=lambda name: int(name[1:])), "the sets are shuffled"
    whole = mixed(sizes, (1, 1), 1)
    passes = [shown(whole, epoch) for epoch in range(3)]
    assert len({tuple(order) for order in passes}) == 3, "each pass has an order of its own"
    assert all(sorted(order) == sorted(passes[0]) for order in passes)
    with pytest.raises(IndexError):
        one.example(38)


def test_a_generator_is_told_how_often_it_was_gone_through() -> None:
    """Guards against a generator among the sets that asks the same questions in each of its passes."""
    scenes = SceneDataset("train", ScenesConfig(train_pictures=3, questions_per_picture=4), 0)
    dataset = MixedDataset({"data": scenes, "b": listed("b", 3)}, (1, 1), 1, 0)

    def asked(epoch: int) -> dict[str, object]:
        return {one.id: one.questions for one in map(dataset.example, range(6), [epoch] * 6) if one.questions}

    assert asked(0).keys() == asked(1).keys() and len(asked(0)) == 3
    assert all(asked(0)[name] != asked(1)[name] for name in asked(0))


def test_ledger_adds_up_as_items_are_withdrawn() -> None:
    """Guards against a picture found broken later that the mixture's sum does not tell of."""
    dataset = mixed({"a": 6, "b": 2}, (1, 1), 1)
    assert dataset.ledger.summary() == "10 offered = 8 used + 2 rejected (missing_image 2)"
    dataset.parts["b"].ledger.withdraw(Source("b"), "corrupt", "damaged")
    assert dataset.ledger.summary() == "10 offered = 7 used + 3 rejected (missing_image 2, corrupt 1)"
    sizes = {"a": 6, "b": 1}
    smaller = dataset.map_parts(lambda name, _: listed(name, sizes[name]))
    assert len(smaller) == 7 and smaller.counts == [6, 1] and smaller.split == "train"


@pytest.mark.parametrize(
    ("sizes", "weights", "temperature", "part"),
    [
        ({"a": 5, "b": 5}, (1, 0), 1, "'b' has the weight 0"),
        ({"a": 5, "b": 5}, (1, -1), 1, "'b' has the weight -1"),
        ({"a": 5, "b": 0}, (1, 1), 1, "0 examples"),
        ({"a": 5, "b": 5}, (1, 1), 0, "mixture_temperature is 0"),
        ({"a": 5, "b": 5}, (1, float("nan")), 1, "weight nan"),
        ({"a": 50, "b": 1}, (1, 0.001), 1, "'b' has a share of less than one"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    sizes: dict[str, int], weights: tuple[float, ...], temperature: float, part: str
) -> None:
    """Guards against a division by zero, and against a set that silently never takes part."""
    with pytest.raises(InputError) as caught:
        mixed(sizes, weights, temperature)
    assert part in str(caught.value)
