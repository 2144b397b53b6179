"""Folders in Hugging Face layout, read with care: local, safetensors only, no code out of the folder.

What a tower is, beside its weights, is small and is kept in `TowerSpec`: the architecture's config, how its tokens
become one vector, and for images the preprocessing. A run folder holds it as one JSON file for each such tower, so
that the folder it came from is not needed any more.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from chiasm.core.config import from_dict
from chiasm.core.errors import InputError, MissingExtraError
from chiasm.core.files import read_json
from chiasm.core.resizing import Resizing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

T = TypeVar("T")
Pooled = Literal["pooler", "first", "mean"]
"""Where the one vector of a row comes from: the architecture's own pooler, its first token, the mean of real tokens."""
SPEC_FILES = {"image": "image_tower.json", "text": "text_tower.json"}
"""Files of a run folder."""
NETWORK_FILE = "network.json"
"""File of a run folder that holds a whole network of transformers."""
LONGER = 1333 / 800
"""Bound of ViLT's longer side, as a factor of the shorter (Kim et al. 2021, section 4.2)."""
FIXED_SIZE = frozenset(
    {
        "clip_vision_model",
        "siglip_vision_model",
        "chinese_clip_vision_model",
        "blip_vision_model",
        "vit",
        "deit",
        "beit",
    }
)
"""Architectures whose position embeddings fit images of one size."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images become numbers, as the weights were trained.

    Resizing, then a crop of the middle, both with integer pixels; then (value / 255 - mean) / std by channel.
    """

    resize: Literal["none", "shortest", "exact"]
    """"shortest" scales the shorter side to `resize_px[0]`; "exact" scales to `resize_px` (height, width)."""
    resize_px: tuple[int, ...]
    crop_px: tuple[int, ...]
    """Height and width of the crop; empty for none. An image that is smaller is padded with black."""
    resample: int
    """Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_divisor: int = 0
    """Images keep their shapes ("shortest", up to a longer side of `LONGER` times the shorter), sides cut to whole
    multiples of this (ViLT's patches). 0 means images of one size."""

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of what comes out; of the canvas where images keep their shapes."""
        if self.size_divisor:
            side = self.longest_px // self.size_divisor * self.size_divisor
            return side, side
        height, width = self.crop_px or self.resize_px
        return height, width

    @property
    def longest_px(self) -> int:
        """Most of the longer side where images keep their shapes."""
        return int(LONGER * self.resize_px[0])

    @property
    def resizing(self) -> Resizing:
        """How pixels are resized; where images keep their aspect ratios, on a canvas with a mask as fourth channel."""
        if self.size_divisor:
            return Resizing(
                "within",
                self.size_px,
                self.resize_px,
                resample=self.resample,
                longest_px=self.longest_px,
                divisor=self.size_divisor,
            )
        return Resizing("shortest", self.size_px, self.resize_px, self.crop_px, self.resample)


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """What makes a tower, beside its weights."""

    architecture: dict[str, Any]
    """transformers' config, `model_type` among it."""
    pooled: Pooled
    preprocessing: Preprocessing | None = None
    """Of an image tower."""

    def to_json(self) -> bytes:
        """As the run folder keeps it."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def read_spec(path: Path) -> TowerSpec:
    """Read what `TowerSpec.to_json` wrote."""
    values = read_json(path, "the tower's description")
    given = values.get("preprocessing") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(values.get("architecture"), dict):
        raise InputError(f"{path} describes no tower", "a file that chiasm wrote", "restore the folder")
    if values.get("pooled") not in ("pooler", "first", "mean"):
        raise InputError(f"{path}: pooled is {values.get('pooled')!r}", "pooler, first or mean", "restore the folder")
    preprocessing = from_dict(Preprocessing, given, f"{path.name}.preprocessing") if given is not None else None
    return TowerSpec(values["architecture"], values["pooled"], preprocessing)


def need_transformers() -> None:
    """Say which extra brings transformers where it is absent."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError("transformers", "hf")


def checked_folder(name: str, key: str) -> Path:
    """The folder that a config key names; nothing is downloaded.

    Args:
        name: what was given.
        key: what to call it in an error, such as "model.image.name".

    Raises:
        InputError: no such folder (a name on the hub, perhaps), no config, or weights that are no safetensors.
    """
    folder = Path(name)
    local = "a local folder with config.json and model.safetensors; nothing is downloaded"
    if not name:
        raise InputError(f"{key} is not set", local, f"--set {key}=FOLDER")
    if not folder.is_dir():
        is_hub = name.count("/") <= 1 and not name.startswith((".", "/", "~"))
        do = (
            f"with a network: `hf download {name} --local-dir FOLDER`, then give FOLDER" if is_hub else "check the path"
        )
        raise InputError(f"{key} is {name!r}, and no such folder is here", local, do)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json", local, "give the folder that holds the model's files")
    if not any((folder / one).is_file() for one in ("model.safetensors", "model.safetensors.index.json")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        given = f"{folder} has weights as {pickled[0]} alone" if pickled else f"{folder} has no weights"
        raise InputError(
            given,
            "model.safetensors: a pickle can run code when it is read",
            f"chiasm export {folder} --to safetensors --out FOLDER"
            if pickled
            else "give the folder that holds the weights",
        )
    return folder


def model_type(folder: Path) -> str:
    """`model_type` of a folder's config.json; "" where there is none."""
    if not (folder / "config.json").is_file():
        return ""
    values = read_json(folder / "config.json", "the config")
    found = values.get("model_type") if isinstance(values, dict) else ""
    return found if isinstance(found, str) else ""


def reading(folder: Path, what: str, read: Callable[[], T]) -> T:
    """Call a reader of transformers, whose errors are of many types, and say what it could not read."""
    need_transformers()
    try:
        with without_bars():
            return read()
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"{folder}: {what} cannot be read ({type(error).__name__}: {said})",
            "files of an architecture that the installed transformers knows, without code of their own",
            "check the folder, or save the model again with a current transformers",
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars off a reader's screen; a folder on disk is read in seconds."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def read_architecture(folder: Path) -> "PreTrainedConfig":
    """The folder's config; code in the folder is never run."""
    from transformers import AutoConfig

    return reading(
        folder,
        "config.json",
        lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
    )


def read_network(folder: Path, network: Any, **how: Any) -> "PreTrainedModel":
    """Read an architecture with all its weights, float32, in evaluation mode.

    Args:
        folder: checked by `checked_folder`.
        network: a class of transformers with `from_pretrained`.
        how: what its constructor takes.

    Raises:
        InputError: a weight is missing in the folder; it would be random.
    """
    import torch

    model, info = reading(
        folder,
        "the weights",
        lambda: network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **how
        ),
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted(map(str, info["missing_keys"])) or sorted(map(str, info["mismatched_keys"]))
        raise InputError(
            f"{folder} lacks {len(lacking)} tensors of its architecture, such as {lacking[0]}",
            "every weight; one that is missing would be random",
            "take the folder as its authors published it",
        )
    _as_in_file(model, folder)
    return model.eval()


def _as_in_file(model: "PreTrainedModel", folder: Path) -> None:
    """Give back what transformers changes while it reads: it zeroes the word embedding of the padding token."""
    import safetensors
    import torch

    state = model.state_dict()
    with torch.no_grad():
        for path in sorted(folder.glob("model*.safetensors")):
            with safetensors.safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  the file is no dict
                    if name.endswith("word_embeddings.weight") and name in state:
                        state[name].copy_(file.get_tensor(name))


def read_preprocessing(folder: Path) -> Preprocessing:
    """What preprocessor_config.json asks for, as transformers understands it.

    Raises:
        InputError: no such file, or a preprocessing beyond resize, crop and normalisation.
    """
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise InputError(
            f"{folder} has no preprocessor_config.json",
            "the preprocessing that the weights were trained with; a guessed one gives wrong numbers silently",
            "take the file from the model's page",
        )
    from transformers import AutoImageProcessor
    from transformers.image_processing_backends import PilBackend

    given = reading(
        folder,
        "preprocessor_config.json",
        lambda: AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        ),
    )
    kind = type(given)
    if kind.__name__ == "ViltImageProcessorPil":
        return _vilt(given, folder)
    is_convnext = kind.__name__ == "ConvNextImageProcessorPil"
    own = [
        name
        for name in ("_preprocess", "resize", "center_crop")
        if getattr(kind, name) is not getattr(PilBackend, name)
    ]
    other = [
        name for name, is_odd in {
            "do_pad": bool(given.do_pad),
            "rescale_factor": not given.do_rescale or abs(given.rescale_factor * 255 - 1) > 1e-6,
            kind.__name__: bool(own) and not is_convnext,
        }.items() if is_odd
    ]  # fmt: skip
    if other:
        raise InputError(
            f"{folder}: preprocessing with {other[0]}",
            "resize, crop of the middle, division by 255, mean and standard deviation",
            "use a model with a plain preprocessing",
        )
    return _convnext(given) if is_convnext else _plain(given, folder)


def _vilt(given: Any, folder: Path) -> Preprocessing:
    side = dict(given.size or {}).get("shortest_edge")
    if not given.do_resize or not side or not given.do_rescale or abs(given.rescale_factor * 255 - 1) > 1e-6:
        raise InputError(f"{folder}: images are not resized by their shorter side", "ViLT's own way", "restore it")
    mean, std = _normalisation(given)
    return Preprocessing("shortest", (int(side),), (), int(given.resample), mean, std, int(given.size_divisor))


def _plain(given: Any, folder: Path) -> Preprocessing:
    size = {name: value for name, value in dict(given.size or {}).items() if value}
    resize_px: tuple[int, ...]
    if not given.do_resize:
        resize, resize_px = "none", ()
    elif set(size) == {"shortest_edge"}:
        resize, resize_px = "shortest", (int(size["shortest_edge"]),)
    elif set(size) == {"height", "width"}:
        resize, resize_px = "exact", (int(size["height"]), int(size["width"]))
    else:
        raise InputError(f"{folder}: images are resized to {size}", "shortest_edge, or height and width", "edit it")
    crop = (int(given.crop_size["height"]), int(given.crop_size["width"])) if given.do_center_crop else ()
    if not crop and resize != "exact":
        raise InputError(
            f"{folder}: images are resized by {resize!r} without a crop", "images of one size", "add a crop_size"
        )
    return Preprocessing(resize, resize_px, crop, int(given.resample), *_normalisation(given))  # type: ignore[arg-type]


def _convnext(given: Any) -> Preprocessing:
    """ConvNeXt: below 384 px a crop of `crop_pct` of the image, from there on the whole image, squeezed."""
    side = int(given.size["shortest_edge"])
    if side >= 384:
        return Preprocessing("exact", (side, side), (), int(given.resample), *_normalisation(given))
    short = int(side / given.crop_pct)
    return Preprocessing("shortest", (short,), (side, side), int(given.resample), *_normalisation(given))


def _normalisation(given: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not given.do_normalize:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(map(float, given.image_mean)), tuple(map(float, given.image_std))


def check_picture_size(architecture: "PreTrainedConfig", preprocessing: Preprocessing, folder: Path) -> None:
    """Refuse images of another size than the position embeddings are for."""
    size = getattr(architecture, "image_size", None)
    if architecture.model_type not in FIXED_SIZE or size is None:
        return
    wanted = (size, size) if isinstance(size, int) else tuple(size)
    if preprocessing.size_px != wanted:
        raise InputError(
            f"{folder}: the preprocessing makes images of {preprocessing.size_px}, the network was made for {wanted}",
            "one size in both: they come from different models",
            "take preprocessor_config.json and config.json of one model",
        )
