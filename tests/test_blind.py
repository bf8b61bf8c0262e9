"Blind training: shares, noise in HU, subjects kept apart, the same batches after a resume."

import dataclasses
import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ctsr.apps import held_out
from ctsr.core.errors import CTSRError
from ctsr.core.settings import parse_settings
from ctsr.data.blind import Blind, blind_lr, blind_slices, draw_kernels
from ctsr.data.degrade import Task, enlarge
from ctsr.data.phantom import phantom_volume
from ctsr.data.prepare import prepare
from ctsr.data.prepared import load_prepared
from ctsr.evaluation.pretrained import model_for
from ctsr.evaluation.scans import DEGRADATIONS, scan_measures, scan_scores, scan_table
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import load_preset
from ctsr.training.batches import train_batch, training_volumes
from ctsr.training.loop import train, validate
from ctsr.training.settings import TrainConfig

SETTINGS = dict(
    task=dict(name="x2", hr=64, lr=32),
    model=dict(name="runet", width=1 / 16, residual=True),
    up="bicubic",
    flips=True,
    crop=48,
    batch_size=4,
    steps=6,
    validate_every=3,
    ema=0.9,
)
X2 = Task("x2", 64, 32)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    "Phantom slices in HU: 3 subjects of 2 slices at 96 px."
    folder = tmp_path_factory.mktemp("volumes")
    return prepare(
        "phantom", folder, hr=96, window="hounsfield", phantom=dict(subjects=3, slices=2)
    )


@pytest.fixture(scope="module")
def images(phantom):
    return load_prepared(phantom).split("train").images


def blind_config(volumes, **blind):
    return TrainConfig(**SETTINGS, blind=dict(volumes=str(volumes)) | blind)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- batches


def test_a_step_always_has_the_same_batch(images, volumes):
    config = blind_config(volumes)
    slices = training_volumes(config)
    one, again, other = (train_batch(images, config, s, volumes=slices) for s in (1, 1, 2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])
    seeded = train_batch(images, dataclasses.replace(config, seed=1), 1, volumes=slices)
    assert not torch.equal(one[1], seeded[1])
    for x in one:
        assert x.shape == (4, 1, 48, 48) and 0 <= x.min() and x.max() <= 1


def test_without_noise_the_aliased_kernel_is_the_task_s_own_degradation(images):
    own = TrainConfig(**SETTINGS)
    aliased = dict(kernels={"aliased": 1.0}, noise=0.0)
    config = TrainConfig(**SETTINGS, blind=aliased)
    up, hr = train_batch(images, own, 1)
    blind_up, blind_hr = train_batch(images, config, 1)
    assert torch.equal(hr, blind_hr)
    assert torch.allclose(up, blind_up, atol=1e-5)
    noisy = dataclasses.replace(config, blind=Blind(**aliased | dict(noise=30.0)))
    assert not torch.allclose(up, train_batch(images, noisy, 1)[0], atol=1e-3)


@pytest.mark.parametrize("share, count", [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_share_of_the_batch_comes_from_volumes(images, volumes, share, count):
    "Slices show the phantom's HU in narrow windows; the pictures keep their places."
    config = blind_config(volumes, share=share, windows={"bone": 1.0})
    config = dataclasses.replace(config, flips=False, crop=0)
    with_slices = train_batch(images, config, 0, volumes=training_volumes(config))[1]
    pictures = train_batch(images, config, 0)[1]
    same = [torch.equal(a, b) for a, b in zip(with_slices, pictures)]
    assert same == [False] * count + [True] * (4 - count)


def test_subjects_that_are_not_named_are_never_seen(volumes):
    everyone = training_volumes(blind_config(volumes))
    table = load_prepared(volumes, hounsfield=True).table
    one = training_volumes(blind_config(volumes, subjects=["s001"]))
    assert everyone.dtype == torch.int16 and len(everyone) == 6 and len(one) == 2
    assert torch.equal(one, everyone[torch.tensor((table.subject == "s001").to_numpy())])
    assert training_volumes(TrainConfig(**SETTINGS)) is None
    with pytest.raises(CTSRError, match="s000, s001, s002"):
        training_volumes(blind_config(volumes, subjects=["s009"]))


# --- degradations


def test_each_kernel_occurs_in_its_share():
    blind = Blind(kernels=dict(box=1.0, lanczos=2.0, aliased=1.0, gaussian=4.0), sigma=[0.4, 0.6])
    drawn = draw_kernels(4000, blind, generator())
    for shape, share in blind.kernels.items():
        found = sum(kernel.shape == shape for kernel in drawn) / len(drawn)
        assert abs(found - share / 8) < 0.03
    sigmas = [kernel.sigma for kernel in drawn if kernel.shape == "gaussian"]
    assert 0.4 <= min(sigmas) < 0.41 and 0.59 < max(sigmas) <= 0.6
    assert {kernel.sigma for kernel in drawn if kernel.shape != "gaussian"} == {0.0}


def test_each_window_occurs_in_its_share(volumes):
    slices = training_volumes(blind_config(volumes))
    windows = dict(full=2.0, lung=1.0, mediastinum=1.0)
    width = blind_slices(slices, 2000, 16, Blind(windows=windows), generator())[1]
    for value, share in ((4095, 0.5), (1500, 0.25), (400, 0.25)):
        assert abs((width == value).float().mean() - share) < 0.04
    width = blind_slices(slices, 500, 16, Blind(windows={"random": 1.0}), generator())[1]
    assert 200 <= width.min() < 250 and 3500 < width.max() <= 4096


def test_a_window_shows_the_hu_of_the_slice(volumes):
    slices = training_volumes(blind_config(volumes))[:1]
    levels, width = blind_slices(slices, 1, 96, Blind(windows={"lung": 1.0}), generator())
    assert torch.allclose(levels[0, 0] * 1500 - 1350, slices[0].float(), atol=0.01)
    assert levels.max() > 1 and width.tolist() == [1500]  # bone is clipped after the reduction


@pytest.mark.parametrize("width", [400.0, 1500.0, 4095.0])
def test_noise_is_in_hounsfield_units(width):
    "A flat image shows the noise alone: never above the largest, often far below it."
    blind = Blind(kernels={"box": 1.0}, noise=30.0)
    lr = blind_lr(torch.full((200, 1, 64, 64), 0.5), width, (32, 32), blind, generator())
    deviations = lr.flatten(1).std(1) * width
    assert 25 < deviations.max() < 33
    assert 0.4 < (deviations < 30 / 4).float().mean() < 0.6
    quiet = blind_lr(torch.full((4, 1, 64, 64), 0.5), width, (32, 32), Blind(noise=0), generator())
    assert torch.allclose(quiet, torch.tensor(0.5), atol=1e-5)


# --- training


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_bits(phantom, volumes, tmp_path):
    config = blind_config(volumes)
    for name, stops in (("whole", [None]), ("parts", [2, 4, None])):
        for stop in stops:
            history = train(config, phantom, tmp_path / name, progress=False, stop_at=stop)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert list(history.step) == [3, 6]


def test_other_volumes_start_a_training_again(phantom, volumes, tmp_path, capsys):
    train(blind_config(volumes), phantom, tmp_path / "run", progress=False, stop_at=2)
    fewer = blind_config(volumes, subjects=["s000"])
    train(fewer, phantom, tmp_path / "run", progress=False, stop_at=2)
    assert "starting again, the checkpoint is of other blind, images" in capsys.readouterr().out


def test_validation_is_blind_and_the_same_every_time(phantom):
    pictures = load_prepared(phantom).split("valid").images
    network = torch.nn.Identity()
    network.in_channels = 1
    plain = TrainConfig(**SETTINGS)
    blind = dataclasses.replace(plain, blind=Blind(kernels={"gaussian": 1.0}))
    scores = [validate(network, pictures, c)["val_psnr"] for c in (plain, blind, blind)]
    assert scores[1] == scores[2] < scores[0] - 1


# --- refusals


@pytest.mark.parametrize(
    "change, line",
    [
        (dict(blind=dict(kernels={"bicubic": 1.0})), "'bicubic' must be one of box, lanczos"),
        (dict(blind=dict(kernels={})), "'kernels'"),
        (dict(blind=dict(kernels={"box": 0.0})), "'box' must be greater than 0"),
        (dict(blind=dict(sigma=[0.8, 0.3])), r"'sigma' must be \[least, largest\]"),
        (dict(blind=dict(noise=-1.0)), "'noise' must be greater than or equal to 0"),
        (dict(blind=dict(share=1.5)), "'share' must be less than or equal to 1"),
        (dict(blind=dict(windows={"brain": 1.0})), "'brain' must be one of full, lung"),
        (dict(blind=dict(sigmas=1.0)), "unknown key 'sigmas'.*did you mean 'sigma'"),
        (dict(blind={}, augment=[0.6, 0.0]), "leave out 'augment'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(change, line):
    with pytest.raises(CTSRError, match=line) as error:
        parse_settings(TrainConfig, SETTINGS | change, "run")
    assert "\n" not in str(error.value)


def test_hu_and_grey_levels_are_not_mistaken_for_each_other(phantom, volumes, tmp_path):
    with pytest.raises(CTSRError, match="holds HU where grey levels are needed"):
        train(TrainConfig(**SETTINGS), volumes, tmp_path / "run", progress=False)
    with pytest.raises(CTSRError, match="holds grey levels where HU are needed"):
        training_volumes(blind_config(phantom))


def test_hu_are_only_kept_of_volumes_that_need_no_padding(tmp_path):
    small = dict(subjects=1, slices=1, size=48, scan=False)
    refusals = [
        (dict(source="phantom", hr=64, phantom=small), "48 x 48 px, fewer than hr 64"),
        (dict(source="photos", hr=64), "is a picture without HU"),
        (dict(source="phantom", hr=64, fit="resize"), "HU are not resized"),
    ]
    for given, line in refusals:
        with pytest.raises(CTSRError, match=line):
            prepare(out_dir=tmp_path, window="hounsfield", **given)


def test_slices_must_hold_the_task_s_square(volumes):
    config = TrainConfig(**SETTINGS | dict(task="x2"), blind=dict(volumes=str(volumes)))
    with pytest.raises(CTSRError, match="slices of 96 px, but task 'x2' needs 256"):
        training_volumes(config)


# --- scans


def test_a_shift_shows_as_bias_and_as_error_of_what_is_bright():
    "One tissue in each quarter; only the shifted one is biased."
    hr = torch.full((1, 1, 64, 64), -1000.0)
    hr[..., :32, 32:] = -850
    hr[..., 32:, :32] = 50
    hr[..., 32:, 32:] = 600
    sr = hr + 7 * (hr == 50) - 20 * (hr == 600)
    found = scan_measures(sr, hr)
    biases = {name: round(value, 3) for name, value in found.items() if name.startswith("bias")}
    assert biases == {"bias air": 0, "bias lung": 0, "bias soft tissue": 7, "bias bone": -20}
    assert abs(found["mae above 150 HU"] - 20) < 1e-3
    noisy = hr + 100 * torch.randn(hr.shape, generator=generator())
    assert not [name for name in scan_measures(noisy, noisy) if name.startswith("bias")]


def test_every_method_sees_the_same_noise_and_subjects_count_alike(volumes):
    held = load_prepared(volumes, hounsfield=True)
    about = held.table[["subject", "position"]].to_dict("records")
    slices = list(zip(about, held.images[:, None, None].float()))

    def twice(lr, kernel):
        return {name: enlarge(lr, (64, 64), "lanczos") for name in ("Lanczos", "again")}

    slices = [(key, hr[..., :64, :64]) for key, hr in slices]
    scores = scan_scores(slices, twice, X2)
    one, two = (scores[scores.method == name].value.to_numpy() for name in ("Lanczos", "again"))
    assert (one == two).all() and set(scores.subject) == {"s000", "s001", "s002"}
    fewer = scores[~((scores.subject == "s000") & (scores.position == 1))]
    table = scan_table(fewer, "")
    kept = fewer[(fewer.metric == "psnr lung") & (fewer.method == "again")]
    means = kept[kept.degradation == "Box"].groupby("subject").value.mean()
    assert abs(table.loc[("Box", "again"), "psnr lung"] - means.mean()) < 1e-9


def test_noise_of_pictures_is_that_of_their_window():
    "A flat picture whose range stands for 1000 HU gets noise of 20 HU, which is 0.02."
    found = []

    def keep(lr, kernel):
        found.append((kernel, lr.std().item()))
        return {"as it is": lr}

    flat = torch.full((1, 1, 64, 64), 0.5)
    scan_scores([(dict(position=0), flat)], keep, X2, lambda sr, hr: {}, 1000.0)
    noise = dict(found[:-1])
    assert max(noise.values()) < 1e-5 and set(noise) == {
        "box",
        "aliased",
        "lanczos",
        "gaussian:0.5",
    }
    assert abs(found[-1][1] - 0.02) < 0.001


@pytest.mark.slow
def test_held_out_leaves_tables_with_their_origin_and_a_picture(phantom, tmp_path, monkeypatch):
    "Volumes and pictures go through every degradation; a square with bone holds bone."
    drawn = {"phantom": phantom_volume(1, slices=2, size=128, views=90)}
    monkeypatch.setattr(held_out, "sample_volumes", lambda: drawn)
    monkeypatch.setattr(held_out, "LPIPS", lambda: lambda sr, hr: (sr - hr).abs().mean())
    assert held_out.main([str(tmp_path), "--every", "2"]) == 0
    assert held_out.main([str(tmp_path), "--pictures", str(phantom)]) == 0
    for name, network in (("held_out", "phantom"), ("pictures", "pictures")):
        table = pd.read_csv(tmp_path / f"table_{name}.csv")
        assert len(table) == 5 * len(DEGRADATIONS) and table.notna().any(axis=None)
        about = json.loads((tmp_path / f"table_{name}.json").read_text())
        assert about["networks"] == {network: model_for()} and "commit" in about
    gains = pd.read_csv(tmp_path / "table_kernels.csv", index_col="degradation")
    assert list(gains) == list(held_out.STATED) and gains.loc["Box", "box"] > 0
    assert (tmp_path / "held_out.png").stat().st_size > 10_000
    hu = torch.from_numpy(drawn["phantom"][:1, None]).float()
    rows, columns = held_out.square(hu, "vertebra")
    assert (hu[..., rows, columns] > 200).float().mean() > (hu > 200).float().mean()


# --- presets


def test_the_preset_keeps_the_tested_subject_out_and_hands_over_slices_in_hu():
    preset = load_preset("blind")
    jobs = {job.name: job for job in plan(preset, "runs/blind")}
    prepared = jobs["prepare/sample-512-crop-hu"]
    assert prepared.parameters["window"] == "hounsfield"
    assert prepared.outputs[-1] == "prepare/hu/sample-512-crop.safetensors"
    for subject in ("lung1_image", "lung2_image"):
        job = jobs[f"train/blind-x2-{subject.removesuffix('_image')}"]
        assert job.parameters["blind"]["subjects"] == [subject]
        assert job.parameters["blind"]["volumes"] == f"runs/blind/{prepared.outputs[-1]}"
        assert prepared.name in job.needs
    assert jobs["train/blind-x2"].parameters["blind"]["subjects"] == []
    assert preset.trainings["blind-x2"].blind.volumes == "sample"  # the preset itself is unchanged
