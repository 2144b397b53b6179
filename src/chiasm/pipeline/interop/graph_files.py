"""A pipeline -> ONNX or OpenVINO files that are served without chiasm, with what else a program needs for it.

Each graph is computed by the other engine on three shapes, and must agree with the pipeline before anything is kept.
ONNX comes from torch's exporter (`torch.onnx.export`, dynamo), OpenVINO's files from ONNX.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from chiasm.core.errors import InputError, JobError, MissingExtraError
from chiasm.core.files import write_bytes, write_json
from chiasm.core.types import IMAGE, Example, TextTokens
from chiasm.data.modalities.image import images_of
from chiasm.data.png import as_png
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.interop.graphs import IDS, MASK, PIXELS, Graph, example_inputs, graphs_of, traceable
from chiasm.pipeline.pipeline import Pipeline

ATOL = 2e-5
"""Largest difference allowed; of logits beyond 1, as a share of the largest."""
OPSET = 20
EXTERNAL_FROM_BYTES = 1 << 30
"""Weights of this size stand in a file beside the graph: a file of ONNX holds less than 2 GiB."""
ROWS = (1, 3, 5)
"""Batch sizes of the three shapes that are compared; the texts of each have another length."""
DESCRIPTION = "graphs.json"

Arrays = dict[str, np.ndarray]
Runner = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True, slots=True)
class Compared:
    """Outcome of an export of graphs."""

    differences: dict[str, float]
    """File -> largest difference to the pipeline over three shapes."""
    left_out: dict[str, str]
    """Task -> why it is in no file."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the written graphs are computed."""

    packages: tuple[str, ...]
    """What must be installed; the first names the extra."""
    ending: str
    write: Callable[[Path, Path], None]
    """(ONNX file, file to write) -> None."""
    open: Callable[[Path], Runner]
    note: str = ""


def _keep_onnx(onnx: Path, target: Path) -> None:
    for path in onnx.parent.glob(f"{onnx.name}*"):  # with the weights beside it, where they are
        path.rename(target.with_name(path.name))


def _write_openvino(onnx: Path, target: Path) -> None:
    import openvino

    # What `convert_model` does with a file of ONNX, without its telemetry.
    openvino.save_model(openvino.Core().read_model(onnx), target, compress_to_fp16=False)


def open_onnx(path: Path) -> Runner:
    """A file of ONNX in ONNX Runtime on the CPU, with the threads that torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def open_openvino(path: Path, precision: str = "f32") -> Runner:
    """A file of OpenVINO on the CPU, with the threads that torch has; `precision` as in its inference hint."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", {**hints, "PERFORMANCE_HINT": "LATENCY"})
    return lambda inputs: compiled(inputs)[0]


ENGINES = {
    "onnx": Engine(("onnx", "onnxruntime", "onnxscript"), ".onnx", _keep_onnx, open_onnx),
    "openvino": Engine(
        ("openvino", "onnx", "onnxscript"),
        ".xml",
        _write_openvino,
        open_openvino,
        "compared with the hint f32; without it OpenVINO computes in bf16 where the processor has instructions for it",
    ),
}
"""Layout of `chiasm export` -> its engine."""


def write_graphs(pipeline: Pipeline, layout: str, example: Example, place: Path) -> Compared:
    """Write every graph of a pipeline, `tokenizer.json`, an example and `graphs.json` into a folder.

    Args:
        pipeline: on the CPU.
        layout: a key of `ENGINES`.
        example: its image and captions are compared, and stored with what the pipeline makes of them.
        place: the folder.

    Raises:
        MissingExtraError: the engine is not installed.
        InputError: the pipeline has no graph, or a part of it cannot be traced.
        JobError: a graph gives other numbers than the pipeline.
    """
    engine = ENGINES[layout]
    for package in engine.packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, layout if package == layout else "onnx")
    graphs, left_out = graphs_of(pipeline)
    words = standalone_tokenizer(pipeline) if any(IDS in one.inputs for one in graphs.values()) else None
    described, differences = {}, {}
    for name, graph in graphs.items():
        path = place / f"{name}{engine.ending}"
        with tempfile.TemporaryDirectory(dir=place) as inner:
            onnx = Path(inner) / f"{name}.onnx"
            _trace(pipeline, graph, words, onnx)
            engine.write(onnx, path)
        compared = _compared(pipeline, graph, words, example, engine.open(path))
        differences[path.name] = max(one["difference"] for one in compared)
        described[path.name] = _description(graph, compared)
    if words is not None:
        write_bytes(place / "tokenizer.json", words.to_str(pretty=True).encode())
    image = images_of(example)[0]
    write_bytes(place / "example.png", as_png(image.load()))
    beside = sorted(path.name for path in place.iterdir() if path.name.endswith((".data", ".bin")))
    made_by = {name: metadata.version(name) for name in ("chiasm", "torch", *engine.packages)}
    contents = {
        "format": layout,
        "opset": OPSET,
        "external_data": beside,
        "note": engine.note,
        "graphs": described,
        "atol": ATOL,
        **_serving(pipeline, words),
        "left_out": left_out,
        "example": _stored(pipeline, graphs, example),
        "made_by": made_by,
    }
    write_json(place / DESCRIPTION, contents)
    return Compared(differences, left_out)


def standalone_tokenizer(pipeline: Pipeline) -> Tokenizer:
    """The tokenizer for programs without chiasm.

    Raises:
        InputError: the texts are read by more than one tokenizer.
    """
    words = pipeline.codec.tokenizer
    if not isinstance(getattr(words, "tokenizer", None), Tokenizer):
        raise InputError(
            "a text tower that chooses a network for each text", "one network for all texts", "chiasm serve"
        )
    return words.standalone()


def _trace(pipeline: Pipeline, graph: Graph, words: Tokenizer | None, path: Path) -> None:
    """Write one graph as ONNX, with any number of rows and texts of any length."""
    texts = _tokens(words, ["one text", "another text that is longer"])
    given = example_inputs(pipeline, texts, 2)
    names = {PIXELS: {0: "rows"}, IDS: {0: "rows", 1: "length"}, MASK: {0: "rows", 1: "length"}}
    # With gradients on, towers take their plain way, not that of a kernel of one processor.
    with quiet(), traceable(pipeline.model), torch.enable_grad():
        try:
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(given[name] for name in graph.inputs),
                dynamo=True,
                dynamic_shapes={name: names[name] for name in graph.inputs},
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=[graph.output],
                verbose=False,
            )
        except Exception as error:  # of many types
            said = " ".join(str(error.__cause__ or error).split())[:300]
            raise InputError(
                f"the task {graph.task} cannot be traced: {type(error).__name__}: {said}",
                "networks whose steps do not depend on the values of their inputs",
                "serve it by `chiasm serve`, or report this",
            ) from error
        assert program is not None, "given back with dynamo=True"
        _forget_where_it_was_made(program)
        weights = sum(one.nbytes for one in graph.module.state_dict().values())
        program.save(path, external_data=weights >= EXTERNAL_FROM_BYTES)


def _forget_where_it_was_made(program: Any) -> None:
    """Remove the notes on each operation, which name files of this machine."""
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's remarks on packages that are absent and names that it changes."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _tokens(words: Tokenizer | None, texts: Sequence[str]) -> TextTokens:
    """Ids and mask as a program without chiasm makes them."""
    if words is None:
        return TextTokens(torch.zeros(len(texts), 1, dtype=torch.long), torch.ones(len(texts), 1, dtype=torch.bool))
    encoded = words.encode_batch(list(texts))
    ids, is_real = ([getattr(one, part) for one in encoded] for part in ("ids", "attention_mask"))
    return TextTokens(torch.tensor(ids), torch.tensor(is_real).bool())


def _compared(
    pipeline: Pipeline, graph: Graph, words: Tokenizer | None, example: Example, run: Runner
) -> list[dict[str, Any]]:
    """Shapes, and the largest difference to the pipeline on each.

    Raises:
        JobError: it is more than `ATOL`.
    """
    text = _texts(example)[0]
    most = pipeline.codec.tokenizer.max_tokens
    listed = [text, text.partition(" ")[0], " ".join([text, text]), "one more", " ".join([text] * most)]
    found = []
    for rows in ROWS:
        texts = listed[:rows]
        inputs = example_inputs(pipeline, _tokens(words, texts), rows)
        got = run({name: inputs[name].numpy() for name in graph.inputs})
        want = reference(pipeline, graph, inputs[PIXELS].permute(0, 3, 1, 2), texts)
        if got.shape != want.shape:
            raise JobError(f"{graph.output} has the shape {got.shape} for {want.shape}; nothing was written")
        difference = float(np.abs(got - want).max() / max(1.0, float(np.abs(want).max())))
        if not difference <= ATOL:
            raise JobError(
                f"{graph.output} of {rows} rows differs by {difference:.2e}, more than {ATOL:.0e}\n"
                "  do: report this; nothing was written"
            )
        found.append({"inputs": {name: list(inputs[name].shape) for name in graph.inputs}, "difference": difference})
    return found


@torch.no_grad()
def reference(pipeline: Pipeline, graph: Graph, pixels: torch.Tensor, texts: Sequence[str]) -> np.ndarray:
    """What the pipeline itself computes of images uint8 [n, 3, h, w] and as many texts, on the way of its answers."""
    model = pipeline.model
    if graph.output == "text_embeds":
        return pipeline.shared_space().embed_texts(model, pipeline.codec, texts)
    image = pipeline.encode_pixels(pixels)
    if graph.output == "image_embeds":
        return pipeline.shared_space().embed_images(model, {IMAGE: image})
    pooled = image.pooled
    if IDS in graph.inputs:
        rows = torch.arange(len(texts))
        pooled = model.ask({IMAGE: image}, pipeline.text_tokens(texts), rows, rows).pooled
    return model.logits(graph.task, pooled).numpy()


def _description(graph: Graph, compared: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kinds = {PIXELS: ["uint8", ["rows", "height", "width", 3]]}
    kinds |= {name: ["int64", ["rows", "length"]] for name in (IDS, MASK)}
    return {
        "task": graph.task,
        "inputs": {name: dict(zip(("dtype", "shape"), kinds[name], strict=True)) for name in graph.inputs},
        "output": {"name": graph.output, "dtype": "float32", "columns": list(graph.names)},
        "compared": list(compared),
    }


def _serving(pipeline: Pipeline, words: Tokenizer | None) -> dict[str, Any]:
    """Numbers that a program needs beside the graphs."""
    model, codec = pipeline.model, pipeline.codec
    scale, bias = model.logit_scale, model.logit_bias
    tokens = {"file": "tokenizer.json", "max_tokens": codec.tokenizer.max_tokens, "encode_special_tokens": True}
    return {
        "image": asdict(pipeline.resizing),
        "text": None if words is None else tokens,
        "contrast": {
            "logit_scale": None if scale is None else float(scale.detach().exp()),
            "logit_bias": None if bias is None else float(bias.detach()),
        },
        "calibration": {task: asdict(one) for task, one in codec.calibration.items()},
        "objective": {name: task.objective for name, task in pipeline.tasks.items() if task.objective},
    }


def _stored(pipeline: Pipeline, graphs: Mapping[str, Graph], example: Example) -> dict[str, Any]:
    """The example's image and text, and what each graph makes of them, for whoever writes a server."""
    text = _texts(example)[0]
    pixels = stack_images([images_of(example)[0].load()], pipeline.resizing)
    outputs = {graph.output if graph.output != "logits" else name: graph for name, graph in graphs.items()}
    numbers = {name: reference(pipeline, graph, pixels, [text])[0].tolist() for name, graph in outputs.items()}
    return {"image": "example.png", "text": text, **numbers}


def _texts(example: Example) -> list[str]:
    asked, told = [one.text for one in example.questions], [one.text for one in example.captions]
    return asked + told or ["a photo of a dog on the grass"]
