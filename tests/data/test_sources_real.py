"""Real data sets that exist in several layouts must read the same from each; skipped where they are absent."""

import os
from pathlib import Path

import pytest

from chiasm.data.sources import FileData, read_source

DATA = Path(os.environ.get("CHIASM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"the real data set {name} is not here (CHIASM_DATA)")


def captions(data: FileData) -> dict[str, list[str]]:
    return {example.id: [caption.text for caption in example.captions] for example in data.examples}


@needs("flickr8k")
def test_real_flickr8k_says_the_same_in_three_layouts() -> None:
    """The layouts are copies of one another; a reader that drops or shuffles captions differs."""
    folder = DATA / "flickr8k"
    for split, least in (("train", 200), ("val", 1000)):
        ours = captions(read_source(folder, split))
        tokens = captions(read_source(folder / "original/Flickr8k_text", split))
        karpathy = captions(read_source(folder / "derived_formats", split, format="karpathy"))
        shared = set(ours) & set(tokens) & set(karpathy)
        assert len(ours) == len(tokens) == {"train": 6000, "val": 1000}[split]
        assert len(shared) == len(karpathy) >= least
        for name in shared:
            assert ours[name] == karpathy[name] == tokens[name]
            assert len(ours[name]) == 5


@needs("vqa_rad")
def test_real_vqa_rad_says_the_same_in_three_layouts() -> None:
    """1,797 questions about 313 pictures, whichever file they are read from."""

    def questions(path: str) -> list[tuple[str, str, str]]:
        data = read_source(DATA / "vqa_rad" / path, "train")
        assert (data.ledger.used, data.ledger.rejected, len(data.examples)) == (1797, 0, 313)
        return sorted((Path(e.id).name, q.text, q.answers[0]) for e in data.examples for q in e.questions)

    assert questions("") == questions("original") == questions("derived_formats")


@needs("cifar10_subset")
def test_real_cifar10_as_table_and_as_folders() -> None:
    """Labels from the rows and from the folders must be the same for each picture."""
    rows = read_source(DATA / "cifar10_subset", "test")
    folders = read_source(DATA / "cifar10_subset/images", "test")
    assert {e.id: e.label for e in rows.examples} == {e.id: e.label for e in folders.examples}
    assert len(rows.examples) == 1000
