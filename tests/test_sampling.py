"Samples in the study: scores of samples, a cascade from preset to table, refused settings."

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import Task, upsample
from ctsr.data.prepare import prepare
from ctsr.data.prepared import load_prepared
from ctsr.evaluation.restore import Cascade, SelfEnsemble, load_run
from ctsr.evaluation.sampling import draw_scores
from ctsr.evaluation.scores import per_image
from ctsr.evaluation.table import load_tables
from ctsr.pipeline.notebooks import run_notebook
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import check_preset
from ctsr.pipeline.provenance import checkout
from ctsr.training.loop import train

MODEL = dict(name="sr3", channels=16)
CASCADE = dict(
    name="cascade",
    title="A cascade in miniature",
    source=dict(name="phantom", phantom=dict(subjects=10, slices=2)),
    tasks=dict(
        x4=dict(hr=64, lr=16, fit="resize", antialias=True),
        first=dict(hr=32, lr=16, fit="halved", antialias=True),
        second=dict(hr=64, lr=32, fit="resize", antialias=True),
    ),
    training=dict(
        loss={"l2": 1.0},
        up="bicubic",
        mean=0.5,
        std=0.5,
        crop=32,
        batch_size=4,
        steps=6,
        validate_every=6,
        validate_steps=1,
        keep="last",
    ),
    runs=dict(
        small=dict(
            task="first",
            model=MODEL,
            tested=False,
            sampling=dict(choices=[3], choose_images=1, k=2),
        ),
        large=dict(task="second", model=MODEL, augment=[1.0, 0.1]),
        direct=dict(task="x4", model=MODEL),
    ),
    cascades=dict(cascade=dict(task="x4", stages=["small", "large"])),
    evaluation=dict(lpips="none", inputs=["bicubic"]),
    figures=dict(
        task="x4",
        bars=dict(
            Bicubic=["bicubic", "bicubic"],
            Direct=["direct", "bicubic"],
            Cascade=["cascade", "bicubic"],
        ),
    ),
)


@pytest.mark.slow
def test_a_cascade_goes_from_preset_to_table(tmp_path):
    """Train both stages, then run evaluate.ipynb with the parameters that the plan gives it.

    A stage that is not tested itself is sampled as its own validation images say.
    """
    preset = check_preset(CASCADE)
    jobs = {job.name: job for job in plan(preset, tmp_path)}
    job = jobs["evaluate/cascade--x4"]
    assert {"train/small", "train/large", "evaluate/large--second"} <= set(job.needs) and not {
        "evaluate/small--first",
        "evaluate/interpolation--first",
    } & set(jobs)
    for side, fit in ((32, "halved"), (64, "resize")):
        prepare("phantom", tmp_path / "prepare", hr=side, fit=fit, phantom=preset.source.phantom)
    for name, config in preset.trainings.items():
        if name == "direct":
            continue
        train(
            config,
            jobs[f"train/{name}"].parameters["prepared"],
            tmp_path / "train" / name,
            progress=False,
        )
        chosen = tmp_path / "evaluate" / f"{name}--{config.task.name}"
        if chosen.name == "small--first":
            continue
        chosen.mkdir(parents=True)
        (chosen / "choice.json").write_text(
            json.dumps(dict(sampler="ddim", steps=2, k=1, project=0))
        )
    run_notebook(
        checkout() / "nbs" / "study" / "evaluate.ipynb", tmp_path / job.executed, job.parameters
    )
    assert all((tmp_path / output).exists() for output in job.outputs)
    table = load_tables(tmp_path / job.outputs[0])
    cost = pd.read_csv(tmp_path / "evaluate/cascade--x4/cost.csv")
    assert set(table.run) == {"cascade"} and set(table.task) == {"x4"} and table.value.notna().all()
    assert cost.evaluations.tolist() == [3 + 2] and (cost.seconds > 0).all()


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(cascades=dict(c=dict(task="x4", stages=["large", "small"]))), "sizes do not fit"),
        (dict(cascades=dict(c=dict(task="x4", stages=["small", "nobody"]))), "stages"),
        (dict(cascades=dict(c=dict(task="x4"))), "cascades.c"),
        (dict(cascades=dict(small=dict(task="x4", stages=["small", "large"]))), "choose another"),
        (
            dict(tasks=CASCADE["tasks"] | dict(first=dict(hr=32, lr=16, fit="resize"))),
            "shrink alike",
        ),
        (dict(evaluation=dict(sampling=dict(choices=[5000]))), "5000"),
        (
            dict(
                figures=CASCADE["figures"]
                | dict(sampled=dict(x4=dict(Direct=["direct", "bicubic"])))
            ),
            "bicubic",
        ),
        (
            dict(
                figures=CASCADE["figures"]
                | dict(sampled=dict(x4=dict(Bicubic=["bicubic", "bicubic"])))
            ),
            "draws samples",
        ),
        (
            dict(
                figures=CASCADE["figures"]
                | dict(sampled=dict(x3=dict(Direct=["direct", "bicubic"])))
            ),
            "x3",
        ),
        (dict(evaluation=dict(sampling=dict(samplers=["euler"]))), "samplers"),
        (dict(evaluation=dict(sampling=dict(steps=[0]))), "steps"),
        (dict(evaluation=dict(sampling=dict(k=1))), "'k'"),
        (dict(evaluation=dict(sampling=dict(stpes=[2]))), "stpes"),
        (dict(figures=CASCADE["figures"] | dict(sampled="Bicubic")), "sampled"),
        (dict(training=CASCADE["training"] | dict(loss=dict(vgg=1.0))), "vgg"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_starts(change, word):
    with pytest.raises(CTSRError, match=word):
        check_preset(CASCADE | change)


@pytest.fixture(scope="module")
def direct(phantom, tmp_path_factory):
    "A small SR3, trained for a few steps."
    folder = tmp_path_factory.mktemp("direct")
    config = dataclasses.replace(check_preset(CASCADE).trainings["direct"], precision="fp32")
    train(config, phantom, folder, progress=False)
    return folder


@pytest.mark.slow
def test_scores_of_samples_do_not_depend_on_the_batch_and_the_first_is_the_headline(
    phantom, direct
):
    task = Task(name="x4", **CASCADE["tasks"]["x4"])
    test = load_prepared(phantom).split("test")
    tables = [
        draw_scores(load_run(direct, steps=2), test, task, run="r", k=2, batch_size=n)[0]
        for n in (1, 4)
    ]
    wide = [
        t.set_index(["run", "sample", "image_id", "protocol", "metric"]).value.sort_index()
        for t in tables
    ]

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    close(*wide)
    headline = (
        per_image(load_run(direct, steps=2), test, task, run="r", sample=0, regions=True)
        .set_index(["image_id", "protocol", "metric"])
        .value
    )
    first = wide[1].loc["r", 0]
    close(headline.reindex(first.index), first)
    assert set(tables[0].run) == {"r", "r+mean2", "r+projected", "r+drawn"}
    undone = (
        per_image(
            load_run(direct, steps=2, match=False),
            test,
            task,
            run="r",
            sample=0,
            regions=True,
        )
        .set_index(["image_id", "protocol", "metric"])
        .value
    )
    as_drawn = wide[1].loc["r+drawn", 0]
    close(undone.reindex(as_drawn.index), as_drawn)
    assert (
        abs(first.xs("offset", level="metric")).max()
        < abs(as_drawn.xs("offset", level="metric")).min()
    )
    projected, single = (
        wide[0].loc[run, 0].xs("lr_consistency", level="metric").mean()
        for run in ("r+projected", "r")
    )
    assert projected < single / 10


class Coloured:
    "A restorer that leaves three channels as they are unless it mixes them, like NetRestorer."

    mix = True
    up = "bicubic"

    def __call__(self, lr, task):
        up = upsample(lr, task.hr_size(*lr.shape[-2:]), "bilinear")
        colours = up + torch.tensor([-0.2, 0.0, 0.3])[:, None, None]
        return colours.mean(1, keepdim=True).clamp(0, 1) if self.mix else colours


@pytest.mark.parametrize("mix, channels", [(True, 1), (False, 3)])
def test_a_cascade_mixes_channels_as_asked(mix, channels):
    "The result has the channels of the second stage; what lies between the stages is grey."
    seen = []

    class Second(Coloured):
        def __call__(self, lr, task):
            seen.append(lr.shape[1])
            return super().__call__(lr, task)

    stages = Coloured(), Second()
    cascade = Cascade(*stages, [dict(name="a", hr=32, lr=16), dict(name="b", hr=64, lr=32)])
    cascade.mix = mix
    lr = torch.rand(2, 1, 16, 16)
    result = cascade(lr, Task("x4", 64, 16))
    assert cascade.mix == mix and result.shape == (2, channels, 64, 64) and seen == [1]
    middle = stages[0](lr, cascade.tasks[0])
    assert torch.allclose(result, stages[1](middle, cascade.tasks[1]))


def test_a_cascade_of_one_network_twice_still_has_a_grey_middle():
    twice = Coloured()
    cascade = Cascade(twice, twice, [dict(name="a", hr=32, lr=16), dict(name="b", hr=64, lr=32)])
    cascade.mix = False
    assert cascade(torch.rand(1, 1, 16, 16), Task("x4", 64, 16)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("mix, channels", [(True, 1), (False, 3)])
def test_a_self_ensemble_mixes_channels_as_asked(mix, channels):
    inside = Coloured()
    inside.name = inside.model = "coloured"
    ensemble = SelfEnsemble(inside)
    ensemble.mix = mix
    assert ensemble(torch.rand(1, 1, 16, 16), Task("x2", 32, 16)).shape[1] == channels


def test_stages_of_a_cascade_draw_noise_of_their_own(direct):
    "Two identical stages must not begin with the same numbers."
    seen = []
    stage = load_run(direct, steps=1)

    class Spy:
        draws = True
        up = "bicubic"

        def __call__(self, lr, task, ids):
            seen.append(ids)
            return stage(lr, task, ids)

    Cascade(
        Spy(),
        Spy(),
        [CASCADE["tasks"]["first"] | dict(name="a"), CASCADE["tasks"]["second"] | dict(name="b")],
    ).draw(torch.rand(2, 1, 16, 16), Task("x4", 64, 16), ["i", "j"], 2)
    names = [n for ids in seen for n in ids]
    assert len(names) == len(set(names)) == 8
