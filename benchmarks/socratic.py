"""How good are captions without any training: the starter's words, told to the packaged language model (docs/chat.md).

Captions of the first photos of Flickr8k's validation split, against what people wrote. Beside it what is blind: the
caption of the next photo in its place (shuffled), and the names alone, without a language model.

    python benchmarks/socratic.py FLICKR8K --photos 100 --json socratic.json

FLICKR8K is a folder as `chiasm train --data` reads it. 100 photos, 32 tokens each.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import chiasm
from chiasm.core.device import environment
from chiasm.core.files import write_json
from chiasm.data.files import FilesConfig
from chiasm.data.modalities.image import images_of
from chiasm.data.opening import open_dataset
from chiasm.metrics.captions import caption_scores
from chiasm.serve.socratic import SocraticTalker

WANTED = "Describe the photo in one short sentence, as a caption."
METRICS = ("CIDEr", "Bleu_4", "ROUGE_L")


def measure(data: Path, photos: int, language: str, words: int) -> dict[str, Any]:
    """Scores of the captions, and of the two baselines, on the same photos."""
    dataset = open_dataset(FilesConfig(path=str(data)), "val", 0)
    examples = [dataset.example(number) for number in range(min(photos, len(dataset)))]
    model = chiasm.load("starter")
    assert isinstance(model.talker, SocraticTalker), "the starter is told in words"
    said, told, start = [], [], time.perf_counter()
    for example in examples:
        image = images_of(example)[0]
        said.append(model.chat(WANTED, image, max_tokens=words).answer)
        told.append(model.talker.told(image))
    spent_s = time.perf_counter() - start
    references = [[one.text for one in example.captions if one.language == language] for example in examples]
    views = {"captions": said, "shuffled": [*said[1:], said[0]], "names_alone": told}
    scores = {view: caption_scores(texts, references) for view, texts in views.items()}
    return {
        "photos": len(examples),
        "seconds_a_photo": spent_s / len(examples),
        "scores": {view: {name: found[name].as_dict() for name in METRICS} for view, found in scores.items()},
        "examples": [{"told": one, "said": text} for one, text in zip(told[:10], said[:10], strict=True)],
        "environment": environment(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--language", default="en")
    parser.add_argument("--words", type=int, default=32, help="longest caption in tokens")
    parser.add_argument("--json", type=Path)
    typed = parser.parse_args()
    found = measure(typed.data, typed.photos, typed.language, typed.words)
    print(f"{found['photos']} photos, {found['seconds_a_photo']:.2f} s each")
    for view, scores in found["scores"].items():
        print(
            view, *(f"{name} {one['value']:.3f} ({one['low']:.3f}-{one['high']:.3f})" for name, one in scores.items())
        )
    if typed.json:
        write_json(typed.json, found)


if __name__ == "__main__":
    main()
