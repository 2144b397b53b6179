"""Emoji with their drawing style in the captions: "a red heart, openmoji style" and its Chinese.

    python benchmarks/emoji_captions.py OUT

Writes OUT/data.jsonl, a row for each image with an English and a Chinese caption. The set is found through CHIASM_DATA
(default ../shared/data), and its images stay where they are:

    chiasm train dalle --data OUT --set data.images=DATA/emoji --set data.languages=en,zh

Splits: `val` and `test` are concepts in a style that training has not, each of which it has in another style; `unseen`
is the set's own validation split, whose concepts training has in no style.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from chiasm.core.files import write_text
from chiasm.core.random import counter_rng

DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).absolute() / "emoji"
HELD_OUT = {"val": 0.1, "test": 0.1}
"""Split -> share of the concepts of which it has one style."""


def json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def captions(style: str, english: str, chinese: str) -> list[str]:
    """What an image of a concept in a style is called."""
    return [f"{english}, {style} style", f"{chinese}，{style} 风格"]


def held_out(images: list[dict[str, Any]]) -> dict[str, str]:
    """Id of an image -> the split that has it in the place of training; each of another concept."""
    styles: dict[str, list[str]] = {}
    for row in images:
        styles.setdefault(row["concept"], []).append(row["id"])
    several = sorted(concept for concept, ids in styles.items() if len(ids) > 1)
    rng = counter_rng("emoji held out", 0)
    order = [several[place] for place in rng.permutation(len(several))]
    found: dict[str, str] = {}
    for split, share in HELD_OUT.items():
        count = round(share * len(several))
        chosen, order = order[:count], order[count:]
        found |= {styles[concept][int(rng.integers(len(styles[concept])))]: split for concept in chosen}
    return found


def rows(data: Path) -> list[dict[str, Any]]:
    """A row of data.jsonl for each image of the set; its id is "STYLE/CONCEPT"."""
    named = {row["concept"]: row["text"] for row in json_lines(data / "concepts.jsonl")}
    images = {split: json_lines(data / split / "data.jsonl") for split in ("train", "val")}
    elsewhere = held_out(images["train"]) | {row["id"]: "unseen" for row in images["val"]}
    found = []
    for row in (*images["train"], *images["val"]):
        words = named[row["concept"]]
        texts = captions(row["style"], words["en"]["label"], words["zh"]["label"])
        # One group an image: the styles of a concept are in several splits on purpose.
        kept = {"id": row["id"], "image": row["image"], "group": row["id"]}
        found.append(kept | {"caption": texts, "split": elsewhere.get(row["id"], "train")})
    return found


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True)
    written = rows(DATA)
    write_text(out / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written))
    print(f"{len(written):,} images in {out / 'data.jsonl'}; train with --set data.images={DATA}")


if __name__ == "__main__":
    main()
