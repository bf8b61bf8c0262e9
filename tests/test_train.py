"Training: killed and resumed to the last bit, several processes, one at a time, refusals."

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ctsr.core.errors import CTSRError
from ctsr.core.files import save_tensors
from ctsr.core.settings import parse_settings
from ctsr.data.prepare import prepare
from ctsr.data.prepared import load_prepared
from ctsr.models.network import stored_weights
from ctsr.training.batches import step_generator, train_batch
from ctsr.training.checkpoint import Plateau
from ctsr.training.loop import train
from ctsr.training.settings import TrainConfig, build_model

SETTINGS = dict(
    task=dict(name="x5", hr=64, lr=13),
    model=dict(name="runet", width=1 / 16, residual=True),
    adjusted="random",
    flips=True,
    crop=48,
    batch_size=4,
    steps=40,
    validate_every=20,
    ema=0.9,
    warmup=5,
    clip=1.0,
)


def command(config, data, out, *extra):
    return [
        sys.executable,
        "-m",
        "ctsr.training.loop",
        "--config",
        str(config),
        "--data",
        str(data),
        "--out",
        str(out),
        *extra,
    ]


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):
    "The weights of a run left alone."
    out = tmp_path_factory.mktemp("whole")
    train(TrainConfig(**SETTINGS), phantom, out, progress=False)
    return load_file(out / "weights.safetensors")


@pytest.mark.slow
def test_killed_at_random_moments_ends_in_the_same_bits(phantom, whole, tmp_path):
    "SIGKILL, twice, wherever it strikes; then left to end."
    config = tmp_path / "run.json"
    out = tmp_path / "run"
    config.write_text(json.dumps(SETTINGS))
    chance = random.Random(int(time.time()))
    state = out / "state" / "checkpoint.safetensors"
    killed = 0
    for _ in range(2):
        seen = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(
            command(config, phantom, out, "--checkpoint-seconds", "0"),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        until = time.time() + 60
        while (
            time.time() < until
            and not (state.exists() and state.stat().st_mtime_ns != seen)
            and process.poll() is None
        ):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 1 and state.exists()
    done = subprocess.run(
        command(config, phantom, out),
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    resumed = load_file(out / "weights.safetensors")
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[k], whole[k]) for k in whole)


@pytest.fixture
def weights():
    "Weights of a network of the same shape, none of them zero."
    torch.manual_seed(1)
    state = build_model(SETTINGS["model"]).state_dict()
    return {k: v + 0.01 if v.is_floating_point() else v for k, v in state.items()}


def test_a_run_begins_with_anothers_weights(phantom, weights, tmp_path):
    "At a tiny learning rate it stays there; other weights in the same place are another training."
    (tmp_path / "first").mkdir()
    save_tensors(tmp_path / "first" / "weights.safetensors", weights)
    config = TrainConfig(
        **SETTINGS
        | dict(
            init=str(tmp_path / "first"),
            learning_rate=1e-12,
            ema=0.0,
            steps=2,
            validate_every=2,
            warmup=0,
            keep="last",
        )
    )
    train(config, phantom, tmp_path / "second", progress=False)
    found = load_file(tmp_path / "second" / "weights.safetensors")
    learnt = [k for k in weights if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(found[k], weights[k], atol=1e-6) for k in learnt)
    save_tensors(
        tmp_path / "first" / "weights.safetensors",
        {k: v * 1.5 if v.is_floating_point() else v for k, v in weights.items()},
    )
    train(config, phantom, tmp_path / "second", progress=False)
    assert not torch.allclose(
        load_file(tmp_path / "second" / "weights.safetensors")[learnt[0]],
        weights[learnt[0]],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "init, word", [("nowhere", "no weights at nowhere"), ("sr3", "another network")]
)
def test_weights_that_cannot_be_begun_with_are_refused(phantom, weights, tmp_path, init, word):
    if init == "sr3":
        init = str(tmp_path / "w.safetensors")
        save_tensors(init, {k + ".other": v for k, v in weights.items()})
    with pytest.raises(CTSRError, match=word):
        train(TrainConfig(**SETTINGS | dict(init=init)), phantom, tmp_path / "run", progress=False)


def test_a_public_checkpoint_is_read_as_tensors_alone(phantom, tmp_path):
    "The names of another implementation; and a pickle that would run something does not."
    import pickle

    torch.save({"denoise_fn.downs.0.weight": torch.zeros(2, 2, 3, 3)}, tmp_path / "x_gen.pth")
    assert stored_weights(tmp_path / "x_gen.pth")["net.first.weight"].shape == (2, 2, 3, 3)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"denoise_fn.a": os.getcwd}))
    with pytest.raises(CTSRError, match="tensors alone"):
        stored_weights(tmp_path / "bad.pth")
    with pytest.raises(CTSRError, match="denoise_fn"):
        torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
        stored_weights(tmp_path / "other.pth")


SR3 = dict(
    task=SETTINGS["task"],
    model=dict(name="sr3", channels=16),
    augment=[1.0, 0.05],
    up="bicubic",
    mean=0.5,
    std=0.5,
    loss={"l2": 1.0},
    crop=32,
    flips=True,
    batch_size=4,
    steps=12,
    validate_every=6,
    validate_steps=2,
    validate_images=2,
    keep="last",
    ema=0.9,
    clip=1.0,
)


@pytest.mark.slow
def test_a_diffusion_model_resumes_to_the_same_bits(phantom, tmp_path):
    "Noise comes from the generator of the step, so where training stopped leaves no trace."
    config = TrainConfig(**SR3)
    train(config, phantom, tmp_path / "whole", progress=False)
    for stop in (5, 8, None):
        train(config, phantom, tmp_path / "parts", progress=False, stop_at=stop)
    whole, parts = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert (
        0 < whole["spread"] < 1
        and pd.read_csv(tmp_path / "whole" / "history.csv").val_psnr.notna().all()
    )


@pytest.mark.slow
def test_a_diffusion_model_that_begins_with_another_task_s_weights_measures_its_own_residual(
    phantom, tmp_path
):
    "What is left to draw at x2 is smaller than at x5; the same task measures the same again."
    short = SR3 | dict(steps=1, validate_every=1)
    x2 = dict(name="x2", hr=64, lr=32)
    for name, changes in dict(
        x5={}, x2=dict(task=x2), x2_first=dict(task=x2, init=""), again={}
    ).items():
        init = "" if name in ("x5", "x2_first") else str(tmp_path / "x5")
        train(
            TrainConfig(**short | dict(init=init) | changes),
            phantom,
            tmp_path / name,
            progress=False,
        )
    x5, x2, fresh, again = (
        load_file(tmp_path / name / "weights.safetensors")["spread"]
        for name in ("x5", "x2", "x2_first", "again")
    )
    assert x2 == fresh < 0.7 * x5 and again == x5


def test_the_spread_of_a_residual_does_not_depend_on_batches_and_crops(phantom, tmp_path):
    short = SR3 | dict(steps=1, validate_every=1)
    for name, changes in dict(few=dict(batch_size=1), many=dict(batch_size=8, crop=32)).items():
        train(TrainConfig(**short | changes), phantom, tmp_path / name, progress=False)
    few, many = (
        load_file(tmp_path / name / "weights.safetensors")["spread"] for name in ("few", "many")
    )
    assert few == many > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["runet", "sr3"])
def test_a_compiled_network_trains_alike(phantom, tmp_path, monkeypatch, name):
    "With the back end that changes no arithmetic, the same weights come out."
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model = dict(runet=SETTINGS["model"], sr3=dict(name="sr3", channels=16, multipliers=[1, 2]))[
        name
    ]
    config = dict(SETTINGS, model=model, loss={"l2": 1.0}, steps=2, validate_every=2)
    for compiled in (False, True):
        train(
            TrainConfig(**config, compile=compiled),
            phantom,
            tmp_path / str(compiled),
            progress=False,
        )
    plain, other = (load_file(tmp_path / str(c) / "weights.safetensors") for c in (False, True))
    assert plain.keys() == other.keys() and all(
        torch.allclose(plain[k], other[k], atol=1e-6) for k in plain
    )


def test_a_diffusion_model_refuses_an_image_loss():
    with pytest.raises(CTSRError, match="vgg"):
        TrainConfig(**SR3 | dict(loss={"vgg": 1.0}))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_train_together(phantom, tmp_path, launcher):
    config = tmp_path / "run.json"
    out = tmp_path / "run"
    config.write_text(json.dumps(SETTINGS | dict(steps=10, validate_every=5)))
    start = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node=2", "--standalone"],
        "accelerate": [
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes=2",
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
            "--main_process_port=0",
        ],
    }[launcher]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *start,
            "-m",
            "ctsr.training.loop",
            "--config",
            str(config),
            "--data",
            str(phantom),
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((out / "config.json").read_text())
    assert card["processes"] == 2 and np.isfinite(pd.read_csv(out / "history.csv").loss).all()


def test_a_finished_run_costs_nothing_and_is_written_again_where_it_was_damaged(phantom, tmp_path):
    config = TrainConfig(**SETTINGS | dict(steps=4, validate_every=2))
    out = tmp_path / "run"
    train(config, phantom, out, progress=False)
    files = {
        name: (out / name).read_bytes()
        for name in ("history.csv", "config.json", "weights.safetensors")
    }
    (out / "history.csv").unlink()
    (out / "weights.safetensors").write_bytes(files["weights.safetensors"][:100])
    train(config, phantom, out, progress=False)
    assert {name: (out / name).read_bytes() for name in files} == files


@pytest.mark.slow
def test_other_images_are_never_given_the_old_weights(phantom, tmp_path, capsys):
    "The same settings on other images: trained anew, not taken from the checkpoint."
    config = TrainConfig(**SETTINGS | dict(steps=4, validate_every=2))
    out = tmp_path / "run"
    train(config, phantom, out, progress=False)
    before = load_file(out / "weights.safetensors")
    other = prepare("phantom", tmp_path, hr=64, seed=1, phantom=dict(subjects=10, slices=2))
    train(config, other, out, progress=False)
    assert "of other images" in capsys.readouterr().out
    after = load_file(out / "weights.safetensors")
    assert not all(torch.equal(before[k], after[k]) for k in before)


def test_processes_take_equal_shares_and_other_numbers(phantom):
    "A short last batch is shared out evenly; no two processes and no two seeds augment alike."
    images = load_prepared(phantom).split("train").images[:5]
    config = TrainConfig(**SETTINGS | dict(adjusted="none", batch_size=4))
    for step in range(4):
        (one, _), (two, _) = (train_batch(images, config, step, rank, 2) for rank in (0, 1))
        assert one.shape == two.shape and len(one) >= 1
    draws = {
        (seed, rank): torch.rand(4, generator=step_generator(seed, "augment", 0, rank)).tolist()
        for seed in range(3)
        for rank in range(3)
    }
    assert len({tuple(d) for d in draws.values()}) == 9


def test_plateau_schedule_halves_as_torch_does(phantom, tmp_path):
    "The authors' schedule: the same halvings as torch's own on the same losses."
    losses = [5, 4, 4.1, 4.2, 4.05, 3.9, 3.9, 3.9, 3.95, 4, 3.9, 3.9]
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(net.parameters(), 1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    ours = Plateau()
    for loss in losses:
        theirs.step(loss)
        ours.update(loss, 2)
        assert optimizer.param_groups[0]["lr"] == 0.5**ours.halvings


@pytest.mark.slow
def test_the_history_shows_the_learning_rate_that_was_used(phantom, tmp_path):
    "A plateau lowers the rate of the next step, not of the one before; without one the rate stays."
    short = SETTINGS | dict(steps=4, validate_every=1, warmup=0, ema=0.0, clip=0.0)
    steady = short | dict(schedule="constant", learning_rate=1e-3)
    # the rate is so small that the loss, to four digits, is never better than at first
    stuck = short | dict(schedule="plateau", patience=0, learning_rate=1e-12)
    for name, settings in dict(steady=steady, stuck=stuck).items():
        train(TrainConfig(**settings), phantom, tmp_path / name, progress=False)
    rates = {
        name: pd.read_csv(tmp_path / name / "history.csv").learning_rate.tolist()
        for name in ("steady", "stuck")
    }
    assert rates["steady"] == [1e-3] * 4
    assert rates["stuck"] == [1e-12, 1e-12, 5e-13, 2.5e-13]


def test_stopping_at_step_0_trains_nothing(phantom, tmp_path):
    "Zero is a step like any other; without a step to stop at, a run goes to its end."
    config = TrainConfig(**SETTINGS | dict(steps=2, validate_every=1))
    assert len(train(config, phantom, tmp_path / "run", progress=False, stop_at=0)) == 0
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert len(train(config, phantom, tmp_path / "run", progress=False, stop_at=1)) == 1
    assert len(train(config, phantom, tmp_path / "run", progress=False)) == 2
    assert (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(steps=-5), "steps"),
        (dict(up="cubic"), "up"),
        (dict(loss={"l3": 1.0}), "l3"),
        (dict(batch_size=0), "batch_size"),
        (dict(steps="10"), "steps"),
        (dict(model=dict(name="unet")), "unet"),
        (dict(model=dict(name="runet", depth=3)), "depth"),
        (dict(crop=128), "crop"),
        (dict(task=dict(name="x5", hr=96, lr=19)), "96"),
    ],
)
def test_bad_settings_are_named(phantom, tmp_path, change, word):
    with pytest.raises(CTSRError, match=word):
        train(
            parse_settings(TrainConfig, SETTINGS | change),
            phantom,
            tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_loss_that_blows_up_is_reported(phantom, tmp_path):
    with pytest.raises(CTSRError, match="not finite"):
        wild = dict(
            learning_rate=1e30, warmup=0, clip=0.0, steps=6, validate_every=2, precision="fp32"
        )
        train(TrainConfig(**SETTINGS | wild), phantom, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
