"""Conversation: a language model sees images through a bridge, and answers, describes and talks about them.

LLaVA (Liu et al. 2023, "Visual Instruction Tuning"): the image tower's tokens, projected into the language model's word
embeddings, stand where the image is shown, and the next-token loss counts the assistant's words alone.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from chiasm.core.config import by_kind
from chiasm.core.errors import InputError
from chiasm.core.log import Progress
from chiasm.core.types import IMAGE, Batch, Caption, Encoded, Example, Prediction, Turn
from chiasm.data.conversations import (
    Wordings,
    caption_turns,
    check_turns,
    label_turns,
    prompt_turns,
    question_turns,
    turns_of,
)
from chiasm.data.modalities.base import references_of
from chiasm.data.script import language_of
from chiasm.data.tokenizers.chat import ChatTokenizer, Spans
from chiasm.data.tokenizers.chat_template import PLAIN_TEMPLATE
from chiasm.models.bridge import PROJECTORS
from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig
from chiasm.models.bridge.projector import ProjectorConfig
from chiasm.models.heads import HeadSpec, LanguageWriter
from chiasm.models.inputs import value_counts
from chiasm.models.lora import LoraLinear
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.language_modelling import next_word, next_word_of_states
from chiasm.tasks.base import Needs, Query, Task, TaskConfig, Teacher, check_share
from chiasm.tasks.calibration import Events, logit_of
from chiasm.tasks.captioning import caption_events
from chiasm.tasks.codec import Codec
from chiasm.tasks.conversation_checks import check_conversations
from chiasm.tasks.conversation_packing import packed, padded
from chiasm.tasks.conversation_rehearsal import rehearsed
from chiasm.tasks.conversation_scoring import ConversationScorer
from chiasm.tasks.conversation_words import words_of_images
from chiasm.tasks.conversation_writing import (
    Reply,
    captions_and_answers,
    first_token_log_probabilities,
    log_likelihoods,
    target_states,
)
from chiasm.tasks.scoring import Context, Outcome, Scorer

YES_NO = {"en": (("yes",), ("no",)), "zh": (("是", "有", "对"), ("否", "没有", "不", "没"))}
"""Language -> words of yes and of no, whose likelihoods are compared by their first tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationConfig(TaskConfig):
    """Config of the task conversation."""

    projector: ProjectorConfig = field(default_factory=MlpProjectorConfig, metadata=by_kind(lambda: PROJECTORS))
    """From the image tower's tokens to the language model's word embeddings; `kind` decides which keys there are."""
    objective: Literal["", "replies", "words"] = ""
    """"replies", the default: each word of the assistant from what stands before it. "words" trains the bridge alone:
    image tokens come to stand near the embeddings of words that are said of the image (`objectives.word_mixture`)."""
    captions_per_picture: int = 5
    """Captions per image in a step, resampled each epoch."""
    questions_per_picture: int = 8
    """Questions per image in a step, resampled each epoch."""
    rehearsed: int = 0
    """Conversations without images that the language model writes before the first step and goes on learning from
    beside the data (`tasks.conversation_rehearsal`): what it could do before is kept. 0 writes none; a model without a
    chat template of its own writes none either."""
    packs: bool = True
    """Compute what several captions or questions of an image begin with, the image above all, once."""
    pope_images: int = 200
    """Images of a split that POPE asks about (`tasks.conversation_hallucination`); 0 asks about none."""
    writes: bool = True
    """Write captions and answers in evaluation; without it only the likelihood of the references is measured, which
    takes a fraction of the time."""
    abstain_risk: float = 0.0
    """Tolerated share of wrong answers among the answers given; the threshold for abstaining is fitted to it on the
    validation split. 0 never abstains."""

    evaluation_keys: ClassVar[tuple[str, ...]] = ("pope_images", "writes")

    def check(self, where: str) -> None:
        """Check ranges."""
        check_share(where, "abstain_risk", self.abstain_risk)
        for key in ("pope_images", "rehearsed"):
            if (value := getattr(self, key)) < 0:
                raise InputError(f"{where}.{key} is {value}", "0 or more", f"--set {where}.{key}=0")
        self.projector.check(f"{where}.projector")


class Conversation(Task[ConversationConfig]):
    """Next-token prediction of the assistant's words by a causal language model that sees the images."""

    name: ClassVar[str] = "conversation"
    primary_metric: ClassVar[str] = "CIDEr"
    Config: ClassVar[type[TaskConfig]] = ConversationConfig
    needs: ClassVar[Needs] = "conversations"
    objectives: ClassVar[tuple[str, ...]] = ("replies", "words")
    reads_text: ClassVar[bool] = False
    no_shares: ClassVar[frozenset[str]] = frozenset({"CIDEr", "chair_mentions", "perplexity_ratio"})

    def check(self) -> None:
        """Require a language model as text tower.

        Raises:
            InputError: the text tower is of another kind.
        """
        if not (self.model.text.is_chat_model or self.model.network):
            raise InputError(
                f"the task {self.name} with model.text.kind {self.model.text.kind!r}",
                "a language model as text tower",
                "--set model.text.kind=smollm2",
            )

    def head(self, codec: Codec) -> HeadSpec:
        """The bridge."""
        return LanguageWriter(self.config.projector)

    def texts_read(self, examples: Sequence[Example]) -> list[str]:
        """None: the language model reads each text beside an image."""
        return []

    # --- training ---------------------------------------------------------------------------------------------

    def check_examples(self, model: VisionLanguageModel, codec: Codec, examples: Iterable[Example]) -> None:
        """Check conversations before the first step: placeholders, an assistant's word each, and their length.

        Raises:
            InputError: names file and row of the first conversation that does not fit.
        """
        check_conversations(examples, codec.chat_tokenizer, model.image_tokens(self.name), self.model.text.max_tokens)

    @property
    def makes_conversations(self) -> bool:
        """Whether conversations are rehearsed; the objective "words" needs an image to each text."""
        return self.config.rehearsed > 0 and self.objective != "words"

    def own_conversations(
        self, model: VisionLanguageModel, codec: Codec, seed: int, progress: Progress
    ) -> Sequence[Sequence[Turn]]:
        """What the language model asks and answers itself; nothing of one that was not trained to converse."""
        form = codec.chat_tokenizer.form
        if form.template == PLAIN_TEMPLATE or form.wordings:
            return ()
        return rehearsed(model, self.name, codec.chat_tokenizer, self.config.rehearsed, seed, progress)

    def collate(self, examples: Sequence[Example], codec: Codec, seed: int, epoch: int) -> dict[str, Tensor]:
        """The fields of `conversation_packing.padded`, and `image_index` [m]: the example of each row."""
        tokenizer, rows, index = codec.chat_tokenizer, [], []
        config = self.config
        for number, example in enumerate(examples):
            counts = config.captions_per_picture, config.questions_per_picture
            turns = turns_of(example, seed, epoch, *counts, tokenizer.form.wordings)
            spans = [tokenizer.conversation(one) for one in turns]
            made = packed(spans, config.packs and not tokenizer.form.sees_ahead)
            rows += made
            index += [number] * len(made)
        return {**padded(rows, tokenizer.pad_id), "image_index": torch.tensor(index, dtype=torch.long)}

    def count(self, batch: Batch) -> int:
        """Number of tokens that the assistant says."""
        return int(batch.by_task[self.name]["target_is_real"].sum())

    def _terms(
        self, model: VisionLanguageModel, encoded: Encoded, batch: Batch, teacher: Teacher | None
    ) -> dict[str, Tensor]:
        """Next-token cross-entropy of the assistant's words, or the other objective."""
        if self.objective == "words":
            return words_of_images(model, self.name, encoded, batch)
        fields = batch.by_task[self.name]
        states = target_states(model, self.name, encoded.get(IMAGE), fields, fields["image_index"])
        language, target = model.language, fields["target_ids"][fields["target_is_real"]]
        if isinstance(language.output_layer, LoraLinear):  # Its weight is not the whole matrix.
            return next_word(language.words(states), target)
        return next_word_of_states(states, language.output_layer, target, language.logit_scale, language.logit_cap)

    # --- answers ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        """Write a reply to each query: to its `turns`, else to its question, else a caption in its language.

        A question whose likeliest reply is "yes" or "no" is answered by the larger of both likelihoods; beam search is
        for captions alone. `evidence` holds "tokens", pairs of a token's text and its probability (without beam
        search); of a caption "word_probability", the geometric mean over its tokens; of an answer "answers" and
        "abstains", as of the task vqa. The confidence is the reply's probability, calibrated for answers, or for
        captions where the data have no questions.
        """
        if not queries:
            return []
        tokenizer, prompts = codec.chat_tokenizer, _prompts(codec.chat_tokenizer, encoded, queries)
        are_captions = [not (query.text or query.turns) for query in queries]
        written = captions_and_answers(model, self.name, tokenizer, encoded, prompts, codec.decoding, are_captions)
        compared = self._yes_or_no(model, codec, encoded, queries, written)
        return [
            self._prediction(codec, query, reply, compared.get(number))
            for number, (query, reply) in enumerate(zip(queries, written, strict=True))
        ]

    def _prediction(self, codec: Codec, query: Query, reply: Reply, compared: tuple[str, float] | None) -> Prediction:
        calibration = codec.calibration.get(self.name)
        text, own = (reply.text, math.exp(reply.log_probability)) if compared is None else compared
        tokens = [
            [codec.tokenizer.decode([one]), math.exp(value)]
            for one, value in zip(reply.ids, reply.by_token, strict=False)
        ]
        evidence: dict[str, Any] = {"tokens": tokens} if tokens and compared is None else {}
        if not (query.text or query.turns):
            mean = math.exp(reply.log_probability / max(len(reply.ids), 1))
            evidence |= {"language": query.language, "word_probability": mean}
            near = calibration is not None and calibration.near_from > 0
            confidence = calibration.probability(logit_of(mean)) if near and calibration is not None else mean
            return Prediction(text, confidence, evidence, mean)
        answers = calibration is not None and calibration.near_from == 0 and not query.turns
        confidence = calibration.probability(logit_of(own)) if answers and calibration is not None else own
        below = 0.0 if calibration is None else calibration.abstain_below
        evidence |= {"answers": [{"answer": text, "probability": confidence}], "abstains": confidence < below}
        return Prediction(text, confidence, evidence, own)

    def yes_no(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, queries: Sequence[Query]
    ) -> list[tuple[float, float]]:
        """Log-probabilities that the reply to each question begins with yes and with no, in the question's language."""
        if not queries:
            return []
        tokenizer, prompts = codec.chat_tokenizer, _prompts(codec.chat_tokenizer, encoded, queries)
        chosen = [_first_tokens(tokenizer, one.language or language_of(one.text)) for one in queries]
        values = first_token_log_probabilities(model, self.name, tokenizer, encoded, prompts)
        return [
            tuple(float(row[torch.tensor(side, device=row.device)].logsumexp(0)) for side in sides)  # type: ignore[misc]
            for row, sides in zip(values, chosen, strict=True)
        ]

    def _yes_or_no(
        self,
        model: VisionLanguageModel,
        codec: Codec,
        encoded: Encoded,
        queries: Sequence[Query],
        written: Sequence[Reply],
    ) -> dict[int, tuple[str, float]]:
        """Queries answered by "yes" or "no" -> the likelier of both, as written, and its share of their likelihood."""
        sides = {word: (pair, side) for pair in YES_NO.values() for side in (0, 1) for word in pair[side]}
        plain = [reply.text.strip(" .。!！").casefold() for reply in written]
        asked = [number for number, query in enumerate(queries) if query.text and plain[number] in sides]
        pairs = self.yes_no(model, codec, encoded, [queries[number] for number in asked])
        found = {}
        for number, (yes, no) in zip(asked, pairs, strict=True):
            pair, side = sides[plain[number]]
            likelier = 0 if yes > no else 1
            text = written[number].text if likelier == side else pair[likelier][0]
            share = 1 / (1 + math.exp(-abs(yes - no)))
            found[number] = text.capitalize() if written[number].text[:1].isupper() else text, share
        return found

    def reference_likelihoods(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, examples: Sequence[Example]
    ) -> Iterator[tuple[int, list[float]]]:
        """Row of an example, and log-probabilities of the tokens of an answer, a conversation, a caption or a label.

        Of the captions of an example, the first of each language is read.
        """
        tokenizer, counts = codec.chat_tokenizer, _image_counts(encoded, len(examples))
        own = tokenizer.form.wordings
        asked: list[tuple[int, Spans]] = []
        for row, example in enumerate(examples):
            captions = {caption.language: caption for caption in reversed(example.captions)}
            if example.turns and _images(example) == counts[row]:
                asked.append((row, tokenizer.conversation(check_turns(example.turns, counts[row], example.source))))
            if counts[row]:
                said = [caption_turns(one, counts[row], own=own) for one in captions.values()]
                asked += [(row, tokenizer.conversation(one)) for one in said]
            if example.label and counts[row] and not (example.turns or example.captions or example.questions):
                turns = label_turns(example.label, counts[row], language_of(example.label))
                asked.append((row, tokenizer.conversation(turns)))
            for one in example.questions:
                turns = question_turns(one, one.answers[0], counts[row], own=own)
                asked.append((row, tokenizer.conversation(turns)))
        values = log_likelihoods(model, self.name, tokenizer, encoded, asked)
        yield from ((row, value) for (row, _), value in zip(asked, values, strict=True))

    def scorer(self, context: Context) -> Scorer | None:
        """Captions, answers, and the likelihood of the references."""
        return ConversationScorer(self, context)

    def calibrate(self, outcome: Outcome) -> Events | None:
        """Whether an answer is right; without questions, whether a caption is true, or near to the references."""
        if not outcome.answered:
            return caption_events(outcome)
        right = np.array([one.right for one in outcome.answered])
        of = np.array([one.of for one in outcome.answered])
        happened = (right >= 0.5).astype(np.float64)
        events = Events.single("vqa_accuracy", [one.prediction for one in outcome.answered], happened, of)
        return replace(events, right=right, risk=self.config.abstain_risk)

    def smoke(
        self, model: VisionLanguageModel, codec: Codec, encoded: Encoded, words: Mapping[str, str], language: str
    ) -> dict[str, Any]:
        """Probability of a token of the stored caption, and of the likeliest first token of an answer to its question.

        No reply: rounding of another machine changes words that are nearly as likely as others.
        """
        tokenizer, images = codec.chat_tokenizer, _image_counts(encoded)[0]
        found: dict[str, Any] = {}
        if "text" in words:
            caption = Caption(words["text"], language_of(words["text"]))
            spans = tokenizer.conversation(caption_turns(caption, images, own=tokenizer.form.wordings))
            values = log_likelihoods(model, self.name, tokenizer, encoded, [(0, spans)])[0]
            found["text_token_probability"] = math.exp(sum(values) / len(values))
        question = words.get("question", "")
        if question or not found:
            prompts = _prompts(tokenizer, encoded, [Query(0, question, language)])
            first = first_token_log_probabilities(model, self.name, tokenizer, encoded, prompts)[0]
            found["first_token_probability"] = math.exp(float(first.max()))
        return found


def _images(example: Example) -> int:
    return len(references_of(example.inputs.get(IMAGE)))


def _image_counts(encoded: Encoded, rows: int = 0) -> list[int]:
    """Images of each encoded example."""
    image = encoded.get(IMAGE)
    if image is None:
        return [0] * max(rows, 1)
    return [int(count) for count in value_counts(image)]


def _prompts(tokenizer: ChatTokenizer, encoded: Encoded, queries: Sequence[Query]) -> list[tuple[int, list[int]]]:
    """Of each query the row that it is about, and the ids up to where the assistant answers."""
    counts, own = _image_counts(encoded), tokenizer.form.wordings
    return [(one.row, tokenizer.prompt(_asked(one, counts[one.row], own))) for one in queries]


def _asked(query: Query, images: int, own: Wordings) -> tuple[Turn, ...]:
    """The turns up to where the assistant answers a query; `own` are the network's wordings."""
    if query.turns:
        return query.turns
    if query.text:
        return prompt_turns("question", images, query.language or language_of(query.text), query.text, own=own)
    return prompt_turns("caption", images, query.language, own=own)


def _first_tokens(tokenizer: ChatTokenizer, language: str) -> tuple[list[int], list[int]]:
    """First tokens of the words of yes and of no, as written and with a capital; those of both sides are left out."""
    sides = [
        {tokenizer.pieces(form)[0] for word in words for form in (word, word.capitalize())}
        for words in YES_NO.get(language, YES_NO["en"])
    ]
    both = sides[0] & sides[1]
    return sorted(sides[0] - both), sorted(sides[1] - both)
