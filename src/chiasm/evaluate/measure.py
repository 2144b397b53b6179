"""Measure one split: the model's scores, and its scores with shuffled images, without images and without texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from chiasm.core.errors import InputError
from chiasm.core.files import cache_root
from chiasm.core.log import Bar, bar
from chiasm.core.types import Example, Score
from chiasm.data.dataset import examples_of, texts_of
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.evaluate.calibrating import Fitted, out_of_sample
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.memorisation import Nearest
from chiasm.evaluate.metric_row import MetricRow
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.requirements import check_scorable
from chiasm.tasks import TASKS
from chiasm.tasks.scoring import Outcome, View

VIEWS: tuple[View, ...] = ("seen", "shuffled", "no_picture", "no_text")
"""Views of the final measurement; each is one pass over the split."""


NO_SHARES = frozenset(name for task in TASKS.values() for name in task.no_shares)
"""Metrics that are no shares, and are printed as numbers."""


@dataclass(frozen=True, slots=True)
class SplitResult:
    """One measured split: its examples, the model's outcome on them, and its outcome in each blind view."""

    split: str
    examples: Sequence[Example]
    outcome: Outcome
    blind: Mapping[View, Outcome]
    """View ("shuffled", "no_picture", "no_text") -> the model's outcome in that view."""
    ledger: Ledger
    start: Outcome | None = None
    """Outcome of the model that training started from on the same examples; None if it was not measured."""
    nearest: Sequence[Nearest] = ()
    """For each of the first drawn images the training example that is most like it."""

    def rows(self) -> list[MetricRow]:
        """Rows of the table: score, blind scores and chance; the main metrics come first."""
        scores = self.outcome.scores
        wide = [name for name in scores if name.endswith(("@5", "@10"))]
        wide += [name for name in ("Bleu_1", "Bleu_2", "Bleu_3", "ROUGE_L") if name in scores]
        wide += [name for name in scores if name.startswith("pope_") and name != "pope_f1"]
        return [
            self._row(name, scores[name], {view: outcome.scores for view, outcome in self.blind.items()})
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
            is_share=name not in NO_SHARES,
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


class ProgressBars:
    """Callback (done, total, what) that draws one progress bar for each `what`, one after another.

    Args:
        console: output of the bars.
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

    def counted(self, examples: Iterable[Example], total: int, what: str) -> Iterator[Example]:
        """The examples, with a bar of `what` while they are read."""
        for number, example in enumerate(examples, 1):
            yield example
            self(number, total, what)

    def close(self) -> None:
        """End the bar that is open."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def open_prepared(pipeline: Pipeline, split: str, console: Console) -> tuple[Sequence[Example], Ledger]:
    """Open a split of the data that the pipeline's config names, checked and encoded where towers are frozen.

    Raises:
        InputError: as `open_dataset`; or no task can be scored on the split, raised before it is encoded.
    """
    dataset = open_dataset(pipeline.config.data, split, pipeline.config.seed)
    check_scorable([*pipeline.tasks.values()], dataset, pipeline.config.data)
    bars = ProgressBars(console)
    try:
        dataset = prepare(pipeline, dataset, cache_root(), bars)
    finally:
        bars.close()
    examples = examples_of(dataset)
    warn_cut_texts(pipeline.codec.tokenizer, examples, dataset.ledger, split, console)
    return examples, dataset.ledger


def warn_cut_texts(
    tokenizer: TextTokenizer, examples: Iterable[Example], ledger: Ledger, split: str, console: Console
) -> None:
    """Print the number of texts that are truncated to the model's length, and list them in the ledger."""
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


def measure(
    pipeline: Pipeline,
    examples: Sequence[Example],
    ledger: Ledger,
    split: str,
    console: Console,
    fitted: Fitted | None = None,
    encoded: EncodedOnce | None = None,
) -> SplitResult:
    """Evaluate a prepared split in four views: as it is, with images shuffled, without images, without texts.

    Scores that depend on calibration are cross-fitted if it was fitted on this split (`evaluate.calibrating`);
    `fitted` is the fit of a run that has just been trained, `encoded` what was encoded for it. The views share it.
    """
    if len(examples) < 2:
        raise InputError(f"usable examples in split {split!r}: {len(examples)}", "at least 2", "give more data")
    found: dict[View, Outcome] = {}
    encoded = encoded or EncodedOnce(pipeline, examples)
    with bar(console, "evaluating", "images", len(VIEWS) * len(examples)) as shown:
        for number, view in enumerate(VIEWS):
            before, what = number * len(examples), view.replace("_", " ")
            found[view] = evaluate(
                pipeline,
                examples,
                view,
                lambda done, _, before=before, what=what: shown.update(before + done, what),  # type: ignore[misc]
                encoded=encoded,
            )
    with_inputs = found.pop("seen")
    if not with_inputs.scores:
        raise InputError(
            f"split {split!r} has nothing that the tasks {', '.join(pipeline.tasks)} can be scored on",
            "captions for retrieval and captioning, questions for vqa, labels for classification",
            "check the data's columns, or the languages in data.languages",
        )
    out_of_sample(pipeline, examples, with_inputs, fitted)
    return SplitResult(split, examples, with_inputs, found, ledger)
