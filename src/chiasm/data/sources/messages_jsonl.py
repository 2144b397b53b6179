"""Layout "messages_jsonl": conversations as OpenAI's interface writes messages, JSON lines or a JSON list.

`{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text",
"text": "What is it?"}]}, {"role": "assistant", "content": "A dog."}]}`. An image is a path or a `data:` URI. A content
may also be a text with `<image>` in it; the images then stand in the row's `images`, as LLaMA-Factory and TRL write
them. The split is a key, or the file's name, or is drawn.
"""

from pathlib import Path

from chiasm.data.sources.conversation_rows import files_with, read_rows
from chiasm.data.sources.records import Reading

KEY = "messages"


def recognises(path: Path) -> bool:
    """True for such a file, and for a folder that holds one."""
    return bool(files_with(path, KEY))


def read(path: Path, split: str) -> Reading:
    """Read one file; in a folder with a file for each split, the wanted one. A bad row is reported with its place."""
    return read_rows(path, split, KEY)
