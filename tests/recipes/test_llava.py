"""The recipe llava: what each stage trains."""

from chiasm.recipes.llava import llava
from chiasm.train.stages import stage_config


def test_the_first_stage_trains_the_projector_alone() -> None:
    config = llava()
    align = stage_config(config, config.stages["align"], "")
    assert align.train.trainable == ("heads.*",)
    assert config.model.text.frozen and config.model.text.lora_rank > 0  # type: ignore[attr-defined]
    for one in (config, align):
        one.model.check("model")
        one.tasks["conversation"].check("tasks.conversation")
        one.train.check("train")


def test_tiny_shrinks_every_stage() -> None:
    config = llava(tiny=True)
    assert config.train.steps == config.stages["align"].train.steps == 4
