"Start studies as a user does, and look at them."

import subprocess
import sys
import time
from pathlib import Path

from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import load_preset
from ctsr.pipeline.provenance import as_shown
from ctsr.pipeline.study import describe_study, unfinished

SMALL = str(Path(__file__).with_name("small.yaml"))


def ctsr(*arguments, **kwargs):
    "Run the program in a process of its own."
    return subprocess.run(
        [sys.executable, "-m", "ctsr", *map(str, arguments)],
        capture_output=True,
        text=True,
        **kwargs,
    )


def study_of(preset) -> tuple:
    "The command that runs a study on one core: workers of the tests share them."
    return "study", preset, "--jobs", "1"


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def todo(preset, folder, assignments=(), redo=(), **kwargs):
    "Which jobs of a study are out of date, and why."
    jobs = plan(load_preset(preset, assignments), as_shown(folder))
    return unfinished(describe_study(jobs, folder, redo, **kwargs))


def until(condition, seconds=180):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
