"The explorer: its parts in Python, the widgets without a browser, and JupyterLab in a browser."

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import wraps

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import MouseEvent
from PIL import Image

from ctsr.apps.compare import Scene
from ctsr.apps.explore import FILE, Explorer, file_images
from ctsr.apps.formats import open_scan
from ctsr.apps.upscale import load_model, restore_slice, upscale
from ctsr.data.degrade import upsample
from ctsr.evaluation.pretrained import FOLDER


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder like a checkout after a study of the phantom: prepared images and two small networks."
    from ctsr.data.prepare import prepare
    from ctsr.training.loop import train
    from ctsr.training.settings import TrainConfig

    folder = tmp_path_factory.mktemp("here")
    data = prepare(
        "phantom",
        folder / "runs" / "toy" / "prepare",
        hr=96,
        phantom=dict(subjects=10, slices=2, views=60),
    )
    task = dict(name="x5", hr=96, lr=19)
    few = dict(steps=2, validate_every=2, validate_images=1, validate_steps=1)
    short = dict(task=task, crop=32, batch_size=2, **few)
    small = dict(name="sr3", channels=8, multipliers=[1, 2])
    runs = folder / "runs" / "toy" / "train"
    train(
        TrainConfig(**short, model=dict(name="runet", width=0.25, residual=True)),
        data,
        runs / "runet-x5",
        progress=False,
    )
    train(
        TrainConfig(**short, model=small, up="bicubic", loss=dict(l2=1.0), mean=0.5, std=0.5),
        data,
        runs / "sr3-x5",
        progress=False,
    )
    return folder


@pytest.fixture(scope="module")
def stored(here, tmp_path_factory):
    "Stored weights like the package's: its RUNets, and a small SR3 whose sampling was chosen."
    from ctsr.evaluation.pretrained import pack

    folder = tmp_path_factory.mktemp("stored")
    for name in ("runet-x5", "runet-x5-as-coded"):
        for ending in ("json", "safetensors"):
            shutil.copy(FOLDER / f"runet-x5.{ending}", folder / f"{name}.{ending}")
    pack(
        here / "runs" / "toy" / "train" / "sr3-x5",
        "sr3-x5",
        {},
        "none",
        folder,
        sampling=dict(sampler="ddim", steps=3),
    )
    card = json.loads((folder / "sr3-x5.json").read_text())
    (folder / "sr3-x5.json").write_text(
        json.dumps(card | dict(task=card["task"] | dict(hr=256, lr=51)))
    )
    return folder


def without_loop(test):
    "Run a test in its own thread: a browser of other tests may keep a loop running in this one."

    @wraps(test)
    def run(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(test, *args, **kwargs).result()

    return run


def draw_samples(methods):
    "Press the button and wait until all samples are drawn."

    async def press():
        methods.drawing.value = True
        await methods.work

    asyncio.run(press())


def pixels(canvas):
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def enlarge(lr, task):
    "A method of the reader's own."
    return upsample(lr, task.hr_size(*lr.shape[-2:]))


def grey_file(path, shape, seed=0, depth=np.uint8, highest=255):
    "Save noise as a picture."
    noise = np.random.default_rng(seed).random(shape) * highest
    Image.fromarray(noise.astype(depth)).save(path)
    return str(path)


def choose_file(explorer, path):
    explorer.chooser.source.value = FILE
    explorer.chooser.path.value = str(path)


def panel_axes(explorer):
    "Title -> axes of the panels; of lines of panels the last."
    return dict(explorer.views[1].axes)


def test_what_is_available_is_offered(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    assert explorer.chooser.source.value == "toy: phantom-96-crop"
    interpolations = ["bilinear", "bicubic", "nearest"]
    assert list(explorer.methods.boxes) == [*interpolations, "toy/runet-x5", "toy/sr3-x5"]
    assert explorer.methods.ticked == ["bicubic", "toy/runet-x5", "toy/sr3-x5"]
    explorer.methods.task.value = "x2"  # the networks are for another factor
    assert list(explorer.methods.boxes) == interpolations
    assert "No network here is for x2" in explorer.methods.said.value
    explorer.methods.task.value = "x5"
    assert explorer.methods.ticked == ["bicubic", "toy/runet-x5", "toy/sr3-x5"]


@pytest.mark.slow
def test_a_check_box_shows_and_hides_a_method(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.boxes["nearest"].value = True
    assert list(explorer.methods.case.visible)[:2] == ["bicubic", "nearest"]
    explorer.methods.boxes["nearest"].value = False
    assert "nearest" not in explorer.methods.case.visible
    for name in explorer.methods.boxes:
        explorer.methods.boxes[name].value = True
    for name in ("one", "two", "three"):
        explorer.methods.add(name, enlarge)
    assert len(explorer.methods.ticked) == 8 and len(explorer.methods.case.shown) == 6
    assert "6 methods are shown" in explorer.methods.said.value


@pytest.mark.slow
@without_loop
def test_stored_weights_are_sampled_as_was_chosen_for_them(here, stored):
    explorer = Explorer(here, stored)
    methods = explorer.methods
    stored_first = ["runet-x5", "sr3-x5", "runet-x5-as-coded", "toy/runet-x5", "toy/sr3-x5"]
    assert list(methods.boxes)[3:] == stored_first
    assert methods.ticked == ["bicubic", "runet-x5", "sr3-x5"]
    assert list(methods.case.visible) == ["bicubic", "runet-x5"]  # samples wait for the button
    assert methods.case.waiting == [("sr3-x5", (4, 3))]
    seen = []
    methods.observe(lambda _: seen.append(list(methods.case.visible)[2:]), "changed")
    draw_samples(methods)
    assert seen[0] == ["sr3-x5, one sample"]
    assert seen[-1] == ["sr3-x5, one sample", "sr3-x5, mean of samples"]
    assert methods.case.visible["sr3-x5, mean of samples"].samples == 4
    methods.choose("bicubic", "toy/sr3-x5")  # nothing was chosen for these weights
    assert methods.case.waiting == [("toy/sr3-x5", (4, 5))]
    methods.choose("bicubic", "sr3-x5")
    assert not methods.case.waiting
    methods.steps.value = 2  # from now on what the reader says
    assert methods.case.waiting == [("sr3-x5", (4, 2))]
    explorer.chooser.number.value = 1
    assert methods.case.waiting == [("sr3-x5", (4, 2))]
    methods.steps.value = 0  # as chosen again
    assert methods.case.waiting == [("sr3-x5", (4, 3))]


@pytest.mark.slow
@without_loop
def test_samples_are_drawn_on_demand_and_can_be_stopped(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    methods = explorer.methods
    name = "toy/sr3-x5"
    methods.choose("bicubic", name)
    draw_samples(methods)
    shown = [f"{name}, one sample", f"{name}, mean of samples"]
    assert list(methods.case.visible) == ["bicubic", *shown]
    assert methods.case.visible[shown[1]].spread is not None
    assert methods.bar.value == methods.bar.max == 4 * 5  # samples, steps
    assert not methods.drawing.value and methods.drawing.description == "Draw samples"
    explorer.controls.left.value = shown[0]
    methods.steps.value = 3
    assert list(methods.case.visible) == ["bicubic"] and explorer.controls.look.left == "input"
    ticks = []
    methods.bar.observe(
        lambda change: ticks.append((change.new, len(methods.case.visible))), "value"
    )

    async def stop_after_a_sample():
        methods.samples.value = 30
        methods.drawing.value = True
        assert methods.drawing.description == "Stop"
        while not methods.case.drawn((name, (30, 3))):
            await asyncio.sleep(0.01)
        methods.choose("bilinear", "bicubic", name)  # what is being drawn goes on
        assert not methods.work.done()
        methods.drawing.value = False
        await methods.work

    asyncio.run(stop_after_a_sample())
    assert (1, 1) in ticks and (2, 1) in ticks  # the bar moves while the first sample is drawn
    drawn = methods.case.drawn((name, (30, 3)))
    assert 1 <= drawn < 30 and list(methods.case.visible)[2] == shown[0]
    assert explorer.controls.look.left == shown[0]  # the reader's choice is back


@pytest.mark.slow
@without_loop
def test_another_image_ends_the_drawing_and_going_back_shows_what_was_drawn(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    methods = explorer.methods
    name = "toy/sr3-x5"
    methods.choose("bicubic", name)
    methods.samples.value = 30

    async def move_on():
        methods.drawing.value = True
        while not methods.case.drawn((name, (30, 5))):
            await asyncio.sleep(0.01)
        explorer.chooser.number.value += 1
        await asyncio.wait_for(methods.work, 20)

    first = methods.case
    asyncio.run(move_on())
    assert methods.case is not first and list(methods.case.visible) == ["bicubic"]
    explorer.chooser.number.value -= 1
    assert methods.case is first and f"{name}, one sample" in methods.case.visible
    assert methods.case.waiting == [(name, (30, 5))]


@pytest.mark.slow
def test_going_back_computes_nothing_again_and_old_cases_are_dropped(here, tmp_path, monkeypatch):
    monkeypatch.setattr("ctsr.apps.explore.KEPT", 3)
    explorer = Explorer(here, tmp_path)
    calls = []
    explorer.methods.add("mine", lambda lr, task: calls.append(1) or enlarge(lr, task))
    answer = explorer.methods.case.visible["mine"]
    explorer.methods.task.value = "x2"
    explorer.methods.task.value = "x5"
    explorer.chooser.number.value += 1
    explorer.chooser.number.value -= 1
    assert explorer.methods.case.visible["mine"] is answer and len(calls) == 3
    explorer.methods.choose("nearest")
    for seed in range(4):
        explorer.methods.begin(np.random.default_rng(seed).random((64, 64), np.float32))
    assert len(explorer.methods.cases) == 3
    assert explorer.methods.case.visible  # the case on the screen is kept
    explorer.methods.add("mine", lambda lr, task: enlarge(lr, task) * 0.5)  # another function
    assert explorer.methods.case.visible["mine"] is not answer


@without_loop
def test_samples_of_a_method_that_was_replaced_are_drawn_again(here, tmp_path):
    class Flat:
        draws = True

        def __init__(self, grey):
            self.grey = grey

        def draw(self, lr, task, ids, k):
            return torch.full((k, 1, 1, *task.hr_size(*lr.shape[-2:])), self.grey)

    methods = Explorer(here, tmp_path).methods
    for grey in (0.25, 0.75):
        methods.add("mine", Flat(grey))
        methods.choose("mine")
        assert methods.case.waiting == [("mine", (4, 1))]
        draw_samples(methods)
        assert (methods.case.visible["mine, mean of samples"].image == grey).all()


@pytest.mark.slow
@without_loop
def test_the_bar_counts_each_evaluation_once_in_every_drawing(here, tmp_path):
    methods = Explorer(here, tmp_path).methods
    methods.choose("toy/sr3-x5")
    methods.samples.value = 2
    values = []
    methods.bar.observe(lambda change: values.append(change.new), "value")
    for steps in (2, 3, 4):
        methods.steps.value = steps
        values.clear()
        draw_samples(methods)
        assert values[-2 * steps :] == list(range(1, 2 * steps + 1))


@pytest.mark.slow
@without_loop
def test_samples_are_those_of_upscale(here, stored, tmp_path):
    path = grey_file(tmp_path / "one.png", (64, 60))
    explorer = Explorer(here, stored)
    explorer.methods.choose("bicubic")
    explorer.methods.input.value = True
    choose_file(explorer, path)
    explorer.methods.choose("bicubic", "sr3-x5")
    draw_samples(explorer.methods)
    shown = explorer.methods.case.visible
    for samples, title in ((1, "one sample"), (4, "mean of samples")):
        (row,) = upscale(
            [tmp_path / "one.png"],
            tmp_path / f"{samples}.png",
            "sr3-x5",
            samples=samples,
            uncertainty=samples > 1,
            folder=stored,
        )
        image = np.asarray(Image.open(row["out"]))
        assert (image == (shown[f"sr3-x5, {title}"].image * 255).round()).all()  # four tiles
    deviation = np.asarray(Image.open(row["aside"])) / 65535
    assert deviation.max() > 0.01
    assert np.abs(deviation - shown["sr3-x5, mean of samples"].spread).max() < 1e-5
    explorer.methods.choose("bicubic", "runet-x5")
    (row,) = upscale([tmp_path / "one.png"], tmp_path / "runet.png", "runet-x5", folder=stored)
    image = explorer.methods.case.visible["runet-x5"].image
    assert (np.asarray(Image.open(row["out"])) == (image * 255).round()).all()


@pytest.mark.slow
def test_every_control_changes_the_picture(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.choose("bicubic", "toy/runet-x5")
    controls, (upper, lower) = explorer.controls, explorer.canvases
    for part, value in (
        (controls.wipe, 20),
        (controls.row, 80),
        (controls.x, 3),
        (controls.y, 5),
        (controls.side, 24),
        (controls.left, "original"),
        (controls.right, "bicubic"),
        (explorer.chooser.number, 2),
        (explorer.methods.task, "x2"),
    ):
        before = pixels(upper)
        part.value = value
        assert (pixels(upper) != before).any(), part.description
    before = pixels(lower)
    controls.side.value = 60
    assert (pixels(lower) != before).any()


@pytest.mark.slow
def test_panels_stay_large_and_figures_are_as_wide_as_asked(here, tmp_path):
    explorer = Explorer(here, tmp_path, width=700)
    upper, lower = (c.figure for c in explorer.canvases)

    def side():
        return min(ax.get_window_extent().width for ax in panel_axes(explorer).values())

    def empty():
        return min(ax.get_position().y0 for ax in lower.axes)

    explorer.methods.choose("bilinear", "bicubic", "nearest", "toy/runet-x5")
    low = lower.get_figheight()
    assert side() > 100 and empty() < 0.02
    for n in (1, 2):
        explorer.methods.add(f"mine {n}", enlarge)
    assert side() > 150 and empty() < 0.02
    assert lower.get_figheight() > 2 * low  # six methods, in two lines
    explorer.controls.width.value = 1200
    assert [f.get_figwidth() * 80 for f in (upper, lower)] == [1200, 1200] and side() > 270


@pytest.mark.slow
@without_loop
def test_every_line_of_panels_begins_with_the_original(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.samples.value = 2
    draw_samples(explorer.methods)

    def lines():
        tops = {}
        for title, ax in explorer.views[1].axes:
            tops.setdefault(round(ax.get_position().y0, 4), []).append((title, ax))
        return [*tops.values()]

    # bicubic, RUNet, and of SR3 a sample, the mean and the spread, next to the original
    assert [len(line) for line in lines()] == [6]
    explorer.methods.choose("bilinear", "bicubic", "nearest", "toy/runet-x5", "toy/sr3-x5")
    assert [len(line) for line in lines()] == [5, 4]
    case = explorer.methods.case
    images = [ax for ax in explorer.canvases[1].figure.axes if ax.images]
    for (title, start), *_ in lines():
        assert title == "original" and start.get_title().startswith("original")
        assert (start.images[0].get_array() == case.hr).all()
        assert start.get_position().x0 < 0.01
        place = start.get_position()
        column = [
            ax.get_position().y0 for ax in images if abs(ax.get_position().x0 - place.x0) < 0.01
        ]
        next_row = max(y for y in column if y < place.y0 - 0.01)
        (below,) = (
            ax
            for ax in images
            if abs(ax.get_position().x0 - place.x0) < 0.01 and ax.get_position().y0 == next_row
        )
        assert below.get_title() == "input"
        assert (below.images[0].get_array() == case.input).all()
    explorer.controls.place((20, 30, 40))
    assert {ax.get_xlim() for ax in images} == {(29.5, 69.5)}  # one zoom for all


@pytest.mark.slow
@without_loop
def test_what_samples_differ_by_has_a_scale_of_its_own(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.choose("bicubic", "toy/sr3-x5")
    draw_samples(explorer.methods)
    limits = {kind: scale["vmax"] for kind, scale in explorer.views[1].scales.items()}
    (spread,) = (a.spread for a in explorer.methods.case.visible.values() if a.spread is not None)
    assert limits["spread"] == pytest.approx(max(0.004, np.percentile(spread, 99.5)))
    assert limits["error"] != limits["spread"]
    panel = panel_axes(explorer)["toy/sr3-x5, spread of 4 samples"]
    assert panel.images[0].get_clim() == (0, limits["spread"])
    titles = [ax.get_title() for ax in explorer.canvases[1].figure.axes]
    assert f"error, 0 to {limits['error'] * 255:.1f} grey levels" in titles
    assert any(f"0 to {limits['spread'] * 255:.1f} grey levels" in title for title in titles)


@pytest.mark.slow
def test_names_of_curves_lie_above_them(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    for name in ("one", "two", "three"):
        explorer.methods.add(name, enlarge)
    for width in (480, 830, 1400):
        explorer.controls.width.value = width
        pixels(explorer.canvases[0])
        plot = explorer.views[0].plot
        names = plot.get_legend().get_window_extent()
        axes = plot.get_window_extent()
        assert names.y0 >= axes.y1 and names.y1 <= plot.figure.bbox.y1, width
        assert names.x0 > explorer.views[0].wiped.get_window_extent().x1, width
        assert axes.height > 60


def test_a_figure_is_not_drawn_while_it_is_being_changed(here, tmp_path, monkeypatch):
    "JupyterLab answers widgets in another thread than cells."
    explorer = Explorer(here, tmp_path)
    show = Scene.show
    drawing = []
    waited = []

    def slow(*args):
        drawing.append(threading.Thread(target=explorer.canvases[0].draw))
        drawing[-1].start()
        drawing[-1].join(0.5)
        waited.append(drawing[-1].is_alive())
        show(*args)

    monkeypatch.setattr(Scene, "show", slow)
    explorer.controls.wipe.value = 20
    for thread in drawing:
        thread.join(20)
    assert waited == [True] and not drawing[0].is_alive()


def mouse(explorer, *places):
    "Press at the first place, move, let go at the last; in pixels of the image."
    canvas = explorer.canvases[0]
    steps = [("button_press_event", places[0])]
    steps += [("motion_notify_event", place) for place in places]
    steps += [("button_release_event", places[-1])]
    for kind, place in steps:
        pixel = explorer.views[0].whole.transData.transform(place)
        canvas.callbacks.process(kind, MouseEvent(kind, canvas, *pixel, button=1))


def test_dragging_and_sliders_say_the_same(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    controls = explorer.controls
    selector = explorer.views[0].selector

    def drawn():
        return tuple(
            edge + 0.5 for edge in selector.extents
        )  # left, right, top, bottom: around the pixels

    controls.place((20, 10, 40))
    mouse(
        explorer, (30, 40), (36, 45), (42, 50)
    )  # the square by its inside: 12 to the right, 10 down
    assert (
        controls.look.box
        == (30, 22, 40)
        == (controls.y.value, controls.x.value, controls.side.value)
    )
    controls.x.value = 33
    assert drawn() == (33, 73, 30, 70)
    mouse(explorer, (2, 2))  # a click outside
    assert (
        selector.get_visible() and drawn() == (33, 73, 30, 70) and controls.look.box == (30, 33, 40)
    )
    mouse(explorer, (50, 50), (90, 90))  # beyond the image
    top, left, side = controls.look.box
    assert max(top, left) + side <= 95 and side >= 16  # 96 px are cut to 95 for x5
    assert drawn() == (left, left + side, top, top + side)


def test_numbers_are_those_of_the_study(here, tmp_path):
    from skimage.metrics import peak_signal_noise_ratio

    explorer = Explorer(here, tmp_path)
    case = explorer.methods.case
    wanted = peak_signal_noise_ratio(case.hr, case.visible["bicubic"].image, data_range=1)
    assert abs(case.scores((0, 0, 96))["bicubic"]["psnr"] - wanted) < 1e-4
    assert f"{wanted:.2f}" in explorer.numbers.value


def test_the_wipe_shows_a_network_and_stays_when_a_method_is_added(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    assert explorer.controls.look.right == "toy/runet-x5"
    explorer.methods.add("mine", enlarge)
    assert explorer.controls.look.right == "toy/runet-x5"
    assert "mine" in explorer.controls.right.options
    explorer.controls.right.value = "mine"
    explorer.chooser.number.value = 1
    assert explorer.controls.look.right == "mine"  # the reader's choice


@pytest.mark.slow
def test_of_a_large_image_the_part_follows_the_region(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    picture = np.random.default_rng(0).random((700, 530), np.float32)
    explorer.methods.choose("bicubic")
    explorer.methods.begin(picture)
    first = explorer.methods.case
    assert explorer.controls.y.max == 700 - explorer.controls.side.value
    assert "512 x 512 px of 530 x 700 px" in explorer.numbers.value
    explorer.controls.place((300, 150, 100))
    mouse(explorer, (200, 350), (250, 400), (300, 690))
    (top, left, side), case = explorer.controls.look.box, explorer.methods.case
    assert top + side == 700 and case is not first and case.hr.shape == (512, 512)
    assert (case.hr == picture[188:, case.corner[1] :][:, :512]).all()
    explorer.controls.y.value = 0
    case = explorer.methods.case
    assert case.corner[0] == 0 and (case.hr[0] == picture[0, case.corner[1] :][:512]).all()
    explorer.methods.begin(picture[::-1].copy())  # another image of that size
    assert explorer.controls.look.box == (0, left, side)  # we look at the same place


@pytest.mark.slow
@without_loop
def test_an_image_is_enlarged_as_it_is(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    name = "toy/runet-x5"
    explorer.methods.choose("bicubic", name)
    before = explorer.controls.look
    explorer.methods.input.value = True
    case = explorer.methods.case
    look = explorer.controls.look
    assert case.hr is None and case.size == (482, 482)
    assert (look.left, look.right) == ("bicubic", name)
    assert "PSNR" not in explorer.numbers.value and "LR-consistency" in explorer.numbers.value
    assert list(panel_axes(explorer)) == ["input", "bicubic", name]
    shown = [ax for ax in explorer.canvases[1].figure.axes if ax.images]
    assert len(shown) == 3  # no errors
    same_place = np.divide(look.centre, 482), np.divide(before.centre, 95)
    assert np.allclose(*same_place, atol=0.02)
    network, _ = load_model(here / "runs" / name.replace("/", "/train/"))
    alike, _ = restore_slice(case.picture, (0, 1), network, case.task)  # what `ctsr upscale` does
    assert (alike == case.visible[name].image).all()
    explorer.methods.samples.value = 2
    explorer.methods.choose("bicubic", "toy/sr3-x5")
    draw_samples(explorer.methods)
    assert list(panel_axes(explorer))[-1] == "toy/sr3-x5, spread of 2 samples"


@pytest.mark.slow
def test_as_it_is_the_part_follows_the_region(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.choose("bicubic")
    explorer.methods.input.value = True
    explorer.methods.begin(np.random.default_rng(0).random((300, 200), np.float32))
    moved = explorer.methods.case
    assert moved.size == (1506, 1004) and moved.lr.shape[-2:] == (102, 102)
    for part in (explorer.controls.x, explorer.controls.y):
        part.value = part.max
        assert explorer.methods.case is not moved and pixels(explorer.canvases[0]).any()
        moved = explorer.methods.case
    assert (moved.lr[0, 0].numpy() == moved.picture[-102:, -102:]).all()


@pytest.mark.slow
@without_loop
def test_a_method_that_fails_is_named_and_the_others_stay(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    methods = explorer.methods
    methods.add("mine", lambda lr, task: 1 / 0)
    assert "mine: division by zero" in methods.said.value
    assert "toy/runet-x5" in methods.case.visible
    explorer.chooser.number.value = 1
    assert "toy/runet-x5" in methods.case.visible

    class Broken:
        draws = True

        def draw(self, lr, task, ids, k):
            raise ValueError("no samples today")

    methods.add("sampler", Broken())
    methods.choose("bicubic", "sampler")
    draw_samples(methods)
    assert "sampler: no samples today" in methods.said.value and not methods.drawing.value
    assert "bicubic" in methods.case.visible
    broken = here / "runs" / "toy" / "train" / "broken"
    broken.mkdir()
    for name in ("config.json", "weights.safetensors"):
        (broken / name).write_text("{")
    assert Explorer(here, tmp_path).methods.case.visible  # a damaged run is passed over
    shutil.rmtree(broken)


def test_choices_stay_from_image_to_image(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.choose("nearest")
    explorer.controls.x.value = 5
    explorer.controls.side.value = 30
    explorer.chooser.number.value = 3
    assert explorer.methods.ticked == ["nearest"]
    assert explorer.controls.look.box[1:] == (5, 30)


@pytest.mark.slow
@pytest.mark.parametrize("side", [256, 512])
def test_runet_answers_within_two_seconds(here, tmp_path, side):
    """The stored RUNet, from the choice of an image to the picture on the screen.

    Read, made small, restored, measured, drawn; in processor time, which other work does not
    lengthen. A processor without bf16 is older and may take twice as long.
    """
    limit = 2 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 4
    for file in FOLDER.glob("runet-x5.*"):
        shutil.copy(file, tmp_path)
    explorer = Explorer(here, tmp_path)
    explorer.methods.choose("bicubic", "runet-x5")
    seconds = []
    for n in range(3):
        path = grey_file(tmp_path / f"{n}.png", (side, side), n)
        begun = time.process_time()
        choose_file(explorer, path)
        assert pixels(explorer.canvases[0]).any() and pixels(explorer.canvases[1]).any()
        seconds.append(time.process_time() - begun)
    runet = explorer.methods.case.visible["runet-x5"].seconds
    print(f"{side} px: {np.median(seconds):.2f} s of processor; RUNet {runet:.2f} s on the clock")
    assert explorer.methods.case.hr.shape == (side, side) and np.median(seconds) < limit


@pytest.mark.slow
def test_files_of_ones_own(here, tmp_path, monkeypatch):
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    one = grey_file(tmp_path / "one.png", (120, 90))
    volume = (rng.random((3, 64, 80)) * 1500 - 1300).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / "ct.nii.gz"))
    explorer = Explorer(here, tmp_path)
    chooser = explorer.chooser
    explorer.methods.choose("bicubic")
    choose_file(explorer, one)
    assert explorer.methods.case.picture.shape == (120, 90) and chooser.number.max == 0
    choose_file(explorer, grey_file(tmp_path / "large.png", (700, 530)))
    assert max(explorer.methods.case.hr.shape) <= 512 and "530 x 700 px" in chooser.said.value
    choose_file(explorer, tmp_path / "ct.nii.gz")
    assert explorer.methods.case.picture.shape == (64, 80) and chooser.number.max == 2
    lung = explorer.methods.case.picture
    for window in ("-600, 1500", "lung"):
        chooser.window.value = window
        assert (explorer.methods.case.picture == lung).all()
    chooser.window.value = "40,400"
    assert (explorer.methods.case.picture != lung).any()
    for window in ("40", "40,-400", "3000,100"):  # unknown; of no width; shows nothing
        chooser.window.value = window
        assert "window" in chooser.said.value and "--" not in chooser.said.value
    chooser.window.value = ""
    monkeypatch.setenv("HOME", str(tmp_path))
    chooser.path.value = "~/one.png"
    assert explorer.methods.case.picture.shape == (120, 90) and "one.png" in chooser.said.value
    chooser.upload.value = (
        dict(
            name="up.png",
            type="image/png",
            size=1,
            content=memoryview((tmp_path / "one.png").read_bytes()),
            last_modified=datetime.now(),
        ),
    )
    assert explorer.methods.case.picture.shape == (120, 90) and "up.png" in chooser.said.value


@pytest.mark.slow
def test_of_a_file_that_cannot_be_shown_nothing_is_shown_but_why(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    chooser = explorer.chooser
    methods = explorer.methods
    methods.choose("bicubic", "toy/runet-x5")

    def lines():
        return [t.get_text().replace("\n", " ") for t in explorer.canvases[0].figure.texts]

    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("L", (20, 20)).save(tmp_path / "tiny.png")
    mask = np.random.default_rng(0).random((80, 80)) > 0.5
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    for name, size in (("good", (80, 80)), ("other", (90, 70))):
        grey_file(tmp_path / f"{name}.png", size)
    choose_file(explorer, tmp_path / "good.png")
    for bad, why, good in (
        ("bad.png", "is not an image", "good"),
        ("none.png", "does not exist", "other"),
        ("tiny.png", "20 px", "good"),
        ("mask.png", "label map", "good"),
    ):
        chooser.path.value = str(tmp_path / bad)
        assert why in chooser.said.value + methods.said.value
        assert any(why in line for line in lines())
        assert methods.case is None and not explorer.numbers.value
        assert not explorer.canvases[1].figure.axes and chooser.number.max == 0
        explorer.controls.x.value += 1
        explorer.controls.width.value += 10
        methods.choose("bilinear")
        methods.task.value = "x2"
        methods.task.value = "x5"
        chooser.path.value = str(tmp_path / f"{good}.png")
        assert good in chooser.said.value and not methods.said.value and not lines()
        assert methods.case.visible and explorer.numbers.value
        assert pixels(explorer.canvases[0]).any() and explorer.canvases[1].figure.axes
    chooser.path.value = str(tmp_path / "tiny.png")
    methods.input.value = True  # as it is, it can be shown
    assert methods.case.picture.shape == (20, 20) and not methods.said.value
    deep = grey_file(tmp_path / "deep.png", (80, 80), depth=np.uint16, highest=4095)
    for window in ("lung", ""):  # by the twelve bits that the picture uses
        chooser.path.value = ""
        chooser.window.value = window
        chooser.path.value = deep
        assert methods.case.picture.max() > 0.9


def dicom_slice(path, series, z, values):
    "Write one CT slice in HU."
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.Modality, ds.PatientID, ds.PatientName = "CT", "one", "one"
    ds.StudyInstanceUID = ds.SeriesInstanceUID = series
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 2.0 * z]
    ds.PixelSpacing, ds.SliceThickness, ds.InstanceNumber = [1, 1], 2, z + 1
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope = 0, 1
    ds.PixelData = values.astype("<i2").tobytes()
    ds.save_as(path, enforce_file_format=True)


def changes(look, before, page):
    "Wait until something looks otherwise than before."
    for _ in range(120):
        if look() != before:
            return True
        page.wait_for_timeout(500)
    return False


def test_slices_of_a_series_are_read_when_they_are_asked_for(tmp_path):
    from pydicom.uid import generate_uid

    series = generate_uid()
    rng = np.random.default_rng(0)
    for z in range(5):
        dicom_slice(tmp_path / f"{z}.dcm", series, z, rng.integers(-1000, 200, (64, 64)))
    whole = list(open_scan(tmp_path))
    images = file_images(tmp_path)
    assert len(images.names) == 5
    for z in (0, 1, 2, 4):
        (tmp_path / f"{z}.dcm").unlink()
    assert (images.read(3) == ((whole[3] + 1350) / 1500).clip(0, 1).astype(np.float32)).all()
    with pytest.raises(ValueError, match="1.dcm"):
        images.read(1)


def test_every_slice_of_a_volume_is_its_own(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 200, (64, 64, 5)).astype(np.int16)
    nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1])).to_filename(tmp_path / "a.nii")
    images = file_images(tmp_path / "a.nii", "lung")
    whole = np.moveaxis(values, 2, 0).swapaxes(1, 2).astype(np.float32)
    for z in range(5):
        assert np.allclose(images.read(z), ((whole[z] + 1350) / 1500).clip(0, 1), atol=1e-6)


# Nothing is to be installed, also under another make.
READY = ("--no-print-directory", "--assume-old=.venv/.ready")


def test_a_copy_of_ones_own_stays_and_an_older_one_is_named(root, tmp_path):
    (tmp_path / "nbs").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(root / "Makefile", tmp_path)
    jupyter = tmp_path / ".venv" / "bin" / "jupyter"
    source = tmp_path / "nbs" / "explore.ipynb"
    mine = tmp_path / "runs" / "explore.ipynb"
    jupyter.write_text("#!/bin/sh\n")
    jupyter.chmod(0o755)

    def said():
        return subprocess.run(
            ["make", *READY, "lab"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    source.write_text("old")
    assert not said() and mine.read_text() == "old"
    mine.write_text("mine")
    assert not said()
    source.write_text("new")
    assert (
        said().startswith("runs/explore.ipynb is a copy of an older") and mine.read_text() == "mine"
    )
    mine.rename(tmp_path / "runs" / "kept.ipynb")
    assert not said() and mine.read_text() == "new"


@contextmanager
def lab(root, here, folder):
    "`make lab` in a folder, without a window -> the address of its copy."
    (here / "nbs").mkdir(exist_ok=True)
    for name in ("Makefile", "nbs/explore.ipynb"):
        shutil.copy(root / name, here / name)
    if not (here / ".venv").exists():
        (here / ".venv").symlink_to(sys.prefix)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        ["make", *READY, "lab", f"ARGS=--no-browser --port={port} --IdentityProvider.token="],
        cwd=here,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")},
    )
    try:
        yield f"http://127.0.0.1:{port}/lab/tree/runs/explore.ipynb"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)  # a busy machine: what was asked has been seen


def run_all(page, address):
    "Open a notebook and run all its cells."
    for _ in range(120):
        try:
            page.goto(address)
            break
        except Exception:
            time.sleep(0.5)
    page.get_by_text("| Idle").wait_for(timeout=120_000)  # notebook and kernel are there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_selector(".jupyter-matplotlib-canvas-container canvas", timeout=120_000)
    # The method of the last cell is in the table.
    page.locator("th", has_text="lanczos").first.wait_for(timeout=120_000)
    page.wait_for_timeout(3000)


@pytest.mark.slow
@pytest.mark.browser
def test_in_jupyterlab_a_widget_changes_the_picture(root, here, browser, tmp_path):
    page = browser.new_page(viewport=dict(width=1280, height=720))
    canvas = ".jupyter-matplotlib-canvas-container canvas"
    try:
        with lab(root, here, tmp_path) as address:
            run_all(page, address)
            assert not page.locator(".Toastify__toast").count(), "a message lies over the explorer"
            output = page.locator(".jp-OutputArea-output", has=page.locator(".widget-slider"))
            inside = output.bounding_box()
            kinds = (
                ".widget-slider, .widget-dropdown select, .widget-checkbox, .widget-toggle-button"
            )
            parts = page.locator(f"{canvas}, {kinds}").all()
            boxes = [box for part in parts if (box := part.bounding_box())]
            assert len(boxes) > 12, "some widgets are missing"
            widest = max(box["x"] + box["width"] for box in boxes)
            assert widest <= inside["x"] + inside["width"], "cut off next to the file browser"

            def first_figure():
                script = f"document.querySelectorAll('{canvas}')[0].toDataURL()"
                return page.evaluate(script)

            before = first_figure()
            handle = page.locator(".widget-slider", has_text="Wipe").locator(".noUi-handle")
            handle.focus()
            for _ in range(10):
                page.keyboard.press("ArrowRight")
            assert len(before) > 5000 and changes(first_figure, before, page)

            page.get_by_role("button", name="Draw samples").click()
            page.locator("th", has_text="one sample").first.wait_for(timeout=120_000)
            page.get_by_role("button", name="Stop").click()
            page.get_by_role("button", name="Draw samples").wait_for(timeout=120_000)
            stderr = "data-mime-type='application/vnd.jupyter.stderr'"
            assert not page.locator(f".jp-OutputArea-output[{stderr}]").count()

            page.locator(".jp-CodeCell .cm-content").first.click()  # as the notebook says to begin
            prompt = page.locator(".jp-CodeCell .jp-InputArea-prompt").first
            old = prompt.text_content()
            page.keyboard.press("Control+Enter")
            assert changes(prompt.text_content, old, page)
            assert changes(prompt.text_content, "[*]:", page)
            page.wait_for_timeout(2000)
            images = page.locator(".widget-dropdown select").first.bounding_box()
            assert 0 < images["y"] < 720 - images["height"], "out of view"
            figure = page.locator(canvas).first.bounding_box()
            assert 0 < figure["y"] < 450, "the first figure is below the fold"
    finally:
        page.screenshot(path=tmp_path / "explore.png")
        page.close()
