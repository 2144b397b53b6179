"""Greedy, beam and nucleus decoding against all sentences there are, against transformers, and by their properties."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from chiasm.core.errors import InputError
from chiasm.models.decoding import DecodingConfig, Generated, check_decoding, decode

END = 0
GREEDY, NUCLEUS = DecodingConfig(), DecodingConfig(method="nucleus")
BEAM = DecodingConfig(method="beam")


class Toy:
    """A model whose next word depends on every word before it, and on where it stands; float64."""

    def __init__(self, vocabulary: int, longest: int, seed: int = 0, starts: int = 8, sharpness: float = 2.0) -> None:
        self.seen = torch.randn(
            longest, vocabulary + starts, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        self.out = torch.randn(16, vocabulary, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        self.vocabulary, self.sharpness = vocabulary, sharpness
        self.end_bias = 0.0

    def logits(self, ids: Tensor) -> Tensor:
        """Rows of start token and words [r, t] -> [r, v]."""
        places = torch.arange(ids.shape[1])
        out = self.seen[places, ids].cumsum(1).tanh().sum(1).sin() @ self.out * self.sharpness
        out[:, END] += self.end_bias
        return out

    def start(self, number: int) -> int:
        """Start tokens are no words: ids after the vocabulary."""
        return self.vocabulary + number

    def step(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """A new `Step`, which keeps the words by itself as a cache would."""
        kept: list[Tensor] = []

        def step(ids: Tensor, rows: Tensor | None) -> Tensor:
            before = kept.pop() if kept else ids[:, :0]
            kept.append(torch.cat([before if rows is None else before[rows], ids], dim=1))
            return self.logits(kept[0])

        return step

    def write(
        self, config: DecodingConfig, max_tokens: int, starts: int = 1, banned: tuple[int, ...] = ()
    ) -> Generated:
        return decode(self.step(), torch.arange(starts) + self.vocabulary, END, config, max_tokens, banned)

    def log_probability(self, start: int, words: list[int]) -> float:
        """Sum over the words, one after the other."""
        total, ids = 0.0, [start]
        for word in words:
            total += float(self.logits(torch.tensor([ids]))[0].log_softmax(0)[word])
            ids.append(word)
        return total


def sentence(row: Tensor) -> list[int]:
    """The words up to the first end, which is one of them."""
    words = row.tolist()
    return words[: words.index(END) + 1] if END in words else words


def repeats(words: list[int], size: int) -> bool:
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(runs)) < len(runs)


def every_sentence(vocabulary: int, longest: int, config: DecodingConfig, banned: tuple[int, ...]) -> list[list[int]]:
    """All that may be written: those that end, and those cut at `longest` tokens."""
    words = [word for word in range(vocabulary) if word not in (END, *banned)]
    most = config.max_words or longest
    found = []
    for length in range(longest + 1):
        for inner in itertools.product(words, repeat=length):
            if config.no_repeat_ngram and repeats(list(inner), config.no_repeat_ngram):
                continue
            if length < longest and config.min_words <= length <= most:
                found.append([*inner, END])
            if length == longest and length <= most:
                found.append(list(inner))
    return found


RULES = {
    "free": DecodingConfig(),
    "length": DecodingConfig(min_words=2, max_words=3),
    "no word twice": DecodingConfig(no_repeat_ngram=1),
    "no pair twice": DecodingConfig(no_repeat_ngram=2, min_words=3),
}


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.7, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_sentences(name: str, penalty: float) -> None:
    """Guards against a search that stops too early, a wrong length, and a bound that cuts off the winner."""
    vocabulary, longest, banned = 5, 4, (3,)
    config = replace(RULES[name], method="beam", beams=vocabulary**longest, length_penalty=penalty)
    lengths = set()
    for seed in range(6):
        toy = Toy(vocabulary, longest + 1, seed)
        got = toy.write(config, longest + 1, starts=2, banned=banned)
        for row in range(2):
            scored = {
                tuple(words): toy.log_probability(toy.start(row), words)
                for words in every_sentence(vocabulary, longest, config, banned)
            }
            best = max(scored, key=lambda words: scored[words] / len(words) ** penalty)
            assert sentence(got.ids[row]) == list(best)
            assert got.log_probability[row].item() == pytest.approx(scored[best] / len(best), abs=1e-5)
            assert got.is_finished[row].item() == (best[-1] == END)
            lengths.add(len(best))
    assert len(lengths) > 1 or name != "free" or penalty < 0, "one length only says little about the penalty"


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("no_repeat", "min_words"), [(0, 0), (2, 3)])
def test_beams_equal_those_of_transformers(beams: int, penalty: float, no_repeat: int, min_words: int) -> None:
    """Guards against another rule for which sentences count and when to stop than is usual.

    The same words as `generate(num_beams=...)` of a random GPT-2. Its `early_stopping=True` is ours: a search stops
    with as many ended sentences as beams. That ours also stops where no beam can win changes no words. Lengths
    coincide because both count the end and not the start. Start tokens are banned in both: transformers counts them
    among the runs that may not repeat, and we do not.
    """
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    vocabulary, longest, banned = 17, 9, (12, 13, 14, 15, 16)
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.8,
        bos_token_id=12, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    model.lm_head = nn.Linear(16, vocabulary)
    with torch.no_grad():  # so that sentences end here and there
        model.lm_head.weight.normal_(std=0.8)
        model.lm_head.bias[END] += 1.5
    kept: list[Tensor] = []

    def step(ids: Tensor, rows: Tensor | None) -> Tensor:
        before = kept.pop() if kept else ids[:, :0]
        kept.append(torch.cat([before if rows is None else before[rows], ids], dim=1))
        return model(kept[0]).logits[:, -1]

    starts = torch.tensor(banned)
    expected = model.generate(
        starts[:, None], attention_mask=torch.ones(5, 1, dtype=torch.long), num_beams=beams, do_sample=False,
        early_stopping=beams > 1, length_penalty=penalty, max_new_tokens=longest, min_new_tokens=min_words,
        no_repeat_ngram_size=no_repeat, bad_words_ids=[[word] for word in banned],
    )  # fmt: skip
    settings = replace(BEAM, beams=beams, length_penalty=penalty, no_repeat_ngram=no_repeat, min_words=min_words)
    got = decode(step, starts, END, settings, longest + 1, banned)
    assert [sentence(row) for row in got.ids] == [sentence(row[1:]) for row in expected]
    assert len({len(sentence(row)) for row in got.ids}) > 1, "sentences of one length say little"


def slow_beams(toy: Toy, start: int, config: DecodingConfig, longest: int) -> list[int]:
    """The rule of `decode` for one sentence, with lists, and without any early stop but the count."""
    open_beams, ended = [(0.0, [])], []
    for length in range(1, longest + 1):
        candidates = sorted(
            (
                (toy.log_probability(start, [*words, word]), [*words, word])
                for _, words in open_beams
                for word in range(toy.vocabulary)
            ),
            reverse=True,
        )
        top = candidates[: config.beams]
        ended += [one for one in top if one[1][-1] == END or length == longest]
        if len(ended) >= config.beams:
            break
        open_beams = [one for one in candidates if one[1][-1] != END][: config.beams]
    return max(ended, key=lambda one: one[0] / len(one[1]) ** config.length_penalty)[1]


@pytest.mark.parametrize("penalty", [-1.0, 0.6, 1.5])
def test_narrow_beams_equal_a_slow_search(penalty: float) -> None:
    """Guards against beams that take another's words, and a stop that changes the result."""
    for seed in range(8):
        toy = Toy(6, 7, seed, sharpness=1.5)
        config = replace(BEAM, beams=3, length_penalty=penalty)
        got = toy.write(config, 7, starts=3)
        assert [sentence(row) for row in got.ids] == [slow_beams(toy, toy.start(row), config, 6) for row in range(3)], (
            seed
        )


@pytest.mark.parametrize("name", sorted(RULES))
def test_one_beam_is_greedy(name: str) -> None:
    """Guards against a beam that goes on after its best word was the end."""
    for seed in range(10):
        toy = Toy(7, 8, seed)
        greedy, beam = (
            toy.write(replace(RULES[name], method=method, beams=1, length_penalty=0.3), 8, 4, (5,))
            for method in ("greedy", "beam")
        )
        assert torch.equal(greedy.ids, beam.ids) and torch.equal(greedy.is_finished, beam.is_finished)
        torch.testing.assert_close(greedy.log_probability, beam.log_probability)


@pytest.mark.parametrize("config", [GREEDY, BEAM, replace(BEAM, beams=2, length_penalty=0.0)])
def test_a_sentence_does_not_know_its_neighbours(config: DecodingConfig) -> None:
    """Guards against rows that stop, or go on, because of others: in a batch and alone the same words and score."""
    toy = Toy(7, 9, seed=4)
    together = toy.write(config, 9, starts=8)
    assert len({len(sentence(row)) for row in together.ids}) > 2, "sentences end at different places"
    for number in range(8):
        alone = decode(toy.step(), torch.tensor([toy.start(number)]), END, config, 9)
        assert sentence(alone.ids[0]) == sentence(together.ids[number])
        assert alone.ids.shape[1] == len(sentence(alone.ids[0]))
        torch.testing.assert_close(alone.log_probability[0], together.log_probability[number])
        assert alone.is_finished[0] == together.is_finished[number]


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_the_score_is_the_models_own(method: str) -> None:
    """Guards against a score by temperature, nucleus, ban or penalty, and one that forgets the end."""
    toy = Toy(7, 9, seed=2)
    config = DecodingConfig(method=method, temperature=0.5, top_p=0.6, length_penalty=2.0, no_repeat_ngram=1)
    torch.manual_seed(0)
    got = toy.write(config, 9, starts=8, banned=(2,))
    assert got.ids.dtype == torch.int64 and got.log_probability.dtype == torch.float32
    for row in range(8):
        words = sentence(got.ids[row])
        expected = toy.log_probability(toy.start(row), words) / len(words)
        assert got.log_probability[row].item() == pytest.approx(expected, abs=1e-5)
        assert (got.ids[row, len(words) :] == END).all()


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_rules_hold(method: str) -> None:
    """Guards against padding and start tokens in a caption, wrong lengths, and "a red red red"."""
    toy = Toy(8, 12, seed=1)
    banned = (1, 6)
    torch.manual_seed(0)
    lengths = []
    for bias in (-6.0, 0.0, 6.0):
        toy.end_bias = bias
        config = DecodingConfig(method=method, min_words=3, max_words=7, no_repeat_ngram=2)
        got = toy.write(config, 12, starts=8, banned=banned)
        assert got.is_finished.all()
        for row in got.ids:
            words = sentence(row)[:-1]
            assert not set(words) & set(banned) and not repeats(words, 2)
            lengths.append(len(words))
    assert min(lengths) == 3 and max(lengths) == 7
    toy.end_bias = -50.0
    free = toy.write(DecodingConfig(method=method), 12, starts=8, banned=banned)
    assert any(repeats(sentence(row), 2) for row in free.ids), "without the rule, runs are repeated"
    assert not free.is_finished.any() and free.ids.shape == (8, 11), "the longest text cuts"


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_a_sentence_ends_where_no_word_is_left(method: str) -> None:
    """Guards against a banned word that is written because all are: three words, none twice, at least six."""
    config = DecodingConfig(method=method, no_repeat_ngram=1, min_words=6)
    got = Toy(4, 10).write(config, 10, starts=3)
    assert [sorted(sentence(row)) for row in got.ids] == [[END, 1, 2, 3]] * 3


def test_a_nucleus_is_drawn_by_its_probabilities() -> None:
    """Guards against a nucleus without the word that crosses `top_p`, and a temperature that multiplies."""
    probability = torch.tensor([0.05, 0.5, 0.2, 0.15, 0.1])
    draws = 20_000

    def shares(top_p: float, temperature: float = 1.0, banned: tuple[int, ...] = ()) -> list[float]:
        torch.manual_seed(0)
        config = replace(NUCLEUS, top_p=top_p, temperature=temperature)
        written = decode(
            lambda ids, rows: probability.log().expand(len(ids), -1), torch.ones(draws).long(), END, config, 2, banned
        )
        return (written.ids[:, 0].bincount(minlength=5) / draws).tolist()

    near = {"abs": 4 * math.sqrt(0.25 / draws)}
    assert shares(1.0) == pytest.approx(probability.tolist(), **near)
    assert shares(0.6) == pytest.approx([0, 0.5 / 0.7, 0.2 / 0.7, 0, 0], **near)
    assert shares(0.72) == pytest.approx([0, 0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85, 0], **near)
    assert shares(0.01) == [0, 1, 0, 0, 0]
    squared = probability**2 / (probability**2).sum()
    assert shares(1.0, temperature=0.5) == pytest.approx(squared.tolist(), **near)
    assert shares(0.6, banned=(1,)) == pytest.approx([0, 0, 0.2 / 0.35, 0.15 / 0.35, 0], **near)


def test_a_seeded_draw_repeats_itself() -> None:
    """Guards against a generator of its own, and one that is not asked at all."""
    toy, written = Toy(9, 8, sharpness=0.5), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        written.append(toy.write(NUCLEUS, 8, starts=8).ids)
    assert torch.equal(written[0], written[1]) and not torch.equal(written[0], written[2])


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_the_model_is_asked_no_more_than_needed(method: str) -> None:
    """Guards against a search that goes on when it is decided; the first call has a row a sentence, no gradient."""
    toy, calls = Toy(6, 30), []
    toy.end_bias = 50.0
    inner = toy.step()

    def counted(ids: Tensor, rows: Tensor | None) -> Tensor:
        calls.append(len(ids))
        assert not torch.is_grad_enabled()
        return inner(ids, rows)

    config = DecodingConfig(method=method, beams=4, min_words=2)
    got = decode(counted, torch.tensor([6, 7]), END, config, 30)
    assert got.ids.shape == (2, 3) and len(calls) == 3 and calls[0] == 2


@pytest.mark.parametrize(
    ("penalty", "first", "length", "calls"),
    [
        # -0.105 for the end at once; what is open has log 0.06 = -2.8, and over 6^2 that is -0.08, over 2^2 it is -0.7.
        (2.0, [0.9, 0.06, 0.04], 6, 6),
        # A long sentence is punished: -1.39 for the end at once, 2 * -0.39 for the next, and 6 * -0.36 is worse.
        (-1.0, [0.25, 0.7, 0.05], 2, 2),
        # Without a penalty, what has fallen behind cannot win.
        (0.0, [0.9, 0.06, 0.04], 1, 1),
    ],
)
def test_a_search_stops_when_and_only_when_no_beam_can_win(
    penalty: float, first: list[float], length: int, calls: int
) -> None:
    """Guards against a bound by the wrong length, which ends a search before its winner, or long after.

    Words follow by a table: the end comes likely at the first place, and then at the second or the sixth.
    """
    asked: list[int] = []

    def step(ids: Tensor, rows: Tensor | None) -> Tensor:
        asked.append(len(ids))
        later = [0.98, 0.01, 0.01] if len(asked) == max(length, 2) else [0.01, 0.98, 0.01]
        return torch.tensor(first if len(asked) == 1 else later).log().expand(len(ids), -1)

    config = replace(BEAM, beams=2, length_penalty=penalty)
    got = decode(step, torch.tensor([1]), END, config, 7)
    assert got.ids.tolist() == [[1] * (length - 1) + [END]] and got.is_finished.all()
    assert len(asked) == calls


def test_nothing_to_write() -> None:
    """Guards against an empty batch that raises."""
    for config in (GREEDY, BEAM, NUCLEUS):
        got = Toy(5, 4).write(config, 4, starts=0)
        assert got.ids.shape[0] == 0 and got.log_probability.shape == got.is_finished.shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": 0.0}, {"min_words": -1}, {"min_words": 9},
        {"max_words": -1}, {"no_repeat_ngram": -1}, {"min_words": 4, "max_words": 3},
    ],
)  # fmt: skip
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    """Guards against a setting that silently does nothing, or fails within torch."""
    with pytest.raises(InputError, match="|".join(f"decoding.{name}" for name in wrong)):
        check_decoding(replace(GREEDY, **wrong), 10)
    check_decoding(replace(GREEDY, min_words=8, max_words=8, top_p=1.0), 10)
