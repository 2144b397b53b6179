"""What a run is said to amount to, from items whose answer is known."""

import json
from typing import Any

import numpy as np
import pytest

from chiasm.data.ledger import Ledger
from chiasm.evaluate.measure import SplitResult
from chiasm.evaluate.verdict import Course, judge
from chiasm.metrics.classic import accuracy
from chiasm.tasks.scoring import Items, Outcome

PICTURES = np.arange(200)
METRIC = "text_to_image_R@1"


def outcome(share: float, metric: str = METRIC) -> Outcome:
    """Hits of which `share` are right: the last ones, so that two outcomes overlap as little as they can."""
    hits = (len(PICTURES) * (1 - share) <= PICTURES).astype(np.float64)
    return Outcome(scores={metric: accuracy(hits, PICTURES)}, items={metric: Items(hits, PICTURES)})


def measured(seen: float, shuffled: float, start: float | None = None) -> SplitResult:
    return SplitResult(
        "val", [], outcome(seen), {"shuffled": outcome(shuffled)}, Ledger(), outcome(start) if start else None
    )


def course(**changes: Any) -> Course:
    validated = [(step, 0.1 * step) for step in range(100, 1001, 100)]
    return Course(
        **{"metric": METRIC, "steps": 1000, "examples": 80, "kept_step": 900, "validated": validated, **changes}
    )


def test_a_good_run_is_called_good() -> None:
    """Guards against a warning that everybody learns to ignore."""
    verdict = judge(measured(0.5, 0.02), course())
    assert verdict.level == "learned" and verdict.is_good and len(verdict.lines()) == 1
    assert verdict.sentence.startswith("This run has learned: text_to_image_R@1 50.0 %, 2.0 % with the images shuffled")
    assert verdict.shuffled is not None and verdict.shuffled.difference == pytest.approx(0.48)


@pytest.mark.parametrize("seen", [0.02, 0.03, 0.01])
def test_no_better_than_shuffled_is_not_learned(seen: float) -> None:
    """Guards against a run that never looks at its pictures and is praised for its score."""
    verdict = judge(measured(seen, 0.02), course())
    assert verdict.level == "not_learned" and "has not learned" in verdict.sentence


def test_few_steps_and_a_kept_first_step_are_told() -> None:
    """Guards against ten steps, of which the first was kept, that end in nothing but a number."""
    verdict = judge(measured(0.5, 0.02), course(steps=10, kept_step=1, validated=[(n, 0.1) for n in range(1, 11)]))
    assert verdict.level == "doubtful" and not verdict.is_good
    assert verdict.reasons[0] == "training took 10 steps on 80 examples"
    assert "step 1: none of the 9 later validations was better" in verdict.reasons[1]
    assert any("train.steps" in line for line in verdict.lines())


def test_a_first_step_that_beats_the_start_is_no_fault() -> None:
    """Guards against blame for eighty pictures that were learned within the first steps."""
    early = course(start="starter", kept_step=100)
    assert judge(measured(0.5, 0.02, start=0.3), early).is_good
    equal, unsure = (judge(measured(seen, 0.02, start=0.3), early) for seen in (0.3, 0.305))
    assert not equal.is_good and "use the starter as it is" in equal.advice[-1]
    assert not unsure.is_good and "measure on more images" in unsure.advice[-1]


def test_a_first_step_that_is_also_the_last_is_no_reason() -> None:
    """Guards against blame for a run that was validated once."""
    assert judge(measured(0.5, 0.02), course(kept_step=1000, validated=[(1000, 0.5)])).reasons == ()


def test_a_kept_start_is_told_with_the_difference() -> None:
    """Guards against a run that calls the model that it began from its own success."""
    kept = course(start="starter", kept_step=0)
    verdict = judge(measured(0.3, 0.02, start=0.3), kept)
    assert verdict.level == "kept_start" and "did not improve on the starter" in verdict.sentence
    better = judge(measured(0.5, 0.02, start=0.3), course(start="starter"))
    assert better.level == "learned" and better.against_start[METRIC].difference == pytest.approx(0.2)
    assert json.loads(json.dumps(better.as_dict()))["against_start"][METRIC]["n"] == 200


def test_chance_stands_in_where_nothing_was_shuffled() -> None:
    """Guards against no judgement at all of metrics that have no shuffled view (hard matching)."""
    seen = outcome(0.5)
    seen.baseline[METRIC] = 0.5
    blind = SplitResult("val", [], seen, {"shuffled": Outcome()}, Ledger())
    assert judge(blind, course()).level == "not_learned"
    seen.baseline[METRIC] = 0.3
    assert judge(blind, course()).level == "learned"


@pytest.mark.parametrize("metric", ["CIDEr", "psnr"])
def test_what_is_no_share_is_no_percentage(metric: str) -> None:
    """Guards against a CIDEr of 0.012 that is printed as 1.2 %, and 20 dB as 2000 %."""
    one = SplitResult("val", [], outcome(0.5, metric), {"shuffled": outcome(0.1, metric)}, Ledger())
    assert f"{metric} 0.500, 0.100 with the images shuffled" in judge(one, course(metric=metric)).sentence
