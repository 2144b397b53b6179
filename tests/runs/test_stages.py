"""Pre-training hands its words and weights on; each stage is a run of its own."""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from small import small_config, start, traces

from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.run_folder import MANIFEST, verify_folder
from chiasm.core.types import Example
from chiasm.data.dataset import examples_of
from chiasm.data.opening import open_dataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.codec import ANSWERS, Codec
from chiasm.tasks.hidden_words import MaskingConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig, StageConfig
from chiasm.train.finish import Finished
from chiasm.train.stages import planned, run_stages

CPU = torch.device("cpu")
MEASURED_OF_STAGE = 5
SHORT = {"validate_every": 3, "checkpoint_every": 3, "ema_decay": 0.0, "accumulate": 1}


def staged() -> RunConfig:
    """Hidden words and wrong pairs first, then questions."""
    config = small_config(steps=3, **SHORT)
    tasks = {"masked_language_modelling": MaskingConfig(), "matching": MatchingConfig(negatives="random")}
    train = replace(config.train, steps=4, validate_every=4, checkpoint_every=4, validate_examples=MEASURED_OF_STAGE)
    stage = StageConfig(tasks=tasks, train=train)
    text = replace(config.model.text, summary_tokens=0)
    return replace(
        config,
        model=replace(config.model, text=text),
        tasks={"vqa": VqaConfig()},
        stages={"words": stage},
    )


def go(config: RunConfig, folder: Path, resume: bool = False) -> tuple[Finished | None, str]:
    said = io.StringIO()
    return run_stages(config, folder, resume, Console(file=said, width=400)), said.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("staged") / "run"
    config = staged()
    fast = replace(config, train=replace(config.train, lr=0.05))
    _, said = go(fast, folder)
    assert "tensors taken" in said and "may destroy" not in said, "a recipe is not warned of its own stages"
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_each_stage_is_a_complete_run(finished: Path) -> None:
    """Guards against a stage that cannot be loaded, measured or reported by itself."""
    stage = finished / "stages" / "words"
    for folder, tasks in ((stage, ["masked_language_modelling", "matching"]), (finished, ["vqa"])):
        verify_folder(folder, "run")
        assert (folder / "report.html").exists()
        pipeline = Pipeline.load(folder, CPU)
        assert list(pipeline.tasks) == tasks
        assert json.loads((folder / "config.json").read_text())["stages"] == {}
    rows = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) == 4
    assert any("val/masked_word_accuracy" in row for row in rows) and any(
        "val/matching_accuracy" in row for row in rows
    )


def test_a_stage_is_measured_on_few_examples(finished: Path) -> None:
    """Guards against minutes of blind views for weights that the next stage changes."""
    before, last = (
        json.loads((folder / "results.json").read_text())["metrics"] for folder in (finished / "stages/words", finished)
    )
    assert before["masked_word_accuracy"]["n"] == MEASURED_OF_STAGE, "one caption each"
    questions = sum(len(one.questions) for one in examples_of(open_dataset(staged().data, "val", staged().seed)))
    assert last["vqa_accuracy"]["n"] == questions


def test_weights_and_words_are_handed_on(finished: Path) -> None:
    """Guards against a last stage that starts anew, or that reads other words under the same numbers."""
    stage = finished / "stages" / "words"
    before, at_start = tensors(stage), tensors(finished / "checkpoints" / "step-00000000")
    shared = set(before) & set(at_start)
    assert all(torch.equal(before[name], at_start[name]) for name in shared)
    reached = {name.split(".")[0] for name in shared}
    assert reached == {"image_encoder", "text_encoder", "fusion"}
    assert {name.split(".")[1] for name in set(at_start) - shared} == {"vqa"}
    assert {name.split(".")[1] for name in set(before) - shared} == {"matching", "masked_language_modelling"}
    fresh = Pipeline.build(replace(staged(), stages={}), training(), CPU).model.state_dict()
    assert any(
        not torch.equal(fresh[name], at_start[name]) for name in shared if fresh[name].shape == before[name].shape
    )
    assert (stage / "tokenizer.json").read_bytes() == (finished / "tokenizer.json").read_bytes()


def test_finished_stages_are_not_trained_again(finished: Path, tmp_path: Path) -> None:
    """Guards against hours of pre-training that are done twice, and a last stage that is lost with --resume."""
    folder = tmp_path / "run"
    config = staged()
    go(config, folder)
    expected = traces(folder)
    for path in (folder / "checkpoints").iterdir():
        shutil.rmtree(path)
    (folder / MANIFEST).unlink()
    (folder / "metrics.jsonl").unlink()
    stage = folder / "stages" / "words"
    written = {path.name: path.stat().st_mtime_ns for path in stage.iterdir()}
    _, said = go(config, folder, resume=True)
    assert "stage 1 of 2" not in said
    assert {path.name: path.stat().st_mtime_ns for path in stage.iterdir()} == written
    assert traces(folder) == expected
    with pytest.raises(InputError, match="already holds a run"):
        go(config, folder)


def test_a_folder_knows_what_it_was_begun_with(finished: Path, tmp_path: Path) -> None:
    """Guards against a stopped run of which nobody remembers the command, and stages trained for a folder in use."""
    assert planned(finished) == replace(staged(), train=replace(staged().train, lr=0.05))
    with pytest.raises(InputError, match="holds no run that could go on"):
        planned(tmp_path)
    (tmp_path / "used" / "checkpoints" / "step-00000000").mkdir(parents=True)
    with pytest.raises(InputError, match="already holds a run"):
        go(staged(), tmp_path / "used")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["checkpoints"]
    with pytest.raises(InputError, match=r"stages\.words\.train\.steps is 9, but the run"):
        go(override(planned(finished), ["stages.words.train.steps=9"]), finished, resume=True)


def test_one_tokenizer_knows_the_words_of_all_stages(tmp_path: Path) -> None:
    """Guards against words of the last stage that the first one's tokenizer never saw."""
    config = staged()
    first = replace(config.stages["words"], data=replace(config.data, languages=("en",)))
    config = replace(config, stages={"words": first}, data=replace(config.data, languages=("zh",)))
    go(override(config, ["train.steps=1", "stages.words.train.steps=1"]), tmp_path)
    tokenizer = Pipeline.load(tmp_path / "stages" / "words", CPU).codec.tokenizer
    dataset = open_dataset(config.data, "val", config.seed)
    for text in [dataset.example(number).questions[0].text for number in range(4)] + ["a red circle"]:
        assert tokenizer.decode(tokenizer.ids(text)[1:]) == text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """Guards against a run that starts from nothing because its start was misspelt."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        with pytest.raises(InputError, match=name):
            start(replace(staged(), stages={}, init_from=str(tmp_path / name)), tmp_path / f"from {name}")


def test_a_model_of_other_sizes_is_refused(finished: Path, tmp_path: Path) -> None:
    """Guards against a run that says where it starts from and takes not one tensor."""
    config = replace(staged(), stages={}, init_from=str(finished))
    config = replace(config, model=replace(config.model, dim=20, image=replace(config.model.image, channels=(6, 10))))
    with pytest.raises(InputError, match="no tensor of"):
        start(config, tmp_path / "run")


def training() -> list[Example]:
    config = staged()
    dataset = open_dataset(config.data, "train", config.seed)
    return [dataset.example(number) for number in range(len(dataset))]


def taken(folder: Path, answers: tuple[str, ...]) -> tuple[Pipeline, Mapping[str, torch.Tensor]]:
    """A new pipeline that knows `answers`, and its weights before it took those of the folder."""
    stored = Pipeline.load(folder, CPU)
    pipeline = Pipeline.build(stored.config, [], CPU, Codec(stored.codec.tokenizer, {ANSWERS: answers}))
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.add_(1)
    before = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    pipeline.take_weights(folder)
    return pipeline, before


def test_answers_of_another_order_are_put_in_order(finished: Path) -> None:
    """Guards against "yes" that says "no": the head's rows are those of the answers it was trained with."""
    stored = Pipeline.load(finished, CPU)
    assert stored.codec.answer_index(stored.codec.answers[0]) == 0
    pipeline, _ = taken(finished, stored.codec.answers[::-1])
    assert pipeline.codec.answers == stored.codec.answers
    assert pipeline.codec.answer_index(stored.codec.answers[1]) == 1
    pipeline.codec.calibration.update(stored.codec.calibration)
    pipeline.domain = stored.domain
    picture = training()[0]
    words = {"question": picture.questions[0].text}
    assert pipeline.answers_of(picture.inputs["image"], words) == stored.answers_of(picture.inputs["image"], words)


def test_other_answers_start_anew(finished: Path) -> None:
    """Guards against an answer head of equal size whose rows mean other answers."""
    stored = Pipeline.load(finished, CPU)
    other = ("never heard", *stored.codec.answers[1:])
    pipeline, before = taken(finished, other)
    assert pipeline.codec.answers == other
    kept, now = tensors(finished), pipeline.model.state_dict()
    rows = {name for name in now if name.startswith("heads.vqa.2.")}
    assert rows == {"heads.vqa.2.weight", "heads.vqa.2.bias"}
    for name, value in now.items():
        assert torch.equal(value, before[name] if name in rows else kept[name]), name
