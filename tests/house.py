"""Measure how the code reads: `python tests/house.py [REVISION ...]`, one column a revision.

Without a revision, the working tree is measured. Lines are those of the exported library, without
what nbdev generates (`_modidx.py`); the other counts are of the same files. The import depth is the
number of modules in the longest chain in which each imports the next when it is loaded. Words are
those of the notebooks that export modules.
"""

import ast
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.FunctionDef, ast.ClassDef)


def one_line_compounds(tree) -> int:
    "Compound statements whose body begins on the line of its head: `if x: return y`."
    compounds = [node for node in ast.walk(tree) if isinstance(node, COMPOUND)]
    return sum(node.lineno == node.body[0].lineno for node in compounds)


def tuple_assignments(tree) -> int:
    "Assignments of a tuple display to a tuple of targets: `a, b = 1, 2`."
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            found += any(isinstance(target, ast.Tuple) for target in node.targets)
    return found


def semicolons(text) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.OP and token.string == ";" for token in tokens)


def named_lambdas(tree) -> int:
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return sum(isinstance(node.value, ast.Lambda) for node in assignments)


def module_name(path, folder) -> str:
    "Name of a module of the library: ctsr.data.grey for ctsr/data/grey.py."
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def imports(folder) -> dict:  # module -> set of modules of the library
    "What every module of the library imports when it is loaded, written relative or in full."
    paths = (folder / "ctsr").rglob("[!_]*.py")
    modules = {module_name(path, folder): path for path in paths}
    found = {}
    for module, path in modules.items():
        named = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                package = module.split(".")[: -node.level] if node.level else []
                source = ".".join([*package, *filter(None, [node.module])])
                named |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        found[module] = named & modules.keys()
    return found


def import_depths(folder) -> dict:  # module -> modules in the longest chain that it begins
    "How deep the imports of every module go; modules that import each other are an error."
    graph = imports(folder)
    depths = {}
    for module in TopologicalSorter(graph).static_order():
        depths[module] = 1 + max((depths[part] for part in graph[module]), default=0)
    return depths


def measure_library(folder) -> dict:
    files = [path for path in (folder / "ctsr").rglob("*.py") if path.name != "_modidx.py"]
    texts = [path.read_text(encoding="utf-8") for path in files]
    trees = [ast.parse(text) for text in texts]
    lines = [line for text in texts for line in text.splitlines()]
    return {
        "modules": sum(path.name != "__init__.py" for path in files),
        "import depth": max(import_depths(folder).values()),
        "lines": len(lines),
        "lines over 120 characters": sum(len(line) > 120 for line in lines),
        "lines over 100 characters": sum(len(line) > 100 for line in lines),
        "one-line compound statements": sum(map(one_line_compounds, trees)),
        "assignments of tuples to tuples": sum(map(tuple_assignments, trees)),
        "lambdas": sum(isinstance(node, ast.Lambda) for tree in trees for node in ast.walk(tree)),
        "lambdas with a name": sum(map(named_lambdas, trees)),
        "semicolons": sum(map(semicolons, texts)),
    }


def words_and_cells(path) -> tuple:
    "Words of Markdown and code cells of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    words = code = 0
    for cell, source in zip(cells, sources):
        if cell["cell_type"] == "markdown":
            words += len(source.split())
        elif source.strip() and "default_exp" not in source and "nbdev_export()" not in source:
            code += 1
    return words, code


def measure_lessons(folder) -> dict:
    rates = {}
    for path in (folder / "nbs").rglob("*.ipynb"):
        if "default_exp" in path.read_text(encoding="utf-8"):
            words, code = words_and_cells(path)
            rates[path] = words / code
    return {
        "lessons": len(rates),
        "words a code cell, mean": round(sum(rates.values()) / len(rates), 1),
        "words a code cell, least": round(min(rates.values()), 1),
        "lessons under 25 words a code cell": sum(rate < 25 for rate in rates.values()),
    }


def measure(folder) -> dict:
    counted = measure_library(folder)
    return counted | measure_lessons(folder)


def at_revision(revision) -> dict:
    "Measure a commit, from an archive of it."
    command = ["git", "archive", revision, "ctsr", "nbs"]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        tarfile.open(fileobj=io.BytesIO(archive)).extractall(folder, filter="data")
        return measure(Path(folder))


if __name__ == "__main__":
    columns = {revision: at_revision(revision) for revision in sys.argv[1:]}
    print(pd.DataFrame(columns or {"working tree": measure(ROOT)}).to_string())
