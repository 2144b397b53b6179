"""Rows of a contrast: parts one after the other are the rows of the whole."""

import torch

from chiasm.tasks.contrast import ContrastRows


def rows(images: int, of: list[int], start: float) -> ContrastRows:
    """Rows that tell where they come from: images count up from `start`, texts from `start` plus a hundred."""
    vectors = {
        "image": start + torch.arange(images, dtype=torch.float32)[:, None],
        "text": start + 100 + torch.arange(len(of), dtype=torch.float32)[:, None],
    }
    facts = {"group": int(start) + torch.arange(images), "image_index": torch.tensor(of, dtype=torch.long)}
    return ContrastRows(vectors, facts)


def test_texts_of_later_parts_keep_their_images() -> None:
    """Guards against a text that is paired with an image of the first part, and parts in another order."""
    parts = [rows(2, [0, 1, 1], 0), rows(3, [2, 0], 10), rows(0, [], 20), rows(1, [0], 30)]
    whole = ContrastRows.joined(parts)
    assert whole.vectors["image"][:, 0].tolist() == [0, 1, 10, 11, 12, 30]
    assert whole.facts["group"].tolist() == [0, 1, 10, 11, 12, 30]
    shown = whole.vectors["image"][whole.facts["image_index"], 0]
    expected = [part.vectors["image"][part.facts["image_index"], 0] for part in parts]
    assert torch.equal(shown, torch.cat(expected))
    assert len(whole.vectors["text"]) == len(whole.facts["image_index"]) == 6


def test_the_parts_stay_as_they_are() -> None:
    """Guards against indices that are shifted in place, in a part that is compared again."""
    parts = [rows(2, [1], 0), rows(2, [1], 10)]
    ContrastRows.joined(parts)
    assert [part.facts["image_index"].tolist() for part in parts] == [[1], [1]]
    assert torch.equal(ContrastRows.joined(parts[:1]).vectors["text"], parts[0].vectors["text"])
