"""Shared by the tests of data: the published pictures of boxes, as objects."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from chiasm.data.generated.boxes.render import SIZES, BoxesScene, BoxItem


@dataclass(frozen=True)
class PublishedBoxes:
    """A statement of NLVR's hidden split, with the picture's objects and file (boxes in their first order)."""

    picture: BoxesScene
    path: Path
    sentence: str
    is_true: bool


@pytest.fixture(scope="session")
def published_boxes(real_data: Path) -> list[PublishedBoxes]:
    """All statements of NLVR's hidden split; skipped where they are absent."""
    folder = real_data / "nlvr"
    if not folder.is_dir():
        pytest.skip("real data: nlvr is absent")
    paths = {}
    for line in (folder / "hidden" / "data.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["permutation"] == 0:
            paths[row["identifier"]] = folder / row["image"]
    sizes = {side: name for name, side in SIZES.items()}
    colors = {"Yellow": "yellow", "Black": "black", "#0099ff": "blue"}
    found = []
    for line in (folder / "original" / "nlvr" / "hidden" / "hidden.json").read_text().splitlines():
        row = json.loads(line)
        boxes = tuple(
            tuple(BoxItem(i["x_loc"], i["y_loc"], sizes[i["size"]], colors[i["color"]], i["type"]) for i in box)
            for box in row["structured_rep"]
        )
        is_tower = all(item.x_px == 40 and item.size == "medium" for box in boxes for item in box)
        if is_tower:
            boxes = tuple(tuple(sorted(box, key=lambda item: -item.y_px)) for box in boxes)
        picture = BoxesScene("tower" if is_tower else "scatter", boxes)
        found.append(PublishedBoxes(picture, paths[row["identifier"]], row["sentence"], row["label"] == "true"))
    return found
