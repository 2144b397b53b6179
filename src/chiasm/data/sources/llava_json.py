r"""Layout "llava_json": LLaVA's conversations (Liu et al. 2023), a JSON list or JSON lines.

`{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt",
"value": "A dog."}]}`. `image` (or `images`) names one image, several in a list, or none. The split is a key, or the
file's name, or is drawn.
"""

from pathlib import Path

from chiasm.data.sources.conversation_rows import files_with, read_rows
from chiasm.data.sources.records import Reading

KEY = "conversations"


def recognises(path: Path) -> bool:
    """True for such a file, and for a folder that holds one."""
    return bool(files_with(path, KEY))


def read(path: Path, split: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one. A bad row is reported with its number."""
    return read_rows(path, split, KEY)
