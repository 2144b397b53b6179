"""Caption scores as the field reports them: BLEU, ROUGE-L and CIDEr-D of Penn Treebank tokens, without Java.

Numbers equal those of the COCO caption evaluation (Chen et al. 2015, arXiv:1504.00325), whose exact constants and
tokens count: one token more or less in every caption moves CIDEr by several points.

Axis legend: n images, g = 4 n-gram orders, s = 10 numbers that BLEU sums, r resamples.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chiasm.core.errors import InputError
from chiasm.core.types import Score
from chiasm.metrics.intervals import bootstrap_mean
from chiasm.metrics.paired import corpus_interval

FloatArray = npt.NDArray[np.float64]
Tokens = Sequence[str]

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9
"""The evaluation adds these to numerator and denominator, so that an empty caption scores about 0 and not NaN."""
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0

_PUNCTUATION = frozenset(
    ("''", "'", "``", "`", '"', "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""What the COCO evaluation drops after tokenising. Its brackets are upper case and its tokens lower case, so that
bracket tokens stay in, there and here."""

_ALWAYS_ABBREVIATED = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf cie cmdr co "
    "col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov "
    "govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle "
    "mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte "
    "ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs "
    "tue tues univ va vs vt wed wis wisc wm wyo"
)
_ABBREVIATED_AS_NAMES = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH"
_ABBREVIATED_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"

_STARTS = (
    "(?:The|A|An|In|It|He|She|This|That|There|These|We|They|You|Her|Their|Our|But|So|If|When|While|As|At|What|One|Some|"
    "Many|After|Then|Now|Here)"
)
"""A capital letter with a full stop before one of these ends a sentence."""

_HAN_KANA = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"(?:(?![{_HAN_KANA}\U00020000-\U0003ffff])[^\W\d_])"
_UNIT = rf"(?:{_LETTER}|\d)+"
_HYPHENED = rf"{_UNIT}(?:-{_UNIT})*"
_ENDS = rf"(?!{_LETTER})"


def _any_of(words: str) -> str:
    return "(?:" + "|".join(words.split()) + ")"


_TOKEN = re.compile(
    "|".join(
        (
            r"</?[A-Za-z][A-Za-z0-9]*\s*/?>",
            r"https?://[^\s\"<>|()]*[^\s\"<>|().,;:!?'-]",
            rf"(?:{_LETTER}|\d)[\w.-]*@[\w-]+(?:\.[\w-]+)*",
            r"[@#][A-Za-z_]\w*",
            r">?[:;=]['-]?[()DP\]\[|p](?!\w)|:[d3@O\\{](?!\w)|\^_\^|-_-",
            # First parts of words that are two: can|not, gon|na, wan|na, lem|me, gim|me, 't|is, 't|was, more|'n.
            r"(?i:\bcan(?=not\b)|\bgon(?=na\b)|\bgot(?=ta\b)|\bwan(?=na\b)|\blem(?=me\b)|\bgim(?=me\b))",
            rf"(?i:'t(?=(?:is|was){_ENDS})|\bmore(?='n{_ENDS}))",
            # Words before n't, then the clitics themselves.
            rf"{_LETTER}+?(?=[nN]['`][tT]{_ENDS})|[nN]['`][tT]{_ENDS}",
            rf"(?i:'(?:[msd]|re|ve|ll){_ENDS})",
            # Words that own their apostrophe: o'clock, D'Angelo, ma'am, ol', '80s, rock 'n' roll.
            rf"(?i:ol'|somethin'|dunkin'|'em{_ENDS}|'till?{_ENDS}|'cause{_ENDS}|c'mon|s'mores|nor'easter|cap'n|"
            rf"li'l{_ENDS}|ev'ry|e'er|nat'l)|'n(?:'|{_ENDS})|'[2-9]0s\b|'\d\d(?![\d\"])",
            rf"(?<!\w)[A-HJ-XZdlno]'(?!(?:ll|ve|re){_ENDS}){_LETTER}{{2,}}|{_LETTER}*[aeiouAEIOU]'"
            rf"(?!(?i:[msd]|ll|ve|re){_ENDS})[aeiouA-Z]{_LETTER}*|(?<!\w)[djlDJL]'|\b[yYjJ]'(?={_LETTER}{{2}})",
            # Abbreviations keep their full stop.
            rf"(?<!{_LETTER}){_LETTER}(?:\.{_LETTER})+\.(?!\w)|\b[Pp]h\.?[Dd]\.|\b(?i:{_any_of(_ALWAYS_ABBREVIATED)})\.(?!\w)",
            rf"\b{_any_of(_ABBREVIATED_AS_NAMES)}\.(?!\w)|\b(?i:{_any_of(_ABBREVIATED_BEFORE_NUMBERS)})\.(?=\s?\d)",
            rf"(?<![\w'.-]){_LETTER}\.(?!\w|\s+{_STARTS}\s)",
            rf"{_HYPHENED}\.(?=[,;:])",
            r"[A-Z]+(?:&[A-Z]+)+(?!\w)",
            # Dates, fractions and telephone numbers; then words with joints; then numbers with their marks.
            r"\d+(?:[/-]\d+)+(?![\w/-])|(?:US|C|A|HK|NZ)\$",
            rf"{_HYPHENED}(?:/{_HYPHENED}){{1,2}}|{_LETTER}(?:{_LETTER}|\d)*(?:\.{_LETTER}+)+(?:-{_UNIT})*",
            rf"[-+]?\d*(?:[.,:]\d+)+(?=\D|$)|[-+]\d+(?!{_LETTER})|{_UNIT}(?:[-_]{_UNIT})*",
            rf"[{_HAN_KANA}\U00020000-\U0003ffff]",
            r"\.{3,}|[!?]{2,}|\*{2,}|-{2,4}(?!-)|-{5,}|_+|''|``|[^\s\w\ufe00-\ufe0f\U00010000-\U0010ffff]",
        )
    )
)
_WRITTEN_OUT = str.maketrans(
    {"’": "'", "‘": "`", "“": '"', "”": '"', "«": '"', "»": '"', "…": "...", "–": "--", "—": "--", "‹": "`", "›": "'"}
    | dict.fromkeys("。，、！？；：（）「」『』《》〈〉【】・～\u200b\u200d\ufe0f", " ")
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_SPELT = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELT |= {"€": "$", "£": "#", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4"}


def ptb_tokens(text: str) -> list[str]:
    """Split a caption into lower-case Penn Treebank tokens without punctuation, as the COCO evaluation does.

    That evaluation runs Stanford's PTBTokenizer 3.4.1 (`-preserveLines -lowerCase`) and drops a list of punctuation
    tokens. These rules are written from that program's observed behaviour on captions; they differ from it in rare
    smileys, tags with attributes and numbers with letters (`7p.m.`). On purpose, Han characters and kana are one
    token each, so that n-grams mean something in Chinese and Japanese, and their punctuation is dropped; Stanford
    would keep a whole unspaced sentence as one token.
    """
    plain = text
    for name, character in _ENTITIES.items():
        plain = plain.replace(name, character)
    found = _TOKEN.findall(plain.translate(_WRITTEN_OUT))
    spelt = (_SPELT.get(token, token.lower().replace("(", "-lrb-").replace(")", "-rrb-")) for token in found)
    return [token for token in spelt if token not in _PUNCTUATION and not _is_run_of_marks(token)]


def _is_run_of_marks(token: str) -> bool:
    """Stanford writes any long run of full stops as `...` and of two to four hyphens as `--`: both are dropped."""
    return set(token) == {"."} or (set(token) == {"-"} and len(token) <= 4)


@dataclass(frozen=True)
class CaptionStatistics:
    """What each image brings to the corpus scores, in the order of the images.

    Two runs on the same images are compared by `paired.paired_difference(first.cider, second.cider)` for CIDEr and
    ROUGE-L, and for BLEU-4, which is no mean over images, by `paired.paired_corpus_difference(first.bleu,
    second.bleu, lambda sums: bleu_of_sums(sums)[..., 3])`.

    Args:
        bleu: float64 [n, s]; see `bleu_statistics`.
        rouge_l: float64 [n] in [0, 1].
        cider: float64 [n] in [0, 10].
    """

    bleu: FloatArray
    rouge_l: FloatArray
    cider: FloatArray


def caption_scores(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    clusters: npt.ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Score]:
    """Score one caption for each image against what people wrote, with 95 % bootstrap intervals over images.

    CIDEr's document frequencies come from these references and stay fixed in the resamples, so its scores compare
    only between models on the same images.

    Args:
        candidates: n captions, raw text.
        references: for each image at least one caption, raw text.
        clusters: int [n], equal where captions belong together; None draws images one by one.
        seed: decides the resamples.

    Returns:
        `Bleu_1` to `Bleu_4` and `ROUGE_L` in [0, 1], `CIDEr` in [0, 10]. Papers print all of them times 100.

    Raises:
        InputError: no images, unequal lengths, a bare text as references, or an image without a reference.
    """
    _check(candidates, references)
    statistics = caption_statistics(
        [ptb_tokens(text) for text in candidates], [[ptb_tokens(text) for text in texts] for texts in references]
    )
    values = bleu_of_sums(statistics.bleu.sum(0))
    lows, highs = corpus_interval(statistics.bleu, bleu_of_sums, clusters, seed)
    scores = {
        f"Bleu_{order + 1}": Score(float(values[order]), float(lows[order]), float(highs[order]), len(candidates))
        for order in range(ORDERS)
    }
    scores["ROUGE_L"] = bootstrap_mean(statistics.rouge_l, clusters, seed)
    scores["CIDEr"] = bootstrap_mean(statistics.cider, clusters, seed)
    return scores


def caption_statistics(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> CaptionStatistics:
    """Measure every image once; `candidates` holds one token list an image, `references` one or more."""
    return CaptionStatistics(
        bleu_statistics(candidates, references), rouge_l(candidates, references), cider_d(candidates, references)
    )


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> FloatArray:
    """BLEU-1 to BLEU-4 of a corpus of tokens (Papineni et al. 2002, equations 1 to 3): float64 [g] in [0, 1]."""
    return bleu_of_sums(bleu_statistics(candidates, references).sum(0))


def bleu_statistics(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> FloatArray:
    """Count for each image what BLEU sums over the corpus: float64 [n, s].

    The columns are the clipped matches of orders 1 to 4, the n-grams offered of orders 1 to 4, the candidate's
    length, and the length of the reference that is closest to it (the shorter of two equally close ones).
    """
    _check(candidates, references)
    rows = np.zeros((len(candidates), 2 * ORDERS + 2))
    for row, candidate, texts in zip(rows, candidates, references, strict=True):
        allowed: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            allowed |= _ngrams(text)
        for ngram, count in (_ngrams(candidate) & allowed).items():
            row[len(ngram) - 1] += count
        length = len(candidate)
        row[ORDERS : 2 * ORDERS] = [max(0, length - order) for order in range(ORDERS)]
        row[-2:] = length, min((abs(len(text) - length), len(text)) for text in texts)[1]
    return rows


def bleu_of_sums(sums: FloatArray) -> FloatArray:
    """Turn summed `bleu_statistics` [..., s] into BLEU-1 to BLEU-4 [..., g]."""
    matches, offered, lengths = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS], sums[..., 2 * ORDERS :]
    precisions = (matches + _TINY) / (offered + _SMALL)
    means = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (lengths[..., :1] + _TINY) / (lengths[..., 1:] + _SMALL)
    return means * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> FloatArray:
    """ROUGE-L of each image (Lin 2004, equations 2 to 4, beta 1.2): float64 [n] in [0, 1].

    As in the COCO evaluation, the best precision and the best recall may come from two references.
    """
    _check(candidates, references)
    scores = np.zeros(len(candidates))
    for row, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
        # An empty text is one empty token there.
        tokens = list(candidate) or [""]
        common = [(_common_length(tokens, list(text) or [""]), max(1, len(text))) for text in texts]
        precision = max(length for length, _ in common) / len(tokens)
        recall = max(length / total for length, total in common)
        if precision > 0:
            scores[row] = (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)
    return scores


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> FloatArray:
    """CIDEr-D of each image (Vedantam et al. 2015, section 3 and appendix; sigma 6): float64 [n] in [0, 10].

    The document frequency of an n-gram is the number of images whose references have it. With one image every
    n-gram is everywhere, all weights are 0, and so is the score.
    """
    _check(candidates, references)
    counted = [[_ngrams(text) for text in texts] for texts in references]
    documents = Counter(ngram for texts in counted for ngram in set().union(*texts))
    log_images = float(np.log(len(candidates)))
    rarity = {ngram: log_images - float(np.log(count)) for ngram, count in documents.items()}
    scores = np.zeros(len(candidates))
    for row, (candidate, texts) in enumerate(zip(candidates, counted, strict=True)):
        weighed = _weigh(_ngrams(candidate), rarity, log_images)
        similarity = sum(_cider_similarity(weighed, _weigh(text, rarity, log_images)) for text in texts)
        scores[row] = 10 * similarity / len(texts)
    return scores


@dataclass(frozen=True)
class _Weighed:
    """TF-IDF weights of a caption's n-grams, their length in each order, and the caption's number of words."""

    weights: dict[tuple[str, ...], float]
    norms: FloatArray
    words: int


def _weigh(counts: Counter[tuple[str, ...]], rarity: dict[tuple[str, ...], float], unseen: float) -> _Weighed:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = np.zeros(ORDERS)
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return _Weighed(weights, np.sqrt(squares), sum(count for ngram, count in counts.items() if len(ngram) == 1))


def _cider_similarity(candidate: _Weighed, reference: _Weighed) -> float:
    """Clipped cosine of two captions, mean over the orders, times the penalty on their difference in length."""
    products = np.zeros(ORDERS)
    for ngram, weight in candidate.weights.items():
        other = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, other) * other
    norms = candidate.norms * reference.norms
    cosines = np.divide(products, norms, out=np.zeros(ORDERS), where=norms > 0)
    difference = candidate.words - reference.words
    return float(cosines.mean() * np.exp(-(difference**2) / (2 * _CIDER_SIGMA**2)))


def _ngrams(tokens: Tokens) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a row of the table in one integer (Hyyro 2004, AWOCA, figure 2)."""
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(first) - row.bit_count()


def _check(candidates: Sequence[object], references: Sequence[Sequence[object]]) -> None:
    if len(candidates) != len(references) or not candidates:
        raise InputError(
            f"{len(candidates)} candidates, {len(references)} lists of references",
            "one candidate and one list of references for each image, and at least one image",
            "leave out the images that have no caption",
        )
    for row, texts in enumerate(references):
        if isinstance(texts, str) or len(texts) == 0:
            raise InputError(
                f"references of image {row}: {texts!r}", "a list of at least one caption", "pass Example.captions"
            )
