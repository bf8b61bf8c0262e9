"Run the program as a user does, and look at studies."

import contextlib
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from unittest import mock

from ctsr.apps.cli import main
from ctsr.pipeline.plan import plan
from ctsr.pipeline.presets import load_preset
from ctsr.pipeline.provenance import as_shown
from ctsr.pipeline.study import describe_study, unfinished

SMALL = str(Path(__file__).with_name("small.yaml"))


@contextlib.contextmanager
def as_a_program(arguments, cwd, env):
    "Arguments, folder, environment and signals of a program; afterwards all is as it was."
    stops = {stop: signal.getsignal(stop) for stop in (signal.SIGTERM, signal.SIGHUP)}
    with (
        mock.patch.object(sys, "argv", ["ctsr", *map(str, arguments)]),
        mock.patch.dict(os.environ, env),
        contextlib.chdir(cwd or Path.cwd()),
    ):
        try:
            yield
        finally:
            for stop, handler in stops.items():
                signal.signal(stop, handler)


def ctsr(*arguments, cwd=None, env=()) -> subprocess.CompletedProcess:
    """Run the program in this process, which has loaded the library already.

    `start_ctsr` is for what only a process of its own can show.
    """
    code = 0
    with (
        as_a_program(arguments, cwd, env),
        contextlib.redirect_stdout(StringIO()) as printed,
        contextlib.redirect_stderr(StringIO()) as errors,
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), errors.getvalue())


def start_ctsr(*arguments, **kwargs) -> subprocess.Popen:
    "Start the program in a process of its own."
    command = [sys.executable, "-m", "ctsr", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, **pipes | kwargs)


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
