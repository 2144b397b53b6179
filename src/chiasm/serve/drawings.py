"""The part of `Model` that draws: captions, and perhaps an image to begin with -> images."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import Domain, Prediction
from chiasm.models.fingerprint import weights_hash
from chiasm.models.image_sampling import FREE, SamplingConfig, Watch
from chiasm.pipeline.batching import to_model_range
from chiasm.pipeline.domain_densities import words_of
from chiasm.pipeline.pipeline import Pipeline
from chiasm.serve.given import ImageInput, prepared
from chiasm.tasks.drawing import Drawing
from chiasm.tasks.drawing_requests import (
    DRAWN_AT_ONCE,
    DrawRequest,
    image_tokenizer,
    kept_above,
    kept_outside,
    prior_of,
)

MOST_IMAGES = 1024
"""Images that one call draws, candidates for `best_of` included."""
WHITE_FROM = 128
"""Level of 255 from which on a pixel of a mask is marked."""
IN_INFO = ("seed", "remarks", "rank_score")
"""Parts of the evidence that `Model.draw` writes into an image's `info`."""
Progress = Callable[[int, int], None]
"""Called with (tokens done, tokens in all)."""


class Ranks(Protocol):
    """What ranks drawn images: a `Model` that matches images with sentences."""

    pipeline: Pipeline

    def match(self, image: Any, texts: Any) -> Any:
        """As `Model.match`, of two lists."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for, beside the captions.

    Attributes:
        n: images of each caption.
        seed: of the first image of each caption; the others have the numbers after it.
        sampling: None: the run's own.
        start: an image of which tokens are kept; None begins with nothing.
        keep_rows: rows of tokens of `start` that are kept, from the top; None keeps half where no mask is given.
        mask: an image as large as `start` whose white part is drawn anew; instead of `keep_rows`.
        best_of: candidates of each caption, of which the best n are kept; 0 draws n.
        rank_by: what ranks the candidates.
    """

    n: int = 1
    seed: int = 0
    sampling: SamplingConfig | None = None
    start: ImageInput | None = None
    keep_rows: int | None = None
    mask: ImageInput | None = None
    best_of: int = 0
    rank_by: Ranks | None = None

    @property
    def candidates(self) -> int:
        """Images that are drawn of each caption."""
        return self.best_of or self.n

    def check(self, captions: int) -> None:
        """Check what fits together.

        Raises:
            InputError: names what does not.
        """
        many = captions * self.candidates
        wrong = [
            (self.n < 1, f"{self.n} images of a caption", "1 or more"),
            (self.seed < 0, f"the seed {self.seed}", "0 or more"),
            (many > MOST_IMAGES, f"{many:,} images in one call", f"at most {MOST_IMAGES:,}"),
            (0 < self.best_of < self.n, f"the best {self.n} of {self.best_of}", "no fewer candidates than images"),
            (self.best_of < 0, f"the best of {self.best_of}", "0 or more candidates"),
            (bool(self.best_of) != (self.rank_by is not None), *_ONE_WITHOUT_THE_OTHER),
            (
                self.start is None and (self.keep_rows is not None or self.mask is not None),
                "rows to keep or a mask, and no image to keep from",
                "both",
            ),
            (self.keep_rows is not None and self.mask is not None, "rows to keep and a mask", "one of them"),
        ]
        for is_wrong, given, allowed in wrong:
            if is_wrong:
                raise InputError(given, allowed, "change one of them")


_ONE_WITHOUT_THE_OTHER = "only one of best_of and rank_by", "a number of candidates and the run that ranks them"


class Draws:
    """What a `Model` does with captions that become images."""

    pipeline: Pipeline

    # More than eight arguments: a caller names the few that matter; `Wish` has them for programs.
    def draw(
        self,
        captions: str | Sequence[str],
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        start: ImageInput | None = None,
        keep_rows: int | None = None,
        mask: ImageInput | None = None,
        best_of: int = 0,
        rank_by: Ranks | None = None,
    ) -> list[Image.Image]:
        """Draw images for captions.

        Example:
            >>> images = chiasm.load("runs/dalle").draw("a large red circle top left", n=8, guidance=2)
            >>> images[0].info["seed"]
            0

        Args:
            captions: a caption, or a list of them, in a language of the training data.
            n: images of each caption.
            seed: of the first image of each caption; equal seeds give equal images, alone and in a batch.
            temperature: less than 1 takes likelier tokens; 0 always the likeliest, which makes all seeds alike.
            top_k: draw among so many likeliest tokens; 0 among all.
            top_p: draw among the likeliest tokens that have this probability together.
            guidance: how much more than in training the caption counts; 1 is as in training.
            start: an image to complete, vary or change. Without `keep_rows` and `mask` its upper half is kept.
            keep_rows: rows of the image's tokens that are kept, from the top.
            mask: an image whose white part is drawn anew, and all else is kept; see
                `tasks.drawing_requests.kept_outside` for what such a drawing cannot see.
            best_of: draw so many candidates of each caption and return the best n.
            rank_by: the model that ranks them, of the task retrieval or matching: `chiasm.load("runs/photos")`. Do not
                judge the images by the same model.

        Returns:
            n images of the first caption, then of the second, and so on. `image.info` has "caption", "seed",
            "probability" (geometric mean of the drawn tokens), "remarks" (what of the caption was not read), and with
            `best_of` "rank_score".

        Raises:
            MissingTaskError: the run was not trained for drawing.
            InputError: an empty caption, one without a known word, or a value out of its range.
        """
        sampling = self.sampling(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
        wish = Wish(
            n=n,
            seed=seed,
            sampling=sampling,
            start=start,
            keep_rows=keep_rows,
            mask=mask,
            best_of=best_of,
            rank_by=rank_by,
        )
        return [as_pillow(one) for one in self.drawings([captions] if isinstance(captions, str) else captions, wish)]

    def sampling(self, **changes: float | None) -> SamplingConfig:
        """The run's own `SamplingConfig` with keys changed; None leaves one as it is.

        Raises:
            MissingTaskError: the run was not trained for drawing.
        """
        changed: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        own = self._drawing.config.sampling
        return replace(own, **{key: type(getattr(own, key))(value) for key, value in changed.items()})

    def drawings(
        self, captions: Sequence[str], wish: Wish, progress: Progress | None = None, watch: Watch | None = None
    ) -> list[Prediction]:
        """As `draw`, for programs: predictions with `image`, see `Drawing.draw`.

        Args:
            captions: in a language of the training data.
            wish: everything else.
            progress: called after each token.
            watch: called after each pass with the ids so far, see `models.image_sampling.Watch`.

        Returns:
            `wish.n` predictions of each caption, in order; `evidence["rank_score"]` where they were ranked. `domain` is
            the distance of the caption from those of training.
        """
        task, pipeline = self._drawing, self.pipeline
        wish.check(len(captions))
        if "" in captions and wish.start is None:
            raise InputError(
                "the caption is ''", "words, or an image to vary without words", "say what the image shows"
            )
        domains = {caption: self.caption_domain(caption) for caption in dict.fromkeys(captions)}
        given = self.kept_tokens(wish)
        requests = [
            DrawRequest(caption, wish.seed + number, given) for caption in captions for number in range(wish.candidates)
        ]
        seen = _Counted(progress, watch, given, prior_of(pipeline.model, task.name).image_length, len(requests))
        found = task.draw(pipeline.model, pipeline.codec, requests, wish.sampling, seen)
        found = [replace(one, domain=domains[one.answer]) for one in found]
        return found if wish.rank_by is None else best(found, wish.rank_by, wish.candidates, wish.n)

    @property
    def _drawing(self) -> Drawing:
        task: Drawing = self.pipeline.task(Drawing)
        return task

    def caption_domain(self, caption: str) -> Domain | None:
        """Distance of a caption from those of training; None where the run has no density of them.

        Raises:
            InputError: training had none of its words.
        """
        density = None if self.pipeline.domain is None else self.pipeline.domain.texts.get("captions")
        if density is None or not caption:
            return None
        unknown = density.unknown(caption)
        words = {word for word in words_of(caption) if word[0].isalnum()}
        if words and len(unknown) == len(words):
            languages = dict.fromkeys(self.pipeline.config.data.languages)
            raise InputError(
                f"the caption {caption!r}, of whose words training had none",
                f"captions like those of training, in {', '.join(languages)}",
                "say it in words of the training data",
            )
        return Domain(None, float(density.distances([caption])[0]), unknown)

    def kept_tokens(self, wish: Wish) -> tuple[int, ...]:
        """Ids that are kept of the image to begin with, `FREE` where one is drawn; () without an image.

        Raises:
            InputError: rows that the image has not, or a mask that marks nothing.
        """
        if wish.start is None:
            return ()
        tokenizer = image_tokenizer(self.pipeline.model)
        pixels = to_model_range(prepared(wish.start, self.pipeline.resizing)[None], torch.float32)
        assert isinstance(pixels, Tensor)
        ids = tokenizer.ids(pixels.to(self.pipeline.device))[0].tolist()
        if wish.mask is None:
            rows = tokenizer.grid[0] // 2 if wish.keep_rows is None else wish.keep_rows
            return kept_above(ids, tokenizer.grid, rows)
        mask = prepared(wish.mask, self.pipeline.resizing).float().mean(0) >= WHITE_FROM
        return kept_outside(ids, tokenizer.grid, mask.numpy(), len(tokenizer.part_codes))


class _Counted:
    """A `Watch` that counts tokens for a `Progress` and passes them on."""

    def __init__(
        self, progress: Progress | None, watch: Watch | None, given: tuple[int, ...], length: int, images: int
    ) -> None:
        self.progress, self.watch = progress, watch
        self.first, self.parts_done, self.place = given.index(FREE) if given else 0, 0, 0
        self.length = length - self.first
        self.total = self.length * -(-images // DRAWN_AT_ONCE)

    def __call__(self, place: int, ids: Tensor) -> None:
        """Further tokens of each image of a part; a part begins where the place goes back."""
        self.parts_done += place <= self.place
        self.place = place
        if self.progress is not None:
            self.progress(self.parts_done * self.length + place - self.first, self.total)
        if self.watch is not None:
            self.watch(place, ids)


def best(found: Sequence[Prediction], rank_by: Ranks, candidates: int, n: int) -> list[Prediction]:
    """The n of every `candidates` consecutive predictions that the ranking model matches best with their caption.

    Each gets `evidence["rank_score"]`: the probability of a match, or the cosine where the model has no such task.
    Ties go to the earlier seed.
    """
    images: list[npt.NDArray[np.uint8]] = [one.image for one in found if one.image is not None]
    matches = rank_by.match(images, [one.answer for one in found])
    scores = [one.similarity if one.probability is None else one.probability for one in matches]
    scored = [
        dataclasses.replace(one, evidence={**one.evidence, "rank_score": float(score)})
        for one, score in zip(found, scores, strict=True)
    ]
    kept: list[Prediction] = []
    for start in range(0, len(scored), candidates):
        some = scored[start : start + candidates]
        kept += sorted(some, key=lambda one: -one.evidence["rank_score"])[:n]
    return kept


def check_apart(rank_by: Ranks, judge: Ranks) -> None:
    """Refuse to judge images by the model that chose them: its own mistakes would count as right.

    Raises:
        InputError: both have the same weights.
    """
    if weights_hash(rank_by.pipeline.model) == weights_hash(judge.pipeline.model):
        raise InputError(
            "images that are ranked and judged by the same model",
            "a judge with other weights than the model that ranks",
            "judge by another run, or by the exact detector of generated scenes",
        )


def as_pillow(drawing: Prediction) -> Image.Image:
    """The image of a prediction, with what `Model.draw` says of it in `info`."""
    assert drawing.image is not None, "a drawing"
    image = Image.fromarray(drawing.image)
    info: dict[str | tuple[int, int], Any] = {"caption": drawing.answer, "probability": drawing.confidence}
    image.info = info | {key: value for key, value in drawing.evidence.items() if key in IN_INFO}
    return image
