"""The index finds what evaluation finds, sees what changes in folders, and refuses what is not its own."""

import inspect
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import chiasm
from chiasm.cli import searching as cli_searching
from chiasm.core.device import has_int8
from chiasm.core.errors import InputError, Interrupted
from chiasm.core.types import IMAGE, Example
from chiasm.data.opening import open_dataset
from chiasm.evaluate.evaluator import evaluate
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.serve import photos as photo_files
from chiasm.serve.engine import Model
from chiasm.serve.given import ref_of
from chiasm.serve.index import Index, folder_index, make_index, open_index
from chiasm.serve.index.duplicates import find_duplicates
from chiasm.serve.index.header import Header
from chiasm.serve.index.rerank import SecondLook
from chiasm.serve.index.sqlite import FILE
from chiasm.serve.photos import Encoder


@pytest.fixture
def index(photos: Path, tmp_path: Path, model: Model, tiny_run: Path) -> Index:
    made, report = make_index(tmp_path / "index", [photos], tiny_run)
    assert report.added == 30 and report.ledger.rejected == 1
    return made


def names(hits: list) -> list[str]:
    return [Path(hit.path).name for hit in hits]


def test_recall_is_that_of_evaluation(index: Index, model: Model, examples: list[Example]) -> None:
    """Guards against vectors of another preprocessing, filed under the wrong picture, or compared otherwise."""
    outcome = evaluate(model.pipeline, examples)
    hits = [
        names(index.search(caption.text, count=1)) == [f"{number:02}.png"]
        for number, example in enumerate(examples)
        for caption in example.captions
    ]
    assert np.mean(hits) == outcome.scores["text_to_image_R@1"].value and 0 < sum(hits) < len(hits)


def test_search_by_text_picture_and_both(index: Index, model: Model, examples: list[Example]) -> None:
    """Guards against a query that is compared in another way than the model's own vectors say."""
    text, picture = examples[3].captions[0].text, examples[4].inputs["image"].load()
    vectors = model.encode_image([example.inputs["image"].load() for example in examples])
    words, seen = model.encode_text([text])[0], model.encode_image([picture])[0]
    for query, hits in (
        (words, index.search(text, count=30)),
        (words, index.search(text=text, count=30)),
        (seen, index.search(image=picture, count=30)),
        (seen, index.search(picture, count=30)),
        ((words + seen) / np.linalg.norm(words + seen), index.search(text=text, image=picture, count=30)),
    ):
        slow = vectors.astype(np.float64) @ query.astype(np.float64)
        assert [hit.similarity for hit in hits] == pytest.approx(sorted(slow, reverse=True), abs=1e-5)
        by_name = {Path(hit.path).stem: hit.similarity for hit in hits}
        assert [by_name[f"{number:02}"] for number in range(30)] == pytest.approx(list(slow), abs=1e-5)
    assert names(index.search(picture, count=1)) == ["04.png"]


def test_a_string_is_never_a_file(index: Index, photos: Path) -> None:
    """Guards against a client that reads the server's files by naming them."""
    assert names(index.search(str(photos / "01.png"), count=30)) != names(index.search(photos / "01.png", count=30))
    assert index.search(photos / "01.png", count=1)[0].similarity == pytest.approx(1, abs=1e-5)


def test_folder_search_is_index_search(index: Index, model: Model, photos: Path) -> None:
    """Guards against a second way of searching a folder, with other answers."""
    found, report = folder_index(model, photos)
    assert report.ledger.rejected == 1
    assert [(h.path, h.similarity) for h in found.search("a red circle", count=30)] == [
        (h.path, h.similarity) for h in index.search("a red circle", count=30)
    ]


def test_only_what_changed_is_encoded(
    index: Index, photos: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a build that begins anew, keeps the vector of an overwritten picture, or shows vanished ones."""
    encoded: list[int] = []
    inner = Encoder._vectors
    monkeypatch.setattr(Encoder, "_vectors", lambda self, keys, px: encoded.append(len(keys)) or inner(self, keys, px))
    before = {hit.path: hit.id for hit in index.search("a circle", count=30)}
    shutil.copy(photos / "01.png", photos / "03.png")
    shutil.copy(photos / "05.png", photos / "copy.png")
    (photos / "07.png").rename(photos / "moved.png")
    (photos / "09.png").unlink()
    again, report = make_index(tmp_path / "index", [photos], tiny_run)
    assert (report.added, report.changed, report.removed) == (2, 1, 2)
    assert report.unchanged == 27 and report.ledger.rejected == 1 and encoded == []
    after = {hit.path: hit.id for hit in again.search("a circle", count=40)}
    assert len(after) == 30 and str(photos / "09.png") not in after
    assert after[str(photos / "03.png")] != before[str(photos / "03.png")], "an id never means another picture"
    assert after[str(photos / "05.png")] == before[str(photos / "05.png")]
    assert index.search(photos / "01.png", count=2)[1].similarity == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="no image"):
        index.picture(before[str(photos / "03.png")])


def test_a_file_that_was_just_written_is_looked_at_again(
    index: Index, photos: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """Guards against a change within the same tick of the clock, which size and times do not show."""
    assert {state for state, content in index.store.states().values() if content} == {""}
    old = photo_files.RACY_NS
    photo_files.RACY_NS = 0
    try:
        _, report = make_index(tmp_path / "index", [photos], tiny_run)
    finally:
        photo_files.RACY_NS = old
    states = {path: state for path, (state, content) in index.store.states().items() if content}
    assert report.unchanged == 30 and states == {path: photo_files.file_state(path) for path in states}


def test_stopped_build_goes_on(photos: Path, tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against Ctrl-C that loses finished parts, or ends in a traceback."""
    monkeypatch.setattr(photo_files, "AT_ONCE", 8)
    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped: 16 of 31") as caught:
        make_index(tmp_path / "index", [photos], tiny_run, progress=stop)
    assert caught.value.exit_code == 130
    made, report = make_index(tmp_path / "index", [photos], tiny_run)
    assert len(made) == 30 and report.added < 30 and report.ledger.used == 30


@pytest.mark.parametrize("part", ["dim", "image", "precision"])
def test_another_model_is_refused(index: Index, model: Model, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against vectors of two models in one index, which no error ever shows."""
    inner = Header.of
    changed = {"dim": "17"}.get(part, "other")
    monkeypatch.setattr(Header, "of", lambda model, run: replace(inner(model, run), **{part: changed}))
    with pytest.raises(InputError, match="built with another model") as caught:
        open_index(index.store.where, model)
    assert changed in caught.value.given and "index build" in caught.value.do


def test_weights_and_preprocessing_are_in_the_fingerprint(model: Model) -> None:
    """Guards against a fingerprint that stays the same when a weight or the picture's size changes."""
    before, pipeline = Header.of(model, ""), model.pipeline
    tower, kept_name = pipeline.config.model.image, pipeline._preprocessing_name
    _, pipeline._preprocessing_name = replace(tower, size_px=tower.size_px + 8).preprocessing()
    assert Header.of(model, "").image != before.image
    pipeline._preprocessing_name = kept_name
    network = model.pipeline.model
    for part, name in ((network.image_projection, "image"), (network.text_projection, "text")):
        weight = next(iter(part.parameters()))
        kept = weight.data.clone()
        weight.data.view(-1)[0] += 1e-3
        after = Header.of(model, "")
        weight.data.copy_(kept)
        assert getattr(after, name) != getattr(before, name)
    assert Header.of(model, "") == before


def test_filters(photos: Path, tmp_path: Path, tiny_run: Path) -> None:
    """Guards against filters that let others through, or compare 2021 with "2021" as different."""
    rows = [{"image": f"{n:02}.png", "year": 2020 + n % 3, "place": "北京" if n < 5 else "Rome"} for n in range(30)]
    table = tmp_path / "facts.jsonl"
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    index, _ = make_index(tmp_path / "index", [photos], tiny_run, table)

    def found(**where: object) -> set[int]:
        return {int(Path(hit.path).stem) for hit in index.search("a circle", count=40, where=where)}

    assert found(year=2021) == found(year="2021") == found(year=2021.0) == set(range(1, 30, 3))
    assert found(place="北京", year=2020) == {0, 3}
    assert found(folder="even") == found(folder=str(photos / "even")) == set(range(0, 30, 2))
    assert found(path="07.png") == {7} and found(path=str(photos / "07.png")) == {7} and found(path="7.png") == set()
    assert found(size=os.path.getsize(photos / "07.png")) >= {7}
    assert found(place="'; DROP TABLE items; --") == set() and len(index) == 30
    with pytest.raises(InputError, match="did you mean 'year'"):
        found(yeer=1)
    assert index.search("a circle", count=1, where={"path": "07.png"})[0].metadata == {"year": 2021, "place": "Rome"}
    table.write_text('image,year\n07.png,1999\n"\'",3\n')
    again, report = make_index(tmp_path / "index", [photos], tiny_run, table.rename(tmp_path / "facts.csv"))
    assert report.added == 0 and found(year=1999) == {7}
    assert again.search("a circle", count=1, where={"path": "08.png"})[0].metadata["place"] == "Rome"


def test_deleted_pictures_are_gone(index: Index, photos: Path, tiny_run: Path) -> None:
    """Guards against ghosts: a deleted picture that a search, another reader or a new process still returns."""
    reader = open_index(index.store.where)
    gone = reader.search("a circle", count=1)[0]
    assert index.delete([gone.path]) == 1 and index.delete(where={"folder": "even"}) >= 14
    for one in (index, reader, open_index(index.store.where)):
        left = one.search("a circle", count=40)
        assert gone.id not in {hit.id for hit in left} and not any("even" in hit.path for hit in left)
        assert len(left) == len(one)
        assert len(one.search("a circle", count=len(one))) == len(one), "ghosts take no places"
    with pytest.raises(InputError, match="is not in"):
        index.delete([photos / "nowhere"])


def test_reranking_orders_by_the_fusion_model(index: Index, model: Model, examples: list[Example]) -> None:
    """Guards against a share that is not the model's own likelihood of the words times what the vectors say."""
    text = examples[3].captions[0].text
    hits = index.search(text, count=30, rerank=True)
    scores = [hit.score for hit in hits]
    assert len(hits) == 30 and scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1)
    pipeline, task = model.pipeline, model.pipeline.tasks["captioning"]
    ids = pipeline.codec.tokenizer.batch([text]).ids
    ids[0, 0] = pipeline.codec.tokenizer.start_of("en")
    follows = torch.ones_like(ids[:, 1:], dtype=torch.bool)
    scale, weights = pipeline.model.logit_scale.exp().item(), []
    for hit in hits:
        tokens = pipeline.encode_images([ref_of(hit.path)])
        with torch.no_grad():
            logits = pipeline.model.writer_logits(
                "captioning", pipeline.model.fusion_image(tokens), ids[:, :-1], follows, torch.tensor([0])
            )
        chosen = [float(row.log_softmax(0)[word]) for row, word in zip(logits, ids[0, 1:], strict=True)]
        weights.append(math.exp(scale * hit.similarity) * math.prod(math.exp(one) for one in chosen))
    assert scores == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-3)
    assert task.log_likelihood(pipeline.model, pipeline.codec, {IMAGE: tokens}, []) == []
    with pytest.raises(InputError, match="re-ranking without a text"):
        index.search(image=examples[0].inputs["image"].load(), rerank=True)


def test_second_look_keeps_what_it_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against pictures read anew for every query, another answer from memory, and memory without an end."""
    read: list[int] = []
    pipeline, inner = index.model.pipeline, index.model.pipeline.encode_pixels
    monkeypatch.setattr(pipeline, "encode_pixels", lambda pixels: (read.append(len(pixels)), inner(pixels))[1])
    fresh = index.search("a circle", count=30, rerank=True)
    assert read == [30] and index.search("a circle", count=30, rerank=True) == fresh and read == [30]
    small = SecondLook(index.model, most_bytes=10 * pipeline.encode_images([ref_of(fresh[0].path)]).nbytes)
    paths, cosines = {hit.id: hit.path for hit in fresh}, {hit.id: hit.similarity for hit in fresh}
    read.clear()
    for _ in range(2):
        assert small.scores("a circle", paths, cosines) == pytest.approx({hit.id: hit.score for hit in fresh}, rel=1e-5)
    assert read == [30, 20], "the ten that were read last were kept"
    last, gone = fresh[-1], fresh[0]
    for hit in (last, gone):
        Path(hit.path).unlink()
    left = small.scores("a circle", paths, cosines)
    assert last.id in left and gone.id not in left and len(left) == 29


def test_model_that_cannot_rerank_says_so(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a head that was never trained."""
    monkeypatch.delitem(index.model.pipeline.tasks, "captioning")
    with pytest.raises(InputError, match="trained for retrieval, vqa") as caught:
        index.search("a circle", rerank=True)
    assert "matching or captioning" in caught.value.allowed


def test_bad_queries_are_refused(index: Index) -> None:
    """Guards against NaN and infinity, which every comparison lets pass, and counts that make no sense."""
    for wrong in (np.full((1, 256), np.nan), np.full((1, 256), np.inf), np.zeros((1, 3)), np.zeros(256)):
        with pytest.raises(InputError, match="queries of shape"):
            index.nearest(wrong.astype(np.float32), 1)
    for count in (0, -1, 10_001):
        with pytest.raises(InputError, match="count is"):
            index.search("a circle", count=count)
    with pytest.raises(InputError):
        index.search("  ")
    for name in ("999", "-1", "x", "1; DROP TABLE items", "٣"):
        with pytest.raises(InputError, match="no image"):
            index.picture(name)
    assert len(index.search("a circle", count=10_000)) == 30


def test_picture_is_the_file(index: Index, photos: Path) -> None:
    """Guards against bytes of another picture, or of one that has been exchanged since."""
    hit = index.search(photos / "01.png", count=1)[0]
    assert index.picture(hit.id) == (photos / "01.png").read_bytes()
    shutil.copy(photos / "03.png", photos / "01.png")
    with pytest.raises(InputError, match="has changed"):
        index.picture(hit.id)


def test_near_duplicates(index: Index, photos: Path) -> None:
    """Guards against scenes that mean the same and are different pictures, and copies that are not found."""
    from PIL import Image

    with Image.open(photos / "11.png") as picture:
        picture.convert("RGB").resize((150, 150)).save(photos / "11-larger.jpg", quality=80)
    shutil.copy(photos / "13.png", photos / "13-copy.png")
    index.add([photos])
    found = index.duplicates(above=0.8)
    assert [[Path(one).name for one in group] for group in found.groups] == [
        ["11-larger.jpg", "11.png"],
        ["13-copy.png", "13.png"],
    ]
    assert found.compared > 2, "the model alone would have called others the same"


def test_both_doors_look_alike_for_duplicates() -> None:
    """Guards against a command and a method that find other duplicates in one index."""
    doors = (cli_searching.duplicates, Index.duplicates, find_duplicates)
    assert len({inspect.signature(door).parameters["above"].default for door in doors}) == 1


def test_check_names_what_is_wrong(index: Index, photos: Path) -> None:
    """Guards against a check that is always content."""
    assert [one.code for one in index.check()] == ["rejected"]
    (photos / "01.png").unlink()
    assert {one.code for one in index.check()} == {"rejected", "missing_files"}
    with index.store.transaction(writes=True):
        index.store.rows("UPDATE vectors SET vector = zeroblob(1024) WHERE number = 3")
        index.store.rows("DELETE FROM vectors WHERE number = 4")
    found = {one.code: one for one in index.check()}
    assert found["vectors"].count == 1 and "items 3" in found["vectors"].text
    assert found["items_without_vector"].count == 1 and found["missing_files"].harms


def test_damaged_or_foreign_files_are_refused(index: Index, tmp_path: Path, model: Model) -> None:
    """Guards against a crash, or an answer, from a file that is none of ours or is torn."""
    import sqlite3

    index.close()
    path = Path(index.store.where) / FILE
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = os.urandom(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        open_index(path.parent, model)
    (tmp_path / "other").mkdir()
    database = sqlite3.connect(tmp_path / "other" / FILE)
    database.execute("CREATE TABLE mine (x)")
    database.close()
    with pytest.raises(InputError, match="another program"):
        open_index(tmp_path / "other", model)
    with pytest.raises(InputError, match="holds something else"):
        make_index(tmp_path, [tmp_path / "photos"], model)
    with pytest.raises(InputError, match="is no index"):
        open_index(tmp_path / "nowhere", model)


def test_an_index_keeps_vectors_as_it_was_told(photos: Path, tmp_path: Path, model: Model, tiny_run: Path) -> None:
    """Guards against a word that is lost between the command and the tables, and against mixing two kinds."""
    with Index.build(photos, tmp_path / "bits", tiny_run, vectors="binary") as made:
        first = made.search("a red square", count=30)
        assert made.store.kind == "binary" and len(first) == 30
    with Index.build(photos, tmp_path / "bits", tiny_run) as again:
        assert again.store.kind == "binary" and again.search("a red square", count=30) == first
        assert again.check() == [] or all(not one.harms for one in again.check())
    with pytest.raises(InputError, match="keeps its vectors as binary"):
        Index.build(photos, tmp_path / "bits", tiny_run, vectors="int8")
    with pytest.raises(InputError, match="--approximate"):
        open_index(tmp_path / "bits", model, approximate=True)
    with pytest.raises(InputError, match="PostgreSQL"):
        make_index("postgresql://nobody@localhost/none", [photos], model, vectors="int8")


@pytest.mark.skipif(not has_int8(), reason="sums of bytes would saturate on this machine")
def test_an_index_keeps_its_number_format(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against vectors of two formats in one index: a model computes as the index does, or is refused."""
    demo = find_recipe("demo", tiny=True)
    dataset = open_dataset(demo.data, "train", 0)
    config = replace(demo, model=replace(demo.model, dim=64, execution="int8"))
    made = Pipeline.build(config, [dataset.example(number) for number in range(12)], torch.device("cpu"))
    made.save(tmp_path / "run", dataset.example(0), {})
    eight, plain = chiasm.load(tmp_path / "run"), chiasm.load(tmp_path / "run", model__execution="fp32")
    with make_index(tmp_path / "index", [photos], eight)[0] as index:
        assert index.store.header().precision == "float32, image int8"
    with open_index(tmp_path / "index", plain) as index:  # computes in int8 now
        assert plain.pipeline.execution.formats["image"] == "int8"
        assert index.search(image=photos / "01.png", count=1)[0].similarity == pytest.approx(1, abs=1e-6)
    with make_index(tmp_path / "plain", [photos], chiasm.load(tmp_path / "run", model__execution="fp32"))[0] as index:
        assert index.store.header().precision == "float32"
    with make_index(tmp_path / "plain", [photos], eight)[0] as index:
        assert eight.pipeline.execution.formats["image"] == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(InputError, match="image int8"):
        open_index(tmp_path / "index", chiasm.load(tmp_path / "run"))
