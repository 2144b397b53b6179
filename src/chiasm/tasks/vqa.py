"""Visual question answering: which of the answers seen in training is right for this picture and question?"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from chiasm.core.run_config import RunConfig
from chiasm.core.types import Batch, Example, Prediction, TextTokens, Tokens
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.answer import IGNORED, answer_classification
from chiasm.tasks.base import Codec, Task

MAX_ANSWERS = 3000
"""Largest answer vocabulary; VQAv2 models commonly keep the 3,000 to 3,129 most frequent answers."""


def answer_vocabulary(examples: Iterable[Example]) -> tuple[str, ...]:
    """The usual answer of every training question, most frequent first, ties in alphabetical order."""
    counts = Counter(question.answers[0] for example in examples for question in example.questions)
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:MAX_ANSWERS])


class VisualQuestionAnswering(Task):
    """Answers as classes. All questions of a picture share its encoding; equal questions share theirs."""

    name: ClassVar[str] = "vqa"
    primary_metric: ClassVar[str] = "vqa_accuracy"

    def collate(self, examples: Sequence[Example], codec: Codec, run: RunConfig, epoch: int) -> dict[str, Tensor]:
        """`question_ids` [u, l], `question_is_real` [u, l], `question_index` [m], `image_index` [m], `answer` [m]."""
        asked = [(row, question) for row, example in enumerate(examples) for question in example.questions]
        fields = _question_fields([question.text for _, question in asked], codec)
        known = [codec.answer_index(question.answers[0]) for _, question in asked]
        fields["image_index"] = torch.tensor([row for row, _ in asked], dtype=torch.long)
        fields["answer"] = torch.tensor([IGNORED if one is None else one for one in known], dtype=torch.long)
        return fields

    def loss(self, model: VisionLanguageModel, image: Tokens, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the answer vocabulary."""
        fields = batch.by_task[self.name]
        return answer_classification(_logits(model, image, fields), fields["answer"])

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, image: Tokens, questions: Sequence[str], of: Sequence[int]
    ) -> list[Prediction]:
        """Answer each question about picture row `of[i]`; evidence holds the three likeliest answers."""
        if not questions:
            return []
        device = image.values.device
        fields = {name: value.to(device) for name, value in _question_fields(questions, codec).items()}
        fields["image_index"] = torch.tensor(of, dtype=torch.long, device=device)
        probabilities = _logits(model, image, fields).softmax(-1)
        best = probabilities.topk(min(3, probabilities.shape[1]), dim=-1)
        predictions = []
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            ranked = [
                {"answer": codec.answers[i], "probability": value} for i, value in zip(indices, values, strict=True)
            ]
            predictions.append(Prediction(codec.answers[indices[0]], values[0], {"answers": ranked}))
        return predictions


def _question_fields(questions: Sequence[str], codec: Codec) -> dict[str, Tensor]:
    """Tokenise each distinct question once."""
    distinct = {text: number for number, text in enumerate(dict.fromkeys(questions))}
    tokens = codec.tokenizer.batch(list(distinct))
    index = torch.tensor([distinct[text] for text in questions], dtype=torch.long)
    return {"question_ids": tokens.ids, "question_is_real": tokens.is_real, "question_index": index}


def _logits(model: VisionLanguageModel, image: Tokens, fields: dict[str, Tensor]) -> Tensor:
    question = TextTokens(fields["question_ids"], fields["question_is_real"])
    return model.answer(image, question, fields["question_index"], fields["image_index"])
