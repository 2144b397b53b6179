"""Runs of several stages: each stage trains its own tasks from the weights of the stage before it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from chiasm.core.config import keys, to_dict
from chiasm.core.distributed import process_group, rank
from chiasm.core.errors import InputError
from chiasm.core.files import read_json, write_json
from chiasm.core.run_folder import MANIFEST, PLAN
from chiasm.core.types import Example
from chiasm.data.dataset import Dataset
from chiasm.data.leaks import open_training
from chiasm.data.ledger import kept_where_refused
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.pipeline.requirements import check_fed
from chiasm.pipeline.tokenizers import make_tokenizer
from chiasm.train.adaptation import begins_from_run
from chiasm.train.config import RunConfig, StageConfig, stored_run_config
from chiasm.train.finish import Finished
from chiasm.train.from_network import in_network
from chiasm.train.run import check_same, check_unused, held, run, vocabulary_examples


def run_stages(config: RunConfig, folder: Path, resume: bool, console: Console) -> Finished | None:
    """Train the stages of a config in order, each into `folder/stages/NAME`, and last the run itself into `folder`.

    Each stage is a complete run folder with its own report. A stage that is finished is not trained again with
    `resume`. All stages share one tokenizer, learned from the words of all of them. The config is kept in the folder
    before anything else, for `planned`.

    Args:
        config: complete; without stages this is `run`.
        folder: the run folder.
        resume: go on with what is there.
        console: receives progress bars and messages.

    Raises:
        InputError: as `run`.
        Interrupted: stopped by a signal, state saved.
    """
    config.check()
    stages, config = config.stages, in_network(config)
    if stages and not config.stages:
        console.print(f"stages left out, since a published network has them behind it: {', '.join(stages)}")
    with process_group(config.train.process_timeout_s):
        # Before the first stage is trained, not after it.
        if not resume:
            check_unused(folder)
        elif (folder / PLAN).exists():
            check_same(planned(folder), config, folder)
        with kept_where_refused(folder, rank() == 0):
            _check_stages(config)
        with held(folder) as is_writer:
            if is_writer and not (resume and (folder / PLAN).exists()):
                write_json(folder / PLAN, to_dict(config))
        before, tokenizer = config.init_from, None
        if config.stages and not begins_from_run(config):
            tokenizer = _tokenizer_of_all(config)
        for number, (name, stage) in enumerate(config.stages.items(), 1):
            place = folder.resolve() / "stages" / name
            if not (resume and (place / MANIFEST).exists()):
                if rank() == 0:
                    console.print(f"stage {number} of {len(config.stages) + 1}: {name}", highlight=False)
                run(stage_config(config, stage, before), place, resume, console, tokenizer, (config,))
            before = str(place)
        return run(replace(config, stages={}, init_from=before), folder, resume, console, tokenizer)


def planned(folder: Path) -> RunConfig:
    """Config with all stages that `run_stages` stored in a folder.

    Raises:
        InputError: the folder has no started run, or the file is damaged.
    """
    if not (folder / PLAN).is_file():
        raise InputError(
            f"{folder} holds no run that could go on",
            "a folder that `chiasm train RECIPE --out FOLDER` began",
            "give its --out, or a recipe to begin with",
        )
    return stored_run_config(read_json(folder / PLAN, "the plan of a run"), str(folder / PLAN))


def stage_config(config: RunConfig, stage: StageConfig, before: str) -> RunConfig:
    """The run that a stage is: the config's model, with the stage's tasks, training and data."""
    return replace(
        config,
        tasks=stage.tasks,
        train=stage.train,
        data=stage.data or config.data,
        primary_metric=stage.primary_metric,
        test_split="val",
        stages={},
        init_from=before,
    )


def also_for_stages(config: RunConfig, typed: Sequence[str]) -> list[str]:
    """Assignments of task keys, each followed by the same for the stages that have the task with the same value there.

    Else a stage would train another head than the run has, and its weights would be dropped. A key that is also typed
    for a stage, or that the recipe sets to another value in a stage, is left alone.

    Args:
        config: before the assignments.
        typed: `key=value` texts.
    """
    known, named = dict(keys(config)), {one.partition("=")[0].strip() for one in typed}
    found: list[str] = []
    for one in typed:
        found.append(one)
        key = one.partition("=")[0].strip()
        table, _, rest = key.partition(".")
        task = rest.partition(".")[0]
        if table != "tasks":
            continue
        for name, stage in config.stages.items():
            inner = f"stages.{name}.{key}"
            if task in stage.tasks and inner not in named and known.get(inner) == known.get(key):
                found.append(f"stages.{name}.{one.strip()}")
    return found


def _check_stages(config: RunConfig) -> None:
    """Check before the first stage that the data of every stage fit its tasks."""
    if not config.stages:
        return
    opened: dict[str, tuple[Dataset, Dataset]] = {}
    for run_config in [*(stage_config(config, stage, "") for stage in config.stages.values()), config]:
        key = str(to_dict(run_config.data))
        if key not in opened:
            opened[key] = (
                open_dataset(run_config.data, "train", run_config.seed),
                open_dataset(run_config.data, "val", run_config.seed),
            )
        check_fed(run_config, *opened[key])


def _tokenizer_of_all(config: RunConfig) -> TextTokenizer:
    runs = [stage_config(config, stage, "") for stage in config.stages.values()] + [config]
    distinct = {str(to_dict(each.data)): each for each in runs}
    return make_tokenizer(config, _examples(config, distinct.values()))


def _examples(config: RunConfig, runs: Iterable[RunConfig]) -> Iterator[Example]:
    for run_config in runs:
        yield from vocabulary_examples(open_training(run_config, (config,)).dataset)
