"A whole smoke study, and what may happen to one."

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from ctsr.core.errors import CTSRError
from ctsr.pipeline.job import read_record, stamp_path
from ctsr.pipeline.notebooks import run_notebook
from ctsr.pipeline.presets import load_preset, plan
from ctsr.pipeline.provenance import as_shown, code_behind
from ctsr.pipeline.study import (
    describe_study,
    is_alive,
    publish,
    redraw,
    unfinished,
)


def ctsr(*arguments, **kwargs):
    "Run the program in a process of its own."
    return subprocess.run(
        [sys.executable, "-m", "ctsr", *map(str, arguments)],
        capture_output=True,
        text=True,
        **kwargs,
    )


STUDY = "study", "smoke", "--jobs", "1"  # one core: workers of the tests share them
slow = pytest.mark.slow


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def todo(folder, assignments=(), redo=(), **kwargs):
    "Which jobs of a smoke study are out of date, and why."
    jobs = plan(load_preset("smoke", assignments), as_shown(folder))
    return unfinished(describe_study(jobs, folder, redo, **kwargs))


@pytest.fixture(scope="module")
def finished_study(root, tmp_path_factory):
    "A finished smoke study: its folder, what it printed, how long it took."
    folder = tmp_path_factory.mktemp("study") / "a 'smoke' (1) {x}"
    before = git(root, "status", "--porcelain")
    started = time.time()
    done = ctsr(*STUDY, "--out", folder, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert git(root, "status", "--porcelain") == before, "a study must write no tracked file"
    return folder, done, time.time() - started


@pytest.mark.parametrize(
    "preset",
    sorted(
        p.stem for p in (Path(__file__).parent.parent / "nbs" / "study" / "presets").glob("*.yaml")
    ),
)
def test_every_preset_is_sound(preset, tmp_path):
    jobs = plan(load_preset(preset), tmp_path)
    assert len({job.name for job in jobs}) == len(jobs)
    made = {output for job in jobs for output in job.outputs}
    assert len(made) == sum(len(job.outputs) for job in jobs), "two jobs write one file"


def test_it_leaves_every_file_of_its_plan(finished_study):
    folder, done, seconds = finished_study
    print(f"smoke study: {seconds:.0f} s")
    jobs = plan(load_preset("smoke"), folder)
    assert not [o for job in jobs for o in job.outputs if not (folder / o).exists()]
    assert not list(folder.rglob("*.failed.ipynb"))
    assert not list(folder.rglob(".*.partial.ipynb"))


def test_a_log_has_one_line_a_notebook_then_results_and_the_report(finished_study):
    folder, done, _ = finished_study
    count = len(plan(load_preset("smoke"), folder))
    first, *lines = done.stdout.splitlines()
    assert first.startswith("study 'smoke'") and not done.stderr
    for number, line in enumerate(lines[:count], 1):
        assert line.startswith(f"[{number}/{count}] ") and ": done in" in line, line
        assert (" left)" in line) == (number < count)
    results = lines[count:]
    assert len(results) == 4 and all(" dB, SSIM " in line for line in results[:3])
    assert results[3] == f"report: {folder / 'report.html'}"


def test_figures_open_and_say_where_they_come_from(finished_study):
    figures = finished_study[0] / "figures"
    for picture in figures.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 300
        made = json.loads(picture.with_suffix(".json").read_text())
        assert made["file"] == picture.name and made["inputs"]
        wanted = {"notebook", "parameters", "commit", "code_sha256", "inputs", "device", "time"}
        assert wanted <= made.keys()


def test_the_table_is_tidy_and_complete(finished_study):
    table = pd.read_csv(finished_study[0] / "figures" / "per_image.csv.gz")
    columns = (
        "run model task up seed sampler steps k sample protocol"
        " image_id class subject group leaked metric value"
    )
    assert list(table.columns) == columns.split()
    key = ["run", "task", "up", "protocol", "image_id", "metric"]
    assert not table.duplicated(key).any() and table.value.notna().all()
    counts = table.groupby(["run", "task", "up"]).image_id.nunique()
    assert counts.groupby("task").nunique().eq(1).all(), (
        "every condition is tested on the same images"
    )


def test_a_training_is_followed_epoch_by_epoch(finished_study):
    "Scores after every validation, on each input; those at a snapshot count as a run of their own."
    epochs = pd.read_csv(finished_study[0] / "figures" / "table_epochs.csv", keep_default_na=False)
    assert (
        set(epochs.run) == {"nn-runet-x5"}
        and set(epochs.up) == {"bilinear", "nearest"}
        and {"psnr", "ssim", "bias", "psnr_fitted"} <= set(epochs.metric)
    )
    table = pd.read_csv(
        finished_study[0] / "figures" / "per_image.csv.gz", keep_default_na=False
    ).set_index(["up", "protocol", "metric", "image_id"])
    last, kept = (
        table[table.run.eq(run) & table.task.eq("x5")].value
        for run in ("nn-runet-x5", "nn-runet-x5@10")
    )
    assert len(kept) and (last.reindex(kept.index) - kept).abs().max() < 1e-4, (
        "the last step is the snapshot"
    )
    assert (finished_study[0] / "train" / "nn-runet-x5" / "weights-10.safetensors").exists()


def test_the_mechanism_and_the_controls_have_their_rows(finished_study):
    mechanism, controls = (
        pd.read_csv(finished_study[0] / "figures" / f"table_{name}.csv")
        for name in ("mechanism", "controls")
    )
    assert (
        list(mechanism.condition) == ["bicubic", "schedule as trained", "schedule rebuilt"]
        and mechanism.psnr.notna().all()
    )
    assert mechanism.psnr[1] != mechanism.psnr[2] and (mechanism.fitted >= mechanism.psnr).all()
    assert (
        set(controls.what) == {"CT", "CT inside the body", "photographs", "CT less photographs"}
        and controls.value.notna().all()
    )


def test_a_run_that_is_skipped_comes_back():
    names = {job.name for job in plan(load_preset("full"), "runs/full")}
    again = {
        job.name
        for job in plan(load_preset("full", ["runs.coded-nearest.skip=false"]), "runs/full")
    }
    assert {
        "train/coded-nearest",
        "evaluate/coded-nearest--x5",
    } <= again - names and "train/coded-bilinear" not in again


def test_report_stands_alone(finished_study):
    page = (finished_study[0] / "report.html").read_text()
    assert not re.findall(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?!data:|#)[^\"']+", page
    )
    assert page.count("<img") >= 6 and "Provenance" in page and "Traceback" not in page


def test_a_second_study_starts_nothing(root, finished_study):
    started = time.time()
    assert ctsr(*STUDY, "--out", finished_study[0], "--dry-run", cwd=root).returncode == 0
    look = (
        time.time() - started
    )  # what it takes here to import, to read the preset and to compare stamps
    done = ctsr(*STUDY, "--out", finished_study[0], cwd=root)
    assert done.returncode == 0 and "nothing to do" in done.stdout and "report:" in done.stdout
    assert time.time() - started - look < 3 * look + 5


@slow
def test_figures_are_the_same_bytes_from_the_same_table(
    root, finished_study, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the study draws them
    for job in (
        j for j in plan(load_preset("smoke"), finished_study[0]) if j.name.startswith("figures/")
    ):
        run_notebook(
            root / "nbs" / "study" / f"{job.notebook}.ipynb",
            tmp_path / f"{job.notebook}.ipynb",
            job.parameters | {"out": str(tmp_path / "again")},
        )
    pictures = sorted((finished_study[0] / "figures").glob("*.png"))
    assert pictures and all(
        p.read_bytes() == (tmp_path / "again" / p.name).read_bytes() for p in pictures
    )


# What may go wrong. Each of these works on a copy of the finished study.


@pytest.fixture
def copy(finished_study, tmp_path):
    "A copy of the finished study with its own plan."
    return shutil.copytree(finished_study[0], tmp_path / "smoke")


def start(root, folder, *extra, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "ctsr", *STUDY, "--out", str(folder), *extra],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def until(condition, seconds=180):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@slow
def test_what_only_follows_stays_where_its_inputs_come_out_as_they_were(root, copy):
    "A training asked for again ends at once, in the same weights: nothing after it needs to run."
    done = ctsr(*STUDY, "--out", copy, "--redo", "train/nn-runet-x5", cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train nn-runet-x5: done" in done.stdout
    assert "evaluate nn-runet-x5--x5: as it was" in done.stdout
    assert "report page: as it was" in done.stdout
    assert not todo(copy)


@slow
def test_a_changed_setting_reruns_what_follows_and_nothing_else(root, copy):
    assert set(todo(copy, ["runs.nn-runet-x5.steps=11"])) == {
        "train/nn-runet-x5",
        "evaluate/nn-runet-x5--x5",
        "figures/all",
        "figures/sampled",
        "figures/published",
        "figures/controls",
        "figures/mechanism",
        "figures/review",
        "report/page",
    }
    before = read_record(copy, "train/runet-x5")
    done = ctsr(*STUDY, "--out", copy, "--set", "runs.nn-runet-x5.steps=11", cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_record(copy, "train/runet-x5") == before
    assert read_record(copy, "train/nn-runet-x5")["parameters"]["steps"] == 11


def recorded_with_other_code(folder, kind, module):
    "Pretend that a module had other code when the jobs of a kind ran; ask what to do now."
    described = describe_study(plan(load_preset("smoke"), as_shown(folder)), folder)
    for entry in described["jobs"].values():
        if entry["name"].startswith(kind) and module in entry["code"]:
            entry["code"][module] = "other"
            entry["digest"] = "other"
    return unfinished(described)


def test_a_changed_module_reruns_what_imports_it_and_nothing_else(copy):
    "Snakemake compares digests, so that a changed digest in the plan stands for changed code."
    again = recorded_with_other_code(copy, "figures/", "ctsr.figures.samples")
    assert again["figures/sampled"] == "ctsr.figures.samples changed"
    assert not [name for name in again if name.startswith(("prepare", "train", "evaluate"))]
    again = recorded_with_other_code(copy, "train/", "ctsr.training.loop")
    assert again["train/runet-x5"] == "ctsr.training.loop changed"
    assert again["evaluate/runet-x5--x5"] == "follows from train/runet-x5"
    assert "evaluate/interpolation--x5" not in again


def test_figures_are_no_part_of_the_code_of_training(root):
    assert "import" in (root / "nbs" / "study" / "train.ipynb").read_text()
    code = code_behind(root / "nbs" / "study" / "train.ipynb")
    folders = {name.split(".")[1] for name in code if name.startswith("ctsr.")}
    assert "training" in folders and not folders & {"figures", "paper", "pipeline", "apps"}


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


LONGER = ("--set", "runs.runet-x5.steps=120")


@slow
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


@slow
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


@slow
def test_a_study_without_training_images_stops_at_once(root, tmp_path):
    (tmp_path / "few").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "few" / "1.png")
    given = "--data", tmp_path / "few", "--out", tmp_path / "study"
    done = ctsr(*STUDY, *given, cwd=root)
    assert done.returncode == 2 and "no train" in done.stderr, done.stderr
    assert "--set source.split=" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "study" / "train").exists()


@slow
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


@slow
def test_a_failing_cell_is_kept_and_named(root, copy, tmp_path):
    """A cell that cannot fetch its weights gives one line; the notebook is kept.

    Earlier results stay as they are, and the next call goes on.
    """
    folder = copy / "train" / "runet-x5"
    before = (folder / "weights.safetensors").read_bytes()
    offline = os.environ | {"CTSR_OFFLINE": "1", "CTSR_CACHE": str(tmp_path / "empty")}
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


@slow
def test_a_full_disk_is_named_and_loses_nothing(root, small_disk):
    """The images fit, the weights of the first training do not.

    With more room, only what is missing is left to do.
    """
    folder = small_disk / "smoke"
    done = ctsr(*STUDY, "--out", folder, cwd=root)
    said = done.stderr.strip().splitlines()
    assert (
        done.returncode == 2
        and "No space left" in done.stderr
        and "free space" in done.stderr
        and said[-1].startswith("ctsr: ")
    ), done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not list(folder.rglob("weights.safetensors"))
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    left = todo(folder)
    assert "prepare/phantom-96-crop" not in left and "train/runet-x5" in left


def test_a_damaged_result_is_made_again(root, copy):
    weights = copy / "train" / "runet-x5" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert todo(copy)["train/runet-x5"].endswith("weights.safetensors is gone or changed")
    assert todo(copy, redo=["figures"])["figures/all"] == "asked for"
    weights.write_bytes(whole)
    assert not todo(copy), "the same bytes at another time are the same result"


@pytest.fixture
def clone(root, tmp_path, monkeypatch):
    "A checkout with the notebooks, everything committed; commands run in it."
    folder = tmp_path / "a 'clone' (1) {x}"
    shutil.copytree(root / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".*"))
    (folder / ".gitignore").write_text("runs\n")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@localhost")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    monkeypatch.chdir(folder)
    return folder


def test_publishing_is_all_or_nothing(clone, finished_study):
    target = publish("smoke", finished_study[0])
    assert target == clone / "figures" / "smoke"
    wanted = "fig2_examples.png fig2_examples.json table_summary.csv per_image.csv.gz claims.csv"
    assert set(wanted.split()) <= {p.name for p in target.iterdir()}
    published = {p.name: p.read_bytes() for p in target.iterdir()}
    hidden = (finished_study[0] / "figures" / "fig3_ssim.png").rename(
        finished_study[0] / "figures" / "hidden.png"
    )
    try:
        with pytest.raises(CTSRError, match="not finished"):
            publish("smoke", finished_study[0])
    finally:
        hidden.rename(finished_study[0] / "figures" / "fig3_ssim.png")
    assert {p.name: p.read_bytes() for p in target.iterdir()} == published


def test_local_changes_are_not_published(clone, finished_study):
    notebook = clone / "nbs" / "index.ipynb"
    text = notebook.read_text()
    notebook.write_text(text + "\n")
    with pytest.raises(CTSRError, match="local changes; commit them"):
        publish("smoke", finished_study[0])
    notebook.write_text(text)
    publish("smoke", finished_study[0])
    git(clone, "add", "figures")
    publish("smoke", finished_study[0])  # what was published is no change of the code
    shutil.rmtree(clone / ".git")
    with pytest.raises(CTSRError, match="no git repository"):
        publish("smoke", finished_study[0])


def test_results_of_other_code_are_not_published(clone, copy):
    "A changed notebook is committed; results of its earlier code do not belong to that commit."
    notebook = clone / "nbs" / "study" / "evaluate.ipynb"
    text = notebook.read_text()
    assert text.count("draws=2000") == 1
    notebook.write_text(text.replace("draws=2000", "draws=2001"))
    git(clone, "commit", "--quiet", "--all", "--message", "other draws")
    with pytest.raises(CTSRError, match="evaluate.ipynb changed.*run its `ctsr study` command"):
        publish("smoke", copy)


def test_trained_weights_of_other_code_are_published(clone, copy):
    notebook = clone / "nbs" / "study" / "train.ipynb"
    text = notebook.read_text()
    assert text.count("history.tail(3)") == 1
    notebook.write_text(text.replace("history.tail(3)", "history.tail(4)"))
    git(clone, "commit", "--quiet", "--all", "--message", "a longer tail")
    assert todo(copy)["train/runet-x5"] == "train.ipynb changed"
    assert publish("smoke", copy).is_dir()
    card = json.loads((copy / "train" / "runet-x5" / "config.json").read_text())
    assert {"commit", "code_sha256"} <= card.keys()


@slow
def test_a_published_study_is_drawn_again_from_its_tables_alone(clone, finished_study):
    with pytest.raises(CTSRError, match="no published tables"):
        redraw(load_preset("smoke"))
    published = publish("smoke", finished_study[0])
    again = redraw(load_preset("smoke")).parent / "figures"
    files = [p for p in published.iterdir() if p.suffix != ".json"]
    assert len(files) > 30
    assert not [p.name for p in files if (again / p.name).read_bytes() != p.read_bytes()]
    made = json.loads((again / "fig4_psnr.json").read_text())
    assert list(made["inputs"]) == ["runs/smoke-report/figures/per_image.csv.gz"]
    assert "Provenance" in (again.parent / "report.html").read_text()


@slow
def test_a_study_takes_published_scores_of_all_that_did_not_change(clone, finished_study, capsys):
    changed = ("--set", "runs.nn-runet-x5.steps=12")
    refused = ctsr(*STUDY, "--published", cwd=clone)
    assert refused.returncode == 2 and "figures/smoke/preset.json is not there" in refused.stderr
    published = publish("smoke", finished_study[0])
    done = ctsr(*STUDY, "--published", *changed, cwd=clone)
    again = clone / "runs" / "smoke"
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    taken = "bilinear, nearest, bicubic, lanczos, spline-bp, runet-x5, sr3-x5, clean-x5"
    assert f"scores from figures/smoke: {taken}" in done.stdout
    assert [p.name for p in (again / "train").iterdir()] == ["nn-runet-x5"]
    before, after = (
        pd.read_csv(f / "per_image.csv.gz")
        .set_index(["run", "task", "up", "protocol", "metric", "image_id"])
        .value.sort_index()
        for f in (published, again / "figures")
    )
    other = before.index.get_level_values("run").str.startswith("nn-runet-x5")  # also its snapshot
    assert (
        before.index.equals(after.index)
        and before[~other].equals(after[~other])
        and not before[other].equals(after[other])
    )
    assert {p.name for p in published.iterdir()} - {
        p.name for p in (again / "figures").iterdir()
    } == {"preset.json"}
    for table, column in {
        "table_training": "training",
        "training_history": "training",
        "table_validation": "training",
        "table_cost": "run",
    }.items():
        was, now = (pd.read_csv(f / f"{table}.csv")[column] for f in (published, again / "figures"))
        assert set(was) == set(now) and len(was) <= len(now), table
    publish("smoke")
    assert f"scores from an earlier publication: {taken}" in capsys.readouterr().out


# Settings and notebooks that are wrong are refused before anything starts.


@pytest.mark.parametrize(
    "assignment, word",
    [
        ("tyop=1", "tyop"),
        ("training.stpes=1", "stpes"),
        ("training.steps='9'", "steps"),
        ("training.steps=-1", "steps"),
        ("runs.runet-x5.up=cubic", "up"),
        ("tasks.x5.hr=-96", "hr"),
        ("source.name=3", "name"),
        ("evaluation.lpips=3", "lpips"),
        ("figures.bars.RUNet=[nobody, bilinear]", "nobody"),
        ("figures.bars.RUNet=[bilinear, nearest]", "nearest"),
        ("nonsense", "key=value"),
        ("training.model.wdith=1", "wdith"),
        ("training.loss={l3: 1}", "l3"),
        ("evaluation.split=tset", "split"),
        ("source.window=lungs", "window"),
        ("evaluation.inputs=[]", "inputs"),
        ("figures.contrasts=[[RUNet, nobody]]", "nobody"),
        ("runs.clean-x5.seeds=[1, 1]", "seeds"),
        ("runs.clean-x5.exclude=some", "exclude"),
        ("runs.clean-x5.tested=false", "clean-x5"),
        ("figures.review.factors.RUNet=[runet-x5, bilinear, x2]", "RUNet"),
        ("figures.review.factors.Other=[bilinear, bilinear, x2]", "gains"),
        ("figures.published.noises=[3]", "noises"),
        ("figures.published.steps=runet-x5", "steps"),
        ("figures.published.pictures={x5: {A: [nobody, bicubic]}}", "nobody"),
        ("figures.review.choices.Images.Other=nobody", "nobody"),
        ("runs.runet-x5.init=runet-x5", "its own weights"),
        ("runs.runet-x5.init=sr3-x5", "another network"),
        ("runs.nearest={task: x5}", "nearest"),
        ("figures.curves={RUNet: [nobody]}", "nobody"),
        ("figures.examples=0", "examples"),
    ],
)
def test_a_wrong_preset_is_refused_by_key(assignment, word):
    with pytest.raises(CTSRError) as refusal:
        load_preset("smoke", [assignment])
    assert word in str(refusal.value)


@pytest.mark.slow
def test_a_refusal_is_one_line_and_writes_nothing(root, tmp_path):
    done = ctsr(*STUDY, "--out", tmp_path / "never", "--set", "tyop=1", cwd=root)
    assert done.returncode == 2 and "tyop" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "parameters, word",
    [(dict(typo=1), "typo"), (dict(steps="100"), "steps"), (dict(flips=1), "flips")],
)
def test_wrong_notebook_parameters_are_refused(root, tmp_path, parameters, word):
    with pytest.raises(CTSRError, match=word):
        run_notebook(root / "nbs" / "study" / "train.ipynb", tmp_path / "train.ipynb", parameters)
    assert not (tmp_path / "train.ipynb").exists()


def test_own_images_take_the_source_s_place(tmp_path):
    (tmp_path / "mine").mkdir()
    own = load_preset("smoke", data=str(tmp_path / "mine")).source
    assert own.name == str(tmp_path / "mine") and not own.phantom
    kaggle = load_preset("baseline", data=str(tmp_path / "mine")).source
    assert (kaggle.name, kaggle.data) == ("kaggle", str(tmp_path / "mine"))
