"""What is measured: four views of a split, scores that are means of their items, and doubts that are kept."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.core.types import IMAGE, Encoded, Example, Prediction, Question, Tokens
from chiasm.data.opening import open_dataset
from chiasm.evaluate import encoded_once
from chiasm.evaluate.evaluator import GREY, derangement, evaluate
from chiasm.metrics.calibration import expected_calibration_error
from chiasm.metrics.intervals import bootstrap_mean, proportion
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks import TASKS
from chiasm.tasks.base import Query
from chiasm.tasks.calibration import Calibration
from chiasm.tasks.matching import Matching
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.scoring import Outcome, View, scores_as_json
from chiasm.tasks.vqa import VisualQuestionAnswering, VqaConfig
from chiasm.train.config import RunConfig

VIEWS: tuple[View, ...] = ("seen", "shuffled", "no_picture", "no_text")
COUNT = 12


@pytest.fixture(scope="module")
def config() -> RunConfig:
    """The demo with small towers, and every task that can share a text tower."""
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8, 8), size_px=24)
    text = replace(demo.model.text, summary_tokens=0)
    model = replace(demo.model, dim=16, embedding_dim=8, image=image, text=text)
    tasks = {name: TASKS[name].Config() for name in (*demo.tasks, "matching", "masked_language_modelling")}
    decoding = replace(demo.decoding, max_words=6)
    return replace(demo, model=model, tasks=tasks, decoding=decoding, data=replace(demo.data, questions_per_picture=4))


@pytest.fixture(scope="module")
def examples(config: RunConfig) -> list[Example]:
    dataset = open_dataset(config.data, "val", 0)
    return [dataset.example(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def pipeline(config: RunConfig, examples: list[Example]) -> Pipeline:
    """Untrained, but with weights far from zero, so that every answer depends on picture and words."""
    made = Pipeline.build(config, examples, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


@pytest.fixture(scope="module")
def seen(pipeline: Pipeline, examples: list[Example]) -> Outcome:
    return evaluate(pipeline, examples)


Answer = Callable[[Tokens, str, int], str]


def answer_by(monkeypatch: pytest.MonkeyPatch, answer: Answer, confidence: float = 0.75) -> None:
    """Let the model's answers be those of a function of encoded pictures, the question, and the picture's row."""

    def predict(
        self: object, model: object, codec: object, encoded: Encoded, queries: Sequence[Query]
    ) -> list[Prediction]:
        return [
            Prediction(answer(encoded[IMAGE], one.text, one.row), confidence, {"abstains": False}) for one in queries
        ]

    monkeypatch.setattr(VisualQuestionAnswering, "predict", predict)


def only_vqa(pipeline: Pipeline) -> Pipeline:
    return Pipeline(
        replace(pipeline.config, tasks={"vqa": VqaConfig()}), pipeline.model, pipeline.codec, pipeline.device
    )


def told_apart(examples: Sequence[Example], answer: Callable[[int, int], str]) -> list[Example]:
    """The examples with two questions each that no other has: question `place` of example `row` is "row place"."""
    return [
        replace(
            example, questions=tuple(Question(f"{row} {place}", (answer(row, place),), "only") for place in range(2))
        )
        for row, example in enumerate(examples)
    ]


def test_a_model_that_does_not_look_is_found_out(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a blind view that changes more than the picture: a model with its eyes shut scores the same."""
    encode = pipeline._encode_values

    def shut(name: str, image: torch.Tensor | Tokens) -> Tokens:
        tokens = encode(name, image)
        return Tokens(torch.zeros_like(tokens.values), tokens.is_real, torch.ones_like(tokens.pooled))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_encode_values", shut)
        found = {view: evaluate(pipeline, examples, view).scores for view in VIEWS[:3]}
    assert {"vqa_accuracy", "text_to_image_R@1", "matching_accuracy", "masked_word_accuracy"} <= set(found["seen"])
    for name, score in found["shuffled"].items():
        assert score.value == pytest.approx(found["seen"][name].value), name
    for name in ("vqa_accuracy", "matching_accuracy", "masked_word_accuracy", "caption_truth"):
        assert found["no_picture"][name].value == found["seen"][name].value


def test_a_model_that_knows_the_questions_alone(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against words that stay in the view without words: a model that reads alone falls to one answer there."""
    asked = told_apart(examples, lambda row, place: f"{row % 3}")
    known = {question.text: question.answers[0] for example in asked for question in example.questions}
    answer_by(monkeypatch, lambda image, question, row: known.get(question, "1"))
    found = {view: evaluate(only_vqa(pipeline), asked, view) for view in VIEWS}
    assert {view: one.scores["vqa_accuracy"].value for view, one in found.items()} == pytest.approx(
        {"seen": 1, "shuffled": 1, "no_picture": 1, "no_text": 1 / 3}
    )
    assert found["seen"].baseline["vqa_accuracy"] == pytest.approx(1 / 3)


def test_a_model_that_looks_alone(pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against pictures that stay where they are: whoever knows pictures alone is always wrong then."""
    asked = told_apart(examples, lambda row, place: f"{row}")
    own = pipeline.encode_images([example.inputs["image"] for example in examples]).pooled

    def look(image: Tokens, question: str, row: int) -> str:
        return str(int((own - image.pooled[row]).square().sum(1).argmin()))

    answer_by(monkeypatch, look)
    found = {view: evaluate(only_vqa(pipeline), asked, view).scores["vqa_accuracy"].value for view in VIEWS}
    assert found["seen"] == found["no_text"] == 1 and found["shuffled"] == 0
    assert found["no_picture"] <= 1 / COUNT


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_pictures_are_all_wrong(count: int) -> None:
    """Guards against a picture that is dealt to its own words, or twice."""
    dealt = derangement(count, 0)
    assert sorted(dealt) == list(range(count)) and all(place != number for place, number in enumerate(dealt))


def test_without_pictures_every_row_is_the_same_grey(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a trace of the picture in the view without one, and against a picture no tower has seen."""
    shown: list[Tokens] = []

    def look(image: Tokens, question: str, row: int) -> str:
        shown.append(image)
        return "1"

    answer_by(monkeypatch, look)
    evaluate(only_vqa(pipeline), examples, "no_picture")
    size = pipeline.config.model.image.size_px
    grey = pipeline.encode_pixels(torch.full((1, 3, size, size), GREY, dtype=torch.uint8))
    for tokens in shown:
        for part, expected in zip(tokens[:3], grey[:3], strict=True):
            assert len(part) == COUNT and torch.equal(part, expected.expand_as(part))


def test_views_without_input_text_leave_captions_out(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a caption score in a view that changes nothing about captions."""
    found = evaluate(pipeline, examples, "no_text").scores
    assert "vqa_accuracy" in found and "matching_accuracy" in found
    assert not {"CIDEr", "caption_truth", "masked_word_accuracy"} & set(found)


def test_ten_people_are_scored_as_the_benchmark_does(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against exact match where people disagree, and the benchmark's rule where there are one or two answers."""
    people = [("red",) * 2 + ("blue",) * 8, ("blue",) * 10, ("red", "blue"), ("blue",), ("red",) * 3 + ("blue",) * 7]
    asked = [
        replace(example, questions=(Question("which colour?", answers),))
        for example, answers in zip(examples, people, strict=False)
    ]
    answer_by(monkeypatch, lambda image, question, row: "red")

    def official(answers: Sequence[str]) -> float:
        """Mean over the people left out, one after the other, of min(1, matches among the others / 3)."""
        others = [answers[:one] + answers[one + 1 :] for one in range(len(answers))]
        return float(np.mean([min(1, rest.count("red") / 3) for rest in others]))

    expected = [official(people[0]), 0.0, 1.0, 0.0, official(people[4])]
    assert expected[0] == pytest.approx(0.6) and expected[4] == pytest.approx(0.9)
    found = evaluate(only_vqa(pipeline), asked)
    assert [one.right for one in found.answered] == pytest.approx(expected)
    assert found.scores["vqa_accuracy"].value == pytest.approx(np.mean(expected))


def test_items_make_up_the_scores(seen: Outcome, examples: list[Example]) -> None:
    """Guards against a paired test between other numbers than those of the table."""
    assert {"vqa_accuracy", "matching_accuracy", "CIDEr", "text_to_image_R@1", "image_to_text_R@5"} <= set(seen.items)
    for name, items in seen.items.items():
        assert len(items.values) == len(items.clusters)
        assert items.clusters.min() >= 0 and items.clusters.max() < len(examples)
        if items.values.ndim == 1:
            assert items.values.mean() == pytest.approx(seen.scores[name].value), name
    by_example = [len(example.questions) for example in examples]
    assert np.bincount(seen.items["vqa_accuracy"].clusters).tolist() == by_example


def test_parts_of_a_split_are_put_together(
    pipeline: Pipeline, examples: list[Example], seen: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against rows of the second part that are counted as the first one's."""
    monkeypatch.setattr(encoded_once, "CHUNK", 5)
    done: list[int] = []
    parts = evaluate(pipeline, examples, report=lambda now, total: done.append(now))
    assert done == [5, 10, 12]
    for name in ("vqa_accuracy", "CIDEr", "text_to_image_R@1", "masked_word_accuracy"):
        assert parts.scores[name].value == pytest.approx(seen.scores[name].value)
        assert sorted(parts.items[name].clusters) == sorted(seen.items[name].clusters)


def test_matching_takes_right_and_wrong_pairs_in_equal_parts(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a score that a model reaches by always saying yes, and a wrong pair of equal pictures."""
    pairs: list[tuple[str, int]] = []

    def say_yes(self: object, model: object, codec: object, encoded: object, queries: Any) -> list[Prediction]:
        pairs.extend((one.text, one.row) for one in queries)
        return [Prediction("yes", 1.0, {"match": 0.9}, 0.6)] * len(queries)

    monkeypatch.setattr(Matching, "predict", say_yes)
    found = evaluate(pipeline, examples)
    for name in ("matching_accuracy", "matching_hard_accuracy"):
        assert found.scores[name].value == found.baseline[name] == 0.5 and found.scores[name].n == 2 * COUNT
    assert found.scores["matching_ECE"].value == pytest.approx(0.4)
    assert found.scores["matching_uncalibrated_ECE"].value == pytest.approx(0.1)
    own = {(example.captions[0].text, row) for row, example in enumerate(examples)}
    assert len(pairs) == len(set(pairs)) and own < set(pairs)
    task = pipeline.tasks["retrieval"]
    pictures = task.embed_images(
        pipeline.model, {IMAGE: pipeline.encode_images([one.inputs["image"] for one in examples])}
    )
    for row, example in enumerate(examples):
        similar = pictures @ task.embed_texts(pipeline.model, pipeline.codec, [example.captions[0].text])[0]
        similar[row] = -2
        assert (example.captions[0].text, int(similar.argmax())) in pairs, "the hardest picture is among them"
    pairs.clear()
    twins = [replace(example, group=f"{row // 2}") for row, example in enumerate(examples)]
    evaluate(pipeline, twins)
    texts = [example.captions[0].text for example in examples]
    assert all(texts.index(text) // 2 != row // 2 for text, row in set(pairs) - own) and set(pairs) > own


def test_labels_are_found_by_their_sentences(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against the wrong prompt for a class: the loop measures each picture's angle to the sentences' mean."""
    names = ["red_circle", "blue_square", "cyan_triangle"]
    labelled = [replace(e, captions=(), label=names[row % 3 and 1 + row % 2]) for row, e in enumerate(examples)]
    prompts = ("a photo of a {label}.", "there is a {label}")
    config = replace(pipeline.config, tasks={"retrieval": RetrievalConfig()})
    config = replace(config, data=replace(config.data, label_prompts=prompts))
    contrast = Pipeline(config, pipeline.model, pipeline.codec, pipeline.device)
    outcome = evaluate(contrast, labelled)
    task = contrast.tasks["retrieval"]
    right: list[bool] = []
    by_class: dict[str, list[bool]] = {name: [] for name in names}
    for example in labelled:
        picture = task.embed_images(contrast.model, {IMAGE: contrast.encode_images([example.inputs["image"]])})[0]
        score = {}
        for name in names:
            texts = [prompt.format(label=name.replace("_", " ")) for prompt in prompts]
            mean = np.mean([task.embed_texts(contrast.model, contrast.codec, [t])[0] for t in texts], axis=0)
            score[name] = float(mean @ picture / np.sqrt((mean**2).sum()))
        right.append(max(score, key=score.__getitem__) == example.label)
        by_class[str(example.label)].append(right[-1])
    assert outcome.scores["acc1"].value == pytest.approx(np.mean(right))
    assert outcome.scores["mean_per_class_recall"].value == pytest.approx(
        np.mean([np.mean(r) for r in by_class.values()])
    )
    assert outcome.scores["acc5"].value == 1, "there are three classes"
    assert outcome.baseline["acc1"] == max(len(found) for found in by_class.values()) / COUNT
    assert outcome.baseline["acc5"] == 1 and outcome.baseline["mean_per_class_recall"] == pytest.approx(1 / 3)
    assert outcome.items["acc1"].values.tolist() == right
    assert not any(name.startswith("text_to_image") for name in outcome.scores)


def test_pictures_with_captions_and_a_label_are_scored_on_both(pipeline: Pipeline, examples: list[Example]) -> None:
    """Guards against a set with names and captions that is only classified, and classes searched by sentence."""
    config = replace(pipeline.config, tasks={"retrieval": RetrievalConfig()})
    contrast = Pipeline(config, pipeline.model, pipeline.codec, pipeline.device)
    both = [replace(example, label=("red circle", "blue square")[row % 2]) for row, example in enumerate(examples)]
    scores = evaluate(contrast, both).scores
    assert {"acc1", "text_to_image_R@1"} <= set(scores)
    assert scores["text_to_image_R@1"].n == sum(len(example.captions) for example in examples)
    classes = [replace(example, group=f"label:{example.label}") for example in both]
    assert not any("R@" in name for name in evaluate(contrast, classes).scores)


def test_doubts_are_counted_and_left_out(pipeline: Pipeline, examples: list[Example], seen: Outcome) -> None:
    """Guards against a share of the answers given that counts those withheld, and a threshold that is not applied."""
    assert "answered_share" not in seen.scores, "a model that always answers says nothing of its doubts"
    confidence = np.array([one.prediction.confidence for one in seen.answered])
    right = np.array([one.right for one in seen.answered])
    threshold = float(np.median(confidence))
    pipeline.codec.calibration["vqa"] = Calibration(1.0, threshold)
    try:
        found = {view: evaluate(pipeline, examples, view).scores for view in ("seen", "shuffled")}
    finally:
        pipeline.codec.calibration.clear()
    given = confidence >= threshold
    assert found["seen"]["answered_share"].value == pytest.approx(given.mean()) and 0.4 < given.mean() < 0.6
    assert found["seen"]["vqa_accuracy_when_answered"].value == pytest.approx(right[given].mean())
    assert found["seen"]["vqa_accuracy"].value == seen.scores["vqa_accuracy"].value
    assert "answered_share" not in found["shuffled"]


def test_calibration_error_is_measured(
    pipeline: Pipeline, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stated value: three quarters sure and right one time in three is 0.4167 off; blind views have no such number."""
    asked = told_apart(examples, lambda row, place: f"{row % 3}")
    answer_by(monkeypatch, lambda image, question, row: "1", confidence=0.75)
    found = {view: evaluate(only_vqa(pipeline), asked, view).scores for view in VIEWS}
    assert found["seen"]["vqa_accuracy_ECE"].value == pytest.approx(0.75 - 1 / 3)
    assert not any("vqa_accuracy_ECE" in found[view] for view in VIEWS[1:])


def test_json_names_every_view(pipeline: Pipeline, examples: list[Example], seen: Outcome) -> None:
    """Guards against views that end up under each other's name."""
    blind = {view: evaluate(only_vqa(pipeline), examples, view) for view in VIEWS[1:]}
    written = scores_as_json(seen, blind)
    assert set(written) == {"metrics", "blind", "no_picture", "no_text", "baseline", "geometry", "by_kind"}
    for view, name in (("shuffled", "blind"), ("no_picture", "no_picture"), ("no_text", "no_text")):
        assert written[name]["vqa_accuracy"] == blind[view].scores["vqa_accuracy"].as_dict()


def test_intervals_draw_pictures(pipeline: Pipeline, examples: list[Example], seen: Outcome) -> None:
    """Every interval is that of a bootstrap over pictures: captions and questions of one succeed and fail together."""
    several = 0
    for name, items in seen.items.items():
        if items.values.ndim > 1:  # BLEU, which is no mean
            continue
        owner = {row: examples[row].id for row in range(COUNT)}
        assert set(items.clusters.tolist()) <= set(owner), name
        several += len(set(items.clusters.tolist())) < len(items.clusters)
        exact = proportion if items.values.min() >= 0 and items.values.max() <= 1 else bootstrap_mean
        again = exact(items.values, items.clusters, pipeline.config.seed)
        if name.startswith("image_to_text"):  # one outcome a picture: Wilson's interval
            again = proportion(items.values)
        assert seen.scores[name] == again, name
    assert several >= 4
    for name, (sure, is_true) in seen.confidences.items():
        if name == "vqa_accuracy":
            owners = seen.items[name].clusters
            assert seen.scores["vqa_accuracy_ECE"] == expected_calibration_error(sure, is_true, seed=0, clusters=owners)
    questions = [one.of for one in seen.answered]
    assert seen.items["vqa_accuracy"].clusters.tolist() == questions and len(set(questions)) == COUNT
    captions = [of for of, _ in seen.texts]
    assert seen.items["text_to_image_R@5"].clusters.tolist() == captions and len(set(captions)) == COUNT < len(captions)


def test_an_interval_of_equal_captions_is_as_wide_as_that_of_one(pipeline: Pipeline, examples: list[Example]) -> None:
    """Each picture's caption three times is no more evidence than once."""
    alone = replace(pipeline.config, tasks={"retrieval": RetrievalConfig()})
    searching = Pipeline(alone, pipeline.model, pipeline.codec, pipeline.device)
    once = [replace(example, captions=example.captions[:1], questions=()) for example in examples]
    thrice = [replace(example, captions=example.captions * 3) for example in once]
    first, second = (evaluate(searching, some).scores["text_to_image_R@5"] for some in (once, thrice))
    assert second.value == first.value and 0 < first.value < 1
    assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.25)
