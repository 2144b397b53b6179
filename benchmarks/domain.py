"""Do distances tell inputs that a run was not made for? `python benchmarks/domain.py DEMO_RUN [--parts demo,photos]`.

AUROC of examples that no fit saw, in domain against out of domain, with intervals that draw examples of both sides, and
the share of each side beyond the fitted limit (1 % of validation is, for images and for texts each).

"demo": a run of `chiasm demo`. In: images and questions of its test split. Out: photos (Flickr8k, CIFAR-10), X-rays and
emoji; questions of VQA-RAD and DriveLM, Flickr8k's captions and `STRANGE_QUESTIONS`, hand-written; the images and
questions of Sort-of-CLEVR, coloured shapes as well.
"photos": a run of `retrieval` trained here on 2,000 of Flickr8k's training photos, fitted on 500 others. In: 500 photos
of its validation split, and their captions. Out: X-rays, scenes, emoji, CIFAR-10's small photos; reports of chest
X-rays, scenes' captions, questions.

Writes benchmarks/results/DATE-domain.json. The data are found through CHIASM_DATA (default ../shared/data).
"""

import argparse
import csv
import datetime
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import chiasm
from chiasm.core.config import override
from chiasm.core.device import environment
from chiasm.core.files import write_json, write_text
from chiasm.core.random import counter_rng
from chiasm.core.types import Example, ImageRef
from chiasm.data.config import DataConfig
from chiasm.data.generated.sort_of_clevr import SortOfClevrConfig
from chiasm.data.image_refs import image_ref
from chiasm.data.opening import open_dataset
from chiasm.metrics.intervals import bootstrap_mean, proportion
from chiasm.pipeline.domain import FILE
from chiasm.recipes.table import find_recipe
from chiasm.serve.engine import Model
from kept_runs import finished

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).absolute()
MOST = 500
"""Examples of a set."""
RESAMPLES = 1000
STRANGE_QUESTIONS = (
    "what is the meaning of life?", "who won the world cup in 1998?", "why is the sky blue?", "is there a bus?",
    "how many legs does a spider have?", "what color is the bus?", "what is the capital of france?", "tell me a joke",
    "is the patient sick?", "what is two plus two?", "how old are you?", "do you like cats?", "where is the dog?",
    "asdf qwer zxcv", "what time is it?", "is there a doctor in the house?", "what color is your mood?",
    "how much does it cost?", "can you write a poem?", "are there more dreams than days?", "circle circle circle",
    "red what is the?", "are the left of red?", "how what is many?", "is is is",
    "生命的意义是什么？", "今天天气怎么样？", "法国的首都是哪里？", "公共汽车是什么颜色？", "有几个人？", "你几岁了？",
    "请写一首诗", "为什么天空是蓝色的？", "他在做什么？", "病人生病了吗？", "有猫吗？", "谁赢了世界杯？",
    "现在几点了？", "你喜欢吃什么？", "狗在猫的左边吗？", "圆形圆形圆形", "红色是有吗",
)  # fmt: skip


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an outside example is farther than an inside one; ties count half."""
    ordered = np.sort(inside)
    below, up_to = np.searchsorted(ordered, outside, "left"), np.searchsorted(ordered, outside, "right")
    return float(((below + up_to) / 2).mean() / len(inside))


def measured(inside: Sequence[float], outside: Sequence[float], an_image: int) -> dict[str, Any]:
    """AUROC with its 95 % bootstrap interval, which draws `an_image` of `inside` together, and the share refused."""
    far, near = np.array(outside), np.array(inside)
    images = near.reshape(-1, an_image)
    rng = counter_rng("domain benchmark", len(near), len(far))
    drawn = [
        auroc(images[rng.integers(0, len(images), len(images))].ravel(), far[rng.integers(0, len(far), len(far))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "auroc": {"value": auroc(near, far), "low": float(low), "high": float(high)},
        "n_in": len(near),
        "n_out": len(far),
        "refused_out": float((far > 1).mean()),
    }


def files(pattern: str) -> list[ImageRef]:
    """Up to `MOST` images of a set, drawn by its name."""
    found = sorted(DATA.glob(pattern))
    chosen = counter_rng("domain benchmark", pattern).permutation(len(found))[:MOST]
    return [image_ref(found[number]) for number in np.sort(chosen)]


def rows(path: str) -> list[dict[str, Any]]:
    """Lines of a `data.jsonl`."""
    return [json.loads(line) for line in (DATA / path / "data.jsonl").read_text(encoding="utf-8").splitlines()]


def texts(path: str, field: str) -> list[str]:
    """Up to `MOST` different texts of a set, in its order."""
    found = [text for row in rows(path) for text in ([row[field]] if isinstance(row[field], str) else row[field])]
    return list(dict.fromkeys(found))[:MOST]


def reports() -> list[str]:
    """Findings of chest X-rays."""
    with open(DATA / "iu_xray_reports_text" / "dataset.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    column = max(table[0], key=lambda name: sum(len(row[name] or "") for row in table[:50]))
    return list(dict.fromkeys(row[column] for row in table if row[column]))[:MOST]


def generated(config: DataConfig) -> list[Example]:
    """Test examples of a generator."""
    dataset = open_dataset(config, "test", 0)
    return [dataset.example(number) for number in range(min(MOST, len(dataset)))]


def image_distances(model: Model, images: Sequence[ImageRef]) -> list[float]:
    """Of every image."""
    domain, found = model.pipeline.domain, []
    assert domain is not None, "train the run again: it was made before distances were fitted"
    for start in range(0, len(images), 32):
        found += domain.judge(model.pipeline.encode_images(images[start : start + 32]))
    return [one.image_distance for one in found if one.image_distance is not None]


def text_distances(model: Model, kind: str, some: Sequence[str]) -> list[float]:
    """Of every text."""
    assert model.pipeline.domain is not None
    return [float(value) for value in model.pipeline.domain.texts[kind].distances(some)]


def compared(
    title: str, inside: Sequence[float], outside: Mapping[str, Sequence[float]], an_image: int = 1
) -> dict[str, Any]:
    """Each set alone, and all of them together; `an_image` neighbours of `inside` belong to one image."""
    everything = [value for one in outside.values() for value in one]
    found = {name: measured(inside, one, an_image) for name, one in {**outside, "all": everything}.items()}
    # Of texts, several an image: the interval draws images.
    shares = (np.array(inside) > 1).reshape(-1, an_image).mean(1)
    beyond = proportion(shares) if an_image == 1 else bootstrap_mean(shares)
    print(f"{title}: {beyond.value:.1%} ({beyond.low:.1%}-{beyond.high:.1%}) of {len(inside)} in domain refused")
    for name, one in found.items():
        score = one["auroc"]
        interval = f"{score['low']:.3f}-{score['high']:.3f}"
        print(f"  {name}: AUROC {score['value']:.3f} ({interval}), n {one['n_out']}, refused {one['refused_out']:.1%}")
    return {"refused_in": {**beyond.as_dict(), "n": len(inside)}, "out": found}


def demo(run: Path) -> dict[str, Any]:
    """Scenes and easy questions against others."""
    model, inside = chiasm.load(run), generated(find_recipe("demo").data)
    near = generated(SortOfClevrConfig())
    images = {
        "photos": files("flickr8k/images/*"), "small photos": files("cifar10_subset/images/**/*.*"),
        "X-rays": files("vqa_rad/images/*"), "emoji": files("emoji/images/*/*"),
        "Sort-of-CLEVR": [one.inputs["image"] for one in near],
    }  # fmt: skip
    questions = {
        "VQA-RAD": texts("vqa_rad/train", "question"), "DriveLM": texts("drivelm_mini/train", "question"),
        "captions": texts("flickr8k/val", "captions")[:250] + texts("flickr8k/val", "captions_zh")[:250],
        "hand-written": list(STRANGE_QUESTIONS),
        "Sort-of-CLEVR": list(dict.fromkeys(one.text for example in near for one in example.questions)),
    }  # fmt: skip
    asked = [one.text for example in inside for one in example.questions]
    return {
        "bytes": (run / FILE).stat().st_size,
        "images": compared(
            "scenes",
            image_distances(model, [one.inputs["image"] for one in inside]),
            {name: image_distances(model, some) for name, some in images.items()},
        ),
        "questions": compared(
            "questions of the test split",
            text_distances(model, "questions", asked),
            {name: text_distances(model, "questions", some) for name, some in questions.items()},
            len(asked) // len(inside),
        ),
    }


def photos(place: Path) -> dict[str, Any]:
    """Photos and their captions against others: trained, and measured on photos that no fit saw."""
    lines = rows("flickr8k/train")
    for split, some in (("train", lines[:2000]), ("val", lines[2000:2500])):
        text = "".join(json.dumps({**line, "split": split}, ensure_ascii=False) + "\n" for line in some)
        write_text(place / "data" / split / "data.jsonl", text)
    settings = (f"data.path={place / 'data'}", f"data.images={DATA / 'flickr8k'}")
    folder = finished(override(find_recipe("retrieval"), settings), place / "run")
    model, held = chiasm.load(folder), rows("flickr8k/val")[:MOST]
    pictured = generated(find_recipe("demo").data)
    images = {
        "X-rays": files("vqa_rad/images/*"), "chest X-rays": files("covid_cxr/images/*"),
        "scenes": [one.inputs["image"] for one in pictured], "emoji": files("emoji/images/*/*"),
        "small photos": files("cifar10_subset/images/**/*.*"),
    }  # fmt: skip
    sentences = {
        "reports": reports(), "scenes' captions": [one.captions[0].text for one in pictured],
        "VQA-RAD": texts("vqa_rad/train", "question"), "hand-written": list(STRANGE_QUESTIONS),
    }  # fmt: skip
    captions = [text for line in held for text in line["captions"]]
    return {
        "bytes": (folder / FILE).stat().st_size,
        "images": compared(
            "photos",
            image_distances(model, [image_ref(DATA / "flickr8k" / line["image"]) for line in held]),
            {name: image_distances(model, some) for name, some in images.items()},
        ),
        "captions": compared(
            "captions of photos",
            text_distances(model, "captions", captions),
            {name: text_distances(model, "captions", some) for name, some in sentences.items()},
            len(captions) // len(held),
        ),
    }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="a run folder of `chiasm demo`")
    parser.add_argument("--parts", default="demo,photos")
    parser.add_argument("--out", type=Path, help="folder of the run that is trained here, to go on with")
    typed = parser.parse_args()
    start, found = time.monotonic(), {}
    if "demo" in typed.parts:
        found["demo"] = demo(typed.run)
    if "photos" in typed.parts:
        found["photos"] = photos((typed.out or Path(tempfile.mkdtemp())).absolute())
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": date,
        "command": "python benchmarks/domain.py DEMO_RUN",
        "seed": 0,
        "seconds": round(time.monotonic() - start, 1),
        **found,
        "environment": environment(),
    }
    write_json(HERE / "results" / f"{date}-domain.json", result)
    Console(stderr=True).print(f"{result['seconds']} s")


if __name__ == "__main__":
    main()
