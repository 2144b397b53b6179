"""sentencepiece tokenizers of packaged networks, without the package sentencepiece."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers


def unigram_tokenizer(
    pieces: Sequence[str], scores: Sequence[float], unknown: int, special: Sequence[str]
) -> Tokenizer:
    """Return a subword tokenizer (unigram model, Kudo 2018) with sentencepiece's normalisation nmt_nfkc.

    Args:
        pieces: subword tokens by id; "▁" is a space.
        scores: logarithms of their probabilities.
        unknown: id of the unknown token.
        special: tokens that never result from a text.
    """
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unknown))
    tokenizer.add_special_tokens(list(special))
    # sentencepiece's normalisation of characters, in terms of the tokenizers library.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"[\x00-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"), ""),
            normalizers.Replace(Regex(r"[\s\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer
