"README.md says what index.ipynb says, and the library needs little. That every notebook runs from top to bottom, `test_site` sees to."

import ast
import json
import re
import subprocess
import sys

import pytest


def run(root, *command, **kwargs):
    return subprocess.run(
        [sys.executable, *command], cwd=root, capture_output=True, text=True, **kwargs
    )


def test_readme_is_index(root):
    done = run(root, "nbs/study/readme.py", "--check")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "module",
    [
        "data.prepare",
        "data.degrade",
        "metrics.fidelity",
        "metrics.perceptual",
        "models.runet",
        "models.diffusion",
        "models.sr3",
        "training.loop",
        "evaluation.restore",
        "evaluation.scores",
        "evaluation.sampling",
    ],
)
def test_modules_import_with_little(root, module):
    "On a machine that only trains: torch, numpy, pandas, safetensors, tqdm, accelerate."
    absent = [
        "SimpleITK",
        "papermill",
        "nbdev",
        "snakemake",
        "matplotlib",
        "seaborn",
        "skimage",
        "scipy",
        "fastcore",
        "typer",
        "yaml",
        "IPython",
        "jupyterlab",
    ]
    code = f"import sys\nfor name in {absent!r}: sys.modules[name] = None\nimport ctsr.{module}"
    done = run(root, "-c", code)
    assert done.returncode == 0, done.stderr[-1500:]


def test_cells_of_imports_hold_nothing_else(root):
    "nbdev runs a cell with an import when it renders the site, without the cells before it."
    mixed = []
    for path in sorted((root / "nbs").glob("*/*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if (
                cell["cell_type"] != "code"
                or re.search(r"^# ?\| ?(export|eval: false)", source, re.M)
                or re.search(r"^[%!]", source, re.M)
            ):
                continue
            kinds = {type(node) for node in ast.walk(ast.parse(source))}
            if (
                kinds & {ast.Import, ast.ImportFrom}
                and kinds & {ast.Assign, ast.Expr}
                and "nbdev_export" not in source
                and path.parent.name != "study"
            ):
                mixed.append((path.name, source[:60]))
    assert not mixed
