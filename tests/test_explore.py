"The explorer: by hand in Python, and in JupyterLab in a browser."
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np
import pytest
from matplotlib.backend_bases import MouseEvent
from PIL import Image

from ctsr.explore import FILE, Explorer


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder as a checkout is after a study of the phantom: prepared images, and two small networks."
    from ctsr.data import prepare
    from ctsr.train import TrainConfig, train
    folder = tmp_path_factory.mktemp("here")
    data = prepare("phantom", folder/"runs"/"toy"/"prepare", hr=96, phantom=dict(subjects=10, slices=2))
    short = dict(task=dict(name="x5", hr=96, lr=19), crop=32, batch_size=2, steps=2, validate_every=2)
    small = dict(name="sr3", channels=8, multipliers=[1, 2])
    runs = folder/"runs"/"toy"/"train"
    train(TrainConfig(**short, model=dict(name="runet", width=.25, residual=True)), data, runs/"runet-x5", progress=False)
    train(TrainConfig(**short, model=small, up="bicubic", loss=dict(l2=1.), mean=.5, std=.5), data, runs/"sr3-x5", progress=False)
    return folder


def pixels(canvas):
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def test_what_is_at_hand_is_offered(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    assert explorer.chooser.source.value == "toy: phantom-96-crop"
    assert explorer.methods.chosen.options == ("bilinear", "bicubic", "nearest", "toy/runet-x5", "toy/sr3-x5")
    assert explorer.methods.chosen.value == ("bicubic", "toy/runet-x5", "toy/sr3-x5")
    explorer.methods.task.value = "x2"
    assert explorer.methods.chosen.options == ("bilinear", "bicubic", "nearest")  # the networks are for another factor


def test_every_control_changes_the_picture(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "bicubic", "toy/runet-x5"
    controls, (upper, lower) = explorer.controls, explorer.canvases
    for part, value in ((controls.wipe, 20), (controls.row, 80), (controls.x, 3), (controls.y, 5), (controls.side, 24),
                        (controls.left, "original"), (controls.right, "bicubic"), (explorer.chooser.number, 2), (explorer.methods.task, "x2")):
        before, part.value = pixels(upper), value
        assert (pixels(upper) != before).any(), part.description
    before, controls.side.value = pixels(lower), 60
    assert (pixels(lower) != before).any()


def mouse(explorer, *places):
    "Press at the first place, move, let go at the last; in pixels of the image."
    canvas, ax = explorer.canvases[0], explorer.views[0].whole
    for n, (kind, place) in enumerate([("press", places[0]), *(("move", p) for p in places), ("release", places[-1])]):
        event = MouseEvent({"press": "button_press_event", "move": "motion_notify_event", "release": "button_release_event"}[kind], canvas,
                           *ax.transData.transform(place), button=1)
        canvas.callbacks.process(event.name, event)


def test_dragging_and_sliders_say_the_same(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    controls, selector = explorer.controls, explorer.views[0].selector
    drawn = lambda: tuple(edge + .5 for edge in selector.extents)  # left, right, top, bottom: around the pixels
    controls.place((20, 10, 40))
    mouse(explorer, (30, 40), (36, 45), (42, 50))  # the square by its inside: 12 to the right, 10 down
    assert controls.look.box == (30, 22, 40) == (controls.y.value, controls.x.value, controls.side.value)
    controls.x.value = 33
    assert drawn() == (33, 73, 30, 70)
    mouse(explorer, (2, 2))  # a click outside
    assert selector.get_visible() and drawn() == (33, 73, 30, 70) and controls.look.box == (30, 33, 40)
    mouse(explorer, (50, 50), (90, 90))  # beyond the image
    top, left, side = controls.look.box
    assert max(top, left) + side <= 95 and side >= 16 and drawn() == (left, left + side, top, top + side)  # 96 px are cut to 95 for x5


def test_numbers_are_those_of_the_study(here, tmp_path):
    from skimage.metrics import peak_signal_noise_ratio
    explorer = Explorer(here, tmp_path)
    case = explorer.methods.case
    wanted = peak_signal_noise_ratio(case.hr, case.visible["bicubic"].image, data_range=1)
    assert abs(case.scores((0, 0, 96))["bicubic"]["psnr"] - wanted) < 1e-4 and f"{wanted:.2f}" in explorer.numbers.value


def test_samples_come_later_and_are_given_up_when_nobody_waits(here, tmp_path):
    async def play():
        explorer = Explorer(here, tmp_path)
        methods, name = explorer.methods, "toy/sr3-x5"
        methods.chosen.value = "bicubic", name
        assert list(methods.case.visible) == ["bicubic"]
        drawing = methods.samples.finished
        methods.chosen.value = "bilinear", "bicubic", name  # what is being drawn goes on
        assert methods.samples.finished is drawing
        await drawing
        assert list(methods.case.visible) == ["bilinear", "bicubic", f"{name}, one sample", f"{name}, mean of 4"]
        assert methods.case.visible[f"{name}, mean of 4"].spread is not None and methods.samples.bar.value == methods.samples.bar.max == 20
        explorer.controls.left.value = f"{name}, one sample"
        methods.samples.samples.value = 1  # drawn anew
        await methods.samples.finished
        assert list(methods.case.visible)[-1] == f"{name}, one sample"
        assert explorer.controls.left.value == f"{name}, one sample"  # a wish that comes back
        methods.samples.steps.value, given_up = 50, methods.case
        explorer.chooser.number.value = 2
        await methods.samples.finished
        assert (name, (1, 50)) in methods.case.answers and (name, (1, 50)) not in given_up.answers
    with ThreadPoolExecutor(1) as pool: pool.submit(asyncio.run, play()).result()  # a browser of other tests may keep a loop in this thread


def test_a_method_that_fails_is_named_and_the_others_stay(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.add("mine", lambda lr, task: 1 / 0)
    assert "mine: division by zero" in explorer.methods.said.value and "toy/runet-x5" in explorer.methods.case.visible
    explorer.chooser.number.value = 1
    assert "toy/runet-x5" in explorer.methods.case.visible
    (here/"runs"/"toy"/"train"/"broken").mkdir()
    for name in ("config.json", "weights.safetensors"): (here/"runs"/"toy"/"train"/"broken"/name).write_text("{")
    assert Explorer(here, tmp_path).methods.case.visible  # a damaged run is passed over


def test_choices_stay_from_image_to_image(here, tmp_path):
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "nearest",
    explorer.controls.x.value, explorer.controls.side.value = 5, 30
    explorer.chooser.number.value = 3
    assert explorer.methods.chosen.value == ("nearest",) and explorer.controls.look.box[1:] == (5, 30)


@pytest.mark.parametrize("side", [256, 512])
def test_runet_answers_within_two_seconds(here, tmp_path, side):
    "From the choice of an image to the picture on the screen: read, made small, restored, measured, drawn; in processor time, which other work does not lengthen."
    explorer = Explorer(here, tmp_path)
    explorer.methods.chosen.value = "bicubic", "toy/runet-x5"
    explorer.chooser.source.value, seconds = FILE, []
    for n in range(3):
        Image.fromarray((np.random.default_rng(n).random((side, side)) * 255).astype(np.uint8)).save(tmp_path/f"{n}.png")
        begun = time.process_time()
        explorer.chooser.path.value = str(tmp_path/f"{n}.png")
        assert pixels(explorer.canvases[0]).any() and pixels(explorer.canvases[1]).any()
        seconds.append(time.process_time() - begun)
    print(f"{side} px: {min(seconds):.2f} s of processor time; RUNet {explorer.methods.case.visible['toy/runet-x5'].seconds:.2f} s on the clock")
    assert explorer.methods.case.hr.shape == (side, side) and min(seconds) < 2


def test_files_of_ones_own(here, tmp_path):
    import SimpleITK as sitk
    rng = np.random.default_rng(0)
    Image.fromarray((rng.random((120, 90)) * 255).astype(np.uint8)).save(tmp_path/"one.png")
    sitk.WriteImage(sitk.GetImageFromArray((rng.random((3, 64, 80)) * 1500 - 1300).astype(np.int16)), str(tmp_path/"ct.nii.gz"))
    explorer = Explorer(here, tmp_path)
    explorer.chooser.source.value = FILE
    explorer.chooser.path.value = str(tmp_path/"one.png")
    assert explorer.methods.case.picture.shape == (120, 90) and explorer.chooser.number.max == 0
    Image.fromarray((rng.random((700, 530)) * 255).astype(np.uint8)).save(tmp_path/"large.png")
    explorer.chooser.path.value = str(tmp_path/"large.png")
    assert max(explorer.methods.case.hr.shape) <= 512 and "of 530 x 700 px the middle 512" in explorer.chooser.said.value
    explorer.chooser.path.value = str(tmp_path/"ct.nii.gz")
    assert explorer.methods.case.picture.shape == (64, 80) and explorer.chooser.number.max == 2
    explorer.chooser.upload.value = (dict(name="up.png", type="image/png", size=1, content=memoryview((tmp_path/"one.png").read_bytes()),
                                          last_modified=datetime.now()),)
    assert explorer.methods.case.picture.shape == (120, 90)
    shown = explorer.methods.case
    (tmp_path/"bad.png").write_bytes(b"no picture")
    for bad in ("bad.png", "none.png"):
        explorer.chooser.path.value = str(tmp_path/bad)
        assert bad in explorer.chooser.said.value and explorer.methods.case is shown  # said in a line; the screen stays
    Image.new("L", (20, 20)).save(tmp_path/"tiny.png")
    explorer.chooser.path.value = str(tmp_path/"tiny.png")
    assert "20 px" in explorer.methods.said.value and explorer.methods.case is shown


def test_in_jupyterlab_a_widget_changes_the_picture(root, here, browser, tmp_path):
    (here/"nbs").mkdir()
    shutil.copy(root/"nbs"/"explore.ipynb", here/"nbs")
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    lab = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--notebook-dir=nbs",
                            "--IdentityProvider.token=", "--LabApp.news_url=None"], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           env=os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path/"runtime")})
    page = browser.new_page(viewport=dict(width=1400, height=1500))
    try:
        for _ in range(120):
            try: page.goto(f"http://127.0.0.1:{port}/lab/tree/explore.ipynb"); break
            except Exception: time.sleep(.5)
        page.get_by_text("| Idle").wait_for(timeout=120_000)  # notebook and kernel are there
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".jupyter-matplotlib-canvas-container canvas", timeout=120_000)
        page.get_by_text("lanczos").last.wait_for(timeout=120_000)  # the last cell's method is in the table
        page.wait_for_timeout(3000)
        look = lambda: page.evaluate("document.querySelectorAll('.jupyter-matplotlib-canvas-container canvas')[0].toDataURL()")
        before = look()
        handle = page.locator(".widget-slider", has_text="Wipe").locator(".noUi-handle")
        handle.focus()
        for _ in range(10): page.keyboard.press("ArrowRight")
        for _ in range(60):
            if look() != before: break
            page.wait_for_timeout(500)
        assert len(before) > 5000 and look() != before
        assert not page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
    finally:
        page.screenshot(path=tmp_path/"explore.png")
        page.close()
        lab.terminate(); lab.wait(30)
