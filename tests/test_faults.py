"What may go wrong with a study. Each test works on a copy of a finished small one."

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from PIL import Image
from program import SMALL, ctsr, start_ctsr, study_of, todo, until

from ctsr.pipeline.job import read_record, stamp_path
from ctsr.pipeline.study import is_alive

pytestmark = pytest.mark.slow
STUDY = study_of(SMALL)
LONGER = ("--set", "runs.runet-x5.steps=60")


@pytest.fixture(scope="module")
def small_study(root, tmp_path_factory):
    "The folder of a finished small study."
    folder = tmp_path_factory.mktemp("study") / "a 'small' (1) {x}"
    done = ctsr(*STUDY, "--out", folder, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture
def copy(small_study, tmp_path):
    "A copy of the finished study with its own plan."
    return shutil.copytree(small_study, tmp_path / "small")


def start(root, folder, *extra, **kwargs):
    "Start the study in a process of its own."
    return start_ctsr(*STUDY, "--out", folder, *extra, cwd=root, stderr=subprocess.STDOUT, **kwargs)


def test_what_only_follows_stays_where_its_inputs_come_out_as_they_were(root, copy):
    "A training asked for again ends at once, in the same weights: nothing after it needs to run."
    done = ctsr(*STUDY, "--out", copy, "--redo", "train/nn-runet-x5", cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train nn-runet-x5: done" in done.stdout
    assert "evaluate nn-runet-x5--x5: as it was" in done.stdout
    assert "report page: as it was" in done.stdout
    assert not todo(SMALL, copy)


def test_a_changed_setting_reruns_what_follows_and_nothing_else(root, copy):
    names = ["train/runet-x5", "train/nn-runet-x5", "evaluate/nn-runet-x5--x5"]
    before = [read_record(copy, name) for name in names]
    done = ctsr(*STUDY, "--out", copy, "--set", "figures.draws=101", cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [read_record(copy, name) for name in names] == before
    assert read_record(copy, "figures/all")["parameters"]["draws"] == 101


def kernels(process):  # of this study, whatever else runs on the machine
    return [
        p.pid
        for p in psutil.Process(process.pid).children(recursive=True)
        if any("ipykernel_launcher" in part for part in p.cmdline())
    ]


def free(lock):
    with open(lock, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_killed_in_the_middle_of_a_notebook_it_goes_on(root, copy):
    """SIGKILL to a study while it trains loses nothing that is finished.

    Nothing half-written counts, no orphan stays, and the training goes on from its checkpoint.
    """
    kept = read_record(copy, "train/nn-runet-x5")
    run = copy / "train" / "runet-x5"
    shutil.rmtree(run)
    process = start(root, copy, *LONGER)
    assert until(lambda: (run / "state" / "checkpoint.safetensors").exists())
    training = kernels(process)
    for kernel in training:
        os.kill(kernel, signal.SIGSTOP)  # it must not end before its study is killed
    second = ctsr(
        *STUDY, "--out", copy, *LONGER, cwd=root
    )  # another one in the same folder, meanwhile
    assert (
        second.returncode == 2
        and f"pid {process.pid}" in second.stderr
        and len(second.stderr.strip().splitlines()) == 1
    )
    process.kill()
    process.wait()
    for kernel in training:
        with suppress(ProcessLookupError):
            os.kill(kernel, signal.SIGCONT)
    assert training
    assert not (run / "train.ipynb").exists() and not (run / "weights.safetensors").exists()
    assert not stamp_path(copy, "train/runet-x5").exists()
    assert read_record(copy, "train/nn-runet-x5") == kept
    assert until(lambda: free(run / ".lock"), 20), "the training went on without its study"
    process = start(root, copy, *LONGER, "--verbose")
    printed = ""
    while "train runet-x5: done" not in printed and (line := process.stdout.readline()):
        printed += line
    process.kill()
    process.wait()
    assert "going on from step" in printed and "train runet-x5: done" in printed, printed[-2000:]
    assert not list(run.glob(".*.partial.ipynb")) and stamp_path(copy, "train/runet-x5").exists()
    assert read_record(copy, "train/nn-runet-x5") == kept


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_study_ends_with_its_children_and_leaves_nothing_half_written(
    root, copy, with_stops, stop
):
    run = copy / "train" / "runet-x5"
    shutil.rmtree(run)
    process = start(
        root,
        copy,
        *("--set", "runs.runet-x5.steps=4000"),
        preexec_fn=with_stops,
    )
    assert until(lambda: (run / "state" / "checkpoint.safetensors").exists())
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("ipykernel_launcher" in part for child in children for part in child.cmdline())
    begun = time.time()
    process.send_signal(stop)
    printed, _ = process.communicate(timeout=60)
    seconds = time.time() - begun
    print(f"{stop.name}: ended after {seconds:.1f} s")
    assert process.returncode == 130 and printed.splitlines()[-1].startswith("ctsr: interrupted")
    assert not [child for child in children if is_alive(child)]
    assert not list(copy.rglob(".*.part*")) and not list(copy.rglob("*.failed.ipynb"))
    assert (run / "state" / "checkpoint.safetensors").exists() and seconds < 10


def test_a_study_without_training_images_stops_at_once(root, tmp_path):
    (tmp_path / "few").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "few" / "1.png")
    given = "--data", tmp_path / "few", "--out", tmp_path / "study"
    done = ctsr(*STUDY, *given, cwd=root)
    assert done.returncode == 2 and "no train" in done.stderr, done.stderr
    assert "--set source.split=" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "study" / "train").exists()


def test_a_killed_kernel_is_reported_and_its_notebook_kept(root, copy):
    run = copy / "train" / "runet-x5"
    shutil.rmtree(run)
    process = start(root, copy, "--set", "runs.runet-x5.steps=4000")
    assert until(lambda: (run / "state" / "checkpoint.safetensors").exists())
    found = kernels(process)
    assert found
    for kernel in found:
        os.kill(kernel, signal.SIGKILL)
    printed, _ = process.communicate(timeout=90)
    assert (
        process.returncode == 2
        and "kernel stopped" in printed
        and "run the same command again" in printed
        and "Traceback" not in printed
    )
    assert (run / "state" / "checkpoint.safetensors").exists() and not (
        run / "weights.safetensors"
    ).exists()


def test_a_failing_cell_is_kept_and_named(root, copy, tmp_path):
    """A cell that cannot fetch its weights gives one line; the notebook is kept.

    Earlier results stay as they are, and the next call goes on.
    """
    folder = copy / "train" / "runet-x5"
    before = (folder / "weights.safetensors").read_bytes()
    offline = {"CTSR_OFFLINE": "1", "CTSR_CACHE": str(tmp_path / "empty")}
    done = ctsr(
        *STUDY,
        "--out",
        copy,
        "--set",
        "runs.runet-x5.validate_lpips=alexnet",
        cwd=root,
        env=offline,
    )
    assert (
        done.returncode == 2
        and (folder / "train.failed.ipynb").exists()
        and (folder / "weights.safetensors").read_bytes() == before
    )
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("ctsr: ")
        and "train.failed.ipynb" in last
        and "run the same command again" in last
    )
    assert "ctsr: no alexnet weights" in done.stderr and "CTSR_OFFLINE" in done.stderr
    assert ctsr(*STUDY, "--out", copy, cwd=root).returncode == 0
    assert (
        not (folder / "train.failed.ipynb").exists()
        and (folder / "weights.safetensors").read_bytes() == before
    )


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 3 MB; its size can be changed."
    if os.geteuid() or not sys.platform.startswith("linux"):
        pytest.skip("mounting a small disk needs root on Linux")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mount is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_loses_nothing(root, small_disk):
    """The images fit, the weights of the first training do not.

    With more room, only what is missing is left to do.
    """
    folder = small_disk / "study"
    alone = ["runs.nn-runet-x5.skip=true"]
    done = ctsr(*STUDY, "--out", folder, "--set", *alone, cwd=root)
    said = done.stderr.strip().splitlines()
    assert (
        done.returncode == 2
        and "No space left" in done.stderr
        and "free space" in done.stderr
        and said[-1].startswith("ctsr: ")
    ), done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not list(folder.rglob("weights.safetensors"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    left = todo(SMALL, folder, alone)
    assert "prepare/phantom-96-crop" not in left and "train/runet-x5" in left


def test_a_damaged_result_is_made_again(root, copy):
    weights = copy / "train" / "runet-x5" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert todo(SMALL, copy)["train/runet-x5"].endswith("weights.safetensors is gone or changed")
    assert todo(SMALL, copy, redo=["figures"])["figures/all"] == "asked for"
    weights.write_bytes(whole)
    assert not todo(SMALL, copy), "the same bytes at another time are the same result"
