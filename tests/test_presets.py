"Presets: overriding, skipping, bundled weights, published scores, and every kind of refusal."

import json
import re
from dataclasses import asdict
from unittest.mock import patch

import pytest

from ctsr.core.errors import CTSRError
from ctsr.core.settings import parse_settings, settings
from ctsr.pipeline import presets
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import (
    check_preset,
    load_preset,
    override,
    published_runs,
    stored_runs,
    with_stored,
    without_runs,
)
from ctsr.pipeline.study import check_jobs
from ctsr.training.settings import TrainConfig


@pytest.fixture(scope="module")
def smoke():
    return load_preset("smoke")


@pytest.fixture(scope="module")
def full():
    return load_preset("full")


def names_of(preset):
    return [job.name for job in plan(preset, "runs/x")]


# --- settings


@settings
class Inner:
    count: int = 1


@settings
class Outer:
    inner: Inner
    by_name: dict[str, Inner]
    share: float = 0.5
    maybe: Inner | None = None


GOOD = dict(inner={}, by_name=dict(a=dict(count=2)))


def test_settings_are_read_into_objects():
    "Nested classes come from mappings; whole numbers may stand for real ones."
    outer = parse_settings(Outer, GOOD | dict(share=1, maybe=dict(count=3)))
    assert outer == Outer(Inner(), {"a": Inner(2)}, 1.0, Inner(3))
    assert parse_settings(Outer, asdict(outer)) == outer


@pytest.mark.parametrize(
    "change, line",
    [
        (dict(shar=1), "x: unknown key 'shar'; did you mean 'share'?"),
        (dict(zzz=1), "x: unknown key 'zzz'; known are inner, by_name, share, maybe"),
        (dict(share="1"), "x: 'share' must be a valid number, got '1'"),
        (dict(share=float("nan")), "x: 'share' must be a finite number, got nan"),
        (dict(inner=3), "x: 'inner' must be a mapping of settings, got 3"),
        (dict(inner=dict(count=True)), "x.inner: 'count' must be a valid integer, got True"),
        (dict(by_name=dict(a=dict(cuont=1))), "x.by_name.a: unknown key 'cuont'; did you mean"),
        (dict(maybe=dict(count=1.5)), "x.maybe: 'count' must be a valid integer, got 1.5"),
    ],
)
def test_a_wrong_setting_is_one_line_with_key_value_and_what_is_allowed(change, line):
    with pytest.raises(CTSRError) as error:
        parse_settings(Outer, GOOD | change, "x")
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    with pytest.raises(CTSRError, match="^x: missing 'by_name'$"):
        parse_settings(Outer, dict(inner={}), "x")


# --- overriding


def test_overriding_reaches_any_key_and_reads_yaml():
    written = {"a": {"b": 1}}
    for assignment in ("a.b=2", "a.c.d=[1, x]", "e=true", "f=a=b"):
        override(written, assignment)
    assert written == {"a": {"b": 2, "c": {"d": [1, "x"]}}, "e": True, "f": "a=b"}


@pytest.mark.parametrize("assignment", ["nonsense", "=3", "a.b.c=3", "a=[1"])
def test_a_wrong_override_is_refused(assignment):
    with pytest.raises(CTSRError, match=re.escape(f"--set {assignment}")):
        override({"a": {"b": 1}}, assignment)


def test_an_override_changes_what_it_names_alone(smoke):
    other = load_preset("smoke", ["runs.runet-x5.steps=7"])
    assert other.trainings["runet-x5"].steps == 7
    rest = {k: v for k, v in other.trainings.items() if k != "runet-x5"}
    assert rest == {k: v for k, v in smoke.trainings.items() if k != "runet-x5"}


def test_own_sampling_settings_lie_on_top_of_the_study_s(smoke):
    other = load_preset("smoke", ["runs.sr3-x5.sampling={k: 3}"])
    assert other.runs["sr3-x5"].sampling.k == 3
    assert other.runs["sr3-x5"].sampling.choices == smoke.evaluation.sampling.choices == [1, 2]


# --- skipping


def test_a_skipped_run_leaves_with_all_that_shows_it(smoke):
    skipped = load_preset("smoke", ["runs.nn-runet-x5.skip=true"])
    assert set(smoke.runs) - set(skipped.runs) == {"nn-runet-x5"}
    assert "NN+RUNet" in smoke.figures.bars and "NN+RUNet" not in skipped.figures.bars
    assert smoke.figures.contrasts and not skipped.figures.contrasts
    assert "coded_nearest_2" not in skipped.figures.review.roles
    assert not any("nn-runet" in name for name in names_of(skipped))
    assert "train/nn-runet-x5" in names_of(smoke)


def test_leaving_runs_out_changes_no_input(smoke):
    before = json.dumps(smoke.written)
    kept = without_runs(smoke, {"sr3-x5"}).figures
    assert json.dumps(smoke.written) == before and smoke.figures.mechanism
    assert kept.published.steps == "" and list(kept.published.pictures["x5"]) == ["Bicubic"]
    assert kept.mechanism is None and kept.sampled == {}
    assert without_runs(smoke, set()) is smoke


def test_a_skipped_run_leaves_lists_that_name_it_or_its_trainings(smoke, full):
    "Curves name trainings, choices name runs, with '+' for their ensemble."
    curves = "figures.curves={A: [clean-x5-s1], B: [runet-x5, clean-x5-s1]}"
    shown = load_preset("smoke", [curves])
    skipped = load_preset("smoke", [curves, "runs.clean-x5.skip=true"])
    assert list(shown.figures.curves) == ["A", "B"]
    assert skipped.figures.curves == {"B": ["runet-x5"]}
    assert smoke.figures.review.choices and not skipped.figures.review.choices
    assert smoke.figures.review.leak and not skipped.figures.review.leak
    views = load_preset("full", ["runs.ours-x8.skip=true", "runs.on-crops.skip=true"])
    titles = views.figures.review.choices
    assert "RUNet, 3,000 steps, then 600 more" not in titles  # the others are compared with it
    assert titles["RUNet, ours"] == full.figures.review.choices["RUNet, ours"]
    ensemble = "figures.review.choices={A: {One: runet-x5, Mean: clean-x5+, Two: nn-runet-x5}}"
    asked = ["runs.clean-x5.ensemble=true", ensemble]
    left = load_preset("smoke", [*asked, "runs.clean-x5.skip=true"]).figures.review.choices
    assert list(left["A"]) == ["One", "Two"]


def test_the_first_of_a_comparison_is_not_skipped():
    with pytest.raises(CTSRError, match="figures.review.factors: .* 'runet-x5' is left out"):
        load_preset("smoke", ["runs.runet-x5.skip=true"])
    less = "figures.review={}"
    assert "runet-x5" not in load_preset("smoke", ["runs.runet-x5.skip=true", less]).runs
    first = "figures.bars={A: [runet-x5, bilinear], B: [bilinear, bilinear]}"
    more = ["figures.columns=[]", "figures.contrasts=[]", less]
    assert load_preset("smoke", [first, *more])
    with pytest.raises(CTSRError, match="figures.bars: .* 'runet-x5' is left out"):
        load_preset("smoke", [first, *more, "runs.runet-x5.skip=true"])


@pytest.mark.parametrize(
    "wrong",
    [
        "figures.bars=3",
        "figures.bars.RUNet=null",
        "figures.columns=null",
        "figures.contrasts=[3]",
        "figures.names={3: a}",
        "figures.curves={A: [[1]]}",
        "figures.published=3",
        "figures.mechanism.network=[1]",
        "runs.clean-x5.skip=maybe",
    ],
)
def test_a_wrong_type_is_refused_in_one_line_where_a_run_is_skipped(wrong):
    with pytest.raises(CTSRError) as error:
        load_preset("smoke", ["runs.nn-runet-x5.skip=true", wrong])
    assert "must be" in str(error.value) and "\n" not in str(error.value)


def test_what_begins_with_a_skipped_run_is_refused(full):
    "The published full study leaves the authors' networks out; asked for, they are back."
    with pytest.raises(CTSRError, match="runs.ours-x5: 'init' must name a run that is not skipped"):
        load_preset("full", ["runs.ours-crops.skip=true"])
    assert "coded-nearest" not in full.runs
    assert "coded-nearest" in load_preset("full", ["runs.coded-nearest.skip=false"]).runs


# --- bundled weights and published scores


def test_bundled_weights_replace_trainings_of_the_same_recipe_only(full):
    found = stored_runs(full)
    assert found["ours-x5"] == "runet-x5"
    assert not stored_runs(load_preset("full", ["training.clip=2"]))
    stored = with_stored(full)
    assert {name for name, run in stored.runs.items() if run.stored} == set(found)
    assert "ours-crops" in full.runs and "ours-crops" not in stored.runs
    watched = {job.name: job.watch for job in plan(stored, "x") if job.notebook == "train"}
    assert watched["train/ours-x5"].endswith("weights/runet-x5.safetensors")
    assert watched["train/base-s0"] == ""
    assert stored.trainings["ours-x5"].init == "" and full.trainings["ours-x5"].init == "ours-crops"


def test_a_bundled_student_is_no_student_any_more(smoke):
    "Its card has its teacher; what it began with is left out, unless something names it."
    asked = [
        "runs.teacher={task: x5, model: {name: sr3, channels: 16}, up: bicubic, tested: false}",
        "runs.pupil={task: x5, model: {name: sr3, channels: 16}, up: bicubic, init: teacher,"
        " distill: 2, loss: {l2: 1.0}}",
    ]
    study = load_preset("smoke", asked)
    named = load_preset("smoke", [*asked, "figures.mechanism.network=teacher"])
    with patch.object(presets, "stored_runs", return_value={"pupil": "sr3-x5"}):
        stored = with_stored(study)
        assert "teacher" in with_stored(named).runs
    assert study.trainings["pupil"].distill == 2 and stored.trainings["pupil"].distill == 0
    assert check_preset(json.loads(json.dumps(stored.written))) == stored
    assert "teacher" in study.runs and "teacher" not in stored.runs


def test_published_scores_are_used_where_nothing_changed(smoke):
    everything = [*smoke.runs, *smoke.cascades]
    assert published_runs(smoke, smoke) == everything
    changed = load_preset("smoke", ["runs.clean-x5.steps=3"])
    assert published_runs(changed, smoke) == [name for name in everything if name != "clean-x5"]
    assert published_runs(load_preset("smoke", ["evaluation.regions=false"]), smoke) == []


def test_a_study_without_published_tables_is_refused_and_with_them_is_short(smoke, tmp_path):
    with pytest.raises(CTSRError, match=r"figures/smoke/preset.json is not there"):
        load_preset("smoke", published=True)
    published = load_preset("quick", published=True)
    assert set(published.taken_runs) >= set(published.runs)
    again = [name for name in names_of(published) if name.startswith(("train/", "evaluate/"))]
    added = {*published.evaluation.baselines} - {*published.taken}  # baselines not yet published
    assert all(name.startswith("evaluate/interpolation--") for name in again)
    assert bool(again) == bool(added) and added <= {"lanczos", "spline-bp"}


def test_what_is_written_reads_back_as_the_same_preset(smoke, full):
    "preset.json: a study's sections, with the marks of bundled weights."
    for preset in (smoke, full, with_stored(full)):
        again = check_preset(json.loads(json.dumps(preset.written)))
        assert again == preset
        assert [asdict(job) for job in plan(again, "x")] == [asdict(j) for j in plan(preset, "x")]


@pytest.mark.parametrize("name", ["smoke", "quick", "full"])
def test_notebooks_take_every_parameter_of_the_plan(name):
    "A new setting of training needs a parameter of train.ipynb, or no study starts."
    check_jobs(plan(load_preset(name), "runs/x"), [])


def test_a_study_names_the_splits_that_it_needs(smoke):
    jobs = {job.name: job.parameters for job in plan(smoke, "runs/x")}
    assert jobs["prepare/phantom-96-crop"]["needed"] == ["test", "train", "valid"]
    untrained = check_preset(
        smoke.written
        | dict(runs={})
        | dict(figures=dict(task="x5", bars={"Baseline": ["bilinear", "bilinear"]}))
    )
    (job,) = [j for j in plan(untrained, "runs/x") if j.notebook == "prepare"]
    assert job.parameters["needed"] == ["test"]


def test_a_preset_is_parsed_once(smoke, full):
    "Bundled weights are marked in the objects, and a plan is made from them."
    with patch.object(presets, "parse_settings", side_effect=AssertionError("parsed again")):
        assert names_of(smoke)
        assert with_stored(full).runs["ours-x5"].stored == "runet-x5"


@pytest.mark.parametrize("root", ["runs/x", "/elsewhere/x"])
def test_a_job_needs_the_jobs_whose_files_it_names(smoke, root):
    needs = {job.name: set(job.needs) for job in plan(smoke, root)}
    images = "prepare/phantom-96-crop"
    scores = {"evaluate/interpolation--x5", "evaluate/sr3-x5--x5"}
    assert needs[images] == set()
    assert needs["train/runet-x5"] == {images}
    assert needs["sample/sr3-x5--x5"] == {images, "train/sr3-x5", "evaluate/sr3-x5--x5"}
    assert needs["figures/published"] == {"figures/all", "sample/sr3-x5--x5", images} | scores
    assert needs["report/page"] == {name for name in needs if name.startswith("figures/")}
    assert needs["figures/review"] == needs["report/page"] - {"figures/review"}


def test_a_run_may_begin_with_one_that_is_written_below_it():
    later = load_preset("smoke", ["runs.runet-x5.init=clean-x5"])
    needs = {job.name: job.needs for job in plan(later, "runs/x")}
    assert "train/clean-x5-s1" in needs["train/runet-x5"]
    assert "train/clean-x5-s1" not in needs["train/sr3-x5"]


# --- trainings


def test_seeds_make_trainings_and_an_init_begins_with_the_same_seed(full):
    assert [t for t, run in full.run_of.items() if run == "base"] == [
        "base-s0",
        "base-s1",
        "base-s2",
    ]
    assert full.trainings["base-s2"].seed == 2
    assert full.begins_with("on-crops-s0") == "base-s0" and full.begins_with("base-s0") == ""
    assert full.stages("ours-x8") == ["ours-crops", "ours-x5", "ours-x8"]
    assert type(full.trainings["base-s0"]) is TrainConfig


# --- refusals, each with a neighbour that is allowed


def read(assignment):
    return load_preset("smoke", [assignment])


REFUSED = [
    ("tyop=1", "unknown key 'tyop'", None),
    (
        "training.stesp=5",
        "training: unknown key 'stesp'; did you mean 'steps'?",
        "training.steps=5",
    ),
    ("runs=3", "'runs' must be a valid dictionary, got 3", None),
    ("training.steps=-1", "'steps' must be greater than 0, got -1", "training.steps=1"),
    ("training.steps='9'", "'steps' must be a valid integer, got '9'", "training.steps=9"),
    ("training.steps=five", "'steps' must be a valid integer, got 'five'", "training.steps=5"),
    ("training.model.wdith=1", "wdith", "training.model.width=0.25"),
    ("training.loss={l3: 1}", "l3", "training.loss={l1: 1}"),
    ("training.loss={}", "loss", "training.loss={l2: 0.5}"),
    ("runs.runet-x5.up=cubic", "'up' must be one of nearest, bilinear, bicubic", None),
    ("runs.runet-x5.task=x9", "'task' must be one of x5, x2, got 'x9'", None),
    ("runs.runet-x5.source=photos", "'source' is for runs that are not tested", None),
    ("runs.clean-x5.seeds=[1, 1]", "seeds", "runs.clean-x5.seeds=[1, 2]"),
    ("runs.clean-x5.exclude=some", "exclude", "runs.clean-x5.exclude=exact"),
    ("runs.clean-x5.tested=false", "clean-x5", None),
    ("runs.runet-x5.init=runet-x5", "its own weights", None),
    ("runs.runet-x5.init=sr3-x5", "another network", "runs.nn-runet-x5.init=runet-x5"),
    ("runs.runet-x5.init=clean-x5-s1", "did you mean 'clean-x5'", "runs.runet-x5.init=clean-x5"),
    ("runs.sr3-x5.base=sr3-x5", "'base' must be a run that draws no", None),
    ("runs.sr3-x5.base=runet-x5", "takes bicubic images", None),
    ("runs.runet-x5.stored=nothing", "'stored' must be among", None),
    ("runs.nearest={task: x5}", "nearest", "runs.nearer={task: x5}"),
    ("runs.interpolation={task: x5}", "choose another name", "runs.interpolated={task: x5}"),
    ("runs.clean-x5-s1={task: x5}", "choose another name", "runs.clean-x5-s2={task: x5}"),
    ("runs.a/b={task: x5}", "cannot name a folder", "runs.a_b={task: x5}"),
    ("runs.a--b={task: x5}", "cannot name a folder", "runs.a-b={task: x5}"),
    ("runs.runet-x5.snapshots=[8]", "every 5 of 10, got 8", "runs.runet-x5.snapshots=[5, 10]"),
    ("runs.runet-x5.snapshots=[40]", "every 5 of 10, got 40", None),
    ("runs.sr3-x5.loss={vgg: 1}", "'vgg' alone teaches sr3", "runs.sr3-x5.loss={l1: 1}"),
    ("runs.sr3-x5.model.T=1", "noise schedule has 1 steps", "runs.sr3-x5.model.T=2"),
    ("tasks.x5.hr=-96", "hr", "tasks.x5.hr=48"),
    ("tasks.x5.name=x2", "'name' must be 'x5'", "tasks.x5.name=x5"),
    ("source.name=3", "'name' must be a valid string, got 3", "source={name: sample}"),
    ("source.name=sample", "'phantom' is for the source phantom", None),
    ("source.data=x", "'data' is for the source kaggle", "source={name: kaggle, data: x}"),
    ("source.phantom.subjcts=3", "did you mean 'subjects'", "source.phantom.subjects=3"),
    ("source.limit=0", "limit", "source.limit=1"),
    ("source.seed=-1", "seed", "source.seed=1"),
    ("source.window=lungs", "did you mean 'lung'", "source.window=lung"),
    ("source.split=5", "split", "source.split=[0.5, 0.25, 0.25]"),
    ("source.split=[2, 2, 2]", "sum to 1", "source.split=given"),
    ("evaluation.lpips=3", "lpips", "evaluation.lpips=vgg16"),
    ("evaluation.split=tset", "did you mean 'test'", "evaluation.split=test"),
    ("evaluation.inputs=[]", "inputs", "evaluation.inputs=[bilinear, nearest, bicubic]"),
    (
        "evaluation.sampling.k=1",
        "'k' must be greater than or equal to 2",
        "evaluation.sampling.k=3",
    ),
    ("evaluation.sampling.choices=[]", "choices", "evaluation.sampling.choices=[3]"),
    ("evaluation.sampling.samplers=[euler]", "samplers", "evaluation.sampling.samplers=[ddim]"),
    ("figures.task=x9", "figures: 'task' must be among x5, x2", None),
    ("figures.bars={}", "bars", None),
    ("figures.bars.RUNet=[nobody, bilinear]", "nobody", "figures.bars.RUNet=[runet-x5, nearest]"),
    ("figures.bars.RUNet=[bilinear, nearest]", "not tested on 'nearest'", None),
    ("figures.bars.RUNet=[runet-x5]", "bars", "figures.bars.RUNet=[runet-x5+, bilinear]"),
    ("figures.contrasts=[[RUNet, nobody]]", "nobody", "figures.contrasts=[[RUNet, SR3]]"),
    ("figures.curves={RUNet: [nobody]}", "nobody", "figures.curves={RUNet: [clean-x5-s1]}"),
    ("figures.curves={A: [runet-x5, runet-x5]}", "different", "figures.curves={A: [runet-x5]}"),
    ("figures.paper={psnr: 3}", "psnr", "figures.paper={psnr: {Baseline: 3}}"),
    ("figures.paper={psnr: {RUNet: 3}}", "Baseline", None),
    ("figures.examples=0", "examples", "figures.examples=1"),
    ("figures.sampled={x5: {A: [runet-x5, bilinear]}}", "draws samples", "figures.sampled={}"),
    ("figures.published.noises=[3]", "two or more rising", "figures.published.noises=[3, 4.5]"),
    ("figures.published.steps=runet-x5", "steps", "figures.published.steps=''"),
    ("figures.published.pictures={x5: {A: [nobody, bicubic]}}", "nobody", "figures.published={}"),
    ("figures.mechanism.network=runet-x5", "network", "figures.mechanism={}"),
    ("figures.review.factors.RUNet=[runet-x5, bilinear, x2]", "RUNet", "figures.review={}"),
    ("figures.review.factors.Other=[bilinear, bilinear, x2]", "put it into gains", None),
    ("figures.review.leak={A: [clean-x5, bilinear, x5]}", "two or more", "figures.review.leak={}"),
    ("figures.review.choices.Images.Other=nobody", "nobody", None),
    ("figures.review.choices.Images={One: runet-x5}", "choices", None),
]


@pytest.mark.parametrize("wrong, word, right", REFUSED, ids=[wrong for wrong, *_ in REFUSED])
def test_a_wrong_preset_is_refused_in_one_line(wrong, word, right):
    with pytest.raises(CTSRError) as error:
        read(wrong)
    assert word in str(error.value) and "\n" not in str(error.value), str(error.value)
    if right:
        assert read(right)


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(CTSRError, match="did you mean 'smoke'"):
        load_preset("smok")
    for text, word in (
        (b"a: [", "not readable as YAML"),
        (b"\xff\xfe", "not readable as YAML"),
        (b"- a", "expected keys and values"),
    ):
        (tmp_path / "own.yaml").write_bytes(text)
        with pytest.raises(CTSRError, match=word):
            load_preset(str(tmp_path / "own.yaml"))


def test_figure_5_of_a_publication_is_drawn_again_where_weights_are_bundled():
    jobs = {job.name: job.parameters for job in plan(load_preset("full", published=True), "r")}
    pair = {"RUNet, ours": "runet-x5", "SR3": "sr3-x5"}
    assert jobs["figures/sampled"]["weights"] == pair
    assert "weights" not in jobs["figures/sampled-x8"]  # its RUNet is not bundled
    assert jobs["figures/sampled-x8"]["stored"] == "figures/full"
    assert (
        "weights"
        not in {j.name: j.parameters for j in plan(load_preset("full"), "r")}["figures/sampled"]
    )
