"What the tests share: the checkout, a prepared phantom, the paper's data, and a browser."

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MPLBACKEND", "agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores


# Fixtures that take long: whoever asks for one is slow too.
SLOW = {"finished_study", "site", "kaggle", "diffusers", "package", "here"}

# Files in the order of their seconds; the others are short.
LONGEST = "site study faults explore upscale train cases data sr3 pretrained sampling".split()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Mark what needs a slow fixture; begin with the longest files, so that no worker waits."
    order = {f"test_{name}.py": n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    "A prepared phantom: 10 subjects of 2 slices at 64 px."
    from ctsr.data.prepare import prepare

    return prepare(
        "phantom", tmp_path_factory.mktemp("phantom"), hr=64, phantom=dict(subjects=10, slices=2)
    )


@pytest.fixture(scope="session")
def fetched(tmp_path_factory):
    "A function that fetches a package, such as `lpips==0.1.4`, into a folder of its own."

    def fetch(requirement):
        name = requirement.partition("==")[0]
        folder = tmp_path_factory.mktemp(name)
        flags = ["--quiet", "--no-deps", "--target", str(folder)]
        command = [sys.executable, "-m", "pip", "install", *flags, requirement]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"the package {name} cannot be fetched here")
        return folder

    return fetch


@pytest.fixture(scope="session")
def with_stops():
    "A `preexec_fn`: interrupts and hang-ups do what they usually do, whatever the shell ignores."

    def usual():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return usual


@pytest.fixture(scope="session")
def kaggle():
    "The paper's images, where $CTSR_KAGGLE names their folder."
    folder = os.environ.get("CTSR_KAGGLE", "")
    if not Path(folder, "Data").is_dir():
        pytest.skip(
            "the paper's data is not here: set CTSR_KAGGLE to its folder (the one that holds Data/)"
        )
    return Path(folder)


@pytest.fixture(scope="session")
def browser():
    "Chromium without a window."
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.skip("no browser: install chromium, or name one in $CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
