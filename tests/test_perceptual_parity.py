"""LPIPS against its authors' package, and VGG features against a plain forward pass.

`lpips` needs torchvision, which does not load with every PyTorch. Only its two feature networks are
used, so a stand-in module that holds ours takes its place; the heads and all arithmetic are the
package's own. It is fetched into a folder of the test's, never installed.
"""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import Task, degrade_pair, gaussian_blur
from ctsr.data.phantom import phantom_slice
from ctsr.metrics.perceptual import LPIPS, NETS, load_features

NAMES = {"alexnet": "alex", "vgg16": "vgg"}  # ours -> the package's


@pytest.fixture(scope="module", params=list(NETS))
def ours(request):
    try:
        return request.param, LPIPS(request.param)
    except CTSRError as e:
        pytest.skip(f"weights cannot be had here: {e}")


@pytest.fixture(scope="module")
def folder(fetched):
    "A folder with the package lpips in it, or nothing where it is installed already."
    if importlib.util.find_spec("lpips"):
        return None
    return fetched("lpips==0.1.4")


@pytest.fixture
def package(folder, monkeypatch):
    if folder:
        monkeypatch.syspath_prepend(str(folder))
    models = ModuleType("torchvision.models")
    for net in NETS:
        setattr(models, net, lambda *_, net=net, **__: SimpleNamespace(features=load_features(net)))
    torchvision = ModuleType("torchvision")
    torchvision.models = models
    for name in [m for m in sys.modules if m.split(".")[0] in ("lpips", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    yield importlib.import_module("lpips")
    for name in [m for m in sys.modules if m.split(".")[0] == "lpips"]:
        del sys.modules[name]


def phantom_pairs(size=96):
    hu = np.stack([phantom_slice(s, size=size, views=90) for s in (1, 2)])
    hr = ((torch.from_numpy(hu).float() + 1350) / 1500).clamp(0, 1)[:, None]
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    task = Task("small", size, size // 5)
    others = {
        "x5 bilinear": degrade_pair(hr, task)[1],
        "x5 nearest": degrade_pair(hr, task, "nearest")[1],
        "blur": gaussian_blur(hr, 2.0),
        "noise": (hr + 0.1 * noise).clamp(0, 1),
        "faint": hr + 0.001 * noise,
        "strangers": hr.flip(0),
        "equal": hr,
        "white": hr * 0 + 1,
    }
    return {name: (x, hr) for name, x in others.items()}


def test_lpips_equals_the_package(ours, package):
    net, mine = ours
    theirs = package.LPIPS(net=NAMES[net], verbose=False)
    for n, lin in enumerate(theirs.lins):
        assert torch.equal(lin.model[-1].weight, getattr(mine, f"head{n}"))
    worst = 0.0
    for name, (x, y) in phantom_pairs().items():
        with torch.no_grad():
            expected = theirs(
                x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1), normalize=True
            ).flatten()
            found = mine(x, y)
        worst = max(worst, (found - expected).abs().max().item())
        torch.testing.assert_close(
            found, expected, atol=1e-4, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )
    print(f"{net}: largest difference {worst:.1e}")


@pytest.mark.slow
def test_lpips_orders_and_ignores_autocast(ours):
    _, mine = ours
    pairs = phantom_pairs()
    with torch.no_grad():
        distance = {k: mine(x, y) for k, (x, y) in pairs.items()}
        with torch.autocast("cpu", torch.bfloat16):
            again = mine(*pairs["blur"])
    assert (
        torch.equal(again, distance["blur"])
        and (distance["equal"] == 0).all()
        and (distance["faint"] < distance["noise"]).all()
    )
    assert all(v.shape == (2,) and v.dtype == torch.float32 for v in distance.values())
