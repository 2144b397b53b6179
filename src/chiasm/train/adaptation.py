"""How a pre-trained model is adapted: which towers are frozen, low-rank changes, and each layer's share of the rate.

`train.adapt` is the one word; the tables and functions here say what it means.
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
"""Word -> whether the image and the text tower are frozen. Locked-image tuning is LiT (Zhai et al. 2022)."""
_LAYER = re.compile(r"\.(\d+)\.")


def adapted(config: RunConfig) -> RunConfig:
    """Return the config with its towers frozen as `train.adapt` says; "" leaves them as the recipe has them.

    With "lora" a tower without linear layers (EfficientNet) stays frozen, so that its images are encoded once.
    """
    word, model = config.train.adapt, config.model
    if not word:
        return config
    image, text = FROZEN[word]
    if word == "lora" and not model.image.has_linear_layers:
        image = True
    frozen = replace(model, image=replace(model.image, frozen=image), text=replace(model.text, frozen=text))
    return replace(config, model=frozen)


def has_space(config: PipelineConfig) -> bool:
    """Whether a task of the run has a space that images and texts share."""
    return any(name in _spaces() for name in config.tasks)


def _spaces() -> list[str]:
    return [name for name, task in TASKS.items() if issubclass(task, SharedSpace)]


def _taught(config: RunConfig) -> str:
    return next(name for name, task in config.tasks.items() if task.has_text_teacher)


def has_text_teacher(config: RunConfig) -> bool:
    """Whether a new text tower learns from the run of `init_from`."""
    return any(task.has_text_teacher for task in config.tasks.values())


def apply_text_teacher(config: RunConfig) -> RunConfig:
    """With a text teacher, return the config with the teacher's image side and space, both locked; else as it is.

    What finds images is then the same to the bit as in the teacher's run, and an index of their vectors stays good.
    Widths are the teacher's where its image side depends on them.

    Raises:
        InputError: no `init_from`, one without retrieval, or `train.trainable` that reaches beyond the text side.
    """
    if not has_text_teacher(config):
        return config
    if not config.init_from:
        raise InputError(
            f"the task {_taught(config)} has a text_teacher and init_from is not set",
            "a run folder that finds images by sentences",
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
    """Return the config with the space that it begins in: the classes' beside the trained one, or as it is.

    That is so with `init_from=starter`, and where the run of `init_from` has such a space. A model that does not fit
    the starter keeps its own space (`starter_note` says why).

    Raises:
        InputError: no task has a space of its own, or classes are asked for and nothing gives them.
    """
    name, model = config.init_from, config.model
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
    """Why a run that names the starter in `init_from` has its own space from scratch; "" where it does not."""
    reason = misfit(config.model) if config.init_from == STARTER else ""
    return f"the projections start anew, not from the {STARTER}: {reason}" if reason else ""


def begins_from_run(config: RunConfig) -> bool:
    """Whether `init_from` names a run folder."""
    return bool(config.init_from) and config.init_from != STARTER


def trains_space(names: Iterable[str]) -> bool:
    """Whether the trained half of a projection beside the classes is among the parameters that are trained."""
    return any(name.startswith(("image_projection.trained.", "text_projection.trained.")) for name in names)


def prepare_model(model: nn.Module, config: RunConfig) -> None:
    """Add the low-rank changes of "lora" to the towers that are not frozen; other words change no module.

    Raises:
        InputError: no tower has a linear layer to change.
    """
    if config.train.adapt != "lora":
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
    """Of all parameter names, those that do not start anew.

    Args:
        names: of the model's parameters, before low-rank changes are added.
        model: whose towers may come from packages or folders.
        taken: what `init_from` gave.
    """
    sides = zip(TOWERS, (model.image.from_scratch, model.text.from_scratch), strict=True)
    given = tuple(tower for tower, from_scratch in sides if not from_scratch)
    return frozenset(names) & frozenset(taken) | frozenset(name for name in names if name.startswith(given))


def adaptable(names: Sequence[str], train: TrainConfig) -> list[str]:
    """The names that `train.adapt` trains: with "lora", not the towers' own weights."""
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
    """How far below its tower's top each parameter lies, in layers; 0 for everything outside the towers.

    Where `layers` does not say it, the first number in a name counts its layer ("text_encoder.encoder.layer.3.…"); what
    comes before the numbered layers (embeddings, the stem) lies below the lowest of them, what comes after them (the
    last norm) at the top.
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
    """Share of the learning rate for parameters at a depth, at a step.

    `layer_decay ** depth` (BEiT, Bao et al. 2022, appendix); 0 while gradual unfreezing has not come down to this
    depth: one more layer, from the top, each `unfreeze_every` steps (ULMFiT, Howard and Ruder 2018, section 3.3).
    """
    if train.unfreeze_every and step < depth * train.unfreeze_every:
        return 0.0
    return train.layer_decay**depth


def by_depth(names: Sequence[str], train: TrainConfig, layers: Layers) -> Mapping[int, list[str]]:
    """Names grouped by depth where depths have rates of their own, else all at depth 0; `layers` as in `depths`."""
    if train.layer_decay == 1 and not train.unfreeze_every:
        return {0: list(names)}
    groups: dict[int, list[str]] = {}
    for name, depth in depths(names, layers).items():
        groups.setdefault(depth, []).append(name)
    return groups
