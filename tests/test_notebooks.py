"Every notebook of the library runs from top to bottom, each in a process of its own, and README.md says what index.ipynb says."
import os
import subprocess
import sys

import pytest


def run(root, *command, **kwargs): return subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, **kwargs)


def test_every_notebook_runs(root):
    "nbdev_test: all cells of all notebooks of the library, a notebook a process."
    done = run(root, "-c", "from nbdev.test import nbdev_test; nbdev_test(n_workers=2, timing=True, do_print=True)", env=os.environ | {"OMP_NUM_THREADS": "1"})
    print(done.stdout[-4000:])
    assert done.returncode == 0 and "Success" in done.stdout, done.stdout[-6000:] + done.stderr[-6000:]


def test_readme_is_index(root):
    done = run(root, "nbs/study/readme.py", "--check")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("module", ["data", "degrade", "metrics", "perceptual", "runet", "diffusion", "sr3", "train", "restore", "evaluate", "sampling"])
def test_modules_import_with_little(root, module):
    "On a machine that only trains: torch, numpy, pandas, safetensors, tqdm, accelerate."
    absent = ["SimpleITK", "papermill", "nbdev", "snakemake", "matplotlib", "seaborn", "skimage", "scipy", "fastcore", "typer", "yaml", "IPython", "jupyterlab"]
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport ctsr.{module}"
    done = run(root, "-c", code)
    assert done.returncode == 0, done.stderr[-1500:]
