"""Drawing: an image from a caption, token by token, by a prior over the ids of an image tokenizer (DALL-E).

The image tower is the tokenizer, trained before and frozen as a rule; the head is the prior (`models.prior`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_rng
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, TextTokens, Tokens
from chiasm.models.heads import HeadSpec
from chiasm.models.image_sampling import SamplingConfig, Watch
from chiasm.models.prior import ImageDrawer
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.text_then_image import text_then_image
from chiasm.tasks.base import Query, Task, TaskConfig, Teacher, check_share
from chiasm.tasks.codec import Codec
from chiasm.tasks.drawing_requests import (
    DRAWN_AT_ONCE,
    DrawingBatch,
    DrawRequest,
    image_tokenizer,
    prior_of,
    remarks_on,
)
from chiasm.tasks.drawing_scoring import TOKEN_NATS, TOKEN_PROBABILITY, DrawingScorer
from chiasm.tasks.scoring import Context, Scorer
from chiasm.tasks.texts import check_writes, chosen_captions


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawingConfig(TaskConfig):
    """Config of the task drawing."""

    text_weight: float = 1.0
    """Weight of the cross-entropy a word; 0 leaves the words untrained."""
    image_weight: float = 7.0
    """Weight of the cross-entropy an image token; DALL-E's are 1 and 7."""
    caption_dropout: float = 0.15
    """Share of the captions that training replaces by the empty one, which guidance compares with; 0 rules it out."""
    captions_per_picture: int = 1
    """Captions per image in a step, resampled each epoch."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How images are drawn where nothing else is asked for."""
    images_drawn: int = 200
    """Images of a split that evaluation draws and judges, where the data have a judge; 16 for the report elsewhere."""

    evaluation_keys: ClassVar[tuple[str, ...]] = ("sampling", "images_drawn")

    def check(self, where: str) -> None:
        """Check ranges, and that guidance has something to compare with."""
        check_share(where, "caption_dropout", self.caption_dropout, is_below_one=True)
        self.sampling.check(f"{where}.sampling")
        for key, value, least in (("text_weight", self.text_weight, 0), ("images_drawn", self.images_drawn, 0)):
            if value < least:
                raise InputError(f"{where}.{key} is {value}", f"{least} or more", f"--set {where}.{key}={least}")
        if self.image_weight <= 0:
            raise InputError(
                f"{where}.image_weight is {self.image_weight}", "a number above 0", f"--set {where}.image_weight=7"
            )
        check_guidable(self.sampling, self.caption_dropout)


def check_guidable(sampling: SamplingConfig, caption_dropout: float) -> None:
    """Refuse guidance by a model that was never trained without a caption.

    Raises:
        InputError: guidance other than 1, and no caption dropout in training.
    """
    if sampling.guidance != 1 and not caption_dropout:
        raise InputError(
            f"guidance {sampling.guidance:g} of a run that was trained with caption_dropout 0",
            "guidance 1: such a model does not know images without a caption",
            "leave guidance out, or train with --set tasks.drawing.caption_dropout=0.15",
        )


class Drawing(Task[DrawingConfig]):
    """Next-token prediction over a caption, then its image, whose tokens are sampled to draw."""

    name: ClassVar[str] = "drawing"
    primary_metric: ClassVar[str] = TOKEN_PROBABILITY
    Config: ClassVar[type[TaskConfig]] = DrawingConfig
    no_shares: ClassVar[frozenset[str]] = frozenset({TOKEN_NATS})

    def check(self) -> None:
        """Require an image tokenizer as image tower, and a text tower that shares its embedding.

        Raises:
            InputError: names the key that does not fit.
        """
        check_writes(self.name, self.model)
        if not self.model.image.has_codes or self.model.network:
            raise InputError(
                f"the task {self.name} with model.image.kind {self.model.image.kind!r}",
                "an image tower that turns images into codes and back",
                "--set model.image.kind=image_codes, or begin with the recipe dalle",
            )
        if not (self.model.image.frozen and self.model.image.grid):
            given = f"model.image.frozen {self.model.image.frozen} and model.image.grid {self.model.image.grid}"
            raise InputError(
                f"the task {self.name} with {given}".lower(),
                "a trained image tower that stays as it is, and its grid: codes that change cannot be learned",
                "--set train.adapt=locked_image and --set model.image.grid=true, after a stage that trained the tower",
            )

    def head(self, codec: Codec) -> HeadSpec:
        """The prior."""
        return ImageDrawer()

    # --- training ---------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`caption_ids` [m, l], `caption_is_real` [m, l], `image_index` [m].

        Captions are resampled each epoch; a share of them, drawn by example and epoch, is the empty caption.
        """
        chosen = chosen_captions(examples, self.config.captions_per_picture, seed, epoch)
        tokens = codec.tokenizer.batch([caption.text for _, caption in chosen])
        for number, (row, caption) in enumerate(chosen):
            rng = counter_rng("caption dropout", seed, epoch, examples[row].id, caption.text)
            if rng.random() < self.config.caption_dropout:
                tokens.ids[number, 1:], tokens.is_real[number, 1:] = codec.tokenizer.pad_id, False
        return {
            "caption_ids": tokens.ids,
            "caption_is_real": tokens.is_real,
            "image_index": torch.tensor([row for row, _ in chosen], dtype=torch.long),
        }

    def count(self, batch: Batch) -> int:
        """Number of captions, each of which stands before an image of equally many tokens."""
        return len(batch.by_task[self.name]["image_index"])

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the words and of the image tokens, weighed."""
        fields, config = batch.by_task[self.name], self.config
        text = TextTokens(fields["caption_ids"], fields["caption_is_real"])
        ids = self.ids_of(model, encoded[IMAGE])[fields["image_index"]]
        word_logits, words, code_logits = prior_of(model, self.name)(model.tower, text, ids)
        return text_then_image(word_logits, words, code_logits, ids, config.text_weight, config.image_weight)

    @torch.no_grad()
    def ids_of(self, model: VisionLanguageModel, image: Tokens) -> Tensor:
        """Codes of encoded images: int64 [n, p]; no gradient reaches the tokenizer."""
        return image_tokenizer(model).ids_of(image.values)

    # --- answers ----------------------------------------------------------------------------------------------

    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Draw one image for each query's text, by the config's `sampling` with seed 0; see `draw`."""
        return self.draw(model, codec, [DrawRequest(query.text) for query in queries])

    def draw(
        self,
        model: VisionLanguageModel,
        codec: Codec,
        requests: Sequence[DrawRequest],
        sampling: SamplingConfig | None = None,
        watch: Watch | None = None,
    ) -> list[Prediction]:
        """Draw an image for each request; the same alone and in any batch, to the last bit.

        Args:
            model: in evaluation mode.
            codec: its tokenizer.
            requests: captions, seeds, and tokens that are kept.
            sampling: None: that of the config.
            watch: called after each pass over each part of the requests, see `models.image_sampling.Watch`.

        Returns:
            For each request the caption as `answer`, the image as `image`, and as `confidence` the geometric mean
            probability of the drawn tokens. `evidence` has "seed", "codes" (the image's tokens, row by row), "grid"
            (its rows and columns), "drawn_tokens" (how many were not given), and "remarks": what of the caption was
            not read, in sentences.

        Raises:
            InputError: an empty caption where the model cannot do without, one without a known token, or given tokens
                that are no codes of the model.
        """
        remarks = self.remarks(model, codec, requests)
        found: list[Prediction] = []
        for start in range(0, len(requests), DRAWN_AT_ONCE):
            batch = self.begin(model, codec, requests[start : start + DRAWN_AT_ONCE], sampling, remarks)
            while not batch.is_done:
                batch.step()
                if watch is not None:
                    watch(batch.sampler.place, batch.sampler.ids)
            found += batch.finish()
        return found

    def begin(
        self,
        model: VisionLanguageModel,
        codec: Codec,
        requests: Sequence[DrawRequest],
        sampling: SamplingConfig | None = None,
        remarks: Mapping[str, list[str]] | None = None,
    ) -> DrawingBatch:
        """As `draw`, of few images and step by step, so that a caller may show, drop and interleave them.

        `remarks` are those of `remarks`, where the caller has them.
        """
        settings = sampling or self.config.sampling
        self.check_sampling(settings)
        known = self.remarks(model, codec, requests) if remarks is None else remarks
        return DrawingBatch(model, codec, self.name, requests, settings, known)

    def remarks(
        self, model: VisionLanguageModel, codec: Codec, requests: Sequence[DrawRequest]
    ) -> dict[str, list[str]]:
        """Caption -> what of it is not read, in sentences.

        Raises:
            InputError: as `draw`.
        """
        return remarks_on(model, codec, self.name, requests, bool(self.config.caption_dropout))

    def check_sampling(self, sampling: SamplingConfig) -> None:
        """Check ranges, and that guidance has something to compare with.

        Raises:
            InputError: names the key and what is allowed.
        """
        sampling.check("sampling")
        check_guidable(sampling, self.config.caption_dropout)

    @torch.no_grad()
    def token_log_probabilities(
        self, model: VisionLanguageModel, codec: Codec, ids: Tensor, captions: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Teacher forcing: log-probability of each image token after its caption, and whether it is the likeliest.

        Args:
            model: in evaluation mode.
            codec: its tokenizer.
            ids: int64 [m, p], the image of each caption.
            captions: m texts; "" is the empty caption.

        Returns:
            float32 [m, p] and bool [m, p].
        """
        device = ids.device
        text = TextTokens(*(part.to(device) for part in codec.tokenizer.batch(captions)))
        is_empty = torch.tensor([not caption for caption in captions], device=device)
        text.is_real[is_empty, 1:] = False
        _, _, logits = prior_of(model, self.name)(model.tower, text, ids)
        chosen = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        return chosen, logits.argmax(-1) == ids

    def scorer(self, context: Context) -> Scorer | None:
        """Likelihood of the image tokens, and drawn images; None without images, which have no tokens to predict.

        None for calibration too: a likelihood of tokens is no event.
        """
        is_undefined = context.view == "no_picture" or context.is_calibrating
        return None if is_undefined else DrawingScorer(self, context)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """Nats a token of the stored example's image after its caption."""
        if "text" not in words:
            return {}
        ids = self.ids_of(model, encoded[IMAGE])
        chosen, _ = self.token_log_probabilities(model, codec, ids, [words["text"]])
        return {"drawing_nats": -float(chosen.mean())}
