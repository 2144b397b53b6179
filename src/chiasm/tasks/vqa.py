"""Visual question answering: classification over the training answers, or generation word by word."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.core.random import counter_seed
from chiasm.core.types import (
    IMAGE,
    Batch,
    Encoded,
    Example,
    Prediction,
    Question,
    TextTokens,
    Tokens,
    normalise_answer,
)
from chiasm.models.attention_maps import question_attention_map
from chiasm.models.config import ModelConfig
from chiasm.models.fusion import FUSIONS
from chiasm.models.heads import FusedClasses, FusedWriter, HeadSpec
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.additive import additive_contrast
from chiasm.objectives.answer import (
    IGNORED,
    answer_classification,
    distilled_answer_classification,
    soft_answer_classification,
)
from chiasm.objectives.language_modelling import next_word
from chiasm.tasks.base import Needs, Query, Task, TaskConfig, Teacher, check_share
from chiasm.tasks.calibration import MOST_LOGIT, Calibration, Events, logit_of
from chiasm.tasks.codec import ANSWERS, Codec
from chiasm.tasks.heat_map import HeatMap, heat_maps_of
from chiasm.tasks.scoring import Context, Outcome, Scorer
from chiasm.tasks.texts import batch_invariant_tokens, check_writes
from chiasm.tasks.vqa_scoring import AGREEING, AnswerScorer

MAX_ANSWERS = 3000
"""Largest answer vocabulary; VQAv2 models commonly keep the 3,000 to 3,129 most frequent answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VqaConfig(TaskConfig):
    """Config of the visual question answering task."""

    objective: Literal["", "softmax", "soft", "generate"] = ""
    """"softmax" over the answer vocabulary; "soft" for soft scores of several answers; "generate" for a decoder. ""
    means "softmax"."""
    label_smoothing: float = 0.0
    """Probability mass of the target spread over all other answers or words."""
    distil: float = 0.0
    """Share of a teacher's answers in the target of the objective "softmax": of `train.teacher`, or of the moving
    average of the weights (train.ema_decay above 0)."""
    abstain_risk: float = 0.0
    """Tolerated share of wrong answers among the answers given; the threshold for abstaining is fitted to it on the
    validation split. 0 never abstains."""

    def check(self, where: str) -> None:
        """Check that shares lie in their ranges."""
        check_share(where, "label_smoothing", self.label_smoothing, is_below_one=True)
        check_share(where, "distil", self.distil)
        if self.distil and self.objective not in ("", "softmax"):
            raise InputError(
                f"{where}.distil with objective {self.objective!r}", 'objective "softmax"', f"--set {where}.distil=0"
            )
        check_share(where, "abstain_risk", self.abstain_risk)

    @property
    def learns_from_teacher(self) -> bool:
        """Whether `distil` is above 0."""
        return self.distil > 0


def answer_vocabulary(examples: Iterable[Example]) -> tuple[str, ...]:
    """The first answer of every training question, most frequent first, ties in alphabetical order.

    "Yes" and "yes" count as one answer, in the most frequent spelling.
    """
    spellings: dict[str, Counter[str]] = {}
    for example in examples:
        for question in example.questions:
            answer = question.answers[0]
            spellings.setdefault(normalise_answer(answer), Counter())[answer] += 1
    counts = {min(some, key=lambda one: (-some[one], one)): some.total() for some in spellings.values()}
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:MAX_ANSWERS])


class VisualQuestionAnswering(Task[VqaConfig]):
    """Answers as classes or as text. Each image is encoded once for all its questions, equal questions once."""

    name: ClassVar[str] = "vqa"
    primary_metric: ClassVar[str] = "vqa_accuracy"
    Config: ClassVar[type[TaskConfig]] = VqaConfig
    objectives: ClassVar[tuple[str, ...]] = ("softmax", "soft", "generate")
    needs: ClassVar[Needs] = "questions"
    vocabularies: ClassVar[Mapping[str, str]] = {ANSWERS: "2."}
    head_in_format_1: ClassVar[Mapping[str, str]] = {"answer_head.": "", "answer_decoder.": "", "text_decoder.": ""}

    def check(self) -> None:
        """Reject a pre-trained text tower for generated answers."""
        if self.objective == "generate":
            check_writes(self.name, self.model)

    def vocabulary(self, examples: Sequence[Example], stated: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Answers of the training questions, or those of a pre-trained network.

        Raises:
            InputError: no example has a question.
        """
        answers = stated or answer_vocabulary(examples)
        if not answers:
            raise InputError(
                "no training example has a question", "examples with questions and answers", "check the data"
            )
        return {ANSWERS: answers}

    def head(self, codec: Codec) -> HeadSpec:
        """Logits over the answers, or a decoder."""
        return FusedWriter() if self.objective == "generate" else FusedClasses(len(codec.answers), widening=2)

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """The questions, if fusion uses only their pooled vectors from a frozen tower."""
        if not encodes_questions_once(self.model):
            return []
        return [question.text for example in examples for question in example.questions]

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """`question_ids` and `question_is_real` [u, l], `question_index` and `image_index` [m], and the answers.

        With cached questions (`encodes_questions_once`), `question_vectors` [u, d] replace their ids. The answers are
        `answer` [m]; or `answer_score` [m, a] and `is_known` [m] for "soft"; or `answer_ids` and `answer_is_real`
        [m, l] for "generate". With the fusion `shared_sum`, `text_key` [u] is a hash of the question, equal in all
        processes.
        """
        asked = [(row, question) for row, example in enumerate(examples) for question in example.questions]
        fields = _question_fields([question.text for _, question in asked], codec, self.model)
        fields["image_index"] = torch.tensor([row for row, _ in asked], dtype=torch.long)
        if self.model.fusion == "shared_sum":
            distinct = dict.fromkeys(question.text for _, question in asked)
            fields["text_key"] = torch.tensor([counter_seed("text", text) for text in distinct], dtype=torch.long)
        if self.objective == "generate":
            tokens = codec.tokenizer.batch([question.answers[0] for _, question in asked])
            return {**fields, "answer_ids": tokens.ids, "answer_is_real": tokens.is_real}
        if self.objective == "soft":
            score = torch.zeros(len(asked), len(codec.answers))
            for row, (_, question) in enumerate(asked):
                for number, value in _scores(question, codec).items():
                    score[row, number] = value
            return {**fields, "answer_score": score, "is_known": score.any(1)}
        known = [codec.answer_index(question.answers[0]) for _, question in asked]
        fields["answer"] = torch.tensor([IGNORED if one is None else one for one in known], dtype=torch.long)
        return fields

    def count(self, batch: Batch) -> int:
        """Number of questions with an answer in the vocabulary; for "generate", number of predicted words."""
        fields = batch.by_task[self.name]
        if self.objective == "generate":
            return int(fields["answer_is_real"][:, 1:].sum())
        return int((fields["is_known"] if self.objective == "soft" else fields["answer"] != IGNORED).sum())

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Cross-entropy over the answer vocabulary, over the words of the answer, or against soft scores.

        With the fusion `shared_sum` and the additive contrastive objective, the sum of an image and a question is also
        contrasted with both: terms "answer", "fused_to_image", "fused_to_text" and "loss", their sum.
        """
        fields, image = batch.by_task[self.name], encoded[IMAGE]
        question = _encoded(model, fields)
        fused = model.ask(encoded, question, fields["question_index"], fields["image_index"])
        answered = self._answer_terms(model, fused, fields, teacher)
        if "text_key" not in fields or model.parts.contrast != "additive":
            return answered
        assert model.logit_scale is not None
        asked = fields["question_index"]
        added = additive_contrast(
            model.embed_image(image),
            model.embed_text(question.pooled)[asked],
            model.logit_scale.exp(),
            fields["image_index"],
            batch.group,
            text_key=fields["text_key"][asked],
        )
        return {"answer": answered["loss"], **added, "loss": answered["loss"] + added["loss"]}

    def _answer_terms(
        self, model: VisionLanguageModel, fused: Tokens, fields: Mapping[str, Tensor], teacher: Teacher | None
    ) -> dict[str, Tensor]:
        smoothing = self.config.label_smoothing
        if self.objective == "generate":
            ids, is_real = fields["answer_ids"], fields["answer_is_real"]
            follows = is_real[:, 1:]
            return next_word(
                model.writer_logits(self.name, fused, ids[:, :-1], follows),
                ids[:, 1:][follows],
                label_smoothing=smoothing,
            )
        logits = model.logits(self.name, fused.pooled)
        if self.objective == "soft":
            return soft_answer_classification(logits, fields["answer_score"], fields["is_known"])
        if self.config.distil and teacher is not None:
            with torch.no_grad():
                question = _encoded(teacher.model, fields)
                rows = fields["question_index"], fields["image_index"]
                theirs = teacher.model.logits(self.name, teacher.model.ask(teacher.encoded, question, *rows).pooled)
            return distilled_answer_classification(logits, theirs, fields["answer"], self.config.distil, smoothing)
        return answer_classification(logits, fields["answer"], label_smoothing=smoothing)

    @torch.no_grad()
    def logits(self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]) -> Tensor:
        """Uncalibrated logits over the answer vocabulary, float32 [m, a], of m questions."""
        return model.logits(self.name, _asked(model, codec, encoded, queries).pooled)

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Answer the question of each query.

        `evidence["answers"]` holds the three most probable answers with their calibrated probabilities, or the one
        generated answer; `evidence["abstains"]` is True if the confidence is below the fitted threshold.
        """
        if not queries:
            return []
        if self.objective == "generate":
            fused = _asked(model, codec, encoded, queries)
            return _written_predictions(model, self.name, codec, fused)
        return self.ranked(codec, self.logits(model, codec, encoded, queries))

    def ranked(self, codec: Codec, logits: Tensor) -> list[Prediction]:
        """Logits [m, a] of m questions over a answers -> for each its likeliest answer, calibrated, with two others."""
        calibration = codec.calibration.get(self.name, Calibration())
        if self.objective == "soft":
            clear = logits.clamp(-MOST_LOGIT, MOST_LOGIT)
            own = clear.sigmoid()
            probabilities = (clear / calibration.temperature + calibration.bias).sigmoid()
        else:
            own, probabilities = logits.softmax(-1), (logits / calibration.temperature).softmax(-1)
        best = logits.topk(min(3, logits.shape[1]), dim=-1).indices
        ranked_values, most = probabilities.gather(1, best).tolist(), own.amax(-1).tolist()
        predictions = []
        for values, indices, raw in zip(ranked_values, best.tolist(), most, strict=True):
            ranked = [
                {"answer": codec.answers[i], "probability": value} for i, value in zip(indices, values, strict=True)
            ]
            evidence = {"answers": ranked, "abstains": values[0] < calibration.abstain_below}
            predictions.append(Prediction(codec.answers[indices[0]], values[0], evidence, raw))
        return predictions

    def heat_maps(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, asked: Sequence[Query]
    ) -> list[HeatMap | None]:
        """Attention map over the image for each question, in a second forward pass; arguments as in `predict`."""
        if not asked:
            return []
        image = encoded[IMAGE]
        fields = _on_device(model.config, codec, image, asked)
        if "question_ids" not in fields:  # pooled fusion has no attention
            return [None] * len(asked)
        question = TextTokens(fields["question_ids"], fields["question_is_real"])
        shares = question_attention_map(model, encoded, question, fields["question_index"], fields["image_index"])
        return heat_maps_of(model, shares, len(asked))

    def scorer(self, context: Context) -> Scorer:
        """Accuracy of the answers, in total and by kind of question, with calibration."""
        return AnswerScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether an answer is right, with the logits of a softmax or one probability per answer."""
        if not outcome.answered:
            return None
        right = np.array([one.right for one in outcome.answered])
        of = np.array([one.of for one in outcome.answered])
        if self.objective != "softmax":
            happened = (right >= 0.5).astype(np.float64)
            events = Events.single(self.primary_metric, [one.prediction for one in outcome.answered], happened, of)
            return replace(events, right=right, risk=self.config.abstain_risk)
        logits = np.concatenate(outcome.answer_logits)
        target = np.array(outcome.answer_targets, dtype=np.int64)
        return Events(self.primary_metric, logits, target, right, of, self.config.abstain_risk)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """The answer to the stored question, and its confidence."""
        if "question" not in words:
            return {}
        (answer,) = self.predict(model, codec, encoded, [Query(0, words["question"])])
        return {"answer": answer.answer, "answer_confidence": answer.confidence}


class Statements(VisualQuestionAnswering):
    """Classifies a sentence about an image as "true" or "false" (NLVR, Suhr et al. 2017)."""

    name: ClassVar[str] = "statements"
    primary_metric: ClassVar[str] = "accuracy"


def _scores(question: Question, codec: Codec) -> dict[int, float]:
    """Soft score of each answer in the vocabulary: min(1, count / 3), or 1 with fewer than three annotators."""
    counts = Counter(map(normalise_answer, question.answers))
    needed = AGREEING if len(question.answers) >= AGREEING else 1
    found = {codec.answer_index(answer): min(1.0, count / needed) for answer, count in counts.items()}
    return {number: value for number, value in found.items() if number is not None}


def encodes_questions_once(model: ModelConfig) -> bool:
    """Whether questions can be cached as pooled vectors: a frozen text tower and a pooled fusion."""
    return model.text.frozen and FUSIONS[model.fusion].reads_pooled


def _question_fields(
    questions: Sequence[str], codec: Codec, model: ModelConfig, is_batch_invariant: bool = False
) -> dict[str, Tensor]:
    """Tokenise each distinct question once, or use its cached vector."""
    distinct = {text: number for number, text in enumerate(dict.fromkeys(questions))}
    index = {"question_index": torch.tensor([distinct[text] for text in questions], dtype=torch.long)}
    texts = list(distinct)
    if texts and encodes_questions_once(model) and all(text in codec.text_vectors for text in texts):
        return {"question_vectors": torch.from_numpy(np.stack([codec.text_vectors[text] for text in texts])), **index}
    tokens = batch_invariant_tokens(texts, codec, model) if is_batch_invariant else codec.tokenizer.batch(texts)
    return {"question_ids": tokens.ids, "question_is_real": tokens.is_real, **index}


def _encoded(model: VisionLanguageModel, fields: Mapping[str, Tensor]) -> Tokens:
    """The distinct questions, encoded or from cached vectors."""
    if "question_vectors" in fields:
        vectors = fields["question_vectors"]
        return Tokens(vectors[:, None], torch.ones_like(vectors[:, :1], dtype=torch.bool), vectors)
    return model.encode_text(TextTokens(fields["question_ids"], fields["question_is_real"]))


def _asked(model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]) -> Tokens:
    fields = _on_device(model.config, codec, encoded[IMAGE], queries)
    return model.ask(encoded, _encoded(model, fields), fields["question_index"], fields["image_index"])


def _on_device(model: ModelConfig, codec: Codec, image: Tokens, queries: Sequence[Query]) -> dict[str, Tensor]:
    device = image.values.device
    fields = _question_fields([one.text for one in queries], codec, model, is_batch_invariant=True)
    fields = {name: value.to(device) for name, value in fields.items()}
    rows = torch.tensor([one.row for one in queries], dtype=torch.long, device=device)
    return {**fields, "image_index": rows}


def _written_predictions(model: VisionLanguageModel, task: str, codec: Codec, fused: Tokens) -> list[Prediction]:
    """Generate answers; the confidence is the calibrated probability of the whole answer."""
    tokenizer, calibration = codec.tokenizer, codec.calibration.get(task)
    starts = torch.full((len(fused.pooled),), tokenizer.start_id, device=fused.pooled.device)
    written = model.write(task, fused, starts, tokenizer.end_id, codec.decoding, tokenizer.suppressed_ids)
    predictions = []
    for row, mean in zip(written.ids.tolist(), written.log_probability.tolist(), strict=True):
        words = row.index(tokenizer.end_id) + 1 if tokenizer.end_id in row else len(row)
        own = math.exp(mean * words)
        confidence = own if calibration is None else calibration.probability(logit_of(own))
        answer = tokenizer.decode(row)
        evidence = {
            "answers": [{"answer": answer, "probability": confidence}],
            "abstains": calibration is not None and confidence < calibration.abstain_below,
        }
        predictions.append(Prediction(answer, confidence, evidence, own))
    return predictions
