"""BLIP and ViLT out of folders against transformers: captions, answers, matching; and there and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

pytest.importorskip("transformers", reason="needs the extra [hf]")
import transformers
from hf_folders import ANSWERS, network_folder

import chiasm
from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE
from chiasm.data.generated.scene_dataset import SceneDataset, ScenesConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.pipeline.domain_fitting import fit_domain
from chiasm.pipeline.interop import open_pipeline
from chiasm.pipeline.interop.exporting import export
from chiasm.pipeline.preprocessing import check_pretrained
from chiasm.tasks.base import queries_of
from chiasm.tasks.calibration import Calibration
from chiasm.tasks.codec import Codec

CPU = torch.device("cpu")
TEXTS = ("a red circle left of a blue square", "what is there", "two dogs", "紅 狗 在 雪 里 跑")
BLIP = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
VILT = ("ViltForQuestionAnswering", "ViltForImageAndTextRetrieval")


def pictures() -> list[np.ndarray]:
    made = np.random.default_rng(1)
    sizes = ((40, 60, 3), (33, 32, 3), (90, 50, 3), (20, 100, 3))
    return [made.integers(0, 256, size, dtype=np.uint8) for size in sizes]


def asked(folder: Path, picture: np.ndarray, text: str) -> dict[str, torch.Tensor]:
    """One picture and one text as transformers takes them."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    given = words(text, return_tensors="pt")
    pixels = processor([Image.fromarray(picture)], return_tensors="pt")
    return {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"], **pixels}


def loaded(folder: Path, kind: str) -> tuple[torch.nn.Module, chiasm.Model]:
    reference = network_folder(folder, kind)
    return reference, chiasm.load(folder)


def generated(reference: Any, codec: Codec, max_new_tokens: int, **inputs: torch.Tensor) -> str:
    """The text that transformers' own greedy decoding generates."""
    suppressed = codec.tokenizer.suppressed_ids
    (ids,) = reference.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, forced_eos_token_id=3, suppress_tokens=suppressed
    )
    return codec.tokenizer.decode(ids[1:].tolist())


def test_captions_are_those_of_transformers(tmp_path: Path) -> None:
    """Guards the start token that is no word, the cross-attention, and keys and values that are kept while writing."""
    reference, model = loaded(tmp_path, BLIP[0])
    codec = model.pipeline.codec
    codec.decoding = DecodingConfig(max_words=9)
    said = model.caption(pictures())
    for picture, one in zip(pictures(), said, strict=True):
        pixels = asked(tmp_path, picture, "a")["pixel_values"]
        assert one.answer == generated(reference, codec, 10, pixel_values=pixels)
    assert len({one.answer for one in said}) > 1


def test_beams_keep_their_own_words(tmp_path: Path) -> None:
    """Guards the reordering of keys and values: a beam's score is what its sentence gets when it is read at once."""
    reference, model = loaded(tmp_path, BLIP[0])
    inner, codec = model.pipeline.model, model.pipeline.codec
    image = model.pipeline.encode_images([chiasm.serve.engine.ref_of(one) for one in pictures()])
    how = DecodingConfig(method="beam", beams=4, max_words=9)
    said = inner.write("captioning", image, torch.zeros(4, dtype=torch.long), 3, how, codec.tokenizer.suppressed_ids)
    start = reference.config.text_config.bos_token_id
    for row, picture in enumerate(pictures()):
        ids = said.ids[row].tolist()
        ids = [start, *ids[: ids.index(3) + 1]]
        with torch.no_grad():
            pixels = asked(tmp_path, picture, "a")["pixel_values"]
            out = reference(pixel_values=pixels, input_ids=torch.tensor([ids]))
        chosen = out.logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
        assert said.log_probability[row].item() == pytest.approx(chosen.mean().item(), rel=1e-4)


def test_the_probability_of_a_caption_is_that_of_transformers(tmp_path: Path) -> None:
    """Guards the teacher-forced logits, which re-ranking and training use."""
    reference, model = loaded(tmp_path, BLIP[0])
    task, pipeline = model.pipeline.tasks["captioning"], model.pipeline
    image = pipeline.encode_images([chiasm.serve.engine.ref_of(one) for one in pictures()])
    got = task.log_likelihood(pipeline.model, pipeline.codec, {IMAGE: image}, queries_of(TEXTS, range(4)))
    for row, text in enumerate(TEXTS):
        given = asked(tmp_path, pictures()[row], text)
        ids = given["input_ids"].clone()
        ids[:, 0] = reference.config.text_config.bos_token_id
        with torch.no_grad():
            out = reference(pixel_values=given["pixel_values"], input_ids=ids, attention_mask=given["attention_mask"])
        chosen = out.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        assert got[row] == pytest.approx(chosen.sum().item(), rel=1e-4)


def test_written_answers_are_those_of_transformers(tmp_path: Path) -> None:
    """Guards the question's encoder, its mask, and the decoder that looks at the question."""
    reference, model = loaded(tmp_path, BLIP[1])
    model.pipeline.codec.decoding = DecodingConfig(max_words=6)
    codec, answers = model.pipeline.codec, model.ask(pictures(), list(TEXTS))
    for picture, text, one in zip(pictures(), TEXTS, answers, strict=True):
        assert one.answer == generated(reference, codec, 7, **asked(tmp_path, picture, text))
    assert len({one.answer for one in answers}) > 1


def test_matching_and_search_are_those_of_transformers(tmp_path: Path) -> None:
    """Guards the two ways in which one text is read: with the picture, and alone."""
    reference, model = loaded(tmp_path, BLIP[2])
    found = model.match(pictures(), list(TEXTS))
    for picture, text, one in zip(pictures(), TEXTS, found, strict=True):
        given = asked(tmp_path, picture, text)
        with torch.no_grad():
            score = reference(**given).itm_score.softmax(-1)[0, 1].item()
            cosine = reference(**given, use_itm_head=False).itm_score.item()
        assert one.probability == pytest.approx(score, abs=1e-5)
        assert one.similarity == pytest.approx(cosine, abs=1e-5)
    assert model.encode_text(TEXTS).shape == (4, 12)
    assert model.classify(pictures()[:1], ["dog", "snow"])[0].confidence > 0


def test_answers_of_vilt_are_those_of_transformers(tmp_path: Path) -> None:
    """Guards pictures of their own shapes, interpolated positions, masks in a batch, and the names of the answers."""
    reference, model = loaded(tmp_path, VILT[0])
    answers = model.ask(pictures(), list(TEXTS))
    for picture, text, one in zip(pictures(), TEXTS, answers, strict=True):
        with torch.no_grad():
            scores = reference(**asked(tmp_path, picture, text)).logits[0].sigmoid()
        assert one.answer == ANSWERS[int(scores.argmax())]
        assert one.confidence == pytest.approx(scores.max().item(), rel=1e-4)
    alone = [model.ask(picture, text) for picture, text in zip(pictures(), TEXTS, strict=True)]
    assert [one.confidence for one in alone] == pytest.approx([one.confidence for one in answers], rel=1e-5)


def test_ranks_of_vilt_are_those_of_transformers(tmp_path: Path) -> None:
    """Guards the order of pairs, which is what the network was trained for."""
    reference, model = loaded(tmp_path, VILT[1])
    found = model.match(pictures()[2], list(TEXTS))
    for text, one in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            score = reference(**asked(tmp_path, pictures()[2], text)).logits.item()
        assert one.probability == pytest.approx(torch.tensor(score).sigmoid().item(), abs=1e-5)


@pytest.mark.parametrize("kind", [*BLIP, *VILT])
def test_a_round_trip_changes_no_bit(kind: str, tmp_path: Path) -> None:
    """Guards against a network that can be opened and not kept: tied weights, answers, canvases."""
    network_folder(tmp_path / "a", kind)
    export(tmp_path / "a", "run", tmp_path / "run", CPU)
    export(tmp_path / "run", "hugging_face", tmp_path / "b", CPU)
    before, after = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    one, other = (transformers.AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in "ab")
    scales = [config.pop("logit_scale_init_value", 0.0) for config in (one, other)]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)  # here a weight, and rounded as one
    assert {**one, "_name_or_path": ""} == {**other, "_name_or_path": ""}
    assert chiasm.load(tmp_path / "b").tasks == chiasm.load(tmp_path / "run").tasks


def test_a_network_learns(tmp_path: Path) -> None:
    """Guards the way of the gradient: every part that a task uses has one."""
    for kind in (*BLIP, VILT[0]):
        network_folder(tmp_path / kind, kind)
        pipeline = open_pipeline(tmp_path / kind, CPU)
        pipeline.model.train()
        image = pipeline.model.encode_image(torch.rand(2, 4 if kind in VILT else 3, 32, 32) * 0.9 + 0.05)
        tokens = pipeline.codec.tokenizer.batch(TEXTS[:2])
        rows = torch.arange(2)
        if kind == BLIP[0]:
            out = pipeline.model.writer_logits("captioning", image, tokens.ids[:, :-1], tokens.is_real[:, 1:], rows)
        else:
            fused = pipeline.model.ask({IMAGE: image}, tokens, rows, rows)
            if kind == BLIP[1]:
                out = pipeline.model.writer_logits("vqa", fused, tokens.ids[:, :-1], tokens.is_real[:, 1:])
            else:
                out = pipeline.model.logits("matching" if kind == BLIP[2] else "vqa", fused.pooled)
        out.square().sum().backward()
        for name, parameter in pipeline.model.named_parameters():
            if not name.startswith(("image_projection", "text_projection", "logit_scale")):
                is_moved = parameter.grad is not None and bool(parameter.grad.isfinite().all())
                assert is_moved or "crossattention" in name, (kind, name)


def test_a_run_that_was_trained_further_is_exported_as_the_layout_can_say_it(tmp_path: Path) -> None:
    """Guards runs whose decoding or fitted confidence no other layout holds: the export is checked without them."""
    network_folder(tmp_path / "a", VILT[0])
    pipeline = open_pipeline(tmp_path / "a", CPU)
    pipeline.codec.calibration["vqa"] = Calibration(3.0, 0.2)
    pipeline.config = replace(pipeline.config, decoding=DecodingConfig(max_words=2))
    scene = SceneDataset("train", ScenesConfig(train_pictures=1, questions_per_picture=1), 0).example(0)
    pipeline.save(tmp_path / "run", scene, {})
    export(tmp_path / "run", "hugging_face", tmp_path / "b", CPU)
    one, other = (chiasm.load(tmp_path / name).ask(pictures()[0], "what is there") for name in ("run", "b"))
    assert one.answer == other.answer and one.confidence != other.confidence


def test_a_network_has_no_frozen_tower(tmp_path: Path) -> None:
    """Guards against a cache of pooled vectors in place of the patches that words must meet."""
    network_folder(tmp_path, BLIP[1])
    config = open_pipeline(tmp_path, CPU).config
    frozen = replace(config, model=replace(config.model, image=replace(config.model.image, frozen=True)))
    with pytest.raises(InputError, match=r"model\.image\.frozen with model\.network"):
        check_pretrained(frozen)


def test_tasks_that_a_network_does_not_have_are_refused(tmp_path: Path) -> None:
    """Guards against an assertion deep in a forward pass."""
    _, model = loaded(tmp_path, VILT[0])
    with pytest.raises(InputError, match="was not trained for captioning"):
        model.caption(pictures()[:1])
    assert model.ask(pictures()[0], "what is there", heat_map=True).evidence["heat_map"] is None


@pytest.mark.parametrize(
    ("kind", "takes_mean"), [("ViltForQuestionAnswering", True), ("BlipForImageTextRetrieval", False)]
)
def test_a_network_of_another_layout_gets_distances(kind: str, takes_mean: bool, tmp_path: Path) -> None:
    """Guards against a network whose features no distance can be fitted to: ViLT's pooled vector is a constant."""
    network_folder(tmp_path / kind, kind)
    pipeline = open_pipeline(tmp_path / kind, CPU)
    data = ScenesConfig(train_pictures=40, questions_per_picture=2)
    splits = [
        [dataset.example(n) for n in range(16)] for dataset in (SceneDataset(s, data, 0) for s in ("train", "val"))
    ]
    domain = fit_domain(pipeline, *splits)
    assert domain.takes_mean is takes_mean and len(domain.texts) == 1
    judged = domain.judge(pipeline.encode_images([one.inputs["image"] for one in splits[1]]))
    distances = [one.image_distance for one in judged]
    assert all(one is not None and 0 < one <= 1 for one in distances) and len(set(distances)) > 8
