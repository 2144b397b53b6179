"""TensorBoard event files, to compare the curves of several runs."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes scalars to `RUN/tensorboard` if the package is installed; `status` states whether it is."""

    def __init__(self, folder: Path, step: int) -> None:
        self.writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            self.status = "tensorboard is not installed (extra [report]): curves are in metrics.jsonl and report.html"
            return
        from torch.utils.tensorboard import SummaryWriter

        self.status = f"tensorboard --logdir {folder}"
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, row: Mapping[str, float]) -> None:
        """Write one row of `metrics.jsonl`."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Flush and close."""
        if self.writer is not None:
            self.writer.close()
