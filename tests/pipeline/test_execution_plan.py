"""The execution plan: what is chosen and why, what is refused, and probes that are kept and made again."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import chiasm
from chiasm.core.device import has_int8
from chiasm.core.types import Example
from chiasm.data.opening import open_dataset
from chiasm.models.dynamic_int8 import Int8Product
from chiasm.models.execution import Format
from chiasm.pipeline import execution_plan as execution
from chiasm.pipeline.execution_plan import plan_execution
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.families import FAMILIES
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig

Times = Callable[..., dict[str, float]]
needs_vnni = pytest.mark.skipif(not has_int8(), reason="sums of bytes would saturate on this machine")


def wide(config: RunConfig, examples: list[Example], wanted: str = "auto") -> Pipeline:
    """A pipeline whose layers are wide enough for eight bits."""
    model = replace(config.model, dim=64, execution=wanted)
    return Pipeline.build(replace(config, model=model), examples, torch.device("cpu"))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of any size count as large."""
    monkeypatch.setattr(execution, "LEAST_WEIGHTS", 1)


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[str]:
    """Replace the probe's clock by these times; returns the names of the parts that were probed."""
    asked = list[str]()

    def measured(
        made: object, name: str, work: Callable[[], object], candidates: tuple[Format, ...]
    ) -> dict[str, float]:
        asked.append(name)
        work()
        return {form: seconds[form] for form in ("fp32", *candidates)}

    monkeypatch.setattr(execution, "_measured", measured)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    return asked


def capable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A machine with these instructions."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))


@needs_vnni
@pytest.mark.parametrize("form", ["int8", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_in_each_format(family: str, form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a family with a part that a format breaks, and outputs that are not batch-invariant in int8."""
    capable(monkeypatch, "avx512_vnni", "avx512_bf16")
    config = find_recipe(family, tiny=True)
    dataset = open_dataset(config.data, "train", 0)
    examples = [dataset.example(number) for number in range(12)]
    pipeline = Pipeline.build(
        replace(config, model=replace(config.model, execution=form)), examples, torch.device("cpu")
    )
    images, texts = [one.inputs["image"] for one in examples[:5]], [one.captions[0].text for one in examples[:5]]

    def alone(rows: torch.Tensor) -> list[bool]:
        return [torch.equal(pipeline.text_tokens([text]).pooled[0], row) for text, row in zip(texts, rows, strict=True)]

    plain, was_alone = pipeline.encode_images(images).pooled, alone(pipeline.text_tokens(texts).pooled)
    plan = plan_execution(pipeline)
    assert {part.format for part in plan.parts.values()} == {form}, plan.lines()
    assert all(part.cosine >= config.model.least_cosine for part in plan.parts.values())
    now = pipeline.encode_images(images).pooled
    assert not torch.equal(now, plain) and float(F.cosine_similarity(now, plain).min()) >= config.model.least_cosine
    if form == "int8":
        # CoCa's summary token stands after the padding, and rounds by its place in fp32 too.
        now_alone = alone(pipeline.text_tokens(texts).pooled)
        assert all(is_now or not was for was, is_now in zip(was_alone, now_alone, strict=True))
        assert all(
            torch.equal(pipeline.encode_images([image]).pooled[0], row) for image, row in zip(images, now, strict=True)
        )


@needs_vnni
@pytest.mark.usefixtures("large")
def test_the_fastest_that_gains_is_taken(
    config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a slower format, a gain that is not worth its rounding, and a reason that tells another number."""
    capable(monkeypatch, "avx512_vnni", "avx512_bf16")
    for fp32, int8, bf16, expected in ((2.0, 1.0, 0.5, "bf16"), (2.0, 1.0, 3.0, "int8"), (1.1, 1.0, 1.0, "fp32")):
        monkeypatch.setattr(execution, "FORMAT", (fp32, int8, bf16))
        timed(monkeypatch, fp32=fp32, int8=int8, bf16=bf16)
        plan = plan_execution(wide(config, examples))
        assert {part.format for part in plan.parts.values()} == {expected}
        if expected != "fp32":
            best = fp32 / min(int8, bf16)
            assert all(part.gain == best and f"{best:.2g} times" in part.why for part in plan.parts.values())


@needs_vnni
def test_small_parts_keep_their_digits(config: RunConfig, examples: list[Example]) -> None:
    """Guards against other digits, and a probe's seconds, for a model that gains nothing."""
    pipeline = wide(config, examples)
    images = [example.inputs["image"] for example in examples[:4]]
    before = pipeline.encode_images(images).pooled
    plan = plan_execution(pipeline)
    assert {part.format for part in plan.parts.values()} == {"fp32"} and not plan.remarks
    assert torch.equal(pipeline.encode_images(images).pooled, before) and "million" in plan.lines()[0]


def test_a_machine_without_instructions_falls_back_and_says_so(
    config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against wrong sums on an old CPU, and a silent fallback of a format that was asked for."""
    capable(monkeypatch)
    for wanted, word in (("int8", "VNNI"), ("bf16", "BF16")):
        pipeline = wide(config, examples, wanted)
        plan = plan_execution(pipeline)
        assert set(pipeline.execution.formats.values()) == {"fp32"}
        assert "fp32" in plan.remarks[0] and word in plan.remarks[0] and wanted in plan.remarks[0]
    plan = plan_execution(wide(config, examples))
    assert not plan.remarks and {part.format for part in plan.parts.values()} == {"fp32"}


@needs_vnni
@pytest.mark.usefixtures("large")
def test_a_format_that_is_far_from_fp32_is_refused(
    config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a fast format that computes something else: it is left, and the next one is tried."""
    capable(monkeypatch, "avx512_vnni", "avx512_bf16")
    timed(monkeypatch, fp32=3.0, int8=1.0, bf16=2.0)
    right = Int8Product.times
    monkeypatch.setattr(Int8Product, "times", lambda self, *given: right(self, *given).flip(-1))
    plan = plan_execution(wide(config, examples))
    assert {part.format for part in plan.parts.values()} == {"bf16"}
    asked = plan_execution(wide(config, examples, "int8"))
    assert {part.format for part in asked.parts.values()} == {"fp32"} and "cosine" in asked.remarks[0]


@needs_vnni
@pytest.mark.usefixtures("large")
def test_a_wrong_plan_is_caught_by_the_stored_example(
    config: RunConfig,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards against outputs that pass the distance and give other answers: the run's own are the last word."""
    capable(monkeypatch, "avx512_vnni")
    timed(monkeypatch, fp32=3.0, int8=1.0)
    wide(config, examples).save(tmp_path / "run", examples[0], {})
    model = chiasm.load(tmp_path / "run")
    assert {part.format for part in model.plan.parts.values()} == {"int8"}, model.plan.lines()
    assert capsys.readouterr().err == ""
    right = Int8Product.times
    monkeypatch.setattr(Int8Product, "times", lambda self, *given: right(self, *given).flip(-1))
    monkeypatch.setattr(execution, "_least_cosine", lambda before, now: 1.0)
    caught = chiasm.load(tmp_path / "run")
    assert {part.format for part in caught.plan.parts.values()} == {"fp32"}
    assert set(caught.pipeline.execution.formats.values()) == {"fp32"}
    assert "stored example" in caught.plan.remarks[0] and "stored example" in capsys.readouterr().err
    measured = replace(config, model=replace(config.model, least_cosine=0.9))
    wide(measured, examples).save(tmp_path / "gated", examples[0], {})
    gated = chiasm.load(tmp_path / "gated")
    assert {part.format for part in gated.plan.parts.values()} == {"int8"}, "its gate has measured the score"
    chosen = chiasm.load(tmp_path / "run", model__execution="fp32")
    assert {part.why for part in chosen.plan.parts.values()} == {"set by model.execution"}


@needs_vnni
@pytest.mark.usefixtures("large")
def test_a_probe_is_kept_until_the_machine_changes(
    config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a probe at every opening, one of another machine or torch, and a damaged file that stops it."""
    capable(monkeypatch, "avx512_vnni")
    asked = timed(monkeypatch, fp32=2.0, int8=1.0)
    first = plan_execution(wide(config, examples))
    parts = sorted(asked)
    assert parts == sorted(first.parts)
    assert plan_execution(wide(config, examples)) == first and sorted(asked) == parts
    machine = execution._machine()
    for name in machine:
        monkeypatch.setattr(execution, "_machine", lambda name=name: {**machine, name: "another"})
        asked.clear()
        plan_execution(wide(config, examples))
        assert sorted(asked) == parts, name
    for path in (execution.cache_root() / "execution").iterdir():
        path.write_text("{")
    asked.clear()
    assert plan_execution(wide(config, examples)).parts.keys() == first.parts.keys() and sorted(asked) == parts


@needs_vnni
@pytest.mark.usefixtures("large")
def test_a_probe_of_a_busy_machine_is_not_kept(
    config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a format that is chosen for good because another program ran when it was measured."""
    capable(monkeypatch, "avx512_vnni")
    asked = timed(monkeypatch, fp32=2.0, int8=1.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (float(os.cpu_count() or 1), 0.0, 0.0))
    first = plan_execution(wide(config, examples))
    parts = sorted(asked)
    asked.clear()
    assert plan_execution(wide(config, examples)) == first and sorted(asked) == parts


@needs_vnni
def test_fingerprints_name_the_format(config: RunConfig, examples: list[Example]) -> None:
    """Guards against vectors of two formats under one key, and a run that would not be the one it was trained on."""
    pipeline = wide(config, examples, "int8")
    image, text, own = pipeline.image_fingerprint(), pipeline.text_fingerprint(), pipeline.files(None)
    plan_execution(pipeline)
    assert (pipeline.image_fingerprint(), pipeline.text_fingerprint()) == (f"{image}-int8", f"{text}-int8")
    assert pipeline.files(None) == own
