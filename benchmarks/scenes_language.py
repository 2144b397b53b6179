"""A language model answers and describes scenes through the bridge: `python benchmarks/scenes_language.py DEMO`.

Command: python benchmarks/scenes_language.py runs/demo [--captions-s 270] [--questions-s 1380] [--json FILE] [--tiny]

DEMO is the run folder of `chiasm demo`, whose image tower is taken as it is. The language model is a small one that
begins with random weights (`small_language_model.py`): through a pre-trained one of 135 million weights two cores read
too few questions in half an hour (docs/log.md). It learns captions first, which say every object of a scene; then
captions and questions, each of which says one thing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from chiasm import train
from chiasm.core.device import environment
from chiasm.core.files import read_json, write_json
from chiasm.data.conversations import turns_of
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.models.bridge.mlp2x_gelu import MlpProjectorConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.recipes.table import find_recipe
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.conversation import ConversationConfig
from chiasm.train.config import RunConfig, StageConfig, TrainConfig, stored_run_config
from small_language_model import write_language_model

QUESTIONS = 24
READ_FOR_WORDS = 1000
"""Scenes whose texts the tokenizer is learned from."""


def config(demo: Path, language_model: Path, captions_s: float, questions_s: float) -> RunConfig:
    """Captions for so many seconds, then captions and questions for so many."""
    llava = find_recipe("llava")
    shown = stored_run_config(read_json(demo / "config.json", "the run's config"), "config.json").model
    text = LanguageModelConfig(name=str(language_model), frozen=False)
    task = ConversationConfig(
        projector=MlpProjectorConfig(), questions_per_picture=QUESTIONS, rehearsed=0, pope_images=0
    )
    few = {"lr": 1e-3, "weight_decay": 0.0, "epochs": 50, "validate_examples": 32}
    return replace(
        llava,
        recipe="scenes_language",
        init_from=str(demo),
        data=ScenesConfig(languages=("en",), train_pictures=10_240, eval_pictures=200, questions_per_picture=QUESTIONS),
        model=replace(
            llava.model, dim=shown.dim, heads=shown.heads, image=replace(shown.image, frozen=True), text=text
        ),
        tasks={"conversation": task},
        stages={
            "align": StageConfig(
                tasks={"conversation": replace(task, questions_per_picture=0, writes=False)},
                train=TrainConfig(batch_size=16, limit_s=captions_s, **few),
                primary_metric="reply_token_probability",
            )
        },
        train=TrainConfig(batch_size=4, limit_s=questions_s, **few),
        decoding=DecodingConfig(method="greedy", max_words=64),
    )


def texts() -> Iterator[str]:
    """What users and assistants say about the first scenes."""
    scenes = SceneDataset("train", ScenesConfig(languages=("en",), questions_per_picture=QUESTIONS), 0)
    for number in range(READ_FOR_WORDS):
        for turns in turns_of(scenes.example(number), 0, 0, 1, QUESTIONS):
            yield from (turn.text for turn in turns)


def main() -> None:
    """Train, measure, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--captions-s", type=float, default=270)
    parser.add_argument("--questions-s", type=float, default=1380)
    parser.add_argument("--json", type=Path, help="also write the scores here")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to test that it works")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        language_model, out = Path(folder) / "language_model", Path(folder) / "run"
        weights = write_language_model(language_model, texts())
        made = config(given.demo.resolve(), language_model, given.captions_s, given.questions_s)
        if given.tiny:
            made = few_steps(replace(made, data=replace(made.data, train_pictures=64, eval_pictures=8)), batch_size=4)
        run = train(made, out=out)
        print(f"{weights:,} weights of the language model")
        for name in ("vqa_accuracy", "caption_truth"):
            print(f"{name} {run.metrics[name]}")
        if given.json:
            told = {"language_model_weights": weights, "environment": environment()}
            write_json(given.json, {**read_json(out / "results.json", "the scores"), **told})
            shutil.copy(out / "report.html", given.json.with_suffix(".html"))


if __name__ == "__main__":
    main()
