"""Language models against transformers' own forward pass: masks, positions, caches, low-rank changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.models.bridge.splicing import GivenRows, Spliced, spliced
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.language_model import LanguageModel, LanguageModelConfig
from chiasm.models.lora import LORA_NAMES
from chiasm.models.pretrained.key_values import KeyValues

pytest.importorskip("transformers", reason="needs the extra [llm]")
from language_folders import FAMILIES, network, write_folder

VOCABULARY = 100


def model(family: str, **settings: Any) -> LanguageModel:
    config = LanguageModelConfig(**{"precision": "fp32", **settings})
    return LanguageModel(network(family, VOCABULARY), config).eval()


def words(language: LanguageModel, ids: Tensor, is_real: Tensor, until: Tensor | None = None) -> Spliced:
    absent = torch.full_like(ids, -1)
    return spliced(GivenRows(ids, is_real, until), language.embed(ids), None, absent)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))


def theirs(language: LanguageModel, ids: Tensor) -> Tensor:
    found: Tensor = language.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family_gives_transformers_logits(family: str, ids: Tensor) -> None:
    """Guards against a wrong scale, cap or mask of one family."""
    language = model(family)
    rows = words(language, ids, torch.ones_like(ids).bool())
    ours = language.words(language.states(rows.embeddings, rows.allowed, rows.positions))
    torch.testing.assert_close(ours, theirs(language, ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_branch_is_its_conversation_alone(family: str, ids: Tensor) -> None:
    """Packed = unpacked: a continuation attends to what it stands behind and to itself, with positions of its own."""
    language = model(family)
    until = torch.tensor([[9, 9, 9, 6, 6, 6, 9, 9, 9]]).expand(2, -1)
    rows = words(language, ids, torch.ones_like(ids).bool(), until)
    ours = language.words(language.states(rows.embeddings, rows.allowed, rows.positions))
    alone = theirs(language, ids[:, [0, 1, 2, 6, 7, 8]])
    torch.testing.assert_close(ours[:, 6:], alone[:, 3:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_steps_of_rows_of_unequal_length_are_the_whole_pass(family: str, ids: Tensor) -> None:
    language = model(family)
    is_real = torch.ones_like(ids).bool()
    is_real[1, 6:] = False
    rows = words(language, ids, is_real)
    cache = KeyValues()
    language.states(rows.embeddings, rows.allowed, rows.positions, cache)
    seen, place = rows.is_real.sort(1).values[[1, 0]], rows.is_real.sum(1)[[1, 0]]
    cache.gather(torch.tensor([1, 0]), torch.tensor([[6, 7, 8, 0, 1, 2, 3, 4, 5], list(range(9))]), seen)
    newest = torch.tensor([[5, 6], [7, 8]])
    for step in (0, 1):
        seen = torch.cat([seen, torch.ones(2, 1).bool()], 1)
        states = language.states(language.embed(newest[:, step, None]), seen[:, None], place[:, None] + step, cache)
    ours = language.words(states[:, -1])
    short = theirs(language, torch.cat([ids[1:, :6], newest[:1]], 1))[0, -1]
    long = theirs(language, torch.cat([ids[:1], newest[1:]], 1))[0, -1]
    torch.testing.assert_close(ours, torch.stack([short, long]), atol=2e-5, rtol=1e-4)


def test_a_network_without_masks_and_positions_is_refused() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(InputError, match="BloomForCausalLM"):
        LanguageModel(AutoModelForCausalLM.from_config(config), LanguageModelConfig())


@torch.no_grad()
def test_low_rank_changes_switch_off_to_the_network_bit_for_bit(ids: Tensor) -> None:
    language = model("llama", lora_rank=4)
    before = theirs(model("llama"), ids)
    for name, parameter in language.named_parameters():
        if name.endswith(LORA_NAMES):
            parameter.normal_()
    changed = theirs(language, ids)
    with language.without_adapters():
        off = theirs(language, ids)
    assert torch.equal(off, before) and not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(theirs(language, ids), changed), "they are on again after the block"


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_every_linear_layer_of_the_blocks_gets_a_low_rank_change(family: str) -> None:
    """GPT-2 has transposed layers, which would be missed."""
    language = model(family, lora_rank=2)
    names = {name.rsplit(".", 1)[0] for name, _ in language.named_parameters() if name.endswith(LORA_NAMES)}
    assert len(names) >= 2 * 4, "attention and MLP of both blocks"
    assert not any("lm_head" in name for name in names)


@torch.no_grad()
def test_bf16_is_close_and_keeps_low_rank_changes_in_fp32(ids: Tensor) -> None:
    language = model("llama", precision="bf16", lora_rank=4)
    kinds = {name.endswith(LORA_NAMES): parameter.dtype for name, parameter in language.named_parameters()}
    assert kinds == {False: torch.bfloat16, True: torch.float32}
    cosine = torch.cosine_similarity(theirs(language, ids).float(), theirs(model("llama"), ids), dim=-1)
    assert cosine.min() > 0.99


@torch.no_grad()
def test_a_folder_opens_and_states_its_widths(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "opt", "opt")
    language = LanguageModelConfig(name=str(folder), precision="fp32").build(EncoderShape(8, 2))
    assert isinstance(language, LanguageModel)
    assert language.embedding_dim == 16
    expected = language.embed(torch.arange(language.vocabulary)).square().mean().sqrt()
    assert language.embedding_rms == pytest.approx(float(expected), rel=1e-3)
