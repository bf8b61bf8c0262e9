"README.md says what index.ipynb says, and the library needs few packages."

import ast
import json
import re
import subprocess
import sys

import pytest

# Modules that a machine needs which only trains and evaluates.
LEAN = [
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
]
# Packages that such a machine may lack.
ABSENT = [
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


def run(root, *command):
    return subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)


@pytest.mark.slow
def test_readme_is_index(root):
    done = run(root, "nbs/study/readme.py", "--check")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("module", LEAN)
def test_modules_import_with_few_packages(root, module):
    "torch, numpy, pandas, safetensors, pydantic, tqdm and accelerate suffice for training."
    code = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\nimport ctsr.{module}"
    done = run(root, "-c", code)
    assert done.returncode == 0, done.stderr[-1500:]


def mixed_cells(root) -> list:  # of (file, beginning of the cell)
    "Cells that are not exported and hold an import next to other code."
    found = []
    for path in sorted((root / "nbs").glob("*/*.ipynb")):
        if path.parent.name == "study":
            continue  # papermill runs these; the site shows them as text
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            skipped = re.search(r"^# ?\| ?(export|eval: false)|^[%!]|nbdev_export", source, re.M)
            if cell["cell_type"] != "code" or skipped:
                continue
            kinds = {type(node) for node in ast.walk(ast.parse(source))}
            if kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Assign, ast.Expr}:
                found.append((path.name, source[:60]))
    return found


def test_imports_have_cells_of_their_own(root):
    "nbdev runs a cell with an import when it renders the site, without the cells before it."
    assert not mixed_cells(root)


def test_imports_run_one_way(root):
    "A folder of the library imports only from folders before it."
    order = "core data metrics models training evaluation figures paper pipeline apps".split()
    backwards = []
    for path in sorted((root / "ctsr").glob("*/[!_]*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
                folder = node.module.partition(".")[0]
                if order.index(folder) > order.index(path.parent.name):
                    backwards.append(f"{path.parent.name}/{path.name} imports {node.module}")
    assert not backwards
