"Properties of the SR3 network, of its training pair and of its samples."

import pytest
import torch

from ctsr.core.errors import CTSRError
from ctsr.models.diffusion import SAMPLERS, TARGETS
from ctsr.models.sr3 import SR3, noisy_pair, sample


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=2, c=1, h=16, w=16, seed=0):
    return torch.randn(n, c, h, w, generator=seeded(seed))


def small(build="ours", channels=16, **more):
    "A model in which nothing is zero, as after training."
    torch.manual_seed(0)
    model = SR3(build, channels=channels, **more).eval()
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return model


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_is_its_own(name):
    model = small(T=100)
    condition = images(3, seed=6)
    eta = 0.5 if name == "ddim" else None

    def draw(c, seeds, steps=4):
        return sample(model, c, seeds, steps, name, eta=eta)

    together = draw(condition, [7, 8, 9])
    assert torch.equal(together, draw(condition, [7, 8, 9])) and together.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(
            draw(condition[i : i + 1], [7 + i])[0], together[i], rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(
        draw(condition.flip(0), [9, 8, 7]).flip(0), together, rtol=1e-5, atol=1e-5
    )
    other = draw(condition, [7, 8, 10])
    assert (other[2] - together[2]).abs().max() > 0.01 and torch.equal(other[:2], together[:2])
    assert draw(condition, [7, 8, 9], 1).isfinite().all()
    for steps in (0, 101):
        with pytest.raises(CTSRError, match="'steps'"):
            draw(condition, [7, 8, 9], steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_evaluation_a_step(name):
    model = small(T=100)
    calls = []
    model.register_forward_hook(
        lambda m, given, y: (calls.append(given[1].dtype), y.bfloat16())[1]
    )  # a network in bf16
    for steps in (1, 2, 9):
        calls.clear()
        assert (
            sample(model, images(), [1, 2], steps, name).dtype == torch.float32
            and calls == [torch.float32] * steps
        )


def test_upstream_has_the_size_of_the_original():
    with torch.device("meta"):
        assert sum(p.numel() for p in SR3("upstream").parameters()) == 155_334_339


@pytest.mark.parametrize("build", ["ours", "upstream"])
def test_gradient_reaches_every_parameter(build):
    torch.manual_seed(0)
    # at 16 channels each is a group of its own: the norm takes away a bias, and upstream's level
    model = SR3(build, channels=32, T=100)
    y = images(2, model.in_channels, 32, 32)
    condition = images(2, model.in_channels, 32, 32, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    # ours begins with its last convolutions, then the last of each block, at zero: two steps make
    # them numbers
    for i in range(3):
        inputs, target = noisy_pair(model, condition, y, seeded(i), torch.tensor([0.3, 0.7]))
        optimizer.zero_grad()
        (model(*inputs) - target).square().mean().backward()
        if i < 2:
            optimizer.step()
    assert not [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 1e-8
    ]


@pytest.mark.parametrize("build", ["ours", "upstream"])
@pytest.mark.parametrize("h, w", [(37, 50), (1, 3)])
def test_any_size_comes_out_as_it_went_in(build, h, w):
    model = small(build)
    x = images(2, model.in_channels, h, w)
    with torch.no_grad():
        y = model(x, x, torch.tensor([0.2, 0.9]))
    assert y.shape == x.shape and y.isfinite().all() and y.std() > 0


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", TARGETS)
def test_noisy_pair_asks_for_what_the_model_predicts(kind, residual):
    model = small(target=kind, residual=residual)
    y = images()
    condition = images(seed=1)
    gamma = torch.tensor([0.2, 0.9])
    model.measure(condition, y)
    a = gamma.sqrt().reshape(2, 1, 1, 1)
    s = (1 - gamma).sqrt().reshape(2, 1, 1, 1)
    (given, y_t, level), target = noisy_pair(model, condition, y, seeded(), gamma)
    y0 = (y - given) / (y - condition).square().mean().sqrt() if residual else y
    eps = (y_t - a * y0) / s
    torch.testing.assert_close(
        target, {"eps": eps, "x0": y0, "v": a * eps - s * y0}[kind], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(given, condition) and torch.equal(level, gamma) and 0.8 < eps.std() < 1.2


@pytest.mark.parametrize(
    "word, values",
    [
        ("build", ["theirs"]),
        ("target", ["noise"]),
        ("in_channels", [0, 2]),
        ("channels", [0, 15]),
        ("multipliers", [[], [1, 0], [1.5]]),
        ("attention", [[True], [True] * 4]),
        ("groups", [0, 1.5]),
        ("level", [0, "no"]),
        ("residual", ["yes"]),
        ("start", [1.0, -0.1]),
        ("depth", [3]),
    ],
)
def test_wrong_settings_are_named(word, values):
    for value in values:
        with pytest.raises(CTSRError, match=rf"'{word}(\.\d)?'"):
            SR3(**{word: value})


def test_a_narrow_network_with_fewer_groups_sees_how_bright_a_picture_is():
    """With one channel per group of the normalisation, the mean of a map is forgotten.

    The public 16 groups at 8 channels are such a case.
    """

    def change(groups):
        torch.manual_seed(0)
        net = SR3("upstream", channels=8, multipliers=[1, 2], groups=groups).eval()
        x = torch.randn(4, 3, 32, 32)
        with torch.no_grad():
            return (
                (net(x, x + 0.5, torch.full((4,), 0.5)) - net(x, x, torch.full((4,), 0.5)))
                .mean()
                .abs()
                .item()
            )

    assert change(2) > 5 * change(16)
