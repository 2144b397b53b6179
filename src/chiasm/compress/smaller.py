"""Compress a run: make the variants, measure them at the gate, and write the smallest one that passes."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from chiasm.compress.gate import AS_IT_WAS, Candidate, judge, primary_metric, unsure
from chiasm.compress.variants import steps_of
from chiasm.core.device import environment
from chiasm.core.errors import InputError, JobError
from chiasm.core.files import json_bytes, new_folder
from chiasm.core.run_folder import MANIFEST, write_folder
from chiasm.core.types import Example
from chiasm.data.files import of_files
from chiasm.evaluate.measure import open_prepared
from chiasm.pipeline.execution_plan import plan_execution
from chiasm.pipeline.interop.importing import open_pipeline
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import choose_example
from chiasm.report.compression import Variant, compression_page, compression_table

PAGE, RECORD = "compression.html", "compression.json"
"""Files of the written folder beside those of every run: the page with all variants, and its numbers."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A written run, and all variants that were measured.

    Attributes:
        run: what was compressed.
        out: the written run folder.
        chosen: the variant in it.
        metric: the primary metric.
        split: what was measured on.
        variants: the run as it was, then each variant.
        remarks: what the measurement cannot exclude, and formats that a variant asks for and this machine lacks.
    """

    run: str
    out: Path
    chosen: str
    metric: str
    split: str
    variants: tuple[Variant, ...]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """What `chiasm compress --json` writes."""
        return {
            **{name: getattr(self, name) for name in ("run", "chosen", "metric", "split")},
            "out": str(self.out),
            "variants": {one.name: one.as_dict() for one in self.variants},
            "remarks": list(self.remarks),
            "environment": environment(),
        }


# More than eight arguments: each stands for an option of the command line.
def compress(
    source: Path,
    to: Sequence[str],
    out: Path,
    device: torch.device,
    console: Console,
    data: str = "",
    split: str = "val",
    max_loss: float = 1.0,
) -> Compressed:
    """Make variants of a run, measure them, and write the smallest one that passes the gate.

    The run as it was computes in fp32, a variant as its execution plan says.

    Args:
        source: a run folder, or a folder in the layout of Hugging Face or open_clip.
        to: words of `steps_of`.
        out: run folder to create; nothing is written where no variant passes.
        device: where the models are.
        console: of progress and remarks.
        data: folder or file to measure on; "" is the run's own data.
        split: of these data.
        max_loss: points of the primary metric that may be lost.

    Raises:
        InputError: an unknown variant, `out` exists, or the data do not fit the run.
        JobError: no variant passed the gate.
    """
    _check(to, out, max_loss)
    original = open_pipeline(source, device)
    _set_data(original, data)
    examples, _ = open_prepared(original, split, console)
    home = next(one for one in out.absolute().parents if one.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=home) as place:
        candidates, planned = [], list[str]()
        for name in to:
            folder = Path(place) / name
            _write_variant(original, source, name, folder, examples)
            variant = open_pipeline(folder, device)
            planned += [f"{name}: {remark}" for remark in plan_execution(variant).remarks]
            _set_data(variant, data)
            prepared, _ = open_prepared(variant, split, Console(quiet=True))
            candidates.append(Candidate(name, variant, folder, prepared))
        found = judge(Candidate(AS_IT_WAS, original, source, examples), candidates, max_loss)
        passed = [one for one in found[1:] if not one.refusal]
        if not passed:
            console.print(compression_table(found, primary_metric(original)), highlight=False)
            raise JobError(refused(found, max_loss))
        chosen = min(passed, key=lambda one: one.folder_bytes)
        remarks = (*planned, *(said for one in passed if (said := unsure(one, max_loss))))
        result = Compressed(str(source), out, chosen.name, primary_metric(original), split, tuple(found), remarks)
        _publish(Path(place) / chosen.name, result)
    return result


def refused(found: Sequence[Variant], max_loss: float) -> str:
    """The message of a gate that lets nothing through."""
    reasons = "\n".join(one.refusal for one in found if one.refusal)
    return f"{reasons}\n  do: give another --to, or accept the loss with --max-loss; nothing was written"


def _check(to: Sequence[str], out: Path, max_loss: float) -> None:
    """Raise InputError for what can be known before anything is opened."""
    for name in to:
        steps_of(name)
    if not to or len(set(to)) < len(to):
        raise InputError(f"--to {', '.join(to) or 'nothing'}", "one variant or several different ones", "--to int8")
    if not 0 <= max_loss <= 100:
        raise InputError(f"--max-loss {max_loss}", "0 to 100 points of the primary metric", "--max-loss 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists", "a folder that is empty, or not there yet", "give another --out")


def _write_variant(original: Pipeline, source: Path, name: str, folder: Path, examples: Sequence[Example]) -> None:
    """A run folder of the variant, whose stored answers are its own; `original` has the data that it is measured on."""
    made = open_pipeline(source, original.device)
    own = made.config.data
    made.config = replace(made.config, data=original.config.data)
    for step in steps_of(name):
        step(made)
    made.config = replace(made.config, data=own)
    made.save(folder, choose_example(examples), {"environment.json": json_bytes(environment())}, others=examples)


def _publish(made: Path, result: Compressed) -> None:
    """Give the chosen folder its page, its record and its name."""
    page = compression_page(result.variants, result.metric, result.run, result.chosen)
    names = sorted(path.name for path in made.iterdir() if path.name != MANIFEST)
    extra = {PAGE: page.encode(), RECORD: json_bytes(result.as_dict())}
    write_folder(made, "run", extra, keep=names)
    with new_folder(result.out) as place:
        for path in made.iterdir():
            os.replace(path, place / path.name)


def _set_data(pipeline: Pipeline, data: str) -> None:
    """Measure on other files than the run's own, if `data` names some."""
    if data:
        pipeline.config = replace(pipeline.config, data=of_files(pipeline.config.data, data))
