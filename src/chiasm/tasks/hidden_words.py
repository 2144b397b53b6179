"""Words that are hidden and found again from the rest of the sentence and the picture: pre-training of fusion."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import Batch, Example, Prediction, TextTokens, Tokens
from chiasm.models.config import ModelConfig
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.masked_language_modelling import distilled_words, mask_words, masked_words
from chiasm.objectives.permutation import draw_order, permuted_words, predicted, visible
from chiasm.tasks.base import Codec, Teacher
from chiasm.tasks.texts import (
    CaptionTask,
    batch_invariant_tokens,
    check_words,
    text_tokens,
)


class MaskedLanguageModelling(CaptionTask):
    """Some words of a caption become [MASK]; the fused tokens at their places say what they were (BERT, ViLT)."""

    name: ClassVar[str] = "masked_language_modelling"
    primary_metric: ClassVar[str] = "masked_word_accuracy"

    def check(self, model: ModelConfig) -> None:
        """Refuse models in which no token stands for a word."""
        check_words(self.name, model)

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """The fields of `caption_fields`, and the tokenizer's `special_ids` and `mask_id`."""
        fields = super().collate(examples, codec, seed, epoch)
        special = torch.tensor(codec.tokenizer.special_ids)
        return {**fields, "special_ids": special, "mask_id": torch.tensor(codec.tokenizer.mask_id)}

    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the hidden words, with the teacher's soft targets where `distil` is above 0."""
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
        logits = _at(model, image, hidden, fields["image_index"], is_masked)
        if self.config.distil and teacher is not None:
            with torch.no_grad():
                soft = _at(teacher.model, teacher.image, hidden, fields["image_index"], is_masked)
            return distilled_words(logits, soft, target[is_masked], alpha=self.config.distil)
        return masked_words(logits, target[is_masked])

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, texts: Sequence[str], of: Sequence[int]
    ) -> list[Prediction]:
        """Hide one word of each text (which, its words decide) and name it; `evidence["word"]` is the right one."""
        text, place = _one_hidden(texts, codec, model.config)
        right = text.ids[torch.arange(len(texts)), place]
        text.ids[torch.arange(len(texts)), place] = codec.tokenizer.mask_id
        is_masked = torch.arange(text.ids.shape[1]) == place[:, None]
        device = image.values.device
        text, of_rows = TextTokens(text.ids.to(device), text.is_real.to(device)), torch.tensor(of, device=device)
        return _named(_at(model, image, text, of_rows, is_masked.to(device)), right, codec)


class PermutationLanguageModelling(CaptionTask):
    """Words are predicted in a random order, each from those before it in that order (XLNet, Yang et al. 2019).

    No [MASK] token is ever seen, and hidden words are not taken to be independent of each other. The picture is
    visible to every word.
    """

    name: ClassVar[str] = "permutation_language_modelling"
    primary_metric: ClassVar[str] = "masked_word_accuracy"

    def check(self, model: ModelConfig) -> None:
        """Refuse models in which no token stands for a word, and towers that read in one order only."""
        check_words(self.name, model)
        if model.text.kind != "two_stream":
            raise InputError(
                f"permutation language modelling with model.text.kind {model.text.kind!r}",
                "two_stream, the tower that can be read in any order",
                "--set model.text.kind=two_stream",
            )

    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of the words that come last in a random order."""
        fields = batch.by_task[self.name]
        text = text_tokens(fields)
        order = draw_order(text.is_real)
        is_predicted = predicted(order, text.is_real)
        logits = _in_order(model, image, text, fields["image_index"], order, is_predicted)
        return permuted_words(logits, text.ids[is_predicted], is_predicted[is_predicted])

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, texts: Sequence[str], of: Sequence[int]
    ) -> list[Prediction]:
        """As masked language modelling: one word comes last in the order, and is named from all the others."""
        text, place = _one_hidden(texts, codec, model.config)
        rows, length = torch.arange(len(texts)), text.ids.shape[1]
        order = torch.arange(length).expand(len(texts), -1).clone()
        order[rows, place] = length
        order = order.argsort(1).argsort(1)  # ranks again, without the gap that the moved word left
        device = image.values.device
        is_predicted = (torch.arange(length) == place[:, None]).to(device)
        on = TextTokens(text.ids.to(device), text.is_real.to(device))
        of_rows = torch.tensor(of, device=device)
        logits = _in_order(model, image, on, of_rows, order.to(device), is_predicted)
        return _named(logits, text.ids[rows, place], codec)


def _at(model: VisionLanguageModel, image: Tokens, text: TextTokens, of: Tensor, chosen: Tensor) -> Tensor:
    """Word logits [r, v] of the chosen places [m, l] of texts that are fused with their pictures."""
    fused = model.fuse(model.fusion_text(model.encode_text(text)), model.fusion_image(image), of)
    return model.words(fused.values[:, : chosen.shape[1]][chosen])


def _in_order(
    model: VisionLanguageModel, image: Tokens, text: TextTokens, of: Tensor, order: Tensor, chosen: Tensor
) -> Tensor:
    """Word logits [r, v] of the chosen places, each from the words before it in `order` and from the picture."""
    _, query = model.two_stream(text, order)
    content_allowed, _ = visible(order, text.is_real)
    fused = model.fuse(query, model.fusion_image(image), of, content_allowed)
    return model.words(fused.values[:, : chosen.shape[1]][chosen])


def _one_hidden(texts: Sequence[str], codec: Codec, model: ModelConfig) -> tuple[TextTokens, Tensor]:
    """The texts' tokens, and a place in each that holds a word: the text alone decides which."""
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
