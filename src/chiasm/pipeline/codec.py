"""The tokenizer and the answer vocabulary of a run: learned from its training examples, or read from its folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chiasm.core.config import from_dict
from chiasm.core.errors import InputError
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
from chiasm.tasks import task_type
from chiasm.tasks.base import CalibratedOn, Calibration, Codec
from chiasm.tasks.classification import class_vocabulary
from chiasm.tasks.vqa import VisualQuestionAnswering, answer_vocabulary

MINILM_WRAP = ("[CLS]", "[SEP]")
CALIBRATED_ON, CLASSES = "calibrated_on.json", "classes.json"


def make_codec(config: PipelineConfig, examples: Sequence[Example], tokenizer: TextTokenizer | None = None) -> Codec:
    """Learn the vocabularies from training examples; the tokenizer may be given, or belong to a pre-trained tower."""
    needs_answers = any(issubclass(task_type(name), VisualQuestionAnswering) for name in config.tasks)
    answers = (labels_of(config.model.network) or answer_vocabulary(examples)) if needs_answers else ()
    if needs_answers and not answers:
        raise InputError("no training example has a question", "examples with questions and answers", "check the data")
    if tokenizer is None:
        tokenizer = make_tokenizer(config, examples)
    names_classes = any(task_type(name).needs == "labels" for name in config.tasks)
    classes = class_vocabulary(examples) if names_classes else ()
    return Codec(tokenizer, answers, classes, decoding=config.decoding)


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
    answers = tuple(read_json(folder / "answers.json", "the answer vocabulary"))
    fitted = read_json(folder / "calibration.json", "the calibration")
    calibration = {task: from_dict(Calibration, one, f"calibration.json.{task}") for task, one in fitted.items()}
    codec = Codec(tokenizer_from(config, folder), answers, decoding=config.decoding, calibration=calibration)
    codec.classes = classes_of(folder)
    if (folder / CALIBRATED_ON).exists():
        stored = read_json(folder / CALIBRATED_ON, "what the calibration was fitted on")
        codec.calibrated_on = from_dict(CalibratedOn, stored, CALIBRATED_ON)
    return codec


def classes_of(folder: Path) -> tuple[str, ...]:
    """Classes that the run in a folder was trained to name; () where it was not."""
    return tuple(read_json(folder / CLASSES, "the classes")) if (folder / CLASSES).exists() else ()


def tokenizer_from(config: PipelineConfig, folder: Path) -> TextTokenizer:
    """Read the tokenizer of a run folder."""
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    if config.model.text.kind in (KIND, "multilingual_e5", "multilingual_use"):
        return PretrainedTokenizer.from_json(content, config.model.text.max_tokens)
    wrap = MINILM_WRAP if config.model.text.kind == "minilm" else (START, END)
    return TextTokenizer.from_json(content, config.model.text.max_tokens, wrap)
