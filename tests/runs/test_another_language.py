"""A run learns to read another language: what sees pictures stays, bit for bit, and the teacher says where words go."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small import retrieval_alone, save_pictures, small_config, start, stopped_and_whole

import chiasm
from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.core.files import cache_root
from chiasm.core.types import Caption, Example
from chiasm.data.generated.scene_language import WORDS
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.pipeline.feature_cache import prepare
from chiasm.pipeline.pipeline import Pipeline
from chiasm.pipeline.teacher_targets import attach_teacher_targets
from chiasm.recipes.table import find_recipe
from chiasm.serve.index import make_index, open_index
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.text_targets import TARGETS, caption_targets
from chiasm.tasks.vqa import VqaConfig
from chiasm.train.adaptation import apply_text_teacher
from chiasm.train.config import RunConfig

CPU = torch.device("cpu")


def english(**train: Any) -> RunConfig:
    """Retrieval alone, in English."""
    config = retrieval_alone(**train)
    return replace(config, data=replace(config.data, languages=("en",)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("english") / "run"
    start(english(), folder)
    return folder


def learning(base: Path, share: float = 0.5, **train: Any) -> RunConfig:
    """The recipe's setting on scenes."""
    config = english(**train)
    return replace(
        config,
        init_from=str(base),
        data=replace(config.data, languages=("en", "zh")),
        model=replace(config.model, dropout=0.0, dim=999, heads=3, embedding_dim=7),  # the teacher's count
        tasks={"retrieval": RetrievalConfig(captions_per_picture=2, text_teacher=share)},
    )


def test_pictures_keep_their_vectors_and_words_get_new_ones(base: Path, tmp_path: Path) -> None:
    """Guards against an image side that moves, an index that is lost, and words that are still the teacher's."""
    _, said = start(learning(base), tmp_path / "run")
    before, after = (safetensors.torch.load_file(place / "model.safetensors") for place in (base, tmp_path / "run"))
    seeing = [name for name in before if not name.startswith("text_")]
    assert seeing and all(torch.equal(before[name], after[name]) for name in seeing)
    assert "image_projection.layers.2.weight" in seeing and "logit_scale" in seeing
    assert before["text_encoder.embedding.weight"].shape != after["text_encoder.embedding.weight"].shape
    old, new = chiasm.load(base), chiasm.load(tmp_path / "run")
    assert new.languages == ("en", "zh") and "tensors taken" in said
    scenes = open_dataset(new.pipeline.config.data, "test", 0)
    photos = tmp_path / "photos"
    pictures = save_pictures(scenes, photos, 4)
    assert np.array_equal(old.encode_image(pictures), new.encode_image(pictures))
    make_index(tmp_path / "index", [photos], base)[0].store.close()
    index = open_index(tmp_path / "index", new)
    hits = index.search("左上有小的红色圆形")
    assert len(hits) == 4
    words = new.encode_text(["左上有小的红色圆形"])[0]
    assert hits[0].similarity == pytest.approx(float((new.encode_image(pictures) @ words).max()), abs=1e-5)
    assert old.pipeline.codec.tokenizer.remarks("左上") and not new.pipeline.codec.tokenizer.remarks("左上")


def test_a_stopped_run_goes_on_to_the_same_bits(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against targets that are not there again after a stop."""
    config = learning(base)
    parts, whole = stopped_and_whole(config, tmp_path, monkeypatch)
    assert parts == whole


def test_words_come_to_where_the_teacher_puts_them(base: Path, tmp_path: Path) -> None:
    """Guards against targets of other captions, and a share that pulls the wrong way: cosines on unseen pictures."""
    for name, steps in (("far", 1), ("near", 60)):
        plain = {"lr": 1e-2, "accumulate": 1, "ema_decay": 0.0, "validate_every": steps}
        start(learning(base, 1.0, steps=steps, **plain), tmp_path / name)
    teacher = chiasm.load(base)
    cosines = {}
    for name in ("far", "near"):
        student = chiasm.load(tmp_path / name)
        scenes = open_dataset(student.pipeline.config.data, "test", 0)
        examples = [scenes.example(number) for number in range(8)]
        own = teacher.encode_text([example.captions[0].text for example in examples])
        for place, language in ((0, "en"), (1, "zh")):
            assert examples[0].captions[place].language == language
            read = student.encode_text([example.captions[place].text for example in examples])
            cosines[name, language] = float((own * read).sum(1).mean())
    for language in ("en", "zh"):
        assert cosines["near", language] > 0.9 > cosines["far", language], cosines


def test_targets_are_the_teachers_vectors_or_their_mean(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a translation that is drawn to one caption alone, and a teacher asked in a foreign language."""
    config = apply_text_teacher(learning(base))
    training = open_dataset(config.data, "train", 0)
    pipeline = Pipeline.build(config, [training.example(0)], CPU)
    pipeline.take_weights(base, ("text_encoder.", "text_projection."))
    teacher = Pipeline.load(base, CPU)
    ready = attach_teacher_targets(
        teacher, prepare(pipeline, training, cache_root(), lambda *_: None), cache_root(), lambda *_: None
    )
    model = chiasm.load(base)
    for number in range(3):
        example = ready.example(number)
        en, zh = example.captions
        vector = model.encode_text([en.text])[0]
        np.testing.assert_allclose(example.inputs[TARGETS][en], vector, atol=1e-6)
        np.testing.assert_allclose(example.inputs[TARGETS][zh], vector, atol=1e-6)
    captions = (Caption("a", "en"), Caption("b", "en"), Caption("甲", "zh"))
    known = {"a": np.array([1.0, 0.0], np.float32), "b": np.array([0.0, 1.0], np.float32)}
    found = caption_targets(captions, known)
    assert found[captions[0]].tolist() == [1, 0] and found[captions[2]] == pytest.approx([0.5**0.5] * 2)
    assert caption_targets(captions[2:], known) == {}
    fields = pipeline.tasks["retrieval"].collate(
        [replace(ready.example(0), inputs={}), ready.example(1)], pipeline.codec, config.seed, 0
    )
    assert fields["has_target"].tolist() == [False, False, True, True] and not fields["text_target"][:2].any()


def without_english(example: Example) -> Example:
    return replace(example, captions=tuple(one for one in example.captions if one.language != "en"))


def test_a_set_that_the_teacher_cannot_read_is_refused(base: Path) -> None:
    """Guards against a loss of zero that teaches nothing and says so nowhere."""
    from chiasm.data.dataset import ListDataset

    scenes = open_dataset(learning(base).data, "train", 0)
    examples = [without_english(scenes.example(number)) for number in range(4)]
    with pytest.raises(InputError, match="no caption in en, the teacher's languages"):
        attach_teacher_targets(
            Pipeline.load(base, CPU), ListDataset("train", examples, Ledger()), cache_root(), lambda *_: None
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: replace(config, init_from=""), "init_from is not set"),
        (lambda config: override(config, ["train.trainable=image_projection.*"]), "beside a text teacher"),
        (lambda config: override(config, ["tasks.retrieval.text_teacher=1.5"]), "a share in"),
        (lambda config: override(config, ["tasks.retrieval.objective=sigmoid"]), "objective 'sigmoid'"),
        (lambda config: replace(config, init_from="nowhere"), "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused(
    base: Path, tmp_path: Path, change: Callable[[RunConfig], RunConfig], message: str
) -> None:
    """Guards against a run that trains for an hour towards nothing."""
    with pytest.raises(InputError, match=message):
        start(change(learning(base)), tmp_path / "run")


def test_a_teacher_without_a_space_is_refused(base: Path, tmp_path: Path) -> None:
    """Guards against a random image side that is locked."""
    config = small_config(steps=2)
    start(replace(config, tasks={"vqa": VqaConfig()}), tmp_path / "vqa")
    with pytest.raises(InputError, match="was trained for vqa"):
        start(replace(learning(base), init_from=str(tmp_path / "vqa")), tmp_path / "run")


def test_a_multilingual_network_of_ones_own_takes_the_place(base: Path, tmp_path: Path) -> None:
    """Guards against a tower out of a folder that gets the teacher's words or weights."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    folder = tmp_path / "bert"
    folder.mkdir()
    characters = [chr(code) for code in range(97, 123)] + sorted(
        set("".join(WORDS["zh"].values()) + "有，上下左右边方中间的")
    )
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *characters, *(f"##{one}" for one in characters)]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)), encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertConfig(vocab_size=len(dict.fromkeys(pieces)), **sizes)
    transformers.BertModel(bert, add_pooling_layer=False).save_pretrained(folder)
    settings = ["model.text.kind=hugging_face", f"model.text.name={folder}", "model.text.max_tokens=512"]
    start(override(learning(base), settings), tmp_path / "run")
    old, new = chiasm.load(base), chiasm.load(tmp_path / "run")
    assert old.pipeline.embedding_fingerprint() == new.pipeline.embedding_fingerprint()
    assert new.encode_text(["左上有小的红色圆形", "a small red circle top left"]).shape == (2, 16)
    assert not new.pipeline.codec.tokenizer.remarks("左上有小的红色圆形")


def test_recipe_is_the_setting_that_is_tested() -> None:
    """Guards against a recipe without a teacher."""
    config = find_recipe("another_language")
    assert config.tasks["retrieval"].text_teacher > 0 and config.data.languages == ("en", "zh")
