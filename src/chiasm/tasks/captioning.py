"""Captioning: generate a sentence that describes an image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.types import IMAGE, Batch, Checkable, Encoded, Example, Prediction, TextTokens
from chiasm.data.script import language_of
from chiasm.metrics.captions import caption_scores, caption_statistics, ptb_tokens
from chiasm.metrics.classic import accuracy, accuracy_by_kind
from chiasm.models.attention_maps import caption_attention_map
from chiasm.models.heads import HeadSpec, ImageWriter
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.language_modelling import next_word
from chiasm.tasks.base import Query, Task, TaskConfig, Teacher, check_share
from chiasm.tasks.calibration import Calibration, Events, logit_of
from chiasm.tasks.codec import Codec
from chiasm.tasks.heat_map import HeatMap, heat_maps_of
from chiasm.tasks.scoring import Captioned, Context, Items, Outcome, Scorer
from chiasm.tasks.texts import check_writes, chosen_captions


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptioningConfig(TaskConfig):
    """Config of the captioning task."""

    captions_per_picture: int = 1
    """Captions per image in a step, resampled each epoch."""
    label_smoothing: float = 0.0
    """Probability mass of the target spread over all other words."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "label_smoothing", self.label_smoothing, is_below_one=True)


class Captioning(Task[CaptioningConfig]):
    """Autoregressive captioning; the start token selects the language."""

    name: ClassVar[str] = "captioning"
    primary_metric: ClassVar[str] = "CIDEr"
    Config: ClassVar[type[TaskConfig]] = CaptioningConfig
    reads_text: ClassVar[bool] = False
    no_shares: ClassVar[frozenset[str]] = frozenset({"CIDEr"})
    head_in_format_1: ClassVar[Mapping[str, str]] = {"caption_decoder.": "", "text_decoder.": ""}

    def check(self) -> None:
        """Reject a pre-trained text tower, which does not share embeddings with a decoder.

        Raises:
            InputError: names the tower's kind.
        """
        check_writes(self.name, self.model)

    def head(self, codec: Codec) -> HeadSpec:
        """A text decoder over image tokens."""
        return ImageWriter()

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`caption_ids` [m, l], `caption_is_real` [m, l], `image_index` [m]; captions are resampled each epoch."""
        chosen = chosen_captions(examples, self.config.captions_per_picture, seed, epoch)
        tokens = codec.tokenizer.batch([caption.text for _, caption in chosen])
        ids = tokens.ids
        if len(chosen):
            ids[:, 0] = torch.tensor([codec.tokenizer.start_of(caption.language) for _, caption in chosen])
        return {
            "caption_ids": ids,
            "caption_is_real": tokens.is_real,
            "image_index": torch.tensor([row for row, _ in chosen], dtype=torch.long),
        }

    def count(self, batch: Batch) -> int:
        """Number of predicted words, the end token included."""
        return int(batch.by_task[self.name]["caption_is_real"][:, 1:].sum())

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Next-word cross-entropy."""
        fields = batch.by_task[self.name]
        ids, is_real = fields["caption_ids"], fields["caption_is_real"]
        follows = is_real[:, 1:]
        shown = model.fusion_image(encoded[IMAGE])
        logits = model.writer_logits(self.name, shown, ids[:, :-1], follows, fields["image_index"])
        return next_word(logits, ids[:, 1:][follows], label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Generate one caption for each query, in its language.

        `evidence["word_probability"]` is the geometric mean probability of the words. Without calibration it is also
        the confidence. A calibrated confidence is the probability that the caption is true if the validation split has
        ground truth, otherwise that it is near to the references (`Calibration.near_from`).
        """
        if not queries:
            return []
        image, tokenizer, calibration = encoded[IMAGE], codec.tokenizer, codec.calibration.get(self.name)
        device = image.pooled.device
        starts = torch.tensor([tokenizer.start_of(one.language) for one in queries], device=device)
        rows = [one.row for one in queries]
        shown = image if rows == list(range(len(image.pooled))) else image.rows(torch.tensor(rows, device=device))
        written = model.write(
            self.name, model.fusion_image(shown), starts, tokenizer.end_id, codec.decoding, tokenizer.suppressed_ids
        )
        predictions = []
        for query, row, score in zip(queries, written.ids.tolist(), written.log_probability.tolist(), strict=True):
            own = math.exp(score)
            confidence = own if calibration is None else calibration.probability(logit_of(own))
            evidence = {"language": query.language, "word_probability": own}
            predictions.append(Prediction(tokenizer.decode(row), confidence, evidence, own))
        return predictions

    def heat_maps(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, asked: Sequence[Prediction]
    ) -> list[HeatMap | None]:
        """Cross-attention map of the decoder for each caption of `predict`, one per image; a second forward pass."""
        if not asked:
            return []
        image = encoded[IMAGE]
        ids, is_real = codec.tokenizer.batch([one.answer for one in asked])
        ids[:, 0] = torch.tensor([codec.tokenizer.start_of(one.evidence["language"]) for one in asked])
        device = image.values.device
        shares = caption_attention_map(model, self.name, image, TextTokens(ids.to(device), is_real.to(device)))
        return heat_maps_of(model, shares, len(asked))

    @torch.no_grad()
    def log_likelihood(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[float]:
        """Log-likelihood of each query's text given its image, the end token included.

        Divided by the number of words, the end token included, it is the logarithm of `word_probability` of `predict`.
        """
        if not queries:
            return []
        texts, image = [one.text for one in queries], encoded[IMAGE]
        tokens, device = codec.tokenizer.batch(texts), image.pooled.device
        ids, follows = tokens.ids.to(device), tokens.is_real[:, 1:].to(device)
        ids[:, 0] = torch.tensor([codec.tokenizer.start_of(language_of(text)) for text in texts], device=device)
        index = torch.tensor([one.row for one in queries], dtype=torch.long, device=device)
        logits = model.writer_logits(self.name, model.fusion_image(image), ids[:, :-1], follows, index)
        chosen = logits.log_softmax(-1).gather(1, ids[:, 1:][follows][:, None])[:, 0]
        row = follows.nonzero()[:, 0]
        total = torch.zeros(len(texts), device=device).index_add(0, row, chosen)
        return [float(value) for value in total]

    def scorer(self, context: Context) -> Scorer | None:
        """Agreement with the references, and with the ground truth if known; None in the view "no_text"."""
        return None if context.view == "no_text" else CaptionScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """See `caption_events`."""
        return caption_events(outcome)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The caption of the stored example, and its confidence."""
        (caption,) = self.predict(model, codec, encoded, [Query(0, language=language)])
        return {"caption": caption.answer, "caption_confidence": caption.confidence}


def caption_events(outcome: Outcome) -> Events | None:
    """Whether a caption is true if the ground truth is known, else whether its ROUGE_L reaches the median."""
    judged = [one for one in outcome.captioned if one.right is not None]
    if judged:
        happened = np.array([bool(one.right) for one in judged], dtype=np.float64)
        of = np.array([one.of for one in judged])
        return Events.single("caption_truth", [one.prediction for one in judged], happened, of)
    if "ROUGE_L" not in outcome.items:
        return None
    near = outcome.items["ROUGE_L"].values
    near_from = float(np.median(near))
    if near_from <= 0:
        return None
    described = outcome.described
    events = Events.single(
        "caption_near",
        [one.prediction for one in described],
        (near >= near_from).astype(np.float64),
        np.array([one.of for one in described]),
    )
    return replace(events, near_from=near_from)


class CaptionScorer(Scorer):
    """Scores captions in every language of the data.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: Task[Any], context: Context) -> None:
        super().__init__(context)
        self.task, self.outcome = task, Outcome()

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Generate captions for the examples of a part in every language."""
        context = self.context
        for language in dict.fromkeys(context.languages):
            queries = [Query(row, language=language) for row in range(len(part))]
            predictions = self.task.predict(context.model, context.codec, encoded, queries)
            for row, prediction in enumerate(predictions):
                truth = part[row].truth
                right = truth.agrees(prediction.answer) if isinstance(truth, Checkable) else None
                self.outcome.captioned.append(Captioned(start + row, prediction, right))

    def finish(self) -> Outcome:
        """Score against the references and, for generated examples, against the ground truth."""
        outcome, seed = self.outcome, self.context.seed
        if not outcome.captioned:
            return outcome
        described = self._with_references()
        outcome.described = [one for one, _ in described]
        if described:
            answers, references = [one.prediction.answer for one, _ in described], [texts for _, texts in described]
            images = np.array([one.of for one, _ in described])
            outcome.scores |= caption_scores(answers, references, images, seed)
            measured = caption_statistics(
                [ptb_tokens(one) for one in answers], [[ptb_tokens(text) for text in texts] for texts in references]
            )
            outcome.items |= {
                "CIDEr": Items(measured.cider, images),
                "ROUGE_L": Items(measured.rouge_l, images),
                "Bleu_4": Items(measured.bleu, images),
            }
        judged = [one for one in outcome.captioned if one.right is not None]
        near_from = self.context.codec.calibration.get(self.task.name, Calibration()).near_from
        if judged:
            self._score_events("caption_truth", judged, [bool(one.right) for one in judged])
        elif described and near_from:
            near = [bool(value >= near_from) for value in outcome.items["ROUGE_L"].values]
            self._score_events("caption_near", outcome.described, near)
        return outcome

    def _with_references(self) -> list[tuple[Captioned, list[str]]]:
        """Captions with their references in the same language; captions without a reference are left out."""
        examples = self.context.examples
        known = [
            [text.text for text in examples[one.of].captions if text.language == one.prediction.evidence["language"]]
            for one in self.outcome.captioned
        ]
        return [(one, texts) for one, texts in zip(self.outcome.captioned, known, strict=True) if texts]

    def _score_events(self, name: str, captions: Sequence[Captioned], happened: Sequence[bool]) -> None:
        """Frequency of the event that the confidence estimates, and the calibration error."""
        outcome, seed = self.outcome, self.context.seed
        right, images = np.array(happened), np.array([one.of for one in captions])
        languages = [str(one.prediction.evidence["language"]) for one in captions]
        outcome.scores[name] = accuracy(right, images, seed)
        outcome.items[name] = Items(right.astype(np.float64), images)
        if len(set(languages)) > 1:
            outcome.by_kind[name] = accuracy_by_kind(right, languages, images, seed)
        if self.context.view == "seen":
            outcome.add_confidences(name, [one.prediction for one in captions], right, images, seed)
