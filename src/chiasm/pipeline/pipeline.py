"""A model with tokenizer, preprocessing and tasks: from inputs to answers, to and from a run folder."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from chiasm.core.config import to_dict
from chiasm.core.errors import InputError, MissingTaskError
from chiasm.core.files import json_bytes, read_json
from chiasm.core.random import seed_torch
from chiasm.core.run_folder import verify_folder, write_folder
from chiasm.core.types import IMAGE, Example, ImageRef, InputValue, Tokens
from chiasm.data.modalities.image import images_of
from chiasm.data.png import as_png
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.execution import Execution
from chiasm.models.fingerprint import weights_hash
from chiasm.models.inputs import encode_rows
from chiasm.models.lora import LORA_NAMES
from chiasm.models.networks import build_model
from chiasm.models.packing import FILE as WEIGHTS
from chiasm.models.packing import Packing, read_weights, to_bytes
from chiasm.models.static_int8 import CALIBRATION_NAMES, make_room
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.pipeline.batching import stack_images, to_model_range
from chiasm.pipeline.codec import CALIBRATED_ON, codec_from, make_codec, vocabulary_file, vocabulary_in
from chiasm.pipeline.config import PipelineConfig, read_pipeline_config
from chiasm.pipeline.domain import FILE as DOMAIN_FILE
from chiasm.pipeline.domain import DomainModel
from chiasm.pipeline.formats import in_this_format
from chiasm.pipeline.parts import parts_of
from chiasm.pipeline.preprocessing import check_pretrained, resolve_paths, tower_files
from chiasm.pipeline.stored_example import TO_TRY, StoredExample, check_same_answers, words_about, words_to_try
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Task, check_inputs
from chiasm.tasks.codec import Codec
from chiasm.tasks.space import SharedSpace
from chiasm.tasks.text_batches import tower_vectors
from chiasm.tasks.texts import batch_invariant_tokens

ENCODE_BATCH = 16
"""Images encoded at once: EfficientNet-Lite0 did 70 images a second at 16 and 33 at 64, which no longer fit
the cache of a two-core machine."""
LOSS_WEIGHTS = "task_log_variance."
"""Beginning of the names of the learned weights of the tasks' losses."""


class Pipeline:
    """Config, model, codec and tasks, in evaluation mode on one device."""

    def __init__(self, config: PipelineConfig, model: VisionLanguageModel, codec: Codec, device: torch.device) -> None:
        self.config, self.codec, self.device = config, codec, device
        self.model = model.to(device).eval()
        make_batch_invariant(self.model)
        self.execution = Execution(self.model)
        self.resizing, self._preprocessing_name = config.model.image.preprocessing()
        self._lone_differs: dict[str, bool] = {}
        self.example: StoredExample | None = None
        """The example of the folder that it was read from."""
        self.domain: DomainModel | None = None
        """Densities of the training data; None in a model that was made without."""
        self.packing: Packing = ""
        """How a run folder stores the weights; it must have been applied to them (`packing.round_weights`)."""
        self.tasks: dict[str, Task[Any]] = build_tasks(config.tasks, config.model)
        check_pretrained(config)
        for task in self.tasks.values():
            check_inputs(task)
            task.check()

    @classmethod
    def build(
        cls,
        config: PipelineConfig,
        examples: Iterable[Example],
        device: torch.device,
        codec: Codec | None = None,
        learned_weights: tuple[str, ...] = (),
    ) -> "Pipeline":
        """Make an untrained pipeline: vocabularies from the training examples unless given, weights from the seed.

        `learned_weights` are the tasks whose losses are weighed by a learned variance.
        """
        if codec is None:
            codec = make_codec(config, list(examples))
        seed_torch("weights", config.seed)
        parts = parts_of(config, codec, learned_weights)
        return cls(config, build_model(config.model, parts), codec, device)

    # --- encoding -------------------------------------------------------------------------------------------

    def encode(self, inputs: Mapping[str, InputValue]) -> dict[str, Tokens]:
        """Inputs of n examples, as `batching.input_values` gives them -> float32 Tokens on `device`, no gradient."""
        return {name: encode_rows(value, partial(self._encode_values, name)) for name, value in inputs.items()}

    def encode_pixels(self, image: InputValue) -> Tokens:
        """The images alone: uint8 [n, 3, h, w], `Stacked`, or cached features of a frozen tower; as `encode`."""
        return self.encode({IMAGE: image})[IMAGE]

    def _encode_values(self, name: str, value: Tensor | Tokens) -> Tokens:
        if isinstance(value, Tokens):
            on_device = cast(Tokens, to_model_range(value, torch.float32)).each(lambda part: part.to(self.device))
            return self.model.encode_input(name, on_device)
        with torch.no_grad():
            return Tokens.joined([self._encoded_piece(name, piece) for piece in value.split(ENCODE_BATCH)])

    def _encoded_piece(self, name: str, piece: Tensor) -> Tokens:
        ready = cast(Tensor, to_model_range(piece.to(self.device), torch.float32))
        return self._encode(ready) if name == IMAGE else self.model.encode_input(name, ready)

    def _encode(self, image: Tensor) -> Tokens:
        """Encode a piece of a batch; batch size 1 is duplicated where convolutions would round it otherwise.

        Whether they do depends on the tower, the machine and the threads, so the first single image is encoded both
        ways (EfficientNet-Lite0 on one thread is not, and keeps its speed).
        """
        form = self.execution.suffix("image")
        if len(image) > 1 or self._lone_differs.get(form) is False:
            return self.model.encode_image(image)
        in_pair = self.model.encode_image(image.repeat(2, 1, 1, 1)).each(lambda part: part[:1])
        if form not in self._lone_differs:
            lone = self.model.encode_image(image)
            self._lone_differs[form] = not all(torch.equal(*pair) for pair in zip(lone[:3], in_pair[:3], strict=True))
        return in_pair

    def encode_images(self, images: Sequence[ImageRef]) -> Tokens:
        """Decode, resize and encode n images -> float32 Tokens."""
        return self.encode_pixels(stack_images([image.load() for image in images], self.resizing))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """One or more texts -> vectors of the text tower, float32 [m, d], in the batches of `text_batches`."""
        return tower_vectors(texts, self.model, self.codec)

    def text_tokens(self, texts: Sequence[str]) -> Tokens:
        """Texts -> Tokens of the text tower as one batch, padded to the longest: where vectors are not enough."""
        with torch.no_grad():
            tokens = batch_invariant_tokens(texts, self.codec, self.config.model)
            return self.model.encode_text(type(tokens)(*(part.to(self.device) for part in tokens)))

    def image_fingerprint(self) -> str:
        """Name of the image tower with its weights, preprocessing and number format, for caches."""
        return self._image_fingerprint(self.config.model.image.grid) + self.execution.suffix("image")

    def _image_fingerprint(self, has_grid: bool) -> str:
        name = self._preprocessing_name + ("-grid" if has_grid else "")
        return f"{self.config.model.image.kind}-{name}-{weights_hash(self.model.image_encoder)}"

    def text_fingerprint(self) -> str:
        """Name of the text tower with its weights, longest text and number format, for caches."""
        return self._text_fingerprint() + self.execution.suffix("text")

    def _text_fingerprint(self) -> str:
        tower = weights_hash(self.model.text_encoder)
        return f"{self.config.model.text.kind}-{self.codec.tokenizer.max_tokens}-{tower}"

    def embedding_fingerprint(self) -> str:
        """Hash of everything that determines an image's embedding in the shared space."""
        model = self.model
        # Without a projection the space is within the fusion block (ALBEF); else these vectors do not enter fusion.
        last = (model.image_adapter, model.fusion) if model.image_projection is None else (model.image_projection,)
        hashes = [weights_hash(module) for module in (model.image_pooler, *last) if module is not None]
        # A projection takes the tower's own vector, which is the same with the grid and without.
        has_grid = self.config.model.image.grid and (model.image_pooler is not None or model.image_projection is None)
        return "-".join([self._image_fingerprint(has_grid), str(self.config.model.embedding_dim), *hashes])

    def query_fingerprint(self) -> str:
        """Hash of everything that determines a text's embedding in the shared space."""
        model = self.model
        last = (model.text_adapter, model.fusion) if model.text_projection is None else (model.text_projection,)
        hashes = [weights_hash(module) for module in last if module is not None]
        words = hashlib.sha256(self.codec.tokenizer.to_json().encode()).hexdigest()[:16]
        return "-".join([self.text_fingerprint(), words, *hashes])

    def task(self, kind: type[Task[Any]]) -> Any:
        """Return the task of this class.

        Raises:
            MissingTaskError: the model was not trained for it.
        """
        found = self.tasks.get(kind.name)
        if found is None:
            raise MissingTaskError(kind.name, tuple(self.tasks))
        return found

    @property
    def space(self) -> SharedSpace | None:
        """The first task with a space that images and texts share; None where there is none."""
        return next((task for task in self.tasks.values() if isinstance(task, SharedSpace)), None)

    def shared_space(self) -> SharedSpace:
        """As `space`; no task with one is an InputError."""
        if self.space is None:
            raise InputError(
                f"a run that was trained for {', '.join(self.tasks) or 'nothing'}",
                "one with a space that images and texts share",
                "give another run, such as one of chiasm train retrieval",
            )
        return self.space

    # --- run folder -----------------------------------------------------------------------------------------

    def saved_names(self) -> list[str]:
        """Names of the tensors that a run folder keeps: of one that has two names, the first.

        Frozen towers that a package brings are left out, but not their low-rank changes and their ranges in eight bits.
        """
        model = self.config.model
        sides = (("image_encoder.", model.image), ("text_encoder.", model.text))
        packaged = tuple(name for name, tower in sides if tower.frozen and tower.is_packaged)
        state, beside = self.model.state_dict(), LORA_NAMES + CALIBRATION_NAMES
        named = {name: state[name] for name in state if name.endswith(beside) or not name.startswith(packaged)}
        first = {(tensor.data_ptr(), tensor.shape): name for name, tensor in reversed(named.items()) if tensor.numel()}
        return [name for name, tensor in named.items() if first.get((tensor.data_ptr(), tensor.shape), name) == name]

    def files(self, example: Example | None, others: Sequence[Example] = ()) -> dict[str, bytes]:
        """Content of every file that loading needs; the other arguments as in `example_files`."""
        state = self.model.state_dict()
        tensors = {name: state[name].detach().cpu().contiguous() for name in self.saved_names()}
        preprocessing = {
            "image": {
                "size_px": self.config.model.image.size_px,
                "width_px": self.config.model.image.width_px,
                "tower": self.image_fingerprint_if_frozen(),
            },
            "text": {"max_tokens": self.codec.tokenizer.max_tokens, "tower": self.text_fingerprint_if_frozen()},
        }
        files = {
            "config.json": json_bytes(to_dict(self.config)),
            WEIGHTS: to_bytes(tensors, self.model, self.packing),
            "preprocessing.json": json_bytes(preprocessing),
            **tower_files(self.model),
            **self.codec_files(),
            **({} if self.domain is None else {DOMAIN_FILE: self.domain.to_bytes()}),
        }
        return files | ({} if example is None else self.example_files(example, others=others))

    def example_files(
        self, example: Example, name: str = "example", others: Sequence[Example] = ()
    ) -> dict[str, bytes]:
        """The stored example as `check_example` reads it: its image, the answers about it, and words to try.

        Args:
            example: becomes the stored example, by its first image; a text alone makes none.
            name: of its files.
            others: examples of the same data, which sentences about other images are taken from.
        """
        image = next(iter(images_of(example)), None)
        if image is None:
            return {}
        stored = {**self.answers_of(image, words_about(example)), TO_TRY: words_to_try(example, others)}
        return {f"{name}.png": as_png(image.load()), f"{name}.json": json_bytes(stored)}

    def codec_files(self) -> dict[str, bytes]:
        """The vocabularies, as files."""
        on = self.codec.calibrated_on
        return {
            "tokenizer.json": self.codec.tokenizer.to_json().encode(),
            "calibration.json": json_bytes({task: asdict(one) for task, one in self.codec.calibration.items()}),
            **{vocabulary_file(name): json_bytes(list(words)) for name, words in self.codec.vocabularies.items()},
            **({} if on is None else {CALIBRATED_ON: json_bytes(asdict(on))}),
        }

    def image_fingerprint_if_frozen(self) -> str:
        """Fingerprint of a tower that the folder does not contain; "" where the folder has its weights."""
        tower = self.config.model.image
        return self._image_fingerprint(tower.grid) if tower.frozen and tower.is_packaged else ""

    def text_fingerprint_if_frozen(self) -> str:
        """As `image_fingerprint_if_frozen`, for the text tower."""
        tower = self.config.model.text
        return self._text_fingerprint() if tower.frozen and tower.is_packaged else ""

    def answers_of(self, image: ImageRef, words: Mapping[str, str]) -> dict[str, Any]:
        """The answers of every task about one image; stored, and compared when the folder is opened again."""
        tokens = self.encode_images([image])
        found: dict[str, Any] = {"words": dict(words)}
        if self.domain is not None:
            found["image_distance"] = self.domain.judge(tokens)[0].image_distance
        language = self.config.data.languages[0]
        for task in self.tasks.values():
            found |= task.smoke(self.model, self.codec, {IMAGE: tokens}, words, language)
        return found

    def answers_about(self, example: StoredExample) -> dict[str, Any]:
        """The answers about a stored example, under the names of its own."""
        return self.answers_of(example.image, example.answers["words"])

    def save(
        self,
        folder: Path,
        example: Example | None,
        extra: Mapping[str, bytes],
        keep: Iterable[str] = (),
        others: Sequence[Example] = (),
    ) -> None:
        """Write a complete run folder, its manifest last; `example` and `others` as in `example_files`."""
        write_folder(folder, "run", {**self.files(example, others), **extra}, keep)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Pipeline":
        """Read a run folder, verify it, and check that its stored example still gets its stored answers.

        Raises:
            InputError: missing, damaged, another format, or answers that changed.
        """
        verify_folder(folder, "run")
        config = resolve_paths(read_pipeline_config(folder), folder)
        codec = codec_from(config, folder)
        tensors, packing = read_weights(folder)
        weighed = tuple(name.removeprefix(LOSS_WEIGHTS) for name in tensors if name.startswith(LOSS_WEIGHTS))
        pipeline = cls(config, build_model(config.model, parts_of(config, codec, weighed)), codec, device)
        pipeline.load_tensors(in_this_format(tensors, pipeline.tasks), str(folder))
        pipeline.packing = packing
        pipeline._check_towers(folder)
        pipeline.domain = DomainModel.read(folder)
        pipeline.check_example(folder)
        return pipeline

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Set the saved weights; a missing, left-over or misshapen tensor is an error."""
        make_room(self.model, tensors)
        state = self.model.state_dict()
        wrong = sorted(set(tensors) ^ set(self.saved_names()))
        wrong += sorted(name for name in set(tensors) & set(state) if tensors[name].shape != state[name].shape)
        if wrong:
            raise InputError(
                f"{where}: tensor {wrong[0]!r} does not fit this config",
                "the tensors it was saved with",
                "restore the folder",
            )
        self.model.load_state_dict(dict(tensors), strict=False)

    def take_weights(
        self, folder: Path, anew: tuple[str, ...] = (), needed: tuple[str, ...] = ()
    ) -> tuple[list[str], int]:
        """Start from another run's weights wherever name and shape agree: names taken, and a count of those left.

        Tensors with a row for each word of a vocabulary (`Task.vocabularies`) are taken where both runs have the same
        words, whose order is then the other run's: a row of another answer would be a wrong initial value.

        Args:
            folder: the other run.
            anew: beginnings of names that are not taken.
            needed: beginnings of names that must all be taken.
        """
        state = self.model.state_dict()
        given = in_this_format(read_weights(folder)[0], self.tasks)
        given = {name: value for name, value in given.items() if not (anew and name.startswith(anew))}
        for task in self.tasks.values():
            for name, rows in task.vocabularies.items():
                words = vocabulary_in(folder, name)
                if set(words) == set(self.codec.vocabularies[name]):
                    self.codec.vocabularies[name] = words
                else:
                    begins = f"heads.{task.name}.{rows}"
                    given = {tensor: value for tensor, value in given.items() if not tensor.startswith(begins)}
        fitting = {name: value for name, value in given.items() if name in state and state[name].shape == value.shape}
        if all(value.ndim < 2 for value in fitting.values()):  # temperature and bias always fit in shape
            raise InputError(
                f"no tensor of {folder} fits this model", "a run with a model of the same sizes", "check init_from"
            )
        own = set(self.saved_names()) - set(fitting)
        missing = sorted(name for name in own if needed and name.startswith(needed))
        if missing:
            raise InputError(
                f"{folder} has no {missing[0]!r} of the shape {tuple(state[missing[0]].shape)}",
                "a run with an embedding space shared by images and texts, and with this image side",
                "check init_from, and train it with the task retrieval",
            )
        self.model.load_state_dict(fitting, strict=False)
        return list(fitting), len(own)

    def _check_towers(self, folder: Path) -> None:
        stored = read_json(folder / "preprocessing.json", "the preprocessing")
        for side, now in (("image", self.image_fingerprint_if_frozen()), ("text", self.text_fingerprint_if_frozen())):
            if stored[side]["tower"] != now:
                raise InputError(
                    f"{folder} was trained on the {side} tower {stored[side]['tower']}, installed is {now}",
                    "the same pre-trained weights and preprocessing",
                    "install the version of the extra [weights] that the run was trained with",
                )

    def check_example(self, folder: Path, name: str = "example") -> None:
        """Recompute the answers about the stored example, `NAME.json` and `NAME.png`, if the folder has one.

        Raises:
            InputError: an answer changed.
        """
        if not (folder / f"{name}.json").exists():
            return
        stored = read_json(folder / f"{name}.json", "the stored example")
        self.example = StoredExample.of((folder / f"{name}.png").read_bytes(), stored)
        check_same_answers(self.example.answers, self.answers_about(self.example), folder, self.model)
