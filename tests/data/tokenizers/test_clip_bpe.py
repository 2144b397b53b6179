"""CLIP's tokenizer from its list of merges, against ids that CLIP's authors and transformers give."""

import gzip
from pathlib import Path

import pytest

from chiasm.core.errors import InputError
from chiasm.data.tokenizers.clip_bpe import BPE_FILE, NUM_MERGES, read_clip_words

TEXTS = (
    "a diagram",
    "A photo of  a DOG, isn't it?",
    "naïve café 42 €",
    "红色的圆 and emoji 🐕",
    "it's <|endoftext|> not the end",
    "",
)


@pytest.fixture(scope="module")
def merges(real_data: Path) -> Path:
    path = real_data / "clip_bpe" / BPE_FILE
    if not path.is_file():
        pytest.skip("clip_bpe is absent")
    return path


def test_ids_are_clips(merges: Path) -> None:
    """Guards the order of the vocabulary: one id off and every word means another."""
    words = read_clip_words(merges, 77)
    assert words.vocabulary == 49408 and (words.start_id, words.end_id) == (49406, 49407)
    assert words.ids("a diagram") == [49406, 320, 22697, 49407]  # as printed in OpenAI's CLIP


def test_ids_are_those_of_transformers(merges: Path, tmp_path: Path) -> None:
    """Guards normalisation, the split into pieces and bytes without a printable form."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    words = read_clip_words(merges, 77)
    lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")[1 : NUM_MERGES + 1]
    vocabulary = words.tokenizer.get_vocab()
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(line.split()) for line in lines])
    for text in TEXTS:
        if "<|" not in text:  # typed by a person, ours are words
            assert words.ids(text) == theirs(text)["input_ids"], text
    assert words.ids(TEXTS[4]).count(words.end_id) == 1


def test_files_that_are_no_merges_are_refused(tmp_path: Path) -> None:
    """Guards against a traceback from a cut or foreign file."""
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"head\na b\n" * 50)[:-20])
    (tmp_path / "few.txt").write_text("head\na b\nc d\n")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    for name, word in (("cut.txt.gz", "cannot be read"), ("few.txt", "holds"), ("odd.txt", "cannot be read")):
        with pytest.raises(InputError, match=word):
            read_clip_words(tmp_path / name, 77)
