"""Requests to draw: captions and kept tokens -> sampled tokens -> images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import Prediction, TextTokens
from chiasm.models.image_sampling import FREE, Plan, Sampler, SamplingConfig
from chiasm.models.prior import ImagePrior, ImageTokenizer
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.codec import Codec

DRAWN_AT_ONCE = 32
"""Images whose keys and values are in memory at once."""


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """One image that is to be drawn.

    Attributes:
        caption: what it shows; "" for any image, where the model was trained without captions too.
        seed: decides the image, together with the caption.
        given: p ids that are kept, row by row, `FREE` where a token is drawn; () draws all.
    """

    caption: str
    seed: int = 0
    given: tuple[int, ...] = field(default=(), repr=False)


def prior_of(model: VisionLanguageModel, task: str) -> ImagePrior:
    """The head of a task that draws."""
    return cast(ImagePrior, model.heads[task])


def image_tokenizer(model: VisionLanguageModel) -> ImageTokenizer:
    """The image tower as a tokenizer."""
    assert isinstance(model.image_encoder, ImageTokenizer), "the image tower has no codes"
    return model.image_encoder


def kept_above(ids: Sequence[int], grid: tuple[int, int], rows: int) -> tuple[int, ...]:
    """Given ids that keep the first `rows` rows of an image's tokens: the rest is completed.

    Raises:
        InputError: no number of rows that leaves something to draw.
    """
    if not 0 <= rows < grid[0]:
        raise InputError(f"{rows} rows to keep", f"0 to {grid[0] - 1}, of the {grid[0]} rows of tokens", "keep fewer")
    return tuple(one if place < rows * grid[1] else FREE for place, one in enumerate(ids))


def kept_outside(
    ids: Sequence[int], grid: tuple[int, int], is_masked: npt.NDArray[np.bool_], parts: int = 1
) -> tuple[int, ...]:
    """Given ids that keep every token whose cell has no masked pixel; cells with one are drawn anew.

    A prior draws in reading order: a drawn token sees what is kept above it and left of it in its row, and nothing of
    what is kept below or to the right. The seam to that part is left to chance; of several seeds one may fit.

    Args:
        ids: the tokens of the image.
        grid: their rows and columns.
        is_masked: bool [h, w], True where the image is to be drawn anew; at least as large as the grid of cells.
        parts: tokens of a cell, which stand side by side.

    Raises:
        InputError: nothing is masked, or the mask is smaller than the grid.
    """
    rows, columns = grid[0], grid[1] // parts
    height, width = is_masked.shape
    if height < rows or width < columns or not is_masked.any():
        given = (
            "a mask without a marked pixel" if height >= rows and width >= columns else f"a mask of {width} x {height}"
        )
        raise InputError(given, f"marked pixels (white), at least {columns} x {rows} in all", "give another mask")
    of_row = np.minimum(np.arange(height) * rows // height, rows - 1)
    of_column = np.minimum(np.arange(width) * columns // width, columns - 1)
    is_free = np.zeros((rows, columns), dtype=bool)
    marked = np.nonzero(is_masked)
    is_free[of_row[marked[0]], of_column[marked[1]]] = True
    free_tokens = is_free.ravel().repeat(parts).tolist()
    return tuple(FREE if free else one for one, free in zip(ids, free_tokens, strict=True))


class DrawingBatch:
    """Images that are drawn together, a token of each a step; each is the same as alone, to the last bit.

    Args:
        model: in evaluation mode.
        codec: its tokenizer.
        task: name of the task that draws.
        requests: what is drawn; not more than `DRAWN_AT_ONCE`, or memory may run out.
        sampling: how tokens are drawn.
        remarks: caption -> what of it is not read, from `remarks_on`.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        codec: Codec,
        task: str,
        requests: Sequence[DrawRequest],
        sampling: SamplingConfig,
        remarks: Mapping[str, list[str]],
    ) -> None:
        self.prior, self.tokenizer = prior_of(model, task), image_tokenizer(model)
        self.requests, self.remarks = list(requests), remarks
        self.sampler = Sampler(self.prior, model.tower, plan_of(model, codec, self.prior, requests), sampling)

    @property
    def is_done(self) -> bool:
        """Whether every image is drawn."""
        return self.sampler.is_done

    @property
    def rows_done(self) -> int:
        """Rows of tokens, from the top, that are whole in every image."""
        return self.sampler.place // self.prior.grid[1]

    def step(self) -> None:
        """Decide the next tokens of every image, see `Sampler.step`."""
        self.sampler.step()

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the images at these places alone; the others are not drawn."""
        self.requests = [self.requests[place] for place in places]
        self.sampler.keep(torch.tensor(places, dtype=torch.long, device=self.sampler.ids.device))

    @torch.no_grad()
    def partial(self, place: int, done: int) -> npt.NDArray[np.uint8]:
        """The first `done` whole rows of the image at a place: uint8 [h, w, 4] RGBA, transparent below them.

        The last of these rows stands in for those below while the image is decoded, because a decoder looks beyond the
        row that it draws. So the lowest rows may still change a little; `finish` has the image.
        """
        rows, columns = self.prior.grid
        assert 0 < done <= self.rows_done, "rows that are not whole"
        ids = self.sampler.ids[place].view(rows, columns)
        filled = torch.cat([ids[:done], ids[done - 1 : done].expand(rows - done, columns)])
        (image,) = images_of_ids(self.tokenizer, filled.reshape(1, -1))
        opaque = np.zeros((*image.shape[:2], 1), dtype=np.uint8)
        opaque[: image.shape[0] * done // rows] = 255
        return np.concatenate([image, opaque], axis=2)

    def finish(self) -> list[Prediction]:
        """The drawn images, see `Drawing.draw`."""
        sampled = self.sampler.sampled()
        probability = sampled.log_probability.exp().tolist()
        found: list[Prediction] = []
        for one, ids, likely, image in zip(
            self.requests,
            sampled.ids.tolist(),
            probability,
            images_of_ids(self.tokenizer, sampled.ids),
            strict=True,
        ):
            evidence = {
                "seed": one.seed,
                "codes": ids,
                "grid": list(self.prior.grid),
                "drawn_tokens": sum(given == FREE for given in one.given) if one.given else self.prior.image_length,
                "remarks": self.remarks[one.caption],
            }
            found.append(Prediction(one.caption, min(likely, 1.0), evidence, min(likely, 1.0), image=image))
        return found


def remarks_on(
    model: VisionLanguageModel, codec: Codec, task: str, requests: Sequence[DrawRequest], knows_empty: bool
) -> dict[str, list[str]]:
    """Caption -> what of it is not read, in sentences; `knows_empty` says whether training had empty captions.

    Raises:
        InputError: see `Drawing.draw`.
    """
    prior = prior_of(model, task)
    for one in requests:
        _check_given(one, prior)
    return {one.caption: _remarks(codec, one.caption, knows_empty) for one in requests}


@torch.no_grad()
def images_of_ids(tokenizer: ImageTokenizer, ids: Tensor) -> list[npt.NDArray[np.uint8]]:
    """Images uint8 [h, w, 3] of n rows of tokens, each decoded alone: convolutions round otherwise in a batch."""
    decoded = [tokenizer.pixels(row)[0] for row in ids.split(1)]
    return [(image.float().clamp(0, 1) * 255 + 0.5).byte().permute(1, 2, 0).cpu().numpy() for image in decoded]


def noise(requests: Sequence[DrawRequest], length: int) -> Tensor:
    """Uniform numbers float64 [n, length], each row a function of its request's seed and caption alone."""
    rows = [counter_rng("drawing", one.seed, one.caption).random(length) for one in requests]
    return torch.from_numpy(np.stack(rows))


def plan_of(model: VisionLanguageModel, codec: Codec, prior: ImagePrior, requests: Sequence[DrawRequest]) -> Plan:
    """What a part of the requests asks the prior for; each different caption is read once."""
    device = prior.padding.device
    place = {caption: number for number, caption in enumerate(dict.fromkeys(one.caption for one in requests))}
    ids, is_real = codec.tokenizer.batch([*place, ""])
    is_real[[number for caption, number in place.items() if not caption] + [-1], 1:] = False
    free = (FREE,) * prior.image_length
    return Plan(
        TextTokens(ids.to(device), is_real.to(device)),
        torch.tensor([place[one.caption] for one in requests], device=device),
        noise(requests, prior.image_length).to(device),
        torch.tensor([one.given or free for one in requests], dtype=torch.long, device=device),
    )


def _remarks(codec: Codec, caption: str, knows_empty: bool) -> list[str]:
    """What of a caption is not read.

    Raises:
        InputError: nothing is.
    """
    tokenizer = codec.tokenizer
    if not caption.strip():
        if knows_empty and not caption:
            return []
        raise InputError(f"the caption is {caption!r}", "words", "say what the image shows")
    pieces = tokenizer.pieces(caption)
    if all(one == tokenizer.unknown_id for one in pieces):
        raise InputError(
            f"the caption {caption!r}, of which the model knows nothing",
            "words in a language of the training data",
            "say it in other words",
        )
    return tokenizer.remarks(caption)


def _check_given(request: DrawRequest, prior: ImagePrior) -> None:
    if request.given and (
        len(request.given) != prior.image_length or not all(FREE <= one < prior.codes for one in request.given)
    ):
        raise InputError(
            f"{len(request.given)} given tokens from {min(request.given)} to {max(request.given)}",
            f"{prior.image_length} tokens from 0 to {prior.codes - 1}, {FREE} where one is drawn",
            "give codes of this model",
        )
