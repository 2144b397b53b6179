"""One run from config to complete folder: data, model, loop, final numbers, report, manifest."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from chiasm.core.config import as_typed, keys, to_dict
from chiasm.core.device import choose_precision, environment, keep_freed_memory, pick_device
from chiasm.core.distributed import barrier, broadcast_from_rank0, process_group, rank
from chiasm.core.errors import InputError, nearest
from chiasm.core.files import cache_root, folder_lock, read_json
from chiasm.core.log import bar
from chiasm.core.run_folder import MANIFEST, newest_checkpoint, verify_folder
from chiasm.core.types import Example, Score
from chiasm.data.dataset import Dataset, count_first_examples, evenly_spread, examples_of, first_examples
from chiasm.data.leaks import open_training
from chiasm.data.ledger import kept_where_refused
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.evaluate.calibrating import Fitted, fit_calibration
from chiasm.evaluate.encoded_once import EncodedOnce
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import ProgressBars, warn_cut_texts
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.decoding import check_decoding
from chiasm.models.lora import merge_lora
from chiasm.models.projection import class_heads, set_class_share
from chiasm.pipeline.codec import codec_from, make_codec
from chiasm.pipeline.domain_fitting import fit_domain
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.requirements import check_fed
from chiasm.pipeline.teacher_targets import attach_teacher_targets
from chiasm.pipeline.tokenizers import has_tokenizer_for, tokenizer_from
from chiasm.pipeline.zero_shot_starter import STARTER, take_classes
from chiasm.train.adaptation import (
    IMAGE_SIDE,
    TEXT_SIDE,
    adapted,
    apply_text_teacher,
    begins_from_run,
    begun,
    has_text_teacher,
    prepare_model,
    pretrained_names,
    starter_note,
    trains_space,
)
from chiasm.train.class_share import LARGEST_SHARE, training_share
from chiasm.train.config import (
    RunConfig,
    config_of,
    primary_metric,
    stored_run_config,
    validated_examples,
    weighed_tasks,
)
from chiasm.train.curves import TensorBoard
from chiasm.train.finish import Finished, finish, limit_forgetting, measure_finally
from chiasm.train.forgetting import RetentionCheck
from chiasm.train.from_network import in_network
from chiasm.train.heads import fit_heads
from chiasm.train.loader import Loader
from chiasm.train.own_examples import with_own_examples
from chiasm.train.rates import rate_note, warmup_note
from chiasm.train.trainer import Hooks, Trainer

MAY_CHANGE = ("train.shards", "train.process_timeout_s")
"""Ends of the keys that a resumed run may set anew."""
VOCABULARY_EXAMPLES = 4096
"""Generated examples that the vocabularies are learned from; every word of a generator occurs in far fewer."""

MEASURED_FIRST = 8
"""Examples with questions, and with captions, that are evaluated before training to check the primary metric."""


def run(
    config: RunConfig,
    folder: Path,
    resume: bool,
    console: Console,
    tokenizer: TextTokenizer | None = None,
    also_held_out: Sequence[RunConfig] = (),
) -> Finished | None:
    """Train the configured run into `folder`, together with the other processes if torchrun started several.

    Only rank 0 evaluates, writes and prints; the other processes return None.

    Args:
        config: complete; checked again here.
        folder: the run folder; created.
        resume: go on from the newest complete checkpoint in it; starts anew where there is none.
        console: receives progress bars and messages.
        tokenizer: words and ids, shared by the stages of a run; None learns one or takes that of `init_from`.
        also_held_out: runs whose held-out splits this one must not train on, beside its own: this one is a stage before
            them, and its final measurement is limited to `train.validate_examples` too.

    Raises:
        InputError: wrong config or data; an image both trained on and held out; a folder that holds another run; a
            resume with another config.
        Interrupted: stopped by a signal, state saved.
        JobError: training broke.
    """
    config = begun(apply_text_teacher(in_network(adapted(config))))
    config.check()
    check_decoding(config.decoding, config.model.text.max_tokens)
    keep_freed_memory()
    with process_group(config.train.process_timeout_s), held(folder) as is_first, kept_where_refused(folder, is_first):
        console = console if rank() == 0 else Console(quiet=True)
        checkpoint = _starting_point(config, folder, resume, console)
        barrier()  # no process writes before all have read the folder
        precision = _precision(config, checkpoint, console)
        training, validation = _open(config, also_held_out, console)
        pipeline, pretrained = _build(config, training, checkpoint, tokenizer, console)
        prepare_model(pipeline.model, config)
        training, ready, unchecked = _prepare(pipeline, training, validation, folder, checkpoint is None, console)
        _check_measurable(pipeline, ready)
        trainer = _trainer(pipeline, training, ready, folder, console)
        if class_heads(pipeline.model) and trains_space(trainer.names):
            set_class_share(pipeline.model, _share_in_training(pipeline, len(training)))
        trainer.start(checkpoint, *precision, pretrained)
        if checkpoint is None and config.train.steps + config.train.epochs > 0:
            # Weights of an earlier stage do not count as pre-trained: the recipe sets the learning rate for them.
            _print_plan(trainer, pretrained if tokenizer is None else frozenset(), console)
        _fit(trainer, folder, console)
        if rank() != 0:
            return None
        merge_lora(pipeline.model)
        make_batch_invariant(pipeline.model)
        forgetting = limit_forgetting(trainer, console)
        final = _validated(pipeline, ready) if also_held_out else ready
        encoded = EncodedOnce(pipeline, final)
        fitted = _calibrated(pipeline, encoded, console)
        pipeline.domain = fit_domain(pipeline, vocabulary_examples(training), ready)
        measured = measure_finally(pipeline, encoded, unchecked, fitted, console)
        return finish(trainer, training, measured, forgetting, folder, console)


def _calibrated(pipeline: Pipeline, encoded: EncodedOnce, console: Console) -> Fitted:
    """Fit calibration on the encoded examples, and set it."""
    with bar(console, "calibrating", "images", len(encoded.examples)) as shown:
        fitted = fit_calibration(pipeline, encoded.examples, encoded, lambda done, _: shown.update(done))
    return fitted.apply(pipeline)


def _open(config: RunConfig, also_held_out: Sequence[RunConfig], console: Console) -> tuple[Dataset, Dataset]:
    """Training and validation, which hold what the tasks need; no image is decoded yet."""
    training, message = open_training(config, also_held_out)
    for note in filter(None, (starter_note(config), message)):
        console.print(f"[yellow]{escape(note)}[/yellow]", highlight=False)
    validation = open_dataset(config.data, "val", config.seed)
    check_fed(config, training, validation)
    return training, validation


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock the folder in rank 0 for all processes; yields True in rank 0."""
    if rank() != 0:
        yield False
        return
    with folder_lock(folder):
        yield True


def check_unused(folder: Path) -> None:
    """Raise InputError if the folder has a run already."""
    if (folder / MANIFEST).exists() or any((folder / "checkpoints").glob("step-*")):
        raise InputError(
            f"{folder} already holds a run",
            "an empty or new folder",
            "add --resume to go on with it, or give another --out",
        )


def check_same(stored: RunConfig, config: RunConfig, folder: Path) -> None:
    """Raise InputError if a resumed run has another config; names the first key that differs.

    `MAY_CHANGE` are free, because the steps are the same.
    """
    before, now = dict(keys(stored)), dict(keys(config))
    changed = [key for key in now if before.get(key) != now[key]] + [key for key in before if key not in now]
    changed = [key for key in changed if not key.endswith(MAY_CHANGE)]
    if changed:
        key = changed[0]
        stored_value = before.get(key)
        raise InputError(
            f"{key} is {now.get(key)!r}, but the run in {folder} was started with {stored_value!r}",
            "the same config as before",
            f"--set {key}={as_typed(stored_value)}, or start a new run with another --out",
        )


def _starting_point(config: RunConfig, folder: Path, resume: bool, console: Console) -> Path | None:
    """The checkpoint to resume from, or None; raises InputError if a new run finds another one in the folder."""
    if not resume:
        check_unused(folder)
        return None
    found, problems = newest_checkpoint(folder / "checkpoints")
    for problem in problems:
        console.print(f"[yellow]skipped a checkpoint: {problem}[/yellow]")
    if found is not None:
        stored = stored_run_config(read_json(found / "config.json", "the config"), f"{found}/config.json")
        check_same(stored, config, folder)
        console.print(f"going on from {found.name}")
    return found


def _precision(config: RunConfig, checkpoint: Path | None, console: Console) -> tuple[str, str]:
    """Number format and its reason; ("", "") for a resumed run, which keeps its format."""
    if checkpoint is not None:
        return "", ""
    chosen, why = choose_precision(config.train.precision, pick_device())
    if config.train.precision != "auto":
        return chosen, why
    if broadcast_from_rank0([float(chosen == "bf16")])[0] != float(chosen == "bf16"):
        chosen = "fp32" if chosen == "bf16" else "bf16"
    console.print(f"precision: {why}")
    return chosen, why


def vocabulary_examples(training: Dataset) -> Iterator[Example]:
    """Examples that vocabularies are learned from: all of a user's, the first few thousand of a generator's."""
    return first_examples(training, VOCABULARY_EXAMPLES)


def _build(
    config: RunConfig, training: Dataset, checkpoint: Path | None, tokenizer: TextTokenizer | None, console: Console
) -> tuple[Pipeline, frozenset[str]]:
    """Build the pipeline; also returns the names of the parameters that are not newly initialised.

    A resumed run uses the saved vocabularies; its checkpoint has the rest of the state.
    """
    examples = list(vocabulary_examples(training))
    weighed = weighed_tasks(config)
    if checkpoint is not None:
        pipeline = Pipeline.build(config, examples, pick_device(), codec_from(config, checkpoint), weighed)
        pipeline.take_weights(checkpoint)  # a frozen tower encodes before the trainer reads the rest of the state
        return pipeline, frozenset()
    learns_words = has_text_teacher(config)
    if tokenizer is None and begins_from_run(config) and not learns_words:
        verify_folder(before := Path(config.init_from), "run")
        tokenizer = tokenizer_from(config, before) if has_tokenizer_for(config, before) else None
    pipeline = Pipeline.build(config, examples, pick_device(), make_codec(config, examples, tokenizer), weighed)
    taken: list[str] = []
    if class_heads(pipeline.model):
        take_classes(pipeline)  # what a run of init_from has of them replaces these
        if config.init_from == STARTER:
            console.print(f"begins in the space of the {STARTER}", highlight=False)
    if begins_from_run(config):
        parts = (TEXT_SIDE, IMAGE_SIDE) if learns_words else ((), ())
        taken, own = pipeline.take_weights(Path(config.init_from), *parts)
        console.print(f"weights of {config.init_from}: {len(taken)} tensors taken, {own} start anew", highlight=False)
    names = [name for name, _ in pipeline.model.named_parameters()]
    return pipeline, pretrained_names(names, config.model, taken)


def _share_in_training(pipeline: Pipeline, examples: int) -> float:
    """Share of the class space during training: by the number of examples, or that of the run in `init_from`.

    The share stays below 1, because the trained half of the projection gets no gradient at 1.
    """
    if config_of(pipeline).init_from == STARTER:
        return training_share(examples)
    return min(float(class_heads(pipeline.model)[0].share), LARGEST_SHARE)


def _print_plan(trainer: Trainer, pretrained: frozenset[str], console: Console) -> None:
    """Print the length with its reason, the chosen learning rate, and warnings on learning rate and warm-up."""
    train, sizes = trainer.run.train, trainer.sizes(pretrained)
    console.print(f"length: {trainer.length.why}", highlight=False, soft_wrap=True)
    if not train.lr:
        console.print(f"learning rate {trainer.progress.lr_why}", highlight=False)
    for warning in (rate_note(train, *sizes), warmup_note(train, sizes[-1])):
        if warning:
            console.print(warning, highlight=False, markup=False, style="yellow")


def _prepare(
    pipeline: Pipeline, training: Dataset, validation: Dataset, folder: Path, is_new: bool, console: Console
) -> tuple[Dataset, Sequence[Example], Dataset]:
    """Check or encode both splits, add what the model makes itself, and fit the linear-probe heads of a new run.

    Returns training, validation examples and the validation set.
    """
    bars = ProgressBars(console)
    try:
        training = prepare(pipeline, training, cache_root(), bars)
        if has_text_teacher(config_of(pipeline)):
            teacher = Pipeline.load(Path(config_of(pipeline).init_from), pipeline.device)
            training = attach_teacher_targets(teacher, training, cache_root(), bars)
        validation = prepare(pipeline, validation, cache_root(), bars)
        training = with_own_examples(pipeline, training, folder, is_new, bars)
        ready = examples_of(validation)
        _check_examples(pipeline, training, ready, bars)
    finally:
        bars.close()
    for dataset in (training, validation):
        if dataset.ledger.rejected:
            console.print(f"[yellow]{dataset.split}: {dataset.ledger.summary()}[/yellow]", highlight=False)
    learned_from = ((part, vocabulary_examples(part)) for part in training.parts.values())
    for dataset, examples in [*learned_from, (validation, ready)]:
        warn_cut_texts(pipeline.codec.tokenizer, examples, dataset.ledger, dataset.split, console)
    if is_new:
        fit_heads(pipeline, training, console)
    return training, ready, validation


def _check_examples(pipeline: Pipeline, training: Dataset, ready: Sequence[Example], bars: ProgressBars) -> None:
    """Let each task check the examples that it is trained and validated on."""
    size = count_first_examples(training, VOCABULARY_EXAMPLES)
    for task in pipeline.tasks.values():
        shown = bars.counted(vocabulary_examples(training), size, f"checking examples of {task.name}")
        task.check_examples(pipeline.model, pipeline.codec, shown)
        task.check_examples(pipeline.model, pipeline.codec, ready)


def _check_measurable(pipeline: Pipeline, ready: Sequence[Example]) -> None:
    """Check before training that the primary metric can be measured."""
    config = config_of(pipeline)
    sizes = {"val": len(ready)}
    if config.test_split != "val":
        sizes[config.test_split] = len(open_dataset(config.data, config.test_split, config.seed))
    for split, size in sizes.items():
        if size < 2:
            raise InputError(f"split {split!r} has {size} examples", "at least 2", "give more data")
    with_questions = islice((example for example in ready if example.questions), MEASURED_FIRST)
    with_captions = islice((example for example in ready if example.captions), MEASURED_FIRST)
    primary = primary_metric(config)
    for examples in ([*with_questions, *with_captions], ready):
        scores = evaluate(pipeline, examples, wanted=primary).scores if len(examples) > 1 else {}
        if primary in scores:
            return
    raise InputError(
        f"primary_metric is {primary!r}, which is not measured on these data{nearest(primary, scores)}",
        "one of " + ", ".join(scores),
        f"--set primary_metric={next(iter(scores), '...')}",
    )


def _validated(pipeline: Pipeline, examples: Sequence[Example]) -> Sequence[Example]:
    """Those that validations during training measure."""
    count = validated_examples(config_of(pipeline), len(examples))
    return examples if count == len(examples) else [examples[place] for place in evenly_spread(len(examples), count)]


def _trainer(
    pipeline: Pipeline, training: Dataset, ready: Sequence[Example], folder: Path, console: Console
) -> Trainer:
    config = config_of(pipeline)
    files = {"config.json": to_dict(config), "environment.json": environment()}
    loader = Loader(training, pipeline.tasks, pipeline.codec, config)
    hooks = _hooks(pipeline, ready, files, training, console)
    return Trainer(pipeline, loader, folder, hooks, primary_metric(config))


def _hooks(
    pipeline: Pipeline, examples: Sequence[Example], files: Mapping[str, object], training: Dataset, console: Console
) -> Hooks:
    some, primary = _validated(pipeline, examples), primary_metric(config_of(pipeline))

    def validate(encoded: EncodedOnce | None = None) -> Mapping[str, Score]:
        scores = evaluate(pipeline, some, wanted=primary, encoded=encoded).scores
        for task in pipeline.tasks.values():
            if alarm := task.alarm(pipeline.model, scores):
                console.print(alarm, highlight=False, markup=False, style="yellow", soft_wrap=True)
        return scores

    def validate_together() -> Mapping[str, Score]:
        encoded = EncodedOnce(pipeline, some)
        encoded.share()
        return validate(encoded) if rank() == 0 else {}

    def extra_files() -> dict[str, bytes]:
        content = {name: json.dumps(value, indent=2, ensure_ascii=False).encode() for name, value in files.items()}
        return {**content, **pipeline.codec_files()}

    is_watched = bool(config_of(pipeline).train.retention.path) and rank() == 0
    return Hooks(validate, validate_together, extra_files, RetentionCheck(pipeline, console) if is_watched else None)


def _fit(trainer: Trainer, folder: Path, console: Console) -> None:
    barrier()  # encoding with frozen towers takes one process longer than another
    progress = trainer.progress
    watched = console if progress.total_steps else Console(quiet=True)
    board = TensorBoard(folder, progress.step) if rank() == 0 else None
    try:
        with bar(watched, "training", "steps", progress.total_steps) as shown:
            shown.update(progress.step)
            trainer.fit(shown, board)
    finally:
        if board is not None:
            board.close()
