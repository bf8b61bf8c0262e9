"Properties of the SR3 network, of its training pair and of its samples."

import json

import pytest
import torch
from safetensors.torch import load_file

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import degrade_pair
from ctsr.data.prepared import load_prepared
from ctsr.evaluation.restore import load_run
from ctsr.models.diffusion import SAMPLERS, TARGETS
from ctsr.models.sr3 import SR3, noisy_pair, sample
from ctsr.training import batches
from ctsr.training.loop import train
from ctsr.training.settings import TrainConfig


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


@pytest.mark.slow
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


BASE = dict(
    task=dict(name="x5", hr=64, lr=13),
    model=dict(name="runet", width=1 / 16, residual=True),
    up="bilinear",
    crop=32,
    batch_size=4,
    steps=4,
    validate_every=4,
)
REFINED = BASE | dict(
    model=dict(name="sr3", channels=16),
    mean=0.5,
    std=0.5,
    loss={"l2": 1.0},
    validate_steps=2,
    validate_images=2,
    keep="last",
)


@pytest.mark.slow
def test_sr3_over_a_trained_network_refines_its_output(phantom, tmp_path):
    "Trained, resumed and drawn over the base; a base that changed or has another input is refused."
    base = tmp_path / "train" / "runet"
    run = tmp_path / "train" / "refined"
    train(TrainConfig(**BASE), phantom, base, progress=False)
    config = TrainConfig(**REFINED, base=str(base))
    train(config, phantom, run, progress=False)
    train(config, phantom, tmp_path / "parts", progress=False, stop_at=2)
    train(config, phantom, tmp_path / "parts", progress=False)
    whole, parts = (load_file(f / "weights.safetensors") for f in (run, tmp_path / "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    card = json.loads((run / "config.json").read_text())
    assert set(card["base_gains"]) == {"train", "valid"}

    test = load_prepared(phantom).split("test")
    hr = test.images[:2].unsqueeze(1).float() / 255
    lr, up = degrade_pair(hr, config.task, "bilinear")
    drawn = load_run(run, steps=2, match=False)
    assert torch.allclose(drawn.enlarge(lr, config.task), load_run(base)(lr, config.task))
    plain = load_run(run, steps=2, match=False)
    plain.base = None
    assert not torch.allclose(plain(lr, config.task), drawn(lr, config.task))
    (tmp_path / "train").rename(tmp_path / "moved")  # a study that was moved as a whole
    again = load_run(tmp_path / "moved" / "refined", steps=2, match=False)
    assert torch.equal(again(lr, config.task), drawn(lr, config.task))

    with pytest.raises(CTSRError, match="'up' is bicubic: set it to bilinear"):
        moved = dict(base=str(tmp_path / "moved" / "runet"), up="bicubic")
        train(TrainConfig(**REFINED | moved), phantom, tmp_path / "other", progress=False)
    longer = TrainConfig(**BASE | dict(steps=5, validate_every=5))
    train(longer, phantom, tmp_path / "moved" / "runet", progress=False)
    with pytest.raises(CTSRError, match="has changed since"):
        load_run(tmp_path / "moved" / "refined")


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher_than_fewer_steps_of_the_teacher(phantom, tmp_path):
    small = dict(model=dict(name="sr3", channels=16, multipliers=[1, 2]), crop=32, batch_size=8)
    learnt = small | dict(steps=150, validate_every=150, learning_rate=2e-3)
    train(TrainConfig(**REFINED | learnt), phantom, tmp_path / "teacher", progress=False)
    student = dict(init=str(tmp_path / "teacher"), distill=2, steps=80, validate_every=80)
    config = TrainConfig(**REFINED | small | dict(learning_rate=1e-3) | student)
    train(config, phantom, tmp_path / "student", progress=False)
    spreads = [
        load_file(tmp_path / name / "weights.safetensors")["spread"]
        for name in ("teacher", "student")
    ]
    assert torch.equal(*spreads)
    images = load_prepared(phantom).split("train").images[:8].unsqueeze(1).float() / 255
    lr = degrade_pair(images, config.task, "bilinear")[0]

    def draw(name, steps):
        return load_run(tmp_path / name, sampler="ddim", steps=steps, match=False)(lr, config.task)

    wanted = draw("teacher", 4)
    halved, respaced = ((draw(name, 2) - wanted).square().mean() for name in ("student", "teacher"))
    assert halved < 0.5 * respaced


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(model=BASE["model"], base="runs/a"), "'base' is for sr3"),
        (dict(model=BASE["model"], distill=2), "'distill' is for sr3"),
        (dict(distill=2), "needs 'init'"),
        (dict(min_snr=5.0, loss={"l1": 1.0}), "'min_snr' weights a squared error"),
        (dict(loss={"vgg": 1.0}), "'vgg' alone"),
        (dict(vgg_from=1.0), "'vgg_from'"),
    ],
)
def test_settings_of_training_that_do_not_fit_are_refused(change, word):
    TrainConfig(**REFINED | dict(min_snr=5.0, loss={"l2": 1.0, "vgg": 0.01}))
    with pytest.raises(CTSRError, match=word):
        TrainConfig(**REFINED | change)


def test_features_judge_clear_images_only(monkeypatch):
    "Where all is noise the feature loss sees nothing, and its gradient stays finite."
    seen = []

    class Features(torch.nn.Module):
        def forward(self, x, y):
            seen.append(len(x))
            return (x - y).square().mean()

    monkeypatch.setattr(batches, "VGGLoss", Features)
    config = TrainConfig(**REFINED | dict(loss={"l2": 1.0, "vgg": 1.0}, vgg_from=0.5))
    loss = batches.WeightedLoss(config.loss)
    model = small()
    x = images(3).sigmoid()
    for levels, clear in (([0.9, 0.6, 0.1], [2]), ([0.4, 0.2, 0.1], [])):
        seen.clear()
        gamma = torch.tensor(levels)
        pair = batches.training_pair(model, x, x.flip(-1), config, seeded(), gamma)
        loss(*pair).backward()
        assert seen == clear
        assert all(p.grad.isfinite().all() for p in model.parameters())
    estimate, original = pair[2]
    assert len(estimate) == len(original) == 0


def test_stored_weights_fit_a_network_with_biases_by_noise_level():
    plain = small()
    more = small(bias_levels=5)
    more.load_state_dict(plain.state_dict())
    x = images()
    gamma = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        assert torch.equal(plain(x, x, gamma), more(x, x, gamma))
        more.net.bias.table[-1] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # at pure noise
        moved = more(x, x, torch.zeros(2)) - plain(x, x, torch.zeros(2))
    assert torch.allclose(moved[..., ::2, 1::2], torch.ones(1), atol=1e-4)
    assert moved[..., 1::2, :].abs().max() < 1e-4


def test_biases_by_noise_level_are_none_or_several():
    with pytest.raises(CTSRError, match="'bias_levels'"):
        SR3(bias_levels=1)
