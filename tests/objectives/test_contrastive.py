"""The contrastive loss against a slow loop, finite differences, CLIP's own loss, and itself in pieces."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chiasm.core.errors import InputError
from chiasm.objectives import similarity
from chiasm.objectives.contrastive import HardNegatives, distilled_contrast, softmax_contrast

IMAGE_GROUP = torch.tensor([3, 1, 3, 7, 4])
TEXT_GROUP = torch.tensor([1, 3, 4, 3, 9, 4, 1])
"""Group 3 has two pictures and two texts, picture 7 no text, text 9 no picture, and n != m."""
TEXT_KEY = torch.tensor([-5, 2**60, -5, 8, -5, 6, 7])
"""Texts 0, 2 and 4 are one sentence, of groups 1, 4 and 9: text 9 has pictures by it."""


def unit_rows(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def belongs(image_group: Tensor, text_group: Tensor, text_key: Tensor) -> Tensor:
    """[n, m], True where a text is a sentence of the picture's group, written out."""
    links = set(zip(text_group.tolist(), text_key.tolist(), strict=True))
    return torch.tensor([[(group, key) in links for key in text_key.tolist()] for group in image_group.tolist()])


def slow_side(query: Tensor, key: Tensor, scale: float, is_positive: Tensor) -> float:
    """UniCL equation 3 written out: minus the mean over positives of the log-probability, averaged over rows."""
    losses = []
    for row, fits in zip(query.tolist(), is_positive.tolist(), strict=True):
        weights = [math.exp(scale * sum(a * b for a, b in zip(row, other, strict=True))) for other in key.tolist()]
        positives = [w for w, fit in zip(weights, fits, strict=True) if fit]
        if positives:
            losses.append(-sum(math.log(w / sum(weights)) for w in positives) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("text_key", [None, TEXT_KEY])
def test_loss_equals_the_written_out_sum(text_key: Tensor | None) -> None:
    """Guards against swapped sides, a positive counted as a negative, and rows without positive in the mean."""
    image, text = unit_rows(5, 0), unit_rows(7, 1)
    terms = softmax_contrast(image, text, torch.tensor(4.0), IMAGE_GROUP, TEXT_GROUP, text_key=text_key)
    fits = belongs(IMAGE_GROUP, TEXT_GROUP, TEXT_GROUP if text_key is None else text_key)
    image_to_text, text_to_image = slow_side(image, text, 4.0, fits), slow_side(text, image, 4.0, fits.T)
    assert float(terms["image_to_text"]) == pytest.approx(image_to_text, abs=1e-12)
    assert float(terms["text_to_image"]) == pytest.approx(text_to_image, abs=1e-12)
    assert float(terms["loss"]) == pytest.approx((image_to_text + text_to_image) / 2, abs=1e-12)


def test_equal_sentences_are_never_negatives() -> None:
    """Guards against two photos with one caption that push each other's copy of it away."""
    group = torch.arange(3)
    apart = F.normalize(torch.eye(3)[[0, 0, 1]] + torch.tensor([[0, 0, 0.1], [0, 0, -0.1], [0, 0, 0]]), dim=1)
    gradients = []
    for key in (None, torch.tensor([4, 4, 9])):
        leaf = apart.clone().requires_grad_()
        softmax_contrast(leaf, apart, torch.tensor(1.0), group, group, text_key=key)["loss"].backward()
        gradients.append(leaf.grad[0, 2].item())
    assert gradients[0] < 0 < gradients[1]  # own copy alone: further from the twin; both copies: nearer to it


def soft_side(query: Tensor, key: Tensor, teacher: Tensor, fits: Tensor, alpha: float) -> Tensor:
    """ALBEF equation 6 written out, with the target as one matrix, over the rows that have a positive."""
    target = alpha * teacher.softmax(1) + (1 - alpha) * fits / fits.sum(1, keepdim=True).clamp_min(1)
    return -(target * (query @ key.T).log_softmax(1))[fits.any(1)].sum(1).mean()


def test_soft_targets_equal_the_written_out_matrix() -> None:
    """Guards against a teacher's row against a pupil's, a wrong share, and a gradient through the teacher's scale."""
    teachers, fits = (unit_rows(5, 8), unit_rows(7, 9)), belongs(IMAGE_GROUP, TEXT_GROUP, TEXT_KEY)
    results = []
    for is_slow in (True, False):
        image, text = unit_rows(5, 0).requires_grad_(), unit_rows(7, 1).requires_grad_()
        scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        if is_slow:
            seen = 5.0 * teachers[0] @ teachers[1].T
            one, other = (
                soft_side(scale * image, text, seen, fits, 0.3),
                soft_side(scale * text, image, seen.T, fits.T, 0.3),
            )
            terms = {"image_to_text": one, "text_to_image": other, "loss": (one + other) / 2}
        else:
            terms = distilled_contrast(
                image, text, *teachers, scale, IMAGE_GROUP, TEXT_GROUP, alpha=0.3, text_key=TEXT_KEY
            )
        terms["loss"].backward()
        results.append([terms, image.grad, text.grad, scale.grad])
    torch.testing.assert_close(results[0], results[1])


def test_without_a_share_the_teacher_says_nothing() -> None:
    """Guards against a share that is the wrong way round."""
    image, text, scale = unit_rows(5, 0), unit_rows(7, 1), torch.tensor(5.0)
    plain = softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP)
    got = distilled_contrast(image, text, unit_rows(5, 8), unit_rows(7, 9), scale, IMAGE_GROUP, TEXT_GROUP, 0.0)
    torch.testing.assert_close(got, plain)
    with pytest.raises(InputError, match=r"teacher's share is 1\.5"):
        distilled_contrast(image, text, image, text, scale, IMAGE_GROUP, TEXT_GROUP, 1.5)


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


@pytest.mark.parametrize("text_key", [None, TEXT_KEY])
@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5, 6, 100])
def test_pieces_change_nothing(chunk_rows: int, text_key: Tensor | None) -> None:
    """Guards against a last, shorter piece that is weighted as a full one."""
    results = []
    for rows in (0, chunk_rows):
        leaves = [
            unit_rows(5, 0).requires_grad_(),
            unit_rows(7, 1).requires_grad_(),
            torch.tensor(9.0).requires_grad_(),
        ]
        terms = softmax_contrast(*leaves, IMAGE_GROUP, TEXT_GROUP, chunk_rows=rows, text_key=text_key)
        terms["loss"].backward()
        results.append([*terms.values(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5, 6, 100])
def test_pieces_change_nothing_beside_a_teacher(chunk_rows: int) -> None:
    """Guards against a teacher's rows that are cut elsewhere than the model's."""
    results = []
    for rows in (0, chunk_rows):
        leaves = [unit_rows(5, 0).requires_grad_(), unit_rows(7, 1).requires_grad_()]
        scale = torch.tensor(9.0).requires_grad_()
        given = unit_rows(5, 8), unit_rows(7, 9), scale, IMAGE_GROUP, TEXT_GROUP, 0.4, TEXT_KEY
        terms = distilled_contrast(*leaves, *given, chunk_rows=rows)
        terms["loss"].backward()
        results.append([*terms.values(), *(leaf.grad for leaf in [*leaves, scale])])
    torch.testing.assert_close(results[0], results[1])


def test_large_batches_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the whole matrix of similarities where nobody states `chunk_rows`."""
    monkeypatch.setattr(similarity, "PIECE_PAIRS", 15)
    held: list[int] = []

    def piece(rows: Tensor, key: Tensor) -> Tensor:
        held.append(len(rows) * len(key))
        return (rows @ key.T).sum()

    rows, key = unit_rows(7, 0), unit_rows(5, 0)
    total = similarity.sum_in_pieces(piece, 0, (rows,), (key,))
    assert held == [15, 15, 5]
    torch.testing.assert_close(total, (rows @ key.T).sum())
    held.clear()
    similarity.sum_in_pieces(piece, 0, (rows,), (torch.cat([key] * 9),))
    assert held == [45] * 7, "a row at least"


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
    with pytest.raises(InputError, match="no image of the batch"):
        softmax_contrast(
            unit_rows(2, 0), unit_rows(2, 1), torch.tensor(1.0), torch.tensor([0, 1]), torch.tensor([2, 3])
        )


def test_negative_chunk_is_refused() -> None:
    """Guards against a silent fall back to all rows at once."""
    with pytest.raises(InputError, match="chunk_rows is -1"):
        softmax_contrast(unit_rows(5, 0), unit_rows(7, 1), torch.tensor(1.0), IMAGE_GROUP, TEXT_GROUP, chunk_rows=-1)


WRONG_KEY = torch.tensor([100, 101, 8, 2**60, -5, 100, 103])
"""The third is text 3's sentence, of group 3; the fourth text 1's, likewise; the fifth that of texts 0, 2 and 4."""
IS_WRONG = torch.tensor([True, False, True, True, True, True, False])


def wrong_texts(dtype: torch.dtype = torch.float64) -> HardNegatives:
    return HardNegatives(unit_rows(7, 5, dtype), WRONG_KEY, IS_WRONG)


def test_hard_negatives_equal_the_written_out_sum() -> None:
    """Guards against negatives that search, that count where there is none, or that are true of a picture."""
    image, text, wrong = unit_rows(5, 0), unit_rows(7, 1), wrong_texts()
    terms = softmax_contrast(
        image, text, torch.tensor(4.0), IMAGE_GROUP, TEXT_GROUP, text_key=TEXT_KEY, hard_negatives=wrong
    )
    fits = belongs(IMAGE_GROUP, TEXT_GROUP, TEXT_KEY)
    true = belongs_by_key(WRONG_KEY)
    assert true[:, IS_WRONG].any() and not true[:, IS_WRONG].all()
    losses = []
    for row in range(5):
        own = [math.exp(4.0 * float(image[row] @ text[column])) for column in range(7)]
        beside = [
            math.exp(4.0 * float(image[row] @ wrong.text[c])) for c in range(7) if IS_WRONG[c] and not true[row, c]
        ]
        positives = [w for w, fit in zip(own, fits[row].tolist(), strict=True) if fit]
        if positives:
            losses.append(-sum(math.log(w / (sum(own) + sum(beside))) for w in positives) / len(positives))
    assert float(terms["image_to_text"]) == pytest.approx(sum(losses) / len(losses), abs=1e-12)
    plain = softmax_contrast(image, text, torch.tensor(4.0), IMAGE_GROUP, TEXT_GROUP, text_key=TEXT_KEY)
    assert float(terms["text_to_image"]) == float(plain["text_to_image"])
    assert float(terms["image_to_text"]) > float(plain["image_to_text"])


def belongs_by_key(keys: Tensor) -> Tensor:
    """[n, w], True where a sentence is one of the picture's, written out."""
    links = set(zip(TEXT_GROUP.tolist(), TEXT_KEY.tolist(), strict=True))
    return torch.tensor([[(group, key) in links for key in keys.tolist()] for group in IMAGE_GROUP.tolist()])


def test_no_hard_negative_changes_nothing() -> None:
    """Guards against rows that stand for none, and against the sentence of another picture left out for all."""
    image, text, scale = unit_rows(5, 0), unit_rows(7, 1), torch.tensor(4.0)
    plain = softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP, text_key=TEXT_KEY)
    none = wrong_texts()._replace(is_real=torch.zeros(7, dtype=torch.bool))
    got = softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP, text_key=TEXT_KEY, hard_negatives=none)
    torch.testing.assert_close(got, plain, rtol=0, atol=0)
    with pytest.raises(InputError, match="without text_key"):
        softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP, hard_negatives=none)


@pytest.mark.parametrize("chunk_rows", [0, 3])
def test_gradient_with_hard_negatives(chunk_rows: int) -> None:
    """Guards against negatives that teach nothing, NaN where one is left out, and pieces that differ."""
    leaves = [unit_rows(5, 0), unit_rows(7, 1), unit_rows(7, 5), torch.tensor(3.0, dtype=torch.float64)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def loss(image: Tensor, text: Tensor, wrong: Tensor, scale: Tensor) -> Tensor:
        negatives = HardNegatives(wrong, WRONG_KEY, IS_WRONG)
        return softmax_contrast(image, text, scale, IMAGE_GROUP, TEXT_GROUP, chunk_rows, TEXT_KEY, negatives)["loss"]

    assert torch.autograd.gradcheck(loss, tuple(leaves))
    whole = softmax_contrast(*leaves[:2], leaves[3], IMAGE_GROUP, TEXT_GROUP, 0, TEXT_KEY, wrong_texts())["loss"]
    torch.testing.assert_close(loss(*leaves), whole, rtol=0, atol=1e-12)
    gradient = torch.autograd.grad(loss(*leaves), leaves[2])[0]
    used = IS_WRONG & ~belongs_by_key(WRONG_KEY).all(0)
    assert (gradient.abs().sum(1) > 0).tolist() == used.tolist()
