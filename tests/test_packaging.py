"The package is what its settings say, and the notebooks are its source."

import re
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


def names(requirements):
    return {re.split(r"[<>=!~\[]", r)[0].lower().replace("_", "-") for r in requirements}


def test_environment_names_what_settings_names(root, settings):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    wanted = names((settings["requirements"] + " " + settings["dev_requirements"]).split())
    aliases = {"pytorch": "torch"}
    have = {aliases.get(n, n) for n in names(conda + pip)} - {"python", "pip"}
    assert have == wanted


def test_constraints_pin_every_requirement_and_name_no_host(root, settings):
    lines = [
        l
        for l in (root / "constraints.txt").read_text().splitlines()
        if l and not l.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.\-]+==[\w.!+]+", l) for l in lines), [
        l for l in lines if not re.fullmatch(r"[\w.\-]+==[\w.!+]+", l)
    ]
    wanted = " ".join(settings[f"{kind}requirements"] for kind in ("", "dev_", "bench_"))
    assert names(wanted.split()) <= names(lines)


def test_notebooks_and_library_are_in_step(root, tmp_path):
    "Exporting the committed notebooks into an empty library gives the committed one."
    (tmp_path / "ctsr").mkdir()
    subprocess.run(
        ["cp", "-r", str(root / "nbs"), str(root / "settings.ini"), str(tmp_path)], check=True
    )
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    ours, fresh = (
        {str(p.relative_to(folder)): p.read_text() for p in (folder / "ctsr").rglob("*.py")}
        for folder in (root, tmp_path)
    )
    assert len(fresh) > 10 and ours.keys() == fresh.keys()
    assert not [name for name in ours if ours[name] != fresh[name]], (
        "out of step with the notebooks: run nbdev_export"
    )


def notebooks(root):
    return sorted(
        p
        for p in (root / "nbs").rglob("*.ipynb")
        if not any(part.startswith(".") for part in p.parts)
    )


def test_notebooks_are_clean(root):
    for path in notebooks(root):
        nb = nbformat.read(path, as_version=4)
        for number, cell in enumerate(nb.cells):
            if cell.cell_type != "code":
                continue
            assert not cell.outputs and cell.execution_count is None, (
                f"{path.name} cell {number}: run nbdev_clean"
            )
        if path.parent.name == "study":
            assert sum("parameters" in c.metadata.get("tags", []) for c in nb.cells) == 1, (
                f"{path.name}: no cell tagged parameters"
            )


def test_study_is_refused_in_one_line_without_a_checkout(root, tmp_path):
    "The installed package alone: the library works, the study says what it needs."
    site = tmp_path / "site"
    source = tmp_path / "source"
    source.mkdir()  # pip leaves its traces in a copy
    subprocess.run(
        [
            "cp",
            "-r",
            *(
                str(root / name)
                for name in ("ctsr", "setup.py", "settings.ini", "pyproject.toml", "README.md")
            ),
            str(source),
        ],
        check=True,
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(site),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    assert (site / "ctsr" / "train.py").exists()
    weights = sorted(p.name for p in (root / "ctsr" / "weights").iterdir())
    assert "runet-x5.safetensors" in weights and weights == sorted(
        p.name for p in (site / "ctsr" / "weights").iterdir()
    )
    done = subprocess.run(
        [sys.executable, "-c", "from ctsr.apps.cli import main; main()", "study"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("ctsr: the study needs a clone")
        and len(done.stderr.splitlines()) == 1
    ), done.stderr
