"""A CLIP ViT-B/32 of full size, opened, compared with transformers on real photos, and converted there and back.

Command: python benchmarks/checkpoints.py [PHOTOS]; needs flickr8k and clip_bpe below CHIASM_DATA (../shared/data). The
weights are random: what is measured is whether the numbers agree, and what opening and converting cost. Writes
benchmarks/results/DATE-checkpoints.json.
"""

import datetime
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import chiasm
from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.clip_bpe import BPE_FILE, read_clip_words
from chiasm.pipeline.interop.exporting import export
from chiasm.pipeline.interop.layouts import tokenizer_files

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHIASM_DATA", HERE.parent.parent / "shared" / "data"))
PHOTOS = int(sys.argv[1]) if len(sys.argv) > 1 else 64
"""Photos of the validation split, each with its first caption."""
SEED = 0


def make(folder: Path) -> transformers.CLIPModel:
    """Write a CLIP of the published size with CLIP's own words and preprocessing."""
    folder.mkdir()
    for name, content in tokenizer_files(read_clip_words(DATA / "clip_bpe" / BPE_FILE, 77)).items():
        (folder / name).write_bytes(content)
    torch.manual_seed(SEED)
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=ends)).eval()
    model.save_pretrained(folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)
    return model


def differences(folder: Path, reference: transformers.CLIPModel, model: chiasm.Model) -> dict[str, float]:
    """Largest difference of a number in picture vectors, text vectors and logits, over all photos and captions."""
    data = open_dataset(FilesConfig(path=str(DATA / "flickr8k")), "val", SEED)
    examples = [data.example(number) for number in range(PHOTOS)]
    photos, texts = [one.inputs["image"].load() for one in examples], [one.captions[0].text for one in examples]
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(photos, return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        theirs = reference(**pixels, **words)
    image, text = model.encode_image(photos), model.encode_text(texts)
    scale = model.pipeline.model.logit_scale
    assert scale is not None
    pairs = {
        "picture": (image, theirs.image_embeds),
        "text": (text, theirs.text_embeds),
        "logits": (scale.exp().item() * image @ text.T, theirs.logits_per_image),
    }
    return {name: float(np.abs(ours - other.numpy()).max()) for name, (ours, other) in pairs.items()}


def main() -> None:
    """Make, open, compare, convert; print and keep what came out."""
    cost_s: dict[str, float] = {}

    def timed(name: str, work: Any, *given: Any) -> Any:
        start = time.monotonic()
        found = work(*given)
        cost_s[name] = round(time.monotonic() - start, 1)
        return found

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        reference = make(root / "a")
        model = timed("open hugging_face", chiasm.load, root / "a")
        found = differences(root / "a", reference, model)
        del model
        for number, layout in enumerate(("run", "open_clip", "hugging_face")):
            source = root / ("a" if not number else ("run", "open_clip")[number - 1])
            timed(f"{source.name} to {layout}", export, source, layout, root / layout, torch.device("cpu"))
        for layout in ("run", "open_clip"):
            timed(f"open {layout}", chiasm.load, root / layout)
        first, last = (
            transformers.CLIPModel.from_pretrained(root / name).state_dict() for name in ("a", "hugging_face")
        )
        is_equal = all(torch.equal(value, last[name]) for name, value in first.items())
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/checkpoints.py",
        "model": "CLIP ViT-B/32, 151 million weights, random",
        "seed": SEED,
        "n": PHOTOS,
        "largest_difference_from_transformers": found,
        "round_trip_is_bit_equal": is_equal,
        "tensors": len(first),
        "cost_s": cost_s,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "environment": environment(),
    }
    for name, value in found.items():
        print(f"{name:<8} differs from transformers by at most {value:.1e} (n = {PHOTOS})")
    print(f"{len(first)} tensors after three conversions: {'equal to the bit' if is_equal else 'NOT equal'}")
    for name, seconds in cost_s.items():
        print(f"{seconds:6.1f} s  {name}")
    write_json(HERE / "results" / f"{result['date']}-checkpoints.json", result)


if __name__ == "__main__":
    main()
