"""A config from Python is the recipe's with what was changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import chiasm
from chiasm.core.config import to_dict


def test_configure_and_overrides() -> None:
    """Guards against values that reach the config changed: lists with commas in their items, paths, None, numbers."""
    plain = chiasm.configure("vqa")
    assert plain == chiasm.recipes["vqa"]()
    made = chiasm.configure(
        "vqa",
        data=Path("here") / "photos",
        overrides={"data.label_prompts": ["a photo, of {label}", "{label}"], "train.lr": 1},
        train__steps=np.int64(50).item(),
        data__languages="en,zh",
    )
    data = replace(
        plain.data, path="here/photos", languages=("en", "zh"), label_prompts=("a photo, of {label}", "{label}")
    )
    assert made == replace(plain, data=data, train=replace(plain.train, steps=50, lr=1.0))
    assert chiasm.configure(made, train__steps=7) == replace(made, train=replace(made.train, steps=7))
    assert to_dict(chiasm.configure("demo", tiny=True)) == to_dict(chiasm.recipes["demo"](tiny=True))


def test_a_key_of_a_task_holds_for_its_stages_too() -> None:
    """Guards against a stage that trains another projector than the run has, whose weights would be dropped."""
    plain = chiasm.configure("llava")
    made = chiasm.configure(
        "llava", overrides={"tasks.conversation.projector.kind": "resampler", "tasks.conversation.projector.queries": 8}
    )
    for tasks in (made.tasks, made.stages["align"].tasks):
        assert to_dict(tasks["conversation"])["projector"]["queries"] == 8
    # What the recipe sets otherwise in the stage stays; a key typed for the stage wins, wherever it stands.
    silent = chiasm.configure(plain, overrides={"tasks.conversation.writes": True, "tasks.conversation.objective": ""})
    assert silent.stages == plain.stages
    for order in (1, -1):
        typed = [
            ("stages.align.tasks.conversation.projector.kind", "linear"),
            ("tasks.conversation.projector.kind", "qformer"),
        ]
        kinds = chiasm.configure("llava", overrides=dict(typed[::order]))
        assert to_dict(kinds.stages["align"].tasks["conversation"])["projector"]["kind"] == "linear"
        assert to_dict(kinds.tasks["conversation"])["projector"]["kind"] == "qformer"
