"""Language models as ordinary Hugging Face folders: out of a package, out of a GGUF file, or from disk as they are.

A GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) holds weights in blocks of few bits, config and
tokenizer. Unpacking takes seconds and is done once: the folder in the cache (`cache_root()/language_models`) holds
config, weights as float32, tokenizer and chat template, and the next opening maps it. Names, shapes and numbers are
those of transformers' own GGUF reader, whose functions are called here.
"""

import gc
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.core.errors import InputError, MissingExtraError, nearest
from chiasm.core.files import cache_root, folder_lock, read_json, sha256_bytes, sweep_partial, whole_folder, write_json
from chiasm.models.pretrained.packaged_language_models import LANGUAGE_MODELS, packaged_parts

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Raised when what is written changes, so that folders of an older version are not read."""
MANIFEST = "manifest.json"
_MAGIC = b"GGUF"
_READ_BYTES = 1 << 22


def language_model_folder(source: str) -> Path:
    """The Hugging Face folder of a causal language model; nothing is downloaded.

    Args:
        source: a name of `LANGUAGE_MODELS`, a `.gguf` file, or a folder in Hugging Face layout, which is returned as it
            is. A GGUF file is known by the SHA-256 of its content; that hash is looked up by path, size and time of
            change, so that a file which kept all three is not read again.

    Returns:
        A folder with config.json, weights and tokenizer. For GGUF: model.safetensors in float32, tokenizer.json,
        tokenizer_config.json, generation_config.json, and chat_template.jinja where the file has one.

    Raises:
        MissingExtraError: gguf or transformers is not installed.
        InputError: the package is not installed; no such name or path; a folder of another kind of model; a GGUF file
            that is damaged or that transformers cannot read.
    """
    if source in LANGUAGE_MODELS:
        return _unpacked(packaged_parts(source), source)
    path = Path(source).expanduser()
    if path.is_dir():
        _check_causal(path)
        return path
    if path.is_file() and (path.suffix.lower() == ".gguf" or _starts_as_gguf(path)):
        return _unpacked((path,), str(path))
    raise InputError(
        f"no language model {source!r}" + nearest(source, LANGUAGE_MODELS),
        f"{', '.join(LANGUAGE_MODELS)}, a .gguf file, or a folder in Hugging Face layout",
        "check the path; chiasm downloads nothing",
    )


def _starts_as_gguf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _check_causal(folder: Path) -> None:
    """Refuse a folder that holds no model which goes on with a text."""
    config = read_json(folder / "config.json", "the model's config")
    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    except ImportError:
        raise MissingExtraError("transformers", "llm") from None
    told = config if isinstance(config, dict) else {}
    kind, names = told.get("model_type"), told.get("architectures") or []
    classes: set[str] = set()
    for one in KNOWN.values():
        classes.update([one] if isinstance(one, str) else one)
    if any(name in classes for name in names) or (not names and kind in KNOWN):
        return
    raise InputError(
        f"{folder} holds {', '.join(map(str, names)) or repr(kind)}, no causal language model that transformers knows",
        "a folder whose config.json names one, such as LlamaForCausalLM, Qwen3ForCausalLM or GPT2LMHeadModel",
        "give the folder of a language model",
    )


def _unpacked(parts: Sequence[Path], name: str) -> Path:
    """The folder of a GGUF file, which may be cut into parts; written if it is not there, or not whole."""
    cache = cache_root() / "language_models"
    key = _content_key(parts, cache)
    folder = cache / f"{key[:32]}-{FORMAT}"
    if not _is_whole(folder):
        with folder_lock(cache, waits=True):
            if not _is_whole(folder):  # another process may have written it meanwhile
                shutil.rmtree(folder, ignore_errors=True)
                sweep_partial(cache)
                with whole_folder(folder) as place:
                    _write(parts, name, place)
                    sizes = {path.name: path.stat().st_size for path in sorted(place.iterdir())}
                    write_json(place / MANIFEST, {"source": name, "sha256": key, "format": FORMAT, "bytes": sizes})
    return folder


def _content_key(parts: Sequence[Path], cache: Path) -> str:
    """SHA-256 of the parts in a row, remembered under their paths, sizes and times of change."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in parts]
    known = cache / "hashes" / f"{sha256_bytes(json.dumps(stats).encode())[:32]}.json"
    if known.is_file():
        found = read_json(known, "a hash")
        if isinstance(found, dict) and isinstance(found.get("sha256"), str):
            return str(found["sha256"])
    digest = sha256()
    for path in parts:
        with open(path, "rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    write_json(known, {"sha256": digest.hexdigest(), "files": [path for path, _, _ in stats]})
    return digest.hexdigest()


def _is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there with its size, and the weights end where their header says."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        sizes = read_json(folder / MANIFEST, "the manifest")["bytes"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return whole and all(_ends_well(path) for path in folder.glob("*.safetensors"))
    except (InputError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return False


def _ends_well(path: Path) -> bool:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(8 + length + max(ends, default=0) == path.stat().st_size)


def _write(parts: Sequence[Path], name: str, place: Path) -> None:
    """Unpack a GGUF file into `place`; parts are put together there and removed."""
    try:
        import gguf  # noqa: F401 - transformers only logs that it is missing
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "gguf", "llm") from None
    if not _starts_as_gguf(parts[0]):
        raise InputError(f"{name} is no GGUF file", "one that starts with the letters GGUF", "download it again")
    whole = parts[0] if len(parts) == 1 else place / "whole.gguf"
    if len(parts) > 1:
        with open(whole, "wb") as out:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, out, _READ_BYTES)
    try:
        with _quick_and_offline():
            _write_tokenizer(whole, place)
            if not _write_quickly(whole, place):
                _write_through_transformers(whole, place)
    except InputError:
        raise
    except Exception as error:  # of many types
        raise InputError(
            f"{name} cannot be read as GGUF: {' '.join(str(error).split())[:300] or type(error).__name__}",
            "a whole file of an architecture and block format that transformers reads",
            "download it again, update transformers and gguf, or give a Hugging Face folder of the same model",
        ) from error
    if len(parts) > 1:
        whole.unlink()


@contextmanager
def _quick_and_offline() -> Iterator[None]:
    """Keep transformers from asking a hub about a file that is on disk, from drawing bars, and from pauses.

    gguf makes an array of each token's bytes, a million objects that live until the file is read; the garbage collector
    would walk through them again and again, which takes 40 % of the time.
    """
    before, collects = os.environ.get("HF_HUB_OFFLINE"), gc.isenabled()
    os.environ["HF_HUB_OFFLINE"] = "1"
    gc.disable()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if collects:
            gc.enable()
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def _write_tokenizer(whole: Path, place: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    # What AutoTokenizer makes of a GGUF file too, after it has read the whole config to look for a class.
    found = PreTrainedTokenizerFast(gguf_file=whole.name, name_or_path=str(whole.parent), local_files_only=True)
    found.save_pretrained(place)


class _Named:
    """Stands for a model where transformers maps names of GGUF to its own, without the maps of every inner module.

    transformers asks the model and each module inside it for a map, 397 for 30 layers. The names of all causal models
    are found by the model and its base model (Bloom is written from the latter); `_write_quickly` checks that.
    """

    def __init__(self, model: Any, is_base: bool = False) -> None:
        self.model, self.is_base, self.config = model, is_base, model.config

    def state_dict(self) -> Mapping[str, "Tensor"]:
        return self.model.state_dict()

    def named_children(self) -> list[tuple[str, "_Named"]]:
        if self.is_base or self.model.base_model is self.model:
            return []
        return [(self.model.base_model_prefix, _Named(self.model.base_model, True))]


def _write_quickly(whole: Path, place: Path) -> bool:
    """Write config and weights by transformers' table of names; False where it does not give the whole model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.integrations.gguf.utils import is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if is_gguf_arch_supported(read_gguf_metadata(str(whole))[0]["general.architecture"]):
        return False  # read by another part of transformers, which has no table of names
    config = AutoConfig.from_pretrained(whole.parent, gguf_file=whole.name, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    read = load_gguf_checkpoint(str(whole), return_tensors=True, model_to_load=_Named(model), torch_dtype=torch.float32)
    tensors: dict[str, Tensor] = read["tensors"]
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    tied = _tied(model)
    found = {key: value.shape for key, value in tensors.items()}
    if found != {key: shape for key, shape in wanted.items() if key in found or key not in tied}:
        return False
    _save(tensors, model, config, place)
    return True


def _tied(model: Any) -> set[str]:
    """Names of weights that are others of the same model, and are not stored."""
    return set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()


def _save(tensors: Mapping[str, "Tensor"], model: Any, config: Any, place: Path) -> None:
    """Write weights and configs in the layout of Hugging Face."""
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig

    solid = {key: value.contiguous() for key, value in tensors.items()}
    save_file(solid, place / "model.safetensors", {"format": "pt"})
    config.architectures, config.dtype = [type(model).__name__], torch.float32
    config.save_pretrained(place)
    GenerationConfig.from_model_config(config).save_pretrained(place)


def _write_through_transformers(whole: Path, place: Path) -> None:
    """Write config and weights by loading the whole model, as transformers does for every file that it reads."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise MissingExtraError("accelerate", "llm") from None
    config = AutoConfig.from_pretrained(whole.parent, gguf_file=whole.name, local_files_only=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        whole.parent, gguf_file=whole.name, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    model, said = loaded
    if said["missing_keys"] or said["mismatched_keys"]:
        lacks = ", ".join(sorted(map(str, [*said["missing_keys"], *said["mismatched_keys"]]))[:3])
        raise ValueError(f"transformers finds no weights for {lacks}")
    tied = _tied(model)  # a model that came out of GGUF refuses save_pretrained
    _save({key: value for key, value in model.state_dict().items() if key not in tied}, model, config, place)
