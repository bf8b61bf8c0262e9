"README.md says what index.ipynb says, and the library needs few packages."

import ast
import json
import re
import subprocess
import sys

import house
import pytest

# Modules that a machine needs which only trains and evaluates.
LEAN = [
    "data.prepared",
    "data.degrade",
    "metrics.fidelity",
    "metrics.perceptual",
    "models.runet",
    "models.diffusion",
    "models.network",
    "training.loop",
    "evaluation.restore",
    "evaluation.scores",
    "evaluation.sampling",
]
# Packages that such a machine may lack.
ABSENT = [
    "SimpleITK",
    "pydicom",
    "nibabel",
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
def test_modules_import_with_few_packages(root):
    "torch, numpy, pandas, safetensors, pydantic, tqdm and accelerate suffice for training."
    absent = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None"
    imports = [f"import ctsr.{module}" for module in LEAN]
    done = run(root, "-c", "\n".join([absent, *imports]))
    assert done.returncode == 0, done.stderr[-1500:]


def test_the_process_of_a_job_loads_no_large_library(root):
    "Its kernel needs them; the process that starts the kernel would load them for nothing."
    code = "import sys, papermill, ctsr.pipeline.job; print(*sys.modules)"
    done = run(root, "-c", code)
    assert done.returncode == 0, done.stderr[-1500:]
    loaded = set(done.stdout.split())
    assert "ctsr.pipeline.notebooks" in loaded
    assert not loaded & {"torch", "pandas", "matplotlib", "scipy", "skimage", "pydantic.main"}


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


def test_lessons_write_into_folders_of_their_own(root):
    "Two people, or two tests, on one machine must not write into one folder."
    fixed = re.compile(r"gettempdir|[\"']/(var/)?tmp\b")
    assert fixed.search('Path("/tmp/demo")') and fixed.search("tempfile.gettempdir()")
    found = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found += [path.name for source in code if fixed.search(source)]
    assert not found


def test_imports_run_one_way(root):
    "A folder of the library imports only from folders before it."
    order = "core data metrics models training evaluation figures paper pipeline apps".split()
    edges = [(module, other) for module, found in house.imports(root).items() for other in found]
    backwards = [
        f"{module} imports {other}"
        for module, other in edges
        if order.index(other.split(".")[1]) > order.index(module.split(".")[1])
    ]
    assert not backwards


def test_imports_are_not_deep(root):
    "Whoever reads a module has at most six layers below it."
    depths = house.import_depths(root)
    assert max(depths.values()) <= 7, {name: n for name, n in depths.items() if n > 7}


def test_import_depth_counts_every_way_to_write_an_import(tmp_path):
    texts = {
        "low": "import json",
        "relative": "from .low import x",
        "full": "from ctsr.data.relative import x",
        "package": "from . import full",
        "late": "def f():\n    from . import package",
    }
    (tmp_path / "ctsr" / "data").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "ctsr" / "data" / f"{name}.py").write_text(text)
    depths = {name: house.import_depths(tmp_path)[f"ctsr.data.{name}"] for name in texts}
    assert depths == dict(low=1, relative=2, full=3, package=4, late=1)


def test_notebooks_of_the_study_explain_themselves(root):
    """A paragraph for each code cell, as in the lessons.

    The report is left out: its code writes the text of the page.
    """
    rates = {}
    for path in (root / "nbs" / "study").glob("*.ipynb"):
        if path.name == "report.ipynb":
            continue
        words, code = house.words_and_cells(path)
        rates[path.name] = words / code
    few = {name: round(rate, 1) for name, rate in rates.items() if rate < 25}
    assert len(rates) > 10 and not few
