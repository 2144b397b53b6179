"""Captioning: say in words what a picture shows."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from chiasm.core.types import Batch, Example, Prediction, TextTokens, Tokens
from chiasm.data.sources.records import language_of
from chiasm.models.attention_maps import caption_attention_map
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.language_modelling import next_word
from chiasm.tasks.base import Codec, Task, Teacher, logit_of
from chiasm.tasks.heat_map import HeatMap, heat_maps_of
from chiasm.tasks.texts import chosen_captions


class Captioning(Task):
    """Next-word prediction; the start token of a caption says its language, so one model writes several."""

    name: ClassVar[str] = "captioning"
    primary_metric: ClassVar[str] = "CIDEr"
    reads_text: ClassVar[bool] = False

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`caption_ids` [m, l], `caption_is_real` [m, l], `image_index` [m]: captions drawn anew each epoch."""
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
        """Words that follow another."""
        return int(batch.by_task[self.name]["caption_is_real"][:, 1:].sum())

    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy of each next word."""
        fields = batch.by_task[self.name]
        ids, is_real = fields["caption_ids"], fields["caption_is_real"]
        follows = is_real[:, 1:]
        logits = model.caption_logits(image, ids[:, :-1], fields["image_index"], follows)
        return next_word(logits, ids[:, 1:][follows], label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def predict(self, model: VisionLanguageModel, codec: Codec, image: Tokens, language: str) -> list[Prediction]:
        """Write one caption a picture in `language`.

        `evidence["word_probability"]` is the geometric mean probability of its words, and so is the confidence where
        none was fitted. A fitted one is the probability that the sentence is true, where validation knows the truth,
        and else that it is near to what people wrote (`Calibration.near_from`).
        """
        tokenizer, how = codec.tokenizer, codec.calibration.get(self.name)
        starts = torch.full((len(image.pooled),), tokenizer.start_of(language), device=image.pooled.device)
        said = model.write_captions(image, starts, tokenizer.end_id, codec.decoding, tokenizer.suppressed_ids)
        predictions = []
        for row, score in zip(said.ids.tolist(), said.log_probability.tolist(), strict=True):
            own = math.exp(score)
            confidence = own if how is None else how.probability(logit_of(own))
            evidence = {"language": language, "word_probability": own}
            predictions.append(Prediction(tokenizer.decode(row), confidence, evidence, own))
        return predictions

    def heat_maps(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, captions: Sequence[Prediction]
    ) -> list[HeatMap | None]:
        """Where the decoder looked while it wrote each caption of `predict`, which it reads once more for it."""
        if not captions:
            return []
        ids, is_real = codec.tokenizer.batch([one.answer for one in captions])
        ids[:, 0] = torch.tensor([codec.tokenizer.start_of(one.evidence["language"]) for one in captions])
        device = image.values.device
        shares = caption_attention_map(model, image, TextTokens(ids.to(device), is_real.to(device)))
        return heat_maps_of(model, shares, len(captions))

    @torch.no_grad()
    def log_likelihood(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, texts: Sequence[str], of: Sequence[int]
    ) -> list[float]:
        """Logarithm of the probability that the model writes each text, the end included, about picture row `of[i]`.

        Divided by the number of words, the end included, it is that of the `word_probability` that `predict` gives for
        a text that it wrote itself.
        """
        if not texts:
            return []
        tokens, device = codec.tokenizer.batch(texts), image.pooled.device
        ids, follows = tokens.ids.to(device), tokens.is_real[:, 1:].to(device)
        ids[:, 0] = torch.tensor([codec.tokenizer.start_of(language_of(text)) for text in texts], device=device)
        index = torch.tensor(of, dtype=torch.long, device=device)
        logits = model.caption_logits(image, ids[:, :-1], index, follows)
        chosen = logits.log_softmax(-1).gather(1, ids[:, 1:][follows][:, None])[:, 0]
        row = follows.nonzero()[:, 0]
        total = torch.zeros(len(texts), device=device).index_add(0, row, chosen)
        return [float(value) for value in total]
