"The explorer: by hand in Python, and in JupyterLab in a browser."

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

import numpy as np
import pytest
from matplotlib.backend_bases import MouseEvent
from PIL import Image

from ctsr.apps.explore import FILE, Explorer, Scene, file_images
from ctsr.apps.upscale import open_scan, upscale
from ctsr.data.degrade import upsample
from ctsr.evaluation.pretrained import FOLDER


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder as a checkout is after a study of the phantom: prepared images, and two small networks."
    from ctsr.data.prepare import prepare
    from ctsr.training.loop import train
    from ctsr.training.settings import TrainConfig

    folder = tmp_path_factory.mktemp("here")
    data = prepare(
        "phantom", folder / "runs" / "toy" / "prepare", hr=96, phantom=dict(subjects=10, slices=2)
    )
    short = dict(
        task=dict(name="x5", hr=96, lr=19), crop=32, batch_size=2, steps=2, validate_every=2
    )
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
    "Stored weights as the package has them: its own RUNets, and a small SR3 whose sampling was chosen."
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
        sampling=dict(sampler="ddim", steps=3, k=3, project=2),
    )
    card = json.loads((folder / "sr3-x5.json").read_text())
    (folder / "sr3-x5.json").write_text(
        json.dumps(card | dict(task=card["task"] | dict(hr=256, lr=51)))
    )
    return folder


def without_loop(test):
    "In a thread of its own: a browser of other tests may keep a loop running in this one."

    @wraps(test)
    def run(*args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(test, *args, **kwargs).result()

    return run


def pixels(canvas):
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def test_what_is_at_hand_is_offered(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    assert explorer.chooser.source.value == "toy: phantom-96-crop"
    assert explorer.methods.chosen.options == (
        "bilinear",
        "bicubic",
        "nearest",
        "toy/runet-x5",
        "toy/sr3-x5",
    )
    assert explorer.methods.chosen.value == ("bicubic", "toy/runet-x5", "toy/sr3-x5")
    explorer.methods.task.value = "x2"
    assert explorer.methods.chosen.options == (
        "bilinear",
        "bicubic",
        "nearest",
    )  # the networks are for another factor


@without_loop
def test_stored_weights_are_sampled_as_was_chosen_for_them(here, stored):
    async def play():
        explorer = Explorer(here, stored)
        methods, samples, seen = explorer.methods, explorer.methods.samples, []
        assert methods.chosen.options == (
            "bilinear",
            "bicubic",
            "nearest",
            "runet-x5",
            "sr3-x5",
            "runet-x5-as-coded",
            "toy/runet-x5",
            "toy/sr3-x5",
        )
        assert methods.chosen.rows == 8 and methods.chosen.value == (
            "bicubic",
            "runet-x5",
            "sr3-x5",
        )
        assert (samples.steps.value, samples.samples.value) == (
            3,
            3,
        ) and samples.origin.value == "steps and samples as chosen on validation images"
        assert list(methods.case.visible) == [
            "bicubic",
            "runet-x5",
        ]  # of a single pass: there before the first sample
        methods.observe(lambda _: seen.append(list(methods.case.visible)[2:]), "news")
        await samples.finished
        assert seen[0] == ["sr3-x5, one sample"] and seen[-1] == [
            "sr3-x5, one sample",
            "sr3-x5, mean of 3",
        ]
        methods.chosen.value = "bicubic", "toy/sr3-x5"
        assert (samples.steps.value, samples.samples.value, samples.origin.value) == (
            5,
            4,
            "",
        )  # nothing was chosen for these
        methods.chosen.value = "bicubic", "sr3-x5"
        samples.steps.value = 2  # from now on what the reader says
        assert (
            samples.samples.value == 3
            and samples.origin.value == "samples as chosen on validation images"
        )
        explorer.chooser.number.value = 1
        assert [key for key in methods.case.shown if key[1]] == [("sr3-x5", (3, 2))]
        samples.steps.value = samples.samples.value = 32  # for minutes
        drawing = samples.finished
        for _ in range(200):
            if not samples.bar.value:
                await asyncio.sleep(0.05)
        assert samples.bar.value, methods.said.value  # it ticks while the first sample is drawn
        explorer.chooser.number.value = 2
        await asyncio.wait_for(drawing, 20)
        assert samples.bar.max == 32 * 32 * 1 and samples.ticket
        samples.give_up()

    asyncio.run(play())


@without_loop
def test_samples_are_those_of_upscale(here, stored, tmp_path):
    Image.fromarray((np.random.default_rng(0).random((64, 60)) * 255).astype(np.uint8)).save(
        tmp_path / "one.png"
    )
    explorer = Explorer(here, stored)
    explorer.methods.chosen.value = ("bicubic",)
    explorer.methods.input.value = True
    explorer.chooser.source.value = FILE
    explorer.chooser.path.value = str(tmp_path / "one.png")
    explorer.methods.chosen.value = "bicubic", "sr3-x5"
    shown = explorer.methods.case.visible
    for samples, title in ((1, "one sample"), (3, "mean of 3")):
        (row,) = upscale(
            [tmp_path / "one.png"],
            tmp_path / f"{samples}.png",
            "sr3-x5",
            samples=samples,
            uncertainty=samples > 1,
            folder=stored,
        )
        assert (
            np.asarray(Image.open(row["out"])) == (shown[f"sr3-x5, {title}"].image * 255).round()
        ).all()  # four tiles
    deviation = np.asarray(Image.open(row["aside"])) / 65535
    assert (
        deviation.max() > 0.01
        and np.abs(deviation - shown["sr3-x5, mean of 3"].spread).max() < 1e-5
    )
    explorer.methods.chosen.value = "bicubic", "runet-x5"
    (row,) = upscale([tmp_path / "one.png"], tmp_path / "runet.png", "runet-x5", folder=stored)
    assert (
        np.asarray(Image.open(row["out"]))
        == (explorer.methods.case.visible["runet-x5"].image * 255).round()
    ).all()


def test_every_control_changes_the_picture(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "bicubic", "toy/runet-x5"
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


def test_panels_stay_large_and_figures_are_as_wide_as_asked(here, tmp_path):
    explorer = Explorer(here, tmp_path, width=700)
    upper, lower = (c.figure for c in explorer.canvases)

    def side():
        return min(ax.get_window_extent().width for ax in explorer.views[1].axes.values())

    def empty():
        return min(ax.get_position().y0 for ax in lower.axes)

    explorer.methods.chosen.value = "bilinear", "bicubic", "nearest", "toy/runet-x5"
    low = lower.get_figheight()
    assert side() > 100 and empty() < 0.02
    for n in (1, 2):
        explorer.methods.add(
            f"mine {n}", lambda lr, task: upsample(lr, task.hr_size(*lr.shape[-2:]))
        )
    assert (
        side() > 150 and empty() < 0.02 and lower.get_figheight() > 2 * low
    )  # six methods, in two lines
    explorer.controls.width.value = 1200
    assert [f.get_figwidth() * 80 for f in (upper, lower)] == [1200, 1200] and side() > 270


@without_loop
def test_every_line_of_panels_begins_with_the_original(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.samples.samples.value = 2
    panels = explorer.views[1]
    case = explorer.methods.case

    def lines():
        tops = {round(ax.get_position().y0, 4): [] for ax in panels.axes.values()}
        for ax in (*panels.starts, *(ax for ax in panels.axes.values() if ax not in panels.starts)):
            tops[round(ax.get_position().y0, 4)].append(ax)
        return [*tops.values()]

    assert (
        [len(line) for line in lines()] == [6]
    )  # as it begins: bicubic, RUNet, and of SR3 a sample, the mean and the spread, beside the original
    explorer.methods.chosen.value = "bilinear", "bicubic", "nearest", "toy/runet-x5", "toy/sr3-x5"
    assert [len(line) for line in lines()] == [5, 4]
    for start, *_ in lines():
        assert (
            (start.images[0].get_array() == case.hr).all()
            and start.get_title() == "original\nbelow: input"
            and start.get_position().x0 < 0.01
        )
        below = next(
            ax
            for ax in start.figure.axes
            if ax.images
            and (ax.images[0].get_array() == case.input).all()
            and 0 < start.get_position().y0 - ax.get_position().y1 < 0.02
        )
        assert below.get_position().x0 == start.get_position().x0
    explorer.controls.place((20, 30, 40))
    assert {ax.get_xlim() for ax in explorer.canvases[1].figure.axes if ax.images} == {(29.5, 69.5)}


@without_loop
def test_what_samples_differ_by_has_a_scale_of_its_own(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "bicubic", "toy/sr3-x5"
    panels = explorer.views[1]
    shown = explorer.methods.case.visible
    limits = {kind: bar.vmax for kind, bar in panels.bars.items()}
    (spread,) = (a.spread for a in shown.values() if a.spread is not None)
    assert (
        limits["spread"] == pytest.approx(max(0.004, np.percentile(spread, 99.5)))
        and limits["error"] != limits["spread"]
    )
    assert panels.axes["toy/sr3-x5\nspread of 4 samples"].images[0].get_clim() == (
        0,
        limits["spread"],
    )
    said = [text.get_text() for bar in panels.bars.values() for text in bar.ax.texts]
    assert said == [
        "error, grey levels   0",
        f"{limits['error'] * 255:.0f}",
        "spread, grey levels   0",
        f"{limits['spread'] * 255:.0f}",
    ]


def test_names_of_curves_lie_beside_them(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    for n in (1, 2, 3):
        explorer.methods.add(
            f"mine {n}", lambda lr, task: upsample(lr, task.hr_size(*lr.shape[-2:]))
        )
    for width in (480, 830, 1400):
        explorer.controls.width.value = width
        pixels(explorer.canvases[0])
        plot = explorer.views[0].plot
        names = plot.get_legend().get_window_extent()
        axes = plot.get_window_extent()
        assert (
            names.y0 >= axes.y1
            and names.y1 <= plot.figure.bbox.y1
            and names.x0 > explorer.views[0].wiped.get_window_extent().x1
        ), width
        assert axes.height > 60


def test_a_figure_is_not_drawn_while_it_is_being_changed(here, tmp_path, monkeypatch):
    "JupyterLab answers widgets in a thread of their own."
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
    ax = explorer.views[0].whole
    for n, (kind, place) in enumerate(
        [("press", places[0]), *(("move", p) for p in places), ("release", places[-1])]
    ):
        event = MouseEvent(
            {
                "press": "button_press_event",
                "move": "motion_notify_event",
                "release": "button_release_event",
            }[kind],
            canvas,
            *ax.transData.transform(place),
            button=1,
        )
        canvas.callbacks.process(event.name, event)


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
    assert (
        max(top, left) + side <= 95
        and side >= 16
        and drawn() == (left, left + side, top, top + side)
    )  # 96 px are cut to 95 for x5


def test_numbers_are_those_of_the_study(here, tmp_path):
    from skimage.metrics import peak_signal_noise_ratio

    explorer = Explorer(here, tmp_path)
    case = explorer.methods.case
    wanted = peak_signal_noise_ratio(case.hr, case.visible["bicubic"].image, data_range=1)
    assert (
        abs(case.scores((0, 0, 96))["bicubic"]["psnr"] - wanted) < 1e-4
        and f"{wanted:.2f}" in explorer.numbers.value
    )


@without_loop
def test_samples_come_later_and_are_given_up_when_nobody_waits(here, tmp_path):
    async def play():
        explorer = Explorer(here, tmp_path)
        methods = explorer.methods
        name = "toy/sr3-x5"
        methods.chosen.value = "bicubic", name
        assert list(methods.case.visible) == ["bicubic"]
        drawing = methods.samples.finished
        methods.chosen.value = "bilinear", "bicubic", name  # what is being drawn goes on
        assert methods.samples.finished is drawing
        await drawing
        assert list(methods.case.visible) == [
            "bilinear",
            "bicubic",
            f"{name}, one sample",
            f"{name}, mean of 4",
        ]
        assert (
            methods.case.visible[f"{name}, mean of 4"].spread is not None
            and methods.samples.bar.value == methods.samples.bar.max == 5 * 4 * 4
        )  # tiles
        explorer.controls.left.value = f"{name}, one sample"
        methods.samples.samples.value = 1  # drawn anew
        await methods.samples.finished
        assert list(methods.case.visible)[-1] == f"{name}, one sample"
        assert explorer.controls.left.value == f"{name}, one sample"  # a wish that comes back
        methods.samples.steps.value = 50
        given_up = methods.case
        explorer.chooser.number.value = 2
        await methods.samples.finished
        assert (name, (1, 50)) in methods.case.answers and (name, (1, 50)) not in given_up.answers

    asyncio.run(play())


def test_the_wipe_shows_a_network_and_stays_when_a_method_is_added(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    assert explorer.controls.look.right == "toy/runet-x5"
    explorer.methods.add("mine", lambda lr, task: upsample(lr, task.hr_size(*lr.shape[-2:])))
    assert (
        explorer.controls.look.right == "toy/runet-x5" and "mine" in explorer.controls.right.options
    )
    explorer.controls.right.value = "mine"
    explorer.chooser.number.value = 1
    assert explorer.controls.look.right == "mine"  # a wish


def test_of_a_large_image_the_part_follows_the_region(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    picture = np.random.default_rng(0).random((700, 530), np.float32)
    explorer.methods.chosen.value = ("bicubic",)
    explorer.chooser.image = picture
    first = explorer.methods.case
    assert (
        explorer.controls.y.max == 700 - explorer.controls.side.value
        and "512 x 512 px of 530 x 700 px" in explorer.numbers.value
    )
    explorer.controls.place((300, 150, 100))
    mouse(explorer, (200, 350), (250, 400), (300, 690))
    (top, left, side), case = explorer.controls.look.box, explorer.methods.case
    assert (
        top + side == 700
        and case is not first
        and case.hr.shape == (512, 512)
        and (case.hr == picture[188:, case.corner[1] :][:, :512]).all()
    )
    explorer.controls.y.value = 0
    assert (
        explorer.methods.case.corner[0] == 0
        and (explorer.methods.case.hr[0] == picture[0, case.corner[1] :][:512]).all()
    )
    explorer.chooser.image = picture[::-1].copy()
    assert explorer.controls.look.box == (
        0,
        left,
        side,
    )  # another image of that size: one looks at the same place


@without_loop
def test_an_image_is_enlarged_as_it_is(here, tmp_path):
    from ctsr.apps.upscale import load_model, restore_slice

    explorer = Explorer(here, tmp_path)
    name = "toy/runet-x5"
    explorer.methods.chosen.value = "bicubic", name
    before = explorer.controls.look
    explorer.methods.input.value = True
    case = explorer.methods.case
    look = explorer.controls.look
    assert (
        case.hr is None and case.size == (482, 482) and (look.left, look.right) == ("bicubic", name)
    )
    assert "PSNR" not in explorer.numbers.value and "LR-consistency" in explorer.numbers.value
    assert (
        list(explorer.views[1].axes) == ["input", "bicubic", name]
        and len(explorer.canvases[1].figure.axes) == 3
        and not explorer.views[1].bars
    )  # no errors
    assert np.allclose(
        np.divide(look.centre, 482), np.divide(before.centre, 95), atol=0.02
    )  # the same place
    network, _ = load_model(here / "runs" / name.replace("/", "/train/"))
    explorer.methods.samples.samples.value = 2
    explorer.methods.chosen.value = "bicubic", "toy/sr3-x5"
    assert list(explorer.views[1].axes)[-1] == "toy/sr3-x5\nspread of 2 samples" and list(
        explorer.views[1].bars
    ) == ["spread"]
    explorer.methods.chosen.value = "bicubic", name
    alike, _ = restore_slice(case.picture, (0, 1), network, case.task)  # what `ctsr upscale` does
    assert (alike == case.visible[name].image).all()
    explorer.chooser.image = np.random.default_rng(0).random((300, 200), np.float32)
    controls = explorer.controls
    moved = explorer.methods.case
    assert moved.size == (1506, 1004) and moved.lr.shape[-2:] == (102, 102)
    for part in (controls.x, controls.y):
        part.value = part.max
        assert explorer.methods.case is not moved and pixels(explorer.canvases[0]).any()
        moved = explorer.methods.case
    assert (moved.lr[0, 0].numpy() == moved.picture[-102:, -102:]).all()


def test_a_method_that_fails_is_named_and_the_others_stay(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.add("mine", lambda lr, task: 1 / 0)
    assert (
        "mine: division by zero" in explorer.methods.said.value
        and "toy/runet-x5" in explorer.methods.case.visible
    )
    explorer.chooser.number.value = 1
    assert "toy/runet-x5" in explorer.methods.case.visible
    (here / "runs" / "toy" / "train" / "broken").mkdir()
    for name in ("config.json", "weights.safetensors"):
        (here / "runs" / "toy" / "train" / "broken" / name).write_text("{")
    assert Explorer(here, tmp_path).methods.case.visible  # a damaged run is passed over


def test_choices_stay_from_image_to_image(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = ("nearest",)
    explorer.controls.x.value = 5
    explorer.controls.side.value = 30
    explorer.chooser.number.value = 3
    assert explorer.methods.chosen.value == ("nearest",) and explorer.controls.look.box[1:] == (
        5,
        30,
    )


@pytest.mark.parametrize("side", [256, 512])
def test_runet_answers_within_two_seconds(here, tmp_path, side):
    "The stored RUNet, from the choice of an image to the picture on the screen: read, made small, restored, measured, drawn; in processor time, which other work does not lengthen."
    for file in FOLDER.glob("runet-x5.*"):
        shutil.copy(file, tmp_path)
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "bicubic", "runet-x5"
    explorer.chooser.source.value = FILE
    seconds = []
    for n in range(5):
        Image.fromarray(
            (np.random.default_rng(n).random((side, side)) * 255).astype(np.uint8)
        ).save(tmp_path / f"{n}.png")
        begun = time.process_time()
        explorer.chooser.path.value = str(tmp_path / f"{n}.png")
        assert pixels(explorer.canvases[0]).any() and pixels(explorer.canvases[1]).any()
        seconds.append(time.process_time() - begun)
    print(
        f"{side} px: {np.median(seconds):.2f} s of processor time; RUNet {explorer.methods.case.visible['runet-x5'].seconds:.2f} s on the clock"
    )
    assert explorer.methods.case.hr.shape == (side, side) and np.median(seconds) < 2


def test_files_of_ones_own(here, tmp_path, monkeypatch):
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    Image.fromarray((rng.random((120, 90)) * 255).astype(np.uint8)).save(tmp_path / "one.png")
    sitk.WriteImage(
        sitk.GetImageFromArray((rng.random((3, 64, 80)) * 1500 - 1300).astype(np.int16)),
        str(tmp_path / "ct.nii.gz"),
    )
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = ("bicubic",)
    explorer.chooser.source.value = FILE
    explorer.chooser.path.value = str(tmp_path / "one.png")
    assert explorer.methods.case.picture.shape == (120, 90) and explorer.chooser.number.max == 0
    Image.fromarray((rng.random((700, 530)) * 255).astype(np.uint8)).save(tmp_path / "large.png")
    explorer.chooser.path.value = str(tmp_path / "large.png")
    assert (
        max(explorer.methods.case.hr.shape) <= 512 and "530 x 700 px" in explorer.chooser.said.value
    )
    explorer.chooser.path.value = str(tmp_path / "ct.nii.gz")
    assert explorer.methods.case.picture.shape == (64, 80) and explorer.chooser.number.max == 2
    lung = explorer.methods.case.picture
    chooser = explorer.chooser
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
    explorer.chooser.upload.value = (
        dict(
            name="up.png",
            type="image/png",
            size=1,
            content=memoryview((tmp_path / "one.png").read_bytes()),
            last_modified=datetime.now(),
        ),
    )
    assert explorer.methods.case.picture.shape == (120, 90)


def test_of_a_file_that_cannot_be_shown_nothing_is_shown_but_why(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    rng = np.random.default_rng(0)
    explorer.methods.chosen.value = "bicubic", "toy/runet-x5"
    chooser = explorer.chooser
    methods = explorer.methods
    lines = lambda: [t.get_text().replace("\n", " ") for t in explorer.canvases[0].figure.texts]
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("L", (20, 20)).save(tmp_path / "tiny.png")
    Image.fromarray(((rng.random((80, 80)) > 0.5) * 255).astype(np.uint8)).save(
        tmp_path / "mask.png"
    )
    for name, size in (("good", (80, 80)), ("other", (90, 70))):
        Image.fromarray((rng.random(size) * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    chooser.source.value = FILE
    chooser.path.value = str(tmp_path / "good.png")
    for bad, why in (
        ("bad.png", "cannot be read"),
        ("none.png", "does not exist"),
        ("tiny.png", "20 px"),
        ("mask.png", "label map"),
    ):
        chooser.path.value = str(tmp_path / bad)
        assert why in chooser.said.value + methods.said.value and any(
            why in line for line in lines()
        )
        assert (
            methods.case is None
            and not explorer.numbers.value
            and not explorer.canvases[1].figure.axes
        )
        assert chooser.number.max == 0
        explorer.controls.x.value += 1
        explorer.controls.width.value += 10
        methods.chosen.value = ("bilinear",)
        methods.task.value = "x2"
        methods.task.value = "x5"
        good = ("good", "other")[methods.case is None and bad == "none.png"]
        chooser.path.value = str(tmp_path / f"{good}.png")
        assert (
            good in chooser.said.value
            and not methods.said.value
            and not lines()
            and methods.case.visible
            and explorer.numbers.value
        )
        assert pixels(explorer.canvases[0]).any() and explorer.canvases[1].figure.axes
    chooser.path.value = str(tmp_path / "tiny.png")
    methods.input.value = True  # as it is, it can be shown
    assert methods.case.picture.shape == (20, 20) and not methods.said.value
    Image.fromarray((rng.random((80, 80)) * 4095).astype(np.uint16)).save(
        tmp_path / "deep.png"
    )  # by the twelve bits it uses
    for chooser.window.value in ("lung", ""):
        chooser.path.value = ""
        chooser.path.value = str(tmp_path / "deep.png")
        assert methods.case.picture.max() > 0.9


READY = (
    "--no-print-directory",
    "--assume-old=.venv/.ready",
)  # nothing is to be installed, also under another make


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
    page.get_by_text("lanczos").last.wait_for(
        timeout=120_000
    )  # the last cell's method is in the table
    page.wait_for_timeout(3000)


def test_slices_of_a_series_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    import importlib

    import pydicom
    from pydicom.data import get_testdata_file

    from ctsr.apps.upscale import write_slice

    rng = np.random.default_rng(0)
    ds = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    ds.PixelSpacing = [1, 1]
    for z in range(5):
        ds.ImagePositionPatient = [0, 0, 2 * z]
        ds.SOPInstanceUID = f"1.2.{z}"
        write_slice(rng.integers(-1000, 200, (64, 64)), tmp_path / f"{z}.dcm", ds)
    whole = list(open_scan(tmp_path))
    module = importlib.import_module("ctsr.apps.upscale")
    decode = module.hounsfield
    asked = []
    monkeypatch.setattr(module, "hounsfield", lambda ds: asked.append(ds.filename) or decode(ds))
    images = file_images(tmp_path)
    assert not asked and len(images.names) == 5
    shown = ((whole[3] + 1350) / 1500).clip(0, 1).astype(np.float32)
    assert (images.read(3) == shown).all() and asked == [str(tmp_path / "3.dcm")]


def test_in_jupyterlab_a_widget_changes_the_picture(root, here, browser, tmp_path):
    page = browser.new_page(viewport=dict(width=1280, height=720))
    try:
        with lab(root, here, tmp_path) as address:
            run_all(page, address)
            assert not page.locator(".Toastify__toast").count(), "a message lies over the explorer"
            inside = page.locator(
                ".jp-OutputArea-output", has=page.locator(".widget-slider")
            ).bounding_box()
            parts = page.locator(
                ".jupyter-matplotlib-canvas-container canvas, .widget-slider, .widget-dropdown select, .widget-select-multiple select"
            )
            edges = [
                box["x"] + box["width"]
                for box in (part.bounding_box() for part in parts.all())
                if box
            ]
            assert len(edges) > 12 and max(edges) <= inside["x"] + inside["width"], (
                "cut off on a laptop with the file browser open"
            )

            def look():
                return page.evaluate(
                    "document.querySelectorAll('.jupyter-matplotlib-canvas-container canvas')[0].toDataURL()"
                )

            before = look()
            handle = page.locator(".widget-slider", has_text="Wipe").locator(".noUi-handle")
            handle.focus()
            for _ in range(10):
                page.keyboard.press("ArrowRight")
            for _ in range(60):
                if look() != before:
                    break
                page.wait_for_timeout(500)
            assert len(before) > 5000 and look() != before
            assert not page.locator(
                ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
            ).count()
            page.locator(
                ".jp-CodeCell .cm-content"
            ).first.click()  # as the notebook says how to begin
            old = page.locator(".jp-CodeCell .jp-InputArea-prompt").first.text_content()
            page.keyboard.press("Control+Enter")
            for _ in range(60):
                if (
                    now := page.locator(".jp-CodeCell .jp-InputArea-prompt").first.text_content()
                ) not in (old, "[*]:"):
                    break
                page.wait_for_timeout(500)
            page.wait_for_timeout(2000)
            images = page.locator(".widget-dropdown select").first.bounding_box()
            assert now not in (old, "[*]:") and 0 < images["y"] < 720 - images["height"], (
                "out of view"
            )
    finally:
        page.screenshot(path=tmp_path / "explore.png")
        page.close()
