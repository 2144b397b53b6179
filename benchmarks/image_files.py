"""CLIP ViT-B/32 from JPEG files and over HTTP: transformers in fp32, and chiasm in fp32 and by its execution plan.

Photos of Flickr8k, enlarged to a longer side of 500 px and kept as JPEG of quality 90; the tower has random weights at
full size. From files: transformers' own processor and tower in batches of 32 against `Model.encode_image`, beside the
tower alone on pixels that are ready, interleaved in one process. Over HTTP: two servers, one with
`model.execution=fp32` and one by its plan, 32 clients that send a photo each and wait for its vector, in turn.

Command: python benchmarks/image_files.py [files] [http] [--photos 96] [--rounds 3] [--seconds 10] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import chiasm
from chiasm.core.device import environment, keep_freed_memory
from chiasm.pipeline.batching import stack_images
from clip_towers import DATA, write_clip
from serve_load import answered
from serving import data_uri, request_bytes, served
from timing import compare

BATCH, LONGER_SIDE_PX, QUALITY = 32, 500, 90


def write_photos(folder: Path, count: int) -> list[Path]:
    """The first photos of Flickr8k, enlarged."""
    folder.mkdir()
    written = []
    for path in sorted((DATA / "flickr8k" / "images").glob("*.jpg"))[:count]:
        with Image.open(path) as image:
            factor = LONGER_SIDE_PX / max(image.size)
            size = tuple(round(side * factor) for side in image.size)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / path.name, quality=QUALITY)
        written.append(folder / path.name)
    return written


def from_files(folder: Path, theirs: Any, photos: list[Path], rounds: int) -> dict[str, Any]:
    """Images a second from files and of the tower alone, ratios to transformers from files, least cosines."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = theirs.eval()
    in_fp32 = chiasm.load(folder, overrides={"model.execution": "fp32"})
    planned = chiasm.load(folder)
    chosen = planned.plan.parts["image"].format
    batches = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]

    def pixels_of(paths: list[Path]) -> torch.Tensor:
        images = [Image.open(path).convert("RGB") for path in paths]
        return torch.as_tensor(processor(images, return_tensors="pt")["pixel_values"])

    @torch.no_grad()
    def transformers_alone(pixels: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([F.normalize(theirs.visual_projection(theirs.vision_model(one)[1]), dim=-1) for one in pixels])

    ready = [pixels_of(batch) for batch in batches]
    resizing = planned.pipeline.resizing
    decoded = [stack_images([np.asarray(Image.open(path)) for path in batch], resizing) for batch in batches]
    candidates = {
        "transformers fp32, from files": lambda: transformers_alone([pixels_of(batch) for batch in batches]),
        "transformers fp32, tower alone": lambda: transformers_alone(ready),
        "chiasm fp32, from files": lambda: torch.as_tensor(in_fp32.encode_image(photos)),
        f"chiasm {chosen}, from files": lambda: torch.as_tensor(planned.encode_image(photos)),
        f"chiasm {chosen}, tower alone": lambda: _alone(planned, decoded),
    }
    expected = candidates["transformers fp32, from files"]()
    found = compare(candidates, rounds)
    return {
        name: {
            "per_s": 1000 * len(photos) / found[name][0],
            "ratio": 1 / found[name][1],
            "cosine": float(F.cosine_similarity(run(), expected, dim=-1).min()),
        }
        for name, run in candidates.items()
    }


@torch.no_grad()
def _alone(model: Any, decoded: list[torch.Tensor]) -> torch.Tensor:
    pipeline = model.pipeline
    return torch.cat([pipeline.model.embed_image(pipeline.encode_pixels(one)) for one in decoded])


def over_http(folder: Path, photos: list[Path], rounds: int, seconds: float) -> dict[str, Any]:
    """Images a second at 32 clients of both servers, and the median of their ratios in a round."""
    rates: dict[str, list[float]] = {"fp32": [], "auto": []}
    with (
        served(folder, "--set", "model.execution=fp32") as first,
        served(folder, "--set", "model.execution=auto") as second,
    ):
        asked = {
            name: (
                process,
                [
                    request_bytes(
                        process,
                        "/v1/embeddings",
                        {"input": data_uri(path.read_bytes()), "encoding_format": "base64"},
                    )
                    for path in photos
                ],
            )
            for name, process in (("fp32", first), ("auto", second))
        }
        for process, requests in asked.values():
            answered(process, requests, 2)
        for _ in range(rounds):
            for name, (process, requests) in asked.items():
                rates[name].append(answered(process, requests, seconds)[0])
    ratios = [after / before for before, after in zip(rates["fp32"], rates["auto"], strict=True)]
    return {
        "fp32_per_s": statistics.median(rates["fp32"]),
        "plan_per_s": statistics.median(rates["auto"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    """Measure, print, and write a JSON where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["files", "http"])
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        theirs = write_clip(Path(place) / "clip", layers=given.layers)
        photos = write_photos(Path(place) / "photos", given.photos)
        found: dict[str, Any] = {}
        if "files" in given.what:
            found["files"] = from_files(Path(place) / "clip", theirs, photos, given.rounds)
            for name, row in found["files"].items():
                print(f"{name:<32} {row['per_s']:7.1f} a second  {row['ratio']:5.2f} x  cosine {row['cosine']:.5f}")
        if "http" in given.what:
            found["http"] = over_http(Path(place) / "clip", photos, given.rounds, given.seconds)
            before, after, ratio = (found["http"][name] for name in ("fp32_per_s", "plan_per_s", "ratio"))
            print(f"HTTP, 32 clients: {before:.1f} -> {after:.1f} a second, {ratio:.2f} x")
    if given.json is not None:
        given.json.write_text(json.dumps({"found": found, "environment": environment()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
