"""Small sets of own data in the layouts as people have them, written from generated pictures."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig

COUNT = 24
VALIDATION = 6


@dataclass(frozen=True)
class Photo:
    """One picture and its words."""

    name: str
    """File name without its suffix."""
    split: str
    english: str
    chinese: str
    question: str
    answer: str
    label: str
    picture: Image.Image

    def save(self, path: Path) -> str:
        """Write the picture; returns the file's name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.picture.save(path)
        return path.name

    def encoded(self) -> bytes:
        """The bytes of a PNG."""
        buffer = io.BytesIO()
        self.picture.save(buffer, "PNG")
        return buffer.getvalue()


def photos(count: int = COUNT) -> list[Photo]:
    """Generated scenes of 32 px with captions in two languages; the last `VALIDATION` are of the split "val"."""
    config = ScenesConfig(train_pictures=count, questions_per_picture=1, languages=("en", "zh"))
    scenes = SceneDataset("train", config, 0)
    found = []
    for number in range(count):
        example = scenes.example(number)
        english, chinese = (caption.text for caption in example.captions)
        question = example.questions[0]
        found.append(
            Photo(
                f"scene {number:02}",
                "val" if number >= count - VALIDATION else "train",
                english,
                chinese,
                question.text,
                question.answers[0],
                "few" if number % 2 else "many",
                Image.fromarray(example.inputs["image"].load()).resize((32, 32)),
            )
        )
    return found


def written(path: Path, text: str) -> Path:
    """Write a text file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Write a CSV; an empty header leaves the line of names out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])
    return path


def imagefolder(root: Path, rows: Sequence[Photo]) -> Path:
    """Hugging Face: train/ and validation/, each with metadata.csv."""
    for split, folder in (("train", "train"), ("val", "validation")):
        part = [row for row in rows if row.split == split]
        lines = [[row.save(root / folder / f"{row.name}.png"), row.english] for row in part]
        table(root / folder / "metadata.csv", ["file_name", "text"], lines)
    return root


def imagefolder_jsonl(root: Path, rows: Sequence[Photo]) -> Path:
    """Hugging Face with metadata.jsonl, pictures one folder deeper, and Chinese captions."""
    for split, folder in (("train", "train"), ("val", "test")):
        part = [row for row in rows if row.split == split]
        lines = [
            {"file_name": "图/" + row.save(root / folder / "图" / f"{row.name}.png"), "caption": row.chinese}
            for row in part
        ]
        written(root / folder / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return root


def text_files(root: Path, rows: Sequence[Photo]) -> Path:
    """A photo and a .txt of the same name beside it."""
    for row in rows:
        row.save(root / f"{row.name}.JPG")
        written(root / f"{row.name}.txt", f"{row.english}\r\nThere is {row.english}\r\n")
    return root


def text_trees(root: Path, rows: Sequence[Photo]) -> Path:
    """images/SPLIT/ and captions/SPLIT/ with the same names."""
    for row in rows:
        row.save(root / "images" / row.split / f"{row.name}.png")
        written(root / "captions" / row.split / f"{row.name}.txt", row.english)
    return root


def coco(root: Path, rows: Sequence[Photo]) -> Path:
    """COCO: train2017/, val2017/ and annotations/captions_*.json; both splits have a picture of the same name."""
    for split in ("train", "val"):
        images, notes = [], []
        for number, row in enumerate(one for one in rows if one.split == split):
            images.append({"id": number, "file_name": row.save(root / f"{split}2017" / f"{number:012}.png")})
            notes.append({"image_id": number, "id": number, "caption": row.english})
        content = json.dumps({"images": images, "annotations": notes})
        written(root / "annotations" / f"captions_{split}2017.json", content)
    return root


def nameless_csv(root: Path, rows: Sequence[Photo]) -> Path:
    """Two columns, picture and caption, and no line of names."""
    table(root / "captions.csv", [], [[row.save(root / "images" / f"{row.name}.png"), row.english] for row in rows])
    return root


def nameless_tsv(root: Path, rows: Sequence[Photo]) -> Path:
    """The same with tabs, commas in the captions, and the picture last."""
    lines = [f"{row.english}, as seen, today\t{row.save(root / f'{row.name}.png')}\n" for row in rows]
    written(root / "words.tsv", "".join(lines))
    return root


def tables_of_splits(root: Path, rows: Sequence[Photo]) -> Path:
    """train.csv and val.csv beside the folders train/ and val/, with pictures of the same names in both."""
    for split in ("train", "val"):
        part = [row for row in rows if row.split == split]
        lines = [[row.save(root / split / f"{n}.png"), row.english] for n, row in enumerate(part)]
        table(root / f"{split}.csv", ["image", "caption"], lines)
    return root


def plain_table(root: Path, rows: Sequence[Photo]) -> Path:
    """A table with names and a split, pictures in images/, paths as Windows writes them, with a BOM."""
    lines = [["images\\" + row.save(root / "images" / f"{row.name}.png"), row.english, row.split] for row in rows]
    file = table(root / "data.csv", ["Image", "Caption", "Split"], lines)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    return root


def data_jsonl(root: Path, rows: Sequence[Photo]) -> Path:
    """The project's own: SPLIT/data.jsonl."""
    for split in ("train", "val"):
        part = [row for row in rows if row.split == split]
        lines = [
            {"image": "images/" + row.save(root / "images" / f"{row.name}.png"), "captions": [row.english]}
            for row in part
        ]
        written(root / split / "data.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return root


def token_file(root: Path, rows: Sequence[Photo]) -> Path:
    """Flickr8k's NAME#NUMBER<TAB>caption under another name."""
    lines = [f"{row.save(root / 'Images' / f'{row.name}.png')}#0\t{row.english}\n" for row in rows]
    written(root / "captions.txt", "".join(lines))
    return root


def class_folders(root: Path, rows: Sequence[Photo]) -> Path:
    """train2017/CLASS/ and val2017/CLASS/."""
    for row in rows:
        row.save(root / f"{row.split}2017" / row.label / f"{row.name}.png")
    return root


def parquet(root: Path, rows: Sequence[Photo]) -> Path:
    """Hugging Face's data/SPLIT-00000-of-00002.parquet: pictures inside, the name of their file beside, captions."""
    import pyarrow
    import pyarrow.parquet

    (root / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        part = [row for row in rows if row.split == split]
        for piece in range(2):
            chosen = part[piece::2]
            pictures = [{"bytes": row.encoded(), "path": f"{row.name}.png"} for row in chosen]
            content = {"image": pictures, "filename": [row.name for row in chosen]}
            content["caption"] = [[row.english] for row in chosen]
            file = root / "data" / f"{name}-0000{piece}-of-00002.parquet"
            pyarrow.parquet.write_table(pyarrow.table(content), file)
    return root


def parquet_paths(root: Path, rows: Sequence[Photo]) -> Path:
    """One file with the paths of pictures in a folder, and a column for the split."""
    import pyarrow
    import pyarrow.parquet

    names = [row.save(root / "images" / f"{row.name}.png") for row in rows]
    content = {"file_name": names, "text": [row.english for row in rows], "split": [row.split for row in rows]}
    pyarrow.parquet.write_table(pyarrow.table(content), root / "words.parquet")
    return root


def json_list(root: Path, rows: Sequence[Photo]) -> Path:
    """train.json and val.json, each a list of objects."""
    for split in ("train", "val"):
        part = [row for row in rows if row.split == split]
        lines = [
            {"image": row.save(root / "images" / f"{row.name}.png"), "caption": [row.english], "more": {"a": [1]}}
            for row in part
        ]
        written(root / f"{split}.json", json.dumps(lines, indent=1))
    return root


LAYOUTS: dict[str, tuple[str, Callable[[Path, Sequence[Photo]], Path]]] = {
    "imagefolder": ("imagefolder", imagefolder),
    "imagefolder_jsonl": ("imagefolder", imagefolder_jsonl),
    "text_files": ("text_files", text_files),
    "text_trees": ("text_files", text_trees),
    "coco": ("coco_captions", coco),
    "nameless_csv": ("table", nameless_csv),
    "nameless_tsv": ("table", nameless_tsv),
    "tables_of_splits": ("table", tables_of_splits),
    "plain_table": ("table", plain_table),
    "data_jsonl": ("data_jsonl", data_jsonl),
    "token_file": ("flickr8k_tokens", token_file),
    "json_list": ("json_list", json_list),
    "parquet": ("parquet", parquet),
    "parquet_paths": ("parquet", parquet_paths),
    "class_folders": ("class_folders", class_folders),
}
"""Name -> the format it is recognised as, and what writes it."""
