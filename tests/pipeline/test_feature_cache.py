"""Frozen towers run once a picture: the cache is found again, distrusts itself, and loses nothing."""

import gc
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE, Example, Source, Tokens
from chiasm.data.dataset import ListDataset, Subset, examples_of
from chiasm.data.files import FilesConfig
from chiasm.data.image_refs import image_ref
from chiasm.data.ledger import Ledger
from chiasm.data.opening import open_dataset
from chiasm.models.inputs import grouped
from chiasm.pipeline import feature_cache as features
from chiasm.pipeline.batching import FEATURES, input_values, make_batch, to_model_range
from chiasm.pipeline.feature_cache import (
    FeatureCache,
    cache_texts,
    check_images,
    encode_images,
    prepare,
)
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import queries_of
from chiasm.train.config import RunConfig

Write = Callable[[int], list[Example]]


def quiet(done: int, total: int, what: str) -> None:
    """Say nothing about progress."""


def use_grid(pipeline: Pipeline, grid: bool) -> None:
    """Make a pipeline ask its tower for the grid, or for the vector alone."""
    config = pipeline.config
    image = replace(config.model.image, grid=grid)
    pipeline.config = replace(config, model=replace(config.model, image=image))


def ledger_for(examples: list[Example]) -> Ledger:
    ledger = Ledger()
    ledger.offer(len(examples))
    ledger.use(len(examples))
    return ledger


def encoded(pipeline: Pipeline, examples: list[Example], ledger: Ledger, cache: Path) -> list[Example]:
    """Examples with features."""
    return list(examples_of(encode_images(pipeline, ListDataset("train", examples, ledger), cache, quiet)))


def checked(examples: list[Example], ledger: Ledger) -> list[Example]:
    """Examples whose images can be read."""
    return list(examples_of(check_images(ListDataset("train", examples, ledger), quiet)))


def parts_of(example: Example) -> list[np.ndarray]:
    """The vector, and the grid if there is one."""
    cached = example.inputs[FEATURES]
    return [cached.pooled] if cached.values is None else [cached.pooled, cached.values]


class Counted:
    """A pipeline that counts the pictures that its tower sees."""

    def __init__(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, fail_after: int = 10**9) -> None:
        self.pictures = 0
        encode = pipeline.encode_pixels

        def counted(image: torch.Tensor) -> object:
            if self.pictures >= fail_after:
                raise KeyboardInterrupt
            self.pictures += len(image)
            return encode(image)

        monkeypatch.setattr(pipeline, "encode_pixels", counted)


@pytest.mark.parametrize("grid", [False, True])
def test_cached_features_are_those_of_the_tower(
    grid: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a vector or grid under another picture's name, and a second pass that encodes again."""
    monkeypatch.setattr(features, "CHUNK", 2)
    use_grid(pipeline, grid)
    pictures = picture_files(5)
    expected = pipeline.encode_images([example.inputs["image"] for example in pictures])
    counted = Counted(pipeline, monkeypatch)
    for round_number, order in enumerate((pictures, pictures[::-1])):
        found = encoded(pipeline, order, ledger_for(order), tmp_path / "cache")
        assert counted.pictures == 5, f"encoded again in round {round_number}"
        assert [example.id for example in found] == [example.id for example in order]
        for example in found:
            cached, number = example.inputs[FEATURES], int(example.id)
            pooled = torch.from_numpy(cached.pooled)
            torch.testing.assert_close(pooled, expected.pooled[number], rtol=1e-5, atol=1e-5)
            assert (cached.values is not None) == grid
            if grid:
                assert cached.values.dtype == np.float16
                values = torch.from_numpy(cached.values).float()
                torch.testing.assert_close(values, expected.values[number], rtol=2**-10, atol=1e-5)


def test_a_vector_without_its_grid_is_encoded_again(
    tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a KeyError in training after a search, which leaves vectors alone in the same cache."""
    use_grid(pipeline, True)
    pictures = picture_files(3)
    keys = [example.inputs["image"].content_key() for example in pictures]
    FeatureCache(tmp_path, pipeline.image_fingerprint()).add(keys, np.zeros((3, 16), dtype=np.float32))
    counted = Counted(pipeline, monkeypatch)
    for _ in range(2):
        found = encoded(pipeline, pictures, ledger_for(pictures), tmp_path)
        assert counted.pictures == 3
        assert all(example.inputs[FEATURES].values is not None for example in found)


def test_what_is_prepared_holds_no_vector(
    tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against memory that grows with the vectors: an example's features are made when it is asked for."""
    monkeypatch.setattr(features, "CHUNK", 2)
    pictures = picture_files(5)
    ready = encode_images(pipeline, ListDataset("train", pictures, ledger_for(pictures)), tmp_path, quiet)
    whole = [array for example in examples_of(ready) for array in parts_of(example)]
    gc.collect()
    alive = [one for one in gc.get_objects() if type(one) is features.Features]
    assert not alive, "no features are alive once their examples are gone"
    again = [array for index in (4, 0, 2) for array in parts_of(Subset(ready, [index]).example(0, 3))]
    count = len(whole) // 5
    expected = [array for index in (4, 0, 2) for array in whole[index * count : (index + 1) * count]]
    assert all(np.array_equal(one, other) for one, other in zip(again, expected, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what is mapped")
def test_vectors_and_grids_stay_on_disk(tmp_path: Path) -> None:
    """Guards against a copy in memory: a million photos are 7 GB of vectors and 42 GB of grids, a step needs 512."""
    store = FeatureCache(tmp_path, "tower")
    grids = np.arange(4 * 6 * 3, dtype=np.float16).reshape(4, 6, 3)
    store.add(["a", "b", "c", "d"], np.ones((4, 5), dtype=np.float32), grids)
    (chunk,) = tmp_path.rglob("*.safetensors")
    for opened in (store, FeatureCache(tmp_path, "tower")):
        mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if chunk.name in line]
        ranges = [range(*(int(edge, 16) for edge in span.split("-"))) for span in mapped]
        for key, grid in zip("abcd", grids, strict=True):
            assert np.array_equal(opened.grids[key], grid)
            assert any(opened.grids[key].ctypes.data in one for one in ranges)
            assert any(opened.vectors[key].ctypes.data in one for one in ranges)


def test_a_grid_is_whole_and_within_float16(tmp_path: Path, pipeline: Pipeline, picture_files: Write) -> None:
    """Guards against infinities in the cache, and padding that would be taken for tokens."""
    use_grid(pipeline, True)
    pictures = picture_files(2)
    is_real = torch.ones(2, 3, dtype=torch.bool)
    broken = {
        "float16": Tokens(torch.full((2, 3, 4), 1e5), is_real, torch.ones(2, 4)),
        "padded": Tokens(torch.ones(2, 3, 4), ~is_real, torch.ones(2, 4)),
    }
    for message, tokens in broken.items():
        pipeline.encode_pixels = lambda _, tokens=tokens: tokens
        with pytest.raises(AssertionError, match=message):
            encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
        assert not list(tmp_path.rglob("*.safetensors"))


def test_an_opened_cache_reads_no_vectors_that_an_earlier_opening_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an opening that reads every vector ever kept; a file that has changed since is still compared."""
    for number in range(3):
        vectors = np.full((2, 1000), number, dtype=np.float32)
        FeatureCache(tmp_path, "tower").add([f"{number}a", f"{number}b"], vectors)
    compared: list[str] = []
    compare = features.sha256_file
    monkeypatch.setattr(features, "sha256_file", lambda path: compared.append(path.name) or compare(path))
    FeatureCache(tmp_path, "tower")
    assert len(compared) == 1, "the chunk that was added last"
    compared.clear()
    assert len(FeatureCache(tmp_path, "tower").vectors) > 0
    assert compared == []
    (changed, *_) = sorted(tmp_path.rglob("*.safetensors"))
    changed.write_bytes(changed.read_bytes()[:-4] + b"abcd")
    FeatureCache(tmp_path, "tower")
    assert compared == [changed.name] and not changed.exists()
    (tmp_path / "tower" / features.WHOLE).write_text("[1")
    compared.clear()
    assert len(FeatureCache(tmp_path, "tower").vectors) > 0
    assert len(compared) == 2


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("damage", ["half", "empty", "one flipped bit", "zero-filled"])
def test_a_damaged_chunk_is_encoded_again(
    damage: str, grid: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against training on wrong vectors: safetensors itself does not notice a flipped bit."""
    use_grid(pipeline, grid)
    pictures = picture_files(3)
    # Copied, because the grids are mapped from the very file that is damaged here.
    first = [
        np.concatenate([part.ravel() for part in parts_of(example)])
        for example in encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
    ]
    (chunk,) = (tmp_path / "cache").rglob("*.safetensors")
    content = chunk.read_bytes()
    chunk.write_bytes(
        {
            "half": content[: len(content) // 2],
            "empty": b"",
            "one flipped bit": content[:-9] + bytes([content[-9] ^ 64]) + content[-8:],
            "zero-filled": bytes(len(content)),
        }[damage]
    )
    counted = Counted(pipeline, monkeypatch)
    second = encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
    assert counted.pictures == 3
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, np.concatenate([part.ravel() for part in parts_of(other)]))
    assert chunk.read_bytes() == content


@pytest.mark.parametrize("grid", [False, True])
def test_an_interrupted_pass_is_continued(
    grid: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an hour of encoding that is lost with the last chunk."""
    use_grid(pipeline, grid)
    monkeypatch.setattr(features, "CHUNK", 2)
    pictures = picture_files(6)
    with monkeypatch.context() as patch:
        Counted(pipeline, patch, fail_after=4)
        with pytest.raises(KeyboardInterrupt):
            encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
    counted = Counted(pipeline, monkeypatch)
    assert len(encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")) == 6
    assert counted.pictures == 2


def test_another_tower_has_another_cache(
    tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against vectors of the weights of yesterday."""
    pictures = picture_files(2)
    encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
    with torch.no_grad():
        pipeline.model.image_encoder.norm.bias += 1
    counted = Counted(pipeline, monkeypatch)
    encoded(pipeline, pictures, ledger_for(pictures), tmp_path / "cache")
    assert counted.pictures == 2
    assert len(list((tmp_path / "cache").iterdir())) == 2


def broken_files(tmp_path: Path, pictures: list[Example]) -> list[Example]:
    """Three more: an absent file, a cut one, and the first picture's bytes under another name."""
    cut, double = tmp_path / "cut.png", tmp_path / "double.png"
    whole = (tmp_path / "0.png").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    double.write_bytes(whole)
    names = {"absent": tmp_path / "absent.png", "cut": cut, "double": double}
    more = [Example(name, {"image": image_ref(path)}, source=Source(path.name)) for name, path in names.items()]
    return [pictures[0], more[0], pictures[1], more[1], more[2]]


@pytest.mark.parametrize("is_frozen", [True, False])
def test_unreadable_pictures_go_to_the_ledger_and_doubles_into_one_group(
    is_frozen: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a crash in the middle of an epoch, a sum that does not come out, and false negatives."""
    pictures = broken_files(tmp_path, picture_files(2))
    ledger = ledger_for(pictures)
    counted = Counted(pipeline, monkeypatch)
    if is_frozen:
        found = encoded(pipeline, pictures, ledger, tmp_path / "cache")
        assert counted.pictures == 2, "equal pictures are encoded once"
    else:
        found = checked(pictures, ledger)
    assert [example.id for example in found] == ["0", "1", "double"]
    assert found[0].group == found[2].group != found[1].group
    assert (ledger.offered, ledger.used, ledger.rejected) == (5, 3, 2)
    assert ledger.counts()["missing"] == 1 and {entry.file for entry in ledger.entries} == {"absent.png", "cut.png"}
    ledger.check(0.5)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_pictures_of_a_class_stay_together(
    is_frozen: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write
) -> None:
    """Guards against two photos of a cat, each with the caption "a photo of a cat.", as each other's negatives."""
    names = ("label:cat", "label:cat", "patient 7", "")
    pictures = [replace(one, group=name) for one, name in zip(picture_files(4), names, strict=True)]
    ledger = ledger_for(pictures)
    found = encoded(pipeline, pictures, ledger, tmp_path / "cache") if is_frozen else checked(pictures, ledger)
    keys = [example.inputs["image"].content_key() for example in pictures]
    assert [example.group for example in found] == ["label:cat", "label:cat", keys[2], keys[3]]


def test_too_many_unreadable_pictures_stop_the_run(
    tmp_path: Path, config: RunConfig, pipeline: Pipeline, picture_files: Write
) -> None:
    """Guards against training on what is left of a broken folder."""
    pictures = broken_files(tmp_path, picture_files(2))
    pipeline.config = replace(config, data=FilesConfig(path="x", max_rejected=0.3))
    with pytest.raises(InputError, match="2 rejected"):
        prepare(pipeline, ListDataset("train", pictures, ledger_for(pictures)), tmp_path, quiet)
    pipeline.config = replace(config, data=FilesConfig(path="x", max_rejected=0.4))
    assert len(prepare(pipeline, ListDataset("train", pictures, ledger_for(pictures)), tmp_path, quiet)) == 3


def test_text_vectors_are_those_of_the_tower(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against padding in a cached vector and against a text under another's name."""
    monkeypatch.setattr(features, "CHUNK", 2)
    texts = ["a red circle", "a small red circle top left, a large cyan triangle bottom", "", "a red circle", "圆形"]
    cache_texts(pipeline, texts, tmp_path, quiet)
    first = dict(pipeline.codec.text_vectors)
    assert set(first) == set(texts)
    for text, vector in first.items():
        assert np.array_equal(vector, pipeline.encode_texts([text])[0])
    pipeline.codec.text_vectors.clear()
    monkeypatch.setattr(pipeline, "encode_texts", None)  # a second pass asks the tower nothing
    cache_texts(pipeline, texts, tmp_path, quiet)
    assert all(np.array_equal(first[text], pipeline.codec.text_vectors[text]) for text in first)


def test_texts_of_like_length_share_a_batch(
    tmp_path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against one long text in each batch, which pads all others to its length."""
    monkeypatch.setattr(features, "CHUNK", 2)
    asked: list[list[int]] = []
    encode = pipeline.encode_texts

    def watched(texts: list[str]) -> object:
        asked.append([len(text) for text in texts])
        return encode(texts)

    monkeypatch.setattr(pipeline, "encode_texts", watched)
    cache_texts(pipeline, ["a red circle " * 3, "a", "a red circle", "a circle"], tmp_path, quiet)
    assert asked == [[1, 8], [12, 39]]


def test_the_grid_of_a_frozen_tower_gives_the_loss_of_a_live_one(
    tmp_path: Path, config: RunConfig, examples: list[Example]
) -> None:
    """Guards against fusion and captions that are trained on other cells than they see when they answer."""
    image = replace(config.model.image, frozen=True, grid=True)
    chosen = replace(
        config,
        model=replace(config.model, image=image),
        data=replace(config.data, train_pictures=6),
        tasks=config.tasks,
    )
    pipeline = Pipeline.build(chosen, examples, torch.device("cpu"))
    dataset = open_dataset(chosen.data, "train", 0)
    ready = prepare(pipeline, dataset, tmp_path, quiet)
    losses = []
    for source in (ready, dataset):
        batch = make_batch([source.example(row) for row in range(6)], pipeline.tasks, pipeline.codec, chosen, 0)
        assert isinstance(batch.inputs[IMAGE], Tokens) == (source is ready)
        seen = pipeline.encode_pixels(batch.inputs[IMAGE])
        assert seen.values.shape[1] > 1
        losses.append(
            [task.loss(pipeline.model, {IMAGE: seen}, batch)["loss"].item() for task in pipeline.tasks.values()]
        )
    assert set(pipeline.tasks) >= {"vqa", "captioning", "retrieval"}
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_frozen_towers_give_the_loss_of_live_ones(tmp_path: Path, config: RunConfig, examples: list[Example]) -> None:
    """Guards against a cached path that trains something else: vectors and pictures give one loss."""
    towers = {side: replace(getattr(config.model, side), frozen=True) for side in ("image", "text")}
    tasks = {"retrieval": config.tasks["retrieval"]}
    frozen = replace(
        config, model=replace(config.model, **towers), tasks=tasks, data=replace(config.data, train_pictures=6)
    )
    pipeline = Pipeline.build(frozen, examples, torch.device("cpu"))
    dataset = open_dataset(frozen.data, "train", 0)
    ready = prepare(pipeline, dataset, tmp_path, quiet)
    live = [dataset.example(index) for index in range(6)]
    cached = [ready.example(index) for index in range(6)]
    losses = []
    for chosen, vectors in ((cached, dict(pipeline.codec.text_vectors)), (live, {})):
        pipeline.codec.text_vectors = vectors
        batch = make_batch(chosen, pipeline.tasks, pipeline.codec, frozen, 0)
        assert (
            ("text_vectors" in batch.by_task["retrieval"])
            == (chosen is cached)
            == isinstance(batch.inputs[IMAGE], Tokens)
        )
        image = pipeline.encode_pixels(batch.inputs[IMAGE])
        losses.append(pipeline.tasks["retrieval"].loss(pipeline.model, {IMAGE: image}, batch)["loss"].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("fusion", ["bilinear", "film", "cross_attention"])
def test_questions_are_encoded_once_where_their_vector_is_all_that_is_read(
    tmp_path: Path, config: RunConfig, examples: list[Example], fusion: str
) -> None:
    """Guards against questions that train, or are answered, otherwise out of the cache."""
    text = replace(config.model.text, frozen=True, summary_tokens=0)
    model = replace(config.model, text=text, fusion=fusion, fusion_layers=1)
    chosen = replace(
        config, model=model, tasks={"vqa": config.tasks["vqa"]}, data=replace(config.data, train_pictures=6)
    )
    pipeline = Pipeline.build(chosen, examples, torch.device("cpu"))
    ready = prepare(pipeline, open_dataset(chosen.data, "train", 0), tmp_path, quiet)
    rows = [ready.example(number) for number in range(6)]
    vqa, known = pipeline.tasks["vqa"], dict(pipeline.codec.text_vectors)
    found = []
    for vectors in (known, {}):
        pipeline.codec.text_vectors = vectors
        batch = make_batch(rows, pipeline.tasks, pipeline.codec, chosen, 0)
        assert ("question_vectors" in batch.by_task["vqa"]) == (bool(vectors) and fusion != "cross_attention")
        image = pipeline.encode_pixels(batch.inputs[IMAGE])
        loss = vqa.loss(pipeline.model, {IMAGE: image}, batch)["loss"].item()
        texts = [question.text for question in rows[0].questions]
        asked = vqa.logits(pipeline.model, pipeline.codec, {IMAGE: image}, queries_of(texts, [0] * len(texts)))
        assert vqa.heat_maps(pipeline.model, pipeline.codec, {IMAGE: image}, queries_of(texts, [0] * len(texts)))
        found.append([loss, *asked.flatten().tolist()])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_generated_pictures_pass_through(tmp_path: Path, pipeline: Pipeline, config: RunConfig) -> None:
    """Guards against questions frozen to the first epoch, and an hour spent checking what cannot be broken."""
    dataset = open_dataset(config.data, "train", 0)
    assert prepare(pipeline, dataset, tmp_path, quiet) is dataset
    assert not list(tmp_path.iterdir())


def test_an_empty_cache_is_no_error(tmp_path: Path) -> None:
    """Guards against a first run that fails because nothing is there yet."""
    store = FeatureCache(tmp_path, "tower")
    assert store.vectors == store.grids == {}


def mixed(write: Write) -> list[Example]:
    """Two images, none, one, and three of which one was seen before, in different orders."""
    refs = [example.inputs["image"] for example in write(5)]
    shown: list[tuple[object, ...]] = [(refs[1], refs[0]), (), (refs[2],), (refs[3], refs[0], refs[4])]
    return [
        Example(f"{number}", {"image": one[0] if len(one) == 1 else one}, source=Source("talk.json", number + 1))
        for number, one in enumerate(shown)
    ]


@pytest.mark.parametrize("grid", [False, True])
def test_several_images_and_none_from_the_cache_are_what_the_tower_gives(
    grid: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards, to the last bit, against features of another image, of another example, or in another order."""
    use_grid(pipeline, grid)
    monkeypatch.setattr(pipeline.model, "sees_pooled_alone", not grid)
    examples = mixed(picture_files)
    order = [1, 0, 2, 3, 0, 4]
    found = encoded(pipeline, examples, ledger_for(examples), tmp_path)
    distinct = [example.inputs["image"] for example in picture_files(5)]
    # Encoded in the cache's batch, since a convolution may round otherwise in a batch of another size.
    live = pipeline.encode_images([distinct[number] for number in (1, 0, 2, 3, 4)])
    expected = live.rows(torch.tensor([[1, 0, 2, 3, 4].index(number) for number in order]))
    if grid:
        expected = expected._replace(values=expected.values.half().float())
    by_row = grouped(expected, torch.tensor([0, 0, 2, 3, 3, 3]), 4)
    values = input_values(found, pipeline.config.model, 1, pipeline.resizing)
    for tokens in (
        pipeline.encode(values)[IMAGE],
        pipeline.model.encode({name: to_model_range(one, torch.float32) for name, one in values.items()})[IMAGE],
    ):
        assert torch.equal(tokens.pooled, by_row.pooled) and torch.equal(tokens.is_real, by_row.is_real)
        assert torch.equal(tokens.values, by_row.values)
    uncached = pipeline.encode(input_values(examples, pipeline.config.model, 1, pipeline.resizing))[IMAGE]
    torch.testing.assert_close(uncached.pooled, by_row.pooled, rtol=1e-5, atol=1e-5)
    assert torch.equal(uncached.is_real, by_row.is_real)
    assert input_values(found[1:2], pipeline.config.model, 1, pipeline.resizing) == {}


def test_examples_that_share_an_image_share_a_group_and_texts_keep_their_own(
    tmp_path: Path, pipeline: Pipeline, picture_files: Write
) -> None:
    """Guards against two conversations about one image as each other's negatives, and all texts in one group."""
    examples = mixed(picture_files)
    examples += [replace(examples[1], id="other text"), replace(examples[1], id="same", group=examples[1].id)]
    for found in (
        encoded(pipeline, examples, ledger_for(examples), tmp_path),
        checked(examples, ledger_for(examples)),
    ):
        pair, text, one, three, other, same = (example.group for example in found)
        assert pair == three and len({pair, text, one, other}) == 4 and same == text
        assert one == examples[2].inputs["image"].content_key()


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_broken_image_of_several_or_of_a_further_input_is_named_once(
    is_frozen: bool, tmp_path: Path, pipeline: Pipeline, picture_files: Write
) -> None:
    """Guards against a conversation that is trained on without one of its images."""
    examples = mixed(picture_files)
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "depth.png").write_bytes(b"none")
    examples[2] = replace(examples[2], inputs={**examples[2].inputs, "depth": image_ref(tmp_path / "depth.png")})
    ledger = ledger_for(examples)
    found = encoded(pipeline, examples, ledger, tmp_path / "cache") if is_frozen else checked(examples, ledger)
    assert [example.id for example in found] == ["1"]
    assert sorted(entry.row or 0 for entry in ledger.entries) == [1, 3, 4] and ledger.rejected == 3
    assert ["0.png" in entry.text for entry in sorted(ledger.entries, key=lambda one: one.row or 0)] == [
        True,
        False,
        True,
    ]


def test_what_is_not_cached_counts_each_example_with_an_image(
    tmp_path: Path, pipeline: Pipeline, picture_files: Write
) -> None:
    """Guards against an estimate that counts texts alone, or forgets a second image."""
    examples = mixed(picture_files)
    config = pipeline.config
    frozen = replace(config.model.image, frozen=True)
    pipeline.config = replace(config, model=replace(config.model, image=frozen))
    assert [one.id for one in features.not_cached(pipeline, examples, tmp_path)[0]] == ["0", "2", "3"]
    encoded(pipeline, examples[:3], ledger_for(examples[:3]), tmp_path)
    assert [one.id for one in features.not_cached(pipeline, examples, tmp_path)[0]] == ["3"]
