"""Temperature and threshold are fitted on validation, lower what they should, and travel with the model."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.core.types import IMAGE, Example
from chiasm.data.opening import open_dataset
from chiasm.evaluate.calibrating import fit_calibration
from chiasm.evaluate.evaluator import evaluate
from chiasm.metrics.calibration import abstain_threshold, expected_calibration_error
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks import TASKS
from chiasm.tasks.base import Query, TaskConfig
from chiasm.tasks.calibration import Calibration
from chiasm.tasks.vqa import VqaConfig

CPU = torch.device("cpu")
OVER = 5.0
"""Exponent on the frequencies of the answers, which are all that an untrained model shall know."""


def build(examples: Sequence[Example], task: TaskConfig) -> Pipeline:
    demo = find_recipe("demo", tiny=True)
    image = replace(demo.model.image, channels=(4, 8), size_px=16)
    model = replace(demo.model, dim=16, image=image)
    made = Pipeline.build(replace(demo, model=model, tasks={"vqa": task}), examples, CPU)
    if isinstance(made.model.heads["vqa"], torch.nn.Sequential):
        usual = Counter(question.answers[0] for example in examples for question in example.questions)
        with torch.no_grad():
            made.model.heads["vqa"][2].weight *= OVER
            made.model.heads["vqa"][2].bias += OVER * torch.tensor([usual[one] for one in made.codec.answers]).log()
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    demo = find_recipe("demo", tiny=True)
    dataset = open_dataset(demo.data, "val", 0)
    return [dataset.example(index) for index in range(24)]


def predictive(pipeline: Pipeline, examples: Sequence[Example]) -> tuple[float, float]:
    """Negative log-likelihood and ECE of the answers, by what the model predicts of each question."""
    answered = evaluate(pipeline, examples).answered
    confidence = np.array([one.prediction.confidence for one in answered])
    right = np.array([one.right for one in answered])
    # Of the answer that was given alone: a proxy that needs no logits. Wrong and sure is dear, wrong and unsure cheap.
    likelihood = np.where(right == 1, confidence, 1 - confidence)
    return float(-np.log(likelihood.clip(1e-12)).mean()), expected_calibration_error(confidence, right).value


def true_likelihood(pipeline: Pipeline, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the right answers under the calibrated softmax, question by question."""
    task, how = pipeline.tasks["vqa"], pipeline.codec.calibration.get("vqa", Calibration())
    found = []
    for example in examples:
        tokens = pipeline.encode_images([example.inputs["image"]])
        for question in example.questions:
            logits = task.logits(pipeline.model, pipeline.codec, {IMAGE: tokens}, [Query(0, question.text)])[0].double()
            right = pipeline.codec.answers.index(question.answers[0])
            found.append(-float((logits / how.temperature).log_softmax(0)[right]))
    return float(np.mean(found))


def test_an_overconfident_model_becomes_honest(examples: list[Example]) -> None:
    """Guards against a temperature that multiplies, one that is fitted and not used, and logits of the wrong rows."""
    pipeline = build(examples, VqaConfig())
    before, exact_before = predictive(pipeline, examples), true_likelihood(pipeline, examples)
    answers = [one.prediction.answer for one in evaluate(pipeline, examples).answered]
    found = fit_calibration(pipeline, examples)
    found.apply(pipeline)
    fitted = found.calibration
    assert 2 < fitted["vqa"].temperature < 50 and fitted["vqa"].abstain_below == 0
    after, exact_after = predictive(pipeline, examples), true_likelihood(pipeline, examples)
    assert exact_after < 0.8 * exact_before and after[0] < before[0] and after[1] < 0.5 * before[1]
    assert answers == [one.prediction.answer for one in evaluate(pipeline, examples).answered]
    best = fitted["vqa"].temperature
    for factor in (0.95, 1.05):
        pipeline.codec.calibration["vqa"] = Calibration(best * factor)
        assert true_likelihood(pipeline, examples) > exact_after, "another temperature near it is better"


def test_questions_with_unknown_answers_do_not_count(examples: list[Example]) -> None:
    """Guards against an unknown answer that is taken for answer number 0 or -1."""
    pipeline = build(examples, VqaConfig())
    expected = fit_calibration(pipeline, examples).calibration["vqa"].temperature
    odd = replace(examples[0].questions[0], answers=("never heard",))
    more = [replace(example, questions=(odd, *example.questions)) for example in examples]
    assert fit_calibration(pipeline, more).calibration["vqa"].temperature == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", ["soft", "generate"])
def test_single_probabilities_are_scaled_and_shifted(
    objective: str, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a temperature of a softmax that the model never takes, and an answer that calibration changes."""
    pipeline = build(examples[:12], VqaConfig(objective=objective))
    if objective == "generate":  # an untrained decoder is never right
        told = iter(range(10**6))
        monkeypatch.setattr(
            "chiasm.tasks.vqa_scoring.exact_matches", lambda said, _: [next(told) % 3 == 0 for _ in said]
        )
    before = evaluate(pipeline, examples[:12]).answered
    fit_calibration(pipeline, examples[:12]).apply(pipeline)
    after = evaluate(pipeline, examples[:12]).answered
    assert [one.prediction.answer for one in before] == [one.prediction.answer for one in after]
    assert [one.prediction.confidence for one in before] == [one.prediction.uncalibrated for one in after]
    right = np.array([one.right for one in before])
    assert np.mean([one.prediction.confidence for one in after]) == pytest.approx(right.mean(), abs=0.02)


def test_labels_sentences_matches_and_captions_are_calibrated(examples: list[Example], tmp_path: Path) -> None:
    """Guards against an event that is counted on other pairs than it is fitted on, and fits that nobody uses."""
    demo = find_recipe("demo", tiny=True)
    model = replace(demo.model, dim=16, image=replace(demo.model.image, channels=(4, 8), size_px=16))
    tasks = {name: TASKS[name].Config() for name in ("retrieval", "matching", "captioning")}
    text = replace(model.text, summary_tokens=0)
    pipeline = Pipeline.build(replace(demo, model=replace(model, text=text), tasks=tasks), examples, CPU)
    before = evaluate(pipeline, examples)
    assert not any("uncalibrated" in name for name in before.scores)
    # Of an untrained model nothing is true; what it says of the photos is compared with what "people" wrote instead.
    photos = [replace(example, truth=None) for example in examples]
    found = fit_calibration(pipeline, photos)
    fitted = found.calibration
    assert set(fitted) == set(tasks) and fitted["captioning"].near_from > 0
    found.apply(pipeline)
    after = evaluate(pipeline, photos)
    for name in ("matching", "caption_near"):
        error, own = after.scores[f"{name}_ECE"], after.scores[f"{name}_uncalibrated_ECE"]
        assert error.value < own.value or own.value < 0.02, (name, error, own)
    assert before.scores["matching_ECE"].value == pytest.approx(after.scores["matching_uncalibrated_ECE"].value)
    assert after.scores["caption_near"].value >= 0.5, "half of validation's captions are near by definition"
    hits = [one.similarity.argmax() == one.true for one in after.choices]
    assert len(hits) == len(photos) and after.scores["pick_1_of_10"].value == pytest.approx(np.mean(hits))
    cosines = pipeline.model.logit_scale.exp().item() * np.stack([one.similarity for one in after.choices])

    def loss(temperature: float) -> float:
        rows = torch.tensor(cosines, dtype=torch.float64) / temperature
        return float(-rows.log_softmax(1)[range(len(rows)), [one.true for one in after.choices]].mean())

    best = fitted["retrieval"].temperature
    assert loss(best) <= min(loss(1.0), loss(1.05 * best), loss(best / 1.05))
    shares = np.exp(cosines[0] / best) / np.exp(cosines[0] / best).sum()
    assert after.choices[0].prediction.confidence == pytest.approx(shares.max(), rel=1e-5)
    pipeline.save(tmp_path / "run", examples[0], {})
    loaded = Pipeline.load(tmp_path / "run", CPU)
    assert loaded.codec.calibration == fitted
    assert [one.prediction for one in evaluate(loaded, photos).matched] == [one.prediction for one in after.matched]


def test_what_was_fitted_travels_with_the_model(examples: list[Example], tmp_path: Path) -> None:
    """Guards against a loaded model that is as sure as before, or answers where the trained one did not."""
    risk = 0.4
    pipeline = build(examples, VqaConfig(abstain_risk=risk))
    everything = evaluate(pipeline, examples).answered
    middle = float(np.median([one.prediction.confidence for one in everything]))
    # Confidence that tells something: of the sure answers, only the right ones are asked for.
    kept = [(one.of, one.question) for one in everything if one.right or one.prediction.confidence < middle]
    examples = [replace(e, questions=tuple(q for of, q in kept if of == row)) for row, e in enumerate(examples)]
    fit_calibration(pipeline, examples).apply(pipeline)
    how = pipeline.codec.calibration["vqa"]
    answered = evaluate(pipeline, examples).answered
    confidence = np.array([one.prediction.confidence for one in answered])
    right = [one.right >= 0.5 for one in answered]
    expected = abstain_threshold(confidence, right, risk, [one.of for one in answered])
    assert how.abstain_below == pytest.approx(expected, rel=2e-6) and how.abstain_below <= expected
    assert confidence.min() < how.abstain_below <= confidence.max(), "some are answered and some are not"
    assert [one.prediction.evidence["abstains"] for one in answered] == (confidence < how.abstain_below).tolist()
    pipeline.save(tmp_path / "run", examples[0], {})
    stored = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert stored == {
        "vqa": {"temperature": how.temperature, "abstain_below": how.abstain_below, "bias": 0.0, "near_from": 0.0}
    }
    loaded = Pipeline.load(tmp_path / "run", CPU)
    assert loaded.codec.calibration == pipeline.codec.calibration
    assert [one.prediction for one in evaluate(loaded, examples).answered] == [one.prediction for one in answered]
