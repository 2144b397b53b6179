"""The engines that compute one model's vectors: chiasm, and whichever others are installed, with the same weights.

Each gets the same images and texts. An engine that is not installed, or whose layout cannot hold the model, is named
with the reason in place of a number.
"""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from chiasm.core.device import has_bf16
from chiasm.core.errors import ChiasmError
from chiasm.core.files import write_bytes
from chiasm.core.types import IMAGE, Example, TextTokens
from chiasm.data.image import load_image
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder, normalised
from chiasm.models.pretrained.hugging_face_folder import without_bars
from chiasm.pipeline.batching import stack_images
from chiasm.pipeline.interop.graph_files import open_onnx, open_openvino, standalone_tokenizer, write_graphs
from chiasm.pipeline.interop.graphs import IDS, MASK, PIXELS
from chiasm.pipeline.interop.layouts import hugging_face_files, open_clip_files
from chiasm.pipeline.pipeline import Pipeline

Vectors = np.ndarray


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to compute a model's vectors, float [n, e] of any length.

    Attributes:
        name: library and number format.
        images: uint8 [n, 3, h, w], resized -> vectors; None where the engine only takes files.
        files: contents of image files -> vectors.
        texts: texts -> vectors.
    """

    name: str
    images: Callable[[Tensor], Vectors] | None
    files: Callable[[Sequence[bytes]], Vectors]
    texts: Callable[[Sequence[str]], Vectors]


def chiasm_engine(pipeline: Pipeline, name: str = "chiasm fp32") -> Engine:
    """The pipeline itself, on the way of `encode_image` and `encode_text`; no cached vectors."""
    space, codec = pipeline.shared_space(), replace(pipeline.codec, text_vectors={})

    def images(pixels: Tensor) -> Vectors:
        return space.embed_images(pipeline.model, {IMAGE: pipeline.encode_pixels(pixels)})

    return Engine(
        name,
        images,
        lambda contents: images(decoded(pipeline, contents)),
        lambda texts: space.embed_in_parts(pipeline.model, codec, texts),
    )


def other_engines(pipeline: Pipeline, example: Example, place: Path) -> tuple[list[Engine], dict[str, str]]:
    """Every other engine that is installed and takes the model, and name -> why the rest is absent.

    Args:
        pipeline: on the CPU, in fp32.
        example: written beside an export.
        place: folder for the exported models.
    """
    found: list[Engine] = []
    absent: dict[str, str] = {}
    for name, (package, command, build) in BUILDERS.items():
        if find_spec(package) is None:
            absent[name] = f"not installed: {command}"
            continue
        folder = place / package
        folder.mkdir()
        try:
            with silent():
                found += build(pipeline, example, folder)
        except ChiasmError as error:
            absent[name] = str(error).splitlines()[0]
        except Exception as error:  # of many types, by the engines
            absent[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return found, absent


def decoded(pipeline: Pipeline, contents: Sequence[bytes]) -> Tensor:
    """Image files -> uint8 [n, 3, h, w], as chiasm decodes and resizes them."""
    return stack_images([load_image(content, "an image") for content in contents], pipeline.resizing)


@contextmanager
def silent() -> Iterator[None]:
    """Silence the remarks of other libraries on the models that they open."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _transformers(pipeline: Pipeline, example: Example, folder: Path) -> list[Engine]:
    """The network of transformers in fp32, and in bf16 where the processor has it; texts padded to the longest."""
    _write(folder, hugging_face_files(pipeline))
    from transformers import AutoImageProcessor, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    tower, tokens = pipeline.model.image_encoder, pipeline.codec.tokenizer
    assert isinstance(tower, HuggingFaceImageEncoder), "what the layout holds"
    padding = True if tokens.padded_tokens is None else "max_length"
    reads_padding = tokens.padded_tokens is not None

    def engine(network: Any, dtype: torch.dtype, name: str) -> Engine:
        @torch.no_grad()
        def seen(pixels: Tensor) -> Vectors:
            return _unit(network.get_image_features(pixel_values=pixels.to(dtype)))

        @torch.no_grad()
        def texts(listed: Sequence[str]) -> Vectors:
            given = words(
                list(listed), return_tensors="pt", padding=padding, truncation=True, max_length=tokens.max_tokens
            )
            mask = {} if reads_padding else {"attention_mask": given["attention_mask"]}
            return _unit(network.get_text_features(input_ids=given["input_ids"], **mask))

        def images(pixels: Tensor) -> Vectors:
            return seen(normalised(pixels.float() / 127.5 - 1, tower.preprocessing))

        def files(contents: Sequence[bytes]) -> Vectors:
            return seen(processor([_opened(one) for one in contents], return_tensors="pt")["pixel_values"])

        return Engine(name, images, files, texts)

    made = [engine(_network(folder, torch.float32), torch.float32, "transformers fp32")]
    if has_bf16(torch.device("cpu")):
        made.append(engine(_network(folder, torch.bfloat16), torch.bfloat16, "transformers bf16"))
    return made


def _network(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModel

    with without_bars():
        return AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()


def _sentence_transformers(pipeline: Pipeline, example: Example, folder: Path) -> list[Engine]:
    """sentence-transformers' module of CLIP, which takes files and texts alone."""
    _write(folder, hugging_face_files(pipeline))
    from sentence_transformers import SentenceTransformer

    # Version 6 moved the modules.
    is_new = find_spec("sentence_transformers.sentence_transformer") is not None
    home = "sentence_transformers.sentence_transformer.modules" if is_new else "sentence_transformers.models"
    clip = import_module(home).CLIPModel
    with without_bars():
        network: Any = SentenceTransformer(modules=[clip(str(folder))], device="cpu")
    options = {"batch_size": 32, "show_progress_bar": False, "normalize_embeddings": True}

    def files(contents: Sequence[bytes]) -> Vectors:
        return np.asarray(network.encode([_opened(one) for one in contents], **options))

    def texts(listed: Sequence[str]) -> Vectors:
        return np.asarray(network.encode(list(listed), **options))

    return [Engine("sentence-transformers", None, files, texts)]


def _open_clip(pipeline: Pipeline, example: Example, folder: Path) -> list[Engine]:
    """open_clip in fp32, out of its own layout."""
    _write(folder, open_clip_files(pipeline))
    import open_clip

    address = f"local-dir:{folder}"
    network, prepare = open_clip.create_model_from_pretrained(address)
    words = open_clip.get_tokenizer(address)
    network.eval()
    tower = pipeline.model.image_encoder
    assert isinstance(tower, HuggingFaceImageEncoder), "what the layout holds"

    @torch.no_grad()
    def seen(pixels: Tensor) -> Vectors:
        return _unit(network.encode_image(pixels))

    @torch.no_grad()
    def texts(listed: Sequence[str]) -> Vectors:
        return _unit(network.encode_text(words(list(listed))))

    return [
        Engine(
            "open_clip fp32",
            lambda pixels: seen(normalised(pixels.float() / 127.5 - 1, tower.preprocessing)),
            lambda contents: seen(torch.stack([prepare(_opened(one)) for one in contents])),
            texts,
        )
    ]


def _onnx_runtime(pipeline: Pipeline, example: Example, folder: Path) -> list[Engine]:
    """ONNX Runtime in fp32, and with its dynamic int8 of matrix products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = _graphs(pipeline, example, folder, "onnx")
    for name in ("image", "text"):
        quantize_dynamic(
            whole / f"{name}.onnx",
            folder / f"{name}.onnx",
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    made = [_graph_engine(pipeline, "ONNX Runtime fp32", open_onnx, whole)]
    return [*made, _graph_engine(pipeline, "ONNX Runtime int8", open_onnx, folder)]


def _openvino(pipeline: Pipeline, example: Example, folder: Path) -> list[Engine]:
    """OpenVINO in f32, and in bf16 where the processor has it."""
    # It opens ONNX as it is, which is there already where ONNX Runtime is installed.
    layout, ending = ("onnx", ".onnx") if find_spec("onnxruntime") else ("openvino", ".xml")
    graphs = _graphs(pipeline, example, folder, layout)
    formats = ["f32", "bf16"] if has_bf16(torch.device("cpu")) else ["f32"]
    return [
        _graph_engine(pipeline, f"OpenVINO {one}", partial(open_openvino, precision=one), graphs, ending)
        for one in formats
    ]


def _graphs(pipeline: Pipeline, example: Example, folder: Path, layout: str) -> Path:
    """The folder of the exported graphs beside `folder`; written, and compared with the pipeline, when first asked."""
    place = folder.with_name(f"graphs-{layout}")
    if not place.is_dir():
        begun = Path(mkdtemp(dir=folder.parent))
        write_graphs(pipeline, layout, example, begun)
        begun.rename(place)
    return place


def _graph_engine(
    pipeline: Pipeline, name: str, opened: Callable[[Path], Callable[..., Any]], folder: Path, ending: str = ".onnx"
) -> Engine:
    image, text = opened(folder / f"image{ending}"), opened(folder / f"text{ending}")
    words = standalone_tokenizer(pipeline)

    def images(pixels: Tensor) -> Vectors:
        return np.asarray(image({PIXELS: pixels.permute(0, 2, 3, 1).contiguous().numpy()}))

    def texts(listed: Sequence[str]) -> Vectors:
        encoded = words.encode_batch(list(listed))
        found = TextTokens(*(torch.tensor([getattr(one, part) for one in encoded]) for part in ("ids", MASK)))
        return np.asarray(text({IDS: found.ids.numpy(), MASK: found.is_real.numpy()}))

    return Engine(name, images, lambda contents: images(decoded(pipeline, contents)), texts)


Build = Callable[[Pipeline, Example, Path], list[Engine]]
BUILDERS: dict[str, tuple[str, str, Build]] = {
    "transformers": ("transformers", "pip install 'chiasm[hf]'", _transformers),
    "sentence-transformers": ("sentence_transformers", "pip install sentence-transformers", _sentence_transformers),
    "open_clip": ("open_clip", "pip install open_clip_torch", _open_clip),
    "ONNX Runtime": ("onnxruntime", "pip install 'chiasm[onnx]'", _onnx_runtime),
    "OpenVINO": ("openvino", "pip install 'chiasm[onnx,openvino]'", _openvino),
}
"""Engine -> the module to look for, how to install it, and what opens it."""


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write_bytes(folder / name, content)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _unit(found: Any) -> Vectors:
    """Features, or an output that has them, -> unit vectors float32."""
    vectors = found if isinstance(found, Tensor) else found.pooler_output
    return F.normalize(vectors.float(), dim=-1).numpy()
