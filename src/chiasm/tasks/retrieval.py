"""Image-text contrastive learning: a shared embedding space for retrieval in both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import IMAGE, Batch, Caption, Encoded, Example, Prediction
from chiasm.data.hard_captions.swaps import choose_swap, swapped_texts
from chiasm.data.prompts import filled
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.additive import additive_contrast
from chiasm.objectives.contrastive import HardNegatives, distilled_contrast, softmax_contrast
from chiasm.objectives.distillation import vector_distillation
from chiasm.objectives.matryoshka import mean_over_prefixes
from chiasm.objectives.sigmoid import sigmoid_contrast
from chiasm.tasks.base import Query, TaskConfig, Teacher, check_share
from chiasm.tasks.calibration import Calibration, Events, softmax
from chiasm.tasks.codec import Codec
from chiasm.tasks.contrast import ContrastRows, ContrastTask
from chiasm.tasks.retrieval_scoring import RetrievalScorer, class_similarity
from chiasm.tasks.scoring import Context, Outcome, Scorer
from chiasm.tasks.space import SharedSpace
from chiasm.tasks.text_targets import target_fields
from chiasm.tasks.texts import DistilledConfig, caption_fields, chosen_captions, text_fields, text_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig(DistilledConfig):
    """Config of the retrieval task."""

    objective: Literal["", "softmax", "sigmoid", "additive"] = ""
    """"softmax" (CLIP), "sigmoid" (SigLIP) or "additive"; "" means "softmax"."""
    hard_negatives: float = 0.0
    """Share, in [0, 1], of captions with a hard negative, made by swapping an attribute, count, relation or word order
    by rule (NegCLIP); above 0 `evaluate` adds caption_swap_accuracy."""
    text_teacher: float = 0.0
    """Share, in [0, 1], of the distillation loss: the text tower learns the embeddings that the run in `init_from`
    gives the same caption, or the other captions of its image (Reimers and Gurevych 2020)."""
    matryoshka: tuple[int, ...] = ()
    """Widths below `model.embedding_dim`: the loss is the mean over the first so many numbers of the vectors and the
    whole vectors, so that vectors can be cut short (Kusupati et al. 2022). () trains the whole vectors alone."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "hard_negatives", self.hard_negatives)
        check_share(where, "text_teacher", self.text_teacher)
        DistilledConfig.check(self, where)

    @property
    def has_text_teacher(self) -> bool:
        """Whether `text_teacher` is above 0."""
        return self.text_teacher > 0


class Retrieval(ContrastTask[RetrievalConfig], SharedSpace):
    """Contrastive task; all captions of an image, equal captions and equal images are positives."""

    name: ClassVar[str] = "retrieval"
    primary_metric: ClassVar[str] = "text_to_image_R@1"
    Config: ClassVar[type[TaskConfig]] = RetrievalConfig
    objectives: ClassVar[tuple[str, ...]] = ("softmax", "sigmoid", "additive")

    @property
    def contrast(self) -> str:
        """The objective."""
        return self.objective

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """The captions, and their swaps if `hard_negatives` is above 0."""
        swaps = swapped_texts(examples) if self.config.hard_negatives else ()
        return [*super().texts_read(examples), *swaps]

    def check(self) -> None:
        """Reject options of the softmax objective with another objective."""
        config = self.config
        options = {"hard_negatives": config.hard_negatives, "text_teacher": config.text_teacher}
        for key, share in options.items():
            if share and (self.objective != "softmax" or config.distil):
                other = f"objective {self.objective!r}" if self.objective != "softmax" else f"distil {config.distil}"
                raise InputError(
                    f"tasks.retrieval.{key} {share} with {other}",
                    "the objective softmax, without the moving average's soft targets",
                    f"--set tasks.retrieval.{key}=0, or leave objective and distil as they are",
                )
        self._check_matryoshka()

    def _check_matryoshka(self) -> None:
        widths, whole = self.config.matryoshka, self.model.embedding_dim
        if any(not 0 < width < whole for width in widths):
            raise InputError(
                f"tasks.retrieval.matryoshka {list(widths)} with model.embedding_dim {whole}",
                f"widths from 1 to {whole - 1}",
                "--set tasks.retrieval.matryoshka=[64,128]",
            )
        if widths and "classes" in (self.model.image.projection, self.model.text.projection):
            raise InputError(
                "tasks.retrieval.matryoshka beside ImageNet's classes, which come first in the vectors",
                "a run that does not start from the starter",
                "--set init_from=",
            )

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """The fields of `caption_fields`, and those of the enabled options.

        With `hard_negatives`, the texts after the first m are k swapped captions, `swap_of` int64 [k] is the index of
        the caption of each, and `swap_key` int64 [k] is its `text_key`. With `text_teacher`: `text_target` float32
        [m, e] and `has_target` bool [m], True for captions with a target.
        """
        chosen = chosen_captions(examples, self.config.captions_per_picture, seed, epoch)
        fields = caption_fields(chosen, codec)
        if self.config.text_teacher:
            fields |= target_fields(chosen, examples, self.model.embedding_dim)
        if self.config.hard_negatives:
            fields |= self._swap_fields(chosen, examples, codec, seed, epoch)
        return fields

    def _swap_fields(
        self,
        chosen: Sequence[tuple[int, Caption]],
        examples: Sequence[Example],
        codec: Codec,
        seed: int,
        epoch: int,
    ) -> dict[str, Tensor]:
        drawn = [
            choose_swap(examples[row], caption, self.config.hard_negatives, seed, epoch) for row, caption in chosen
        ]
        swapped = {number: swap.text for number, swap in enumerate(drawn) if swap is not None}
        return {
            **text_fields([caption.text for _, caption in chosen] + list(swapped.values()), codec),
            "swap_of": torch.tensor(list(swapped), dtype=torch.long),
            "swap_key": torch.tensor([counter_seed("text", text) for text in swapped.values()], dtype=torch.long),
        }

    def embed(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> ContrastRows:
        """Vectors "image", "text", and "wrong" where there are hard negatives; facts also of the enabled options."""
        fields, image = batch.by_task[self.name], encoded[IMAGE]
        images, all_texts = model.embed_image(image), model.embed_text(_pooled(model, fields))
        of = fields["image_index"]
        vectors = {"image": images, "text": all_texts[: len(of)]}
        facts = {"group": batch.group, "image_index": of, "text_key": fields["text_key"]}
        if self.config.distil and teacher is not None:
            with torch.no_grad():
                facts["image_teacher"] = teacher.model.embed_image(teacher.encoded[IMAGE])
                facts["text_teacher"] = teacher.model.embed_text(_pooled(teacher.model, fields))
        if self.config.hard_negatives:
            wrong = _hard_negatives(all_texts, fields)
            vectors["wrong"] = wrong.text
            facts |= {"wrong_key": wrong.key, "is_wrong": wrong.is_real}
        if self.config.text_teacher:
            facts |= {name: fields[name] for name in ("text_target", "has_target")}
        return ContrastRows(vectors, facts)

    def compare(self, model: VisionLanguageModel, rows: ContrastRows) -> dict[str, Tensor]:
        """The contrastive loss: terms by direction, "text_teacher" if enabled, and "loss"."""
        facts = rows.facts
        soft = {name: facts[name] for name in ("image_teacher", "text_teacher") if name in facts}
        contrast = partial(self._contrast, model, facts)
        terms = mean_over_prefixes(contrast, self.config.matryoshka, {**rows.vectors, **soft})
        share = self.config.text_teacher
        if not share:
            return terms
        distance = vector_distillation(rows.vectors["text"], facts["text_target"], facts["has_target"])["loss"]
        return {**terms, "text_teacher": distance, "loss": (1 - share) * terms["loss"] + share * distance}

    def _contrast(
        self, model: VisionLanguageModel, facts: Mapping[str, Tensor], vectors: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The objective on unit vectors: "image", "text", and what the enabled options have."""
        assert model.logit_scale is not None
        scale, of, key = model.logit_scale.exp(), facts["image_index"], facts["text_key"]
        images, texts = vectors["image"], vectors["text"]
        if self.objective == "additive":
            return additive_contrast(images, texts, scale, of, facts["group"], text_key=key)
        groups = facts["group"], facts["group"][of]
        if self.objective == "sigmoid":
            assert model.logit_bias is not None
            return sigmoid_contrast(images, texts, scale, model.logit_bias, *groups, text_key=key)
        if "image_teacher" in vectors:
            soft = vectors["image_teacher"], vectors["text_teacher"]
            return distilled_contrast(images, texts, *soft, scale, *groups, alpha=self.config.distil, text_key=key)
        wrong = HardNegatives(vectors["wrong"], facts["wrong_key"], facts["is_wrong"]) if "wrong" in vectors else None
        return softmax_contrast(images, texts, scale, *groups, text_key=key, hard_negatives=wrong)

    @torch.no_grad()
    def embed_images(self, model: VisionLanguageModel, encoded: Encoded) -> np.ndarray:
        """Encoded images -> float32 [n, e], unit length."""
        return model.embed_image(encoded[IMAGE]).float().cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, model: VisionLanguageModel, codec: Codec, texts: Sequence[str]) -> np.ndarray:
        """Sentences -> float32 [m, e], unit length."""
        device = next(model.parameters()).device
        fields = {
            name: value.to(device) for name, value in text_fields(texts, codec, batch_invariant=model.config).items()
        }
        return model.embed_text(_pooled(model, fields)).float().cpu().numpy()

    def embed_classes(
        self, model: VisionLanguageModel, codec: Codec, names: Sequence[str], prompts: Sequence[str]
    ) -> np.ndarray:
        """Class names -> unit vectors float32 [c, e]: the normalised mean of each name's prompt embeddings.

        The prompt ensemble of Radford et al. 2021, section 3.1.4, which averages embeddings, not probabilities.

        Args:
            model: a model with a shared space.
            codec: its tokenizer.
            names: class names; "_" counts as a space.
            prompts: templates with `{label}`.
        """
        texts = [filled(prompt, name) for name in names for prompt in prompts]
        mean: np.ndarray = self.embed_in_parts(model, codec, texts).reshape(len(names), len(prompts), -1).mean(1)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)

    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Zero-shot classification among each query's labels `among` with its `prompts`; see `classify`."""
        classes: dict[tuple[tuple[str, ...], tuple[str, ...]], np.ndarray] = {}
        images, found = self.embed_images(model, encoded), list[Prediction]()
        for one in queries:
            key = one.among, one.prompts
            if key not in classes:
                classes[key] = self.embed_classes(model, codec, *key)
            found += self.classify(model, codec, images[one.row : one.row + 1], classes[key], one.among)
        return found

    def scorer(self, context: Context) -> Scorer:
        """Recall in both directions, zero-shot classification, and calibration."""
        return RetrievalScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether the nearest label is right; without labels, whether the nearest of ten captions is."""
        if not outcome.choices or outcome.logit_scale is None:
            return None
        (metric,) = outcome.confidences
        logits = outcome.logit_scale * np.stack([one.similarity for one in outcome.choices]).astype(np.float64)
        true = np.array([one.true for one in outcome.choices])
        right = (logits.argmax(1) == true).astype(np.float64)
        return Events(metric, logits, true, right, np.array([one.of for one in outcome.choices]))

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The cosine of the stored example and its caption."""
        if "text" not in words:
            return {}
        cosines = self.embed_images(model, encoded) @ self.embed_texts(model, codec, [words["text"]]).T
        return {"similarity": float(cosines[0, 0])}

    def classify(
        self, model: VisionLanguageModel, codec: Codec, images: np.ndarray, classes: np.ndarray, names: Sequence[str]
    ) -> list[Prediction]:
        """Zero-shot classification: the class with the largest cosine to each image.

        Args:
            model: a model with a shared space.
            codec: holds the temperature, if fitted.
            images: float32 [n, e] of `embed_images`.
            classes: float32 [c, e] of `embed_classes`.
            names: c class names.

        Returns:
            For each image the nearest class with its softmax probability over the classes; `evidence["labels"]` holds
            all, most probable first, with "label", "probability" and "similarity". The temperature is fitted on the
            labels of the validation split; without labels, on picking an image's caption among ten (see
            `metrics.certainty`).
        """
        assert model.logit_scale is not None, "a model with a shared space has a scale"
        similarity = class_similarity(images, classes)
        logits = model.logit_scale.exp().item() * similarity.astype(np.float64)
        shares = softmax(logits / codec.calibration.get(self.name, Calibration()).temperature)
        predictions = []
        for share, cosine, own in zip(shares, similarity, softmax(logits).max(1, initial=0.0), strict=True):
            order = np.argsort(-cosine, kind="stable")
            ranked = [
                {"label": names[i], "probability": float(share[i]), "similarity": float(cosine[i])} for i in order
            ]
            predictions.append(Prediction(names[order[0]], float(share[order[0]]), {"labels": ranked}, float(own)))
        return predictions


def _hard_negatives(texts: Tensor, fields: dict[str, Tensor]) -> HardNegatives:
    """The embeddings of swapped captions, aligned with the rows of their captions."""
    key, of = fields["text_key"], fields["swap_of"]
    beside = torch.zeros(len(key), texts.shape[1], dtype=texts.dtype, device=texts.device)
    is_real = torch.zeros(len(key), dtype=torch.bool, device=key.device).index_fill(0, of, True)
    keys = torch.zeros_like(key).index_copy(0, of, fields["swap_key"])
    return HardNegatives(beside.index_copy(0, of, texts[len(key) :]), keys, is_real)


def _pooled(model: VisionLanguageModel, fields: dict[str, Tensor]) -> Tensor:
    return fields["text_vectors"] if "text_vectors" in fields else model.text_vectors(text_tokens(fields))
