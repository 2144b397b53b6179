"""Runs that adapt a whole published network, or a run of one, on own data: `init_from` names it."""

from dataclasses import replace
from pathlib import Path

from chiasm.core.errors import InputError
from chiasm.core.run_folder import MANIFEST
from chiasm.models.encoders.language_model import CausalLanguageModelConfig
from chiasm.models.networks import is_language_network, network_of
from chiasm.models.pretrained.hugging_face_folder import NETWORK_FILE, checked_folder, model_type
from chiasm.pipeline.config import read_pipeline_config
from chiasm.pipeline.interop.importing import talking_config
from chiasm.pipeline.preprocessing import resolve_paths
from chiasm.pipeline.zero_shot_starter import STARTER
from chiasm.train.config import RunConfig


def in_network(config: RunConfig) -> RunConfig:
    """Return the config with the model of the whole network that `init_from` names; else unchanged.

    A network brings its weights (`model.network`), so that `init_from` is "" then. There are no stages, whose work its
    authors have done. Low-rank changes are those of the config; those of a run of such a network go on as they are. An
    image tower that cannot be frozen, since its images become different numbers of tokens, is not trained beside them.

    Raises:
        InputError: `init_from` is a folder in Hugging Face layout that holds no language model which sees, or the
            recipe has no language model as text tower.
    """
    folder = Path(config.init_from)
    if not config.init_from or config.init_from == STARTER or not folder.is_dir():
        return config
    is_run = (folder / MANIFEST).is_file()
    if is_run:
        found = resolve_paths(read_pipeline_config(folder), folder).model
        if not (folder / NETWORK_FILE).is_file() or not found.text.is_chat_model:
            return config
    elif not model_type(folder):
        return config
    else:
        checked_folder(config.init_from, "init_from")
        if not is_language_network(network_of(folder)):
            raise InputError(
                f"init_from is {folder}, a {model_type(folder)} in the layout of Hugging Face",
                "a run folder, or a language model that sees images",
                f"chiasm export {folder} --to run --out START, and --set init_from=START",
            )
        found = talking_config(folder).model
    own, text = config.model.text, found.text
    if not isinstance(own, CausalLanguageModelConfig) or not isinstance(text, CausalLanguageModelConfig):
        raise InputError(
            f"init_from is {folder}, a language model that sees images, and model.text.kind is {own.kind!r}",
            "a recipe with a language model",
            "chiasm train llava",
        )
    if text.lora_rank and config.train.adapt == "lora" and config.train.lora_rank != text.lora_rank:
        raise InputError(
            f"train.lora_rank is {config.train.lora_rank}, and {folder} has low-rank changes of rank {text.lora_rank}",
            "those that are there go on",
            f"--set train.lora_rank={text.lora_rank}",
        )
    rank, alpha = (text.lora_rank, text.lora_alpha) if text.lora_rank else (own.lora_rank, own.lora_alpha)
    precision = text.precision if own.precision == "auto" else own.precision
    text = replace(
        text, frozen=own.frozen, lora_rank=rank, lora_alpha=alpha, precision=precision, recompute=own.recompute
    )
    train, start = config.train, config.init_from if is_run else ""
    if text.frozen and rank and not train.adapt:
        train = replace(train, adapt="lora", lora_rank=rank, lora_alpha=alpha)
    return replace(config, model=replace(found, text=text), train=train, init_from=start, stages={})
