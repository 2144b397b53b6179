"""One split measured honestly: the scores, and beside them those of the same model with the pictures dealt wrongly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.log import Bar, bar
from chiasm.core.types import Example, Prediction, Score
from chiasm.data.dataset import open_dataset, texts_of
from chiasm.data.ledger import Ledger
from chiasm.data.text import TextTokenizer
from chiasm.evaluate.evaluator import CHUNK, evaluate
from chiasm.evaluate.outcome import Outcome, View, captions_with_references
from chiasm.evaluate.page_scores import MetricRow
from chiasm.evaluate.scores.calibration import abstain_threshold, fit_platt, fit_temperature
from chiasm.tasks.base import Calibration, logit_of
from chiasm.tasks.batching import image_tensor
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.features import cache_root, prepare
from chiasm.tasks.matching import Matching
from chiasm.tasks.pipeline import Pipeline
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering


@dataclass(frozen=True, slots=True)
class Measured:
    """A split's examples, what the model said of them, and what it said without seeing or without reading."""

    split: str
    examples: Sequence[Example]
    outcome: Outcome
    blind: Mapping[View, Outcome]
    """View ("shuffled", "no_picture", "no_text") -> what the model reaches so."""
    ledger: Ledger
    start: Outcome | None = None
    """What the model that training began from reaches on the same examples, where it was measured beside this one."""

    def rows(self) -> list[MetricRow]:
        """The table: score, blind score, and what guessing reaches; the headline numbers stand first."""
        scores = self.outcome.scores
        wide = [name for name in scores if name.endswith(("@5", "@10"))]
        wide += [name for name in ("Bleu_1", "Bleu_2", "Bleu_3", "ROUGE_L") if name in scores]
        return [
            self._row(name, scores[name], {view: one.scores for view, one in self.blind.items()})
            for name in [name for name in scores if name not in wide] + wide
        ]

    def _row(self, name: str, score: Score, views: Mapping[View, Mapping[str, Score]]) -> MetricRow:
        return MetricRow(
            name,
            score,
            views["shuffled"].get(name),
            self.outcome.baseline.get(name),
            no_picture=views["no_picture"].get(name),
            no_text=views["no_text"].get(name),
            is_share=name != "CIDEr",
            largest=1.0,
        )

    def kind_rows(self) -> list[MetricRow]:
        """Scores by kind of question, or by language."""
        return [
            MetricRow(
                f"{name}: {kind}",
                score,
                self._of_kind("shuffled", name, kind),
                no_picture=self._of_kind("no_picture", name, kind),
                no_text=self._of_kind("no_text", name, kind),
            )
            for name, kinds in self.outcome.by_kind.items()
            for kind, score in kinds.items()
        ]

    def _of_kind(self, view: View, name: str, kind: str) -> Score | None:
        return self.blind[view].by_kind.get(name, {}).get(kind)


class Stages:
    """Turns the (done, total, what) calls of preparation into one bar after another.

    Args:
        console: where people look.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.what, self.bar = "", None  # type: str, Bar | None

    def __call__(self, done: int, total: int, what: str) -> None:
        """Advance the bar of `what`, which starts with its first call."""
        if self.bar is None or what != self.what:
            self.close()
            self.what, self.bar = what, Bar(self.console, what, "items", total)
        self.bar.update(done, total=total)
        if done == total:
            self.close()

    def close(self) -> None:
        """End the bar that is open."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def open_prepared(pipeline: Pipeline, split: str, console: Console) -> tuple[list[Example], Ledger]:
    """Open a split of the data that the pipeline's config names, checked and encoded where towers are frozen."""
    stages = Stages(console)
    try:
        dataset = prepare(
            pipeline, open_dataset(pipeline.config.data, split, pipeline.config.seed), cache_root(), stages
        )
    finally:
        stages.close()
    examples = [dataset.example(number) for number in range(len(dataset))]
    tell_cut_texts(pipeline.codec.tokenizer, examples, dataset.ledger, split, console)
    return examples, dataset.ledger


def tell_cut_texts(
    tokenizer: TextTokenizer, examples: Iterable[Example], ledger: Ledger, split: str, console: Console
) -> None:
    """Say how many texts are too long for the model and are read without their ends; the ledger says which."""
    texts = cut = 0
    for example in examples:
        own = list(texts_of([example]))
        long = sum(len(tokenizer.pieces(text)) > tokenizer.room for text in own)
        texts, cut = texts + len(own), cut + long
        if long:
            ledger.note(
                example.source, "text_cut", f"{long} of its {len(own)} texts are cut to {tokenizer.room} tokens"
            )
    if cut:
        console.print(
            f"[yellow]{split}: {cut:,} of {texts:,} texts are longer than {tokenizer.room} tokens and are read without "
            "their ends; train with a larger model.text.max_tokens to read them whole[/yellow]",
            highlight=False,
            soft_wrap=True,
        )


def measure(pipeline: Pipeline, examples: Sequence[Example], ledger: Ledger, split: str, console: Console) -> Measured:
    """Evaluate a prepared split four times: as it is, with pictures shuffled, without pictures, without texts."""
    if len(examples) < 2:
        raise InputError(f"usable examples in split {split!r}: {len(examples)}", "at least 2", "give more data")
    views: tuple[View, ...] = ("seen", "shuffled", "no_picture", "no_text")
    found: dict[View, Outcome] = {}
    with bar(console, "evaluating", "pictures", len(views) * len(examples)) as shown:
        for number, view in enumerate(views):
            before, what = number * len(examples), view.replace("_", " ")
            found[view] = evaluate(
                pipeline,
                examples,
                view,
                lambda done, _, before=before, what=what: shown.update(before + done, what),  # type: ignore[misc]
            )
    seen = found.pop("seen")
    if not seen.scores:
        raise InputError(
            f"split {split!r} has nothing that the tasks {', '.join(pipeline.tasks)} can be scored on",
            "captions for retrieval and captioning, questions for vqa",
            "check the data's columns, or the languages in data.languages",
        )
    return Measured(split, examples, seen, found, ledger)


def fit_calibration(pipeline: Pipeline, examples: Sequence[Example]) -> dict[str, Calibration]:
    """Fit on validation what makes confidences probabilities, and the threshold for abstaining where one is asked for.

    Answers out of a softmax, and labels, get a temperature (Guo et al. 2017); soft and written answers, matches and
    captions one probability each, by Platt scaling. `evaluate.certainty` says of which events.

    Returns:
        Task name -> what was fitted; without what stays as it is, such as an event that never happens on validation.
    """
    pipeline.codec.calibration.clear()
    seen = evaluate(pipeline, examples)
    fitted: dict[str, Calibration] = {}
    for name, task in pipeline.tasks.items():
        if isinstance(task, VisualQuestionAnswering):
            fitted[name] = _fit_answers(pipeline, task, examples, seen)
        elif isinstance(task, Matching) and seen.matched:
            fitted[name] = _platt([one.prediction for one in seen.matched], [one.is_match for one in seen.matched])
        elif isinstance(task, Captioning):
            fitted[name] = _fit_captions(seen, examples)
        elif isinstance(task, Retrieval) and seen.choices and pipeline.model.logit_scale is not None:
            scale = pipeline.model.logit_scale.exp().item()
            logits = scale * np.stack([one.similarity for one in seen.choices]).astype(np.float64)
            fitted[name] = Calibration(fit_temperature(logits, np.array([one.true for one in seen.choices])))
    return {name: how for name, how in fitted.items() if how != Calibration()}


def _fit_answers(
    pipeline: Pipeline, task: VisualQuestionAnswering, examples: Sequence[Example], seen: Outcome
) -> Calibration:
    how = Calibration()
    if task.objective == "softmax":
        logits, right = _answer_logits(pipeline, task, examples)
        how = Calibration(fit_temperature(logits, right) if len(right) else 1.0)
    elif seen.answered:
        how = _platt([one.prediction for one in seen.answered], [one.right >= 0.5 for one in seen.answered])
    if task.config.abstain_risk:
        pipeline.codec.calibration[task.name] = how
        answered = evaluate(pipeline, examples).answered
        confidence = np.array([one.prediction.confidence for one in answered])
        below = abstain_threshold(confidence, [one.right >= 0.5 for one in answered], task.config.abstain_risk)
        how = replace(how, abstain_below=below)
    return how


def _fit_captions(seen: Outcome, examples: Sequence[Example]) -> Calibration:
    """By the truth of each caption where it is known, else by being as near to what people wrote as the middle one."""
    judged = [one for one in seen.captioned if one.right is not None]
    if judged:
        return _platt([one.prediction for one in judged], [bool(one.right) for one in judged])
    if "ROUGE_L" not in seen.items:
        return Calibration()
    near = seen.items["ROUGE_L"].values
    near_from = float(np.median(near))
    predictions = [one.prediction for one, _ in captions_with_references(seen, examples)]
    return replace(_platt(predictions, near >= near_from), near_from=near_from) if near_from > 0 else Calibration()


def _platt(predictions: Sequence[Prediction], happened: npt.ArrayLike) -> Calibration:
    """As it is where it always happens, or never: nothing can be learned of when."""
    is_true = np.asarray(happened, dtype=np.bool_)
    if is_true.all() or not is_true.any():
        return Calibration()
    own = [one.confidence if one.uncalibrated is None else one.uncalibrated for one in predictions]
    temperature, bias = fit_platt([logit_of(one) for one in own], is_true)
    return Calibration(temperature, bias=bias)


def _answer_logits(
    pipeline: Pipeline, task: VisualQuestionAnswering, examples: Sequence[Example]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Logits and right answers of all questions whose answer the model knows."""
    rows, right = [], []
    for start in range(0, len(examples), CHUNK):
        part = examples[start : start + CHUNK]
        asked = [(row, q, pipeline.codec.answer_index(q.answers[0])) for row, e in enumerate(part) for q in e.questions]
        known = [(row, question.text, answer) for row, question, answer in asked if answer is not None]
        if known:
            tokens = pipeline.encode_pixels(
                image_tensor(part, pipeline.config.model.image, pipeline.config.data.workers)
            )
            texts, of = [text for _, text, _ in known], [row for row, _, _ in known]
            rows.append(task.logits(pipeline.model, pipeline.codec, tokens, texts, of).double().cpu().numpy())
            right += [answer for _, _, answer in known]
    return (np.concatenate(rows) if rows else np.zeros((0, 1))), np.array(right, dtype=np.int64)
