"""Adaptation of a pre-trained model: frozen towers, low-rank adapters (LoRA), and layer-wise learning rates.

The config key `train.adapt` selects a method; the tables and functions here define it.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from chiasm.core.errors import InputError
from chiasm.core.random import seed_torch
from chiasm.core.run_folder import verify_folder
from chiasm.models.config import ModelConfig
from chiasm.models.lora import LORA_NAMES, add_lora
from chiasm.pipeline.config import PipelineConfig, read_pipeline_config
from chiasm.pipeline.preprocessing import resolve_paths
from chiasm.pipeline.zero_shot_starter import STARTER, in_class_space, misfit
from chiasm.tasks import TASKS
from chiasm.tasks.space import SharedSpace
from chiasm.train.config import RunConfig, TrainConfig

TOWERS = ("image_encoder.", "text_encoder.")
TEXT_SIDE = ("text_encoder.", "text_projection.")
"""Name prefixes of the modules that embed texts."""
IMAGE_SIDE = ("image_encoder.", "image_pooler.", "image_projection.", "logit_scale")
"""Name prefixes of the modules that embed images."""
FROZEN = {
    "full": (False, False),
    "projection": (True, True),
    "locked_image": (True, False),
    "locked_text": (False, True),
    "lora": (False, False),
}
"""Method -> whether the image tower and the text tower are frozen. Locked-image tuning is LiT (Zhai et al. 2022)."""
_LAYER = re.compile(r"\.(\d+)\.")


def adapted(config: RunConfig) -> RunConfig:
    """Return the config with the towers frozen that `train.adapt` names; "" keeps the recipe's setting.

    With "lora" a tower without linear layers (EfficientNet) stays frozen, so that its images are encoded once; a
    language model is frozen and gets low-rank changes of its own.
    """
    method, model = config.train.adapt, config.model
    if not method:
        return config
    if method == "lora" and model.text.keeps_lora:
        adapted_text = model.text.with_lora(config.train.lora_rank, config.train.lora_alpha)
        image_tower = replace(model.image, frozen=model.image.gives_equal_tokens)
        return replace(config, model=replace(model, image=image_tower, text=adapted_text))
    image, text = FROZEN[method]
    if method == "lora" and not model.image.has_linear_layers:
        image = True
    frozen = replace(model, image=replace(model.image, frozen=image), text=replace(model.text, frozen=text))
    return replace(config, model=frozen)


def has_space(config: PipelineConfig) -> bool:
    """True if a task of the run has an embedding space shared by images and texts."""
    return any(name in _spaces() for name in config.tasks)


def _spaces() -> list[str]:
    return [name for name, task in TASKS.items() if issubclass(task, SharedSpace)]


def _text_teacher_task(config: RunConfig) -> str:
    return next(name for name, task in config.tasks.items() if task.has_text_teacher)


def has_text_teacher(config: RunConfig) -> bool:
    """True if a new text tower is distilled from the run of `init_from`."""
    return any(task.has_text_teacher for task in config.tasks.values())


def apply_text_teacher(config: RunConfig) -> RunConfig:
    """Return the config with the teacher's image side and embedding space, both frozen; unchanged without a teacher.

    Image embeddings are then bitwise equal to the teacher's, so an existing index of them stays valid. Widths are the
    teacher's where its image side depends on them.

    Raises:
        InputError: no `init_from`, one without retrieval, or `train.trainable` that reaches beyond the text side.
    """
    if not has_text_teacher(config):
        return config
    if not config.init_from:
        raise InputError(
            f"the task {_text_teacher_task(config)} has a text_teacher and init_from is not set",
            "a run folder with an embedding space shared by images and texts",
            "--set init_from=RUN, made by chiasm train retrieval for example",
        )
    folder = Path(config.init_from)
    verify_folder(folder, "run")
    teacher = read_pipeline_config(folder)
    if not has_space(teacher):
        raise InputError(
            f"{folder} was trained for {', '.join(teacher.tasks)}",
            "a run with a space that images and texts share",
            "set another init_from",
        )
    beyond = [pattern for pattern in config.train.trainable if pattern != "*" and not pattern.startswith(TEXT_SIDE)]
    if beyond:
        raise InputError(
            f"train.trainable has {beyond[0]!r} beside a text teacher",
            "patterns that begin with " + " or ".join(TEXT_SIDE) + ": the image side stays as it is",
            "drop it",
        )
    own, base = config.model, resolve_paths(teacher, folder).model
    image = replace(base.image, frozen=True, grid=base.image.grid or base.image.pool_queries > 0)
    model = replace(base, image=image, text=own.text, dropout=own.dropout)
    if not base.image.from_scratch and not base.image.pool_queries:
        model = replace(model, dim=own.dim, heads=own.heads)
    trainable = tuple(f"{part}*" for part in TEXT_SIDE) if "*" in config.train.trainable else config.train.trainable
    return replace(config, model=model, train=replace(config.train, trainable=trainable))


def begun(config: RunConfig) -> RunConfig:
    """Return the config with its initial embedding space: the class space beside the trained one, or unchanged.

    The class space is added with `init_from=starter`, and if the run of `init_from` has one. A model that does not fit
    the starter keeps its own space (`starter_note` gives the reason). A run that begins from a pruned one is pruned
    alike (`model.pruned`).

    Raises:
        InputError: no task has a space of its own, or the config needs a class space that no source provides.
    """
    name, model = config.init_from, config.model
    if begins_from_run(config) and not model.pruned and (Path(name) / "config.json").is_file():
        model = replace(model, pruned=read_pipeline_config(Path(name)).model.pruned)
        config = replace(config, model=model)
    if name == STARTER:
        if not has_space(config):
            raise InputError(
                f"init_from is {STARTER!r}, and the tasks are {', '.join(config.tasks)}",
                f"a task with a space that images and texts share: {', '.join(_spaces())}",
                "--set init_from=, or a run folder",
            )
        return config if misfit(model) else replace(config, model=in_class_space(model))
    sides = (model.image, model.text)
    if name and not misfit(model) and any(side.projection != "classes" for side in sides):
        before = read_pipeline_config(Path(name)).model
        if before.image.projection == before.text.projection == "classes":
            model = replace(in_class_space(model), embedding_dim=before.embedding_dim)
            return replace(config, model=model)
    if not name and any(side.projection == "classes" for side in sides):
        raise InputError(
            "model.image.projection or model.text.projection is 'classes', and init_from is not set",
            f"classes that {STARTER!r} or a run gives",
            f"--set init_from={STARTER}",
        )
    return config


def starter_note(config: RunConfig) -> str:
    """Reason why a run with `init_from=starter` trains its own space from scratch; "" if it does not."""
    reason = misfit(config.model) if config.init_from == STARTER else ""
    return f"the projections start anew, not from the {STARTER}: {reason}" if reason else ""


def begins_from_run(config: RunConfig) -> bool:
    """True if `init_from` names a run folder."""
    return bool(config.init_from) and config.init_from != STARTER


def trains_space(names: Iterable[str]) -> bool:
    """True if the learned half of a projection beside the class space is among the trained parameters."""
    return any(name.startswith(("image_projection.trained.", "text_projection.trained.")) for name in names)


def prepare_model(model: nn.Module, config: RunConfig) -> None:
    """Add LoRA matrices to the towers that are not frozen if `train.adapt` is "lora"; else change nothing.

    Raises:
        InputError: no tower has a linear layer to change.
    """
    if config.train.adapt != "lora" or config.model.text.keeps_lora:
        return
    seed_torch("lora", config.seed)
    open_towers = tuple(tower for tower in TOWERS if tower not in frozen_towers(config.model))
    if not open_towers or not add_lora(model, open_towers, config.train.lora_rank, config.train.lora_alpha):
        raise InputError(
            "train.adapt is 'lora', and no tower has a linear layer to change",
            "a tower of attention blocks, such as minilm",
            "--set train.adapt=full, or another tower",
        )


def frozen_towers(model: ModelConfig) -> tuple[str, ...]:
    """Name prefixes of the parameters of frozen towers."""
    sides = zip(TOWERS, (model.image.frozen, model.text.frozen), strict=True)
    return tuple(name for name, is_frozen in sides if is_frozen)


def pretrained_names(names: Collection[str], model: ModelConfig, taken: Iterable[str]) -> frozenset[str]:
    """Names of the parameters that are not newly initialised.

    Args:
        names: names of all parameters, before LoRA matrices are added.
        model: config whose towers may come from packages or folders.
        taken: names loaded from `init_from`.
    """
    sides = zip(TOWERS, (model.image.from_scratch, model.text.from_scratch), strict=True)
    given = tuple(tower for tower, from_scratch in sides if not from_scratch)
    return frozenset(names) & frozenset(taken) | frozenset(name for name in names if name.startswith(given))


def adaptable(names: Sequence[str], train: TrainConfig) -> list[str]:
    """Names that `train.adapt` trains: all, or with "lora" the LoRA matrices and everything outside the towers."""
    if train.adapt != "lora":
        return list(names)
    return [name for name in names if name.endswith(LORA_NAMES) or not name.startswith(TOWERS)]


Layers = Mapping[str, Sequence[tuple[str, ...]]]
"""Tower -> name prefixes of its parameters, from the lowest layer to the highest."""


def stated_layers(model: nn.Module) -> Layers:
    """Layers of towers that define `layers_from_below`, such as MultilingualUSE."""
    stated = {tower: getattr(getattr(model, tower.rstrip("."), None), "layers_from_below", None) for tower in TOWERS}
    return {tower: layers for tower, layers in stated.items() if layers}


def depths(names: Sequence[str], layers: Layers) -> dict[str, int]:
    """Depth of each parameter in layers below the top of its tower; 0 for parameters outside the towers.

    Without an entry in `layers`, the first number in a name is its layer ("text_encoder.encoder.layer.3.…"). Parameters
    before the numbered layers (embeddings, the stem) lie one layer below the lowest; parameters after them (the last
    norm) have depth 0.
    """
    found: dict[str, int] = {}
    for tower in TOWERS:
        own = [name for name in names if name.startswith(tower)]
        if tower in layers:
            for depth, below in enumerate(reversed(layers[tower]), 1):
                found |= {name: depth for name in own if name.removeprefix(tower).startswith(below)}
            continue
        numbers = [int(match.group(1)) if (match := _LAYER.search(name)) else None for name in own]
        top = max((number for number in numbers if number is not None), default=-1) + 1
        first = next((place for place, number in enumerate(numbers) if number is not None), len(own))
        for place, (name, number) in enumerate(zip(own, numbers, strict=True)):
            level = number if number is not None else (-1 if place < first else top)
            found[name] = top - level
    return {name: found.get(name, 0) for name in names}


def rate_factor(depth: int, step: int, train: TrainConfig) -> float:
    """Factor on the learning rate for parameters at a depth, at a step.

    `layer_decay ** depth` (BEiT, Bao et al. 2022, appendix); 0 until gradual unfreezing reaches this depth. It
    unfreezes one more layer, from the top, every `unfreeze_every` steps (ULMFiT, Howard and Ruder 2018, section 3.3).
    """
    if train.unfreeze_every and step < depth * train.unfreeze_every:
        return 0.0
    return train.layer_decay**depth


def by_depth(names: Sequence[str], train: TrainConfig, layers: Layers) -> Mapping[int, list[str]]:
    """Names grouped by depth if learning rates depend on depth, else all at depth 0; `layers` as in `depths`."""
    if train.layer_decay == 1 and not train.unfreeze_every:
        return {0: list(names)}
    groups: dict[int, list[str]] = {}
    for name, depth in depths(names, layers).items():
        groups.setdefault(depth, []).append(name)
    return groups
