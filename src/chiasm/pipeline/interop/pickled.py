"""Pickled weights -> the same folder with safetensors, read in a limited child process (`core.weights_only`)."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from chiasm.core.errors import InputError, JobError
from chiasm.core.files import new_folder, read_json, write_json
from chiasm.models.encoders.open_clip import WEIGHTS, is_open_clip
from chiasm.pipeline.interop.exporting import refuse_links_out

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
COPIED = (".json", ".txt", ".model", ".gz", ".md")
"""Endings of what else belongs to a model: configs, vocabularies. Code is left behind."""
MOST_COPIED_BYTES = 64 * 2**20
INDEX = "pytorch_model.bin.index.json"
TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class Converted:
    """Files of a conversion."""

    out: Path
    sources: tuple[str, ...]
    count: int
    """Tensors."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"out": str(self.out), "sources": list(self.sources), "count": self.count}


def to_safetensors(source: Path, out: Path) -> Converted:
    """Convert a folder in the layout of Hugging Face or open_clip whose weights are pickled.

    Args:
        source: the folder, or one file of weights in it.
        out: folder to create, with the other files of the model beside the new weights.

    Raises:
        InputError: no such file, no config beside it, several to choose from, a link out of the folder, or a pickle
            that is refused.
    """
    folder = source.parent if source.is_file() else source
    pickles = _pickles(source)
    refuse_links_out(folder)
    named = _names(folder, pickles)
    with new_folder(out) as place:
        count = 0
        for pickle, name in zip(pickles, named, strict=True):
            count += _convert(pickle, place / name)
        for path in sorted(folder.iterdir()):
            is_kept = path.is_file() and path.suffix in COPIED and path.name != INDEX
            if is_kept and path.stat().st_size <= MOST_COPIED_BYTES:
                shutil.copyfile(path, place / path.name)
        if len(pickles) > 1:
            index = _index(folder)
            renamed = dict(zip((path.name for path in pickles), named, strict=True))
            index["weight_map"] = {tensor: renamed[Path(name).name] for tensor, name in index["weight_map"].items()}
            write_json(place / "model.safetensors.index.json", index)
    return Converted(out, tuple(path.name for path in pickles), count)


def _index(folder: Path) -> dict[str, Any]:
    """Read the table of tensors and the files that hold them.

    Raises:
        InputError: no such table in it.
    """
    index = read_json(folder / INDEX, "the index of the weights")
    table = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
        raise InputError(
            f"{folder / INDEX} has no weight_map",
            'a table of tensors and files, {"weight_map": {"a.weight": "pytorch_model-00001-of-00002.bin", ...}}',
            "take the file from the model's page",
        )
    return {"metadata": {}, **index}  # transformers does not read one without


def _pickles(source: Path) -> list[Path]:
    if source.is_file():
        found = [source] if source.suffix in PICKLED else []
    elif (source / INDEX).is_file():
        names = sorted(set(_index(source)["weight_map"].values()))
        found = [source / Path(name).name for name in names]
    else:
        found = sorted(path for path in source.glob("*") if path.suffix in PICKLED and path.is_file())
        preferred = [path for path in found if path.name in ("pytorch_model.bin", "open_clip_pytorch_model.bin")]
        found = preferred[:1] or found
    is_several = len(found) > 1 and not (source / INDEX).is_file()
    if not found or is_several or not all(path.is_file() for path in found):
        names_found = ", ".join(path.name for path in found) or "no pickled weights"
        raise InputError(
            f"{source} has {names_found}",
            "a folder with one file of weights (" + ", ".join(PICKLED) + "), or its path",
            "name the file itself",
        )
    return found


def _names(folder: Path, pickles: list[Path]) -> list[str]:
    """Names of the new files."""
    if is_open_clip(folder):
        return [WEIGHTS]
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} has neither config.json nor open_clip_config.json",
            "the description of the model beside its weights",
            "take the file from the model's page",
        )
    if len(pickles) == 1:
        return ["model.safetensors"]
    return [path.name.replace("pytorch_model", "model").removesuffix(path.suffix) + ".safetensors" for path in pickles]


def _convert(source: Path, target: Path) -> int:
    """One file in a child process; the number of tensors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "chiasm.core.weights_only", str(source), str(target)]
    try:
        ended = subprocess.run(command, capture_output=True, env=environment, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise JobError(f"{source} was not read within {TIMEOUT_S} s") from None
    try:
        result = json.loads(ended.stdout)
    except ValueError:
        result = {"refused": f"reading it ended with status {ended.returncode}: a limit of memory or time, or a crash"}
    if "refused" in result:
        raise InputError(
            f"{source}: {result['refused']}",
            "a state dict: names and tensors, as torch.save writes it",
            "save the weights alone where the model was made, best as safetensors",
        )
    with safetensors.safe_open(target, framework="pt") as file:
        count = len(list(file.keys()))
    if count != result["count"]:
        raise JobError(f"{target} has {count} tensors, {result['count']} were read")
    return count
