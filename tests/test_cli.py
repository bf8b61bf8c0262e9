"The command line: help, version, completion, stops, several sources, results in short."

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import ctsr
from ctsr.apps.cli import Stdout, absolute, app, named, prepare_process, results_in_short
from ctsr.apps.held_out import main as held_out
from ctsr.core.errors import CTSRError
from ctsr.data.prepared import load_prepared
from ctsr.pipeline.presets import load_preset
from ctsr.pipeline.study import study_folder

COMMANDS = get_command(app).commands


def invoke(*arguments, **kwargs):
    return CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)


def test_the_package_runs_as_a_module(root):
    for option, word in (("--version", ctsr.__version__), ("-h", "upscale"), ("--help", "upscale")):
        done = subprocess.run(
            [sys.executable, "-m", "ctsr", option], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0 and word in done.stdout and not done.stderr


def test_help_does_not_import_torch(root):
    code = "import sys, ctsr.apps.cli; assert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_short_help(name):
    assert invoke(name, "-h").output == invoke(name, "--help").output
    for parameter in COMMANDS[name].params:
        sentences = re.split(r"[.] (?=[A-Z])", parameter.help)
        assert parameter.help.endswith(".") and len(sentences) == 1, parameter.help


def test_the_tab_key_completes_commands():
    half = {"_CTSR_COMPLETE": "complete_bash", "COMP_WORDS": "ctsr up", "COMP_CWORD": "1"}
    assert invoke(prog_name="ctsr", env=half).output.split() == ["upscale"]


@pytest.fixture
def with_usual_stops():
    "What `prepare_process` changes is as it was after the test."
    before = {stop: signal.getsignal(stop) for stop in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)


def test_stops_are_interrupts_and_nohup_is_respected(monkeypatch, with_usual_stops):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # which is replaced
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare_process()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


@pytest.mark.parametrize(
    "option",
    "study --data,study --out,data --out,report --out,upscale --kernel,upscale --window".split(","),
)
def test_an_empty_text_is_neither_the_current_folder_nor_the_default(option):
    "An unset variable of the shell; a blank is a name like any other."
    command, name = option.split()
    done = invoke(command, *(["phantom"] if command == "data" else []), name, "")
    assert done.exit_code == 2 and name in done.output and "unset variable" in done.output
    assert named(" ") == " "


@pytest.mark.parametrize("text, refused", [("two", True), ("", True), ("2", False)])
def test_a_factor_is_a_number(text, refused):
    done = invoke("upscale", "--factor", text)
    assert done.exit_code == 2 and ("give a number: 2, 5 or 8" in done.output) == refused


@pytest.mark.parametrize("name", ["loop", "loop/x", "n" * 300, "link", "link/x"])
def test_a_path_that_cannot_be_followed(tmp_path, name):
    "A link in a circle is refused by every command, also in a dry run; other links are followed."
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / name
    if "link" in name:
        assert absolute(path) == study_folder("smoke", path) == Path(os.path.realpath(path))
        return
    commands = ["figures smoke --out", "report smoke --out", "pack a b c --folder"]
    commands += ["study smoke --dry-run --out", "study smoke --dry-run --data"]
    for command in commands:
        error = invoke(*command.split(), path).exception
        assert isinstance(error, CTSRError) and f"{path}: " in str(error), command


def test_streams_that_the_shell_has_closed(monkeypatch, with_usual_stops):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    prepare_process()
    print("lost", file=sys.stdout)
    print("lost", file=sys.stderr)


def test_lost_lines_do_not_stop_the_work(tmp_path, capsys):
    "A full disk is said once; a pipe that nobody reads any more is as usual."
    with open(tmp_path / "good", "w") as file:
        print("first", file=Stdout(file), flush=True)
    assert (tmp_path / "good").read_text() == "first\n" and not capsys.readouterr().err
    read, write = os.pipe()
    os.close(read)
    streams = {"": os.fdopen(write, "w")}
    if os.path.exists("/dev/full"):
        streams["ctsr: cannot print to stdout: No space left on device\n"] = open("/dev/full", "w")
    for said, stream in streams.items():
        with stream:
            for _ in range(3):
                print("lost", file=Stdout(stream), flush=True)
        assert capsys.readouterr().err == said


@pytest.mark.slow
def test_several_sources_and_the_list_of_what_was_skipped(tmp_path):
    "Two folders become two sets; a third that is not there costs only itself."
    rng = np.random.default_rng(0)
    for name in ("one {1}", "two 'b'"):
        (tmp_path / name).mkdir()
        for n in range(3):
            noise = rng.random((64, 64)) * 255
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / name / f"{n}.png")
    (tmp_path / "one {1}" / "bad.png").write_bytes(b"no picture")
    sources = [tmp_path / name for name in ("one {1}", "none", "two 'b'")]
    done = invoke("data", *sources, "--hr", 48, "--out", tmp_path / "out {x}")
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "none" in done.stderr
    assert done.stdout.count("prepared: ") == 2 and done.stdout.count("skipped ") >= 1
    (listed,) = re.findall(r'files skipped: 1, all listed under "skipped" in (.+)', done.stdout)
    (row,) = json.loads(open(listed).read())["skipped"]
    assert row["file"].endswith("bad.png")
    for n in range(30):
        (tmp_path / "one {1}" / f"bad{n}.png").write_bytes(b"no picture")
    for extra, lines in (((), 20), (("--verbose",), 31)):
        done = invoke("data", sources[0], "--hr", 48, "--out", tmp_path / "out {x}", *extra)
        assert done.exit_code == 0 and done.stdout.count("\nskipped ") == lines


@pytest.mark.parametrize("window, lowest", [("40,400", -160), ("lung", -1350), ("40,x", None)])
def test_data_takes_a_window_by_name_or_by_two_numbers(tmp_path, window, lowest):
    "The set holds the grey levels that the window makes of the values."
    hu = np.random.default_rng(0).integers(-1000, 600, (64, 64, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), tmp_path / "a.nii")
    out = tmp_path / "out"
    done = invoke("data", tmp_path / "a.nii", "--window", window, "--hr", 64, "--out", out)
    if lowest is None:
        assert done.exit_code == 2 and "40,x" in done.stderr and not out.exists()
        return
    assert done.exit_code == 0
    (file,) = out.glob("*.safetensors")
    width = 400 if window == "40,400" else 1500
    grey = ((hu.astype(float) - lowest) * 255 / width).clip(0, 255).round()
    levels = load_prepared(file).images
    assert sorted(np.asarray(levels, float).mean((1, 2)).round(3)) == sorted(
        grey.mean((0, 1)).round(3)
    )


def test_held_out_names_a_wrong_pair(capsys, tmp_path):
    assert held_out([str(tmp_path), "--of", "lung1"]) == 2
    assert "--of is 'lung1': give SUBJECT=MODEL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_three_lines_of_results(root):
    lines = results_in_short(load_preset("quick"), root / "figures" / "quick").splitlines()
    assert len(lines) == 3
    assert all(re.search(r": PSNR \d+\.\d\d .*dB, SSIM 0\.\d{3}", line) for line in lines)


def test_a_fresh_machine_needs_only_make_install(root):
    container = json.loads((root / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make install"
    assert container["image"].endswith(":3.11")
