"""Vision-language networks of transformers: BLIP, ViLT, LLaVA. One table maps a folder's class to its wrapper."""

from pathlib import Path
from typing import Any

import safetensors.torch

from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.models.config import ModelConfig
from chiasm.models.networks.base import NetworkSpec, PretrainedVLM, read_network_spec
from chiasm.models.networks.blip import Blip
from chiasm.models.networks.language import LanguageNetwork
from chiasm.models.networks.llava import Llava
from chiasm.models.networks.vilt import Vilt
from chiasm.models.pretrained.hugging_face_folder import (
    NETWORK_FILE,
    checked_folder,
    read_architecture,
    read_network,
    read_preprocessing,
    reading,
)
from chiasm.models.vision_language import AssembledVLM, Parts, VisionLanguageModel

NETWORKS: dict[str, type[PretrainedVLM]] = {name: wrapper for wrapper in (Blip, Vilt, Llava) for name in wrapper.offers}
"""Class of transformers -> its wrapper."""


def network_of(folder: Path) -> str:
    """Class of the network in a folder in Hugging Face layout, by its config; "" where `NETWORKS` lacks it."""
    stated = read_json(folder / "config.json", "the config").get("architectures") or [""]
    name = str(stated[0]) if isinstance(stated, list) and stated else ""
    return name if name in NETWORKS else ""


def is_language_network(network: str) -> bool:
    """Whether a class of transformers is a language model that sees images, which converses."""
    return network in NETWORKS and issubclass(NETWORKS[network], LanguageNetwork)


def labels_of(place: str) -> tuple[str, ...]:
    """The answers that a folder's network classifies, in the order of its head's rows; () where it has none."""
    if not place:
        return ()
    folder = Path(place)
    if (folder / NETWORK_FILE).is_file():
        spec = read_network_spec(folder / NETWORK_FILE)
        return NETWORKS[spec.network].labels_in(spec.network, spec.architecture) if spec.network in NETWORKS else ()
    name = network_of(checked_folder(place, "model.network"))
    return NETWORKS[name].labels_in(name, read_architecture(folder).to_dict()) if name else ()


def build_model(config: ModelConfig, parts: Parts) -> VisionLanguageModel:
    """Build the model of a config: an `AssembledVLM`, or a `PretrainedVLM` with the weights of its folder.

    Raises:
        InputError: the folder holds no network of `NETWORKS`, or one without a head that a task needs.
    """
    if not config.network:
        return AssembledVLM(config, parts)
    folder = Path(config.network)
    if (folder / NETWORK_FILE).is_file():
        return _from_run(folder, config, parts)
    checked_folder(config.network, "model.network")
    name = network_of(folder)
    if not name:
        raise InputError(f"{folder} holds none of these networks", ", ".join(NETWORKS), "give another folder")
    import transformers

    architecture = read_architecture(folder).to_dict()
    network: Any = read_network(folder, getattr(transformers, name))
    spec = NetworkSpec(name, architecture, read_preprocessing(folder))
    return NETWORKS[name].wrap(config, parts, spec, network).eval()


def _from_run(folder: Path, config: ModelConfig, parts: Parts) -> PretrainedVLM:
    """The network of a run folder, with the run's weights."""
    spec = read_network_spec(folder / NETWORK_FILE)
    if spec.network not in NETWORKS:
        raise InputError(f"{folder}: network {spec.network!r}", "one of " + ", ".join(NETWORKS), "restore the folder")

    def build() -> Any:
        import transformers

        settings = {key: value for key, value in spec.architecture.items() if key != "model_type"}
        made = transformers.AutoConfig.for_model(spec.architecture["model_type"], **settings)
        return getattr(transformers, spec.network)(made)

    wrapped = NETWORKS[spec.network].wrap(config, parts, spec, reading(folder, "the network's description", build))
    wrapped.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
    return wrapped.eval()
