"Statistics against scipy and hand calculation, the table's form, figures equal from run to run."

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ctsr.core.errors import CTSRError
from ctsr.core.files import save_csv
from ctsr.data.degrade import Task, upsample
from ctsr.data.prepare import prepare
from ctsr.data.prepared import Prepared, load_prepared
from ctsr.evaluation.ablations import seed_table
from ctsr.evaluation.restore import Interpolate
from ctsr.evaluation.scores import (
    choose_examples,
    evaluate,
    load_samples,
    main,
    per_image,
    rank_images,
    sample_images,
)
from ctsr.evaluation.statistics import (
    bootstrap_means,
    bootstrap_p,
    holm,
    interval,
    paired,
    sign_flip,
    summary,
    unit_note,
)
from ctsr.evaluation.table import COLUMNS, load_tables, tidy
from ctsr.figures.conditions import fig_bars, fig_curves, fig_design, fig_examples, fig_scores
from ctsr.figures.style import palette, save_figure

TASK = Task(name="x4", hr=64, lr=16)


@pytest.fixture(scope="module")
def prepared():
    "Twelve smooth random pictures of two subjects, three slices a block."
    noise = torch.rand(12, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(noise, size=(64, 64), mode="bicubic")
    table = pd.DataFrame(
        {
            "image_id": [f"s{i // 6}/{i:02d}" for i in range(12)],
            "split": "test",
            "class": ["a", "b"] * 6,
            "origin": "",
            "subject": [f"s{i // 6}" for i in range(12)],
            "position": range(12),
            "exact_group": range(12),
            "group": [f"s{i // 6}#{i // 3}" for i in range(12)],
            "leaked": "none",
            "width": 64,
            "height": 64,
        }
    )
    return Prepared((x[:, 0].clamp(0, 1) * 255).round().to(torch.uint8), table, {})


@pytest.fixture(scope="module")
def scores(prepared):
    return pd.concat(
        [
            per_image(Interpolate(m), prepared, TASK, run=m)
            for m in ("bilinear", "nearest", "bicubic")
        ],
        ignore_index=True,
    )


def with_value(scores, run, seed=None, **change):
    "The bilinear rows under another name, changed."
    rows = scores[scores.run == "bilinear"].assign(run=run, **change)
    return tidy(rows.assign(seed=seed))


def test_table_has_exactly_the_documented_columns(scores):
    assert list(scores.columns) == COLUMNS
    kinds = set(zip(scores.protocol, scores.metric))
    with_protocol = {(p, m) for p in ("standard", "as_coded") for m in ("psnr", "ssim")}
    assert kinds == with_protocol | {
        ("", m) for m in ("lr_consistency", "mae", "rms_contrast", "offset", "bias", "psnr_fitted")
    }
    assert len(scores) == 3 * 12 * 10 and np.isfinite(scores.value).all()


def test_scores_equal_scikit_image(prepared, scores):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    from ctsr.data.degrade import degrade_pair

    hr = prepared.images[:, None].float() / 255
    up = degrade_pair(hr, TASK, "bilinear")[1]
    for i in (0, 7):
        x = hr[i, 0].double().numpy()
        y = up[i, 0].double().numpy()
        rows = (
            scores[(scores.run == "bilinear") & (scores.image_id == prepared.table.image_id[i])]
            .set_index(["protocol", "metric"])
            .value
        )
        assert rows["standard", "psnr"] == pytest.approx(
            peak_signal_noise_ratio(x, y, data_range=1), abs=1e-5
        )
        assert rows["as_coded", "ssim"] == pytest.approx(
            structural_similarity(x, y, data_range=2), abs=1e-5
        )
        assert rows["", "mae"] == pytest.approx(np.abs(x - y).mean(), abs=1e-6)


def test_batch_size_does_not_change_scores(prepared, scores):
    one = per_image(Interpolate("bilinear"), prepared, TASK, run="bilinear", batch_size=5)
    np.testing.assert_allclose(one.value, scores[scores.run == "bilinear"].value, atol=1e-6)


def test_table_survives_its_file(tmp_path, scores):
    save_csv(tmp_path / "a.csv", scores.assign(group="007", steps=5))
    pd.testing.assert_frame_equal(
        load_tables(tmp_path / "a.csv"), tidy(scores.assign(group="007", steps=5))
    )


def test_bad_input_ends_in_one_line(prepared, scores, tmp_path):
    nan = Interpolate("bilinear")

    def broken(lr, task):
        return nan(lr, task) * float("nan")

    with pytest.raises(CTSRError, match="NaN.*s0/00"):
        per_image(broken, prepared, TASK, run="broken")
    with pytest.raises(CTSRError, match="64-pixel|128"):
        per_image(nan, prepared, Task(name="x4", hr=128, lr=32), run="bilinear")
    with pytest.raises(CTSRError, match="batch_size"):
        per_image(nan, prepared, TASK, run="bilinear", batch_size=0)
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CTSRError, match="no.csv"):
        load_tables(tmp_path / "no.csv")
    with pytest.raises(CTSRError, match="absent.csv"):
        load_tables(tmp_path / "absent.csv")


def test_bootstrap_agrees_with_scipy_without_groups():
    x = np.random.default_rng(3).gamma(2.0, 2.0, 200)
    for level in (68, 95):
        ours = interval(x, levels=(level,))
        ci = stats.bootstrap(
            (x,),
            np.mean,
            confidence_level=level / 100,
            method="percentile",
            n_resamples=10_000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        tolerance = 0.05 * x.std() / len(x) ** 0.5 * 2
        assert ours[f"lo{level}"] == pytest.approx(ci.low, abs=tolerance)
        assert ours[f"hi{level}"] == pytest.approx(ci.high, abs=tolerance)


def test_cluster_bootstrap_equals_drawing_groups_one_by_one():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5])
    x = rng.normal(size=15) + np.repeat(rng.normal(size=5), [1, 2, 3, 4, 5])
    taken = np.random.default_rng(7).integers(5, size=(50, 5))
    by_hand = [np.concatenate([x[groups == "abcde"[g]] for g in draw]).mean() for draw in taken]
    np.testing.assert_allclose(bootstrap_means(x, groups, draws=50, seed=7), by_hand, rtol=1e-6)


def test_bootstrap_is_deterministic_and_blind_to_row_order():
    x = np.random.default_rng(0).normal(size=60)
    g = np.repeat(np.arange(20), 3)
    order = np.random.default_rng(1).permutation(60)
    assert interval(x, g) == interval(x, g)
    assert interval(x, g) == pytest.approx(interval(x[order], g[order]))
    assert interval(x, g, seed=1) != interval(x, g)


def test_one_group_gives_no_interval():
    assert all(np.isnan(v) for v in interval([1.0, 2.0, 3.0], ["a"] * 3).values())


def test_copies_of_an_image_do_not_narrow_the_interval():
    x = np.random.default_rng(0).normal(size=40)
    once = interval(x)
    copied = interval(np.repeat(x, 5), np.repeat(np.arange(40), 5))
    assert copied == pytest.approx(once)
    assert interval(np.repeat(x, 5))["hi95"] < once["hi95"]


def permutation_p(sums, **kwargs):
    "SciPy's sign-flip test of a sum."
    options = dict(permutation_type="samples", vectorized=True, **kwargs)
    return stats.permutation_test((sums,), np.sum, **options).pvalue


def test_sign_flip_is_exact_for_few_groups():
    d = np.random.default_rng(0).normal(0.2, 1, 30)
    groups = np.repeat(np.arange(10), 3)
    assert sign_flip(d[:10]) == pytest.approx(permutation_p(d[:10]))
    assert sign_flip(d, groups) == pytest.approx(permutation_p(d.reshape(10, 3).sum(1)))
    assert sign_flip([1, 1, 1, 1]) == 2 / 16  # by hand: all up or all down


def test_sign_flip_of_many_groups_is_seeded_and_near_scipy_s():
    d = np.random.default_rng(0).normal(0.25, 1, 60)
    assert sign_flip(d) == sign_flip(d)
    assert sign_flip(d, seed=1) != sign_flip(d)
    assert sign_flip(d) == pytest.approx(permutation_p(d, n_resamples=20_000, rng=0), abs=0.01)
    assert sign_flip(d + 3) == 1 / 20_000  # only the observed pattern


def test_sign_flip_without_an_answer():
    assert sign_flip(np.zeros(9)) == 1 and sign_flip([2.0]) == 1
    assert np.isnan(sign_flip([1.0, np.inf, 2.0]))


def test_copies_of_an_image_do_not_change_p():
    d = np.random.default_rng(0).normal(0.25, 1, 40)
    copied = sign_flip(np.repeat(d, 5), np.repeat(np.arange(40), 5))
    assert copied == sign_flip(d) and sign_flip(np.repeat(d, 5)) < copied


@pytest.mark.slow
@pytest.mark.parametrize("gain, clear", [(0.3, False), (-0.1, True)])
def test_p_and_interval_weigh_images_alike(gain, clear):
    """One large group and twelve single images that lose 0.1 each.

    If the large group gains, the mean over images rests on one group and neither interval nor p is
    clear, although twelve of thirteen groups agree (Wilcoxon over group means: p = 0.02). If it
    loses as well, both are.
    """
    difference = np.r_[np.full(20, gain), np.full(12, -0.1)]
    groups = np.r_[np.zeros(20), np.arange(1, 13)]
    ends = interval(difference, groups, levels=(95,))
    assert (ends["lo95"] > 0 or ends["hi95"] < 0) == clear
    assert (sign_flip(difference, groups) < 0.05) == clear
    means = pd.Series(difference).groupby(groups).mean()
    assert stats.wilcoxon(means).pvalue < 0.05


def test_seeds_are_drawn_again_crossed_with_groups():
    "Of an additive table the variance is that of both means: var(groups)/G + var(seeds)/S."
    rng = np.random.default_rng(0)
    images, trainings = rng.normal(0, 1, 30), rng.normal(0, 2, 6)
    values = (images[:, None] + trainings).ravel()
    groups, seeds = np.repeat(range(30), 6), np.tile(range(6), 30)
    spread = bootstrap_means(values, groups, seeds=seeds).std()
    assert spread == pytest.approx((images.var() / 30 + trainings.var() / 6) ** 0.5, rel=0.03)
    alone = bootstrap_means(values, groups)
    assert alone.std() == pytest.approx(images.std() / 30**0.5, rel=0.03)
    one_seed = bootstrap_means(values, groups, seeds=np.full(180, "0"))
    np.testing.assert_allclose(one_seed, alone, rtol=1e-12)
    missing = pd.array([None, *range(1, 6)] * 30, dtype="Int64")  # no seed is a label as well
    labelled = bootstrap_means(values, groups, seeds=missing)
    assert labelled.std() == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize("scatter, clear", [(0.02, True), (2.0, False)])
def test_p_and_interval_agree_where_seeds_scatter(scores, scatter, clear):
    base = scores[scores.run.eq("bilinear") & scores.metric.eq("mae")]
    lift = np.linspace(0.5, 1.5, len(base))
    shifts = {0: 1 - scatter, 1: 1, 2: 1 + scatter}
    runs = [
        with_value(base, "net", seed=seed, value=base.value + lift * shift)
        for seed, shift in shifts.items()
    ]
    row = paired(pd.concat([base, *runs]), "bilinear").iloc[0]
    assert (row.lo95 > 0) == (row.p < 0.2) == clear and row.seeds == 3
    assert row.difference == pytest.approx(1)
    means = summary(pd.concat(runs), by=("run",))
    alone = summary(runs[1], by=("run",))
    assert (means.hi95 - means.lo95)[0] >= (alone.hi95 - alone.lo95)[0] - 1e-9


def test_equal_seeds_are_compared_with_each_other(scores):
    "A shift that a seed gives both networks alike is in neither interval nor p."
    base = scores[scores.run.eq("bilinear") & scores.metric.eq("mae")]
    tables = [
        with_value(base, run, seed=seed, value=base.value + 5 * seed + gain)
        for run, gain in (("one", 0.0), ("two", 0.25))
        for seed in (0, 1, 2)
    ]
    row = paired(pd.concat(tables), "one").iloc[0]
    assert row.lo95 == pytest.approx(0.25) and row.hi95 == pytest.approx(0.25)
    other = [t.assign(seed=t.seed + 7) if t.run.iloc[0] == "two" else t for t in tables]
    row = paired(pd.concat(other), "one").iloc[0]
    assert row.lo95 < -1 < 1 < row.hi95 and row.p > 0.05 and row.seeds == 9


def test_p_of_resampled_means():
    d = np.random.default_rng(0).normal(1, 1, 40)
    assert bootstrap_p(d, draws=500) == 1 / 500 and bootstrap_p(np.zeros(9), draws=500) == 1
    assert np.isnan(bootstrap_p([1.0, np.inf, 2.0], draws=50))
    assert bootstrap_p(d - d.mean()) == pytest.approx(1, abs=0.1)


def test_holm_by_hand():
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, the last lifted to .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1, 1])


def test_paired_numbers(scores):
    t = paired(scores, "bilinear", draws=500)
    r = t[(t.run == "nearest") & (t.metric == "psnr") & (t.protocol == "standard")].iloc[0]
    wide = scores[(scores.metric == "psnr") & (scores.protocol == "standard")].pivot(
        index="image_id", columns="run", values="value"
    )
    d = wide.nearest - wide.bilinear
    assert r.difference == pytest.approx(d.mean()) and r.improved == (d > 0).mean()
    assert (r.n, r.groups, r.subjects, r.pairs, r.comparisons) == (12, 4, 2, 4, 20)
    blocks = d.groupby(np.arange(12) // 3).sum().to_numpy()
    assert r.p == pytest.approx(permutation_p(blocks))


def test_lower_is_better_where_it_is(scores):
    better = with_value(scores, "better", value=scores[scores.run == "bilinear"].value - 0.001)
    t = paired(
        pd.concat([scores[scores.run == "bilinear"], better]), "bilinear", draws=50
    ).set_index(["protocol", "metric"])
    assert (
        t.improved["", "mae"] == 1
        and t.improved["standard", "psnr"] == 0
        and np.isnan(t.improved["", "rms_contrast"])
    )


def test_identical_runs_differ_by_nothing(scores):
    t = paired(
        pd.concat([scores[scores.run == "bilinear"], with_value(scores, "copy")]),
        "bilinear",
        draws=50,
    )
    assert (t.difference == 0).all() and (t.p_holm == 1).all() and (t.lo95 == 0).all()


def test_infinite_psnr_on_both_sides_is_no_difference(scores):
    perfect = pd.concat([scores[scores.run == "bilinear"], with_value(scores, "copy")])
    perfect.loc[(perfect.metric == "psnr") & (perfect.image_id == "s0/00"), "value"] = np.inf
    t = paired(perfect, "bilinear", draws=50)
    assert (t.difference == 0).all()


def test_seeds_are_averaged_and_other_repetitions_refused(scores):
    base = scores[scores.run == "bilinear"]
    seeds = [with_value(scores, "net", seed=s, value=base.value + s) for s in (0, 1, 2)]
    t = paired(pd.concat([base, *seeds]), "bilinear", draws=50)
    np.testing.assert_allclose(t.difference, 1, atol=1e-9)
    mixed = pd.concat([base, seeds[0].assign(steps=5), seeds[0].assign(steps=20)])
    with pytest.raises(CTSRError, match="'steps'"):
        paired(mixed, "bilinear")
    by_steps = paired(mixed, "bilinear", of=("run", "steps"), draws=50)
    assert set(by_steps.steps) == {5, 20}
    with pytest.raises(CTSRError, match="twice"):
        paired(pd.concat([base, seeds[0], seeds[0]]), "bilinear")


def test_different_images_are_refused(scores):
    with pytest.raises(CTSRError, match="s0/03"):
        paired(scores[~((scores.run == "nearest") & (scores.image_id == "s0/03"))], "bilinear")
    with pytest.raises(CTSRError, match="not among"):
        paired(scores, "runet")


def test_summary_resamples_what_the_column_group_names(scores):
    one = scores[scores.run == "bilinear"]
    units = [one.group, one.image_id, one.subject]
    found = [summary(one.assign(group=unit), draws=500) for unit in units]
    assert [int(t.groups[0]) for t in found] == [4, 12, 2] and (found[0].n == 12).all()
    np.testing.assert_allclose(found[0]["mean"], found[1]["mean"])
    assert not np.allclose(found[0].lo95, found[1].lo95)


def test_differences_within_each_class(scores):
    within = ("task", "protocol", "metric", "class")
    gain = paired(scores, "bilinear", within=within, draws=50)
    assert set(gain["class"]) == {"a", "b"} and gain.difference.notna().any()


def test_unit_note(scores):
    assert "2 test subjects" in unit_note(scores) and "not patients" in unit_note(scores)
    lung2 = unit_note(scores.assign(subject="lung2"))
    assert lung2.startswith(
        "One test subject (lung2): intervals describe slices of this subject"
        " (4 blocks of adjacent slices"
    )
    assert lung2.endswith("not patients.")
    assert "patients unknown" in unit_note(scores.assign(subject=""))
    assert "resampled whole" in unit_note(scores.assign(group=scores.subject))
    assert "no interval" in unit_note(scores.assign(group="x"))


def test_rank_images(scores):
    t = rank_images(scores[scores.run == "bilinear"], "mae", k=2)
    assert list(t.place) == ["top", "top", "median", "worst", "worst"]
    assert list(t["rank"]) == [1, 2, 6, 10, 12]  # rank 11 is of the group of rank 12
    assert t.mae.is_monotonic_increasing
    with pytest.raises(CTSRError, match="'run'"):
        rank_images(scores)


def test_evaluate_writes_table_and_samples(tmp_path, prepared):
    scores = evaluate(
        Interpolate("nearest"), prepared, TASK, tmp_path / "out", run="nearest", examples=3
    )
    pd.testing.assert_frame_equal(load_tables(tmp_path / "out/per_image.csv"), scores)
    samples = load_samples(tmp_path / "out/samples.safetensors")
    assert (
        samples["lr"].shape == (3, 16, 16)
        and samples["sr"].shape == (3, 64, 64)
        and samples["sr"].dtype == torch.uint8
    )
    assert (
        samples["image_ids"] == [prepared.table.image_id[i] for i in choose_examples(prepared, 3)]
        and samples["run"] == "nearest"
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "per_image.csv",
        "samples.safetensors",
    ]
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(CTSRError, match="bad.safetensors"):
        load_samples(tmp_path / "bad.safetensors")


def test_examples_are_spread_over_classes_and_groups(prepared):
    rows = choose_examples(prepared, 4)
    chosen = prepared.table.loc[rows]
    assert (
        len(set(rows)) == 4 and set(chosen["class"]) == {"a", "b"} and chosen.group.nunique() == 4
    )
    assert len(choose_examples(prepared, 100)) == 12


@pytest.mark.slow
def test_figures_are_the_same_file_twice(tmp_path, prepared, scores):
    hr = prepared.images[:2]
    history = pd.DataFrame(
        dict(
            step=[1, 2],
            images=[8, 16],
            loss=[0.2, 0.1],
            val_psnr=[20.0, 21.0],
            val_ssim=[0.5, 0.6],
            learning_rate=[0.1, 0.1],
        )
    )
    inputs = {
        m: [m, *scores[scores.run.eq(m)][["up", "task"]].iloc[0]] for m in scores.run.unique()
    }
    own = {"bicubic": inputs["bicubic"]}
    over = inputs["bilinear"][:2]

    def design():
        return fig_design(hr[0], {"RUNet": hr[1]}, Task("x5", hr=64, lr=13))

    makers = dict(
        design=design,
        bars=lambda: fig_bars(scores, "ssim", "standard"),
        scores=lambda: fig_scores(seed_table(scores, own, ("psnr",), over=over, draws=50)),
        examples=lambda: fig_examples({"LR": 255 - hr}, hr, "ab"),
        curves=lambda: fig_curves({"run": history}),
    )
    for name, make in makers.items():
        one, two = (save_figure(make(), tmp_path / f"{name}{i}.png").read_bytes() for i in "ab")
        assert one == two, name
    with pytest.raises(CTSRError, match="suffix"):
        save_figure(design(), tmp_path / "x.bmp")


def test_figures_ignore_a_user_s_style(tmp_path, scores):
    import matplotlib.pyplot as plt

    plain = save_figure(fig_bars(scores, "psnr", "standard"), tmp_path / "a.png").read_bytes()
    with plt.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert (
            save_figure(fig_bars(scores, "psnr", "standard"), tmp_path / "b.png").read_bytes()
            == plain
        )
        assert plt.rcParams["font.size"] == 30
    assert not plt.get_fignums()


def test_no_text_is_clipped_or_overlaps(scores):
    "Tick labels of a crowded bar plot: inside the figure, and apart."
    names = [
        "RUNet tested on nearest",
        "NN+RUNet tested on bilinear",
        "RUNet, no rotated copies",
        "bilinear",
    ]
    table = pd.concat([with_value(scores, n) for n in names])
    fig = fig_bars(table, "psnr", "standard")
    fig.draw_without_rendering()
    frame = fig.bbox
    boxes = [t.get_window_extent() for t in fig.axes[0].get_xticklabels()]
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and b.y0 >= frame.y0 for b in boxes)
    assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))


def test_colours_are_apart_and_settled_by_name():
    names = ["bilinear", "nearest", "bicubic", "RUNet", "NN+RUNet", "x", "y", "z"]
    assert (
        len(set(palette(names).values())) == 8
        and palette(["RUNet"])["RUNet"] == palette(names)["RUNet"]
    )


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    path = prepare("phantom", tmp_path / "data", hr=64, phantom=dict(subjects=6, slices=2))
    task = '{"name": "x4", "hr": 64, "lr": 16}'
    common = ["--data", str(path), "--device", "cpu", "--examples", "1"]
    assert main(["--run", "bicubic", "--task", task, "--out", str(tmp_path / "out"), *common]) == 0
    assert "psnr" in capsys.readouterr().out
    table = load_tables(tmp_path / "out/per_image.csv")
    assert set(table.run) == {"bicubic"} and set(table.task) == {"x4"}
    for wrong in (
        ["--run", str(tmp_path / "none")],
        ["--run", "bicubic", "--task", "x99"],
        ["--run", "bicubic"],
    ):
        assert main([*common, "--out", str(tmp_path / "no"), *wrong]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("ctsr: ") and "\n" not in line
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_colour_network_is_scored_by_its_mean_and_where_asked_by_its_channels(phantom):
    "Noise that differs between channels averages out; only protocols that score channels see it."
    test = load_prepared(phantom).split("test")
    task = Task("x2", 64, 32)
    noise = 0.2 * torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))

    def coloured(lr, task):
        return upsample(lr, 64, "bilinear") + noise

    def mixed(lr, task):
        return coloured(lr, task).mean(1, keepdim=True).clamp(0, 1)

    scores = {
        name: per_image(r, test, task, run=name, protocols=("standard", "channels"))
        for name, r in (("c", coloured), ("m", mixed))
    }
    mean = {
        (name, p): t[t.metric.eq("psnr") & t.protocol.eq(p)].value.mean()
        for name, t in scores.items()
        for p in ("standard", "channels")
    }
    assert (
        mean["c", "standard"] == pytest.approx(mean["m", "standard"]) == mean["m", "channels"]
        and mean["c", "standard"] - mean["c", "channels"] > 2
    )
    assert sample_images(coloured, test, task)["sr"].shape[1:] == (64, 64)
