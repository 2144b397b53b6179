"""Wrong pairs that are wrong, hidden words that are words, and answers that are right in part."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.config import override
from chiasm.core.types import IMAGE, Caption, Example, Question, Tokens
from chiasm.pipeline.batching import make_batch, to_model_range
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks import TASKS
from chiasm.tasks.base import Query, TaskConfig, queries_of
from chiasm.tasks.matching import MatchingConfig, without_ends
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.config import RunConfig

HIDDEN = {
    "masked_language_modelling": ("transformer", "cross_attention"),
    "permutation_language_modelling": ("two_stream", "merged_attention"),
}


def build(config: RunConfig, examples: Sequence[Example], *, kind: str, fusion: str, **tasks: TaskConfig) -> Pipeline:
    words = override(config.model, ["text.summary_tokens=0", f"text.kind={kind}"])
    model = replace(words, fusion=fusion)
    return Pipeline.build(replace(config, model=model, tasks=tasks), examples, torch.device("cpu"))


def test_words_are_aligned_without_start_and_end() -> None:
    """Guards against carrying [START] and [END] to patches, and against rows without any mass."""
    is_real = torch.arange(6) < torch.tensor([6, 4, 3, 2, 1])[:, None]
    words = [row.nonzero().flatten().tolist() for row in without_ends(is_real)]
    assert words == [[1, 2, 3, 4], [1, 2], [1], [0, 1], [0]]


@pytest.mark.parametrize("contrast", [False, True], ids=["random", "hard"])
def test_wrong_pairs_are_wrong(
    contrast: bool, config: RunConfig, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a wrong pair of a picture with its own words, with another's equal words, or within a group."""
    tasks = {
        "matching": MatchingConfig(captions_per_picture=2),
        **({"retrieval": RetrievalConfig()} if contrast else {}),
    }
    pipeline = build(config, examples, kind="transformer", fusion="cross_attention", **tasks)
    said = examples[0].captions
    # Pictures 0 and 1 are one group, 2 has the words of 0; 3 and 4 are like no other.
    shown = [examples[0], replace(examples[1], group=examples[0].id), replace(examples[2], captions=said)]
    shown += examples[3:5]
    fits = [{0, 1, 2}, {0, 1}, {0, 1, 2}, {3}, {4}]
    batch = make_batch(shown, pipeline.tasks, pipeline.codec, pipeline.config, 0)
    fields = batch.by_task["matching"]
    of = fields["image_index"].tolist()
    model, found = pipeline.model, []
    fuse = model.fuse

    def watch(text: Tokens, image: Tokens, image_index: Tensor) -> Tokens:
        found.append((text.values, image_index.tolist()))
        return fuse(text, image, image_index)

    monkeypatch.setattr(model, "fuse", watch)
    image = model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))
    wrong = set()
    for seed in range(20):
        torch.manual_seed(seed)
        pipeline.tasks["matching"].loss(model, {IMAGE: image}, batch)
        values, pictures = found.pop()
        assert pictures[: len(of)] == of, "right pairs come first"
        own = values[: len(of)]
        texts = [of[int((own - row).abs().amax((1, 2)).argmin())] for row in values[len(of) :]]
        pairs = list(zip(texts, pictures[len(of) :], strict=True))
        assert len(pairs) == 2 * len(of)
        assert all(picture not in fits[text] for text, picture in pairs), pairs
        wrong |= set(pairs)
    assert len(wrong) >= 8, "few different wrong pairs"


def test_where_everything_fits_there_is_no_wrong_pair(config: RunConfig, examples: list[Example]) -> None:
    """Guards against a division by nothing where a batch has one group: right pairs alone are left."""
    pipeline = build(config, examples, kind="transformer", fusion="cross_attention", matching=MatchingConfig())
    same = [replace(example, group="one") for example in examples[:3]]
    batch = make_batch(same, pipeline.tasks, pipeline.codec, pipeline.config, 0)
    image = pipeline.model.encode_image(to_model_range(batch.inputs[IMAGE], torch.float32))
    found = pipeline.tasks["matching"].loss(pipeline.model, {IMAGE: image}, batch)["loss"]
    assert 0.3 < found.item() < 1.5


@pytest.mark.parametrize("name", sorted(HIDDEN))
def test_a_hidden_word_is_a_word_of_its_text(name: str, config: RunConfig, examples: list[Example]) -> None:
    """Guards against a start token that is asked for, a choice that depends on the batch, and an answer that leaks."""
    kind, fusion = HIDDEN[name]
    pipeline = build(config, examples, kind=kind, fusion=fusion, **{name: TASKS[name].Config()})
    with torch.no_grad():
        for parameter in pipeline.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    image = pipeline.encode_images([example.inputs["image"] for example in examples[:6]])
    texts, task = [example.captions[0].text for example in examples[:6]], pipeline.tasks[name]
    together = task.predict(pipeline.model, pipeline.codec, {IMAGE: image}, queries_of(texts, range(6)))
    tokenizer = pipeline.codec.tokenizer
    special = {tokenizer.tokenizer.id_to_token(number) for number in tokenizer.special_ids}
    for row, (one, text) in enumerate(zip(together, texts, strict=True)):
        word = one.evidence["word"]
        assert word not in special
        assert word in [tokenizer.tokenizer.id_to_token(number) for number in tokenizer.ids(text)]
        alone = task.predict(
            pipeline.model, pipeline.codec, {IMAGE: image.rows(torch.tensor([row]))}, [Query(0, text)]
        )[0]
        assert alone.evidence == one.evidence and alone.answer == one.answer
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-5)
    # A hidden word is named from the other one, whichever side it stands on.
    pairs = [(one, other) for one in ("red", "blue", "green") for other in ("circle", "square", "triangle")]
    named = task.predict(pipeline.model, pipeline.codec, {IMAGE: image}, [Query(0, " ".join(pair)) for pair in pairs])
    seen = {pair[1 - pair.index(one.evidence["word"])]: one.confidence for one, pair in zip(named, pairs, strict=True)}
    confidences = sorted(seen.values())
    assert len(seen) >= 4
    assert all(high - low > 1e-5 for low, high in pairwise(confidences)), seen
    # Two texts of one word differ in nothing else: with the word hidden, the model says the same of both.
    blind = task.predict(pipeline.model, pipeline.codec, {IMAGE: image}, [Query(0, "red"), Query(0, "blue")])
    assert [one.evidence["word"] for one in blind] == ["red", "blue"]
    assert blind[0].answer == blind[1].answer
    assert blind[0].confidence == pytest.approx(blind[1].confidence, abs=1e-6)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("red",) * 10, {"red": 1.0}),
        (("red",) * 3 + ("blue",) * 2 + ("no",) + ("yes",) * 4, {"red": 1, "blue": 2 / 3, "no": 1 / 3, "yes": 1}),
        (("red",), {"red": 1.0}),
        (("red", "blue"), {"red": 1.0, "blue": 1.0}),
        (("never heard",) * 10, {}),
    ],
)
def test_soft_answers_are_right_in_part(
    answers: tuple[str, ...], expected: dict[str, float], config: RunConfig, examples: list[Example]
) -> None:
    """Stated values: three of ten people make an answer right, fewer a third each; one of one or two is right."""
    pipeline = build(config, examples, kind="transformer", fusion="film", vqa=VqaConfig(objective="soft"))
    known = Example("x", examples[0].inputs, (Caption("a"),), (Question("which?", answers),))
    fields: dict[str, Any] = make_batch([known], pipeline.tasks, pipeline.codec, config, 0).by_task["vqa"]
    row = fields["answer_score"][0].tolist()
    score = {answer: value for answer, value in zip(pipeline.codec.answers, row, strict=True) if value}
    assert score == pytest.approx(expected) and bool(fields["is_known"][0]) == bool(expected)
