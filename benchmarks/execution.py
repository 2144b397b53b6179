"""What an execution plan gains: transformers in fp32 against the plans of chiasm, with the same random weights.

CLIP ViT-B/32 at full size (no download) for pictures and texts, the model alone; and EfficientNet-Lite0 with its own
weights on photos, against the way it was computed before. Candidates run interleaved in one process; medians and
ratios, each speed with its least and mean cosine to transformers' or the former outputs.

Command: python benchmarks/execution.py [clip|lite0|plan] [--data PHOTOS] [--batch 32] [--rounds 5] [--layers 12]
    [--threads 2]; lite0 needs --data, a folder with the splits train (256 photos give the ranges of eight bits) and val
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from chiasm.compress.variants import CALIBRATED
from chiasm.core.device import environment, keep_freed_memory
from chiasm.core.resizing import Resizing
from chiasm.data.files import FilesConfig
from chiasm.data.modalities.image import images_of
from chiasm.data.opening import open_dataset
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.dynamic_int8 import Int8Network
from chiasm.models.static_int8 import calibrate
from chiasm.pipeline.batching import stack_images, to_model_range
from timing import compare

Found = dict[str, dict[str, float]]


def measured(candidates: Mapping[str, Callable[[], torch.Tensor]], items: int, rounds: int) -> Found:
    """Candidate -> items a second, ratio to the first, least cosine to the first."""
    with torch.no_grad():
        first = next(iter(candidates.values()))()
        found = compare(candidates, rounds)
        cosines = {name: F.cosine_similarity(run(), first, dim=-1) for name, run in candidates.items()}
        return {
            name: {
                "per_s": 1000 * items / found[name][0],
                "ratio": 1 / found[name][1],
                "cosine": float(cosine.min()),
                "mean_cosine": float(cosine.mean()),
            }
            for name, cosine in cosines.items()
        }


def in_int8(eight: Int8Network, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The same work, computed in eight bits."""

    def work() -> torch.Tensor:
        eight.put_in()
        try:
            return run()
        finally:
            eight.take_out()

    return work


def clip(batch: int, rounds: int, layers: int) -> dict[str, Found]:
    """Towers of ViT-B/32: pictures of 224 px, and texts of 16 tokens, a usual caption's length."""
    import transformers

    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers}
    config = transformers.CLIPConfig(vision_config=sizes, text_config=sizes)
    model = transformers.CLIPModel(config).eval()
    pixels, ids = torch.randn(batch, 3, 224, 224), torch.randint(0, 49405, (batch, 16))
    ids[:, -1] = 49407
    works: dict[str, tuple[Any, Callable[[Any], torch.Tensor]]] = {
        "pictures": (model.vision_model, lambda tower: tower(pixel_values=pixels).pooler_output),
        "texts": (model.text_model, lambda tower: tower(input_ids=ids).pooler_output),
    }
    found = {}
    for name, (tower, work) in works.items():
        make_batch_invariant(tower)
        eight, short = Int8Network(tower), _bf16(tower)
        found[name] = measured(
            {
                "transformers fp32": lambda tower=tower, work=work: work(tower),
                "int8": in_int8(eight, lambda tower=tower, work=work: work(tower)),
                **({} if short is None else {"bf16": lambda short=short, work=work: work(short).float()}),
            },
            batch,
            rounds,
        )
    return found


def photos(data: Path, split: str, count: int) -> torch.Tensor:
    """The first photos of a split, or all where it has fewer, as the tower takes them."""
    dataset = open_dataset(FilesConfig(path=str(data)), split, 0)
    images = [images_of(dataset.example(number))[0].load() for number in range(min(count, len(dataset.examples)))]
    return cast(torch.Tensor, to_model_range(stack_images(images, Resizing("cover", (224, 224))), torch.float32))


def lite0(batch: int, rounds: int, data: Path) -> dict[str, Found]:
    """EfficientNet-Lite0, photos of 224 px: folded at every call, folded once, and in eight bits."""
    from chiasm.models.encoders import efficientnet_lite

    tower, pixels = efficientnet_lite.load_efficientnet_lite("lite0"), photos(data, "val", batch)
    fused = efficientnet_lite.is_fused
    calibrate(tower, photos(data, "train", CALIBRATED))

    def run() -> torch.Tensor:
        return tower(pixels).pooled

    def before() -> torch.Tensor:
        efficientnet_lite.is_fused = lambda x: False
        try:
            return run()
        finally:
            efficientnet_lite.is_fused = fused

    candidates = {"before": before, "folded once": run, "int8": in_int8(Int8Network(tower), run)}
    return {"pictures": measured(candidates, batch, rounds)}


def _bf16(tower: Any) -> Any:
    """The same weights in bf16, for a machine with instructions for it."""
    import copy

    from chiasm.core.device import has_bf16

    if not has_bf16(torch.device("cpu")):
        return None
    return _Cast(copy.deepcopy(tower).to(torch.bfloat16))


class _Cast:
    def __init__(self, tower: Any) -> None:
        self._tower = tower

    def __call__(self, **given: torch.Tensor) -> Any:
        return self._tower(
            **{name: value.bfloat16() if value.is_floating_point() else value for name, value in given.items()}
        )


def plan(layers: int) -> dict[str, Any]:
    """What `chiasm.load` chooses for a folder of CLIP ViT-B/32 with random weights, and how long it takes."""
    import sys

    import transformers

    sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / "models")]
    from hf_folders import save_clip_words

    import chiasm

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clip"
        words = save_clip_words(folder)
        sizes = {"num_hidden_layers": layers}
        text = {**sizes, "vocab_size": max(words, 49408), "bos_token_id": words - 2, "eos_token_id": words - 1}
        transformers.CLIPModel(transformers.CLIPConfig(vision_config=sizes, text_config=text)).save_pretrained(folder)
        transformers.CLIPImageProcessorPil().save_pretrained(folder)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            model = chiasm.load(folder)
            seconds.append(time.perf_counter() - start)
        return {"plan": model.plan.as_dict(), "first_load_s": seconds[0], "second_load_s": seconds[1]}


def main() -> None:
    """Measure, print, and write a dated JSON where one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("clip", "lite0", "plan"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None)
    chosen = parser.parse_args()
    if chosen.what == "lite0" and chosen.data is None:
        parser.error("lite0 needs --data PHOTOS")
    keep_freed_memory()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if chosen.what == "plan":
        found: Any = plan(chosen.layers)
        print(json.dumps(found, indent=2))
    else:
        clips = chosen.what == "clip"
        sizes = (chosen.batch, chosen.rounds)
        found = clip(*sizes, chosen.layers) if clips else lite0(*sizes, chosen.data)
        for part, rows in found.items():
            print(f"{part}, batch {chosen.batch}")
            for name, row in rows.items():
                speed = f"{name:<20} {row['per_s']:8.1f} a second  {row['ratio']:5.2f} x"
                print(f"  {speed}  cosine at least {row['cosine']:.5f}, mean {row['mean_cosine']:.5f}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"found": found, "environment": environment()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
