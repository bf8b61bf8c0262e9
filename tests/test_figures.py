"""Figures: what is drawn is what the table says, legibly, and the same when drawn again."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.text import Text

from ctsr.core.errors import CTSRError
from ctsr.data.degrade import TASKS
from ctsr.evaluation.statistics import interval
from ctsr.evaluation.table import COLUMNS, tidy
from ctsr.figures.ablations import fig_choices, fig_factors, fig_leak
from ctsr.figures.conditions import (
    fig_bars,
    fig_curves,
    fig_design,
    fig_epochs,
    fig_examples,
    fig_scores,
)
from ctsr.figures.samples import (
    fig_damage,
    fig_noise,
    fig_ranked,
    fig_steps,
    fig_tradeoff,
    fig_uncertainty,
)
from ctsr.figures.style import palette, save_figure, shade, theme, whiskers

N = 60


def drawn_texts(fig):
    "Texts that a reader can see."
    hidden = set()
    for axis in fig.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        shown = axis.axes.axison and axis.axes.get_visible()
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not (shown and low - slack <= tick.get_loc() <= high + slack):
                hidden |= {tick.label1, tick.label2}
    texts = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [t for t in texts if t not in hidden and (t.axes is None or t.axes.get_visible())]


def text_faults(fig) -> list:
    "What texts leave the figure or overlap; empty where all are legible."
    fig.draw_without_rendering()
    frame = fig.bbox.padded(1)
    boxes = [(t.get_text().replace("\n", " "), t.get_window_extent()) for t in drawn_texts(fig)]
    faults = [
        f"{text!r} leaves the figure"
        for text, box in boxes
        if not all(frame.contains(*corner) for corner in box.corners())
    ]
    for i, (text, box) in enumerate(boxes):
        overlapped = [t for t, other in boxes[:i] if box.padded(-0.5).overlaps(other.padded(-0.5))]
        faults += [f"{text!r} overlaps {other!r}" for other in overlapped]
    return faults


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


def test_bars_are_means_with_the_paper_s_values_next_to_them(scores):
    fig = fig_bars(scores, "psnr", "standard", paper={"RUNet": 27.8, "absent": 1})
    heights = [bar.get_height() for bar in fig.axes[0].patches]
    assert heights == pytest.approx(scores.groupby("run", sort=False).value.mean().to_list())
    assert [t.get_text() for t in fig.axes[0].texts] == [f"{h:.2f}" for h in heights]
    diamonds = [line for line in fig.axes[0].lines if line.get_label() == "printed in the paper"]
    assert list(diamonds[0].get_ydata()) == [27.8]
    with pytest.raises(CTSRError, match="no row with .*'lpips'"):
        fig_bars(scores, "lpips")


def test_whiskers_of_the_bars_are_68_per_cent_intervals(scores):
    fig = fig_bars(scores, "psnr", "standard")
    low, high = (f(fig.axes[0].lines[1].get_ydata()) for f in (np.min, np.max))
    own = interval(scores[scores.run == "RUNet"].value, levels=(68,))
    assert (low, high) == pytest.approx((own["lo68"], own["hi68"]), abs=0.05)


def test_bars_with_long_names_are_legible(scores):
    names = ["RUNet, ours", "NN+RUNet corrected", "SR3, one sample", "bilinear", "Bicubic"]
    table = tidy(pd.concat([scored(n, i) for i, n in enumerate(names)]))
    fig = fig_bars(table, "psnr", "standard", paper={"RUNet, ours": 26.1})
    assert not text_faults(fig)


def gains(subsets=("all", "leak-free"), **changes):
    "What `seed_table` gives, of two networks."
    rows = [
        dict(condition=c, subset=s, metric=m, mean=26 + g, gain=g, lo95=g - 0.1, hi95=g + 0.1, n=n)
        for c, g in (("RUNet", 1.5), ("SR3", -0.5))
        for s, n in zip(("all", "leak-free"), (60, 40))
        for m in ("psnr", "ssim")
        if s in subsets
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_scores_have_a_column_for_all_and_for_leak_free_images():
    fig = fig_scores(gains(), ("psnr", "ssim"), printed={"RUNet": 1.56})
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles[:2] == ["All (60 images)", "Leak-free (40 images)"]
    assert fig.axes[0].collections[-1].get_offsets().tolist() == [[1.5, 0], [-0.5, 1]]
    diamonds = [ax for ax in fig.axes for x in ax.lines if x.get_label() == "printed in the paper"]
    assert diamonds == [fig.axes[0]]  # the paper has no leak-free images
    assert "input (26.00)" in fig.axes[0].get_xlabel() and not text_faults(fig)
    with pytest.raises(CTSRError, match="nothing with metrics lpips"):
        fig_scores(gains(), ("lpips",))


def test_scores_have_one_column_where_all_images_are_leak_free():
    assert len(fig_scores(gains(subsets=["all"])).axes) == 1
    assert len(fig_scores(gains(n=60)).axes) == 1


@pytest.mark.parametrize("size", [(6.2, 2.45), (3.6, 3.9), None])
def test_scores_are_legible_in_every_size(size):
    names = ["RUNet, ours", "NN+RUNet corrected", "SR3, one sample", "Bicubic", "RUNet as coded"]
    table = pd.concat([gains().query("condition == 'RUNet'").assign(condition=n) for n in names])
    assert not text_faults(fig_scores(table, printed={"RUNet as coded": 1.6}, size=size))


def test_examples_show_errors_on_one_scale_and_refuse_another_size():
    hr = np.random.default_rng(0).random((2, 64, 64))
    made = {"a": np.clip(hr + 0.1, 0, 1), "b": hr}
    fig = fig_examples(made, hr, names=["x" * 80 + ".png", "y"])
    maps = [ax.child_axes[1].images[0] for ax in fig.axes if ax.child_axes[1].images]
    assert len({m.get_clim() for m in maps}) == 1 and not text_faults(fig)
    assert fig.axes[0].get_xlabel().endswith(".png")
    with pytest.raises(CTSRError, match="give pictures of HR size"):
        fig_examples({"a": hr[:, :32]}, hr, "xy")


def test_design_has_an_empty_frame_where_nothing_was_restored():
    image = np.random.default_rng(0).random((256, 256))
    arms = [("RUNet", "bilinear"), ("SR3", "bicubic")]
    for restored, pictures in (({}, 4), ({"SR3": image}, 5), ({"RUNet": image, "SR3": image}, 6)):
        fig = fig_design(image, restored, TASKS["x5"], arms, crossed="if its images\ndo not match")
        assert sum(len(ax.images) for ax in fig.axes) == pictures and not text_faults(fig)


def point(label, psnr, lpips):
    row = dict(panel="p", method=label, label=label, psnr=psnr, lpips=lpips, order=np.nan)
    return row | {f"{m}_{e}": np.nan for m in ("psnr", "lpips") for e in ("lo", "hi")}


@pytest.mark.slow
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
    found = dict(noise=0.1, offset=0.2)
    texts = [t.get_text() for t in fig_damage(grid, {}, (15.2, 0.17), found).axes[0].texts]
    assert len(texts) == 5 and texts[-1] == "printed in the paper: noise 26, shift 51"


def test_an_ideal_sample_lies_3_db_below_the_best_method():
    points = pd.DataFrame([point("RUNet", 30, 0.3), point("SR3", 28, 0.1)])
    lines = [line.get_xdata() for line in fig_tradeoff(points).axes[0].lines]
    assert any(list(x) == pytest.approx([26.99, 26.99], abs=0.01) for x in lines if len(x) == 2)


def test_curves_are_legible_in_one_panel_and_in_several():
    step = np.arange(1, 41) * 50
    history = pd.DataFrame(dict(step=step, images=16 * step, loss=1 / step))
    history = history.assign(val_psnr=28 - 100 / step, val_ssim=0.8 - 1 / step)
    both = {"RUNet": history, "RUNet-x2": history.assign(images=300 * step)}
    fig = fig_curves(both)
    assert [len(ax.lines) for ax in fig.axes] == [2, 2, 2] and not text_faults(fig)
    assert all(ax.get_xscale() == "log" for ax in fig.axes)  # one is 19 times as long
    fig = fig_curves(both, panels={"x5": ["RUNet"], "x2": ["RUNet-x2"]})
    assert [len(ax.lines) for ax in fig.axes] == [1] * 6 and not text_faults(fig)
    with pytest.raises(CTSRError, match="no history given"):
        fig_curves({})


def test_epochs_show_each_network_and_the_printed_value():
    rows = [
        dict(run=run, epoch=epoch, metric=metric, mean=value - 1 / epoch)
        for run in ("coded", "nn")
        for epoch in range(1, 21)
        for metric, value in (("psnr", 27.5), ("ssim", 1.9))
    ]
    table = pd.DataFrame(rows).assign(up="bilinear", subset="all", protocol="as_coded")
    shown = {"RUNet as coded": ["coded", "bilinear"], "NN+RUNet as coded": ["nn", "bilinear"]}
    fig = fig_epochs(table, shown, {"psnr": {"RUNet as coded": 27.8}, "ssim": {}})
    assert [len(ax.lines) for ax in fig.axes] == [3, 2] and not text_faults(fig)


def test_samples_that_do_not_differ_have_no_calibration():
    hr = np.random.default_rng(0).random((3, 64, 64))
    std = np.full_like(hr, 0.05)
    bins = pd.DataFrame(dict(std=[0.01, 0.05], rmse=[0.01, 0.06], expected=[0.011, 0.054]))
    bins["count"] = 6144
    fig = fig_uncertainty(hr, hr + std, std, bins, 4, ["one", "two", "a long name " * 4])
    assert sum(len(ax.images) for ax in fig.axes) >= 12 and not text_faults(fig)
    with pytest.raises(CTSRError, match="do not differ"):
        fig_uncertainty(hr, hr, 0 * std, bins.assign(std=0.0), 4, "abc")


def test_noise_levels_are_drawn_from_much_noise_to_little():
    table = pd.DataFrame(dict(run="sr3-x5", logsnr=[8.0, 0.0, -8.0], loss=[0.9, 0.3, 0.02]))
    fig = fig_noise(table.assign(psnr=[60.0, 30.0, 25.0]))
    assert all(ax.xaxis_inverted() for ax in fig.axes) and not text_faults(fig)
    assert list(fig.axes[1].lines[0].get_ydata()) == [60, 30, 25]


def test_effects_that_may_be_chance_have_hollow_dots():
    rows = [("a", 1.0, 0.8, 1.2, True), ("b", 0.1, -0.1, 0.3, False)]
    table = pd.DataFrame(rows, columns=["condition", "effect", "lo95", "hi95", "sure"])
    table = table.assign(subset="leak-free", metric="psnr", n=40)
    seeds = [table.assign(value=table.effect + step) for step in (-0.05, 0.05)]
    fig = fig_factors(table, pd.concat(seeds), "the reference")
    dots = fig.axes[0].collections[-1]
    assert dots.get_facecolors()[:, 0].tolist() == [0, 1, 0, 1] and not text_faults(fig)


def test_references_of_steps_are_in_the_legend_once():
    steps = pd.DataFrame(dict(sampler="ddim", steps=[2, 10], metric="psnr", mean=[26, 27]))
    steps = steps.assign(lo=25, hi=28)
    fig = fig_steps(steps, {"RUNet": dict(psnr=27.5), "x": dict(ssim=1)})
    assert len(fig.axes) == 1 and not text_faults(fig)
    assert [t.get_text() for t in fig.legends[0].texts] == ["RUNet", "DDIM"]
    with pytest.raises(CTSRError, match="the table is empty"):
        fig_steps(steps[:0])


def test_ranked_images_stand_next_to_those_of_another_network():
    hr = np.random.default_rng(0).integers(0, 255, (2, 64, 64), dtype=np.uint8)
    ranks = pd.DataFrame(dict(image_id=["b", "a"], place=["top", "worst"], rank=[1, 9]))
    ranks = ranks.assign(leaked=["exact", "none"])
    pictures = dict(hr=hr, up=hr, image_ids=["a", "b"])
    fig = fig_ranked(pictures, {"RUNet": 255 - hr, "SR3": hr // 2}, ranks, 9)
    shots = [ax.images[0].get_array() for ax in fig.axes if len(ax.images) and ax.images]
    assert np.allclose(shots[0], hr[1] / 255) and np.allclose(shots[2], 1 - hr[1] / 255)
    texts = {t.get_text() for ax in fig.axes for t in ax.texts}
    assert {"rank 1 of 9 †", "rank 9 of 9", "RUNet", "SR3, error"} <= texts
    assert not text_faults(fig)
    with pytest.raises(CTSRError, match="no picture of c"):
        fig_ranked(pictures, {"SR3": hr}, ranks.assign(image_id=["c", "a"]), 9)


def test_leak_marks_are_at_the_table_s_gains():
    rows = [("exact", 2.5, 3), ("none", 1.0, 9)]
    table = pd.DataFrame(rows, columns=["leaked", "gain", "n"])
    fig = fig_leak(table.assign(condition="net", lo95=np.nan, hi95=np.nan))
    assert [c[0].get_xdata()[0] for c in fig.axes[0].containers] == [2.5, 1.0]
    assert not text_faults(fig)
    assert [t.get_text() for t in fig.legends[0].texts] == [
        "exact copy in training (3)",
        "leak-free (9)",
    ]


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
    assert whiskers([1.0], [2.0], [np.nan]).tolist() == [[0], [0]]


def test_faults_of_texts_are_found():
    fig = plt.figure(figsize=(2, 1))
    fig.text(0.4, 0.5, "one")
    assert not text_faults(fig)
    fig.text(0.45, 0.5, "two")
    fig.text(0.9, 0.1, "too far right")
    plt.close(fig)
    assert text_faults(fig) == ["'too far right' leaves the figure", "'two' overlaps 'one'"]
