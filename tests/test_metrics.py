"Metrics against scikit-image where rounding and borders show; kernels; back-projection."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import TASKS, Task, degrade, downsample, enlarge, parse_kernel, resize
from ctsr.data.grey import apply_window
from ctsr.data.phantom import phantom_slice
from ctsr.evaluation.restore import BackProjection, Interpolate, back_project
from ctsr.metrics.fidelity import (
    PROTOCOLS,
    lr_consistency,
    mae,
    measure,
    psnr,
    rms_contrast,
    ssim,
)

GAUSSIAN = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)


def pairs():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 64, 64, generator=g)
    close = (x + 0.05 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    odd = torch.rand(2, 2, 1, 11, 53, generator=g)
    steps = F.interpolate(torch.rand(2, 1, 4, 4, generator=g), 80)

    def full(v):
        return torch.full((1, 1, 40, 40), v)

    return {
        "random": (x, close),
        "unrelated": (x, x.flip(0)),
        "smallest": (odd[0], odd[1]),
        "double": (x.double(), close.double()),
        "padded": (F.pad(x, (40, 40, 8, 8)), F.pad(close, (40, 40, 8, 8))),
        "constant": (full(0.9), full(0.2)),
        "black": (full(0.0), full(0.0)),
        "blocks": (steps[:1], steps[1:]),
        "nearly white": (full(1.0), full(0.999)),
    }


@pytest.mark.parametrize("window", ["uniform", "gaussian"])
@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("name", pairs())
def test_ssim_equals_scikit_image(name, data_range, window):
    x, y = pairs()[name]
    kw = GAUSSIAN if window == "gaussian" else {}
    theirs = [
        structural_similarity(a[0], b[0], data_range=data_range, **kw)
        for a, b in zip(x.double().numpy(), y.double().numpy())
    ]
    np.testing.assert_allclose(ssim(x, y, data_range, window), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["random", "unrelated", "double", "padded", "constant", "nearly white"]
)
def test_psnr_equals_scikit_image(name):
    x, y = pairs()[name]
    with np.errstate(divide="ignore"):
        theirs = [
            peak_signal_noise_ratio(a, b, data_range=1)
            for a, b in zip(x.double().numpy(), y.double().numpy())
        ]
    np.testing.assert_allclose(psnr(x, y), theirs, atol=1e-6, rtol=0)


def test_batch_channels_and_types():
    x, y = pairs()["random"]
    together = ssim(x, y)
    assert torch.equal(together, torch.cat([ssim(a[None], b[None]) for a, b in zip(x, y)]))
    three = [t.view(1, 3, 64, 64) for t in (x, y)]
    assert torch.allclose(ssim(*three)[0], together.mean()) and psnr(*three).shape == (1,)
    assert ssim(x.bfloat16(), y.bfloat16()).dtype == torch.float64 and ssim(x[:0], y[:0]).shape == (
        0,
    )
    poisoned = x.clone()
    poisoned[1, 0, 63, 63] = torch.nan
    values = ssim(poisoned, y)
    assert values.isnan().tolist() == [False, True, False] and torch.equal(
        values[[0, 2]], together[[0, 2]]
    )
    assert not ssim(x.requires_grad_(), y).requires_grad


def test_protocols_clip_and_differ():
    x, y = pairs()["random"]
    wild = y + 0.5 * (y - 0.5)
    for name, p in PROTOCOLS.items():
        got = measure(wild, x, name)
        kw = GAUSSIAN if p.ssim_window == "gaussian" else {}
        clipped = wild.clamp(0, 1).double().numpy()
        theirs = [
            structural_similarity(a[0], b[0], data_range=p.ssim_range, **kw)
            for a, b in zip(clipped, x.double().numpy())
        ]
        np.testing.assert_allclose(got["ssim"], theirs, atol=1e-6)
        theirs = [
            peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(x.double().numpy(), clipped)
        ]
        np.testing.assert_allclose(got["psnr"], theirs, atol=1e-6)
        assert all(v.shape == (3,) and v.dtype == torch.float64 for v in got.values())
    with pytest.raises(CTSRError, match="unknown protocol"):
        measure(x, y, "none")


def test_small_measures():
    x, y = pairs()["random"]
    assert torch.allclose(mae(x, y), (x - y).double().abs().mean((1, 2, 3)))
    assert torch.allclose(rms_contrast(x), x.double().std((1, 2, 3), correction=0))
    hr = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    lr = degrade(hr, TASKS["x5"])
    assert (lr_consistency(hr, lr, TASKS["x5"]) == 0).all() and (
        lr_consistency(1 - hr, lr, TASKS["x5"]) > 0
    ).all()


@pytest.mark.parametrize(
    "shapes,dtype,says",
    [
        (((1, 1, 9, 9),) * 2, torch.float32, "at least 11"),
        (((2, 1, 32, 32), (1, 1, 32, 32)), torch.float32, "shape"),
        (((32, 32),) * 2, torch.float32, "batch"),
        (((1, 1, 32, 32),) * 2, torch.uint8, "uint8"),
    ],
)
def test_what_cannot_be_compared_is_refused(shapes, dtype, says):
    with pytest.raises(CTSRError, match=says):
        ssim(*(torch.zeros(s, dtype=dtype) for s in shapes))


KERNELS = ("box", "lanczos", "aliased", "gaussian:0.3", "gaussian:0.8")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("hr,lr", [(256, 51), (256, 128), (96, 19), (64, 64), (65, 64), (40, 1)])
def test_a_kernel_keeps_a_ramp_and_a_constant_where_they_were(kernel, hr, lr):
    ramp = 10 * torch.arange(float(hr)) - 1000
    wanted = 10 * ((torch.arange(float(lr)) + 0.5) * hr / lr - 0.5) - 1000
    x = ramp.expand(1, 1, 48, hr)
    assert (downsample(x, (12, lr), kernel) - wanted).abs().max() < 0.01
    assert (downsample(x.mT, (lr, 12), kernel).mT - wanted).abs().max() < 0.01
    flat = torch.full((1, 1, hr, hr), -1000.0)
    assert (downsample(flat, (lr, lr), kernel) + 1000).abs().max() < 1e-3


def test_aliased_is_the_degradation_of_the_tasks_and_box_the_mean_of_a_block():
    x = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    for name in ("x5", "x2"):
        lr = degrade(x, TASKS[name])
        assert torch.allclose(downsample(x, lr.shape[-2:], "aliased"), lr, atol=1e-4)
    for factor in (2, 4, 8):
        size = (256 // factor, 256 // factor)
        assert torch.allclose(downsample(x, size, "box"), F.avg_pool2d(x, factor), atol=1e-5)
    antialiased = resize(x, 64, "bilinear", antialias=True)
    assert (downsample(x, (64, 64), "aliased") - antialiased).abs().max() > 0.1


def test_a_gaussian_has_the_width_in_lr_pixels_that_its_name_says():
    dot = torch.zeros(1, 1, 1, 257)
    dot[..., 128] = 1
    for sigma in (0.3, 0.8, 2.0):
        line = downsample(dot, (1, 257), f"gaussian:{sigma}")[0, 0, 0]
        assert line.sum() == pytest.approx(1, abs=1e-5)
    wide = torch.zeros(1, 1, 1, 256)
    wide[..., 124:132] = 1 / 8  # one LR pixel of factor 8 around the middle
    line = downsample(wide, (1, 32), "gaussian:2")[0, 0, 0]
    at = torch.arange(32) - 15.5
    assert (line * at**2).sum() / line.sum() == pytest.approx(2**2 + 1 / 12, rel=0.02)


def test_each_image_has_its_own_kernel_and_its_noise_comes_from_the_generator():
    def seeded():
        return torch.Generator().manual_seed(1)

    x = torch.rand(3, 1, 64, 64, generator=seeded())
    names = ["box", "gaussian:0.5", "lanczos"]
    together = downsample(x, (32, 20), names)
    apart = [downsample(image[None], (32, 20), name) for image, name in zip(x, names)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-6)
    noisy = downsample(x, (32, 20), names, torch.tensor([0.0, 5.0, 30.0]), seeded())
    spread = (noisy - together).flatten(1).std(1)
    assert spread[0] == 0 and spread[1:].tolist() == pytest.approx([5, 30], rel=0.1)
    again = downsample(x, (32, 20), names, torch.tensor([0.0, 5.0, 30.0]), seeded())
    assert torch.equal(noisy, again)
    with pytest.raises(CTSRError, match="2 kernels for 3 images"):
        downsample(x, (32, 32), names[:2])
    with pytest.raises(CTSRError, match="cannot reduce"):
        downsample(x, (65, 32), "box")
    with pytest.raises(CTSRError, match="cannot enlarge"):
        enlarge(x, (63, 64))


@pytest.mark.parametrize(
    "text",
    ["", "blur", "Box", "box:1", "gaussian", "gaussian:", "gaussian:0", "gaussian:inf"]
    + ["gaussian:1e-200", "gaussian:101"],
)
def test_what_is_no_kernel_is_refused_in_one_line(text):
    with pytest.raises(CTSRError, match="box, lanczos, aliased or gaussian:S") as refusal:
        parse_kernel(text)
    assert "\n" not in str(refusal.value)
    assert str(parse_kernel("gaussian:0.50")) == "gaussian:0.5"
    for narrowest_and_widest in ("gaussian:0.01", "gaussian:100"):
        assert downsample(torch.ones(1, 1, 8, 8), (4, 4), narrowest_and_widest).isfinite().all()


def phantom(size=128):
    image = apply_window(phantom_slice(1, size=size, views=120), "lung")
    return torch.from_numpy(image)[None, None].float() / 255


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("unit", ["grey", "HU"])
def test_back_projection_with_the_right_kernel_raises_psnr_and_removes_the_residual(kernel, unit):
    scale, offset = (1, 0) if unit == "grey" else (1500, -1350)
    hr = phantom() * scale + offset
    lr = downsample(hr, (64, 64), kernel)

    def reduce(sr):
        return downsample(sr, (64, 64), kernel)

    plain = enlarge(lr, hr.shape[-2:])
    result = back_project(plain, lr, reduce)
    before, after = ((lr - reduce(sr)).square().mean().sqrt() for sr in (plain, result))
    assert (result - hr).square().mean() < 0.9 * (plain - hr).square().mean()  # +0.46 dB
    assert after < before / 20


def test_back_projection_with_a_wrong_kernel_loses():
    task = Task("x4", hr=128, lr=32, antialias=True)
    hr = phantom()
    lr = degrade(hr, task)
    plain = Interpolate("spline")(lr, task)
    right = BackProjection(Interpolate("spline"))(lr, task)
    wrong = back_project(plain, lr, lambda sr: downsample(sr, lr.shape[-2:], "gaussian:0.8"))
    assert psnr(right, hr) > psnr(plain, hr) + 0.2
    assert psnr(wrong.clamp(0, 1), hr) < psnr(plain, hr) - 1
    assert right.min() >= 0 and right.max() <= 1
    assert (lr - degrade(right, task)).square().mean().sqrt() < 1e-3
