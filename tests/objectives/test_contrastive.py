"""The contrastive loss against a slow loop, finite differences, CLIP's own loss, and itself in pieces."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.objectives.contrastive import softmax_contrast

IMAGE_GROUP = torch.tensor([3, 1, 3, 7, 4])
TEXT_GROUP = torch.tensor([1, 3, 4, 3, 9, 4, 1])
"""Group 3 has two pictures and two texts, picture 7 no text, text 9 no picture, and n != m."""


def unit_rows(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def slow_side(query: Tensor, key: Tensor, scale: float, query_group: Tensor, key_group: Tensor) -> float:
    """UniCL equation 3 written out: minus the mean over positives of the log-probability, averaged over rows."""
    losses = []
    for row, group in zip(query.tolist(), query_group.tolist(), strict=True):
        weights = [math.exp(scale * sum(a * b for a, b in zip(row, other, strict=True))) for other in key.tolist()]
        positives = [w for w, other in zip(weights, key_group.tolist(), strict=True) if other == group]
        if positives:
            losses.append(-sum(math.log(w / sum(weights)) for w in positives) / len(positives))
    return sum(losses) / len(losses)


def test_loss_equals_the_written_out_sum() -> None:
    """Guards against swapped sides, a positive counted as a negative, and rows without positive in the mean."""
    image, text = unit_rows(5, 0), unit_rows(7, 1)
    terms = softmax_contrast(image, text, torch.tensor(4.0), IMAGE_GROUP, TEXT_GROUP)
    image_to_text = slow_side(image, text, 4.0, IMAGE_GROUP, TEXT_GROUP)
    text_to_image = slow_side(text, image, 4.0, TEXT_GROUP, IMAGE_GROUP)
    assert float(terms["image_to_text"]) == pytest.approx(image_to_text, abs=1e-12)
    assert float(terms["text_to_image"]) == pytest.approx(text_to_image, abs=1e-12)
    assert float(terms["loss"]) == pytest.approx((image_to_text + text_to_image) / 2, abs=1e-12)


def test_one_positive_a_row_is_the_loss_of_clip() -> None:
    """Guards against a mean over the wrong axis: transformers' CLIP gives the same number from its own embeddings."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [hf]")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text_sizes = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=sizes | text_sizes, vision_config=sizes | {"image_size": 8, "patch_size": 4}, projection_dim=6
    )
    torch.manual_seed(0)
    clip = transformers.CLIPModel(config).eval()
    out = clip(input_ids=torch.randint(3, 20, (9, 5)), pixel_values=torch.randn(9, 3, 8, 8), return_loss=True)
    group = torch.arange(9)
    terms = softmax_contrast(out.image_embeds, out.text_embeds, clip.logit_scale.exp(), group, group)
    torch.testing.assert_close(terms["loss"], out.loss)


@pytest.mark.parametrize("chunk_rows", [0, 2])
def test_gradient_agrees_with_finite_differences(chunk_rows: int) -> None:
    """Guards against a detached factor (the temperature above all) and a wrong recomputation in pieces."""
    image, text = unit_rows(5, 0).requires_grad_(), unit_rows(7, 1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP, chunk_rows)["loss"]

    assert torch.autograd.gradcheck(loss, (image, text, scale))


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5, 6, 100])
def test_pieces_change_nothing(chunk_rows: int) -> None:
    """Guards against a last, shorter piece that is weighted as a full one."""
    results = []
    for rows in (0, chunk_rows):
        leaves = [
            unit_rows(5, 0).requires_grad_(),
            unit_rows(7, 1).requires_grad_(),
            torch.tensor(9.0).requires_grad_(),
        ]
        terms = softmax_contrast(*leaves, IMAGE_GROUP, TEXT_GROUP, chunk_rows=rows)
        terms["loss"].backward()
        results.append([*terms.values(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[0], results[1])


def test_order_of_rows_does_not_matter() -> None:
    """Guards against positives found by place instead of by group."""
    image, text, scale = unit_rows(5, 0), unit_rows(7, 1), torch.tensor(5.0)
    one, other = torch.randperm(5), torch.randperm(7)
    plain = softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP)
    moved = softmax_contrast(image[one], text[other], scale, IMAGE_GROUP[one], TEXT_GROUP[other])
    torch.testing.assert_close(plain, moved)


def test_low_precision_input_is_summed_in_float32() -> None:
    """Guards against bf16 similarities: at scale 100 they carry errors of 0.2 and more, also under autocast."""
    image, text = unit_rows(64, 4, torch.bfloat16), unit_rows(64, 5, torch.bfloat16)
    group, scale = torch.arange(64), torch.tensor(100.0)
    with torch.autocast("cpu", torch.bfloat16):
        low = softmax_contrast(image, text, scale, group, group)["loss"]
    assert low.dtype == torch.float32
    exact = softmax_contrast(image.double(), text.double(), scale.double(), group, group)["loss"]
    assert float(low) == pytest.approx(float(exact), rel=1e-5)


def test_indistinct_embeddings_cost_the_logarithm_of_the_batch() -> None:
    """A stated value: equal vectors give log m; perfect ones at a high scale give 0."""
    group = torch.arange(8)
    same = torch.ones(8, 1)
    assert float(softmax_contrast(same, same, torch.tensor(10.0), group, group)["loss"]) == pytest.approx(math.log(8))
    apart = torch.eye(8)
    assert float(softmax_contrast(apart, apart, torch.tensor(100.0), group, group)["loss"]) == pytest.approx(
        0, abs=1e-6
    )


def test_batch_without_a_pair_is_refused() -> None:
    """Guards against 0 / 0, which would reach the weights as NaN."""
    with pytest.raises(InputError, match="no picture of the batch"):
        softmax_contrast(
            unit_rows(2, 0), unit_rows(2, 1), torch.tensor(1.0), torch.tensor([0, 1]), torch.tensor([2, 3])
        )


def test_negative_chunk_is_refused() -> None:
    """Guards against a silent fall back to all rows at once."""
    with pytest.raises(InputError, match="chunk_rows is -1"):
        softmax_contrast(unit_rows(5, 0), unit_rows(7, 1), torch.tensor(1.0), IMAGE_GROUP, TEXT_GROUP, chunk_rows=-1)
