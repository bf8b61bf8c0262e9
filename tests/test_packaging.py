"The package is what its settings say, and the notebooks are its source."

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser

import nbformat
import pytest
import yaml


@pytest.fixture(scope="module")
def settings(root):
    config = ConfigParser(delimiters=["="])
    config.read(root / "settings.ini")
    return config["DEFAULT"]


def versions(requirements) -> dict:  # name -> what is asked of its version
    "Requirements by name, in the spelling of PyPI."
    found = {}
    for requirement in requirements:
        name, version = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(.*)", requirement).groups()
        name = {"pytorch": "torch"}.get(name.lower(), name.lower().replace("_", "-"))
        found[name] = version
    return found


def test_environment_equals_settings(root, settings):
    "Conda users get the packages and versions that settings.ini names."
    environment = yaml.safe_load((root / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    wanted = versions((settings["requirements"] + " " + settings["dev_requirements"]).split())
    have = versions(conda + pip)
    assert have.pop("python") == "=" + settings["min_python"]
    have.pop("pip")
    assert have == wanted


def test_constraints_pin_every_requirement_and_name_no_host(root, settings):
    text = (root / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.\-]+==[\w.!+]+", line)]
    wanted = " ".join(settings[f"{kind}requirements"] for kind in ("", "dev_", "bench_"))
    assert versions(wanted.split()).keys() <= versions(lines).keys()


def library(folder) -> dict:  # file -> text
    package = folder / "ctsr"
    return {str(p.relative_to(package)): p.read_text() for p in package.rglob("*.py")}


def test_notebooks_and_library_are_in_step(root, tmp_path):
    "Exporting the committed notebooks into an empty library gives the committed one."
    (tmp_path / "ctsr").mkdir()
    shutil.copytree(root / "nbs", tmp_path / "nbs")
    shutil.copy(root / "settings.ini", tmp_path)
    export = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    command = [sys.executable, "-c", export]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ours = library(root)
    fresh = library(tmp_path)
    assert len(fresh) > 10 and ours.keys() == fresh.keys()
    differ = [name for name in ours if ours[name] != fresh[name]]
    assert not differ, "out of step with the notebooks: run nbdev_export"


def notebooks(root):
    found = sorted((root / "nbs").rglob("*.ipynb"))
    return [p for p in found if ".ipynb_checkpoints" not in p.parts]


def test_notebooks_are_clean(root):
    for path in notebooks(root):
        nb = nbformat.read(path, as_version=4)
        for number, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                clean = not cell.outputs and cell.execution_count is None
                assert clean, f"{path.name} cell {number}: run nbdev_clean"
        if path.parent.name == "study":
            tagged = sum("parameters" in c.metadata.get("tags", []) for c in nb.cells)
            assert tagged == 1, f"{path.name}: no cell tagged parameters"


@pytest.mark.slow
def test_study_is_refused_in_one_line_without_a_checkout(root, tmp_path):
    "The installed package alone: the library works, the study says what it needs."
    site = tmp_path / "site"
    source = tmp_path / "source"  # pip leaves its traces in a copy
    shutil.copytree(root / "ctsr", source / "ctsr")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(root / name, source)
    flags = ["-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    command = [sys.executable, "-m", "pip", "install", *flags]
    subprocess.run(command, check=True, capture_output=True)
    assert library(site).keys() == library(root).keys()
    ours, installed = (
        sorted(p.name for p in (folder / "ctsr" / "weights").iterdir()) for folder in (root, site)
    )
    assert "runet-x5.safetensors" in ours and ours == installed
    done = subprocess.run(
        [sys.executable, "-c", "from ctsr.apps.cli import main; main()", "study"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("ctsr: the study needs a clone")
    assert len(done.stderr.splitlines()) == 1
