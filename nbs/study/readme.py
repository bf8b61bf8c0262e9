"Write README.md from nbs/index.ipynb: executed, without code, links from the top folder."

import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor

ROOT = Path(__file__).resolve().parents[2]


def readme() -> str:
    "The text that README.md should hold."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    ExecutePreprocessor(timeout=120).preprocess(nb, {"metadata": {"path": str(ROOT / "nbs")}})
    text = MarkdownExporter(exclude_input=True).from_notebook_node(nb)[0]
    lines = [line.rstrip() for line in text.replace("](../", "](").splitlines()]
    return (
        "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).strip()
        + "\n"
    )


if __name__ == "__main__":
    text = readme()
    if "--check" in sys.argv:
        raise SystemExit(
            0
            if text == (ROOT / "README.md").read_text()
            else "README.md is out of step with nbs/index.ipynb: run make readme"
        )
    (ROOT / "README.md").write_text(text)
