"""An encoder that somebody else wrote: one class and one entry in a table, and nothing in the package changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from chiasm.core.config import from_dict, keys, override, to_dict
from chiasm.core.errors import InputError
from chiasm.core.resizing import Resizing
from chiasm.core.types import IMAGE, Example, TextTokens, Tokens
from chiasm.data.opening import open_dataset
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.checks import check_encoder
from chiasm.models.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from chiasm.models.encoders.base import (
    EncoderShape,
    ImagePreprocessing,
    ImageTowerConfig,
    PackagedTokenizer,
    TextTowerConfig,
    TokenizerSource,
)
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.retrieval import Retrieval, RetrievalConfig
from chiasm.train.config import RunConfig

CPU = torch.device("cpu")
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "red", "blue", "green", "circle", "square", "a"]


class Stripes(nn.Module):
    """The mean colour of each of some rows of the image, one token a row."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.rows, self.dim = rows, dim
        self.map = nn.Linear(3, dim)

    def forward(self, image: Tensor) -> Tokens:
        values = self.map(nn.functional.adaptive_avg_pool2d(image, (self.rows, 1))[..., 0].transpose(1, 2))
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool), values.mean(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class StripesConfig(ImageTowerConfig):
    """Stripes of an image."""

    kind: Literal["stripes"] = "stripes"
    rows: int = 4

    def build(self, shape: EncoderShape) -> nn.Module:
        return Stripes(self.rows, shape.dim)

    def preprocessing(self) -> ImagePreprocessing:
        return ImagePreprocessing(Resizing("shortest", (8, 8), (9,), (8, 8), 2), f"stripes of {self.size_px}")


class Bag(nn.Module):
    """A vector a word."""

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.dim, self.max_tokens = dim, 12
        self.words = nn.Embedding(words, dim)

    def forward(self, text: TextTokens) -> Tokens:
        values, weight = self.words(text.ids), text.is_real[..., None]
        return Tokens(values, text.is_real, (values * weight).sum(1) / weight.sum(1))


def own_tokenizer() -> Tokenizer:
    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, WORDS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS[:4])
    return tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class BagConfig(TextTowerConfig):
    """A bag of the ten words that its package brings."""

    kind: Literal["bag"] = "bag"

    def build(self, shape: EncoderShape) -> nn.Module:
        return Bag(len(WORDS), 24)

    def tokenizer(self) -> TokenizerSource:
        return PackagedTokenizer(own_tokenizer, ("<s>",), ("</s>",), "<pad>")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two entries, taken out again after the test."""
    monkeypatch.setitem(IMAGE_ENCODERS, "stripes", StripesConfig)
    monkeypatch.setitem(TEXT_ENCODERS, "bag", BagConfig)


@pytest.fixture
def config(added: None) -> RunConfig:
    """A small retrieval model of the two encoders, as a command line would name it."""
    words = ["model.image.kind=stripes", "model.image.rows=5", "model.text.kind=bag", "model.text.max_tokens=12"]
    demo = override(find_recipe("demo", tiny=True), [*words, "model.dim=16", "model.embedding_dim=8"])
    return RunConfig(recipe="mine", data=demo.data, model=demo.model, tasks={"retrieval": RetrievalConfig()})


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    data = open_dataset(find_recipe("demo", tiny=True).data, "train", 0)
    return [data.example(number) for number in range(4)]


def test_the_encoders_keep_the_contract(added: None) -> None:
    """The null control: what is added is a whole encoder, as the package's own are."""
    torch.manual_seed(0)
    shape = EncoderShape(dim=16, heads=2)
    check_encoder(IMAGE_ENCODERS["stripes"]().build(shape), torch.rand(3, 3, 8, 8) * 2 - 1)
    ids = torch.randint(4, 10, (4, 9))
    text = TextTokens(ids, torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None])
    check_encoder(TEXT_ENCODERS["bag"]().build(shape), text)


def test_its_keys_are_known_and_no_others(config: RunConfig) -> None:
    """Guards against a table that config does not read, and against keys of other kinds that are taken in silence."""
    named = dict(keys(config))
    assert named["model.image.rows"] == 5 and "model.image.channels" not in named
    assert from_dict(RunConfig, to_dict(config)) == config
    with pytest.raises(InputError, match=r"'model\.image\.points' means something for model\.image\.kind keypoints"):
        override(config, ["model.image.points=9"])
    with pytest.raises(InputError, match=r"'model\.image\.rows' means something for model\.image\.kind stripes"):
        override(find_recipe("demo"), ["model.image.rows=9"])


def similarity(pipeline: Pipeline, examples: list[Example]) -> np.ndarray:
    task: Retrieval = pipeline.task(Retrieval)
    tokens = {IMAGE: pipeline.encode_images([one.inputs["image"] for one in examples])}
    texts = task.embed_texts(pipeline.model, pipeline.codec, ["a red circle"])
    return task.embed_images(pipeline.model, tokens) @ texts.T


def test_it_answers_and_comes_back_from_a_run_folder(
    config: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    """Guards against a room that knows kinds by name: building, pixels, words, saving, loading, answering."""
    made = Pipeline.build(config, examples, CPU)
    assert isinstance(made.model.image_encoder, Stripes) and made.model.image_encoder.rows == 5
    assert made.encode_images([one.inputs["image"] for one in examples]).values.shape == (4, 5, 16)
    assert made.image_fingerprint().startswith("stripes-stripes of 48-")
    assert made.resizing == Resizing("shortest", (8, 8), (9,), (8, 8), 2)
    assert made.codec.tokenizer.ids("a red circle") == [1, 9, 4, 7, 2]
    made.save(tmp_path / "run", examples[0], {})
    back = Pipeline.load(tmp_path / "run", CPU)
    assert isinstance(back.codec.tokenizer, PretrainedTokenizer)
    assert back.codec.tokenizer.to_json() == made.codec.tokenizer.to_json()
    found, same = (similarity(one, examples) for one in (back, made))
    assert (found == same).all()


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedStripesConfig(StripesConfig):
    """Stripes whose weights an installed package would bring."""

    is_packaged: ClassVar[bool] = True


@pytest.mark.parametrize(("entry", "is_saved"), [(StripesConfig, True), (PackagedStripesConfig, False)])
def test_a_frozen_one_is_saved_unless_a_package_brings_it(
    entry: type[StripesConfig],
    is_saved: bool,
    config: RunConfig,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against weights that are left out of a run folder although nothing else has them, and against copies."""
    monkeypatch.setitem(IMAGE_ENCODERS, "stripes", entry)
    frozen = override(config, ["model.image.kind=stripes", "model.image.frozen=true"])
    made = Pipeline.build(frozen, examples, CPU)
    assert ("image_encoder.map.weight" in made.saved_names()) == is_saved
    assert bool(made.image_fingerprint_if_frozen()) != is_saved
