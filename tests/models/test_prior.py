"""The prior: its sequences against a slow computation, its own padding, two-dimensional positions, and causality."""

import math

import pytest
import torch
from torch import Tensor

from chiasm.core.types import TextTokens
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.prior import ImagePrior
from chiasm.objectives.text_then_image import text_then_image

ROWS, COLUMNS, CODES, TEXT, WORDS = 3, 4, 7, 6, 11


@pytest.fixture
def tower() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(WORDS, TEXT, 16, 0, 2)


@pytest.fixture
def prior(tower: TextEncoder) -> ImagePrior:
    torch.manual_seed(1)
    return ImagePrior(tower, (CODES,), (ROWS, COLUMNS), layers=2, heads=2).eval()


def some(rows: int = 3) -> tuple[TextTokens, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, WORDS, (rows, TEXT - 1), generator=generator)
    lengths = torch.tensor([2, 5, 3])[:rows]
    codes = torch.randint(0, CODES, (rows, ROWS * COLUMNS), generator=generator)
    return TextTokens(ids, torch.arange(TEXT - 1) < lengths[:, None]), codes


@torch.no_grad()
def slow_loss(prior: ImagePrior, tower: TextEncoder, text: TextTokens, codes: Tensor) -> tuple[float, float]:
    """Text and image loss, token by token in float64: each prefix is a sequence of its own, without a mask."""
    prior, tower = prior.double(), tower.double()
    words, tokens = list[float](), list[float]()
    for row in range(len(codes)):
        length = int(text.is_real[row].sum())
        states = []
        for place in range(TEXT):
            is_word = place < length
            embedded = tower.embedding.weight[text.ids[row, place]] if is_word else prior.padding[place]
            states.append(embedded + prior.text_position[place])
        for number in range(ROWS * COLUMNS - 1):
            place = prior.row_position[number // COLUMNS] + prior.column_position[number % COLUMNS]
            states.append(prior.code_embedding.weight[codes[row, number]] + place)
        for block in prior.blocks:
            states = [block(torch.stack(states[: end + 1])[None])[0, -1] for end in range(len(states))]
        for end, state in enumerate(states):
            last = prior.norm(state)
            if end + 1 < length:
                logits, target = prior.to_words(last), text.ids[row, end + 1]
                words.append(float(logits.logsumexp(0) - logits[target]))
            elif end >= TEXT - 1:
                logits, target = prior.to_codes(last), codes[row, end - TEXT + 1]
                tokens.append(float(logits.logsumexp(0) - logits[target]))
    return math.fsum(words) / len(words), math.fsum(tokens) / len(tokens)


def test_the_loss_is_that_of_a_slow_loop(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against a target one place off, padding that counts, a future token that is seen, and wrong weights."""
    text, codes = some()
    terms = text_then_image(*prior(tower, text, codes), codes, text_weight=1.0, image_weight=7.0)
    words, tokens = slow_loss(prior, tower, text, codes)
    assert terms["text"].item() == pytest.approx(words, abs=2e-5)
    assert terms["image"].item() == pytest.approx(tokens, abs=2e-5)
    assert terms["loss"].item() == pytest.approx((words + 7 * tokens) / 8, abs=2e-5)


def test_every_position_has_a_padding_token_of_its_own(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against one shared padding token, and against the id that stands under padding."""
    text, codes = some()
    states = prior.text_states(tower, text)
    assert torch.equal(states[0, 2:], prior.padding[2:] + prior.text_position[2:])
    other = TextTokens(torch.where(text.is_real, text.ids, 9), text.is_real)
    assert torch.equal(prior.text_states(tower, other), states)
    with torch.no_grad():
        before = prior(tower, text, codes)[2]
        prior.padding[3].mul_(-1)
        changed = (prior(tower, text, codes)[2] - before).abs().amax(dim=(1, 2)) > 1e-4
    assert changed.tolist() == [True, False, True]  # the second caption fills the place


def test_positions_are_those_of_row_and_column(prior: ImagePrior) -> None:
    """Guards against a grid that is read by columns."""
    ids = torch.zeros(1, ROWS * COLUMNS, dtype=torch.long)
    states = prior.image_states(ids)[0] - prior.code_embedding.weight[0]
    for number in range(ROWS * COLUMNS):
        expected = prior.row_position[number // COLUMNS] + prior.column_position[number % COLUMNS]
        torch.testing.assert_close(states[number], expected)
    torch.testing.assert_close(prior.image_states(ids[:, :3], start=5)[0] - prior.code_embedding.weight[0], states[5:8])


def test_a_place_has_the_tokens_of_its_part_alone(tower: TextEncoder) -> None:
    """Guards against probability on tokens that no image has there, and a loss that is not that of the part alone."""
    made = ImagePrior(tower, (4, 3), (2, 4), layers=1, heads=2).eval()
    text = TextTokens(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool))
    ids = torch.tensor([[3, 4, 0, 6, 1, 5, 2, 4]])
    logits = made(tower, text, ids)[2][0].detach()
    probability = logits.softmax(-1)
    assert not probability[::2, 4:].any() and not probability[1::2, :4].any()
    free = made.to_codes(made.run(torch.cat([made.text_states(tower, text), made.image_states(ids[:, :-1])], dim=1)))
    for place in range(8):
        part = slice(4, 7) if place % 2 else slice(0, 4)
        expected = free[0, TEXT - 1 + place, part].detach().log_softmax(-1)
        torch.testing.assert_close(logits[place].log_softmax(-1)[part], expected)


def test_a_token_depends_on_nothing_after_it(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against a mask that lets an image token see itself."""
    text, codes = some()
    before = prior(tower, text, codes)[2]
    changed = codes.clone()
    changed[:, 5] = (changed[:, 5] + 1) % CODES
    after = prior(tower, text, changed)[2]
    assert torch.equal(before[:, :6], after[:, :6])
    assert bool((before[:, 6:] - after[:, 6:]).abs().amax(dim=(1, 2)).gt(1e-5).all())


def test_a_caption_as_long_as_there_are_positions(prior: ImagePrior, tower: TextEncoder) -> None:
    """Guards against a batch that is padded beyond the last position."""
    text, codes = some()
    wide = TextTokens(torch.cat([text.ids, text.ids], 1), torch.cat([text.is_real, torch.zeros_like(text.is_real)], 1))
    for one, other in zip(prior(tower, text, codes), prior(tower, wide, codes), strict=True):
        assert torch.equal(one, other)
