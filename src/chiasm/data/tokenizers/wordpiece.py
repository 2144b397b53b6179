"""Words to token ids and back, for texts in any script.

The tokenizer learned from the user's own texts is WordPiece over lower-cased words, with each Chinese character a
word of its own (as in BERT, Devlin et al. 2019), so that English and Chinese share one vocabulary and hardly a text
is unknown: words that are too rare for the vocabulary fall apart into characters.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from chiasm.core.types import TextTokens

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]"
_CJK = r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, or a stray byte of a command line: no text, and left out; `tokenizers` would raise."""
_CJK_GAP = re.compile(rf"(?<={_CJK})\s+|\s+(?={_CJK})")


def language_token(language: str) -> str:
    """Return the token that starts a caption in a language: "zh" -> "[zh]"."""
    return f"[{language}]"


def _readable(text: str) -> str:
    return _HALF_CHARACTER.sub("\ufffd", text)


def _pieces(words: Counter[str], room: int) -> list[str]:
    """The pieces a vocabulary gets: every character, alone and within a word, then the most frequent words.

    Ties go by the alphabet, so that one text always gives one vocabulary; the trainer of `tokenizers` breaks them
    differently from process to process, which would change every weight of a run. Characters, the most frequent
    first, may take half of the room.
    """
    starts: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for word, count in words.items():
        starts[word[0]] += count
        for character in word[1:]:
            inner[f"##{character}"] += count
    starts.update({piece[2:]: 0 for piece in inner})

    def frequent(counts: Counter[str]) -> list[str]:
        return sorted(counts, key=lambda piece: (-counts[piece], piece))

    characters = frequent(Counter({**starts, **inner}))[: room // 2]
    chosen = set(characters)
    whole = [word for word in frequent(words) if word not in chosen][: room - len(chosen)]
    return sorted(chosen) + whole


class TextTokenizer:
    """Texts -> padded ids with start and end tokens, and back.

    Special tokens are never made from a user's text: "[EOS]" typed by a person is five ordinary characters.

    Args:
        tokenizer: the trained `tokenizers.Tokenizer`.
        max_tokens: longest text, start and end included; what is longer is cut, and counted in `num_truncated`.
        wrap: names of the tokens put before and after each text.
        pad: name of the padding token.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, wrap: tuple[str, str] = (START, END), pad: str = PAD
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self.tokenizer, self.max_tokens, self.wrap, self.pad = tokenizer, max_tokens, wrap, pad
        self.start_id, self.end_id, self.pad_id = (self._id(name) for name in (*wrap, pad))
        self._before_ids, self._after_ids = [self.start_id], [self.end_id]
        self.num_truncated = 0
        self._seen: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary: int, max_tokens: int, languages: Sequence[str] = ()
    ) -> "TextTokenizer":
        """Learn a vocabulary of at most `vocabulary` tokens; `languages` get a start token each."""
        normalizer = normalizers.BertNormalizer(strip_accents=False)
        splitter = pre_tokenizers.BertPreTokenizer()
        words: Counter[str] = Counter()
        for text in texts:
            words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(_readable(text))))
        special = [PAD, UNKNOWN, START, END, MASK, *(language_token(one) for one in dict.fromkeys(languages))]
        pieces = _pieces(words, vocabulary - len(special))
        ids = {piece: number for number, piece in enumerate([*special, *pieces])}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(special)
        return cls(tokenizer, max_tokens)

    @classmethod
    def from_json(cls, text: str, max_tokens: int, wrap: tuple[str, str] = (START, END)) -> "TextTokenizer":
        """Rebuild from `to_json`."""
        return cls(Tokenizer.from_str(text), max_tokens, wrap)

    def to_json(self) -> str:
        """Everything that decides the ids, as JSON."""
        return str(self.tokenizer.to_str())

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def mask_id(self) -> int:
        """Id that stands for a hidden word."""
        return self._id(MASK)

    @property
    def special_ids(self) -> list[int]:
        """Ids of the tokens that are no words: padding, start, end, mask, languages, unknown."""
        return sorted(number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)

    @property
    def suppressed_ids(self) -> list[int]:
        """Ids that no generated text may hold: every special token but the end."""
        return [number for number in self.special_ids if number != self.end_id]

    def start_of(self, language: str) -> int:
        """Id that starts a caption in `language`; the plain start token where the language has none of its own."""
        found = self.tokenizer.token_to_id(language_token(language)) if language else None
        return self.start_id if found is None else int(found)

    @property
    def room(self) -> int:
        """Longest text in tokens, the special tokens around it aside."""
        return self.max_tokens - len(self._before_ids) - len(self._after_ids)

    def pieces(self, text: str) -> list[int]:
        """Token ids of the words of one text, all of them."""
        return list(self.tokenizer.encode(_readable(text), add_special_tokens=False).ids)

    def ids(self, text: str) -> list[int]:
        """Token ids of one text between start and end token; remembered, because questions repeat."""
        known = self._seen.get(text)
        if known is not None:
            return known
        inner = self.pieces(text)
        if len(inner) > self.room:
            self.num_truncated += 1
            inner = inner[: self.room]
        found = [*self._before_ids, *inner, *self._after_ids]
        if len(self._seen) < 100_000:
            self._seen[text] = found
        return found

    def remarks(self, text: str) -> list[str]:
        """What of a text is not read, in sentences: its end, where it is too long, and words that are not known."""
        inner, found = self.pieces(text), []
        if len(inner) > self.room:
            found.append(f"{len(inner)} tokens, of which the model reads the first {self.room}")
        unknown = sum(one == self.unknown_id for one in inner)
        if unknown:
            found.append(f"{unknown} of {len(inner)} tokens are unknown to the model")
        return found

    @property
    def unknown_id(self) -> int | None:
        """Id of what is in no vocabulary; None where every text can be spelled."""
        name = getattr(self.tokenizer.model, "unk_token", None)
        return self.tokenizer.token_to_id(name) if isinstance(name, str) else None

    def padded_length(self, length: int) -> int:
        """Tokens of a text of `length` tokens in a batch without longer ones."""
        return length

    def batch(self, texts: Sequence[str]) -> TextTokens:
        """Pad to the longest text given: ids int64 [m, l], is_real bool [m, l]."""
        rows = [self.ids(text) for text in texts]
        width = max(map(len, rows), default=1)
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows])
        return TextTokens(ids.view(len(rows), width), torch.arange(width) < lengths[:, None])

    def standalone(self) -> Tokenizer:
        """A copy that gives the ids of `batch` without chiasm: special tokens, truncation and padding are its own.

        `encode_special_tokens` is no part of what such a tokenizer stores; who opens it sets it to True, lest a user's
        "[EOS]" becomes a special token.
        """
        before, after = (
            [str(self.tokenizer.id_to_token(one)) for one in some] for some in (self._before_ids, self._after_ids)
        )
        known = [(name, self._id(name)) for name in sorted({*before, *after})]
        made = Tokenizer.from_str(self.tokenizer.to_str())
        made.post_processor = processors.TemplateProcessing(single=[*before, "$A", *after], special_tokens=known)
        made.enable_truncation(self.max_tokens)
        made.enable_padding(pad_id=self.pad_id, pad_token=self.pad, length=self.padded_tokens)
        made.encode_special_tokens = True
        return made

    @property
    def padded_tokens(self) -> int | None:
        """Length to which every text is padded; None where a batch is padded to its longest."""
        return None

    def decode(self, ids: Sequence[int]) -> str:
        """Ids up to the first end token -> text; no spaces are left around Chinese characters."""
        kept = []
        for one in ids:
            if one == self.end_id:
                break
            kept.append(int(one))
        return _CJK_GAP.sub("", str(self.tokenizer.decode(kept, skip_special_tokens=True)))

    def _id(self, name: str) -> int:
        found = self.tokenizer.token_to_id(name)
        assert found is not None, f"the tokenizer has no {name} token"
        return int(found)
