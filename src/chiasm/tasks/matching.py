"""Image-text matching: do this picture and this sentence belong together? Scored on pairs, after fusion."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from chiasm.core.distributed import gather_tokens, gather_with_gradient, own_rows
from chiasm.core.errors import InputError
from chiasm.core.types import Batch, Prediction, Tokens
from chiasm.models.config import ModelConfig
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.matching import draw_negatives, image_text_matching, word_patch_alignment
from chiasm.tasks.base import Codec, Teacher, logit_of
from chiasm.tasks.texts import CaptionTask, text_fields, text_tokens


class Matching(CaptionTask):
    """Right pairs against wrong ones drawn in the batch: for each sentence a wrong picture, and the reverse.

    Wrong pairs are drawn from the pictures and sentences of all processes, which exchange their tokens for it.
    With a contrast in the same run, wrong pairs are drawn by its similarity ("hard", ALBEF, Li et al. 2021, section
    3.2); without, or with `negatives` "random", evenly (ViLT).
    """

    name: ClassVar[str] = "matching"
    primary_metric: ClassVar[str] = "matching_accuracy"

    def check(self, model: ModelConfig) -> None:
        """Refuse a frozen text tower, and word-patch alignment where fusion keeps no words beside picture tokens."""
        if model.text.frozen:
            raise InputError(
                "the task matching with model.text.frozen true", "a text tower whose words fusion sees", "unfreeze it"
            )
        if self.config.word_patch_weight and model.fusion != "merged_attention":
            raise InputError(
                f"tasks.matching.word_patch_weight {self.config.word_patch_weight} with model.fusion {model.fusion!r}",
                "merged_attention, which keeps words and picture tokens side by side",
                "--set tasks.matching.word_patch_weight=0, or --set model.fusion=merged_attention",
            )

    def _terms(
        self, model: VisionLanguageModel, image: Tokens, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Terms "matching", "word_patch" where asked for, and "loss"."""
        fields = batch.by_task[self.name]
        encoded = model.encode_text(text_tokens(fields))
        text, seen = gather_tokens(model.fusion_text(encoded)), gather_tokens(model.fusion_image(image))
        own_texts = own_rows(len(fields["image_index"]))
        own = torch.arange(own_texts.start, own_texts.stop, device=text.values.device)
        of = fields["image_index"] + own_rows(len(batch.group)).start
        wrong_picture, wrong_text = self._negatives(model, image, encoded.pooled, fields["text_key"], of, batch.group)
        text_row = torch.cat([own, own[wrong_picture >= 0], wrong_text[wrong_text >= 0]])
        image_row = torch.cat([of, wrong_picture[wrong_picture >= 0], of[wrong_text >= 0]])
        is_match = torch.arange(len(text_row), device=of.device) < len(of)
        fused = model.fuse(text.rows(text_row), seen, image_row)
        found = image_text_matching(model.match(fused), is_match)["loss"]
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
        """For each sentence a wrong picture, and for its picture a wrong sentence, of all processes; -1 without any.

        Every process draws for the whole batch and takes what its own sentences got.
        """
        key, of, group = (gather_with_gradient(one) for one in (own_key, own_of, own_group))
        own = own_rows(len(own_key))
        same_text = (key[:, None] == key).float()
        same_group = (group[of][:, None] == group).float()
        is_positive = same_text @ same_group > 0  # a sentence fits every picture that has it, whoever wrote it
        is_hard = self.config.negatives == "hard" and model.logit_scale is not None
        similarity = torch.zeros(len(of), len(group), device=of.device)
        if is_hard:
            with torch.no_grad():
                scale = model.logit_scale.exp().float() if model.logit_scale is not None else 1.0
                texts = gather_with_gradient(model.embed_text(text_pooled))
                similarity = scale * texts @ gather_with_gradient(model.embed_image(image)).T
        wrong_picture = draw_negatives(similarity, is_positive, is_hard)
        return wrong_picture[own], draw_negatives(similarity.T[of], is_positive.T[of], is_hard)[own]

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, texts: Sequence[str], of: Sequence[int]
    ) -> list[Prediction]:
        """Say for each text whether it belongs to picture row `of[i]`; `evidence["match"]` is that probability.

        Calibrated, it is the probability among pairs half of which match, each picture's other sentence being a hard
        one (see `metrics.certainty`); `uncalibrated` is the model's own.
        """
        if not texts:
            return []
        device = image.values.device
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        fields = {
            name: value.to(device)
            for name, value in text_fields(list(distinct), codec, batch_invariant=model.config).items()
        }
        text = model.fusion_text(model.encode_text(text_tokens(fields)))
        rows = torch.tensor([distinct[one] for one in texts], device=device)
        fused = model.fuse(
            text.rows(rows), model.fusion_image(image), torch.tensor(of, dtype=torch.long, device=device)
        )
        own = model.match(fused).softmax(-1)[:, 1].tolist()
        how = codec.calibration.get(self.name)
        matches = own if how is None else [how.probability(logit_of(p)) for p in own]
        return [
            Prediction("yes" if p > 0.5 else "no", max(p, 1 - p), {"match": p}, raw)
            for p, raw in zip(matches, own, strict=True)
        ]


def without_ends(is_real: Bool[Tensor, "n l"]) -> Bool[Tensor, "n l"]:
    """Leave out the start and the end token of each row, which no patch shows; a row of these alone keeps them."""
    place = torch.arange(is_real.shape[1], device=is_real.device)
    is_word = is_real & (place > 0) & (place < is_real.sum(1, keepdim=True) - 1)
    return torch.where(is_word.any(1, keepdim=True), is_word, is_real)
