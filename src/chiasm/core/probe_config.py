"""Settings of the probe: what a model knew before it is adapted, and how much of it may be lost."""

from dataclasses import dataclass
from typing import Literal

from chiasm.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Held-out files of the old domain, measured before the first step, at each validation and after training."""

    path: str = ""
    """Folder or file of the old domain; "" measures nothing."""
    format: str = "auto"
    images: str = ""
    """Folder that relative image paths start from; "" means the layout's own."""
    languages: tuple[str, ...] = ("en",)
    label_prompts: tuple[str, ...] = ("a photo of a {label}.",)
    """Sentences that stand for a class where pictures have a label and no caption."""
    split: str = "val"
    metric: str = ""
    """What must be kept, larger being better; "" means text_to_image_R@10 where there are captions, else acc1."""
    examples: int = 500
    """Pictures that are measured, drawn once and the same in every run; 0 takes all."""
    max_drop: float = 0.05
    """Share of the first value, in [0, 1), that may be lost: 0.05 keeps at least 95 %."""
    on_drop: Literal["warn", "stop"] = "warn"
    """What happens beyond that: "warn" says so and goes on; "stop" ends training with the best weights from before."""

    def check(self, where: str) -> None:
        """Check what the types do not; `where` is the section's name in the config.

        Raises:
            InputError: a share or a count that cannot be.
        """
        if not 0 <= self.max_drop < 1:
            raise InputError(f"{where}.max_drop is {self.max_drop}", "a number in [0, 1)", "0.05 keeps 95 %")
        if self.examples < 0 or self.examples == 1:
            raise InputError(
                f"{where}.examples is {self.examples}", "2 or more, or 0 for all", f"--set {where}.examples=500"
            )
        if not self.path and self.on_drop == "stop":
            raise InputError(
                f"{where}.on_drop is 'stop', and {where}.path is not set",
                "a folder or file of the old domain",
                f"--set {where}.path=FOLDER",
            )

    def floor(self, before: float) -> float:
        """The least value that is still enough, where `before` is the one before training."""
        return (1 - self.max_drop) * before
