"""Peak memory of a model: a process of its own opens it, answers, and prints its largest resident set.

`python -m chiasm.compress.peak_memory FOLDER` prints bytes. A process that has held another model cannot tell.
"""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from chiasm.core.device import keep_freed_memory, pick_device
from chiasm.core.errors import JobError
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.execution_plan import plan_execution
from chiasm.pipeline.interop.importing import open_pipeline

AT_ONCE = 16
"""Images and texts that are encoded together."""


def peak_memory_bytes(folder: Path) -> int:
    """Largest resident set of a process that opens a model and encodes 16 images and 16 texts.

    It contains Python and its libraries.

    Raises:
        JobError: the process failed; its last line says why.
    """
    done = subprocess.run([sys.executable, "-m", __name__, str(folder)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise JobError(f"the memory of {folder} could not be measured: {said}\n  do: open it with chiasm show")
    return int(done.stdout)


def _work(folder: Path) -> int:
    keep_freed_memory()
    pipeline = open_pipeline(folder, pick_device())
    plan_execution(pipeline)
    height, width = pipeline.config.model.image.shape_px
    images = [np.full((height, width, 3), number, dtype=np.uint8) for number in range(AT_ONCE)]
    pipeline.encode_pixels(stack_images(images, pipeline.resizing))
    pipeline.encode_texts([f"a photo of {number} dogs" for number in range(AT_ONCE)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.stdout.write(f"{_work(Path(sys.argv[1]))}\n")
