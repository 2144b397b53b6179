"""Export a model to another layout; the written folder is opened again and must give bitwise equal results."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasm.core.device import environment
from chiasm.core.errors import InputError, JobError
from chiasm.core.files import new_folder, read_json, write_bytes
from chiasm.core.types import IMAGE, Caption, Example, Question
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.data.image_refs import image_ref_from_bytes
from chiasm.models.decoding import DecodingConfig
from chiasm.pipeline.interop.graph_files import ENGINES, write_graphs
from chiasm.pipeline.interop.importing import STORED, open_pipeline, usual_decoding
from chiasm.pipeline.interop.layouts import hugging_face_files, open_clip_files
from chiasm.pipeline.interop.llava_layout import compare_with_transformers, is_conversation, llava_files
from chiasm.pipeline.pipeline import Pipeline


def _hugging_face(pipeline: Pipeline) -> dict[str, bytes]:
    return llava_files(pipeline) if is_conversation(pipeline) else hugging_face_files(pipeline)


LAYOUTS: dict[str, Callable[[Pipeline], dict[str, bytes]]] = {
    "hugging_face": _hugging_face,
    "open_clip": open_clip_files,
}
"""Layouts beside chiasm's own, "run"."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Files of a verified export."""

    out: Path
    files: tuple[str, ...]
    words: dict[str, str]
    """Queries of the stored example."""
    answers: dict[str, Any]
    """Answers of both models; {} for a layout of graphs."""
    differences: dict[str, float] = field(default_factory=dict)
    """File of a graph -> largest difference of its numbers to the model's; {} where outputs are bitwise equal."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Task -> why no graph has it."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        told = {"out": str(self.out), "files": list(self.files), "words": self.words, "answers": self.answers}
        return told | {"differences": self.differences, "left_out": self.left_out}


def export(source: Path, layout: str, out: Path, device: torch.device) -> Exported:
    """Write a model in another layout, open the written folder, and compare.

    Args:
        source: a run folder, or a folder in the layout of Hugging Face or open_clip.
        layout: "run", or a key of `LAYOUTS` or `ENGINES`.
        out: folder to create; it appears when everything in it has been checked.
        device: where both are computed.

    Raises:
        InputError: `out` is there already, the layout cannot hold the model, or the source has links out of it.
        JobError: the written model gives other answers.
    """
    if source.is_dir():
        refuse_links_out(source)
    if layout in ENGINES:
        return _export_graphs(source, layout, out)
    pipeline = open_pipeline(source, device)
    if layout != "run":
        # These layouts do not store decoding, calibration or the domain model of a run.
        is_talk = is_conversation(pipeline)
        usual = DecodingConfig() if is_talk else usual_decoding(pipeline.config.model.text.max_tokens)
        pipeline.codec = replace(pipeline.codec, decoding=usual, calibration={}, calibrated_on=None)
        pipeline.domain = None
    example = _example(source, pipeline)
    if layout != "run" and is_conversation(pipeline):
        return _export_talk(pipeline, layout, example, out, device)
    with new_folder(out) as place:
        if layout == "run":
            pipeline.save(place, example, {"environment.json": _environment().encode()})
        else:
            for name, content in (LAYOUTS[layout](pipeline) | pipeline.example_files(example, STORED)).items():
                write_bytes(place / name, content)
        again = open_pipeline(place, device)
        answers = compare(pipeline, again, example)
        names = tuple(sorted(path.name for path in place.iterdir()))
    words = answers.pop("words")
    return Exported(out, names, words, answers)


def _export_graphs(source: Path, layout: str, out: Path) -> Exported:
    """As `export`, for an engine that computes graphs; they are compared on the CPU, within `graph_files.ATOL`."""
    pipeline = open_pipeline(source, torch.device("cpu"))
    example = _example(source, pipeline)
    with new_folder(out) as place:
        compared = write_graphs(pipeline, layout, example, place)
        names = tuple(sorted(path.name for path in place.iterdir()))
    return Exported(out, names, {}, {}, compared.differences, compared.left_out)


def _export_talk(pipeline: Pipeline, layout: str, example: Example, out: Path, device: torch.device) -> Exported:
    """As `export`, of a run that converses: transformers itself computes logits and text of the written folder."""
    with new_folder(out) as place:
        for name, content in LAYOUTS[layout](pipeline).items():
            write_bytes(place / name, content)
        answers = compare_with_transformers(pipeline, place, example)
        # One more word in the vocabulary moves every probability a little: the stored answers are the folder's own.
        again = open_pipeline(place, device)
        for name, content in again.example_files(example, STORED).items():
            write_bytes(place / name, content)
        names = tuple(sorted(path.name for path in place.iterdir()))
    return Exported(out, names, answers.pop("words"), answers)


def compare(original: Pipeline, other: Pipeline, example: Example) -> dict[str, Any]:
    """The answers of two pipelines about one example, if these and every weight agree to the last bit.

    Raises:
        JobError: names the first difference.
    """
    weights, others = original.model.state_dict(), other.model.state_dict()
    differing = sorted(set(weights) ^ set(others))
    differing += [name for name in weights if name in others and not torch.equal(weights[name], others[name])]
    if differing:
        raise JobError(f"the exported model has another {differing[0]}\n  do: report this; nothing was written")
    image, texts = example.inputs["image"], [caption.text for caption in example.captions]
    if original.space is not None:
        for what, vectors in (("image", _images), ("text", _texts)):
            given = image if what == "image" else texts
            first, second = vectors(original, given), vectors(other, given)
            if not np.array_equal(first, second):
                raise JobError(
                    f"the exported model gives the stored {what} another vector, by up to "
                    f"{float(np.abs(first - second).max()):.2e}\n  do: report this; nothing was written"
                )
    has_questions = any(task.needs == "questions" for task in original.tasks.values())
    words = {"question": example.questions[0].text} if has_questions and example.questions else {"text": texts[0]}
    answers, theirs = original.answers_of(image, words), other.answers_of(image, words)
    if answers != theirs:
        wrong = next(key for key in answers if answers[key] != theirs.get(key))
        raise JobError(
            f"the exported model's {wrong} is {theirs.get(wrong)!r} and was {answers[wrong]!r}\n  do: report"
        )
    return answers


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder of a model in which a link leads out of it: what is exported may be published.

    In the cache of Hugging Face's hub every file is a link, `snapshots/REVISION/FILE` to `blobs/HASH` of the same
    model: these are allowed.

    Raises:
        InputError: names the link.
    """
    home = folder.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise InputError(
                f"{path} is a link to {path.resolve()}, out of the folder",
                "a folder whose files are all in it",
                "put a copy of the file there if it belongs to the model, or remove the link",
            )


def _images(pipeline: Pipeline, image: Any) -> np.ndarray:
    return pipeline.shared_space().embed_images(pipeline.model, {IMAGE: pipeline.encode_images([image])})


def _texts(pipeline: Pipeline, texts: Any) -> np.ndarray:
    return pipeline.shared_space().embed_texts(pipeline.model, pipeline.codec, texts)


def _example(source: Path, pipeline: Pipeline) -> Example:
    """The stored example of the source, or a generated one."""
    for name in ("example", STORED):
        if (source / f"{name}.json").is_file() and (source / f"{name}.png").is_file():
            words = read_json(source / f"{name}.json", "the stored example")["words"]
            captions = (Caption(words["text"]),) if "text" in words else ()
            questions = (Question(words["question"], ("",)),) if "question" in words else ()
            image = image_ref_from_bytes((source / f"{name}.png").read_bytes(), f"{name}.png")
            if captions:
                return Example("stored", {"image": image}, captions, questions)
    language = pipeline.config.data.languages[0]
    data = ScenesConfig(train_pictures=1, questions_per_picture=1, languages=(language,))
    return SceneDataset("train", data, 0).example(0)


def _environment() -> str:
    import json

    return json.dumps(environment(), indent=2) + "\n"
