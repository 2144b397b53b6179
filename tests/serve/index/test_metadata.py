"""Facts about images out of the files that training reads, where a row names several images or none."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from chiasm.serve.index.metadata import Described


def test_each_of_several_images_gets_the_facts_of_its_row(tmp_path: Path) -> None:
    """Guards against an index that stops at a pair of images or at a conversation without one."""
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    folder = tmp_path / "train"
    folder.mkdir()
    rows = [{"image": ["0.png", "1.png"], "caption": "Two."}, {"image": "2.png", "caption": "One."}]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = Described(tmp_path)
    found = [described.of(str(tmp_path / f"{number}.png")) for number in range(3)]
    assert [facts and facts["caption"] for facts in found] == ["Two.", "Two.", "One."]
    assert (len(described), described.unused()) == (3, 0)


def test_conversations_without_an_image_describe_none(tmp_path: Path) -> None:
    """Guards against facts under the name of a text."""
    turns = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]
    (tmp_path / "talk.json").write_text(json.dumps([{"conversations": turns}]))
    assert len(Described(tmp_path)) == 0
