"""Image-text matching: binary classification of image-sentence pairs after fusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from chiasm.core.distributed import gather_tokens, gather_with_gradient, own_rows
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, Tokens
from chiasm.metrics.certainty import hardest_images
from chiasm.metrics.classic import accuracy
from chiasm.models.heads import FusedClasses, HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.matching import draw_negatives, image_text_matching, word_patch_alignment
from chiasm.tasks.base import Query, TaskConfig, Teacher, queries_of
from chiasm.tasks.calibration import Events, logit_of
from chiasm.tasks.codec import Codec
from chiasm.tasks.scoring import Context, Items, Matched, Outcome, Scorer
from chiasm.tasks.texts import CaptionConfig, CaptionTask, text_fields, text_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchingConfig(CaptionConfig):
    """Config of the matching task."""

    negatives: Literal["hard", "random"] = "hard"
    """Sampling of negative pairs: by similarity, or uniformly."""
    word_patch_weight: float = 0.0
    """Weight of word-patch alignment (ViLT: 0.1)."""


class Matching(CaptionTask[MatchingConfig]):
    """Classifies positive pairs against sampled negatives: for each sentence a wrong image, and the reverse.

    Negatives are sampled from the images and sentences of all processes, which gather each other's tokens. With a
    contrastive task in the run, they are sampled by its similarity ("hard", ALBEF, Li et al. 2021, section 3.2);
    without one, or with `negatives` "random", uniformly (ViLT).
    """

    name: ClassVar[str] = "matching"
    primary_metric: ClassVar[str] = "matching_accuracy"
    Config: ClassVar[type[TaskConfig]] = MatchingConfig

    head_in_format_1: ClassVar[Mapping[str, str]] = {"match_head.": "", "rank_head.": "score."}

    def head(self, codec: Codec) -> HeadSpec:
        """Two logits: no match, match."""
        return FusedClasses(2)

    def check(self) -> None:
        """Reject a frozen text tower, and word-patch alignment with a fusion that does not keep both token sets."""
        model = self.model
        if model.text.frozen:
            raise InputError(
                "the task matching with model.text.frozen true",
                "a trainable text tower",
                "--set model.text.frozen=false",
            )
        if self.config.word_patch_weight and model.fusion != "merged_attention":
            raise InputError(
                f"tasks.matching.word_patch_weight {self.config.word_patch_weight} with model.fusion {model.fusion!r}",
                "merged_attention, which keeps word and image tokens",
                "--set tasks.matching.word_patch_weight=0, or --set model.fusion=merged_attention",
            )

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Terms "matching", "word_patch" if its weight is above 0, and "loss"."""
        fields, image = batch.by_task[self.name], encoded[IMAGE]
        read = model.encode_text(text_tokens(fields))
        text = gather_tokens(model.fusion_text(read))
        seen = {name: gather_tokens(tokens) for name, tokens in model.fusion_inputs(encoded).items()}
        own_texts = own_rows(len(fields["image_index"]))
        own = torch.arange(own_texts.start, own_texts.stop, device=text.values.device)
        of = fields["image_index"] + own_rows(len(batch.group)).start
        wrong_image, wrong_text = self._negatives(model, image, read.pooled, fields["text_key"], of, batch.group)
        text_row = torch.cat([own, own[wrong_image >= 0], wrong_text[wrong_text >= 0]])
        image_row = torch.cat([of, wrong_image[wrong_image >= 0], of[wrong_text >= 0]])
        is_match = torch.arange(len(text_row), device=of.device) < len(of)
        fused = model.fuse(text.rows(text_row), seen, image_row)
        found = image_text_matching(model.logits(self.name, fused.pooled), is_match)["loss"]
        terms = {"matching": found, "loss": found}
        if self.config.word_patch_weight:
            words = text.values.shape[1]
            is_word = fused.is_real[:, :words]
            is_word = is_word if model.config.text.summary_tokens else without_ends(is_word)
            patch = word_patch_alignment(
                fused.values[:, :words], fused.values[:, words:], is_word, fused.is_real[:, words:], is_match
            )["loss"]
            terms |= {"word_patch": patch, "loss": found + self.config.word_patch_weight * patch}
        return terms

    def _negatives(
        self,
        model: VisionLanguageModel,
        image: Tokens,
        text_pooled: Tensor,
        own_key: Tensor,
        own_of: Tensor,
        own_group: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """For each sentence a negative image, and for its image a negative sentence, of all processes; -1 if none.

        Every process samples for the whole batch and returns the rows of its own sentences.
        """
        key, of, group = (gather_with_gradient(one) for one in (own_key, own_of, own_group))
        own = own_rows(len(own_key))
        same_text = (key[:, None] == key).float()
        same_group = (group[of][:, None] == group).float()
        is_positive = same_text @ same_group > 0  # a sentence is positive for all images with an equal caption
        is_hard = self.config.negatives == "hard" and model.logit_scale is not None
        similarity = torch.zeros(len(of), len(group), device=of.device)
        if is_hard:
            with torch.no_grad():
                scale = model.logit_scale.exp().float() if model.logit_scale is not None else 1.0
                texts = gather_with_gradient(model.embed_text(text_pooled))
                similarity = scale * texts @ gather_with_gradient(model.embed_image(image)).T
        wrong_image = draw_negatives(similarity, is_positive, is_hard)
        return wrong_image[own], draw_negatives(similarity.T[of], is_positive.T[of], is_hard)[own]

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Classify for each query whether text and image match; `evidence["match"]` is the probability.

        It is calibrated on pairs of which half match and the others are hard negatives (see `metrics.certainty`);
        `uncalibrated` is the softmax of the logits.
        """
        if not queries:
            return []
        image = encoded[IMAGE]
        device = image.values.device
        distinct = {text: number for number, text in enumerate(dict.fromkeys(one.text for one in queries))}
        fields = {
            name: value.to(device)
            for name, value in text_fields(list(distinct), codec, batch_invariant=model.config).items()
        }
        text = model.fusion_text(model.encode_text(text_tokens(fields)))
        texts = torch.tensor([distinct[one.text] for one in queries], device=device)
        rows = torch.tensor([one.row for one in queries], dtype=torch.long, device=device)
        fused = model.fuse(text.rows(texts), model.fusion_inputs(encoded), rows)
        own = model.logits(self.name, fused.pooled).softmax(-1)[:, 1].tolist()
        calibration = codec.calibration.get(self.name)
        matches = own if calibration is None else [calibration.probability(logit_of(p)) for p in own]
        return [
            Prediction("yes" if p > 0.5 else "no", max(p, 1 - p), {"match": p}, raw)
            for p, raw in zip(matches, own, strict=True)
        ]

    def scorer(self, context: Context) -> Scorer:
        """Accuracy on pairs of which half match."""
        return MatchingScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether a sentence matches an image."""
        if not outcome.matched:
            return None
        happened = np.array([one.is_match for one in outcome.matched], dtype=np.float64)
        of = np.array([one.of for one in outcome.matched])
        return Events.single("matching", [one.prediction for one in outcome.matched], happened, of)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The probability that the stored example and its caption match."""
        if "text" not in words:
            return {}
        (judged,) = self.predict(model, codec, encoded, [Query(0, words["text"])])
        return {"match": judged.evidence["match"]}


def without_ends(is_real: Bool[Tensor, "n l"]) -> Bool[Tensor, "n l"]:
    """Mask out the start and end token of each row, which align to no patch; a row without words keeps them."""
    place = torch.arange(is_real.shape[1], device=is_real.device)
    is_word = is_real & (place > 0) & (place < is_real.sum(1, keepdim=True) - 1)
    return torch.where(is_word.any(1, keepdim=True), is_word, is_real)


class MatchingScorer(Scorer):
    """Scores pairs of an image and a sentence.

    The first caption of each image is paired with its own image and with the next image of another group. In the view
    "seen" it is also paired with its hardest negative, the most similar wrong image; calibration uses these pairs.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: Matching, context: Context) -> None:
        super().__init__(context)
        self.task, self.outcome = task, Outcome()
        self.right: dict[str, list[tuple[int, float]]] = {}
        """Metric -> (example index, 1 if the pair was classified correctly)."""

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Classify the pairs of a part."""
        described = [row for row, example in enumerate(part) if example.captions]
        if len(described) < 2:
            return
        context = self.context
        own, groups = [(row, row) for row in described], [example.group or example.id for example in part]
        easy = list(zip(described, described[1:] + described[:1], strict=True))
        easy = [(row, other) for row, other in easy if groups[row] != groups[other]]
        hard = self._hard_pairs(part, encoded, described) if context.view == "seen" else []
        pairs = list(dict.fromkeys([*own, *easy, *hard]))
        texts = [context.text(part[row].captions[0].text) for row, _ in pairs]
        queries = queries_of(texts, [image for _, image in pairs])
        predictions = self.task.predict(context.model, context.codec, encoded, queries)
        found = {pair: Matched(start + pair[0], pair in own, one) for pair, one in zip(pairs, predictions, strict=True)}
        self._note("matching_accuracy", [found[pair].right for pair in [*own, *easy]])
        if hard:
            self._note("matching_hard_accuracy", [found[pair].right for pair in [*own, *hard]])
        self.outcome.matched += [found[pair] for pair in [*own, *(hard or easy)]]

    def _note(self, metric: str, rows: Sequence[tuple[int, float]]) -> None:
        self.right.setdefault(metric, []).extend(rows)

    def _hard_pairs(self, part: Sequence[Example], encoded: Encoded, described: Sequence[int]) -> list[tuple[int, int]]:
        """Each sentence with its most similar wrong image in the shared space; [] if the run has no shared space."""
        similarity = self.context.similarity
        if similarity is None:
            return []
        texts = [part[row].captions[0].text for row in described]
        known = [({one.text for one in part[row].captions}, part[row].group or part[row].id) for row in described]
        pairs = zip(texts, known, strict=True)
        fits = np.array([[text in own or group == mine for own, group in known] for text, (_, mine) in pairs])
        hardest = hardest_images(similarity(encoded, texts)[:, described], fits)
        return [(row, described[other]) for row, other in zip(described, hardest, strict=True) if other >= 0]

    def finish(self) -> Outcome:
        """Accuracies; in the view "seen" also the calibration of the match probability."""
        outcome, seed = self.outcome, self.context.seed
        for name, rows in self.right.items():
            values, images = np.array([right for _, right in rows]), np.array([of for of, _ in rows])
            outcome.scores[name] = accuracy(values, images, seed)
            outcome.items[name] = Items(values, images)
            outcome.baseline[name] = 0.5
        if outcome.matched and self.context.view == "seen":
            chances = [replace(one.prediction, confidence=one.prediction.evidence["match"]) for one in outcome.matched]
            is_match, of = [one.is_match for one in outcome.matched], [one.of for one in outcome.matched]
            outcome.add_confidences("matching", chances, is_match, of, seed)
        return outcome
