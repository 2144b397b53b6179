"""What the command line proposes to type next can be typed, and is about what the pictures show."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import Shell, assert_refused
from PIL import Image

from chiasm.cli import verbs
from chiasm.cli.suggesting import print_next
from chiasm.core.types import Caption, Example, Question
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.opening import open_dataset
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.stored_example import StoredExample, choose_example, words_to_try
from chiasm.recipes.table import find_recipe

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def scenes() -> list[Example]:
    config = find_recipe("demo", tiny=True)
    dataset = open_dataset(config.data, config.test_split, config.seed)
    return [dataset.example(number) for number in range(24)]


def saved(task: str, scenes: list[Example], folder: Path) -> Path:
    """An untrained run of one task with a stored example."""
    config = find_recipe("demo", tiny=True)
    config = replace(config, tasks={task: config.tasks[task]}, primary_metric="")
    pipeline = Pipeline.build(config, scenes, torch.device("cpu"))
    pipeline.save(folder, choose_example(scenes), {}, others=scenes)
    return folder


def proposed(text: str) -> list[list[str]]:
    """The `chiasm` lines of a message, as words."""
    return [shlex.split(line)[1:] for line in text.splitlines() if line.strip().startswith("chiasm ")]


def test_a_run_that_cannot_says_which_commands_can(
    chiasm: Shell, scenes: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a refusal that leaves the reader alone, and a proposal that ends in the next refusal."""
    run = saved("retrieval", scenes, tmp_path / "my run")
    picture = tmp_path / "a b.png"
    Image.fromarray(scenes[1].inputs["image"].load()).save(picture)
    for words in (["caption", run, picture], ["ask", run, picture, "what is it?"]):
        said = chiasm(*words)
        assert_refused(said, "was trained for retrieval")
        lines = proposed(said.err)
        assert [line[0] for line in lines] == ["match", "search", "train"]
        assert lines[0][1:3] == [str(run), str(picture)] and lines[1][1:3] == [str(run), str(tmp_path)]
        for line in lines[:2]:
            answered = chiasm(*line)
            assert answered.code == 0 and answered.out, (line, answered.err)
        verbs()["train"].make_context("train", list(lines[2][1:]))
        trained = find_recipe(lines[2][1])
        assert {"caption": "captioning", "ask": "vqa"}[words[0]] in trained.tasks


def test_what_needs_no_training_is_proposed_with_the_packaged_towers(
    chiasm: Shell, scenes: list[Example], tmp_path: Path
) -> None:
    """Guards against a hint that loses what was typed."""
    run = saved("captioning", scenes, tmp_path / "captions")
    place, out = tmp_path / "photos", tmp_path / "v.safetensors"
    place.mkdir()
    picture = place / "one.png"
    Image.fromarray(scenes[1].inputs["image"].load()).save(picture)
    typed = {
        "match": ([run, picture, "a dog", "a cat"], ["match", "starter", str(picture), "a dog", "a cat"]),
        "search": ([run, place, "a dog"], ["search", "starter", str(place), "a dog"]),
        "classify": ([run, picture, "--labels", "a,b"], ["classify", "starter", str(picture), "--labels", "a,b"]),
        "embed": ([run, place, "--out", out], ["embed", "starter", str(place), "--out", str(out)]),
        "index build": (
            [place, tmp_path / "i", "--model", run],
            ["index", "build", str(place), str(tmp_path / "i"), "--model", "starter"],
        ),
    }
    for verb, (words, expected) in typed.items():
        said = chiasm(*verb.split(), *words)
        assert_refused(said, "was trained for captioning")
        lines = proposed(said.err)
        assert expected in lines, (verb, lines)
        assert lines[0][:2] == ["caption", str(run)] and lines[-1][0] == "train"
        if verb == "match":
            assert chiasm(*lines[0]).code == 0


def test_the_last_lines_of_a_training_are_about_its_example(
    chiasm: Shell, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against questions about circles of a picture that has none."""
    config = find_recipe("demo", tiny=True)
    print_next(tiny_run, tuple(config.tasks))
    lines = proposed(capsys.readouterr().out)
    assert [line[0] for line in lines] == ["ask", "caption", "match", "search", "serve"]
    dataset = open_dataset(config.data, config.test_split, config.seed)
    example = choose_example([dataset.example(number) for number in range(len(dataset))])
    assert lines[0][3] in [one.text for one in example.questions]
    true, other = lines[2][3:]
    captions = [one.text for one in example.captions]
    assert true in captions and other not in captions and lines[3][3] == true
    for line in lines[:3]:
        assert chiasm(*line).code == 0, line
    stored = StoredExample.read(tiny_run)
    assert stored is not None and {one.text for one in example.captions} == set(stored.texts)


def test_the_readme_is_true_of_the_demo_s_example() -> None:
    """Guards against a first page whose words do not fit the picture that it names."""
    config = find_recipe("demo")
    dataset = open_dataset(config.data, config.test_split, config.seed)
    examples = [dataset.example(number) for number in range(40)]
    example = choose_example(examples)
    words = words_to_try(example, examples)
    text = README.read_text(encoding="utf-8")
    (asked,) = re.findall(r'chiasm ask runs/demo runs/demo/example.png "(.*)"', text)
    ((true, other),) = re.findall(r'chiasm match runs/demo runs/demo/example.png "(.*?)" "(.*?)"', text)
    (in_python,) = re.findall(r'model.ask\("runs/demo/example.png", "(.*?)"\)', text)
    assert asked == words["questions"][0] and true in words["texts"][0] and other == words["others"][0]
    assert in_python in [one.text for one in example.questions]


def test_words_of_an_example() -> None:
    """Guards against questions of one kind only, a sentence of the same picture as another's, and lost languages."""
    pixels = image_ref_from_array(torch.zeros(4, 4, 3, dtype=torch.uint8).numpy())

    def example(name: str, group: str, *captions: Caption, questions: tuple[Question, ...] = ()) -> Example:
        return Example(name, {"image": pixels}, captions, questions, group=group)

    english, chinese = Caption("a dog runs", "en"), Caption("一只狗在跑", "zh")
    asked = tuple(Question(f"question {n}?", ("1",), "count" if n < 3 else "colour") for n in range(5))
    first = example("1", "", Caption("a dog", "en"))
    rich = example("2", "same", english, chinese, questions=asked)
    copy = example("3", "same", Caption("the dog again", "en"))
    others = [first, rich, copy, example("4", "", english), example("5", "", Caption("a cat", "en"))]
    assert choose_example(others) is rich
    assert choose_example([first, others[4], others[3]]).captions[0].text == "a cat"
    assert words_to_try(rich, others) == {
        "questions": ["question 0?", "question 3?"],
        "texts": ["a dog runs", "一只狗在跑"],
        "others": ["a dog", "a cat"],
    }
