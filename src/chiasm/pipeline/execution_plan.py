"""The execution plan: the number format that each part of an opened model computes in, and why.

A format is a candidate where the machine has instructions for it and the part is large. What it gains is measured once
for a machine and an architecture, and kept in the cache (`cache_root()/execution`). Then the fastest one whose outputs
stay within `model.least_cosine` of fp32, on the run's stored example and on fixed inputs, is taken; and if the answers
about the stored example are other ones with it, fp32 is, unless a gate has measured the run in that format.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chiasm.core.device import environment
from chiasm.core.errors import InputError
from chiasm.core.files import cache_root, read_json, write_json
from chiasm.core.random import counter_rng
from chiasm.core.types import IMAGE, Tokens
from chiasm.models.dynamic_int8 import int8_weights
from chiasm.models.execution import INSTRUCTIONS, Execution, Format, formats_of
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import STORED_TOLERANCE_BF16, StoredExample, is_same_answer

ANSWERS_STAY = 0.999
"""Runs that ask for this cosine or more keep their answers about the stored example; others have passed a gate."""
LEAST_GAIN = 1.2
"""A format must be so many times as fast as fp32."""
LEAST_WEIGHTS = 4_000_000
"""Parts with fewer weights in linear layers stay in fp32: they gain little, and their digits stay."""
PROBED_IMAGES, PROBED_TEXTS = 4, 16
ROUNDS, ENOUGH_S = 3, 3.0
FORMAT = 1
"""Version of the probe; another one measures again."""
TEXTS = ("a photo of a dog that runs on a beach", "what colour is the car on the left?", "two people at a table")
"""Texts that are compared beside those of the stored example."""


@dataclass(frozen=True, slots=True)
class PartPlan:
    """How one part computes.

    Attributes:
        format: the number format.
        why: a sentence for people.
        gain: measured speed relative to fp32; 0 where it was not measured.
        cosine: least cosine to fp32; 1 in fp32.
    """

    format: Format
    why: str
    gain: float = 0.0
    cosine: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model computes.

    Attributes:
        parts: name -> its plan; a model without a part of linear layers has none.
        remarks: what a person must know: a format that was asked for and is not used.
    """

    parts: Mapping[str, PartPlan] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """One line for each part."""
        return [f"{name}: {part.format}, {part.why}" for name, part in self.parts.items()]

    def as_dict(self) -> dict[str, dict[str, str | float]]:
        """As `--json` and `environment.json` have it."""
        return {
            name: {"format": part.format, "why": part.why, "gain": part.gain, "cosine": part.cosine}
            for name, part in self.parts.items()
        }


def plan_execution(pipeline: Pipeline) -> Plan:
    """Choose a format for each part, as `model.execution` says, and compute in it from here on.

    Args:
        pipeline: opened, in fp32.
    """
    wanted, known = pipeline.config.model.execution, formats_of(pipeline.device)
    if pipeline.device.type != "cpu":
        return _all(pipeline, f"the plan is for CPUs, and the model is on {pipeline.device.type}")
    if wanted == "fp32":
        return _all(pipeline, "set by model.execution")
    if wanted != "auto" and wanted not in known:
        why = f"model.execution={wanted} needs {INSTRUCTIONS[wanted]}, which this machine lacks"
        return _all(pipeline, why, f"computing in fp32: {why}")
    names = [name for name, part in pipeline.execution.parts.items() if _is_large(part) or wanted != "auto"]
    if not names:
        return _all(pipeline, _SMALL)
    if not known:
        return _all(pipeline, "this machine has no instructions for bytes (VNNI) or bf16")
    trial = _Trial(pipeline)
    plans = {name: PartPlan("fp32", _SMALL) for name in pipeline.execution.parts}
    plans |= {name: trial.choose(name, known if wanted == "auto" else (wanted,), wanted) for name in names}
    remarks = [] if wanted == "auto" else [plan.why for plan in plans.values() if plan.format != wanted]
    if pipeline.config.model.least_cosine >= ANSWERS_STAY and (changed := _changed_answer(pipeline)):
        return _all(pipeline, changed, f"computing in fp32: {changed}")
    return Plan(plans, tuple(remarks))


_SMALL = f"fewer than {LEAST_WEIGHTS / 1e6:.0f} million weights in linear layers gain little"


def _is_large(part: nn.Module) -> bool:
    return int8_weights(part) >= LEAST_WEIGHTS


def _all(pipeline: Pipeline, why: str, *remarks: str) -> Plan:
    """Every part in fp32."""
    pipeline.execution.use_fp32()
    return Plan({name: PartPlan("fp32", why) for name in pipeline.execution.parts}, remarks)


def _changed_answer(pipeline: Pipeline) -> str:
    """The first answer about the stored example that the plan changes; "" where there is none."""
    formats = sorted({form for form in pipeline.execution.formats.values() if form != "fp32"})
    example = pipeline.example
    if example is None or not formats:
        return ""
    now = pipeline.answers_about(example)
    for key, value in example.answers.items():
        if key in now and not is_same_answer(value, now[key], STORED_TOLERANCE_BF16):
            return f"with {' and '.join(formats)} the stored example's {key} would be {now[key]!r}, not {value!r}"
    return ""


class _Trial:
    """Tries formats on one pipeline.

    Args:
        pipeline: its outputs in fp32 are computed now.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._execution = pipeline, pipeline.execution
        example = pipeline.example
        arrays = [] if example is None else [example.image.load()]
        self._pixels = stack_images([*arrays, *map(_fixed_image, range(2))], pipeline.resizing)
        self._texts = [*_words_of(example), *TEXTS]
        self._before = self._outputs()

    def choose(self, name: str, candidates: Sequence[Format], wanted: str) -> PartPlan:
        """Take the fastest candidate that is close enough for one part, and compute in it."""
        gains = dict.fromkeys(candidates, 0.0) if wanted != "auto" else self._gains(name, candidates)
        slow = ", ".join(f"{form} {gain:.2g} times as fast" for form, gain in gains.items())
        why, least = f"nothing gains {LEAST_GAIN} times ({slow}, measured)", self._pipeline.config.model.least_cosine
        for form, gain in sorted(gains.items(), key=lambda pair: -pair[1]):
            if wanted == "auto" and gain < LEAST_GAIN:
                break
            self._execution.use(name, form)
            cosine = _least_cosine(self._before, self._outputs())
            if cosine >= least:
                how = f"{gain:.2g} times as fast as fp32 on this machine" if gain else "set by model.execution"
                return PartPlan(form, f"{how}; cosine to fp32 {cosine:.5f}", gain, cosine)
            self._execution.use(name, "fp32")
            why = f"{form} has a cosine of {cosine:.4f} to fp32, and {least} is the least (model.least_cosine)"
        return PartPlan("fp32", why)

    @torch.no_grad()
    def _outputs(self) -> list[Tensor]:
        """What the parts give for the compared inputs, one row for each."""
        pipeline, found = self._pipeline, list[Tensor]()
        image = pipeline.encode_pixels(self._pixels)
        found += _rows(image)
        if "text" in self._execution.parts or "fusion" in self._execution.parts:
            text = pipeline.text_tokens(self._texts)
            found += [*_rows(text), torch.from_numpy(pipeline.encode_texts(self._texts))]
            if "fusion" in self._execution.parts:
                found += _rows(_fused(pipeline, image, text))
        return found

    def _gains(self, name: str, candidates: Sequence[Format]) -> dict[Format, float]:
        """How many times as fast as fp32 each candidate is, by the kept probe or a new one."""
        part = self._execution.parts[name]
        path = cache_root() / "execution" / f"{probe_key(part, self._pixels, candidates)}.json"
        with suppress(InputError, OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
            kept = read_json(path, "a probe of this machine")["seconds"]
            return {form: float(kept["fp32"]) / float(kept[form]) for form in candidates}
        is_busy = _is_busy()
        seconds = _measured(self._execution, name, self._work(name), candidates)
        if not is_busy:
            with suppress(OSError):  # without a cache it is measured again next time
                write_json(path, {"machine": _machine(), "part": name, "seconds": seconds})
        return {form: seconds["fp32"] / seconds[form] for form in candidates}

    def _work(self, name: str) -> Callable[[], object]:
        """What is timed of a part."""
        pipeline = self._pipeline
        images = self._pixels[:1].repeat(PROBED_IMAGES, *[1] * (self._pixels.ndim - 1))
        texts = [self._texts[number % len(self._texts)] for number in range(PROBED_TEXTS)]
        if name == "text":
            return lambda: pipeline.encode_texts(texts)
        if name == "fusion":
            image, text = pipeline.encode_pixels(images), pipeline.text_tokens(texts)
            return lambda: _fused(pipeline, image, text)
        return lambda: pipeline.encode_pixels(images)


def probe_key(part: nn.Module, pixels: Tensor, candidates: Sequence[Format]) -> str:
    """Name of a probe: another machine, torch, number of threads or architecture has another one."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in part.state_dict().items()]
    facts = [FORMAT, _machine(), type(part).__name__, shapes, tuple(pixels.shape[1:]), tuple(candidates)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _is_busy() -> bool:
    """Whether other programs take part of the machine, so that a measured speed is not that of the machine.

    After the load average of the last minute, where the system knows one: more than half of the cores.
    """
    with suppress(AttributeError, OSError):
        return os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    return False


def _machine() -> dict[str, str | int]:
    """What a probe depends on."""
    told = environment()
    return {name: told[name] for name in ("cpu", "cores", "threads", "torch")}


@torch.no_grad()
def _measured(
    execution: Execution, name: str, work: Callable[[], object], candidates: Sequence[Format]
) -> dict[str, float]:
    """Format -> least seconds of the work, fp32 among them; rounds are interleaved.

    A candidate that takes twice as long as fp32 in the first round is not measured again.
    """
    seconds: dict[str, float] = {}
    kept, start = execution.formats[name], time.perf_counter()
    running: list[Format] = ["fp32", *candidates]
    for number in range(ROUNDS):
        for form in running:
            execution.use(name, form)
            if number == 0:
                work()
            began = time.perf_counter()
            work()
            took = time.perf_counter() - began
            seconds[form] = min(took, seconds.get(form, took))
        running = [form for form in running if seconds[form] < 2 * seconds["fp32"]]
        if time.perf_counter() - start > ENOUGH_S:
            break
    execution.use(name, kept)
    return seconds


@torch.no_grad()
def _fused(pipeline: Pipeline, image: Tokens, text: Tokens) -> Tokens:
    """Each text fused with an image, in turn."""
    rows = torch.arange(len(text.pooled), device=pipeline.device)
    model = pipeline.model
    return model.fuse(model.fusion_text(text), model.fusion_inputs({IMAGE: image}), rows % len(image.pooled))


def _rows(tokens: Tokens) -> list[Tensor]:
    """Pooled vectors, and the real tokens of each row as one vector."""
    values = tokens.values.float() * tokens.is_real[..., None]
    return [tokens.pooled.float(), values.flatten(1)]


def _least_cosine(before: Sequence[Tensor], now: Sequence[Tensor]) -> float:
    found = [float(F.cosine_similarity(one, other, dim=1).min()) for one, other in zip(before, now, strict=True)]
    return min(found) if np.isfinite(found).all() else -1.0


def _words_of(example: StoredExample | None) -> list[str]:
    return [] if example is None else [*example.questions, *example.texts, *example.others]


def _fixed_image(number: int) -> np.ndarray:
    """A drawing of blocks of colour with noise, uint8 [224, 224, 3], by its number."""
    rng = counter_rng("compared image", number)
    blocks = np.kron(rng.uniform(0, 255, (7, 7, 3)), np.ones((32, 32, 1)))
    noisy: np.ndarray = (blocks + rng.normal(0, 16, blocks.shape)).clip(0, 255).astype(np.uint8)
    return noisy
