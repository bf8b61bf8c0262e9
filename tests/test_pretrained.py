"The weights that come with the package: small, described, and of use without training."

import dataclasses
from dataclasses import replace

import pytest
import torch

from ctsr.core.errors import CTSRError
from ctsr.core.files import save_json
from ctsr.data.degrade import TASKS, degrade, gaussian_blur
from ctsr.data.prepare import prepare
from ctsr.data.prepared import load_prepared
from ctsr.evaluation.likeness import MEASURES, input_bounds, likeness_bounds, measures, unlike
from ctsr.evaluation.pretrained import (
    ABOUT,
    FOLDER,
    LIMIT,
    STATED,
    made_by,
    model_for,
    pack,
    pretrained,
    read_card,
    unpack,
)
from ctsr.evaluation.restore import Interpolate, load_pretrained, load_run
from ctsr.metrics.fidelity import psnr
from ctsr.pipeline.notebooks import run_notebook
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import load_preset
from ctsr.training.loop import train
from ctsr.training.settings import TrainConfig


@pytest.mark.parametrize("name", pretrained())
def test_card_says_what_the_weights_are(name):
    card = pretrained()[name]
    file = FOLDER / f"{name}.safetensors"
    assert file.stat().st_size < LIMIT and card["use"] == STATED and card["licence"]
    assert (
        card["trained"]["cpu_hours"] > 0
        and card["trained"]["device"]
        and card["recipe"][-1]["steps"] >= 300
    )
    assert {"psnr", "ssim", "lpips", "images"} <= card["metrics"][
        "test, no relative in train"
    ].keys()
    assert ("sampling" in card) == (card["model"]["name"] == "sr3"), (
        "a model that draws samples says how"
    )
    if "sampling" in card:
        assert card["sampling"].keys() == {"sampler", "steps"} and card["sampling"]["steps"] >= 1
    assert set(ABOUT) <= card.keys() and all(card[k] for k in ABOUT if k != "pixel_mm")
    assert set(card["inputs"]) == set(MEASURES)
    assert all(low < high for low, high in card["inputs"].values())
    assert ("aliased" in card["not_for"]) == (card["kernel"] == "aliased")
    assert not [w for w in str(card).split("'") if w.startswith("/")], (
        "a path of the machine that trained it"
    )


@pytest.mark.slow
def test_stored_runet_restores_images_it_was_never_made_for(tmp_path):
    "On a drawn slice, unlike any image of its training, it is far above the interpolation."
    images = (
        load_prepared(
            prepare("phantom", tmp_path, hr=256, fit="crop", phantom=dict(subjects=4, slices=1))
        )
        .split("test")
        .images
    )
    hr = images[:, None].float() / 255
    task = TASKS["x5"]
    lr = degrade(hr, task)
    gain = (
        psnr(load_pretrained("runet-x5")(lr, task), hr)
        - psnr(Interpolate("bilinear")(lr, task), hr)
    ).mean()
    assert gain > 3, f"{gain:.2f} dB"


@pytest.mark.slow
def test_weights_that_draw_samples(phantom, tmp_path):
    """Weights are packed after two stages and unpacked again.

    The recipe has both stages, sampling is as it was chosen, and the samples are the same.
    """
    first = TrainConfig(
        task=dict(name="x2", hr=64, lr=32),
        model=dict(name="sr3", channels=16),
        loss={"l2": 1.0},
        up="bicubic",
        mean=0.5,
        std=0.5,
        clip=1.0,
        crop=32,
        batch_size=4,
        steps=10,
        validate_every=10,
        validate_steps=1,
        keep="last",
        ema=0.9,
    )
    second = replace(
        first, init=str(tmp_path / "first"), steps=6, validate_every=6, learning_rate=3e-4
    )
    for config, name in ((first, "first"), (second, "run")):
        train(config, phantom, tmp_path / name, progress=False)
    chosen = dict(sampler="dpm++", steps=3, k=4, project=10)
    pack(
        tmp_path / "run",
        "sr3-small",
        dict(psnr=0.0),
        "phantom: none needed",
        tmp_path / "stored",
        chosen,
    )
    card = pretrained(tmp_path / "stored")["sr3-small"]
    kept = dict(sampler="dpm++", steps=3)  # what else was chosen, `ctsr upscale` leaves to its user
    assert card["sampling"] == kept and [stage["steps"] for stage in card["recipe"]] == [10, 6]
    assert (
        made_by(card, [first, second])
        and not made_by(card, [first])
        and not made_by(card, [first, replace(second, steps=7)])
    )
    assert not made_by(card, [first, replace(second, model=dict(name="sr3", channels=24))])
    history = unpack("sr3-small", second, tmp_path / "again", tmp_path / "stored")
    assert (
        history.step.tolist() == [6]
        and read_card(tmp_path / "again" / "config.json")["sampling"] == kept
    )
    again = load_run(tmp_path / "again")
    stored = load_pretrained("sr3-small", folder=tmp_path / "stored")
    assert (again.sampler, again.steps) == (stored.sampler, stored.steps) == ("dpm++", 3)
    lr = torch.rand(2, 1, 20, 20)
    task = first.task
    assert torch.equal(again.draw(lr, task, k=2), stored.draw(lr, task, k=2))
    with pytest.raises(CTSRError, match="'up' is 'bicubic', not 'bilinear'"):
        unpack("sr3-small", replace(second, up="bilinear"), tmp_path / "other", tmp_path / "stored")


@pytest.mark.slow
def test_a_study_takes_stored_weights_in_place_of_training(root, tmp_path):
    "The training notebook leaves them as a finished training and scores them on validation images."
    images = prepare("phantom", tmp_path, hr=256, phantom=dict(subjects=12, slices=1, views=45))
    job = next(
        j
        for j in plan(load_preset("full", stored=True), str(tmp_path))
        if j.name == "train/ours-x5"
    )
    assert (
        job.parameters["stored"] == "runet-x5"
        and not job.parameters["init"]
        and job.needs == ["prepare/kaggle-256-crop"]
    )
    run_notebook(
        root / "nbs" / "study" / "train.ipynb",
        tmp_path / "train.ipynb",
        job.parameters | dict(prepared=str(images)),
    )
    assert all((tmp_path / output).exists() for output in job.outputs)
    card = read_card(tmp_path / "train" / "ours-x5" / "config.json")
    stored = pretrained()["runet-x5"]
    assert (
        card["stored"] == "runet-x5"
        and card["cpu_seconds"] == stored["trained"]["cpu_hours"] * 3600
        and card["mean"] == stored["mean"]
    )
    test = load_prepared(images).split("test").images[:, None].float() / 255
    lr = degrade(test, TASKS["x5"])
    task = TASKS["x5"]
    assert torch.equal(
        load_run(tmp_path / "train" / "ours-x5")(lr, task), load_pretrained("runet-x5")(lr, task)
    )


def test_the_time_of_weights_that_others_begin_with_is_counted_once(tmp_path):
    "sr3-x2 and sr3-x8 begin as sr3-x5 does, and each counts only the time from there."
    preset = load_preset("full", stored=True)
    configs = preset.trainings
    runs = {run.stored: name for name, run in preset.runs.items() if run.stored}

    def hours(name):
        unpack(name, configs[runs[name]], tmp_path / name)
        return read_card(tmp_path / name / "config.json")["cpu_seconds"] / 3600

    whole = {
        name: pretrained()[name]["trained"]["cpu_hours"] for name in ("sr3-x5", "sr3-x2", "sr3-x8")
    }
    assert hours("sr3-x5") == pytest.approx(whole["sr3-x5"])
    shared = sum(
        stage["cpu_hours"] for stage in pretrained()["sr3-x2"]["recipe"] if "task" in stage
    )  # of another task: x5's
    for name in ("sr3-x2", "sr3-x8"):
        assert 0 < hours(name) == pytest.approx(whole[name] - shared, abs=1e-3)


def test_a_network_that_was_trained_blind_comes_first(tmp_path):
    "Of one factor the blind network is taken; of another the study's; a missing one is named."
    for name, task in (
        ("runet-x2", "x2"),
        ("blind-x2", "x2"),
        ("runet-x5", "x5"),
        ("sr3-x8", "x8"),
    ):
        save_json(tmp_path / f"{name}.json", dict(task=dataclasses.asdict(TASKS[task])))
    assert model_for(None, tmp_path) == model_for(2, tmp_path) == "blind-x2"
    assert model_for(5, tmp_path) == "runet-x5"
    with pytest.raises(CTSRError, match=r"factor of 8.*sr3-x8 \(8\)"):
        model_for(8, tmp_path)


def test_the_card_of_a_blind_training(phantom, tmp_path):
    "It names kernels, noise and subjects. Other subjects make another training, another file not."
    volumes = prepare(
        "phantom", tmp_path, hr=96, window="hounsfield", phantom=dict(subjects=2, slices=1)
    )
    blind = dict(volumes=str(volumes), subjects=["s001"], kernels=dict(box=1.0, gaussian=2.0))
    config = TrainConfig(
        task=dict(name="x2", hr=64, lr=32),
        model=dict(name="runet", width=1 / 16, residual=True),
        blind=blind,
        batch_size=4,
        steps=2,
        validate_every=2,
    )
    train(config, phantom, tmp_path / "run", progress=False)
    inputs = input_bounds(tmp_path / "run", phantom)
    pack(tmp_path / "run", "blind", {}, "none needed", tmp_path, about=dict(inputs=inputs))
    card = pretrained(tmp_path)["blind"]
    assert card["kernel"] == "random: box, gaussian:0.3 to gaussian:0.8; noise of 0 to 30 HU"
    assert "slices of CT volumes in HU (s001)" in card["trained_on"] and card["window"] == "full"
    assert set(card["inputs"]) == set(MEASURES) and card["inputs"]["noise"][1] > 0.003
    assert made_by(card, [replace(config, blind=replace(config.blind, volumes="elsewhere"))])
    assert not made_by(card, [replace(config, blind=replace(config.blind, subjects=["s000"]))])


def test_an_input_unlike_the_training_is_named():
    "Each measure on both sides of its bounds; what was trained on is like itself."
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((40, 1, 32, 32), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1)
    grain = torch.randn(smooth.shape, generator=generator)
    images = (smooth + 0.02 * grain).clamp(0, 1)
    bounds = likeness_bounds([images])
    assert unlike(measures(images[:5]), bounds) == []
    (noisy,) = unlike(measures(images[:5] + 0.06 * grain[:5])[:, 5:6].expand(-1, 7), bounds)[1:2]
    assert noisy.startswith("much noise") and "(noise " in noisy
    dark = unlike(measures(images[:5] / 3), bounds)
    assert "grey levels" in dark[0] and "little noise" in dark[1]
    blurred = gaussian_blur(images[:5], 1.5)
    assert any("blurred" in said for said in unlike(measures(blurred), bounds))
    assert unlike(measures(images[:5, :, :9, :9])[:, 5:], {}) == []
    flat = measures(torch.full((2, 1, 64, 64), 0.5))
    assert flat[:, 5].isnan().all() and unlike(flat, dict(noise=[0.1, 0.2])) == []
