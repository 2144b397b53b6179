"""What the two streams of the text tower know: never the word that is to be predicted, always the words before it."""

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.types import TextTokens, Tokens
from chiasm.models.checks import check_encoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.encoders.two_stream import TwoStreamTextEncoder
from chiasm.models.transformer import Block, key_padding_mask
from chiasm.objectives.permutation import draw_order, visible

WORDS, LONGEST, DIM, HEADS = 40, 12, 16, 2


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts() -> TextTokens:
    ids = torch.randint(5, WORDS, (4, 9), generator=torch.Generator().manual_seed(0))
    return TextTokens(ids, torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None])


def encoder_of(layers: int = 2, summary_tokens: int = 0) -> TwoStreamTextEncoder:
    torch.manual_seed(0)
    return TwoStreamTextEncoder(WORDS, LONGEST, DIM, layers, HEADS, summary_tokens).double().eval()


@pytest.mark.parametrize("summary_tokens", [0, 3])
def test_the_contract_of_encoders_holds(summary_tokens: int) -> None:
    """Guards `forward` against the bugs named in `check_encoder`; the query stream's vector takes no part in it."""
    torch.manual_seed(0)
    encoder = TwoStreamTextEncoder(WORDS, LONGEST, DIM, 2, HEADS, summary_tokens)
    check_encoder(encoder, texts(), ("query_token",))


def test_forward_equals_the_plain_text_encoder() -> None:
    """Guards against a fine-tuned model that reads with a mask: the same weights give the same tokens."""
    encoder = encoder_of(summary_tokens=2)
    plain = TextEncoder(WORDS, LONGEST, DIM, 2, HEADS, summary_tokens=2).double()
    left_over = plain.load_state_dict(encoder.state_dict(), strict=False)
    assert left_over.unexpected_keys == ["query_token"] and not left_over.missing_keys
    for got, expected in zip(encoder(texts())[:3], plain(texts())[:3], strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("summary_tokens", [0, 3])
def test_both_streams_have_the_shape_of_the_text(summary_tokens: int) -> None:
    """Guards against summary tokens in a prediction, where they would see every word, and padding in `pooled`."""
    encoder, text = encoder_of(summary_tokens=summary_tokens), texts()
    order = draw_order(text.is_real)
    for stream in encoder.two_stream(text, order):
        assert stream.values.shape == (4, 9, DIM) and torch.equal(stream.is_real, text.is_real)
        assert stream.values.isfinite().all()
        for row, length in enumerate([9, 4, 1, 7]):
            torch.testing.assert_close(stream.pooled[row], stream.values[row, :length].mean(0))
    if summary_tokens:
        with torch.no_grad():
            before = encoder.two_stream(text, order)
            encoder.summary.add_(1)
            after = encoder.two_stream(text, order)
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def fused(blocks: nn.ModuleList, query: Tokens, order: Tensor) -> Tensor:
    """The query stream through blocks that also look at a picture, as cross-attention fusion does."""
    image = numbers(len(order), 5, DIM, seed=3)
    image_is_real = torch.arange(5) < torch.tensor([5, 2, 4, 1, 3, 5])[:, None]
    allowed, _ = visible(order, query.is_real)
    x = query.values
    for block in blocks:
        x = block(x, allowed=allowed[:, None], context=image, context_allowed=key_padding_mask(image_is_real))
    return x


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("fusion_layers", [0, 1, 2])
@torch.no_grad()
def test_a_word_changes_only_what_comes_after_it(layers: int, fusion_layers: int) -> None:
    """Guards against a leak, direct, over layers, or through fusion, and against queries blind to earlier words.

    Each word in turn is replaced: the query stream changes at those tokens that come later in the order, and at no
    other; the content stream at those and at the word itself.
    """
    encoder = encoder_of(layers)
    torch.manual_seed(1)
    blocks = nn.ModuleList(Block(DIM, HEADS, context_dim=DIM) for _ in range(fusion_layers)).double()
    ids = torch.randint(5, WORDS, (6, 7))
    is_real = torch.arange(7) < torch.tensor([7, 7, 6, 5, 3, 2])[:, None]
    order = draw_order(is_real)

    def states(ids: Tensor) -> tuple[Tensor, Tensor]:
        content, query = encoder.two_stream(TextTokens(ids, is_real), order)
        return content.values, fused(blocks, query, order)

    content, query = states(ids)
    for word in range(7):
        other = ids.clone()
        other[:, word] = (other[:, word] + 1) % WORDS
        new_content, new_query = states(other)
        is_later = (order > order[:, word, None]) & is_real[:, word, None]
        if word == 0:
            is_later[:, 0] = True  # the start token, which is never predicted, looks at itself
        is_own = torch.arange(7) == word
        for row in range(6):
            assert new_query[row].ne(query[row]).any(-1).tolist() == is_later[row].tolist()
            assert new_content[row].ne(content[row]).any(-1).tolist() == (is_later[row] | is_own).tolist()


@torch.no_grad()
def test_the_content_stream_would_leak_through_fusion() -> None:
    """The null control: the same test finds the leak where h is fused in place of g."""
    encoder, blocks = encoder_of(), nn.ModuleList([Block(DIM, HEADS, context_dim=DIM)]).double()
    ids = torch.randint(5, WORDS, (6, 7), generator=torch.Generator().manual_seed(0))
    is_real = torch.ones(6, 7, dtype=torch.bool)
    order = draw_order(is_real)
    other = ids.clone()
    other[:, 3] += 1
    states = [fused(blocks, encoder.two_stream(TextTokens(one, is_real), order)[0], order) for one in (ids, other % 40)]
    assert states[0][:, 3].ne(states[1][:, 3]).any(-1).all()


def test_rows_know_nothing_of_each_other_or_of_padding() -> None:
    """Guards against one order for the batch, and a width that changes values: each row alone, without its padding."""
    encoder, text = encoder_of(), texts()
    torch.manual_seed(3)
    order = draw_order(text.is_real)
    whole = encoder.two_stream(text, order)
    for row, length in enumerate([9, 4, 1, 7]):
        one = TextTokens(text.ids[row : row + 1, :length], text.is_real[row : row + 1, :length])
        for alone, batched in zip(encoder.two_stream(one, order[row : row + 1, :length]), whole, strict=True):
            torch.testing.assert_close(alone.values[0], batched.values[row, :length])
            torch.testing.assert_close(alone.pooled[0], batched.pooled[row])


def test_a_prediction_moves_every_weight_of_the_words() -> None:
    """Guards against a detached stream: the query stream alone gives all weights but the summary's a gradient."""
    encoder, text = encoder_of(), texts()
    _, query = encoder.two_stream(text, draw_order(text.is_real))
    (query.values[text.is_real] * numbers(21, DIM)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert name == "summary" or parameter.grad.abs().sum() > 0, name
