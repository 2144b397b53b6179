"""What a model writes before its first step: kept in the run folder, mixed into training, and read again on resume."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiasm.core.errors import InputError
from chiasm.core.types import Example, Turn
from chiasm.data.dataset import MAIN, ListDataset
from chiasm.data.ledger import Ledger
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation import Conversation
from chiasm.train.own_examples import FILE, NAME, with_own_examples

TURNS = (
    (Turn("user", "你好，“一”"), Turn("assistant", "line\nline")),
    (Turn("user", "two?"), Turn("assistant", "2")),
)


@pytest.fixture
def writer(speaker: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A pipeline whose task writes `TURNS`."""

    def own(self: Conversation, *given: Any) -> Sequence[Sequence[Turn]]:
        assert self.config.rehearsed == 2
        return TURNS

    task = speaker.tasks["conversation"]
    monkeypatch.setattr(Conversation, "own_conversations", own)
    monkeypatch.setattr(task, "config", replace(task.config, rehearsed=2))
    return speaker


def test_they_become_a_part_of_their_own_and_a_resumed_run_reads_them(
    writer: Pipeline, tmp_path: Path, spoken: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = ListDataset("train", spoken, Ledger())
    found = with_own_examples(writer, training, tmp_path, True, lambda *_: None)
    assert list(found.parts) == [MAIN, NAME]
    assert len(found) == len(spoken) + 2
    monkeypatch.delattr(Conversation, "own_conversations")  # a resumed run writes none
    again = with_own_examples(writer, training, tmp_path, False, lambda *_: None)
    epochs = [
        [one.example(place, epoch).turns for place in range(len(one)) for epoch in (0, 1)] for one in (found, again)
    ]
    assert epochs[0] == epochs[1]
    assert set(TURNS) <= set(epochs[0])
    assert found.ledger.used == 2


def test_a_resumed_run_without_the_file_is_refused(writer: Pipeline, tmp_path: Path, spoken: list[Example]) -> None:
    training = ListDataset("train", spoken, Ledger())
    with pytest.raises(InputError, match=f"{FILE} is missing"):
        with_own_examples(writer, training, tmp_path, False, lambda *_: None)
    (tmp_path / FILE).write_text('{"messages": [\n')
    with pytest.raises(InputError, match=f"{FILE}:1"):
        with_own_examples(writer, training, tmp_path, False, lambda *_: None)


def test_a_model_that_writes_none_trains_on_the_data_alone(
    writer: Pipeline, tmp_path: Path, spoken: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conversation, "own_conversations", lambda *_: ())
    training = ListDataset("train", spoken, Ledger())
    for is_new in (True, False):
        assert with_own_examples(writer, training, tmp_path, is_new, lambda *_: None) is training


def test_other_tasks_train_on_the_data_alone(speaker: Pipeline, tmp_path: Path, spoken: list[Example]) -> None:
    training = ListDataset("train", spoken, Ledger())
    assert with_own_examples(speaker, training, tmp_path, True, lambda *_: None) is training
    assert not any(tmp_path.iterdir())
