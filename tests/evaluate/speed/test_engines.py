"""Other engines compute the same vectors from the same weights, and what is absent is named with the reason."""

from pathlib import Path

import numpy as np
import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Example
from chiasm.data.png import as_png
from chiasm.evaluate.speed import engines
from chiasm.evaluate.speed.compare import cosines
from chiasm.evaluate.speed.engines import chiasm_engine, decoded, other_engines
from chiasm.pipeline.pipeline import Pipeline

TEXTS = ["a red circle left of a blue square", "two green dogs", "what is there"]


def test_chiasm_computes_what_it_answers_from(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against vectors out of a cache, and a way that no user takes."""
    engine = chiasm_engine(pipeline)
    contents = [as_png(one.inputs["image"].load()) for one in examples[:3]]
    assert engine.images is not None
    pipeline.codec.text_vectors |= {text: np.zeros(4, dtype=np.float32) for text in TEXTS}
    np.testing.assert_array_equal(engine.files(contents), engine.images(decoded(pipeline, contents)))
    texts = engine.texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def test_what_is_absent_or_fails_is_named(
    pipeline: Pipeline, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an engine that silently has no row, and one whose failure ends the measurement."""

    def refusing(*given: object) -> list[engines.Engine]:
        raise InputError("two towers of other kinds", "two of kind hugging_face", "nothing")

    def failing(*given: object) -> list[engines.Engine]:
        raise ZeroDivisionError("of\nsome kind")

    builders = {
        "absent": ("no_such_module", "pip install it", failing),
        "refused": ("json", "", refusing),
        "broken": ("csv", "", failing),
    }
    monkeypatch.setattr(engines, "BUILDERS", builders)
    found, absent = other_engines(pipeline, examples[0], tmp_path)
    assert found == [] and absent["absent"] == "not installed: pip install it"
    assert absent["refused"] == "two towers of other kinds" and absent["broken"] == "ZeroDivisionError: of some kind"


@pytest.mark.parametrize("name", ["transformers", "sentence-transformers"])
def test_engines_with_the_layout_of_hugging_face(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another projection, padding or preprocessing than chiasm's, which would be compared as equal."""
    package, _, build = engines.BUILDERS[name]
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    pytest.importorskip(package)
    from hf_folders import dual_folder

    from chiasm.serve.engine import load

    dual_folder(tmp_path / "clip", "clip")
    pipeline = load(tmp_path / "clip").pipeline
    monkeypatch.setattr(engines, "BUILDERS", {name: (package, "", build)})
    random = np.random.default_rng(0)
    contents = [as_png(random.integers(0, 256, (40, 33 + 9 * number, 3), dtype=np.uint8)) for number in range(3)]
    from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig

    example = SceneDataset("train", ScenesConfig(train_pictures=1, questions_per_picture=1), 0).example(0)
    (tmp_path / "place").mkdir()
    found, absent = other_engines(pipeline, example, tmp_path / "place")
    assert not absent and found
    own = chiasm_engine(pipeline)
    for engine in found:
        least = 0.999 if "bf16" in engine.name else 0.99999
        assert cosines(engine.texts(TEXTS), own.texts(TEXTS))[1] > least, engine.name
        assert cosines(engine.files(contents), own.files(contents))[1] > least, engine.name
        if engine.images is not None:
            pixels = decoded(pipeline, contents)
            assert cosines(engine.images(pixels), own.files(contents))[1] > least, engine.name


@pytest.mark.long
@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO"])
def test_engines_of_graphs(
    name: str, pipeline: Pipeline, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against pixels in another order of axes, and formats that are named and not computed."""
    package, _, build = engines.BUILDERS[name]
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip(package)
    monkeypatch.setattr(engines, "BUILDERS", {name: (package, "", build)})
    found, absent = other_engines(pipeline, examples[0], tmp_path)
    assert not absent and found
    own, contents = chiasm_engine(pipeline), [as_png(one.inputs["image"].load()) for one in examples[:3]]
    for engine in found:
        least = 0.99999 if engine.name.endswith("32") else 0.98
        assert cosines(engine.texts(TEXTS), own.texts(TEXTS))[1] > least, engine.name
        assert cosines(engine.files(contents), own.files(contents))[1] > least, engine.name
