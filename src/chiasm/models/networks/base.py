"""Base class that wraps a vision-language network of transformers as a `VisionLanguageModel`.

A wrapped network implements the model's calls (encode, embed, fuse, heads, decoder) with its own parts, so that tasks,
evaluation, serving and training use it like any other model.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from chiasm.core.config import from_dict
from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.models.config import ModelConfig
from chiasm.models.heads import HeadSpec
from chiasm.models.pretrained.hugging_face_folder import Preprocessing
from chiasm.models.vision_language import Parts, VisionLanguageModel


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Description of a network without its weights: `network.json` of a run folder."""

    network: str
    """Class of transformers."""
    architecture: dict[str, Any]
    """Its config, including `model_type`."""
    preprocessing: Preprocessing | None
    """None where the network's own processor prepares images."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Content of the processor's files, by name; {} where `preprocessing` says all."""
    is_compared: bool = False
    """Its logits were compared with those of transformers when it was opened first."""

    @property
    def fixed(self) -> Preprocessing:
        """The preprocessing of a network that has no processor of its own."""
        assert self.preprocessing is not None, "this network prepares images by its own processor"
        return self.preprocessing

    def to_json(self) -> bytes:
        """The content of the run folder's file."""
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()


def read_network_spec(path: Path) -> NetworkSpec:
    """Read what `NetworkSpec.to_json` wrote."""
    values = read_json(path, "the network's description")
    if not isinstance(values, Mapping) or not isinstance(values.get("architecture"), dict):
        raise InputError(f"{path} describes no network", "a file that chiasm wrote", "restore the folder")
    told, processor = values.get("preprocessing"), values.get("processor") or {}
    pixels = None if processor else from_dict(Preprocessing, told or {}, f"{path.name}.preprocessing")
    is_compared = bool(values.get("is_compared"))
    return NetworkSpec(str(values.get("network")), values["architecture"], pixels, processor, is_compared)


class PretrainedVLM(VisionLanguageModel, ABC):
    """A pre-trained vision-language network of transformers, with its own head.

    Args:
        config: names the folder; its sizes are not used.
        parts: heads and parts that the tasks need.
        spec: class, architecture and preprocessing of the network.

    Raises:
        InputError: a task needs a head or a shared space that the network lacks.
    """

    names: ClassVar[tuple[tuple[str, str], ...]]
    """Prefix of weight names here -> prefix in a folder of transformers."""
    offers: ClassVar[dict[str, type[HeadSpec]]]
    """Class of transformers -> the kind of its head."""
    has_space: ClassVar[frozenset[str]] = frozenset()
    """Classes of transformers with a space that images and texts share."""
    head_names: ClassVar[dict[str, tuple[str, str]]]
    """Class of transformers -> prefixes of its head's weight names: here after `heads.TASK.`, and in the folder."""
    chooses_answers: ClassVar[frozenset[str]] = frozenset()
    """Classes of transformers whose config lists the answers that they classify."""

    def __init__(self, config: ModelConfig, parts: Parts, spec: NetworkSpec) -> None:
        super().__init__(config, parts)
        self.spec = spec
        self.heads = nn.ModuleDict()
        self.task_log_variance = nn.ParameterDict()
        self.input_encoders, self.input_adapters = nn.ModuleDict(), nn.ModuleDict()
        wrong = [task for task, head in parts.heads.items() if not isinstance(head, self.offers[spec.network])]
        wrong += ["contrast"] if parts.contrast and spec.network not in self.has_space else []
        if wrong:
            raise InputError(
                f"the network {spec.network} has no head for {wrong[0]}",
                f"a task with a head of the kind {self.offers[spec.network].__name__}",
                "leave the task out, or take another network",
            )

    @classmethod
    def check_folder(cls, network: str, architecture: Mapping[str, Any], folder: Path) -> None:
        """Refuse a network that computes what is not computed here, before its weights are read.

        Args:
            network: class of transformers.
            architecture: its config.
            folder: named in errors.

        Raises:
            InputError: names what is missing.
        """

    def _take_head(self, head: nn.Module) -> None:
        """Assign the network's head to the task that needs it."""
        for task in self.parts.heads:
            self.heads[task] = head

    @classmethod
    @abstractmethod
    def wrap(cls, config: ModelConfig, parts: Parts, spec: NetworkSpec, network: Any) -> "PretrainedVLM":
        """Assign the parts of a network of transformers to the members of this model."""

    @classmethod
    def labels_in(cls, network: str, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """The answers that a network of this config classifies, in the order of its head's rows; () for all others."""
        named = architecture.get("id2label") if network in cls.chooses_answers else None
        return tuple(str(named[key]) for key in sorted(named, key=int)) if named else ()

    def hugging_face_tensors(self) -> dict[str, Tensor]:
        """All weights under their names in transformers."""
        found = {}
        own, others = self.head_names[self.spec.network]
        heads = tuple((f"heads.{task}.{own}", others) for task in self.heads)
        for name, value in self.state_dict().items():
            for ours, theirs in (*self.names, *heads):
                if name.startswith(ours):
                    found[theirs + name.removeprefix(ours)] = value
        return found
