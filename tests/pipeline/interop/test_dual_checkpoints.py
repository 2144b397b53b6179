"""Whole dual encoders out of folders, against transformers and a small open_clip; and conversions there and back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tokenizers import Tokenizer, normalizers

pytest.importorskip("transformers", reason="needs the extra [hf]")
import transformers
from hf_folders import LINES, dual_folder, save_clip_words
from open_clip_reference import MEAN, STD, open_clip_folder

import chiasm
from chiasm.core.errors import InputError, JobError
from chiasm.data.image import resize_and_crop
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.tokenizers.pretrained import read_pretrained_tokenizer
from chiasm.models.encoders.dual_encoder import check_quick_gelu
from chiasm.pipeline.interop import exporting, open_pipeline
from chiasm.pipeline.interop.exporting import export
from chiasm.pipeline.pipeline import Pipeline

KINDS = ("clip", "siglip", "chinese_clip", "vit_bert", "clip_bert")
CPU = torch.device("cpu")


def pictures() -> list[np.ndarray]:
    made = np.random.default_rng(1)
    return [made.integers(0, 256, size, dtype=np.uint8) for size in ((40, 60, 3), (33, 32, 3), (90, 50, 3))]


def theirs(folder: Path, reference, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Picture vectors, text vectors and logits, one text at a time as transformers would be asked."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pixels = processor([Image.fromarray(one) for one in pictures()], return_tensors="pt")["pixel_values"]
    rows, logits = [], []
    with torch.no_grad():
        for text in LINES:
            padding = "max_length" if kind == "siglip" else False
            given = words(text, return_tensors="pt", truncation=True, max_length=32, padding=padding)
            mask = {} if kind == "siglip" else {"attention_mask": given["attention_mask"]}
            out = reference(pixel_values=pixels, input_ids=given["input_ids"], **mask)
            rows.append(out.text_embeds[0])
            logits.append(out.logits_per_image[:, 0])
    return out.image_embeds, torch.stack(rows), torch.stack(logits, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Guards against a lost projection, temperature, bias or pooled token: search that works, and works badly."""
    reference = dual_folder(tmp_path, kind)
    images, texts, logits = theirs(tmp_path, reference, kind)
    model = chiasm.load(tmp_path)
    got_images, got_texts = (
        torch.from_numpy(one) for one in (model.encode_image(pictures()), model.encode_text(LINES))
    )
    torch.testing.assert_close(got_images, images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_texts, texts, rtol=1e-4, atol=1e-5)
    inner = model.pipeline.model
    bias = 0.0 if inner.logit_bias is None else inner.logit_bias
    torch.testing.assert_close(inner.logit_scale.exp() * got_images @ got_texts.T + bias, logits, rtol=1e-4, atol=1e-4)
    assert (kind == "siglip") == (inner.logit_bias is not None)
    assert model.languages == (("zh",) if kind == "chinese_clip" else ("en",))
    answer = model.classify([pictures()[0]], ["dog", "snow"])[0]
    assert sum(one["probability"] for one in answer.evidence["labels"]) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_changes_no_bit(kind: str, tmp_path: Path) -> None:
    """Guards against a conversion that loses a tensor, a special token or the preprocessing."""
    dual_folder(tmp_path / "a", kind)
    export(tmp_path / "a", "run", tmp_path / "run", CPU)
    export(tmp_path / "run", "hugging_face", tmp_path / "b", CPU)
    before, after = (safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    one, other = (transformers.AutoConfig.from_pretrained(tmp_path / name) for name in "ab")
    assert one.to_diff_dict() | {"transformers_version": 0} == other.to_diff_dict() | {"transformers_version": 0}
    assert theirs_equal(tmp_path)
    run, again = chiasm.load(tmp_path / "run"), chiasm.load(tmp_path / "b")
    assert np.array_equal(run.encode_text(LINES), again.encode_text(LINES))
    assert np.array_equal(run.encode_image(pictures()), again.encode_image(pictures()))
    assert (tmp_path / "b" / "chiasm_example.json").is_file() and (tmp_path / "run" / "MANIFEST.json").is_file()


def theirs_equal(tmp_path: Path) -> bool:
    """The exported folder means the same to transformers itself: its model, its pixels, its ids."""
    values = []
    for name in "ab":
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / name, backend="pil")
        pixels = processor([Image.fromarray(pictures()[0])], return_tensors="pt")["pixel_values"]
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        network = transformers.AutoModel.from_pretrained(tmp_path / name).eval()
        ids = words(LINES[0], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            values.append((pixels, ids, network(pixel_values=pixels, input_ids=ids).logits_per_image))
    return all(torch.equal(one, other) for one, other in zip(*values, strict=True))


def pixels_for_open_clip() -> torch.Tensor:
    cut = [resize_and_crop(one, (32,), (32, 32), 3) for one in pictures()]
    values = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2) / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("style", ["plain", "custom_text"])
def test_open_clip_is_read_as_it_computes(style: str, quick_gelu: bool, tmp_path: Path) -> None:
    """Guards against queries for keys, an untransposed projection, another activation and the wrong end of a text."""
    words = save_clip_words(tmp_path)
    reference = open_clip_folder(tmp_path, words, quick_gelu)
    if style == "custom_text":
        state = {
            name if name.startswith(("visual.", "logit")) else f"text.{name}": value
            for name, value in reference.state_dict().items()
        }
        safetensors.torch.save_file(state, tmp_path / "open_clip_model.safetensors")
    tokenizer = read_pretrained_tokenizer(tmp_path, 32, False)
    ids = torch.nn.functional.pad(tokenizer.batch(LINES).ids, (0, 2))  # padded with 0, as open_clip does
    model = chiasm.load(tmp_path)
    with torch.no_grad():
        for got, expected in (
            (model.encode_image(pictures()), reference.encode_image(pixels_for_open_clip())),
            (model.encode_text(LINES), reference.encode_text(ids)),
        ):
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-5, atol=1e-5)
    assert model.pipeline.model.logit_scale.item() == 3.5


def test_open_clip_round_trips_through_every_layout(tmp_path: Path) -> None:
    """Guards the reverse mapping: each tensor of open_clip comes back as it was."""
    words = save_clip_words(tmp_path / "a")
    open_clip_folder(tmp_path / "a", words, True)
    export(tmp_path / "a", "hugging_face", tmp_path / "b", CPU)
    export(tmp_path / "b", "run", tmp_path / "c", CPU)
    export(tmp_path / "c", "open_clip", tmp_path / "d", CPU)
    before, after = (safetensors.torch.load_file(tmp_path / name / "open_clip_model.safetensors") for name in "ad")
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    given, written = (json.loads((tmp_path / name / "open_clip_config.json").read_text()) for name in "ad")
    written["model_cfg"]["text_cfg"].pop("hf_tokenizer_name")
    assert written["model_cfg"] == given["model_cfg"]
    assert {key: written["preprocess_cfg"][key] for key in given["preprocess_cfg"]} == given["preprocess_cfg"]


def test_a_model_that_a_layout_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path, pipeline: Pipeline) -> None:
    """Guards against half a model in a folder that looks complete."""
    dual_folder(tmp_path / "siglip", "siglip")
    with pytest.raises(InputError, match="family siglip"):
        export(tmp_path / "siglip", "open_clip", tmp_path / "out", CPU)
    with pytest.raises(InputError, match="task vqa"):
        exporting.hugging_face_files(pipeline)
    with pytest.raises(InputError, match="that is empty, or not there"):
        export(tmp_path / "siglip", "run", tmp_path / "siglip", CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["siglip"]


def test_a_wrong_conversion_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the check at the end: it must see one weight that is one bit off."""
    dual_folder(tmp_path / "a", "clip")

    def broken(pipeline) -> dict[str, bytes]:
        files = exporting.hugging_face_files(pipeline)
        tensors = safetensors.torch.load(files["model.safetensors"])
        weight = tensors["text_model.encoder.layers.1.mlp.fc2.bias"]
        weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))
        return files | {"model.safetensors": safetensors.torch.save(tensors, {"format": "pt"})}

    monkeypatch.setitem(exporting.LAYOUTS, "hugging_face", broken)
    with pytest.raises(JobError, match=r"another text_encoder\.model\.encoder\.layers\.1\.mlp\.fc2\.bias"):
        export(tmp_path / "a", "hugging_face", tmp_path / "b", CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_stored_example_that_drifts_is_seen(tmp_path: Path) -> None:
    """Guards against weights, words or pixels that changed since the export."""
    dual_folder(tmp_path / "a", "clip")
    export(tmp_path / "a", "hugging_face", tmp_path / "b", CPU)
    config = json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())
    config["image_mean"] = [0.9, 0.1, 0.1]
    (tmp_path / "b" / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="stored example's similarity"):
        chiasm.load(tmp_path / "b")


def test_a_changed_preprocessing_is_read_again(tmp_path: Path) -> None:
    """Guards against pixels remembered by the folder's name, as of the last model that stood there."""
    dual_folder(tmp_path, "clip")
    before = chiasm.load(tmp_path).encode_image(pictures())
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | {"resample": 0}))
    assert not np.array_equal(before, chiasm.load(tmp_path).encode_image(pictures()))


def test_a_tokenizer_that_should_lower_its_texts_is_refused_where_it_does_not(tmp_path: Path) -> None:
    """Guards SigLIP's words: its lower case is code that a tokenizer.json may lack."""
    dual_folder(tmp_path, "siglip")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": True}))
    with pytest.raises(InputError, match="says do_lower_case"):
        chiasm.load(tmp_path)
    pieces = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.save(str(tmp_path / "tokenizer.json"))
    found = chiasm.load(tmp_path).encode_text(["A Red Circle", "a red circle"])
    assert np.array_equal(found[0], found[1])


def test_activations_and_preprocessings_that_disagree_are_refused(tmp_path: Path) -> None:
    """Guards against the classic silent error: weights of QuickGELU run with GELU, or another model's pixels."""
    words = save_clip_words(tmp_path / "oc")
    open_clip_folder(tmp_path / "oc", words, False)
    renamed = tmp_path / "ViT-B-32-openai"
    shutil.copytree(tmp_path / "oc", renamed)
    with pytest.raises(InputError, match="'openai' with the activation GELU"):
        chiasm.load(renamed)
    told = json.loads((tmp_path / "oc" / "open_clip_config.json").read_text())
    write = (tmp_path / "oc" / "open_clip_config.json").write_text
    write(json.dumps(told | {"pretrained": "metaclip_400m"}))
    with pytest.raises(InputError, match="metaclip_400m"):
        chiasm.load(tmp_path / "oc")
    write(json.dumps({"model_cfg": told["model_cfg"]}))
    with pytest.raises(InputError, match="no preprocess_cfg"):
        chiasm.load(tmp_path / "oc")
    dual_folder(tmp_path / "hf", "clip")
    (tmp_path / "hf" / "open_clip_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"config\.json says quick_gelu"):
        chiasm.load(tmp_path / "hf")
    told["model_cfg"]["quick_gelu"], told["preprocess_cfg"]["mean"] = True, [0.5, 0.5, 0.5]
    (tmp_path / "hf" / "open_clip_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="has the mean"):
        chiasm.load(tmp_path / "hf")
    (tmp_path / "hf" / "open_clip_config.json").unlink()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the text tower gelu"):
        chiasm.load(tmp_path / "hf")
    check_quick_gelu(tmp_path / "laion400m_e32", False, ["openair", "metaclip-2"])  # others are let through


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "pool_type", "avg"),
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("text_cfg", "new_kind_of_norm", 1),
        ("model_cfg", "multimodal_cfg", {}),
    ],
)
def test_towers_of_open_clip_that_are_no_clip_are_refused(
    section: str, key: str, value: object, tmp_path: Path
) -> None:
    """Guards against an option that is read past: the weights load, the numbers are others."""
    words = save_clip_words(tmp_path)
    open_clip_folder(tmp_path, words, False)
    told = json.loads((tmp_path / "open_clip_config.json").read_text())
    (told["model_cfg"] if section == "model_cfg" else told["model_cfg"][section])[key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=f"{section}.{key}"):
        chiasm.load(tmp_path)


def test_other_folders_are_told_what_to_do(tmp_path: Path) -> None:
    """Guards against a traceback, and against a download nobody asked for."""
    with pytest.raises(InputError, match="hf download openai/clip-vit-base-patch32"):
        chiasm.load("openai/clip-vit-base-patch32")
    transformers.BertConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="holds a bert"):
        chiasm.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="no MANIFEST"):
        chiasm.load(tmp_path)


def test_an_opened_folder_searches_and_is_a_tower(tmp_path: Path) -> None:
    """Guards against a model that can be asked and not used: index, fingerprint, and towers of an open_clip folder."""
    words = save_clip_words(tmp_path / "oc")
    open_clip_folder(tmp_path / "oc", words, True)
    pipeline = open_pipeline(tmp_path / "oc", CPU)
    assert pipeline.image_fingerprint() != pipeline.text_fingerprint()
    (tmp_path / "photos").mkdir()
    for number, one in enumerate(pictures()):
        Image.fromarray(one).save(tmp_path / "photos" / f"{number}.png")
    with chiasm.Index.build(tmp_path / "photos", tmp_path / "index", model=tmp_path / "oc") as index:
        (nearest, *_) = index.search(image=tmp_path / "photos" / "1.png", count=3)
    assert nearest.path.endswith("1.png") and nearest.similarity == pytest.approx(1, abs=1e-5)
    assert image_ref_from_array(pictures()[0]).load().shape == (40, 60, 3)
