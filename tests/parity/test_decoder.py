"""The caption decoder with its cache against itself without, and against transformers' words for the same thing."""

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.decoder import CaptionDecoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.transformer import KeyValueCache

WORDS, DIM, HEADS, LAYERS, LONGEST = 30, 16, 2, 3, 9
START, END = 2, 3


@pytest.fixture
def text() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(WORDS, LONGEST, DIM, 1, HEADS)


@pytest.fixture
def decoder(text: TextEncoder) -> CaptionDecoder:
    made = CaptionDecoder(text, LAYERS, HEADS).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return made


@pytest.fixture
def image() -> Tokens:
    values = torch.randn(6, 4, DIM, generator=torch.Generator().manual_seed(5)) * 2
    is_real = torch.arange(4) < torch.tensor([4, 2, 1, 4, 3, 4])[:, None]
    return Tokens(values, is_real, values.mean(1))


def test_logits_with_cache_equal_those_without(decoder: CaptionDecoder, text: TextEncoder, image: Tokens) -> None:
    """Guards against a wrong position, a mask that shows the future, and a cache that loses a word."""
    ids = torch.randint(4, WORDS, (6, LONGEST), generator=torch.Generator().manual_seed(1))
    whole = decoder(text.embedding, ids, image)
    caches = [KeyValueCache() for _ in decoder.blocks]
    for position in range(LONGEST):
        got = decoder(text.embedding, ids[:, position : position + 1], image, caches, position)
        torch.testing.assert_close(got[:, 0], whole[:, position], rtol=1e-5, atol=1e-5)


def test_a_word_does_not_know_the_future(decoder: CaptionDecoder, text: TextEncoder, image: Tokens) -> None:
    """Guards against a model that reads the word it shall predict: later ids change no earlier logits."""
    ids = torch.randint(4, WORDS, (6, LONGEST), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % WORDS
    one, two = decoder(text.embedding, ids, image), decoder(text.embedding, other, image)
    torch.testing.assert_close(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def slow_greedy(decoder: CaptionDecoder, embedding: nn.Embedding, image: Tokens) -> tuple[list[list[int]], list[float]]:
    """One row after the other, the whole sentence again for each word."""
    rows, scores = [], []
    for row in range(len(image.values)):
        ids, logarithms = [START], []
        while len(ids) < LONGEST and (len(ids) == 1 or ids[-1] != END):
            logits = decoder(embedding, torch.tensor([ids]), image.rows(torch.tensor([row])))[0, -1]
            probabilities = logits.double().softmax(-1)
            ids.append(int(probabilities.argmax()))
            logarithms.append(float(probabilities.max().log()))
        rows.append(ids[1:])
        scores.append(sum(logarithms) / len(logarithms))
    return rows, scores


def test_greedy_words_equal_those_of_a_slow_loop(decoder: CaptionDecoder, text: TextEncoder, image: Tokens) -> None:
    """Guards against words after the end, rows that stop with their neighbours, and a miscounted confidence."""
    with torch.no_grad():
        decoder.to_words.bias[END] -= 2
        expected, scores = slow_greedy(decoder, text.embedding, image)
        while len({len(row) for row in expected}) == 1:  # until the rows end at different places
            decoder.to_words.bias[END] += 0.5
            expected, scores = slow_greedy(decoder, text.embedding, image)
        ids, log_probability = decoder.generate(text.embedding, image, START, END)
    assert min(map(len, expected)) < max(map(len, expected))
    for row, words in zip(ids.tolist(), expected, strict=True):
        assert row == words + [END] * (ids.shape[1] - len(words))
    assert log_probability.tolist() == pytest.approx(scores, abs=1e-4)


def test_generation_stops_at_the_longest_text(decoder: CaptionDecoder, text: TextEncoder, image: Tokens) -> None:
    """Guards against a position that does not exist, where the end token never comes."""
    with torch.no_grad():
        decoder.to_words.bias[END] = -1e9
    ids, _ = decoder.generate(text.embedding, image, START, END)
    assert ids.shape == (6, LONGEST - 1) and not (ids == END).any()


def gpt2_twin(decoder: CaptionDecoder, text: TextEncoder) -> tuple[nn.Module, Tensor]:
    """A GPT-2 with cross-attention is the same computation (pre-norm, GELU, learned positions): copy the weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LONGEST, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, activation_function="gelu",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, add_cross_attention=True, bos_token_id=START, eos_token_id=END,
    )  # fmt: skip
    twin = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        twin.wte.weight.copy_(text.embedding.weight)
        twin.wpe.weight.copy_(decoder.position)
        twin.ln_f.load_state_dict(decoder.norm.state_dict())
        for block, ours in zip(twin.h, decoder.blocks, strict=True):
            for theirs, mine in (
                (block.ln_1, ours.self_norm), (block.ln_cross_attn, ours.cross_norm), (block.ln_2, ours.mlp_norm),
            ):  # fmt: skip
                theirs.load_state_dict(mine.state_dict())
            own, cross = ours.self_attention, ours.cross_attention
            # GPT-2 keeps its matrices transposed.
            block.attn.c_attn.weight.copy_(torch.cat([own.query.weight, own.key_value.weight]).T)
            block.attn.c_attn.bias.copy_(torch.cat([own.query.bias, own.key_value.bias]))
            for theirs, mine in (
                (block.attn.c_proj, own.out), (block.crossattention.q_attn, cross.query),
                (block.crossattention.c_attn, cross.key_value), (block.crossattention.c_proj, cross.out),
                (block.mlp.c_fc, ours.mlp[0]), (block.mlp.c_proj, ours.mlp[2]),
            ):  # fmt: skip
                theirs.weight.copy_(mine.weight.T)
                theirs.bias.copy_(mine.bias)
    return twin, decoder.to_words.weight


def test_decoder_equals_gpt2_with_cross_attention(decoder: CaptionDecoder, text: TextEncoder, image: Tokens) -> None:
    """Guards against any difference from the published block: transformers' GPT-2 gives the same logits."""
    twin, to_words = gpt2_twin(decoder, text)
    ids = torch.randint(4, WORDS, (6, LONGEST), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = twin(
            input_ids=ids, encoder_hidden_states=image.values, encoder_attention_mask=image.is_real.long()
        ).last_hidden_state
        expected = hidden @ to_words.T + decoder.to_words.bias
        got = decoder(text.embedding, ids, image)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
