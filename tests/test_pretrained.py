"The weights that come with the package: small, described, and of use without training."
import pytest
import torch

from ctsr.data import load_prepared, prepare
from ctsr.degrade import TASKS, degrade
from ctsr.metrics import psnr
from ctsr.presets import load_preset, plan
from ctsr.pretrained import FOLDER, LIMIT, STATED, load_pretrained, pretrained
from ctsr.restore import Interpolate, load_run, read_card
from ctsr.study import run_notebook


@pytest.mark.parametrize("name", pretrained())
def test_card_says_what_the_weights_are(name):
    card, file = pretrained()[name], FOLDER/f"{name}.safetensors"
    assert file.stat().st_size < LIMIT and card["use"] == STATED and card["licence"]
    assert card["trained"]["cpu_hours"] > 0 and card["trained"]["device"] and card["recipe"][-1]["steps"] >= 300
    assert {"psnr", "ssim", "lpips", "images"} <= card["metrics"]["test, no relative in train"].keys()
    assert not [w for w in str(card).split("'") if w.startswith("/")], "a path of the machine that trained it"


def test_stored_runet_restores_images_it_was_never_made_for(tmp_path):
    "No CT of its data set: a drawn one. Far above the interpolation all the same."
    images = load_prepared(prepare("phantom", tmp_path, hr=256, fit="crop", phantom=dict(subjects=4, slices=1))).split("test").images
    hr, task = images[:, None].float()/255, TASKS["x5"]
    lr = degrade(hr, task)
    gain = (psnr(load_pretrained("runet-x5")(lr, task), hr) - psnr(Interpolate("bilinear")(lr, task), hr)).mean()
    assert gain > 3, f"{gain:.2f} dB"


def test_a_study_takes_stored_weights_in_place_of_training(root, tmp_path):
    "The notebook that trains gives them as a finished training, and scores them on the validation images."
    images = prepare("phantom", tmp_path, hr=256, fit="crop", phantom=dict(subjects=12, slices=1))
    job = next(j for j in plan(load_preset("full", stored=True), str(tmp_path)) if j.name == "train/ours-x5")
    assert job.parameters["stored"] == "runet-x5" and not job.parameters["init"] and job.needs == ["prepare/kaggle-256-crop"]
    run_notebook(root/"nbs"/"study"/"train.ipynb", tmp_path/"train.ipynb", job.parameters | dict(prepared=str(images)))
    assert all((tmp_path/output).exists() for output in job.outputs)
    card, stored = read_card(tmp_path/"train"/"ours-x5"/"config.json"), pretrained()["runet-x5"]
    assert card["stored"] == "runet-x5" and card["cpu_seconds"] == stored["trained"]["cpu_hours"] * 3600 and card["mean"] == stored["mean"]
    test = load_prepared(images).split("test").images[:, None].float()/255
    lr, task = degrade(test, TASKS["x5"]), TASKS["x5"]
    assert torch.equal(load_run(tmp_path/"train"/"ours-x5")(lr, task), load_pretrained("runet-x5")(lr, task))
