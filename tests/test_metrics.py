"Metrics against scikit-image, on the images where rounding and borders show."

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import TASKS, degrade
from ctsr.metrics.fidelity import (
    PROTOCOLS,
    lr_consistency,
    mae,
    measure,
    psnr,
    rms_contrast,
    ssim,
    ssim_map,
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


@pytest.mark.parametrize("window", ["uniform", "gaussian"])
def test_ssim_map_equals_scikit_image(window):
    x, y = pairs()["smallest"]
    kw = GAUSSIAN if window == "gaussian" else {}
    _, full = structural_similarity(
        *(t[0, 0].double().numpy() for t in (x, y)), data_range=1, full=True, **kw
    )
    r = 5 if window == "gaussian" else 3
    np.testing.assert_allclose(ssim_map(x, y, 1.0, window)[0, 0], full[r:-r, r:-r], atol=1e-9)


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
