"""Caption scores against the COCO caption evaluation, on made-up and real captions, and tokens against Stanford's."""

import json
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.metrics.captions import (
    bleu,
    bleu_of_sums,
    bleu_statistics,
    caption_scores,
    caption_statistics,
    cider_d,
    ptb_tokens,
    rouge_l,
)

Corpus = tuple[list[list[str]], list[list[list[str]]]]


def _made_up(seed: int, pictures: int = 120) -> Corpus:
    """Captions of 0 to 15 words, some copied from a reference, with one to six references."""
    rng = random.Random(seed)
    words = [f"w{number}" for number in range(30)]

    def caption() -> list[str]:
        return [rng.choice(words[: rng.choice([3, 30])]) for _ in range(rng.randint(0, 15))]

    references = [[caption() for _ in range(rng.randint(1, 6))] for _ in range(pictures)]
    return [list(rng.choice(texts)) if rng.random() < 0.3 else caption() for texts in references], references


def _flickr8k(real_data: Path, field: str) -> tuple[list[str], list[list[str]]]:
    """Each picture's first caption as the candidate, and its other four as references."""
    file = real_data / "flickr8k" / "val" / "data.jsonl"
    if not file.exists():
        pytest.skip("the real data set flickr8k is not here (CHIASM_DATA)")
    rows = [json.loads(line)[field] for line in file.read_text(encoding="utf-8").splitlines()]
    return [texts[0] for texts in rows], [texts[1:] for texts in rows]


def _assert_parity(candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> None:
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    truth = {row: [" ".join(text) for text in texts] for row, texts in enumerate(references)}
    given = {row: [" ".join(text)] for row, text in enumerate(candidates)}
    corpus, by_picture = Bleu(4).compute_score(truth, given, verbose=0)
    np.testing.assert_allclose(bleu(candidates, references), corpus, rtol=0, atol=1e-9)
    np.testing.assert_allclose(bleu_of_sums(bleu_statistics(candidates, references)).T, by_picture, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rouge_l(candidates, references), Rouge().compute_score(truth, given)[1], atol=1e-9)
    np.testing.assert_allclose(cider_d(candidates, references), Cider().compute_score(truth, given)[1], atol=1e-9)


@pytest.mark.parity_extra
@pytest.mark.parametrize("seed", range(5))
def test_parity_on_made_up_captions(seed: int) -> None:
    """Empty, one-word and copied captions: guards constants, clipping, closest length, tf-idf, and length penalty."""
    _assert_parity(*_made_up(seed))


@pytest.mark.parity_extra
def test_parity_on_one_picture_and_on_short_captions() -> None:
    """A corpus of one has no rare n-gram; one-word captions have no n-gram of higher orders."""
    _assert_parity([["a", "dog"]], [[["a", "dog"], ["a", "cat", "runs"]]])
    _assert_parity([["a"], [], ["dog", "dog"]], [[["a"]], [["b"], []], [["dog"], ["dog", "a", "b", "c"]]])


@pytest.mark.parity_extra
@pytest.mark.parametrize("field", ["captions", "captions_zh"])
def test_parity_on_real_captions(real_data: Path, field: str) -> None:
    """Flickr8k, English and Chinese, as published numbers are computed."""
    candidates, references = _flickr8k(real_data, field)
    _assert_parity([ptb_tokens(text) for text in candidates], [[ptb_tokens(t) for t in texts] for texts in references])


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        # Printed by Stanford's PTBTokenizer 3.4.1 with the COCO evaluation's options, its punctuation removed.
        ("Two dogs (brown and black) run.", "two dogs -lrb- brown and black -rrb- run"),
        ('"Hello," he said, "it\'s a dog\'s life."', "hello he said it 's a dog 's life"),
        (
            "The man can't, won't and doesn't ski; he'll wanna go.",
            "the man ca n't wo n't and does n't ski he 'll wan na go",
        ),
        ("a T-shirt and a 3-year-old boy -- playing - here", "a t-shirt and a 3-year-old boy playing here"),
        ("U.S. flag at 5 p.m. in St. Louis, vs. Ohio.", "u.s. flag at 5 p.m. in st. louis vs. ohio"),
        ("Mr. Smith's car costs $5.50 or 50% off & more", "mr. smith 's car costs $ 5.50 or 50 % off & more"),
        (
            "rock 'n' roll, y'all! The '90s, o'clock, ma'am, D'Angelo and ol' men's hats",
            "rock 'n' roll y' all the '90s o'clock ma'am d'angelo and ol' men 's hats",
        ),
        (
            "A man ,wearing a hat .Next to a dog. A dog at 10:30am",
            "a man wearing a hat next to a dog a dog at 10:30 am",
        ),
        ("‘curly’ “quotes” it’s the dogs’ –dash— and wait… no....", "curly quotes it 's the dogs dash and wait no"),
        ("dog!!! what?! ok? red/white/blue w/o a/b", "dog !!! what ?! ok red/white/blue w/o a/b"),
        ("#1 and No. 5 but no. It is 1,000 or .5 or 1/2", "# 1 and no. 5 but no it is 1,000 or .5 or 1/2"),
        (
            "I cannot, I'm gonna, gotta, lemme; 'tis more'n that",
            "i can not i 'm gon na got ta lem me 't is more 'n that",
        ),
        (
            "[bracket] {brace} foo_bar a&b AT&T dogs,cats dogs.cats",
            "-lsb- bracket -rsb- -lcb- brace -rcb- foo_bar a & b at&t dogs cats dogs.cats",
        ),
        ("naïve café mid-air 4x4 6ft 1980's 5'10\" tall", "naïve café mid-air 4x4 6ft 1980 's 5 10 tall"),
        ("Dr. Jr. etc. Inc. Wash. wash. J. Smith a b. dog", "dr. jr. etc. inc. wash. wash j. smith a b. dog"),
        (
            ":) see www.example.com or me@example.com #hashtag @user",
            ":-rrb- see www.example.com or me@example.com #hashtag @user",
        ),
        ("the boys' team, the girl's bike and James' dog", "the boys team the girl 's bike and james dog"),
    ],
)
def test_tokens_equal_stanfords(caption: str, tokens: str) -> None:
    """Guards clitics, abbreviations, numbers, joints and the removal of punctuation."""
    assert ptb_tokens(caption) == tokens.split()


@pytest.mark.parity_extra
def test_tokens_equal_stanfords_on_real_captions(real_data: Path, tmp_path: Path) -> None:
    """The program itself, where it can run: guards the rules on what people really write."""
    package = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed")
    if shutil.which("java") is None:
        pytest.skip("java is not installed")
    candidates, references = _flickr8k(real_data, "captions")
    captions = [" ".join(text.split()) for text in candidates + [text for texts in references for text in texts]]
    (tmp_path / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    jar = Path(package.__file__).parent / package.STANFORD_CORENLP_3_4_1_JAR
    options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(tmp_path / "captions.txt")]
    done = subprocess.run(["java", "-cp", str(jar), *options], capture_output=True, check=True)
    lines = done.stdout.decode("utf-8").splitlines()
    assert len(lines) == len(captions) == 5000
    for caption, line in zip(captions, lines, strict=True):
        assert ptb_tokens(caption) == [word for word in line.split() if word not in package.PUNCTUATIONS], caption


def test_chinese_and_japanese_characters_are_tokens() -> None:
    """One token a sentence would make every Chinese score 0; words in Latin letters and numbers stay whole."""
    assert ptb_tokens("两只狗（黑色）在iPhone旁，跑。") == ["两", "只", "狗", "黑", "色", "在", "iphone", "旁", "跑"]
    assert ptb_tokens("犬が3匹、テレビ!") == ["犬", "が", "3", "匹", "テ", "レ", "ビ"]
    assert ptb_tokens("") == ptb_tokens(" ,. ") == []


def test_rouge_equals_a_table_of_the_longest_common_subsequence() -> None:
    """The textbook table in place of bits in an integer: guards carries beyond 64 words."""
    rng = random.Random(3)
    first, second = ([rng.choice("abcd") for _ in range(length)] for length in (150, 90))
    table = np.zeros((151, 91), dtype=int)
    for i, one in enumerate(first):
        for j, two in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == two else max(table[i, j + 1], table[i + 1, j])
    precision, recall = table[-1, -1] / 150, table[-1, -1] / 90
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l([first], [[second]])[0] == pytest.approx(expected)


def test_scores_have_the_usual_names_values_and_honest_intervals() -> None:
    """Guards keys, raw text going through the tokeniser, and intervals of the wrong score or width."""
    candidates, references = _made_up(7, pictures=300)
    texts = [" ".join(words).capitalize() + " ." for words in candidates]
    scores = caption_scores(texts, [[" ".join(words) for words in some] for some in references], seed=2)
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    expected = [
        *bleu(candidates, references),
        rouge_l(candidates, references).mean(),
        cider_d(candidates, references).mean(),
    ]
    assert [score.value for score in scores.values()] == pytest.approx(expected)
    assert all(score.low < score.value < score.high and score.n == 300 for score in scores.values())
    # The same width from a slow bootstrap that counts all n-grams anew.
    rng = random.Random(0)
    slow = []
    for _ in range(60):
        rows = rng.choices(range(300), k=300)
        slow.append(bleu([candidates[row] for row in rows], [references[row] for row in rows])[3])
    width = scores["Bleu_4"].high - scores["Bleu_4"].low
    assert width == pytest.approx(2 * 1.96 * np.std(slow), rel=0.35)


def test_clusters_widen_the_interval() -> None:
    """Every picture four times is no more evidence than once."""
    candidates, references = _made_up(1, pictures=60)
    texts, some = [" ".join(c) for c in candidates] * 4, [[" ".join(t) for t in r] for r in references] * 4
    apart = caption_scores(texts, some)
    together = caption_scores(texts, some, clusters=np.tile(np.arange(60), 4))
    for name in ("Bleu_4", "CIDEr", "ROUGE_L"):
        ratio = (together[name].high - together[name].low) / (apart[name].high - apart[name].low)
        assert ratio == pytest.approx(2, rel=0.25)


def test_perfect_and_empty_candidates() -> None:
    """The ends of the scales; an empty caption is no division by zero."""
    references = [[f"a dog number {row} runs over grass"] for row in range(20)]
    perfect = caption_scores([texts[0] for texts in references], references)
    assert [score.value for score in perfect.values()] == pytest.approx([1, 1, 1, 1, 1, 10], abs=1e-6)
    empty = caption_scores([""] * 20, references)
    assert [score.value for score in empty.values()] == pytest.approx([0] * 6, abs=1e-9)


def test_a_thousand_pictures_are_quick() -> None:
    """Five references each and 1000 resamples: guards against counting n-grams in every resample."""
    rng = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    texts = [[" ".join(rng.choices(words, k=12)) for _ in range(6)] for _ in range(1000)]
    start = time.process_time()
    caption_scores([some[0] for some in texts], [some[1:] for some in texts])
    assert time.process_time() - start < 15


@pytest.mark.parametrize(
    ("candidates", "references"), [([], []), (["a"], []), (["a"], ["a dog"]), (["a"], [[]]), (["a", "b"], [["a"]])]
)
def test_wrong_input_is_refused(candidates: list[str], references: list[list[str]]) -> None:
    """A bare text as references would be scored letter by letter."""
    with pytest.raises(InputError):
        caption_scores(candidates, references)


def test_statistics_hold_all_three_scores() -> None:
    """What paired comparisons read is what the scores are made of."""
    candidates, references = _made_up(4)
    statistics = caption_statistics(candidates, references)
    assert statistics.bleu.shape == (120, 10)
    np.testing.assert_array_equal(statistics.cider, cider_d(candidates, references))
    np.testing.assert_array_equal(statistics.rouge_l, rouge_l(candidates, references))
