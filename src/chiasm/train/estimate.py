"""What a run will cost on this machine, before it is started: sizes by counting, time by running a few steps."""

import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.core.device import keep_freed_memory, measure_precision, pick_device
from chiasm.core.run_config import RunConfig
from chiasm.data.dataset import open_dataset
from chiasm.data.leaks import open_training
from chiasm.evaluate.measure import Stages
from chiasm.tasks.features import cache_root, prepare
from chiasm.tasks.feeding import check_fed
from chiasm.tasks.pipeline import Pipeline
from chiasm.train.adaptation import adapted, beside_teacher, prepare_model, pretrained_names
from chiasm.train.loader import Loader
from chiasm.train.trainer import Hooks, Trainer

TIMED_STEPS = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sizes and times of a run."""

    parameters: int
    trained_parameters: int
    weights_bytes: int
    """Weights, gradients, optimiser moments and bf16 copy; activations come on top."""
    training_pictures: int
    steps: int
    step_s: float
    """Median of a few steps, measured now."""
    precision: str
    limit_s: float
    """Time limit of the recipe; 0 where it has none."""
    lr: float
    """Peak learning rate: set, or chosen by the sizes."""
    lr_why: str

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def text(self) -> str:
        """For people."""
        whole_s = self.steps * self.step_s
        is_cut = 0 < self.limit_s < whole_s
        cut = f"\ntrain.limit_s ends it after {self.limit_s / 60:.1f} minutes, with fewer steps" if is_cut else ""
        return (
            f"parameters: {self.parameters:,}, of which {self.trained_parameters:,} are trained\n"
            f"memory for weights and optimiser: {self.weights_bytes / 2**20:.0f} MiB (activations come on top)\n"
            f"training pictures: {self.training_pictures:,}\n"
            f"learning rate: {self.lr_why}\n"
            f"time: about {whole_s / 60:.1f} minutes of training here "
            f"({self.steps:,} steps of {self.step_s * 1000:.0f} ms, measured on {TIMED_STEPS} steps; {self.precision})"
            f"{cut}"
        )


def estimate(config: RunConfig, console: Console) -> Estimate:
    """Build the run in memory and time a few steps; nothing is written but the cache of frozen features."""
    config = beside_teacher(adapted(config))
    config.check()
    keep_freed_memory()
    device = pick_device()
    chosen = config.train.precision
    why = f"{chosen} (set by train.precision)"
    if chosen == "auto":
        chosen, why = measure_precision(device)
    training = open_training(config).dataset
    check_fed(config, training, open_dataset(config.data, "val", config.seed))
    pipeline = Pipeline.build(config, islice((training.example(n) for n in range(len(training))), 4096), device)
    names = [name for name, _ in pipeline.model.named_parameters()]
    pretrained = pretrained_names(names, config.model, names if config.init_from else ())
    prepare_model(pipeline.model, config)
    stages = Stages(console)
    try:
        training = prepare(pipeline, training, cache_root(), stages)
    finally:
        stages.close()
    loader = Loader(training, pipeline.tasks, pipeline.codec, config)
    trainer = Trainer(pipeline, loader, Path(), Hooks(dict, dict), "")
    trainer.start(None, chosen, why, pretrained)
    times = []
    for batches in loader.ahead(0, TIMED_STEPS):
        start = time.perf_counter()
        trainer.step(batches)
        times.append(time.perf_counter() - start)
    trained = sum(kept.numel() for kept, _ in trainer.copy.pairs)
    copies = 16 + (2 if chosen == "bf16" else 0)
    total = sum(parameter.numel() for parameter in pipeline.model.parameters())
    steps = config.train.steps or max(1, round(config.train.epochs * loader.steps_per_epoch))
    return Estimate(
        parameters=total,
        trained_parameters=trained,
        weights_bytes=trained * copies + (total - trained) * 4,
        training_pictures=len(training),
        steps=steps,
        step_s=sorted(times)[len(times) // 2],
        precision=why,
        limit_s=config.train.limit_s,
        lr=trainer.state.progress.lr,
        lr_why=trainer.state.progress.lr_why,
    )
