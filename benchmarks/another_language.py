"""What a new language costs and brings: `python benchmarks/another_language.py [flickr8k] [emoji]`.

Flickr8k: a run of `flickr8k_retrieval`, which reads English, teaches the recipe `another_language` Chinese by captions
that people wrote in both; by half teacher and half contrast with the locked pictures, by contrast alone (`--shares 0`)
and by the teacher alone (1). Emoji: the same with names and keywords in a further language (`--language`, default ru),
for pictures in five styles. Scores are on validation, each language asked alone; the teacher's own score stands first.
Prints a table and adds it to benchmarks/results/DATE-another_language.json.

`--tower multilingual_use` or `multilingual_e5` teaches a packaged multilingual tower, frozen, its projection alone.
`--base RUN` takes a trained teacher for flickr8k, `--keep FOLDER` keeps runs, so that a second call goes on.
"""

import argparse
import datetime
import json
import os
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from chiasm.core.config import override
from chiasm.core.device import environment, pick_device
from chiasm.core.files import read_json, write_json, write_text
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import open_prepared
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig
from kept_runs import finished

RESULTS = Path(__file__).resolve().parent / "results"
NOTES = Console(stderr=True)
METRICS = ("text_to_image_R@1", "text_to_image_R@10", "image_to_text_R@10")


def scored(folder: Path, language: str) -> dict[str, Any]:
    """Validation scores of a run asked in one language, and the same with the pictures dealt out wrongly."""
    pipeline = Pipeline.load(folder, pick_device())
    pipeline.config = replace(pipeline.config, data=replace(pipeline.config.data, languages=(language,)))
    examples, _ = open_prepared(pipeline, "val", NOTES)
    seen, blind = evaluate(pipeline, examples).scores, evaluate(pipeline, examples, "shuffled").scores
    return {
        **{metric: seen[metric].as_dict() for metric in METRICS},
        "blind": {metric: blind[metric].value for metric in METRICS},
    }


def taught(base: Path, data: Path, language: str, share: float, tower: str) -> RunConfig:
    """The recipe with a share of the teacher; at 0 the image side is locked all the same."""
    settings = [f"init_from={base}", f"data.path={data}", f"data.languages=en,{language}"]
    # The least share that still locks the image side and learns words anew; the loss is contrast to 8 digits.
    settings.append(f"tasks.retrieval.text_teacher={share or 1e-9}")
    if tower != "transformer":
        settings += [f"model.text.kind={tower}", "model.text.frozen=true"]
    return override(find_recipe("another_language"), settings)


def rows(base: Path, data: Path, language: str, keep: Path, typed: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The teacher in both languages, then each tower with each share in both."""
    found = {f"teacher, {one}": scored(base, one) for one in ("en", language)}
    for tower, share in product(typed.tower, typed.shares):
        folder = finished(taught(base, data, language, share, tower), keep / f"{tower}-{share}")
        found |= {f"{tower}, teacher's share {share}, {one}": scored(folder, one) for one in ("en", language)}
    return found


def flickr8k(keep: Path, typed: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Photos and captions of people in English and in Chinese."""
    data = Path(typed.data) / "flickr8k"
    config = override(find_recipe("flickr8k_retrieval"), [f"data.path={data}"])
    base = Path(typed.base) if typed.base else finished(config, keep / "flickr8k" / "base")
    return rows(base, data, "zh", keep / "flickr8k", typed)


def emoji(keep: Path, typed: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Pictures in five styles; a name and a list of keywords in each language."""
    language = typed.language
    data = write_emoji(Path(typed.data) / "emoji", keep / f"emoji-{language}" / "data", language)
    config = override(find_recipe("flickr8k_retrieval"), [f"data.path={data}"])
    base = finished(config, keep / f"emoji-{language}" / "base")
    return rows(base, data, language, keep / f"emoji-{language}", typed)


def write_emoji(source: Path, target: Path, language: str) -> Path:
    """The set with two captions a picture in both languages; pictures of a concept are one group."""
    concepts = {}
    for line in (source / "concepts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        concepts[row["concept"]] = row["text"]
    for split in ("train", "val"):
        lines = []
        for line in (source / split / "data.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            said = {one: concepts[row["concept"]][one] for one in ("en", language)}
            texts = {one: [words["label"], ", ".join(words["tags"])] for one, words in said.items()}
            kept = {"id": row["id"], "image": row["image"], "concept": row["concept"]}
            kept |= {"captions": texts["en"], f"captions_{language}": texts[language]}
            lines.append(json.dumps(kept, ensure_ascii=False) + "\n")
        write_text(target / split / "data.jsonl", "".join(lines))
    if not (target / "images").exists():
        (target / "images").symlink_to((source / "images").absolute())
    return target


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown; the last column is R@10 as a share of the teacher's in English."""
    lines = ["| run, language | " + " | ".join(METRICS) + " | pictures shuffled | of the teacher's English |"]
    lines.append("| --- " * (len(METRICS) + 3) + "|")
    usual = found["teacher, en"]["text_to_image_R@10"]["value"]
    for name, row in found.items():
        scores = [row[metric] for metric in METRICS]
        cells = [f"{one['value']:.3f} ({one['low']:.3f}-{one['high']:.3f}, n {one['n']:,})" for one in scores]
        blind, share = row["blind"]["text_to_image_R@10"], row["text_to_image_R@10"]["value"] / usual
        lines.append(f"| {name} | {' | '.join(cells)} | {blind:.3f} | {share:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not there, measure, print, keep."""
    sources = {"flickr8k": flickr8k, "emoji": emoji}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="flickr8k, emoji; both if none is named")
    parser.add_argument("--data", default=os.environ.get("CHIASM_DATA", "../shared/data"))
    parser.add_argument("--base", default=None)
    parser.add_argument("--language", default="ru")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.0, 1.0], help="of the teacher")
    parser.add_argument(
        "--tower", nargs="*", default=["transformer"], help="transformer, multilingual_use, multilingual_e5, or several"
    )
    parser.add_argument("--keep", default=None)
    typed = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    place = RESULTS / f"{today}-another_language.json"
    kept = read_json(place, "results") if place.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in typed.sources or sources:
            kept[name] = {**kept.get(name, {}), **sources[name](Path(typed.keep or temporary), typed)}
            print(f"\n{name}, validation, seed 0\n\n{table(kept[name])}")
            write_json(place, {**kept, "seed": 0, "environment": environment()})


if __name__ == "__main__":
    main()
