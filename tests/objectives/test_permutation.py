"""Orders, what they allow and what they predict, against loops; and the loss against all factorisations."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.types import TextTokens
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder
from chiasm.objectives.checks import check_objective
from chiasm.objectives.permutation import draw_order, permuted_words, predicted, visible

LENGTHS = [7, 4, 2, 1]
IS_REAL = torch.arange(7) < torch.tensor(LENGTHS)[:, None]


def test_an_order_has_the_start_first_and_the_padding_last() -> None:
    """Guards against a start token that must be predicted, and words that come after padding."""
    torch.manual_seed(0)
    for _ in range(200):
        for row, length in zip(draw_order(IS_REAL).tolist(), LENGTHS, strict=True):
            assert row[0] == 0 and row[length:] == list(range(length, 7))
            assert sorted(row[1:length]) == list(range(1, length))


def test_padding_between_words_comes_last_too() -> None:
    """Guards against an order that lists the tokens in turn, where the place of each token is asked for."""
    torch.manual_seed(0)
    drawn = {tuple(draw_order(torch.tensor([[True, False, True, True]]))[0].tolist()) for _ in range(50)}
    assert drawn == {(0, 3, 1, 2), (0, 3, 2, 1)}


def test_every_order_is_as_likely() -> None:
    """Guards against orders that are preferred, and one that is drawn for all rows: chi-squared with 23 degrees."""
    torch.manual_seed(0)
    rows, orders = 24_000, math.factorial(4)
    counts = Counter(map(tuple, draw_order(torch.ones(rows, 5, dtype=torch.bool)).tolist()))
    assert len(counts) == orders
    statistic = sum((count - rows / orders) ** 2 for count in counts.values()) / (rows / orders)
    assert 5 < statistic < 52, statistic  # each tail has a probability below 0.001


def test_orders_come_from_the_global_generator() -> None:
    """Guards against a resumed run that draws other orders."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(draw_order(IS_REAL))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_text_without_start_token_is_our_mistake() -> None:
    """Guards against a row in which no query sees anything, which attention turns into NaN."""
    with pytest.raises(AssertionError, match="start token"):
        draw_order(torch.tensor([[True, True], [False, False]]))


def test_what_is_visible_equals_a_loop() -> None:
    """Guards against <= for <, queries and keys swapped, and padding that is looked at."""
    torch.manual_seed(0)
    order = draw_order(IS_REAL)
    content, query = visible(order, IS_REAL)
    for row, length in enumerate(LENGTHS):
        sequence = sorted(range(7), key=order[row].tolist().__getitem__)
        for position in range(7):
            before = sequence[: sequence.index(position)]
            up_to = {one for one in [*before, position] if one < length}
            strictly = {one for one in before if one < length} if position else {0}
            assert set(content[row, position].nonzero()[:, 0].tolist()) == up_to
            assert set(query[row, position].nonzero()[:, 0].tolist()) == strictly
    assert query.any(2).all() and content.any(2).all()


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (1 / 6, [1, 1, 1, 0]),
        (0.2, [1, 1, 1, 0]),
        (0.3, [2, 1, 1, 0]),
        (0.5, [3, 2, 1, 0]),
        (1.0, [6, 3, 1, 0]),
    ],
)
def test_the_last_words_of_the_order_are_predicted(share: float, counts: list[int]) -> None:
    """Guards against the first words instead of the last, a predicted start token or padding, and rows without any."""
    torch.manual_seed(0)
    order = draw_order(IS_REAL)
    chosen = predicted(order, IS_REAL, share)
    for row, (length, count) in enumerate(zip(LENGTHS, counts, strict=True)):
        assert sorted(order[row][chosen[row]].tolist()) == list(range(length - count, length))


def test_a_sixth_is_predicted_unless_told() -> None:
    """Guards against another K than the published one: of 30 words, 5."""
    is_real = torch.ones(2, 31, dtype=torch.bool)
    assert predicted(draw_order(is_real), is_real).sum(1).tolist() == [5, 5]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_a_share_outside_its_range_is_our_mistake(share: float) -> None:
    """Guards against a percentage."""
    with pytest.raises(AssertionError, match="share"):
        predicted(draw_order(IS_REAL), IS_REAL, share)


def test_the_loss_holds_the_contract() -> None:
    """Guards against bfloat16 sums, a wrong gradient, and terms that depend on the order of rows."""
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "logits": torch.randn(3, 4, 7, generator=generator, dtype=torch.float64) * 4,
        "target": torch.randint(0, 7, (3, 4), generator=generator),
        "is_predicted": torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool),
    }
    check_objective(permuted_words, inputs, dict.fromkeys(inputs, "texts"))


def test_logits_of_the_predicted_words_are_enough() -> None:
    """Guards against a mean over all words where the task made logits of the predicted ones alone."""
    torch.manual_seed(0)
    logits, target = torch.randn(4, 7, 5), torch.randint(0, 5, (4, 7))
    chosen = predicted(draw_order(IS_REAL), IS_REAL, 0.5)
    some = permuted_words(logits[chosen], target[chosen], chosen[chosen])
    torch.testing.assert_close(some, permuted_words(logits, target, chosen))
    expected = -logits[chosen].double().log_softmax(-1)[torch.arange(6), target[chosen]].sum() / 6
    assert float(some["loss"]) == pytest.approx(float(expected), rel=1e-6)


def test_without_predicted_words_nothing_is_taught() -> None:
    """Guards against 0 / 0 in a batch of start tokens."""
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = permuted_words(logits, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool))["loss"]
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


WORDS = 4
ORDERS = [[0, *places] for places in itertools.permutations([1, 2, 3])]


@pytest.fixture
def model() -> tuple[TwoStreamTextEncoder, nn.Linear]:
    torch.manual_seed(0)
    return TwoStreamTextEncoder(WORDS, 4, 8, 2, 2).double(), nn.Linear(8, WORDS).double()


def logits_of(model: tuple[TwoStreamTextEncoder, nn.Linear], ids: Tensor, order: Tensor) -> Tensor:
    encoder, to_words = model
    _, query = encoder.two_stream(TextTokens(ids, torch.ones_like(ids, dtype=torch.bool)), order)
    return to_words(query.values)


@torch.no_grad()
def test_each_order_is_a_distribution_over_sentences(model: tuple[TwoStreamTextEncoder, nn.Linear]) -> None:
    """Guards against any leak: with one, the probabilities of all sentences sum to another number than 1.

    All 64 sentences of 3 words, in all 6 orders.
    """
    sentences = torch.tensor([[1, *words] for words in itertools.product(range(WORDS), repeat=3)])
    everything = torch.ones(1, 4, dtype=torch.bool)
    for places in ORDERS:
        order = torch.tensor([places])
        total = 0.0
        for sentence in sentences:
            logits = logits_of(model, sentence[None], order)
            loss = permuted_words(logits, sentence[None], predicted(order, everything, 1.0))["loss"]
            total += math.exp(-3 * float(loss))
        assert total == pytest.approx(1, abs=1e-12)


@torch.no_grad()
def test_the_mean_over_orders_is_the_mean_over_factorisations(model: tuple[TwoStreamTextEncoder, nn.Linear]) -> None:
    """Guards against a loss that weighs orders or words unevenly, and predictions that read what comes later.

    Each conditional probability is asked for alone, from a text whose words that are not yet known are replaced.
    """
    sentence = torch.tensor([[1, 3, 0, 2]])
    logarithms = []
    for sequence in itertools.permutations([1, 2, 3]):
        order = torch.zeros(1, 4, dtype=torch.long)
        order[0, list(sequence)] = torch.tensor([1, 2, 3])
        for step, position in enumerate(sequence):
            hidden = sentence.clone()
            unseen = list(sequence[step:])
            hidden[0, unseen] = (hidden[0, unseen] + 1 + step) % WORDS
            probability = logits_of(model, hidden, order)[0, position].softmax(-1)[sentence[0, position]]
            logarithms.append(math.log(float(probability)))
    assert len(set(logarithms)) > 9
    order = torch.tensor(ORDERS)
    ids = sentence.expand(6, -1)
    is_predicted = predicted(order, torch.ones_like(ids, dtype=torch.bool), 1.0)
    loss = permuted_words(logits_of(model, ids, order), ids, is_predicted)["loss"]
    assert float(loss) == pytest.approx(-sum(logarithms) / 18, abs=1e-12)
