"""CLIP's text vectors over a tree of beginnings against transformers' own, padded to the longest text."""

import copy
import random
from typing import Any

import pytest
import torch

from chiasm.core.types import TextTokens
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.dynamic_int8 import Int8Network
from chiasm.models.encoders import hugging_face
from chiasm.models.encoders.clip_text import clip_text_vectors, has_ends
from chiasm.models.pretrained.hugging_face_folder import TowerSpec
from chiasm.models.vision_language import VisionLanguageModel

transformers = pytest.importorskip("transformers")

WORDS, START, END = 90, 90, 91


def network(activation: str = "quick_gelu", eos: int = END) -> Any:
    """A small text network with weights far from zero."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=92, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=77, hidden_act=activation, eos_token_id=eos, bos_token_id=START, pad_token_id=END,
    )  # fmt: skip
    made = transformers.CLIPTextModel(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def texts(count: int, seed: int) -> list[list[int]]:
    """Texts of which many begin alike; some are equal, some empty, one is as long as the network can read."""
    draw = random.Random(seed)
    found = [[START, END], [START, *([7] * 75), END]]
    while len(found) < count:
        stem = [draw.randrange(4) for _ in range(draw.randrange(20))]
        found.append([START, *stem, *(draw.randrange(WORDS) for _ in range(draw.randrange(14))), END])
        if draw.random() < 0.2:
            found.append(list(found[-1]))
    return found[:count]


def padded(rows: list[list[int]], width: int = 0, pad: int = END) -> TextTokens:
    width = max(width, *map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    return TextTokens(ids, torch.tensor([[place < len(row) for place in range(width)] for row in rows]))


@pytest.mark.parametrize(("activation", "eos"), [("quick_gelu", END), ("gelu", END), ("quick_gelu", 2)])
def test_vectors_are_those_of_transformers(activation: str, eos: int) -> None:
    """Guards against a wrong mask, position, end token, activation or last layer."""
    model = network(activation, eos).double()
    text = padded(texts(40, 0))
    with torch.no_grad():
        expected = model(input_ids=text.ids, attention_mask=text.is_real.long()).pooler_output
        found = clip_text_vectors(model, text)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_gradients_are_those_of_transformers() -> None:
    """Guards against shared beginnings that get the gradient of one text alone."""
    model = network().double()
    other = copy.deepcopy(model)
    text = padded(texts(12, 1))
    target = torch.randn(12, 64, dtype=torch.float64)
    (clip_text_vectors(model, text) * target).sum().backward()
    (other(input_ids=text.ids, attention_mask=text.is_real.long()).pooler_output * target).sum().backward()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_text_alone_is_what_it_is_among_others(threads: int) -> None:
    """Guards against a vector that depends, in its last bit, on the texts beside it, their order or the padding."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = network()
        make_batch_invariant(model)
        rows = texts(150, 2)
        with torch.no_grad():
            whole = clip_text_vectors(model, padded(rows))
            for seed in range(4):
                some = random.Random(seed).sample(range(150), k=(1, 3, 17, 90)[seed])
                part = clip_text_vectors(model, padded([rows[one] for one in some]))
                assert torch.equal(part, whole[some]), seed
            for one in range(0, 150, 5):
                assert torch.equal(clip_text_vectors(model, padded([rows[one]], 77 - one % 9))[0], whole[one]), one
    finally:
        torch.set_num_threads(before)


def test_a_text_without_an_end_is_noticed() -> None:
    """Guards against a vector taken at a padding token, where transformers masks differently."""
    model = network()
    assert has_ends(model, padded([[START, 3, END], [START, END]]))
    assert not has_ends(model, padded([[START, 3, 4], [START, 3, 4, 5, END]]))


def test_training_takes_the_short_way_where_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against attention without its dropout, and activations kept although they were to be computed again."""
    taken: list[int] = []

    def counted(model: Any, text: TextTokens) -> torch.Tensor:
        taken.append(len(text.ids))
        return clip_text_vectors(model, text)

    monkeypatch.setattr(hugging_face, "clip_text_vectors", counted)
    tower = hugging_face.HuggingFaceTextEncoder(network(), TowerSpec({}, "pooler")).train()
    text = padded(texts(5, 2))
    tower.vectors(text).sum().backward()
    assert len(taken) == 1
    tower.recompute = True
    with torch.no_grad():
        tower.vectors(text)
    assert len(taken) == 2
    tower.vectors(text)
    assert len(taken) == 2, "recomputed"
    tower.recompute, tower.model.config.attention_dropout = False, 0.5
    tower.vectors(text)
    assert len(taken) == 2, "with dropout"
    tower.eval().vectors(text)
    assert len(taken) == 3


def test_a_tower_in_another_number_format_is_asked_in_it() -> None:
    """Guards against vectors in fp32 of a tower that is to compute in bf16, and int8 layers that are passed over."""
    tower = hugging_face.HuggingFaceTextEncoder(network(), TowerSpec({}, "pooler"))
    text = padded(texts(20, 3))
    model = VisionLanguageModel.__new__(VisionLanguageModel)
    torch.nn.Module.__init__(model)
    model.text_encoder = tower
    with torch.no_grad():
        exact = model.text_vectors(text)
        made = Int8Network(tower)
        made.put_in()
        rounded = model.text_vectors(text)
        torch.testing.assert_close(rounded, tower(text).pooled, rtol=0, atol=0.05)
        assert not torch.equal(rounded, exact)
        made.take_out()
        assert torch.equal(model.text_vectors(text), exact)
        whole = tower.forward
        tower.__dict__["forward"] = lambda text: whole(text)._replace(pooled=torch.zeros(20, 64))
        assert not model.text_vectors(text).any()
