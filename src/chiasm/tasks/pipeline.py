"""A model with all that it needs to take pictures and words and to answer in words; to and from a run folder."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from chiasm.core.config import from_dict, to_dict
from chiasm.core.errors import InputError
from chiasm.core.files import read_json
from chiasm.core.random import seed_torch
from chiasm.core.run_config import RunConfig
from chiasm.core.run_folder import verify_folder, write_folder
from chiasm.core.types import Example, ImageRef, Tokens
from chiasm.data.dataset import texts_of
from chiasm.data.image import load_image
from chiasm.data.text import END, START, TextTokenizer
from chiasm.models.encoders.minilm import load_minilm_tokenizer
from chiasm.models.vision_language import Parts, VisionLanguageModel
from chiasm.tasks import build_tasks
from chiasm.tasks.base import Codec, Task
from chiasm.tasks.batching import stack_pictures, to_model_range
from chiasm.tasks.captioning import Captioning
from chiasm.tasks.retrieval import Retrieval
from chiasm.tasks.vqa import VisualQuestionAnswering, answer_vocabulary

ENCODE_BATCH = 16
"""Pictures encoded at once: EfficientNet-Lite0 did 70 pictures a second at 16 and 33 at 64, which no longer fit
the cache of a two-core machine."""
MINILM_WRAP = ("[CLS]", "[SEP]")
STORED_TOLERANCE = 5e-3
"""How far the stored example's numbers may move between machines and library versions."""


class Pipeline:
    """Config, model, codec and tasks, in evaluation mode on one device."""

    def __init__(self, config: RunConfig, model: VisionLanguageModel, codec: Codec, device: torch.device) -> None:
        self.config, self.codec, self.device = config, codec, device
        self.model = model.to(device).eval()
        self.tasks: dict[str, Task] = build_tasks(config.tasks)

    @classmethod
    def build(
        cls, config: RunConfig, examples: Iterable[Example], device: torch.device, codec: Codec | None = None
    ) -> "Pipeline":
        """Make an untrained pipeline: vocabularies from the training examples unless given, weights from the seed."""
        if codec is None:
            codec = make_codec(config, list(examples))
        seed_torch("weights", config.seed)
        return cls(config, VisionLanguageModel(config.model, parts_of(config, codec)), codec, device)

    # --- encoding -------------------------------------------------------------------------------------------

    def encode_pixels(self, image: Tensor) -> Tokens:
        """uint8 [n, 3, h, w], or cached vectors [n, d] -> Tokens on the CPU's memory of `device`, no gradient."""
        parts = []
        with torch.no_grad():
            for piece in image.split(ENCODE_BATCH):
                parts.append(self.model.encode_image(to_model_range(piece.to(self.device), torch.float32)))
        return Tokens(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def encode_images(self, images: Sequence[ImageRef]) -> Tokens:
        """Decode, resize and encode pictures."""
        return self.encode_pixels(stack_pictures([image.load() for image in images], self.config.model.image))

    def encode_texts(self, texts: Sequence[str]) -> Tokens:
        """Tokenise and encode texts, padded to the longest of them."""
        with torch.no_grad():
            tokens = self.codec.tokenizer.batch(texts)
            return self.model.encode_text(type(tokens)(*(part.to(self.device) for part in tokens)))

    def image_fingerprint(self) -> str:
        """Name of the image tower with its weights and preprocessing, for caches."""
        tower = self.config.model.image
        return f"{tower.kind}-{tower.size_px}-{_weights_hash(self.model.image_encoder)}"

    def text_fingerprint(self) -> str:
        """Name of the text tower with its weights and longest text, for caches."""
        return (
            f"{self.config.model.text.kind}-{self.codec.tokenizer.max_tokens}-{_weights_hash(self.model.text_encoder)}"
        )

    def embedding_fingerprint(self) -> str:
        """Name of everything that decides a picture's vector in the shared space."""
        model = self.config.model
        projection = _weights_hash(self.model.image_projection) if self.model.image_projection is not None else "none"
        return f"{self.image_fingerprint()}-{model.embedding_dim}-{projection}"

    # --- tasks ----------------------------------------------------------------------------------------------

    def task(self, kind: type[Task]) -> Any:
        """Return the task of this class, or say what the model was trained for."""
        found = self.tasks.get(kind.name)
        if found is None:
            raise InputError(
                f"this model was not trained for {kind.name}",
                "what it was trained for: " + ", ".join(self.tasks),
                "use another run, or train a recipe that has this task",
            )
        return found

    # --- run folder -----------------------------------------------------------------------------------------

    def saved_names(self) -> list[str]:
        """Names of the tensors that a run folder keeps: all but those of frozen pre-trained towers."""
        model = self.config.model
        frozen = [
            name for name, tower in (("image_encoder.", model.image), ("text_encoder.", model.text)) if tower.frozen
        ]
        return [name for name in self.model.state_dict() if not name.startswith(tuple(frozen))]

    def files(self, example: Example | None) -> dict[str, bytes]:
        """Content of every file that loading needs; `example` becomes the stored example with its answers."""
        state = self.model.state_dict()
        tensors = {name: state[name].detach().cpu().contiguous() for name in self.saved_names()}
        preprocessing = {
            "image": {"size_px": self.config.model.image.size_px, "tower": self.image_fingerprint_if_frozen()},
            "text": {"max_tokens": self.codec.tokenizer.max_tokens, "tower": self.text_fingerprint_if_frozen()},
        }
        files = {
            "config.json": _json(to_dict(self.config)),
            "model.safetensors": safetensors.torch.save(tensors),
            "preprocessing.json": _json(preprocessing),
            **self.codec_files(),
        }
        if example is not None:
            picture = io.BytesIO()
            Image.fromarray(example.inputs["image"].load()).save(picture, "PNG")
            files["example.png"] = picture.getvalue()
            files["example.json"] = _json(self.answers_of(example.inputs["image"], _words_of(example)))
        return files

    def codec_files(self) -> dict[str, bytes]:
        """The vocabularies, as files."""
        return {
            "tokenizer.json": self.codec.tokenizer.to_json().encode(),
            "answers.json": _json(list(self.codec.answers)),
        }

    def image_fingerprint_if_frozen(self) -> str:
        """Fingerprint of a tower that the folder does not contain; "" where the folder has its weights."""
        return self.image_fingerprint() if self.config.model.image.frozen else ""

    def text_fingerprint_if_frozen(self) -> str:
        """As `image_fingerprint_if_frozen`, for the text tower."""
        return self.text_fingerprint() if self.config.model.text.frozen else ""

    def answers_of(self, image: ImageRef, words: Mapping[str, str]) -> dict[str, Any]:
        """Every kind of answer this model gives about one picture; stored, and compared when it is loaded again."""
        tokens = self.encode_images([image])
        found: dict[str, Any] = {"words": dict(words)}
        for task in self.tasks.values():
            if isinstance(task, Retrieval) and "text" in words:
                similarity = (
                    task.embed_images(self.model, tokens) @ task.embed_texts(self.model, self.codec, [words["text"]]).T
                )
                found["similarity"] = float(similarity[0, 0])
            elif isinstance(task, VisualQuestionAnswering) and "question" in words:
                answer = task.predict(self.model, self.codec, tokens, [words["question"]], [0])[0]
                found["answer"], found["answer_confidence"] = answer.answer, answer.confidence
            elif isinstance(task, Captioning):
                caption = task.predict(self.model, self.codec, tokens, self.config.data.languages[0])[0]
                found["caption"], found["caption_confidence"] = caption.answer, caption.confidence
        return found

    def save(self, folder: Path, example: Example | None, extra: Mapping[str, bytes], keep: Iterable[str] = ()) -> None:
        """Write a complete run folder, its manifest last."""
        write_folder(folder, "run", {**self.files(example), **extra}, keep)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "Pipeline":
        """Read a run folder, verify it, and check that its stored example still gets its stored answers.

        Raises:
            InputError: missing, damaged, another format, or answers that changed.
        """
        verify_folder(folder, "run")
        config = from_dict(RunConfig, read_json(folder / "config.json", "the run's config"), "config.json")
        codec = codec_from(config, folder)
        pipeline = cls(config, VisionLanguageModel(config.model, parts_of(config, codec)), codec, device)
        pipeline.load_tensors(safetensors.torch.load_file(folder / "model.safetensors"), str(folder))
        pipeline._check_towers(folder)
        pipeline._check_example(folder)
        return pipeline

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Set the saved weights; a missing, left-over or misshapen tensor is an error."""
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

    def _check_towers(self, folder: Path) -> None:
        stored = read_json(folder / "preprocessing.json", "the preprocessing")
        for side, now in (("image", self.image_fingerprint_if_frozen()), ("text", self.text_fingerprint_if_frozen())):
            if stored[side]["tower"] != now:
                raise InputError(
                    f"{folder} was trained on the {side} tower {stored[side]['tower']}, installed is {now}",
                    "the same pre-trained weights and preprocessing",
                    "install the version of the extra [weights] that the run was trained with",
                )

    def _check_example(self, folder: Path) -> None:
        if not (folder / "example.json").exists():
            return
        stored = read_json(folder / "example.json", "the stored example")
        content = (folder / "example.png").read_bytes()
        image = ImageRef(lambda: load_image(content, "example.png"), lambda: hashlib.sha256(content).hexdigest())
        now = self.answers_of(image, stored["words"])
        for key, value in stored.items():
            same = abs(value - now[key]) <= STORED_TOLERANCE if isinstance(value, float) else value == now[key]
            if not same:
                raise InputError(
                    f"{folder}: the stored example's {key} was {value!r} and is {now[key]!r} now",
                    f"the same answer, numbers within {STORED_TOLERANCE}",
                    "use the library versions in the run's environment.json",
                )


def parts_of(config: RunConfig, codec: Codec) -> Parts:
    """Which heads the tasks need."""
    return Parts(
        vocabulary=codec.tokenizer.vocabulary,
        answers=len(codec.answers),
        contrast=Retrieval.name in config.tasks,
        captions=Captioning.name in config.tasks,
    )


def make_codec(config: RunConfig, examples: Sequence[Example]) -> Codec:
    """Learn the vocabularies from training examples, or take the tokenizer that belongs to a pre-trained tower."""
    answers = answer_vocabulary(examples) if VisualQuestionAnswering.name in config.tasks else ()
    if VisualQuestionAnswering.name in config.tasks and not answers:
        raise InputError("no training example has a question", "examples with questions and answers", "check the data")
    text = config.model.text
    if text.kind == "minilm":
        return Codec(TextTokenizer(load_minilm_tokenizer(), text.max_tokens, MINILM_WRAP), answers)
    return Codec(
        TextTokenizer.train(texts_of(examples), text.vocabulary, text.max_tokens, config.data.languages), answers
    )


def codec_from(config: RunConfig, folder: Path) -> Codec:
    """Read the vocabularies that `Pipeline.codec_files` wrote."""
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    wrap = MINILM_WRAP if config.model.text.kind == "minilm" else (START, END)
    answers = tuple(read_json(folder / "answers.json", "the answer vocabulary"))
    return Codec(TextTokenizer.from_json(content, config.model.text.max_tokens, wrap), answers)


def _words_of(example: Example) -> dict[str, str]:
    words = {"text": example.captions[0].text} if example.captions else {}
    return words | ({"question": example.questions[0].text} if example.questions else {})


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
