"A whole smoke study, and what may happen to one."

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from PIL import Image
from program import ctsr, git, start_ctsr, study_of, todo

from ctsr.core.errors import CTSRError
from ctsr.pipeline import provenance
from ctsr.pipeline.notebooks import execute, run_notebook
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import load_preset
from ctsr.pipeline.provenance import as_shown, code_behind
from ctsr.pipeline.study import (
    check_jobs,
    describe_study,
    publish,
    redraw,
    run_study,
    unfinished,
)

STUDY = study_of("smoke")
slow = pytest.mark.slow
TAKES_PICTURES = {"figures/all", "figures/sampled", "figures/published", "figures/mechanism"}


@pytest.fixture(scope="module")
def finished_study(root, tmp_path_factory):
    "A finished smoke study: its folder, what it printed, how long it took."
    folder = tmp_path_factory.mktemp("study") / "a 'smoke' (1) {x}"
    before = git(root, "status", "--porcelain")
    started = time.time()
    process = start_ctsr(*STUDY, "--out", folder, cwd=root)
    stdout, stderr = process.communicate()
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
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
    ways = ["bicubic", "schedule as trained"]
    assert list(mechanism.condition) == [
        *ways,
        "schedule rebuilt",
        *(f"own pictures, {way}" for way in ways),
    ]
    assert mechanism.psnr.notna().all() and mechanism.n[0] == 2 < mechanism.n[3] == mechanism.n[4]
    brightness = pd.read_csv(finished_study[0] / "figures" / "table_brightness.csv")
    assert list(brightness.condition) == [w for w in mechanism.condition if "bicubic" not in w]
    assert brightness.signal[0] < brightness.signal[1] and (brightness.measured > 0).all()
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


def run_together(root, jobs, out, folder):
    "Run the notebooks of jobs one after the other in one kernel, which loads the library once."
    whole = nbformat.v4.new_notebook()
    for job in jobs:
        nb = load_notebook_node(str(root / "nbs" / "study" / f"{job.notebook}.ipynb"))
        parameters = job.parameters | dict(out=str(out))
        nb = parameterize_notebook(nb, parameters, kernel_name="python3", language="python")
        whole.cells += nb.cells
    whole.metadata = nb.metadata
    nbformat.write(whole, folder / "together.ipynb")
    execute(folder / "together.ipynb", folder / "executed.ipynb", {}, root)


@slow
def test_figures_are_the_same_bytes_from_the_same_table(
    root, finished_study, tmp_path, monkeypatch
):
    """Notebooks that take published pictures when they are drawn again from tables.

    The figures of the others are compared where a study is drawn again from its tables.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the study draws them
    jobs = [
        job for job in plan(load_preset("smoke"), finished_study[0]) if job.name in TAKES_PICTURES
    ]
    run_together(root, jobs, tmp_path / "again", tmp_path)
    pictures = sorted((tmp_path / "again").glob("*.png"))
    assert {"fig2_examples", "fig_uncertainty", "fig_mechanism"} <= {p.stem for p in pictures}
    assert all(
        p.read_bytes() == (finished_study[0] / "figures" / p.name).read_bytes() for p in pictures
    )


# What may go wrong. Each of these works on a copy of the finished study.


@pytest.fixture
def copy(finished_study, tmp_path):
    "A copy of the finished study with its own plan."
    return shutil.copytree(finished_study[0], tmp_path / "smoke")


def test_a_changed_setting_puts_what_follows_out_of_date_and_nothing_else(finished_study):
    assert set(todo("smoke", finished_study[0], ["runs.nn-runet-x5.steps=11"])) == {
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


def test_code_reaches_modules_that_are_imported_indirectly(root, tmp_path, monkeypatch):
    "A comment changes no digest; code does, and no digest but that of its own module."
    shutil.copytree(root / "ctsr", tmp_path / "ctsr")
    monkeypatch.setattr(
        provenance, "module_file", lambda name: tmp_path / f"{name.replace('.', '/')}.py"
    )
    notebook = root / "nbs" / "study" / "evaluate.ipynb"
    assert "ctsr.core.errors" not in notebook.read_text()
    before = code_behind(notebook)
    far = tmp_path / "ctsr" / "core" / "errors.py"
    far.write_text(far.read_text() + "# a comment\n")
    assert code_behind(notebook) == before
    far.write_text(far.read_text() + "CHANGED = True\n")
    changed = {name for name, sha256 in code_behind(notebook).items() if sha256 != before[name]}
    assert changed == {"ctsr.core.errors"}


def test_figures_are_no_part_of_the_code_of_training(root):
    assert "import" in (root / "nbs" / "study" / "train.ipynb").read_text()
    code = code_behind(root / "nbs" / "study" / "train.ipynb")
    folders = {name.split(".")[1] for name in code if name.startswith("ctsr.")}
    assert "training" in folders and not folders & {"figures", "paper", "pipeline", "apps"}


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
    with pytest.raises(CTSRError, match="holds the study 'smoke', not 'full'"):
        publish("full", finished_study[0])
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
    unknown = clone / "nbs" / "study" / "unknown.ipynb"
    unknown.write_text(text)
    with pytest.raises(CTSRError, match="local changes; commit them"):
        publish("smoke", finished_study[0])
    unknown.unlink()
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


def test_trained_weights_of_other_code_are_kept_where_asked_and_published(clone, copy, capsys):
    notebook = clone / "nbs" / "study" / "train.ipynb"
    text = notebook.read_text()
    assert text.count("history.tail(3)") == 1
    notebook.write_text(text.replace("history.tail(3)", "history.tail(4)"))
    git(clone, "commit", "--quiet", "--all", "--message", "a longer tail")
    assert todo("smoke", copy)["train/runet-x5"] == "train.ipynb changed"
    run_study(load_preset("smoke"), copy, dry_run=True, keep_trained=True)
    assert "nothing to do" in capsys.readouterr().out
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
    less = ("--set", "figures.controls=false", "--set", "figures.review={}")
    refused = ctsr(*STUDY, "--published", cwd=clone)
    assert refused.returncode == 2 and "figures/smoke/preset.json is not there" in refused.stderr
    published = publish("smoke", finished_study[0])
    done = ctsr(*STUDY, "--published", *changed, *less, cwd=clone)
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
    not_asked_for = {
        Path(output).name
        for job in plan(load_preset("smoke"), again)
        if job.name in ("figures/controls", "figures/review")
        for output in job.outputs
    }
    drawn = {p.name for p in (again / "figures").iterdir()}
    assert {p.name for p in published.iterdir()} - drawn == {"preset.json"} | not_asked_for
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


def test_missing_images_are_named_before_anything_starts(tmp_path):
    jobs = plan(load_preset("smoke", data=str(tmp_path / "absent")), "runs/x")
    with pytest.raises(CTSRError, match="absent: no such file or folder"):
        check_jobs(jobs, [])
    (tmp_path / "absent").mkdir()
    check_jobs(jobs, [])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names, fits",
    [
        (["a.png"], False),
        (["train/a.png", "valid/a.png", "test/a.png"], False),
        (["train/normal/a.png", "test/normal/a.png"], False),
        (["Data/train/normal/a.png", "Data/valid/normal/a.png", "Data/test/normal/a.png"], True),
    ],
)
def test_another_layout_than_the_paper_s_is_refused_before_anything_starts(
    tmp_path, names, fits, packed
):
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    place = tmp_path / "in"
    if packed:
        place = shutil.make_archive(tmp_path / "packed", "zip", place)
    jobs = plan(load_preset("baseline", data=str(place)), "runs/x")
    if fits:
        check_jobs(jobs, [])
        return
    with pytest.raises(CTSRError, match="holds train/CLASS, valid/CLASS and test/CLASS"):
        check_jobs(jobs, [])
    check_jobs(plan(load_preset("smoke", data=str(place)), "runs/x"), [])


@pytest.mark.parametrize("place", [".", "t", "runs/smoke"])
def test_a_digest_does_not_depend_on_the_folder_but_on_every_letter(root, place, monkeypatch):
    "Only paths are cut at the folder of the study, whatever it is called."
    monkeypatch.chdir(root)
    digests = []
    for rate in ("1.25", "12.5"):
        settings = [f"runs.runet-x5.learning_rate={rate}"]
        jobs = plan(load_preset("smoke", settings), place)
        described = describe_study(jobs, root / place)["jobs"]
        digests.append(described["train--runet-x5"]["digest"])
    elsewhere = plan(load_preset("smoke", settings), "/elsewhere/x")
    elsewhere = describe_study(elsewhere, Path("/elsewhere/x"))["jobs"]
    assert digests[0] != digests[1] == elsewhere["train--runet-x5"]["digest"]


def test_own_images_take_the_source_s_place(tmp_path):
    (tmp_path / "mine").mkdir()
    own = load_preset("smoke", data=str(tmp_path / "mine")).source
    assert own.name == str(tmp_path / "mine") and not own.phantom
    kaggle = load_preset("baseline", data=str(tmp_path / "mine")).source
    assert (kaggle.name, kaggle.data) == ("kaggle", str(tmp_path / "mine"))
