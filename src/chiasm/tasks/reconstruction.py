"""Reconstruction: train an image tokenizer, whose codes are turned into the image again.

It needs images alone. The codes are then words that another task can write (docs/image_tokenizer.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, Score, Stacked
from chiasm.data.modalities import MODALITIES
from chiasm.data.modalities.image import images_of
from chiasm.metrics.image_quality import code_scores, psnr_db, ssim
from chiasm.metrics.intervals import bootstrap_mean
from chiasm.models.encoders.image_codes import EPSILON, CodedTokens, ImageCodes, ImageCodesConfig, pixels_of
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.pixel_loss import background_weights, logit_laplace, reconstruction_loss, smooth_l1
from chiasm.tasks.base import Needs, Query, Task, TaskConfig, Teacher
from chiasm.tasks.codec import Codec
from chiasm.tasks.scoring import Context, Items, Outcome, Scorer

LEAST_VARIED, LEAST_PERPLEXITY = 0.5, 2.0
"""Below this share of images with more than one code, or this perplexity of the codes, they count as collapsed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionConfig(TaskConfig):
    """Config of the reconstruction task; the tokenizer itself is `model.image`."""

    objective: Literal["", "smooth_l1", "logit_laplace"] = ""
    """Loss of the pixels; "" means smooth_l1, which keeps the start's quality; logit_laplace is DALL-E's."""
    background_share: float = 0.5
    """Largest share, in (0, 1], of an image's loss that its most frequent colour has; 1 weights all pixels alike, and
    images that are mostly background may then be learned as background alone."""

    def check(self, where: str) -> None:
        """Check that the share is above 0."""
        if not 0 < self.background_share <= 1:
            raise InputError(
                f"{where}.background_share is {self.background_share}",
                "a share in (0, 1]",
                "1 weights all pixels alike",
            )


def image_tokenizer(model: VisionLanguageModel) -> ImageCodes:
    """The image tower of a model as the image tokenizer that `Reconstruction.check` requires."""
    return cast(ImageCodes, model.image_encoder)


class Reconstruction(Task[ReconstructionConfig]):
    """The image from its codes; the loss reaches encoder, quantiser and decoder of the image tower."""

    name: ClassVar[str] = "reconstruction"
    primary_metric: ClassVar[str] = "psnr"
    Config: ClassVar[type[TaskConfig]] = ReconstructionConfig
    objectives: ClassVar[tuple[str, ...]] = ("smooth_l1", "logit_laplace")
    needs: ClassVar[Needs] = "images"
    reads_text: ClassVar[bool] = False
    no_shares: ClassVar[frozenset[str]] = frozenset({"psnr", "codes_used", "code_perplexity"})

    def check(self) -> None:
        """Require an image tokenizer that is trained.

        Raises:
            InputError: the image tower is of another kind, or frozen.
        """
        if not isinstance(self.model.image, ImageCodesConfig):
            raise InputError(
                f"the task {self.name} with model.image.kind {self.model.image.kind!r}",
                "an image tokenizer as image tower",
                "--set model.image.kind=image_codes",
            )
        if self.model.image.frozen:
            raise InputError(
                f"the task {self.name} with model.image.frozen true",
                "an image tokenizer that is trained",
                "--set model.image.frozen=false, or remove the task",
            )

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """No texts."""
        return []

    def check_examples(self, model: VisionLanguageModel, codec: Codec, examples: Iterable[Example]) -> None:
        """Require one image an example.

        Raises:
            InputError: names file and row of the first example that has several or none.
        """
        for example in examples:
            if (count := len(images_of(example))) != 1:
                raise InputError(
                    f"{example.source}: an example of {count} images for the task {self.name}",
                    "one image an example",
                    "give each image a row of its own",
                )

    # --- training ---------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """No fields: the images are the target."""
        return {}

    def count(self, batch: Batch) -> int:
        """Number of images."""
        image = batch.inputs.get(IMAGE)
        return 0 if image is None else len(image.values if isinstance(image, Stacked) else cast(Tensor, image))

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Loss of the pixels, and what the quantiser adds."""
        tower, shown, tokens = image_tokenizer(model), batch.inputs.get(IMAGE), encoded.get(IMAGE)
        if shown is None or tokens is None:  # a process without an image, among others with some
            height, width = self.model.image.shape_px
            weight = tower.weight
            shown = torch.zeros(0, 3, height, width, dtype=torch.uint8, device=weight.device)
            tokens = tower(shown.to(weight.dtype))
        assert isinstance(tokens, CodedTokens) and isinstance(shown, Tensor), "`check_examples`: one image an example"
        pixels = shown.float() / 255
        decoded = tower.decode(tokens.values)
        location, log_scale = decoded.chunk(2, dim=1)
        if self.objective == "smooth_l1":
            losses = smooth_l1(pixels_of(decoded, is_clamped=False), pixels)
        else:
            losses = logit_laplace(location, log_scale, pixels, EPSILON)
        return reconstruction_loss(losses, background_weights(pixels, self.config.background_share), tokens.penalty)

    def alarm(self, model: VisionLanguageModel, scores: Mapping[str, Score]) -> str:
        """Whether the codes, once they have started, are nearly the same for all places of all images."""
        if not image_tokenizer(model).has_started or not {"code_perplexity", "varied_images"} <= scores.keys():
            return ""
        perplexity, varied = scores["code_perplexity"].value, scores["varied_images"].value
        if perplexity >= LEAST_PERPLEXITY and varied >= LEAST_VARIED:
            return ""
        return (
            f"the codes have collapsed: their perplexity is {perplexity:.1f}, and {100 * varied:.0f} % of the images "
            "have more than one; do: a larger model.image.continuous_steps, a smaller "
            f"tasks.{self.name}.background_share, or model.image.quantizer.kind=vector"
        )

    # --- answers ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """The codes of each queried image, as numbers, row by row.

        The confidence is 1: the codes are a function of the image. `evidence` has "codes", "rows" and "columns".
        """
        tower = image_tokenizer(model)
        rows, columns = tower.grid
        found = tower.ids_of(encoded[IMAGE].values).tolist()
        return [
            Prediction(
                " ".join(map(str, found[query.row])),
                1.0,
                {"codes": found[query.row], "rows": rows, "columns": columns},
            )
            for query in queries
        ]

    def scorer(self, context: Context) -> Scorer | None:
        """PSNR and SSIM of the hard codes' images; None in the view "no_text", since the task has no text."""
        return None if context.view == "no_text" else ReconstructionScorer(self, context)

    @torch.no_grad()
    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """Mean of the stored example's reconstruction, in [0, 1]."""
        tower = image_tokenizer(model)
        return {"reconstruction": float(tower.pixels(tower.ids_of(encoded[IMAGE].values)).mean())}


class ReconstructionScorer(Scorer):
    """Scores images made of hard codes, as rounded to 8 bits, against the images that were encoded.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: Reconstruction, context: Context) -> None:
        super().__init__(context)
        self.resizing = task.model.image.preprocessing().resizing
        self.wants_ssim = context.wanted in ("", "ssim")
        self.psnr, self.ssim, self.flat_psnr, self.rows = list[float](), list[float](), list[float](), list[int]()
        self.codes: list[npt.NDArray[np.int64]] = []

    @torch.no_grad()
    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Reconstruct the images of a part."""
        modality, tower = MODALITIES[IMAGE], image_tokenizer(self.context.model)
        shown = [row for row, example in enumerate(part) if len(images_of(example)) == 1]
        if not shown:
            return
        prepared = [modality.prepare(images_of(part[row])[0].load(), self.resizing) for row in shown]
        true = modality.stack(prepared).double().numpy() / 255
        ids = tower.ids_of(encoded[IMAGE].values[shown])
        made = tower.pixels(ids).double().mul(255).round().div(255).cpu().numpy()
        self.rows += [start + row for row in shown]
        self.codes.append(ids.cpu().numpy())
        self.psnr += psnr_db(made, true).tolist()
        self.flat_psnr += psnr_db(np.broadcast_to(true.mean((2, 3), keepdims=True), true.shape), true).tolist()
        if self.wants_ssim:
            self.ssim += ssim(made, true).tolist()

    def finish(self) -> Outcome:
        """PSNR and SSIM, each image's mean colour as a baseline, and in the view "seen" how the codes are used."""
        outcome, seed = Outcome(), self.context.seed
        if not self.rows:
            return outcome
        rows = np.array(self.rows, dtype=np.int64)
        for name, values in (("psnr", self.psnr), ("ssim", self.ssim)):
            if values:
                outcome.scores[name] = bootstrap_mean(values, rows, seed)
                outcome.items[name] = Items(np.array(values), rows)
        outcome.baseline["psnr"] = float(np.mean(self.flat_psnr))
        if self.context.view == "seen":
            outcome.scores |= code_scores(np.concatenate(self.codes), image_tokenizer(self.context.model).codes, seed)
        return outcome
