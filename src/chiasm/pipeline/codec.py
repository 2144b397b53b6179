"""The tokenizer and the vocabularies of a run: learned from its training examples, or read from its folder."""

from collections.abc import Sequence
from pathlib import Path

from chiasm.core.config import from_dict
from chiasm.core.files import read_json
from chiasm.core.types import Example
from chiasm.data.tokenizers.wordpiece import TextTokenizer
from chiasm.models.networks import labels_of
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.tokenizers import make_tokenizer, tokenizer_from
from chiasm.tasks import build_tasks, task_type
from chiasm.tasks.calibration import CalibratedOn, Calibration
from chiasm.tasks.codec import Codec

CALIBRATED_ON = "calibrated_on.json"


def make_codec(config: PipelineConfig, examples: Sequence[Example], tokenizer: TextTokenizer | None = None) -> Codec:
    """Learn the vocabularies from training examples; the tokenizer may be given, or belong to a pre-trained tower."""
    stated, vocabularies = labels_of(config.model.network), dict[str, tuple[str, ...]]()
    for task in build_tasks(config.tasks, config.model).values():
        vocabularies |= task.vocabulary(examples, stated)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, examples)
    return Codec(tokenizer, vocabularies, decoding=config.decoding)


def codec_from(config: PipelineConfig, folder: Path) -> Codec:
    """Read the vocabularies that `Pipeline.codec_files` wrote."""
    names = dict.fromkeys(name for task in config.tasks for name in task_type(task).vocabularies)
    fitted = read_json(folder / "calibration.json", "the calibration")
    calibration = {task: from_dict(Calibration, values, f"calibration.json.{task}") for task, values in fitted.items()}
    vocabularies = {name: vocabulary_in(folder, name) for name in names}
    codec = Codec(tokenizer_from(config, folder), vocabularies, decoding=config.decoding, calibration=calibration)
    if (folder / CALIBRATED_ON).exists():
        stored = read_json(folder / CALIBRATED_ON, "what the calibration was fitted on")
        codec.calibrated_on = from_dict(CalibratedOn, stored, CALIBRATED_ON)
    return codec


def vocabulary_file(name: str) -> str:
    """Name of the file that keeps a vocabulary in a run folder."""
    return f"{name}.json"


def vocabulary_in(folder: Path, name: str) -> tuple[str, ...]:
    """A vocabulary of the run in a folder; () where it has none of that name."""
    path = folder / vocabulary_file(name)
    return tuple(read_json(path, f"the vocabulary of {name}")) if path.exists() else ()
