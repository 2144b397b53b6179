"""Image tokenizers: PSNR and SSIM of hard codes, on generated scenes or on files, for any quantiser.

    python benchmarks/image_tokenizer.py scenes --json OUT
    python benchmarks/image_tokenizer.py EMOJI --json OUT --set model.image.quantizer.codes=1024

Trains the task `reconstruction` alone and measures the validation split, scenes also in the split of held-out
colour-shape pairs. With --json writes all scores, and the seconds that training took on the clock and on the processor.
"""

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console

from chiasm.core.config import as_typed, keys, override
from chiasm.core.device import environment, pick_device
from chiasm.core.files import write_json
from chiasm.data.files import FilesConfig
from chiasm.data.generated.scene_dataset import ScenesConfig
from chiasm.evaluate.evaluator import evaluate
from chiasm.evaluate.measure import open_prepared
from chiasm.models.codebooks.vector import VectorConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.image_codes import ImageCodesConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.reconstruction import ReconstructionConfig
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.run import run

SCENES = "scenes"


def tokenizer(data: str) -> RunConfig:
    """The settings that docs/drawing.md names: cells of the size of an object, or small patches for drawings."""
    is_scenes = data == SCENES
    return RunConfig(
        recipe="image_tokenizer",
        data=ScenesConfig(train_pictures=16_384, eval_pictures=500)
        if is_scenes
        else FilesConfig(path=data, on_leak="drop"),
        model=ModelConfig(
            dim=32,
            image=ImageCodesConfig(
                size_px=48 if is_scenes else 64,
                stride_px=16 if is_scenes else 4,
                width=192 if is_scenes else 96,
                continuous_steps=20,
                quantizer=VectorConfig(codes=512 if is_scenes else 1024, dim=64 if is_scenes else 32),
            ),
            text=TransformerTextConfig(layers=0, max_tokens=64, vocabulary=500),
        ),
        tasks={"reconstruction": ReconstructionConfig(objective="smooth_l1")},
        train=TrainConfig(
            steps=1200 if is_scenes else 600,
            batch_size=64 if is_scenes else 32,
            lr=5e-4,
            weight_decay=0.0,
            ema_decay=0.99,
            validate_examples=128,
        ),
    )


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the word scenes, or a folder that chiasm reads")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="keep the run folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    config, console = override(tokenizer(given.data), given.set), Console(stderr=True)
    with tempfile.TemporaryDirectory() as place:
        folder, spent = given.out or Path(place) / "run", time.process_time()
        finished = run(config, folder, False, console)
        assert finished is not None, "one process"
        result = {
            "settings": {name: as_typed(value) for name, value in keys(config)},
            "steps": finished.facts.steps,
            "training_s": finished.facts.training_time_s,
            "processor_s": time.process_time() - spent,
            "metrics": {name: score.as_dict() for name, score in finished.measured.outcome.scores.items()},
            "shuffled": {name: one.as_dict() for name, one in finished.measured.blind["shuffled"].scores.items()},
            "environment": environment(),
        }
        if given.data == SCENES:
            pipeline = Pipeline.load(folder, pick_device())
            examples, _ = open_prepared(pipeline, "compositional", console)
            found = evaluate(pipeline, examples).scores
            result["held_out_pairs"] = {name: score.as_dict() for name, score in found.items()}
    for part in ("metrics", "held_out_pairs"):
        for name, score in result.get(part, {}).items():
            print(f"{part} {name} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] n={score['n']}")
    print(f"{result['steps']} steps, {result['training_s']:.0f} s, {result['processor_s']:.0f} s of the processor")
    if given.json:
        write_json(given.json, result)


if __name__ == "__main__":
    main()
