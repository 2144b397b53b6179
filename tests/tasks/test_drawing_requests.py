"""Requests to draw: what is kept of an image, and captions that cannot be read."""

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.models.image_sampling import FREE
from chiasm.tasks.drawing_requests import DRAWN_AT_ONCE, DrawRequest, kept_above, kept_outside, noise
from drawing_pipeline import REAL, build, task_of

GRID, IDS = (3, 4), tuple(range(100, 112))
PIPELINE = build()


def test_rows_are_kept_from_the_top() -> None:
    """Guards against rows counted from below, or in columns."""
    assert kept_above(IDS, GRID, 2) == (*range(100, 108), *[FREE] * 4)
    assert kept_above(IDS, GRID, 0) == (FREE,) * 12
    for rows in (-1, 3, 9):
        with pytest.raises(InputError, match="rows to keep"):
            kept_above(IDS, GRID, rows)


@pytest.mark.parametrize("times", [1, 8, 10])
def test_cells_with_a_marked_pixel_are_drawn_anew(times: int) -> None:
    """Guards against a mask that is transposed, inverted, or that loses a thin line."""
    mask = np.zeros((3 * times, 4 * times), dtype=bool)
    mask[1 * times, 2 * times] = mask[3 * times - 1, 4 * times - 1] = True
    expected = [FREE if number in (6, 11) else one for number, one in enumerate(IDS)]
    assert kept_outside(IDS, GRID, mask) == tuple(expected)


def test_all_tokens_of_a_cell_are_drawn_anew() -> None:
    """Guards against a cell that keeps its pattern and loses its colours."""
    mask = np.zeros((3, 2), dtype=bool)
    mask[1, 1] = True
    expected = [FREE if number in (6, 7) else one for number, one in enumerate(IDS)]
    assert kept_outside(IDS, GRID, mask, parts=2) == tuple(expected)


def test_a_mask_of_another_size_marks_each_cell_once() -> None:
    """Guards against a pixel between two cells that counts for none."""
    for place in range(7):
        mask = np.zeros((5, 7), dtype=bool)
        mask[4, place] = True
        assert [number for number, one in enumerate(kept_outside(IDS, GRID, mask)) if one == FREE] == [
            8 + place * 4 // 7
        ]


@pytest.mark.parametrize("shape", [(3, 4), (2, 4), (30, 3)])
def test_a_mask_without_meaning_is_refused(shape: tuple[int, int]) -> None:
    """Guards against an image that is returned as it was."""
    mask = np.full(shape, shape != (3, 4))
    with pytest.raises(InputError, match="mask"):
        kept_outside(IDS, GRID, mask)


def test_noise_belongs_to_seed_and_caption() -> None:
    """Guards against captions that share their noise: the mistakes of a split would all be one."""
    rows = noise([DrawRequest("a", 1), DrawRequest("a", 2), DrawRequest("b", 1), DrawRequest("a", 1)], 50)
    assert (rows[0] == rows[3]).all() and not (rows[0] == rows[1]).any() and not (rows[0] == rows[2]).any()
    assert float(rows.min()) >= 0 and float(rows.max()) < 1


def test_kept_tokens_are_in_the_image() -> None:
    """Guards against tokens that are given and lost on the way."""
    pipeline = PIPELINE
    task = task_of(pipeline)
    (first,) = task.draw(pipeline.model, pipeline.codec, [DrawRequest("a small red circle top")])
    ids = first.evidence["codes"]
    for given in (kept_above(ids, (3, 3), 1), kept_outside(ids, (3, 3), np.eye(3, dtype=bool))):
        (other,) = task.draw(pipeline.model, pipeline.codec, [DrawRequest("a large blue square left", 4, given)])
        kept = [(one, now) for one, now in zip(given, other.evidence["codes"], strict=True) if one != FREE]
        assert all(one == now for one, now in kept) and other.evidence["drawn_tokens"] == 9 - len(kept)


@pytest.mark.parametrize("given", [(1,) * 8, (1,) * 10, (-2,) * 9, (325,) * 9])
def test_given_tokens_that_are_no_codes_are_refused(given: tuple[int, ...]) -> None:
    """Guards against an index error, or codes of another tokenizer."""
    with pytest.raises(InputError, match="given tokens"):
        task_of(PIPELINE).draw(PIPELINE.model, PIPELINE.codec, [DrawRequest("a red circle", 0, given)])


@pytest.mark.parametrize("caption", [" ", "\n", "ж", "ありがとう", "🙂"])
def test_a_caption_without_a_known_token_is_refused(caption: str) -> None:
    """Guards against any image for words that mean nothing to the model."""
    with pytest.raises(InputError, match="the caption"):
        task_of(PIPELINE).draw(PIPELINE.model, PIPELINE.codec, [DrawRequest(caption)])


def test_what_of_a_caption_is_not_read_is_said() -> None:
    """Guards against a long caption, or an unknown word, that is silently cut."""
    draw = task_of(PIPELINE).draw
    long, strange, plain, empty = draw(
        PIPELINE.model,
        PIPELINE.codec,
        [DrawRequest(text) for text in ("a small red circle top left, " * 12, "a жж circle", "a red circle", "")],
    )
    assert "of which the model reads the first 62" in long.evidence["remarks"][0]
    assert "unknown to the model" in strange.evidence["remarks"][0]
    assert plain.evidence["remarks"] == empty.evidence["remarks"] == [] and plain.image is not None


def test_many_requests_are_drawn_in_parts() -> None:
    """Guards against keys and values of a thousand images in memory, and against parts that lose their order."""
    parts: list[int] = []
    requests = [DrawRequest("a red circle", seed) for seed in range(DRAWN_AT_ONCE + 3)]
    found = task_of(PIPELINE).draw(
        PIPELINE.model, PIPELINE.codec, requests, None, lambda place, ids: parts.append(len(ids))
    )
    assert parts[:9] == [DRAWN_AT_ONCE] * 9 and set(parts[9:]) == {3} and len(parts) <= 18
    assert [one.evidence["seed"] for one in found] == list(range(DRAWN_AT_ONCE + 3))


def test_a_batch_shows_whole_rows() -> None:
    """Guards against a part that shows what is not drawn, is shown too early, or changes the image."""
    pipeline = PIPELINE
    requests = [DrawRequest("a large red circle top left", seed) for seed in range(3)]
    batch = task_of(pipeline).begin(pipeline.model, pipeline.codec, requests)
    parts, rows = [], []
    while not batch.is_done:
        batch.step()
        rows.append(batch.rows_done)
        parts += [(count, batch.partial(1, count)) for count in range(1, batch.rows_done + 1)]
        if len(rows) == 4:
            batch.keep([2, 1])
    assert rows == sorted(rows) and rows[:2] == [0, 0] and rows[-1] == 3 and {1, 2, 3} <= {count for count, _ in parts}
    found = batch.finish()
    expected = task_of(pipeline).draw(pipeline.model, pipeline.codec, requests)
    for one, whole in zip(found, (expected[2], expected[1]), strict=True):
        assert one == whole and (one.image == whole.image).all()
    for count, part in parts:
        assert part.shape == (48, 48, 4) and (part[: 16 * count, :, :3] == found[1].image[: 16 * count]).all()
        assert (part[: 16 * count, :, 3] == 255).all() and not part[16 * count :, :, 3].any()


def test_a_part_of_a_real_tokenizer_stands_where_the_image_will() -> None:
    """Guards against rows of tokens that are taken for rows of pixels, and a lowest row that looks at what is not."""
    pipeline = build(REAL)
    batch = task_of(pipeline).begin(pipeline.model, pipeline.codec, [DrawRequest("a large red circle top left")])
    rows = batch.prior.grid[0]
    while batch.rows_done < rows - 1:
        batch.step()
    part = batch.partial(0, rows - 1)
    while not batch.is_done:
        batch.step()
    (whole,) = batch.finish()
    assert whole.image is not None and part.shape[:2] == whole.image.shape[:2] == (24, 24)
    height = 24 * (rows - 1) // rows
    assert (part[:height, :, 3] == 255).all() and not part[height:, :, 3].any()
    if rows > 2:
        assert (part[: 24 // rows, :, :3] == whole.image[: 24 // rows]).mean() > 0.9
