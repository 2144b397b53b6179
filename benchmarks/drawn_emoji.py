"""Do drawn emoji show the concept and style that were asked for? Judged by the starter, which saw neither run nor set.

    python benchmarks/drawn_emoji.py RUN DATA --split test --captions 200 [--guidance 3] [--sheet sheet.png]
    python benchmarks/drawn_emoji.py RUN DATA --split test --best-of 8 --rank-by RANKER

DATA is what `emoji_captions.py` wrote. For each caption of the split one image is drawn, in English and Chinese in
turn. The judge is the packaged image tower with its weights of ImageNet: among the concept and 19 others of the set,
which has the real images, in all styles but the one asked for, that are nearest to the drawing? And among the five
styles, whose real images of other concepts are nearest? The same is asked of the real image, which says how good the
judge is, of the real image in the codes of the run, which says what drawing can reach, and of an image that was drawn
for another caption ("shuffled"). RANKER is a run of the task retrieval or matching, and not the judge.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import chiasm
from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.core.random import counter_rng
from chiasm.metrics.intervals import proportion
from chiasm.metrics.paired import paired_difference
from chiasm.pipeline.batching import to_model_range
from chiasm.serve.drawings import MOST_IMAGES, Wish, as_pillow
from chiasm.serve.engine import Model
from chiasm.tasks.drawing_requests import image_tokenizer, images_of_ids
from emoji_captions import DATA, json_lines

CANDIDATES = 20
SHOWN = 24
Vectors = npt.NDArray[np.float32]


@dataclass
class Judge:
    """Names the concept and the style of an image by its real neighbours.

    Attributes:
        ids: "STYLE/CONCEPT" of each real image.
        vectors: float32 [n, d], unit rows, what the tower sees of them.
    """

    ids: list[str]
    vectors: Vectors

    @cached_property
    def styles(self) -> npt.NDArray[np.str_]:
        """Style of each real image."""
        return np.array([one.partition("/")[0] for one in self.ids])

    @cached_property
    def concepts(self) -> npt.NDArray[np.str_]:
        """Concept of each real image."""
        return np.array([one.partition("/")[2] for one in self.ids])

    def names_concept(self, vector: Vectors, asked: str) -> bool:
        """Whether the concept of `asked` is nearest among itself and 19 others, the same each time."""
        style, _, concept = asked.partition("/")
        is_other_style = self.styles != style
        every = np.unique(self.concepts[is_other_style])
        others = every[every != concept]
        chosen = counter_rng("emoji candidates", 0, asked).choice(others, CANDIDATES - 1, replace=False)
        nearness = [self._mean(is_other_style & (self.concepts == one)) @ vector for one in (concept, *chosen)]
        return int(np.argmax(nearness)) == 0

    def names_style(self, vector: Vectors, asked: str) -> bool:
        """Whether the style of `asked` is nearest among all, by the mean of its images of other concepts."""
        style, _, concept = asked.partition("/")
        found = np.unique(self.styles)
        nearness = [self._mean((self.styles == name) & (self.concepts != concept)) @ vector for name in found]
        return found[int(np.argmax(nearness))] == style

    def _mean(self, is_chosen: npt.NDArray[np.bool_]) -> Vectors:
        total: Vectors = self.vectors[is_chosen].sum(0)
        return total / max(float(np.linalg.norm(total)), 1e-9)


def drawings(model: Model, rows: Sequence[dict[str, Any]], wish: Wish) -> list[Image.Image]:
    """An image of each row's caption, its languages in turn."""
    captions = [row["caption"][number % len(row["caption"])] for number, row in enumerate(rows)]
    at_once = MOST_IMAGES // wish.candidates
    parts = [captions[start : start + at_once] for start in range(0, len(captions), at_once)]
    return [as_pillow(one) for part in parts for one in model.drawings(part, wish)]


def in_codes(model: Model, rows: Sequence[dict[str, Any]]) -> list[Image.Image]:
    """The real image of each row as the run's tokenizer shows it."""
    tokenizer = image_tokenizer(model.pipeline.model)
    pixels = torch.stack([model.prepare(DATA / row["image"]) for row in rows])
    values = to_model_range(pixels, torch.float32)
    assert isinstance(values, torch.Tensor)
    return [Image.fromarray(one) for one in images_of_ids(tokenizer, tokenizer.ids(values))]


def show(path: Path, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> None:
    """Real images above what was drawn for their captions, eight a row."""
    side, columns = real[0].width, 8
    rows = -(-len(real) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (2 * side + 12)), "white")
    for number, pair in enumerate(zip(real, drawn, strict=True)):
        x, y = number % columns * (side + 4), number // columns * (2 * side + 12)
        for row, image in enumerate(pair):
            sheet.paste(image.convert("RGB").resize((side, side)), (x, y + row * side))
    sheet.save(path)


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--captions", type=int, default=200, help="at most so many of the split")
    parser.add_argument("--guidance", type=float, help="the run's own where not given, as those below")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--best-of", type=int, default=0, help="candidates of each caption")
    parser.add_argument("--rank-by", type=Path, help="the run that ranks the candidates")
    parser.add_argument("--sheet", type=Path, help="PNG: real images above drawn ones")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if str(given.rank_by) == "starter":
        parser.error("the starter judges; rank by another run")
    every = json_lines(given.data / "data.jsonl")
    asked = [row for row in every if row["split"] == given.split]
    order = counter_rng("emoji asked", 0).permutation(len(asked))[: given.captions]
    asked = [asked[place] for place in order]
    starter = chiasm.load("starter")
    judge = Judge([row["id"] for row in every], starter.encode_image([DATA / row["image"] for row in every]))
    place = {name: number for number, name in enumerate(judge.ids)}
    model = chiasm.load(given.run)
    sampling = model.sampling(guidance=given.guidance, temperature=given.temperature, top_k=given.top_k)
    ranker = chiasm.load(given.rank_by) if given.rank_by else None
    images = drawings(model, asked, Wish(sampling=sampling, best_of=given.best_of, rank_by=ranker))
    ids = [row["id"] for row in asked]
    seen_drawn = starter.encode_image(images)
    seen = {
        "drawn": seen_drawn,
        "real": judge.vectors[[place[name] for name in ids]],
        "in_codes": starter.encode_image(in_codes(model, asked)),
        "shuffled": np.roll(seen_drawn, 1, axis=0),
    }
    found: dict[str, Any] = {}
    hits: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    for kind, vectors in seen.items():
        for what, names in (("concept", judge.names_concept), ("style", judge.names_style)):
            values = np.array(
                [names(vector, name) for vector, name in zip(vectors, ids, strict=True)], dtype=np.float64
            )
            hits[kind, what] = values
            found[f"{kind}_{what}"] = proportion(values).as_dict()
    print(f"{len(ids)} captions of {given.split}; the concept among {CANDIDATES}, the style among five")
    for key, score in found.items():
        print(f"  {key:18} {score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})")
    apart = paired_difference(hits["drawn", "concept"], hits["shuffled", "concept"])
    print(f"  concept, drawn - shuffled {apart.difference:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})")
    if given.sheet:
        show(given.sheet, [Image.open(DATA / row["image"]) for row in asked[:SHOWN]], images[:SHOWN])
    if given.json:
        told = {"split": given.split, "sampling": asdict(sampling), "best_of": given.best_of}
        write_json(given.json, {"metrics": found, "environment": environment(), **told})


if __name__ == "__main__":
    main()
