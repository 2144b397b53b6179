"""Emoji with their drawing style in the captions: "a red heart, openmoji style" and its Chinese.

    python benchmarks/emoji_captions.py OUT

Writes OUT/data.jsonl, which `chiasm train dalle --data OUT --set data.languages=en,zh` reads: a row for each image with
an English and a Chinese caption, and the split of the set, which is by concept. Images are not copied: OUT/images leads
to those of the set, found through CHIASM_DATA (default ../shared/data).
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from chiasm.core.files import write_text

DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).absolute() / "emoji"
SPLITS = ("train", "val")


def captions(style: str, english: str, chinese: str) -> list[str]:
    """What an image of a concept in a style is called."""
    return [f"{english}, {style} style", f"{chinese}，{style} 风格"]


def rows(data: Path) -> list[dict[str, Any]]:
    """A row of data.jsonl for each image of the set."""
    lines = (data / "concepts.jsonl").read_text(encoding="utf-8").splitlines()
    named = {row["concept"]: row["text"] for row in map(json.loads, lines)}
    found = []
    for split in SPLITS:
        for line in (data / split / "data.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            words = named[row["concept"]]
            texts = captions(row["style"], words["en"]["label"], words["zh"]["label"])
            found.append(
                {
                    "id": row["id"],
                    "image": row["image"],
                    "caption": texts,
                    "group": row["id"],
                    "split": split,
                }
            )
    return found


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    (out / "images").symlink_to(DATA / "images")
    written = rows(DATA)
    write_text(out / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    print(f"{len(written):,} images in {out}")


if __name__ == "__main__":
    main()
