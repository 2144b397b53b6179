"""What the starter finds in sixteen languages: `python benchmarks/languages.py [photos] [emoji] [captions]`.

Compares four rules for which tower reads a text: `letters` (A to Z is English), `words` (the starter's own,
`data.tokenizers.by_language.route_of`), `both` towers for every text in Latin letters, and `other`, the
multilingual tower alone.

photos: the 26 queries of photo_queries.tsv, checked by hand, in sixteen languages. Ten ask 1,000 training pictures of
`cifar10_subset` for their class, the others the validation photos of Flickr8k, where a photo is right if its English
captions name what is asked. Average precision, mean over queries; also without the article ("bare": "perro").
emoji: names and first keywords of the concepts of `--split` (default val) in the fourteen languages that the set and
the tower share. The share that has a picture of its concept among the first ten.
captions: English, text_to_image_R@10 of Flickr8k validation.

Prints a table each and adds to benchmarks/results/DATE-languages.json. Thresholds were set on words of training.
The data are found through CHIASM_DATA (default ../shared/data).
"""

import argparse
import csv
import datetime
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import chiasm
from chiasm.core.device import environment
from chiasm.core.files import cache_root, read_json, write_json
from chiasm.core.types import Example
from chiasm.data.dataset import ListDataset, examples_of
from chiasm.data.english import is_latin
from chiasm.data.image_refs import image_ref
from chiasm.data.ledger import Ledger
from chiasm.data.tokenizers.by_language import Route, TokenizerByLanguage, by_letters, route_of
from chiasm.metrics.intervals import bootstrap_mean
from chiasm.metrics.paired import paired_difference
from chiasm.pipeline.batching import FEATURES
from chiasm.pipeline.feature_cache import encode_images

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data")).absolute()
RULES: dict[str, Callable[[str], Route]] = {
    "letters": by_letters,
    "words": route_of,
    "both": lambda text: Route.BOTH if is_latin(text) else Route.OTHER,
    "other": lambda text: Route.OTHER,
}
EMOJI_LANGUAGES = ("en", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "zh", "zh-hant")
ARTICLES = {"a", "an", "ein", "eine", "un", "una", "une", "des", "unas", "een", "um", "uma", "bir"}
A_CLASS, FIRST = 100, 10
Vectors = npt.NDArray[np.float32]


class Starter:
    """The starter, whose texts are read by any rule, each text once by each reader."""

    def __init__(self) -> None:
        self.model = chiasm.load("starter")
        self.known: dict[tuple[str, Route], Vectors] = {}

    def texts(self, texts: Sequence[str], rule: Callable[[str], Route]) -> Vectors:
        """Unit vectors [m, e] of texts, each by the reader that the rule names; by both, the mean of the two."""
        wanted = [(text, rule(text)) for text in texts]
        for reader in (Route.ENGLISH, Route.OTHER):
            self._read([text for text, one in wanted if one in (reader, Route.BOTH)], reader)
        for text, one in wanted:
            if one is Route.BOTH:
                total = self.known[text, Route.ENGLISH] + self.known[text, Route.OTHER]
                self.known[text, one] = total / np.linalg.norm(total)
        return np.stack([self.known[one] for one in wanted])

    def _read(self, texts: Sequence[str], reader: Route) -> None:
        """Learn what one reader says of texts; short ones together, so that little padding is computed."""
        tokenizer = self.model.pipeline.codec.tokenizer
        assert isinstance(tokenizer, TokenizerByLanguage)
        tokenizer.rule = lambda text: reader
        missing = sorted({text for text in texts if (text, reader) not in self.known}, key=len)
        for text, row in zip(missing, self.model.encode_text(missing), strict=True):
            self.known[text, reader] = row

    def pictures(self, paths: Sequence[Path]) -> Vectors:
        """Unit vectors [n, e] of pictures, by way of the cache."""
        examples = [Example(str(path), {"image": image_ref(path)}) for path in paths]
        dataset = ListDataset("", examples, Ledger())
        seen = encode_images(self.model.pipeline, dataset, cache_root(), lambda done, total, what: None)
        return self.model.project(np.stack([one.inputs[FEATURES].pooled for one in examples_of(seen)]))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def average_precision(scores: Vectors, is_right: npt.NDArray[np.bool_]) -> float:
    """Mean over the right pictures of the share of right ones down to each."""
    right = is_right[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())


def names_it(captions: Sequence[str], truth: str) -> bool:
    """Whether captions have a word of every group: groups are joined by " + ", the words of one by commas."""
    said = " ".join(captions).lower()
    return all(re.search(rf"\b(?:{'|'.join(group.split(', '))})\b", said) for group in truth.split(" + "))


def bare(query: str) -> str:
    """A query without its article."""
    first, _, rest = query.replace("un'", "un ").partition(" ")
    return rest if rest and first in ARTICLES else query


def compared(values: dict[str, list[float]], clusters: Sequence[int] | None = None) -> dict[str, Any]:
    """Each rule's mean with its interval, and `words` less `letters`, paired."""
    told = {rule: bootstrap_mean(one, clusters).as_dict() for rule, one in values.items()}
    return {**told, "words - letters": asdict(paired_difference(values["words"], values["letters"], clusters))}


def photos(starter: Starter, split: str) -> dict[str, Any]:
    """Average precision of the queries of people, on photos."""
    with (HERE / "photo_queries.tsv").open(encoding="utf-8", newline="") as file:
        queries = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = rows_of(DATA / "flickr8k" / "val" / "data.jsonl")
    flickr = starter.pictures([DATA / "flickr8k" / row["image"] for row in rows])
    classes = sorted((DATA / "cifar10_subset" / "images" / "train").iterdir())
    tiny = [path for one in classes for path in sorted(one.iterdir())[:A_CLASS]]
    cifar = starter.pictures(tiny)
    found: dict[str, Any] = {}
    for language in list(queries[0])[3:]:
        for form in ("as written", "bare"):
            texts = [row[language] if form == "as written" else bare(row[language]) for row in queries]
            values: dict[str, list[float]] = {}
            for rule, reader in RULES.items():
                values[rule] = []
                for row, vector in zip(queries, starter.texts(texts, reader), strict=True):
                    is_cifar = row["photos"] == "cifar10"
                    right = (
                        [path.parent.name == row["truth"] for path in tiny]
                        if is_cifar
                        else [names_it(one["captions"], row["truth"]) for one in rows]
                    )
                    scores = (cifar if is_cifar else flickr) @ vector
                    values[rule].append(average_precision(scores, np.array(right)))
            each = {row["concept"]: [round(values[rule][n], 3) for rule in RULES] for n, row in enumerate(queries)}
            found[f"{language}, {form}"] = {**compared(values), "queries": each}
    return found


def emoji(starter: Starter, split: str) -> dict[str, Any]:
    """Names and first keywords among pictures in five styles."""
    pictures = rows_of(DATA / "emoji" / split / "data.jsonl")
    if split == "train":  # a third of the concepts in one style, for choosing
        pictures = [row for row in pictures if row["style"] == "noto"][::3]
    of = np.array([row["concept"] for row in pictures])
    vectors = starter.pictures([DATA / "emoji" / row["image"] for row in pictures])
    concepts = [row for row in rows_of(DATA / "emoji" / "concepts.jsonl") if row["concept"] in set(of)]
    found: dict[str, Any] = {}
    for language in EMOJI_LANGUAGES:
        said = [(n, row["concept"], row["text"][language]) for n, row in enumerate(concepts)]
        asked = [(n, name, text) for n, name, words in said for text in (words["label"], *words["tags"][:1])]
        values = {}
        for rule, reader in RULES.items():
            nearest = np.argsort(-(starter.texts([text for *_, text in asked], reader) @ vectors.T), 1, "stable")
            values[rule] = [
                float((of[row[:FIRST]] == name).any()) for row, (_, name, _) in zip(nearest, asked, strict=True)
            ]
        found[language] = compared(values, [n for n, *_ in asked])
    return found


def captions(starter: Starter, split: str) -> dict[str, Any]:
    """English sentences of people: text_to_image_R@10, drawn by picture."""
    rows = rows_of(DATA / "flickr8k" / "val" / "data.jsonl")
    vectors = starter.pictures([DATA / "flickr8k" / row["image"] for row in rows])
    texts = [(n, text) for n, row in enumerate(rows) for text in row["captions"]]
    of = np.array([n for n, _ in texts])
    values = {}
    for rule, reader in RULES.items():
        scores = starter.texts([text for _, text in texts], reader) @ vectors.T
        ahead = (scores > scores[np.arange(len(of)), of][:, None]).sum(1)
        values[rule] = [float(one < FIRST) for one in ahead]
    opened = [float(route_of(text) is not Route.ENGLISH) for _, text in texts]
    return {"en": compared(values, of.tolist()), "captions that open the second tower": float(np.mean(opened))}


def table(found: dict[str, Any]) -> str:
    """Markdown: a row a language, a column a rule."""
    lines = ["| asked in | " + " | ".join(RULES) + " | words - letters | n |", "| --- " * (len(RULES) + 3) + "|"]
    for name, row in found.items():
        if isinstance(row, dict):
            cells = [f"{row[one]['value']:.3f} ({row[one]['low']:.3f}-{row[one]['high']:.3f})" for one in RULES]
            gain = row["words - letters"]
            cells.append(f"{gain['difference']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})")
            lines.append(f"| {name} | {' | '.join(cells)} | {gain['n']:,} |")
        else:
            lines.append(f"\n{name}: {row:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Measure what is named, print, keep."""
    sources = {"photos": photos, "emoji": emoji, "captions": captions}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", choices=[[], *sources], help="all if none is named")
    parser.add_argument("--split", default="val", choices=("train", "val"), help="of emoji")
    typed = parser.parse_args()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    place = HERE / "results" / f"{today}-languages.json"
    starter = Starter()
    for name in typed.sources or sources:
        found = sources[name](starter, typed.split)
        title = f"{name}, {typed.split}" if name == "emoji" else name
        print(f"\n{title}, seed 0\n\n{table(found)}", flush=True)
        kept = read_json(place, "results") if place.exists() else {}
        write_json(place, {**kept, title: found, "seed": 0, "environment": environment()})


if __name__ == "__main__":
    main()
