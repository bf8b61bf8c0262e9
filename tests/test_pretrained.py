"The weights that come with the package: small, described, and of use without training."
import pytest
import torch

from ctsr.data import load_prepared, prepare
from ctsr.degrade import TASKS, degrade
from ctsr.metrics import psnr
from ctsr.pretrained import FOLDER, LIMIT, STATED, load_pretrained, pretrained
from ctsr.restore import Interpolate


@pytest.mark.parametrize("name", pretrained())
def test_card_says_what_the_weights_are(name):
    card, file = pretrained()[name], FOLDER/f"{name}.safetensors"
    assert file.stat().st_size < LIMIT and card["use"] == STATED and card["licence"]
    assert card["trained"]["cpu_hours"] > 0 and card["trained"]["device"] and card["recipe"][-1]["steps"] > 1000
    assert {"psnr", "ssim", "lpips", "images"} <= card["metrics"]["test, no relative in train"].keys()
    assert not [w for w in str(card).split("'") if w.startswith("/")], "a path of the machine that trained it"


def test_stored_runet_restores_images_it_was_never_made_for(tmp_path):
    "No CT of its data set: a drawn one. Far above the interpolation all the same."
    images = load_prepared(prepare("phantom", tmp_path, hr=256, fit="crop", phantom=dict(subjects=4, slices=1))).split("test").images
    hr, task = images[:, None].float()/255, TASKS["x5"]
    lr = degrade(hr, task)
    gain = (psnr(load_pretrained("runet-x5")(lr, task), hr) - psnr(Interpolate("bilinear")(lr, task), hr)).mean()
    assert gain > 3, f"{gain:.2f} dB"
