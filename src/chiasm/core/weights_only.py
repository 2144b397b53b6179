"""A child process that turns one pickled file of weights into safetensors: `python -m chiasm.core.weights_only`.

A pickle can run code, and can ask for more memory than there is. Here it may do neither: only tensors and plain
containers are read (`weights_only`), a file that unpacks to more than it is long is refused before that, and this
process has a limit on its memory, its time and what it writes. It prints one line of JSON: the
result, or the reason of the refusal.
"""

import json
import resource
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chiasm.core.files import write_bytes

MEMORY_SPARE_BYTES = 512 * 2**20
"""Memory beside the copies of the weights."""
COPIES = 4
"""The file, the tensors, their contiguous copies, the bytes that are written."""
CPU_SPARE_S = 60
BYTES_A_SECOND = 20 * 2**20
"""Slowest reading that is waited for."""
WRAPPED_IN = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training programs keep the weights beside their optimiser."""
PREFIXES = ("module.", "_orig_mod.")
"""What distributed and compiled models put before every name."""


class RefusedError(Exception):
    """Why a file is not converted."""


def limit(file_bytes: int) -> None:
    """Bound this process's memory, above what is mapped already, its CPU time and the size of a file it writes."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, mapped + COPIES * file_bytes + MEMORY_SPARE_BYTES),
        (resource.RLIMIT_CPU, CPU_SPARE_S + file_bytes // BYTES_A_SECOND),
        (resource.RLIMIT_FSIZE, 4 * file_bytes + 2**20),
    ):
        resource.setrlimit(what, (most, most))


def check_archive(path: Path) -> None:
    """Refuse archives that are packed: torch writes its tensors as they are, so a packed one hides its true size.

    Raises:
        RefusedError: says what the archive holds.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RefusedError("its archive is compressed, which torch never writes")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise RefusedError("its archive unpacks to more bytes than it has")
    if any("/code/" in entry.filename for entry in entries):
        raise RefusedError("it is a TorchScript program, code beside weights, as OpenAI published CLIP")


def weights_of(content: Any) -> dict[str, Any]:
    """The tensors among what was unpickled, by name, without what wrappers put before it.

    Raises:
        RefusedError: no mapping from names to tensors.
    """
    import torch

    for key in WRAPPED_IN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise RefusedError(f"it holds a {type(content).__name__}, no state dict")
    found = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not found or len(found) < len(content):
        other = next((str(name) for name in content if str(name) not in found), "nothing")
        raise RefusedError(f"it holds {other!r} where only tensors are expected")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return {name: value.contiguous().clone() for name, value in found.items()}


def convert(source: Path, target: Path) -> int:
    """Convert one file within the limits; returns the number of tensors."""
    check_archive(source)
    import safetensors.torch
    import torch

    limit(source.stat().st_size)
    content = torch.load(source, map_location="cpu", weights_only=True)
    tensors = weights_of(content)
    write_bytes(target, safetensors.torch.save(tensors, {"format": "pt"}))
    return len(tensors)


def main() -> None:
    """Convert the file named first into the file named second."""
    source, target = map(Path, sys.argv[1:3])
    try:
        said: dict[str, Any] = {"count": convert(source, target)}
    except RefusedError as error:
        said = {"refused": str(error)}
    except MemoryError:
        said = {"refused": "it asks for more memory than its size explains"}
    except Exception as error:  # a damaged or hostile pickle raises nearly any type
        said = {"refused": " ".join(str(error).split())[:200]}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
