"""Execute notebooks in place: `python nbs/site/execute.py JOBS NOTEBOOK ...`.

It runs in a copy of the project, whose notebooks it changes.
The library and all that it imports are loaded once, which takes longer than most lessons; each
notebook then has a process of its own, forked from this one.
"""

import importlib
import multiprocessing
import os
import sys
import time
from pathlib import Path

from execnb.shell import CaptureShell

TREE = Path(__file__).resolve().parents[2]


def dotted(path, folder) -> str:
    "Name of a module or lesson below a folder: `data.degrade` for `data/degrade.py`."
    return ".".join(path.relative_to(folder).with_suffix("").parts)


def execute(path) -> str:
    "Execute a lesson in its folder, or a report in the project's; say how long it took."
    os.chdir(TREE if path.parent == TREE / "reports" else path.parent)
    shell = CaptureShell(mpl_format="png")
    try:
        shell.execute(path, path, exc_stop=True)
    except Exception:
        raise RuntimeError(shell.prettytb(path)) from None
    return f"  {dotted(path, TREE)}: {time.process_time():.0f} s"


def warm_up():
    "Draw the people of the phantom that most lessons show; their anatomy is kept in memory."
    from ctsr.data.phantom import phantom_slice

    for subject in range(12):
        phantom_slice(subject, size=16, views=4)


def main(jobs, *paths):
    for module in sorted((TREE / "ctsr").glob("*/[!_]*.py")):
        importlib.import_module(f"ctsr.{dotted(module, TREE / 'ctsr')}")
    warm_up()
    fork = multiprocessing.get_context("fork")
    with fork.Pool(int(jobs), maxtasksperchild=1) as pool:
        for line in pool.imap(execute, map(Path, paths), chunksize=1):
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
