"""Estimate of a run's size and time on this machine: sizes are counted, each phase is timed on a small sample.

The only files written are features of the timed examples in the cache of frozen towers.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from chiasm.core.device import choose_precision, keep_freed_memory, peak_memory_bytes, pick_device
from chiasm.core.distributed import world_size
from chiasm.core.files import cache_root
from chiasm.core.types import Batch, Example
from chiasm.data.dataset import Dataset, Subset, evenly_spread, examples_of
from chiasm.data.leaks import open_training
from chiasm.data.modalities.image import images_of
from chiasm.data.opening import open_dataset
from chiasm.evaluate.encoded_once import CHUNK
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import VIEWS, ProgressBars
from chiasm.models.projection import class_heads
from chiasm.pipeline.batching import image_tensor, make_batch
from chiasm.pipeline.feature_cache import not_cached, prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.requirements import check_fed
from chiasm.pipeline.zero_shot_starter import STARTER, starter_pipeline, take_classes
from chiasm.train.adaptation import adapted, apply_text_teacher, begins_from_run, begun, prepare_model, pretrained_names
from chiasm.train.class_share import SHARES
from chiasm.train.config import RunConfig, primary_metric, validated_examples, weighed_tasks
from chiasm.train.from_network import in_network
from chiasm.train.interpolation import ALPHAS
from chiasm.train.length import Length, fitting_batch, planned_length
from chiasm.train.loader import Loader
from chiasm.train.memory import StepMemory, predict_memory
from chiasm.train.stages import stage_config
from chiasm.train.trainer import Hooks, Trainer

TIMED_STEPS, WARM_UP_STEPS = 12, 2
"""Steps that are run, and the number of initial steps that are not timed because memory is still allocated."""
TIMED_PARTS = 2
"""Parts of a step that are timed, where `train.accumulate` has more."""
LONGEST_S = 20.0
"""Seconds after which no further step is timed."""
TIMED_IMAGES, TIMED_TEXTS = 48, 192
FEW = 8
"""Images that an evaluation is timed on where more would take longer than `LONGEST_S`."""
LONG_CAPTION = 95
"""Percentile of caption lengths at which a trained decoder is assumed to have ended all captions of a batch."""


@dataclass(frozen=True, slots=True)
class PassTime:
    """Seconds of a pass of evaluation."""

    fixed_s: float
    """What does not grow with the images, such as plain questions put to a language model."""
    image_s: float

    def of(self, images: int) -> float:
        """Seconds of a pass over so many images; blind views are further images of the same pass."""
        return self.fixed_s + images * self.image_s


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each part of a run."""

    opening_s: float
    """Importing libraries, reading the data's files and building the model."""
    encoding_s: float
    """Images and texts that frozen towers have not encoded yet; or reading every image once."""
    training_s: float
    validation_s: float
    measuring_s: float
    """After the last step: calibration, the final split in its views, and what is mixed or compared with the start."""

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.opening_s + self.encoding_s + self.training_s + self.validation_s + self.measuring_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sizes and times of a run."""

    parameters: int
    trained_parameters: int
    memory: StepMemory
    """Predicted from counts."""
    peak_bytes: int
    """Largest memory of this process, which has taken a few steps of at most `TIMED_PARTS` parts."""
    training_pictures: int
    steps: int
    steps_why: str
    step_s: float
    """Median of a few steps with the batches they wait for, measured now."""
    validations: int
    times: Times
    """Of the run itself, or of its last stage."""
    to_encode: tuple[int, int]
    """Images and texts that are not in the cache."""
    precision: str
    limit_s: float
    """Time limit of training with its validations; 0 where the recipe has none."""
    lr: float
    """Peak learning rate: set, or chosen by the sizes."""
    lr_why: str
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each stage before the run's own."""

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages_s.values()) + self.times.total_s

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "total_s": self.total_s, "memory_bytes": self.memory.total_bytes}

    def text(self) -> str:
        """The estimate as text for the console."""
        times = self.times
        is_cut = 0 < self.limit_s < self.steps * self.step_s + times.validation_s
        limit = f"\n  train.limit_s ends training after {self.limit_s / 60:.1f} minutes, with fewer steps"
        parts = {f"stage {name}": seconds for name, seconds in self.stages_s.items()}
        parts |= {
            "opening the data and the model": times.opening_s,
            f"encoding {self.to_encode[0]:,} images and {self.to_encode[1]:,} texts": times.encoding_s,
            f"{self.steps:,} steps of {self.step_s * 1000:.0f} ms ({self.precision})": times.training_s,
            f"{self.validations} validations": times.validation_s,
            "measuring what was trained": times.measuring_s,
        }
        return (
            f"parameters: {self.parameters:,}, of which {self.trained_parameters:,} are trained\n"
            f"{self.memory.text()}; this process has had {self.peak_bytes / 2**20:,.0f} MiB so far\n"
            f"training images: {self.training_pictures:,}\n"
            f"length: {self.steps_why}\n"
            f"learning rate: {self.lr_why}\n"
            f"time: about {self.total_s / 60:.1f} minutes here, by a little of each part done now:\n"
            + "\n".join(f"  {seconds / 60:5.1f}  {what}" for what, seconds in parts.items())
            + (limit if is_cut else "")
        )


def estimate(config: RunConfig, console: Console) -> Estimate:
    """Build the run and its stages in memory, and time a sample of encoding, training and evaluation for each."""
    imported_s = time.process_time()
    # Not adapted: what the run itself freezes, a stage may train.
    stages = {
        name: _estimate(stage_config(config, stage, ""), console, is_stage=True).times.total_s
        for name, stage in config.stages.items()
    }
    return replace(_estimate(replace(config, stages={}), console, imported_s), stages_s=stages)


def _estimate(config: RunConfig, console: Console, imported_s: float = 0.0, is_stage: bool = False) -> Estimate:
    started = time.perf_counter()
    config = begun(apply_text_teacher(in_network(adapted(config))))
    config.check()
    keep_freed_memory()
    device = pick_device()
    chosen, why = choose_precision(config.train.precision, device)
    training = open_training(config).dataset
    held_out = [open_dataset(config.data, split, config.seed) for split in ("val", config.test_split)]
    check_fed(config, training, held_out[0])
    size = len(training)
    length, config = _with_length(config, size)
    learned_from = islice((training.example(n) for n in range(size)), 4096)
    pipeline = Pipeline.build(config, learned_from, device, learned_weights=weighed_tasks(config))
    names = [name for name, _ in pipeline.model.named_parameters()]
    pretrained = pretrained_names(names, config.model, names if begins_from_run(config) else ())
    if config.init_from == STARTER and class_heads(pipeline.model):
        take_classes(pipeline)
    prepare_model(pipeline.model, config)
    opening_s = imported_s + time.perf_counter() - started
    to_encode, encoding_s = _preparation(pipeline, [training, *held_out[: 1 + (config.test_split != "val")]])
    beside_s = _starter_s(config, held_out[1], device) if config.init_from == STARTER else 0.0
    short = _timed(config)
    shown = _shown(pipeline, training, max(short.train.batch_size, CHUNK), console)
    measured = _prepared(pipeline, held_out[0], CHUNK, console)
    trainer = Trainer(
        pipeline, Loader(training, pipeline.tasks, pipeline.codec, config), Path(), Hooks(dict, dict, dict), ""
    )
    trainer.start(None, chosen, why, pretrained)
    trained = trainer.sizes(pretrained)[0]
    total = sum(parameter.numel() for parameter in pipeline.model.parameters())
    memory = predict_memory(trainer, partial(_few, trainer, shown))
    trainer.loader = Loader(shown, pipeline.tasks, pipeline.codec, short)
    step_s = _step_s(trainer) * config.train.accumulate / short.train.accumulate
    validations, validation_s, measuring_s = _measuring(pipeline, config, held_out, measured, length.steps, is_stage)
    training_s = length.steps * step_s
    if config.train.limit_s:
        training_s = min(training_s, max(0.0, config.train.limit_s - validation_s))
    return Estimate(
        parameters=total,
        trained_parameters=trained,
        memory=memory,
        peak_bytes=peak_memory_bytes(),
        training_pictures=size,
        steps=length.steps,
        steps_why=length.why,
        step_s=step_s,
        validations=validations,
        times=Times(opening_s, encoding_s, training_s, validation_s, measuring_s + beside_s),
        to_encode=to_encode,
        precision=why,
        limit_s=config.train.limit_s,
        lr=trainer.progress.lr,
        lr_why=trainer.progress.lr_why,
    )


def _measuring(
    pipeline: Pipeline, config: RunConfig, held_out: Sequence[Dataset], sample: Dataset, steps: int, is_stage: bool
) -> tuple[int, float, float]:
    """Number of validations, seconds of all, and seconds of the measurement at the end, by a prepared sample."""
    timed = [sample.example(n) for n in range(len(sample))]
    whole = _pass_time(pipeline, timed)
    validations = math.ceil(steps / (config.train.validate_every or max(1, steps // 10)))
    validated = validated_examples(config, len(held_out[0]))
    validation_s = validations * _pass_time(pipeline, timed, primary_metric(config)).of(validated)
    final = validated_examples(config, len(held_out[1])) if is_stage else len(held_out[1])
    after = _passes_after(pipeline, config)
    beside = after * whole.of(validated if is_stage else len(held_out[0]))
    return validations, validation_s, beside + whole.of(len(VIEWS) * final)


def _with_length(config: RunConfig, examples: int) -> tuple[Length, RunConfig]:
    """The length of a run on so many examples, and the config that keeps it, and its batch, on a few of them."""
    train = config.train
    batch_size = fitting_batch(train, examples, train.accumulate * world_size())
    length = planned_length(train, examples, batch_size)
    return length, replace(config, train=replace(train, steps=length.steps, batch_size=batch_size, least_batches=1))


def _timed(config: RunConfig) -> RunConfig:
    """The same with at most `TIMED_PARTS` parts a step: a step of many has as many times their seconds."""
    train = config.train
    parts = min(train.accumulate, TIMED_PARTS)
    batch_size = train.batch_size * parts // train.accumulate
    return replace(config, train=replace(train, batch_size=batch_size, accumulate=parts))


def _few(trainer: Trainer, dataset: Dataset, count: int) -> Batch:
    """A batch of the first examples."""
    pipeline = trainer.pipeline
    examples = [dataset.example(number % len(dataset)) for number in range(count)]
    return make_batch(examples, pipeline.tasks, pipeline.codec, trainer.run, 0)


def _some(dataset: Dataset, count: int) -> Dataset:
    """At most `count` examples, evenly spread over a split."""
    return Subset(dataset, evenly_spread(len(dataset), count))


def _prepared(pipeline: Pipeline, dataset: Dataset, count: int, console: Console) -> Dataset:
    """Some examples with the outputs of frozen towers."""
    bars = ProgressBars(console)
    try:
        return prepare(pipeline, _some(dataset, count), cache_root(), bars)
    finally:
        bars.close()


def _shown(pipeline: Pipeline, training: Dataset, count: int, console: Console) -> Dataset:
    """At most `count` examples to time steps with; of frozen towers a few, repeated: a step takes as long with them."""
    model, count = pipeline.config.model, min(count, len(training))
    few = _prepared(pipeline, training, CHUNK if model.image.frozen and model.text.frozen else count, console)
    return few if len(few) >= count else Subset(few, [number % len(few) for number in range(count)])


def _preparation(pipeline: Pipeline, datasets: Sequence[Dataset]) -> tuple[tuple[int, int], float]:
    """Numbers of images and texts to encode, and the seconds of all preparation before training."""
    config = pipeline.config
    if not (config.model.image.frozen or config.model.text.frozen or not config.data.is_generated):
        return (0, 0), 0.0
    images, distinct = list[Example](), dict[str, None]()
    for dataset in datasets:
        new_images, new_texts = not_cached(pipeline, examples_of(dataset), cache_root())
        images += new_images
        distinct |= dict.fromkeys(new_texts)
    texts = list(distinct)
    some_images = _spread(images, TIMED_IMAGES)
    workers = config.data.workers
    seconds = _texts_s(pipeline, texts)
    if some_images:
        spent = _seconds(lambda: pipeline.encode_pixels(image_tensor(some_images, pipeline.resizing, workers)))
        seconds += spent * len(images) / len(some_images)
    if not config.data.is_generated and not config.model.image.frozen:
        timed = [example for dataset in datasets for example in examples_of(_some(dataset, TIMED_IMAGES))]
        spent = _seconds(lambda: [image.load() for example in timed for image in images_of(example)])
        seconds += spent * sum(map(len, datasets)) / len(timed)
    return (len(images), len(texts)), seconds


def _starter_s(config: RunConfig, measured: Dataset, device: torch.device) -> float:
    """Seconds to open the starter, which is evaluated beside the run, and to encode inputs that are not cached."""
    started = time.perf_counter()
    starter = starter_pipeline(device)
    opening_s = time.perf_counter() - started
    starter.config = replace(starter.config, data=config.data)
    _, encoding_s = _preparation(starter, [measured])
    return opening_s + encoding_s


def _texts_s(pipeline: Pipeline, texts: Sequence[str]) -> float:
    """Seconds to encode all texts, extrapolated from a sample."""
    some = sorted(_spread(texts, TIMED_TEXTS), key=len)
    return _seconds(lambda: pipeline.encode_texts(some)) * len(texts) / len(some) if some else 0.0


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    return [items[place] for place in evenly_spread(len(items), count)]


def _step_s(trainer: Trainer) -> float:
    """Median seconds of a step, including the wait for its batch; the median is robust to short load peaks."""
    times, started = [], time.perf_counter()
    begun_at = started
    for batches in trainer.loader.ahead(0, TIMED_STEPS):
        trainer.step(batches)
        now = time.perf_counter()
        times.append(now - started)
        started = now
        if now - begun_at > LONGEST_S and len(times) > WARM_UP_STEPS:
            break
    return float(np.median(times[WARM_UP_STEPS:]))


def _pass_time(pipeline: Pipeline, examples: Sequence[Example], wanted: str = "") -> PassTime:
    """Time of one pass of evaluation, of one metric or of all; where it is slow, by a few images.

    One image is evaluated twice: the first time prepares what is kept (weights of eight bits), the second shows what a
    pass costs beside its images. An untrained decoder never emits an end token, so its length is capped at the usual
    length of trained captions.
    """
    words = [len(pipeline.codec.tokenizer.pieces(caption.text)) for example in examples for caption in example.captions]
    decoding = pipeline.codec.decoding
    if words:
        usual = max(int(np.percentile(words, LONG_CAPTION)) + 1, decoding.min_words)
        pipeline.codec.decoding = replace(decoding, max_words=min(usual, decoding.max_words or usual))
    pipeline.model.eval()

    def spent_s(count: int) -> float:
        return _seconds(lambda: evaluate(pipeline, _spread(examples, count), wanted=wanted))

    spent_s(1)
    one_s, count = spent_s(1), min(FEW, len(examples))
    some_s = spent_s(count)
    if count < len(examples) and some_s / count * len(examples) <= LONGEST_S:
        count = len(examples)
        some_s = spent_s(count)
    if count == 1 or some_s <= one_s:
        return PassTime(0.0, some_s / count)
    image_s = (some_s - one_s) / (count - 1)
    return PassTime(max(0.0, one_s - image_s), image_s)


def _passes_after(pipeline: Pipeline, config: RunConfig) -> int:
    """Passes over validation beside those of training: the check before it, calibration, mixing, and the start."""
    passes = 2
    if config.init_from == STARTER and class_heads(pipeline.model):
        passes += len(SHARES)
    if config.train.interpolate:
        passes += len(ALPHAS)
    return passes + (config.init_from == STARTER)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
