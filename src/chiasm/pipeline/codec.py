"""The tokenizer and the vocabularies of a run: learned from its training examples, or read from its folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chiasm.core.config import from_dict
from chiasm.core.files import read_json
from chiasm.core.types import Example
from chiasm.data.dataset import texts_of
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.data.tokenizers.wordpiece import END, START, TextTokenizer
from chiasm.models.encoders import multilingual_e5 as e5
from chiasm.models.encoders import multilingual_use as use
from chiasm.models.encoders.minilm import load_minilm_tokenizer
from chiasm.models.networks import labels_of
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.preprocessing import KIND, folder_tokenizer
from chiasm.tasks import build_tasks, task_type
from chiasm.tasks.calibration import CalibratedOn, Calibration
from chiasm.tasks.codec import Codec

MINILM_WRAP = ("[CLS]", "[SEP]")
CALIBRATED_ON = "calibrated_on.json"


def make_codec(config: PipelineConfig, examples: Sequence[Example], tokenizer: TextTokenizer | None = None) -> Codec:
    """Learn the vocabularies from training examples; the tokenizer may be given, or belong to a pre-trained tower."""
    stated, vocabularies = labels_of(config.model.network), dict[str, tuple[str, ...]]()
    for task in build_tasks(config.tasks, config.model).values():
        vocabularies |= task.vocabulary(examples, stated)
    if tokenizer is None:
        tokenizer = make_tokenizer(config, examples)
    return Codec(tokenizer, vocabularies, decoding=config.decoding)


def make_tokenizer(config: PipelineConfig, examples: Iterable[Example]) -> TextTokenizer:
    """The pre-trained text tower's tokenizer, or one learned from the texts of the examples."""
    text = config.model.text
    if text.kind == "minilm":
        return TextTokenizer(load_minilm_tokenizer(), text.max_tokens, MINILM_WRAP)
    if text.kind == "multilingual_e5":
        return PretrainedTokenizer(e5.load_multilingual_e5_tokenizer(), text.max_tokens, *e5.WRAP, e5.PAD, e5.MASK)
    if text.kind == "multilingual_use":
        return PretrainedTokenizer(use.load_multilingual_use_tokenizer(), text.max_tokens, *use.WRAP, use.PAD)
    if text.kind == KIND:
        return folder_tokenizer(text)
    return TextTokenizer.train(texts_of(examples), text.vocabulary, text.max_tokens, config.data.languages)


def codec_from(config: PipelineConfig, folder: Path) -> Codec:
    """Read the vocabularies that `Pipeline.codec_files` wrote."""
    names = dict.fromkeys(name for task in config.tasks for name in task_type(task).vocabularies)
    fitted = read_json(folder / "calibration.json", "the calibration")
    calibration = {task: from_dict(Calibration, one, f"calibration.json.{task}") for task, one in fitted.items()}
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


def tokenizer_from(config: PipelineConfig, folder: Path) -> TextTokenizer:
    """Read the tokenizer of a run folder."""
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if config.model.text.kind in (KIND, "multilingual_e5", "multilingual_use"):
        return PretrainedTokenizer.from_json(content, config.model.text.max_tokens)
    wrap = MINILM_WRAP if config.model.text.kind == "minilm" else (START, END)
    return TextTokenizer.from_json(content, config.model.text.max_tokens, wrap)
