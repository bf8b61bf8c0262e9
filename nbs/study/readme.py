"Write README.md from nbs/index.ipynb: executed, without code, links as seen from the top folder."

import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def readme() -> str:
    "The text that README.md should hold."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    ExecutePreprocessor(timeout=120).preprocess(nb, {"metadata": {"path": str(ROOT / "nbs")}})
    text = MarkdownExporter(exclude_input=True).from_notebook_node(nb)[0]
    lines = []
    for line in text.replace("](../", "](").splitlines():
        if line.strip() or (lines and lines[-1]):  # never two empty lines
            lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    text = readme()
    if "--check" not in sys.argv:
        README.write_text(text)
    elif text != README.read_text():
        raise SystemExit("README.md is out of step with nbs/index.ipynb: run make readme")
