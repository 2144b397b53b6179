"""What this machine can do at most: matrix products, memory, decoding; and what a model asks of it.

Medians of a few rounds, with the threads that torch has. They are small probes of one moment: on a shared machine they
move as everything else does, so they are measured right before the models.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from chiasm.data.image import load_image

SIDE = 1024
"""Side of the square matrices."""
SLOW_SIDE = 128
"""Their side where a product takes more than `ENOUGH_S`: bf16 without instructions for it is 400 times slower."""
ENOUGH_S = 0.5
COPIED_BYTES = 1 << 27
"""Far more than the caches of a processor hold."""
ROUNDS = 5
JPEG = b"\xff\xd8"


def median_s(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median time of a call; a first call is not counted."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def products_per_s(name: str) -> float:
    """Multiplications and additions a second, both counted, of square matrices in "fp32", "bf16" or "int8"."""
    slow = _products_per_s(name, SLOW_SIDE)
    return slow if 2.0 * SIDE**3 / slow > ENOUGH_S else _products_per_s(name, SIDE)


def _products_per_s(name: str, side: int) -> float:
    operations = 2.0 * side**3
    if name == "int8":
        whole = torch.ones(side, side, dtype=torch.int8)
        return operations / median_s(lambda: torch._int_mm(whole, whole))
    matrix = torch.ones(side, side, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[name])
    return operations / median_s(lambda: matrix @ matrix)


def copied_bytes_per_s() -> float:
    """Bytes read and written a second by a copy of a large tensor."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2.0 * COPIED_BYTES / median_s(lambda: target.copy_(source))


def decoded_per_s(contents: Sequence[bytes]) -> float | None:
    """JPEG files decoded a second by one thread; None where none of the files is a JPEG."""
    photos = [content for content in contents if content.startswith(JPEG)]
    if not photos:
        return None
    return len(photos) / median_s(lambda: [load_image(content, "a photo") for content in photos], 3)


def machine_limits(contents: Sequence[bytes]) -> dict[str, float]:
    """All limits by name, with their units: of products, of memory, and of decoding where there are JPEG files."""
    found = {f"{name}_operations_per_s": products_per_s(name) for name in ("fp32", "bf16", "int8")}
    found["memory_bytes_per_s"] = copied_bytes_per_s()
    decoded = decoded_per_s(contents)
    return found if decoded is None else {**found, "jpeg_files_per_s": decoded}


def operations_of(work: Callable[[], object]) -> int:
    """Multiplications and additions, both counted, of the products, convolutions and attentions of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
