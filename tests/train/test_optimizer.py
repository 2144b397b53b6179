"""What decays, what is trained, and how fast."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from chiasm.core.config import override
from chiasm.core.errors import InputError
from chiasm.models.heads import FusedClasses, ImageWriter
from chiasm.models.vision_language import AssembledVLM, Parts, VisionLanguageModel
from chiasm.recipes.table import find_recipe
from chiasm.train.config import RunConfig, TrainConfig
from chiasm.train.optimizer import build_optimizer, has_decay, learning_rate, trainable_names

TRAIN = TrainConfig(steps=10, lr=0.01, weight_decay=0.1, beta2=0.98)

HEADS = {"vqa": FusedClasses(5, widening=2), "captioning": ImageWriter()}


def config() -> RunConfig:
    demo = find_recipe("demo")
    image = replace(demo.model.image, channels=(4, 4), size_px=16)
    return replace(demo, model=replace(demo.model, dim=8, embedding_dim=8, image=image))


@pytest.fixture
def model() -> VisionLanguageModel:
    torch.manual_seed(0)
    return AssembledVLM(config().model, Parts(vocabulary=30, contrast="softmax", heads=HEADS))


def test_matrices_decay_and_nothing_else_does(model: VisionLanguageModel) -> None:
    """Guards against decay of norms, biases, the temperature and positions, told by the module and not by the name."""
    decaying = {name for name, parameter in model.named_parameters() if has_decay(name, parameter)}
    expected = set()
    for place, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            expected.add(f"{place}.weight")
    assert decaying == expected and len(expected) > 20
    exempt = {name for name, _ in model.named_parameters()} - decaying
    assert {"logit_scale", "image_encoder.position", "text_encoder.summary", "heads.captioning.position"} <= exempt
    groups = build_optimizer(model, [name for name, _ in model.named_parameters()], TRAIN).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(parameter.ndim >= 2 for parameter in groups[0]["params"])


@pytest.mark.parametrize("fusion", ["resampler", "merged_attention"])
def test_learned_tokens_do_not_decay(fusion: str) -> None:
    """Guards against decay of tokens that stand for nothing, a question to the picture, a kind: they have no zero."""
    model = replace(config().model, fusion=fusion)
    model = override(model, ["text.kind=two_stream", "text.summary_tokens=0", "image.pool_queries=3"])
    torch.manual_seed(0)
    built = AssembledVLM(model, Parts(vocabulary=30, heads=HEADS))
    decaying = {name for name, parameter in built.named_parameters() if has_decay(name, parameter)}
    expected = set()
    for place, module in built.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) and not place.endswith(".types"):
            expected.add(f"{place}.weight")
    assert decaying == expected
    tokens = {name for name, _ in built.named_parameters()} - decaying
    assert {"fusion.absent.text", "image_pooler.query", "text_encoder.query_token"} <= tokens
    assert ("fusion.queries" if fusion == "resampler" else "fusion.join.types.weight") in tokens


def test_steps_equal_a_slow_loop() -> None:
    """Guards against other betas, coupled decay (Adam with L2), and decay of a bias: AdamW of the paper, in numbers."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    state = {name: parameter.detach().double().numpy().copy() for name, parameter in layer.named_parameters()}
    moments = {name: (0 * value, 0 * value) for name, value in state.items()}
    optimizer = build_optimizer(layer, ["weight", "bias"], TRAIN)
    for step in range(1, 6):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        for name, parameter in layer.named_parameters():
            gradient = parameter.grad.double().numpy()
            m, v = moments[name]
            moments[name] = m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
            decay = 0.1 if name == "weight" else 0.0
            update = (m / (1 - 0.9**step)) / ((v / (1 - 0.98**step)) ** 0.5 + 1e-8)
            state[name] = state[name] - 0.01 * decay * state[name] - 0.01 * update
        optimizer.step()
        for name, parameter in layer.named_parameters():
            assert parameter.detach().numpy() == pytest.approx(state[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("total", "asked", "warmup"),
    [
        (1000, 100, 100),
        (1000, -1, 50),
        (20_000, -1, 500),
        (30, -1, 2),
        (10, 100, 5),
        (100, 0, 0),
        (1, -1, 0),
        (2, 1, 1),
    ],
)
def test_the_schedule_equals_a_slow_loop(total: int, asked: int, warmup: int) -> None:
    """Guards against a first step of rate zero, a jump after the warm-up, and a warm-up longer than the run."""
    train = TrainConfig(steps=total, lr=0.5, warmup_steps=asked)
    rates = [learning_rate(step, total, train) for step in range(total)]
    for step, rate in enumerate(rates):
        if step < warmup:
            expected = 0.5 * (step + 1) / warmup
        else:
            expected = 0.25 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        assert rate == pytest.approx(expected, abs=1e-12)
    assert max(rates) == pytest.approx(0.5) and min(rates) > 0
    falling = rates[max(warmup - 1, 0) :]
    assert falling == sorted(falling, reverse=True)


def test_patterns_choose_what_is_trained(model: VisionLanguageModel) -> None:
    """Guards against a frozen tower that is trained, and a misspelt pattern that trains nothing of what was meant."""
    names = [name for name, _ in model.named_parameters()]
    assert trainable_names(model, ["*"], []) == names
    assert set(trainable_names(model, ["fusion.*", "logit_scale"], [])) == {
        name for name in names if name.startswith("fusion.") or name == "logit_scale"
    }
    thawed = trainable_names(model, ["*"], ["image_encoder."])
    assert thawed == [name for name in names if not name.startswith("image_encoder.")]
    with pytest.raises(InputError, match=r"'fussion.*' which matches no parameter|'fussion\.\*'"):
        trainable_names(model, ["fusion.*", "fussion.*"], [])
    with pytest.raises(InputError, match="nothing is trainable"):
        trainable_names(model, ["image_encoder.*"], ["image_encoder."])


def test_the_fused_step_is_that_of_the_paper(model: VisionLanguageModel) -> None:
    """Guards against a kernel that decays or corrects its moments otherwise: AdamW by hand, in float64."""
    names = [name for name, _ in model.named_parameters()]
    optimizer = build_optimizer(model, names, TRAIN)
    named = {name: one.detach().double().clone() for name, one in model.named_parameters()}
    moments = {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in named.items()}
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 4):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradient, (first, second) = parameter.grad.double(), moments[name]
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 1 - TRAIN.beta2)
            named[name] *= 1 - TRAIN.lr * (TRAIN.weight_decay if has_decay(name, parameter) else 0)
            change = first / (1 - 0.9**number) / ((second / (1 - TRAIN.beta2**number)).sqrt() + 1e-8)
            named[name] -= TRAIN.lr * change
        optimizer.step()
    assert optimizer.param_groups[0]["fused"]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), named[name], rtol=1e-5, atol=1e-6)
