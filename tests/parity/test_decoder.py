"""Both decoders with caches against themselves without, and against transformers' words for the same thing."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.types import Tokens
from chiasm.models.decoder import CaptionDecoder, Decoder, MultimodalDecoder
from chiasm.models.decoding import DecodingConfig, Generated, decode
from chiasm.models.encoders.causal import CausalTextEncoder
from chiasm.models.encoders.text import TextEncoder
from chiasm.models.transformer import causal

WORDS, DIM, HEADS, LAYERS, LONGEST, CONTEXT = 30, 16, 2, 3, 9, 10
PAD, START, END = 0, 2, 3
BANNED = (0, 1, 2)
Pair = tuple[Decoder, nn.Module]


def randomize(module: nn.Module) -> None:
    """Random norms and biases too: with ones and zeros a lost one would not be seen."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)


@pytest.fixture(params=["caption", "multimodal"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """A decoder and the tower that it is called with."""
    torch.manual_seed(0)
    tower: nn.Module
    if request.param == "caption":
        tower = TextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
        decoder: Decoder = CaptionDecoder(tower, LAYERS, HEADS, context_dim=CONTEXT)
    else:
        tower = CausalTextEncoder(WORDS, LONGEST, DIM, 2, HEADS)
        randomize(tower)
        decoder = MultimodalDecoder(tower, LAYERS, HEADS, context_dim=CONTEXT)
    randomize(decoder)
    return decoder.eval(), tower.eval()


def pictures(width: int = CONTEXT) -> Tokens:
    values = torch.randn(6, 4, width, generator=torch.Generator().manual_seed(5)) * 2
    is_real = torch.arange(4) < torch.tensor([4, 2, 1, 4, 3, 4])[:, None]
    return Tokens(values, is_real, values.mean(1))


@pytest.fixture
def image() -> Tokens:
    return pictures()


def some_ids() -> Tensor:
    return torch.randint(4, WORDS, (6, LONGEST), generator=torch.Generator().manual_seed(1))


def end_bias(decoder: Decoder, change: float) -> None:
    with torch.no_grad():
        decoder.to_words.bias[END] += change


@pytest.mark.parametrize("steps", [[1] * LONGEST, [4, 1, 3, 1]])
def test_logits_with_cache_equal_those_without(pair: Pair, image: Tokens, steps: list[int]) -> None:
    """Guards against a wrong position, a mask that shows the future, and a cache that loses a word."""
    decoder, tower = pair
    ids = some_ids()
    whole = decoder(tower, ids, image)
    caches, start = decoder.empty_caches(tower), 0
    for step in steps:
        got = decoder(tower, ids[:, start : start + step], image, caches=caches)
        torch.testing.assert_close(got, whole[:, start : start + step], rtol=1e-5, atol=1e-5)
        start += step


def test_a_word_does_not_know_the_future(pair: Pair, image: Tokens) -> None:
    """Guards against a model that reads the word it shall predict: later ids change no earlier logits."""
    decoder, tower = pair
    ids = some_ids()
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % WORDS
    one, two = decoder(tower, ids, image), decoder(tower, other, image)
    torch.testing.assert_close(one[:, :5], two[:, :5])
    assert not torch.allclose(one[:, 5:], two[:, 5:])


def slow_greedy(decoder: Decoder, tower: nn.Module, image: Tokens) -> tuple[list[list[int]], list[float]]:
    """One row after the other, the whole sentence again for each word."""
    rows, scores = [], []
    for row in range(len(image.values)):
        ids, logarithms = [START], []
        while len(ids) < LONGEST and (len(ids) == 1 or ids[-1] != END):
            logits = decoder(tower, torch.tensor([ids]), image.rows(torch.tensor([row])))[0, -1]
            probabilities = logits.double().softmax(-1)
            ids.append(int(probabilities.argmax()))
            logarithms.append(float(probabilities.max().log()))
        rows.append(ids[1:])
        scores.append(sum(logarithms) / len(logarithms))
    return rows, scores


def test_greedy_words_equal_those_of_a_slow_loop(pair: Pair, image: Tokens) -> None:
    """Guards against words after the end, rows that stop with their neighbours, and a miscounted confidence."""
    decoder, tower = pair
    with torch.no_grad():
        end_bias(decoder, -2)
        expected, scores = slow_greedy(decoder, tower, image)
        while len({len(row) for row in expected}) == 1:  # until the rows end at different places
            end_bias(decoder, 0.5)
            expected, scores = slow_greedy(decoder, tower, image)
    got = decoder.write(tower, image, torch.full((6,), START), END, DecodingConfig())
    assert min(map(len, expected)) < max(map(len, expected))
    for row, words in zip(got.ids.tolist(), expected, strict=True):
        assert row == words + [END] * (got.ids.shape[1] - len(words))
    assert got.log_probability.tolist() == pytest.approx(scores, abs=1e-4)
    assert got.is_finished.tolist() == [words[-1] == END for words in expected]


def test_writing_stops_at_the_longest_text(pair: Pair, image: Tokens) -> None:
    """Guards against a position that does not exist, where the end token never comes."""
    decoder, tower = pair
    end_bias(decoder, -1e9)
    for method in ("greedy", "beam", "nucleus"):
        got = decoder.write(tower, image, torch.full((6,), START), END, DecodingConfig(method=method))
        assert got.ids.shape == (6, LONGEST - 1) and not (got.ids == END).any() and not got.is_finished.any()


def write_without_caches(
    decoder: Decoder, tower: nn.Module, image: Tokens, config: DecodingConfig, asked: list[Tensor]
) -> Generated:
    """The whole sentences again at each step, and the picture copied for each beam; `asked` gets the logits."""
    kept: list[Tensor] = []

    def step(ids: Tensor, rows: Tensor | None) -> Tensor:
        before = kept.pop() if kept else ids[:, :0]
        kept.append(torch.cat([before if rows is None else before[rows], ids], dim=1))
        beams = len(ids) // len(image.values)
        copies = image.rows(torch.arange(len(image.values)).repeat_interleave(beams))
        asked.append(decoder(tower, kept[0], copies)[:, -1])
        return asked[-1]

    return decode(step, torch.full((len(image.values),), START), END, config, LONGEST, BANNED)


@pytest.fixture
def asked(pair: Pair) -> Iterator[list[Tensor]]:
    """The logits of each word that `write` asks for."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output[:, -1])

    handle = pair[0].to_words.register_forward_hook(keep)
    yield found
    handle.remove()


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_written_words_are_the_same_without_caches(pair: Pair, image: Tokens, asked: list[Tensor], method: str) -> None:
    """Guards against beams that go on from another beam's words or picture: word for word and logit for logit."""
    decoder, tower = pair
    end_bias(decoder, 1)
    config = DecodingConfig(method=method, no_repeat_ngram=2, min_words=2)
    torch.manual_seed(0)
    got = decoder.write(tower, image, torch.full((6,), START), END, config, BANNED)
    with_caches = list(asked)
    without: list[Tensor] = []
    torch.manual_seed(0)
    expected = write_without_caches(decoder, tower, image, config, without)
    assert len({tuple(row) for row in got.ids.tolist()}) > 1
    assert torch.equal(got.ids, expected.ids) and torch.equal(got.is_finished, expected.is_finished)
    torch.testing.assert_close(got.log_probability, expected.log_probability, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(with_caches, without, rtol=1e-4, atol=1e-5)
    assert method != "beam" or len(without[1]) == 3 * len(without[0]), "the first step has a row a picture"


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_neither_neighbours_nor_padding_change_the_words(pair: Pair, image: Tokens, method: str) -> None:
    """Guards against padded tokens that are looked at, and pictures that see each other."""
    decoder, tower = pair
    config, start = DecodingConfig(method=method), torch.full((6,), START)
    together = decoder.write(tower, image, start, END, config, BANNED)
    noisy = image._replace(values=torch.where(image.is_real[..., None], image.values, 1e3))
    for other in (
        noisy,
        Tokens(
            nn.functional.pad(noisy.values, (0, 0, 0, 2), value=7.0),
            nn.functional.pad(image.is_real, (0, 2)),
            image.pooled,
        ),
    ):
        got = decoder.write(tower, other, start, END, config, BANNED)
        assert torch.equal(got.ids, together.ids)
        torch.testing.assert_close(got.log_probability, together.log_probability, rtol=1e-4, atol=1e-5)
    for row in range(6):
        length = int(image.is_real[row].sum())
        one = image.rows(torch.tensor([row]))
        one = Tokens(one.values[:, :length], one.is_real[:, :length], one.pooled)
        alone = decoder.write(tower, one, start[:1], END, config, BANNED)
        assert together.ids[row].tolist() == alone.ids[0].tolist() + [END] * (
            together.ids.shape[1] - alone.ids.shape[1]
        )
        torch.testing.assert_close(alone.log_probability[0], together.log_probability[row], rtol=1e-4, atol=1e-5)


def test_padded_words_have_no_influence(pair: Pair, image: Tokens) -> None:
    """Guards against captions whose loss depends on the longest one of their batch."""
    decoder, tower = pair
    ids = some_ids()
    whole = decoder.logits(tower, ids, image)
    ids[:, 6:] = PAD
    torch.testing.assert_close(decoder.logits(tower, ids, image)[:, :6], whole[:, :6])
    torch.testing.assert_close(decoder.logits(tower, ids[:, :6], image), whole[:, :6], rtol=1e-5, atol=1e-5)
    assert whole.dtype == torch.float32


def test_captions_share_their_pictures_keys(pair: Pair, image: Tokens) -> None:
    """Guards against captions of another picture: an index gives what copies give, gradients too, projected once."""
    decoder, tower = pair
    rows: list[int] = []
    first = decoder.blocks[0].cross_attention
    first.key_value.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    index = torch.tensor([2, 0, 0, 1, 2, 0])
    found = []
    for is_indexed in (True, False):
        values = image.values[:3].clone().requires_grad_()
        shared = Tokens(values, image.is_real[:3], image.pooled[:3])
        if is_indexed:
            logits = decoder(tower, some_ids(), shared, index)
        else:
            logits = decoder(tower, some_ids(), shared.rows(index))
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        found.append([logits, values.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert rows == [3, 6]


def test_a_picture_is_projected_once_a_sentence(pair: Pair, image: Tokens) -> None:
    """Guards against keys and values that are made anew at each word, or for each beam."""
    decoder, tower = pair
    rows: list[int] = []
    for block in decoder.blocks:
        block.cross_attention.key_value.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    decoder.write(tower, image, torch.full((6,), START), END, DecodingConfig(method="beam", min_words=4))
    assert rows == [6] * LAYERS


def test_the_towers_parameters_are_not_the_decoders(pair: Pair, image: Tokens) -> None:
    """Guards against parameters that the optimiser gets twice; every one of both has a part in the logits."""
    decoder, tower = pair
    own = {id(parameter) for parameter in decoder.parameters()}
    assert not own & {id(parameter) for parameter in tower.parameters()}
    decoder.logits(tower, some_ids(), image).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert tower.embedding.weight.grad.any()


def test_parameter_names_are_those_of_saved_runs() -> None:
    """Guards against weights of earlier runs that no longer load."""
    tower = TextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
    names = {name.split(".")[0] for name, _ in CaptionDecoder(tower, 1, HEADS).named_parameters()}
    assert names == {"position", "blocks", "norm", "to_words"}


def test_dropout_works_in_training_alone(image: Tokens) -> None:
    """Guards against a setting that reaches no block."""
    tower = CausalTextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
    text = TextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
    for decoder, own in (
        (CaptionDecoder(text, 2, HEADS, dropout=0.5, context_dim=CONTEXT), text),
        (MultimodalDecoder(tower, 2, HEADS, dropout=0.5, context_dim=CONTEXT), tower),
    ):
        one, two = (decoder(own, some_ids(), image) for _ in range(2))
        assert not torch.allclose(one, two)
        decoder.eval()
        torch.testing.assert_close(decoder(own, some_ids(), image), decoder(own, some_ids(), image))


def test_a_multimodal_decoder_needs_a_causal_tower(image: Tokens) -> None:
    """Guards against words that were seen by a tower that looks ahead."""
    causal_tower = CausalTextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
    decoder = MultimodalDecoder(causal_tower, 1, HEADS, context_dim=CONTEXT)
    with pytest.raises(AssertionError, match="later tokens"):
        decoder(TextEncoder(WORDS, LONGEST, DIM, 1, HEADS), some_ids(), image)


def gpt2_twin(decoder: Decoder, states: Tensor, positions: Tensor) -> nn.Module:
    """A GPT-2 with cross-attention is the same computation (pre-norm, GELU, learned positions): copy the weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    config = transformers.GPT2Config(
        vocab_size=len(states), n_positions=LONGEST, n_embd=DIM, n_layer=LAYERS, n_head=HEADS,
        activation_function="gelu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, add_cross_attention=True,
        bos_token_id=START, eos_token_id=END,
    )  # fmt: skip
    twin = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        twin.wte.weight.copy_(states)
        twin.wpe.weight.copy_(positions)
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
    return twin


def test_caption_decoder_equals_gpt2_with_cross_attention() -> None:
    """Guards against any difference from the published block: transformers' GPT-2 gives the same logits."""
    text = TextEncoder(WORDS, LONGEST, DIM, 1, HEADS)
    decoder, image, ids = CaptionDecoder(text, LAYERS, HEADS).eval(), pictures(DIM), some_ids()
    randomize(decoder)
    twin = gpt2_twin(decoder, text.embedding.weight, decoder.position)
    with torch.no_grad():
        hidden = twin(
            input_ids=ids, encoder_hidden_states=image.values, encoder_attention_mask=image.is_real.long()
        ).last_hidden_state
        expected = hidden @ decoder.to_words.weight.T + decoder.to_words.bias
        got = decoder(text, ids, image)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_multimodal_decoder_equals_gpt2_on_the_towers_states() -> None:
    """Guards against words or positions that come in twice: GPT-2 that is given the tower's states, no more."""
    tower = CausalTextEncoder(WORDS, LONGEST, DIM, 2, HEADS).eval()
    randomize(tower)
    decoder, image, ids = MultimodalDecoder(tower, LAYERS, HEADS).eval(), pictures(DIM), some_ids()
    randomize(decoder)
    twin = gpt2_twin(decoder, tower.embedding.weight, torch.zeros(LONGEST, DIM))
    with torch.no_grad():
        x = tower.embedding(ids) + tower.position
        for block in tower.blocks:
            x = block(x, causal(LONGEST, x.device))
        hidden = twin(
            inputs_embeds=tower.norm(x), encoder_hidden_states=image.values, encoder_attention_mask=image.is_real.long()
        ).last_hidden_state
        expected = hidden @ decoder.to_words.weight.T + decoder.to_words.bias
        got = decoder(tower, ids, image)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
