"""Figures: what is drawn is what the table says, legibly, and the same when drawn again."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns

from ctsr.core.errors import CTSRError
from ctsr.evaluation.statistics import breakdown, interval, paired
from ctsr.evaluation.table import COLUMNS, tidy
from ctsr.figures.ablations import fig_choices, fig_leak
from ctsr.figures.conditions import fig_bars, fig_by_class, fig_design, fig_examples, fig_paired
from ctsr.figures.samples import fig_damage, fig_steps, fig_tradeoff
from ctsr.figures.style import palette, save_figure, shade, text_faults, theme, whiskers

N = 60


def scored(run, gain, spread=2.0, up="bilinear"):
    frame = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(N))
    value = 26 + gain + spread * np.random.default_rng(0).normal(size=N)
    frame = frame.assign(run=run, up=up, task="x5", seed=0, steps=None, k=None, sample=None)
    frame = frame.assign(protocol="standard", metric="psnr", value=value, leaked="none")
    frame["image_id"] = [f"i{i:02d}" for i in range(N)]
    frame["group"] = [f"g{i // 3:02d}" for i in range(N)]
    return frame.assign(**{"class": np.where(np.arange(N) % 2, "a", "b")})


@pytest.fixture(scope="module")
def scores():
    return tidy(pd.concat([scored("bilinear", 0), scored("RUNet", 2), scored("SR3", 1)]))


def whisker_ends(ax):
    "Lower and upper end of each bar's whisker, from the lines that are drawn."
    lines = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) > 2]
    return [(np.nanmin(y), np.nanmax(y)) for y in lines]


@pytest.mark.parametrize("unit", ["image", "group"])
def test_bars_and_whiskers_are_those_of_the_statistics(scores, unit):
    fig = fig_bars(scores, "psnr", unit=unit)
    for run, (low, high) in zip(("bilinear", "RUNet", "SR3"), whisker_ends(fig.axes[0])):
        t = scores[scores.run == run]
        groups = t.group if unit == "group" else None
        assert interval(t.value, groups, levels=(68,)) == pytest.approx(dict(lo68=low, hi68=high))
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert heights == pytest.approx(scores.groupby("run", sort=False).value.mean().to_list())
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert texts == [f"{h:.2f}" for h in heights]


def test_intervals_by_image_agree_with_seaborn_s_own(scores):
    t = scores[scores.run == "RUNet"]
    _, ax = plt.subplots()
    sns.barplot(t, x="run", y="value", errorbar=("ci", 68), n_boot=10_000, seed=1, ax=ax)
    low, high = (f(ax.lines[0].get_ydata()) for f in (np.min, np.max))
    plt.close()
    own = interval(t.value, levels=(68,))
    assert (own["lo68"], own["hi68"]) == pytest.approx((low, high), abs=0.02)


def test_references_are_drawn_in_both_panels(scores):
    fig = fig_bars(scores, "psnr", baseline="bilinear", paper={"RUNet": 27.8})
    mean = scores[scores.run == "bilinear"].value.mean()
    for ax in fig.axes:
        known = {line.get_label(): line.get_ydata() for line in ax.lines}
        assert known["mean of bilinear"] == pytest.approx([mean, mean])
        assert list(known["printed in the paper"]) == [27.8]
    with pytest.raises(CTSRError, match="baseline 'nothing' is not shown"):
        fig_bars(scores, "psnr", baseline="nothing")
    with pytest.raises(CTSRError, match="no metric 'lpips'"):
        fig_bars(scores, "lpips")


@pytest.mark.parametrize("size", [(6.2, 2.45), (3.2, 3.9), None])
def test_bars_are_legible_in_every_size(scores, size):
    names = ["RUNet, ours", "NN+RUNet corrected", "SR3, one sample", "bilinear", "Bicubic"]
    table = tidy(pd.concat([scored(n, i) for i, n in enumerate(names)]))
    fig = fig_bars(table, "psnr", baseline="bilinear", paper={"RUNet, ours": 26.1}, size=size)
    assert not text_faults(fig)


def test_a_marker_is_hollow_where_the_interval_contains_zero():
    t = tidy(pd.concat([scored("bilinear", 0), scored("RUNet", 2), scored("SR3", 0.001)]))
    differences = paired(t, "bilinear", draws=100)
    differences.loc[differences.run == "SR3", ["lo95", "hi95"]] = [-1.0, 1.0]
    fig = fig_paired(differences, metrics=("psnr",))
    runet, sr3 = fig.axes[0].collections[-1].get_facecolors()
    assert not np.allclose(runet[:3], 1) and np.allclose(sr3[:3], 1)
    assert not text_faults(fig)
    with pytest.raises(CTSRError, match="nothing with metrics"):
        fig_paired(differences, metrics=("lpips",))


def test_classes_are_shown_with_their_numbers_of_images(scores):
    fig = fig_by_class(breakdown(scores, draws=50))
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["a\n(n = 30)", "b\n(n = 30)"]
    assert len(fig.axes[0].containers) == 3 and not text_faults(fig)


def test_examples_show_errors_on_one_scale_and_refuse_another_size():
    hr = np.random.default_rng(0).random((2, 64, 64))
    made = {"a": np.clip(hr + 0.1, 0, 1), "b": hr}
    fig = fig_examples(made, hr, names=["x" * 80 + ".png", "y"])
    maps = [ax.child_axes[1].images[0] for ax in fig.axes if ax.child_axes[1].images]
    assert len({m.get_clim() for m in maps}) == 1 and not text_faults(fig)
    assert fig.axes[0].get_xlabel().endswith(".png")
    with pytest.raises(CTSRError, match="give pictures of HR size"):
        fig_examples({"a": hr[:, :32]}, hr)


def test_design_is_drawn_with_and_without_pictures():
    assert not text_faults(fig_design())
    image = np.random.default_rng(0).random((256, 256))
    fig = fig_design(image, {"SR3": image}, arms=[("RUNet", "bilinear"), ("SR3", "bicubic")])
    assert sum(len(ax.images) for ax in fig.axes) == 5 and not text_faults(fig)


def point(label, psnr, lpips):
    row = dict(panel="p", method=label, label=label, psnr=psnr, lpips=lpips, order=np.nan)
    return row | {f"{m}_{e}": np.nan for m in ("psnr", "lpips") for e in ("lo", "hi")}


def test_labels_of_close_points_do_not_overlap_and_are_placed_the_same_again(tmp_path):
    close = pd.DataFrame([point(f"method {i}", 26 + 0.01 * i, 0.3) for i in range(6)])
    fig = fig_tradeoff(close)
    assert not text_faults(fig)
    assert {t.get_text() for t in fig.axes[0].texts} >= set(close.label)
    one = save_figure(fig_tradeoff(close), tmp_path / "a.png").read_bytes()
    assert one == save_figure(fig_tradeoff(close), tmp_path / "b.png").read_bytes()
    with pytest.raises(CTSRError, match="no row with psnr and lpips"):
        fig_tradeoff(close.assign(lpips=np.nan))


def test_one_point_is_labelled():
    assert not text_faults(fig_tradeoff(pd.DataFrame([point("SR3", 27, 0.2)])))
    grid = pd.DataFrame(dict(noise=[0, 0.1], offset=[0, 0.1], psnr=[26, 20], ssim=[0.8, 0.3]))
    assert len(fig_damage(grid, {}, (15.2, 0.17)).axes[0].texts) == 5


def test_references_of_steps_are_in_the_legend_once():
    steps = pd.DataFrame(dict(sampler="ddim", steps=[2, 10], metric="psnr", mean=[26, 27]))
    steps = steps.assign(lo=25, hi=28, seconds=[0.1, 0.5])
    fig = fig_steps(steps, {"RUNet": dict(psnr=27.5, seconds=0.03), "x": dict(ssim=1)})
    assert [t.get_text() for t in fig.legends[0].texts] == ["RUNet", "DDIM"]
    with pytest.raises(CTSRError, match="the table is empty"):
        fig_steps(steps[:0])


def test_leak_marks_are_at_the_table_s_gains():
    rows = [("exact", 2.5), ("none", 1.0)]
    table = pd.DataFrame(rows, columns=["leaked", "gain"])
    table = table.assign(condition="net", metric="psnr", lo95=np.nan, hi95=np.nan, n=3)
    table["class"] = "a"
    fig = fig_leak(table)
    assert [c[0].get_ydata()[0] for c in fig.axes[0].containers] == [2.5, 1.0]
    assert fig.axes[0].get_xticklabels()[0].get_text() == "a\n3/3"


def test_bars_of_choices_show_chance_better_and_worse():
    rows = [("plain", 0, -0.2, 0.2, 2), ("more", 0.5, 0.4, 0.6, 2), ("less", -0.5, -0.6, -0.4, 2)]
    rows += [("same", 0.1, 0.1, 0.1, 1), ("ruin", -30, -30, -30, 1)]
    table = pd.DataFrame(rows, columns=["choice", "worth", "lowest", "highest", "seeds"])
    fig = fig_choices(table.assign(metric="psnr", group="g"))
    ax = fig.axes[0]
    colours = [plt.matplotlib.colors.to_hex(b.get_facecolor()).upper() for b in ax.containers[0]]
    assert colours == ["#EE9944", "#B0B0B0", "#EE9944", "#0072B2"]
    assert [t.get_text() for t in ax.texts] == ["−30.00", "+0.10", "−0.50", "+0.50"]
    assert ax.get_xlim()[0] > -30 and not text_faults(fig)


def test_theme_and_colours():
    with plt.rc_context({"font.size": 30}):
        with theme():
            assert plt.rcParams["font.size"] == 8 and plt.rcParams["svg.hashsalt"] == "ctsr"
        assert plt.rcParams["font.size"] == 30
    assert shade("black", "white", 0) == "#000000" and shade("black", "white", 1) == "#FFFFFF"
    names = [f"network {i}" for i in range(9)]
    assert len(set(palette(names).values())) == 9
    assert palette(["x"], {"x": "red"}) == {"x": "red"}
    assert whiskers([1.0], [2.0], [np.nan]).tolist() == [[0], [0]]


def test_faults_of_texts_are_found():
    fig = plt.figure(figsize=(2, 1))
    fig.text(0.4, 0.5, "one")
    assert not text_faults(fig)
    fig.text(0.45, 0.5, "two")
    fig.text(0.9, 0.1, "too far right")
    plt.close(fig)
    assert text_faults(fig) == ["'too far right' leaves the figure", "'two' overlaps 'one'"]
