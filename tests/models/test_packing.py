"""Packed weights: what is stored, what comes back, and that a packed folder is a run folder like any other."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.files import sha256_bytes
from chiasm.core.run_folder import MANIFEST
from chiasm.core.types import Example
from chiasm.models.packing import FILE, SCALE, Packing, matrices_of, packed, read_weights, round_weights, to_bytes
from chiasm.pipeline.pipeline import Pipeline

CPU = torch.device("cpu")


class Small(nn.Module):
    """A layer of each kind, two of which share their matrix, and a parameter that is none."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.words, self.out = nn.Embedding(7, 5), nn.Linear(5, 7)
        self.out.weight = self.words.weight
        self.conv, self.position = nn.Conv2d(3, 4, 2), nn.Parameter(torch.randn(2, 5, generator=generator))
        with torch.no_grad():
            self.words.weight.copy_(torch.randn(7, 5, generator=generator) * torch.logspace(-3, 3, 7)[:, None])
            self.words.weight[2] = 0


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one for name, one in model.state_dict().items() if name != "out.weight"}


def written(model: nn.Module, folder: Path, packing: Packing) -> dict[str, torch.Tensor]:
    (folder / FILE).write_bytes(to_bytes(tensors_of(model), model, packing))
    found, stored = read_weights(folder)
    assert stored == packing
    return found


def test_int8_is_within_half_a_step_of_each_row() -> None:
    """Guards against one scale for all rows, which would lose the small ones; and against a row of zeros."""
    model = Small()
    before = {name: one.clone() for name, one in tensors_of(model).items()}
    round_weights(model, before, "int8")
    for name, one in tensors_of(model).items():
        if name not in ("words.weight", "conv.weight"):
            assert torch.equal(one, before[name]), "only matrices are rounded"
            continue
        for row, was in zip(one.double().flatten(1), before[name].double().flatten(1), strict=True):
            assert float((row - was).abs().max()) <= float(was.abs().max()) / 127 / 2 * (1 + 1e-6)
    assert not torch.equal(model.words.weight, before["words.weight"]) and torch.equal(
        model.out.weight, model.words.weight
    )


@pytest.mark.parametrize("packing", ["int8", "bf16"])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_what_was_rounded_is_stored_exactly(packing: Packing, held: torch.dtype, tmp_path: Path) -> None:
    """Guards against integers that drift each time that a folder is opened and saved again."""
    model = Small().to(held)
    round_weights(model, tensors_of(model), packing)
    first = packed(tensors_of(model), model, packing)
    back = {name: one.to(held) for name, one in written(model, tmp_path, packing).items()}
    for name, one in tensors_of(model).items():
        assert torch.allclose(back[name], one, rtol=1e-6 if held == torch.float32 else 8e-3, atol=0), name
    model.load_state_dict(back, strict=False)
    again = packed(tensors_of(model), model, packing)
    assert first.keys() == again.keys()
    for name in first:
        exact = not name.endswith(SCALE)
        assert torch.equal(first[name], again[name]) if exact else torch.allclose(first[name], again[name], rtol=5e-3)
    stored = {one.dtype for one in first.values()}
    assert torch.int8 in stored if packing == "int8" else stored == {torch.bfloat16}


def test_without_packing_the_file_is_what_it_was(tmp_path: Path) -> None:
    """Guards against folders that older versions cannot open though nothing in them is packed."""
    model = Small()
    assert to_bytes(tensors_of(model), model, "") == safetensors.torch.save(tensors_of(model))
    assert {name: one.dtype for name, one in written(model, tmp_path, "").items()}.keys() == tensors_of(model).keys()


def test_an_unknown_packing_is_refused(tmp_path: Path) -> None:
    """Guards against integers of a later version that are taken for weights."""
    (tmp_path / FILE).write_bytes(safetensors.torch.save({"a": torch.ones(2)}, {"packing": "int3"}))
    with pytest.raises(InputError, match="int3"):
        read_weights(tmp_path)


@pytest.mark.parametrize("packing", ["int8", "bf16"])
def test_a_packed_folder_opens_with_its_answers(
    packing: Packing, tmp_path: Path, pipeline: Pipeline, examples: list[Example]
) -> None:
    """Guards against a folder whose stored answers are those of other weights, and against a size that did not fall."""
    pipeline.save(tmp_path / "full", examples[0], {})
    round_weights(pipeline.model, pipeline.saved_names(), packing)
    pipeline.packing = packing
    pipeline.save(tmp_path / "packed", examples[0], {})
    loaded = Pipeline.load(tmp_path / "packed", CPU)
    assert loaded.packing == packing
    state = pipeline.model.state_dict()
    for name, one in loaded.model.state_dict().items():
        assert one.dtype == torch.float32 and torch.allclose(one, state[name], rtol=1e-6, atol=0), name
    full, small = ((tmp_path / name / FILE).stat().st_size for name in ("full", "packed"))
    assert small < full * (0.6 if packing == "bf16" else 0.75)
    loaded.save(tmp_path / "again", examples[0], {})
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "packed" / FILE).read_bytes()
    assert chiasm.load(tmp_path / "again").tasks == tuple(pipeline.tasks)


def test_a_run_that_starts_from_a_packed_one_takes_numbers_not_integers(
    tmp_path: Path, pipeline: Pipeline, examples: list[Example]
) -> None:
    """Guards against `init_from` reading the stored integers as weights a hundred times too large."""
    round_weights(pipeline.model, pipeline.saved_names(), "int8")
    pipeline.packing = "int8"
    pipeline.save(tmp_path / "packed", examples[0], {})
    fresh = Pipeline.build(pipeline.config, examples, CPU)
    taken, left = fresh.take_weights(tmp_path / "packed")
    assert left == 0 and matrices_of(fresh.model) & set(taken)
    state = fresh.model.state_dict()
    for name, one in pipeline.model.state_dict().items():
        assert torch.allclose(state[name], one, rtol=1e-6, atol=0), name
    assert fresh.packing == ""


def test_damage_in_the_scales_is_found(tmp_path: Path, pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a folder whose scales are gone: its integers would be read as weights."""
    pipeline.packing = "int8"
    round_weights(pipeline.model, pipeline.saved_names(), "int8")
    pipeline.save(tmp_path / "packed", None, {})
    tensors = safetensors.torch.load_file(tmp_path / "packed" / FILE)
    kept = {name: one for name, one in tensors.items() if not name.endswith(SCALE)}
    content = safetensors.torch.save(kept, {"packing": "int8"})
    (tmp_path / "packed" / FILE).write_bytes(content)
    manifest = json.loads((tmp_path / "packed" / MANIFEST).read_text())
    manifest["files"][FILE] = {"sha256": sha256_bytes(content), "bytes": len(content)}
    (tmp_path / "packed" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="scales"):
        Pipeline.load(tmp_path / "packed", CPU)
