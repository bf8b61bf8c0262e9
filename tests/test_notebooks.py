"README.md says what index.ipynb says, and the library needs little. That every notebook runs from top to bottom, `test_site` sees to."
import subprocess
import sys

import pytest


def run(root, *command, **kwargs): return subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, **kwargs)


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
