"""How long OpenMP threads should spin while they wait: training speed alone, and beside a second job.

Command: python benchmarks/threads.py
"""

import os
import subprocess
import sys

SETTINGS = {
    "default": {},
    "sleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "short spin (chiasm's)": {"GOMP_SPINCOUNT": "20000"},
}
CHILD = """
import time
from chiasm.core.config import override
from chiasm.data.opening import open_dataset
from chiasm.core.device import keep_freed_memory, pick_device
from chiasm.recipes.table import find_recipe
from chiasm.pipeline.pipeline import Pipeline
from chiasm.train.loader import Loader
from chiasm.train.trainer import Hooks, Trainer
from pathlib import Path
keep_freed_memory()
config = override(find_recipe("demo"), ["train.batch_size=32"])
data = open_dataset(config.data, "train", 0)
pipeline = Pipeline.build(config, [data.example(n) for n in range(300)], pick_device())
loader = Loader(data, pipeline.tasks, pipeline.codec, config)
trainer = Trainer(pipeline, loader, Path(), Hooks(dict, dict, dict), "")
trainer.start(None, "bf16", "")
start, done = None, 0
for batches in loader.ahead(0, 10_000):
    trainer.step(batches)
    start = start or time.monotonic()
    done += 1
    if time.monotonic() - start > 8:
        break
print((done - 1) / (time.monotonic() - start))
"""


def speed(settings: dict[str, str], jobs: int) -> list[float]:
    """Steps a second of `jobs` training processes at once."""
    environment = {**os.environ, **settings}
    running = [
        subprocess.Popen([sys.executable, "-c", CHILD], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(jobs)
    ]
    return [float(child.communicate()[0]) for child in running]


def main() -> None:
    """Three rounds, settings in turn."""
    for jobs in (1, 2):
        for turn in range(3):
            for name, settings in SETTINGS.items():
                found = ", ".join(f"{one:.2f}" for one in speed(settings, jobs))
                print(f"{jobs} job(s), round {turn + 1}, {name:<22} {found} steps/s")


if __name__ == "__main__":
    main()
