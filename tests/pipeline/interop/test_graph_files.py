"""ONNX and OpenVINO files compute what the pipeline computes, on shapes that the export never saw."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")

from tokenizers import Tokenizer

import chiasm
from chiasm.core.errors import InputError, JobError, MissingExtraError
from chiasm.pipeline.interop import graph_files
from chiasm.pipeline.interop.exporting import Exported, export
from chiasm.pipeline.interop.graph_files import ATOL, ENGINES, open_onnx, reference, standalone_tokenizer
from chiasm.pipeline.interop.graphs import PIXELS, example_inputs, graphs_of
from chiasm.pipeline.pipeline import Pipeline

CPU = torch.device("cpu")
TEXTS = [
    "is there a small red circle?",
    "",
    "[EOS] [PAD] a ##b",
    "zwölf Boxkämpfer 紅 狗 \ud800",
    "word " * 300,
    "a large blue square left of it",
    "what?",
]


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The demo's run as ONNX."""
    return export(tiny_run, "onnx", tmp_path_factory.mktemp("onnx") / "new" / "demo", CPU)


def readable(texts: list[str]) -> list[str]:
    """Texts without halves of characters, which the package `tokenizers` refuses."""
    return [text.replace("\ud800", "\ufffd") for text in texts]


def worst(folder: Path, run_folder: Path, ending: str, opened: Callable[[Path], Callable]) -> dict[str, float]:
    """File -> largest difference on seven rows of texts of three lengths, by the tokenizer that was exported."""
    pipeline = Pipeline.load(run_folder, CPU)
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.encode_special_tokens = True
    found = {}
    for name, graph in graphs_of(pipeline)[0].items():
        run = opened(folder / f"{name}{ending}")
        for texts in (TEXTS, TEXTS[:2], TEXTS[-1:]):
            inputs = example_inputs(pipeline, graph_files._tokens(words, readable(texts)), len(texts))
            got = run({one: inputs[one].numpy() for one in graph.inputs})
            want = reference(pipeline, graph, inputs[PIXELS].permute(0, 3, 1, 2), texts)
            scale = max(1.0, float(np.abs(want).max()))
            found[name] = max(found.get(name, 0.0), float(np.abs(got - want).max()) / scale)
    return found


def test_onnx_equals_the_run(exported: Exported, tiny_run: Path) -> None:
    """Guards against a batch or a text length that was traced as a constant, and padding that is read."""
    files = {"example.png", "graphs.json", "image.onnx", "text.onnx", "tokenizer.json", "vqa.onnx"}
    assert set(exported.files) == files and set(exported.left_out) == {"captioning"}
    differences = worst(exported.out, tiny_run, ".onnx", open_onnx)
    assert set(differences) == {"image", "text", "vqa"} and max(differences.values()) < ATOL, differences


def test_openvino_equals_the_run(exported: Exported, tiny_run: Path, tmp_path: Path) -> None:
    """Guards against an intermediate representation of another shape or number format."""
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    (tmp_path / "tokenizer.json").write_bytes((exported.out / "tokenizer.json").read_bytes())
    for name in ("image", "text", "vqa"):
        ENGINES["openvino"].write(exported.out / f"{name}.onnx", tmp_path / f"{name}.xml")
    differences = worst(tmp_path, tiny_run, ".xml", graph_files.open_openvino)
    assert max(differences.values()) < ATOL, differences


def test_the_description_is_enough(exported: Exported, tiny_run: Path) -> None:
    """Guards against a server that has to guess: names, lengths, temperature, and an example to check against."""
    told = json.loads((exported.out / "graphs.json").read_text(encoding="utf-8"))
    pipeline = Pipeline.load(tiny_run, CPU)
    assert told["opset"] == 20 and told["external_data"] == [] and told["atol"] == ATOL
    assert tuple(told["graphs"]["vqa.onnx"]["output"]["columns"]) == pipeline.codec.answers
    shapes = [tuple(map(tuple, one["inputs"].values())) for one in told["graphs"]["text.onnx"]["compared"]]
    assert len(set(shapes)) == len({shape[0][1] for shape in shapes}) == 3
    assert told["text"]["max_tokens"] == pipeline.config.model.text.max_tokens
    assert told["calibration"]["vqa"]["temperature"] == pipeline.codec.calibration["vqa"].temperature
    similarity = np.dot(told["example"]["image_embeds"], told["example"]["text_embeds"])
    model = chiasm.load(tiny_run)
    seen = model.encode_image([exported.out / "example.png"]) @ model.encode_text([told["example"]["text"]]).T
    assert similarity == pytest.approx(seen.item(), abs=1e-5)


def test_nothing_of_this_machine_is_in_the_files(exported: Exported) -> None:
    """Guards against paths of source files, which the exporter notes at each operation."""
    for path in exported.out.iterdir():
        content = path.read_bytes()
        assert b"site-packages" not in content and b"vision_language.py" not in content, path.name


def test_the_tokenizer_needs_no_chiasm(tiny_run: Path) -> None:
    """Guards against ids of special tokens out of a user's text, and against other cuts of long texts."""
    pipeline = Pipeline.load(tiny_run, CPU)
    ids, is_real = graph_files._tokens(standalone_tokenizer(pipeline), readable(TEXTS))
    want = pipeline.codec.tokenizer.batch(TEXTS)
    assert torch.equal(ids, want.ids) and torch.equal(is_real, want.is_real)


@pytest.fixture
def untraced(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the files that are there, in the place of tracing anew."""

    def copied(pipeline: object, graph: graph_files.Graph, words: object, path: Path) -> None:
        path.write_bytes((exported.out / path.name).read_bytes())

    monkeypatch.setattr(graph_files, "_trace", copied)


def test_a_graph_of_other_numbers_is_not_kept(
    untraced: None, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against files that are written before they are checked."""

    def wrong(path: Path) -> graph_files.Runner:
        run = open_onnx(path)
        return lambda inputs: run(inputs) + (100 * ATOL if path.name == "vqa.onnx" and len(inputs[PIXELS]) == 5 else 0)

    assert export(tiny_run, "onnx", tmp_path / "right", CPU).differences["vqa.onnx"] < ATOL
    monkeypatch.setitem(ENGINES, "onnx", replace(ENGINES["onnx"], open=lambda path: lambda x: 2 + open_onnx(path)(x)))
    with pytest.raises(JobError, match="nothing was written"):
        export(tiny_run, "onnx", tmp_path / "wrong", CPU)
    monkeypatch.setitem(ENGINES, "onnx", replace(ENGINES["onnx"], open=wrong))
    with pytest.raises(JobError, match="5 rows"):
        export(tiny_run, "onnx", tmp_path / "wrong", CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


def test_what_is_missing_is_named(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an import error after minutes of work, and a folder that stays behind."""
    monkeypatch.setattr(graph_files, "find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(MissingExtraError, match=r"chiasm\[openvino\]"):
        export(tiny_run, "openvino", tmp_path / "new", CPU)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="exists"):
        export(tiny_run, "onnx", tmp_path / "full", CPU)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "kept"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["clip", "siglip", "chinese_clip"])
def test_folders_of_dual_encoders(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against towers of transformers whose masks are traced as constants; weights stand beside the graph."""
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    from hf_folders import dual_folder

    dual_folder(tmp_path / kind, kind)
    monkeypatch.setattr(graph_files, "EXTERNAL_FROM_BYTES", 0)
    done = export(tmp_path / kind, "onnx", tmp_path / "out", CPU)
    assert set(done.differences) == {"image.onnx", "text.onnx"} and max(done.differences.values()) < ATOL
    told = json.loads((tmp_path / "out" / "graphs.json").read_text(encoding="utf-8"))
    assert told["external_data"] == ["image.onnx.data", "text.onnx.data"]
    assert open_onnx(tmp_path / "out" / "image.onnx") is not None
