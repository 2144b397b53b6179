"""Masked and permutation language modelling with an image, for pre-training of fusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import IMAGE, Batch, Encoded, Example, Prediction, TextTokens
from chiasm.metrics.classic import accuracy
from chiasm.models.config import ModelConfig
from chiasm.models.heads import FusedWords, HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.masked_language_modelling import distilled_words, mask_words, masked_words
from chiasm.objectives.permutation import draw_order, permuted_words, predicted, visible
from chiasm.tasks.base import Query, TaskConfig, Teacher, check_share, queries_of
from chiasm.tasks.codec import Codec
from chiasm.tasks.scoring import Context, Items, Outcome, Scorer
from chiasm.tasks.texts import (
    CaptionConfig,
    CaptionTask,
    DistilledConfig,
    batch_invariant_tokens,
    check_words,
    text_tokens,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig(DistilledConfig):
    """Config of masked language modelling."""

    mask_share: float = 0.15
    """Share of masked words (Devlin et al. 2019)."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "mask_share", self.mask_share)
        DistilledConfig.check(self, where)


C = TypeVar("C", bound=CaptionConfig)


class HiddenWordTask(CaptionTask[C]):
    """Base of the tasks that predict one hidden word of a text: predictions, scores and stored example."""

    primary_metric: ClassVar[str] = "masked_word_accuracy"

    head_in_format_1: ClassVar[Mapping[str, str]] = {"word_head.": ""}

    def head(self, codec: Codec) -> HeadSpec:
        """Logits over the tokenizer's vocabulary for fused word tokens."""
        return FusedWords()

    def scorer(self, context: Context) -> Scorer | None:
        """Accuracy on one word of each example's first caption; None in the view "no_text"."""
        return None if context.view == "no_text" else HiddenWordScorer(self, context)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The hidden word of the stored caption, and its confidence."""
        if "text" not in words:
            return {}
        (named,) = self.predict(model, codec, encoded, [Query(0, words["text"])])
        return {"hidden_word": named.answer, "hidden_word_confidence": named.confidence}


class MaskedLanguageModelling(HiddenWordTask[MaskingConfig]):
    """Predicts words replaced by [MASK] from the fused tokens at their positions (BERT, ViLT)."""

    name: ClassVar[str] = "masked_language_modelling"
    Config: ClassVar[type[TaskConfig]] = MaskingConfig

    def check(self) -> None:
        """Reject models without token-level text in fusion."""
        check_words(self.name, self.model)

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """The fields of `caption_fields`, and the tokenizer's `special_ids` and `mask_id`."""
        fields = super().collate(examples, codec, seed, epoch)
        special = torch.tensor(codec.tokenizer.special_ids)
        return {**fields, "special_ids": special, "mask_id": torch.tensor(codec.tokenizer.mask_id)}

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the masked words, with the teacher's soft targets if `distil` is above 0."""
        fields = batch.by_task[self.name]
        text, vocabulary = text_tokens(fields), model.parts.vocabulary
        inputs, target, is_masked = mask_words(
            text.ids,
            text.is_real,
            special_ids=fields["special_ids"],
            mask_id=int(fields["mask_id"]),
            vocabulary=vocabulary,
            share=self.config.mask_share,
        )
        hidden = TextTokens(inputs, text.is_real)
        logits = _at(self.name, model, encoded, hidden, fields["image_index"], is_masked)
        if self.config.distil and teacher is not None:
            with torch.no_grad():
                soft = _at(self.name, teacher.model, teacher.encoded, hidden, fields["image_index"], is_masked)
            return distilled_words(logits, soft, target[is_masked], alpha=self.config.distil)
        return masked_words(logits, target[is_masked])

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Mask one word of each text, chosen by a hash of the text, and predict it; `evidence["word"]` is the word."""
        if not queries:
            return []
        image = encoded[IMAGE]
        text, place = _one_hidden([one.text for one in queries], codec, model.config)
        right = text.ids[torch.arange(len(queries)), place]
        text.ids[torch.arange(len(queries)), place] = codec.tokenizer.mask_id
        is_masked = torch.arange(text.ids.shape[1]) == place[:, None]
        device = image.values.device
        text, rows = TextTokens(text.ids.to(device), text.is_real.to(device)), _rows(queries, device)
        return _named(_at(self.name, model, encoded, text, rows, is_masked.to(device)), right, codec)


class PermutationLanguageModelling(HiddenWordTask[CaptionConfig]):
    """Predicts words in a random order, each from the words before it in that order (XLNet, Yang et al. 2019).

    It needs no [MASK] token and does not assume that hidden words are independent. All words attend to the image.
    """

    name: ClassVar[str] = "permutation_language_modelling"
    Config: ClassVar[type[TaskConfig]] = CaptionConfig

    def check(self) -> None:
        """Reject models without token-level text in fusion, and text towers without two streams."""
        model = self.model
        check_words(self.name, model)
        if not model.text.has_two_streams:
            raise InputError(
                f"permutation language modelling with model.text.kind {model.text.kind!r}",
                "two_stream, the tower for permuted orders",
                "--set model.text.kind=two_stream",
            )

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the words that come last in a random order."""
        fields = batch.by_task[self.name]
        text = text_tokens(fields)
        order = draw_order(text.is_real)
        is_predicted = predicted(order, text.is_real)
        logits = _in_order(self.name, model, encoded, text, fields["image_index"], order, is_predicted)
        return permuted_words(logits, text.ids[is_predicted], is_predicted[is_predicted])

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Put one word of each text last in the order and predict it from all others."""
        if not queries:
            return []
        image = encoded[IMAGE]
        text, place = _one_hidden([one.text for one in queries], codec, model.config)
        rows, length = torch.arange(len(queries)), text.ids.shape[1]
        order = torch.arange(length).expand(len(queries), -1).clone()
        order[rows, place] = length
        order = order.argsort(1).argsort(1)  # ranks without the gap of the moved word
        device = image.values.device
        is_predicted = (torch.arange(length) == place[:, None]).to(device)
        on = TextTokens(text.ids.to(device), text.is_real.to(device))
        logits = _in_order(self.name, model, encoded, on, _rows(queries, device), order.to(device), is_predicted)
        return _named(logits, text.ids[rows, place], codec)


def _at(
    task: str, model: VisionLanguageModel, encoded: Encoded, text: TextTokens, of: Tensor, chosen: Tensor
) -> Tensor:
    """Word logits [r, v] at the positions where `chosen` [m, l] is True, of texts fused with their images."""
    fused = model.fuse(model.fusion_text(model.encode_text(text)), model.fusion_inputs(encoded), of)
    return model.logits(task, fused.values[:, : chosen.shape[1]][chosen])


def _in_order(
    task: str, model: VisionLanguageModel, encoded: Encoded, text: TextTokens, of: Tensor, order: Tensor, chosen: Tensor
) -> Tensor:
    """Word logits [r, v] at the chosen positions, each from the words before it in `order` and from the image."""
    _, query = model.two_stream(text, order)
    content_allowed, _ = visible(order, text.is_real)
    fused = model.fuse(query, model.fusion_inputs(encoded), of, content_allowed)
    return model.logits(task, fused.values[:, : chosen.shape[1]][chosen])


def _one_hidden(texts: Sequence[str], codec: Codec, model: ModelConfig) -> tuple[TextTokens, Tensor]:
    """The texts' tokens and one word position in each, chosen by a hash of the text."""
    text = batch_invariant_tokens(texts, codec, model)
    words = text.is_real.sum(1) - 2
    drawn = torch.tensor([counter_seed("hidden word", one) % (2**31) for one in texts], dtype=torch.long)
    return TextTokens(text.ids.clone(), text.is_real), 1 + drawn % words.clamp_min(1)


def _named(logits: Tensor, right: Tensor, codec: Codec) -> list[Prediction]:
    best = logits.softmax(-1).max(-1)
    name = codec.tokenizer.tokenizer.id_to_token
    return [
        Prediction(str(name(guess)), confidence, {"word": str(name(word))})
        for guess, confidence, word in zip(best.indices.tolist(), best.values.tolist(), right.tolist(), strict=True)
    ]


def _rows(queries: Sequence[Query], device: torch.device) -> Tensor:
    return torch.tensor([one.row for one in queries], dtype=torch.long, device=device)


class HiddenWordScorer(Scorer):
    """Scores one hidden word of each example's first caption.

    Args:
        task: the task to score.
        context: the model and the split.
    """

    def __init__(self, task: HiddenWordTask[Any], context: Context) -> None:
        super().__init__(context)
        self.task = task
        self.right: list[tuple[int, float]] = []

    def add(self, start: int, part: Sequence[Example], encoded: Encoded) -> None:
        """Predict the hidden words of a part."""
        texts = [(row, caption.text) for row, example in enumerate(part) for caption in example.captions[:1]]
        if not texts:
            return
        queries = queries_of([text for _, text in texts], [row for row, _ in texts])
        found = self.task.predict(self.context.model, self.context.codec, encoded, queries)
        self.right += [
            (start + row, float(one.answer == one.evidence["word"])) for (row, _), one in zip(texts, found, strict=True)
        ]

    def finish(self) -> Outcome:
        """The share of words predicted exactly."""
        outcome, name = Outcome(), self.task.primary_metric
        if self.right:
            values, images = np.array([right for _, right in self.right]), np.array([of for of, _ in self.right])
            outcome.scores[name] = accuracy(values, images, self.context.seed)
            outcome.items[name] = Items(values, images)
        return outcome
