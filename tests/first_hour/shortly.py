"""A short training on own data, typed as a person types it."""

from pathlib import Path

from command import Said, Shell


class Trainer:
    """Trains two steps of a tiny dual encoder on own data, as typed."""

    def __init__(self, chiasm: Shell, out: Path) -> None:
        self.chiasm, self.out = chiasm, out

    def __call__(self, data: Path | str, *assignments: str) -> Said:
        keys = ["train.steps=2", "train.batch_size=8", "test_split=val", *assignments]
        typed = [word for key in keys for word in ("--set", key)]
        return self.chiasm("train", "clip", "--tiny", "--set", f"data.path={data}", *typed, "--out", self.out)
