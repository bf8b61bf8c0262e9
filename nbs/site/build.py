"""Build the documentation site into _docs: `make docs`.

Copies of the notebooks are executed and nbdev renders their signatures. Sphinx makes pages of
them, of the reports of the published studies, and of the texts in nbs/site/pages. A reader's
browser fetches nothing from other sites. Building fetches the sample CT and the weights of VGG16
and AlexNet unless they are cached.
"""

import argparse
import ast
import base64
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import PIL.Image
import yaml
from execute import dotted
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ctsr.evaluation.ablations import gain_sentence, seed_table
from ctsr.evaluation.table import load_tables
from ctsr.figures.conditions import fig_scores
from ctsr.figures.style import save_figure
from ctsr.paper.aims import aims_html
from ctsr.paper.claims import claims_html, front_claims, verdict_counts

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "docs"
OUT = ROOT / "_docs"  # nbdev passes over folders whose names begin with _
TREE = WORK / "tree"
SOURCE = WORK / "source"
LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "runs",
    "_proc",
    "_docs",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*cache",
)

# The published studies in the order of reading, and what each is.
STUDIES = {
    "full": "read this first: the paper's data, as its authors ran it and as it should be run",
    "quick": "what `make study` writes in minutes, from two freely available CT volumes",
    "baseline": "a check of a minute: interpolation alone, on the paper's test images",
}
# Inches of the front page's chart: next to the claims, and on a phone.
CHART = dict(wide=(6.2, 1.6), narrow=(3.4, 2.6))
# Tables with a page of their own, and what each holds. Larger ones are files to download.
TABLES = {
    "table_summary": "Mean scores of every condition",
    "table1": "Table 1: every method on the same images",
    "table_paired": "Differences to the baseline, image by image",
    "table_contrasts": "Differences of further pairs",
    "table_by_class": "Scores by class",
    "table_gains": "Gains over the input, over images and over seeds",
    "table_factors": "Effects of single factors",
    "table_leak_kinds": "Gain by kind of test image",
    "table_leak": "Gain by class and kind of test image",
    "table_leak_worth": "Worth of having seen a copy",
    "table_choices": "Design choices",
    "table_published": "What the printed SR3 scores would take",
    "table_mechanism": "A network of photographs, by noise schedule",
    "table_controls": "The baseline inside the body, and on photographs",
    "table_epochs": "Scores of all test images after every epoch",
    "table_sampling": "How the sampling was chosen",
    "table_steps": "Scores by number of network evaluations",
    "table_few_steps": "Few network evaluations against many",
    "table_calibration": "Error of the mean of samples against their spread",
    "table_noise": "Loss by noise level",
    "table_validation": "Validation scores of every training",
    "table_training": "Settings and cost of every training",
    "table_cost": "Seconds and network evaluations an image",
    "table_data": "Numbers of images, by split and class",
    "table_jobs": "Notebooks that ran, with their commits",
}
MOST_ROWS = 1000
# Claims shown on the front page; the others are folded.
FIRST = ("test-images-unseen", "baseline-scores", "beats-input", "sr3-restores")
# Pictures go into the notebooks, whatever the caller has set.
INLINE = "module://matplotlib_inline.backend_inline"
LIBRARY = (
    "Each page is a notebook, executed when this site was built; the library is exported from "
    "them. The pages stand in the order of their imports: none needs one below it."
)
# The folders of the library, and what each holds.
FOLDERS = {
    "core": "Errors and files",
    "data": "Images",
    "metrics": "Metrics",
    "models": "Networks",
    "training": "Training",
    "evaluation": "Evaluation",
    "figures": "Figures",
    "paper": "The paper",
    "pipeline": "The pipeline",
    "apps": "Applications",
}
# Executed first, so that no processor waits at the end.
SLOW = ("nbs.models.sr3", "nbs.evaluation.restore", "nbs.apps.upscale", "nbs.figures.samples")
SHORT = 30  # lines; the code of a longer definition is folded


def environment(**settings) -> dict:
    "Of programs in the copy: its library and one thread."
    common = {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1", "MPLBACKEND": INLINE}
    return os.environ | common | settings


def run(*command):
    "Run Python in the copy of the project; what it printed stands in the error if it fails."
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=TREE,
        capture_output=True,
        text=True,
        env=environment(),
    )
    if done.returncode:
        ran = " ".join(map(str, command))
        printed = f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        raise SystemExit(f"docs: {ran} failed\n{printed}")
    return done.stdout


def execute(notebooks, jobs):
    "Execute notebooks of the copy, in place; their temporary files go with their processes."
    with tempfile.TemporaryDirectory(prefix="ctsr-") as temporary:
        # The last cell of a lesson exports the library unless IN_TEST is set.
        settings = environment(IN_TEST="1", TMPDIR=temporary)
        command = [sys.executable, "nbs/site/execute.py", str(jobs), *notebooks]
        if subprocess.run(command, cwd=TREE, env=settings).returncode:
            raise SystemExit("docs: the notebook above failed")


def library(folder) -> list:  # of paths
    "The notebooks of the library, which export modules; one folder a subpackage."
    packages = [path.parent.name for path in (ROOT / "ctsr").glob("*/__init__.py")]
    return sorted(path for package in packages for path in (folder / package).glob("*.ipynb"))


def modules() -> list:  # of paths
    return sorted((ROOT / "ctsr").glob("*/[!_]*.py"))


@dataclass(frozen=True)
class Symbol:
    "A public function or class of the library."

    module: str  # 'data.degrade'
    line: int  # the first of its definition
    source: str  # its code

    @property
    def lines(self) -> int:
        return self.source.count("\n") + 1


def symbols() -> dict:  # name, and module.name -> Symbol
    "Find every public function and class of the library; a name used twice needs its module."
    found = {}
    clashes = set()
    for file in modules():
        module = dotted(file, ROOT / "ctsr")
        text = file.read_text()
        for node in ast.parse(text).body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if not public or node.name.startswith("_"):
                continue
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
            if node.name in found:
                clashes.add(node.name)
            found[node.name] = Symbol(module, first, source)
            found[f"ctsr.{module}.{node.name}"] = found[node.name]
    return {name: symbol for name, symbol in found.items() if name not in clashes}


def target(module, name, known) -> str:
    "What a description is linked by; capitals make no difference to Sphinx."
    return f"ctsr.{module}.{name}" + "-class" * (
        name != name.lower() and f"ctsr.{module}.{name.lower()}" in known
    )


def linked(text, known, documented) -> str:
    "Markdown in which a name of the library in backticks leads to its description."

    def link(match):
        name = match[1]
        if name not in known:
            return match[0]
        module = known[name].module
        bare = name.rpartition(".")[2]
        return (
            f"[`{name}`](#{target(module, bare, known)})"
            if f"ctsr.{module}.{bare}" in documented
            else match[0]
        )

    parts = re.split(r"(```.*?```)", text, flags=re.S)
    return "".join(
        part if part.startswith("```") else re.sub(r"(?<![\[`])`([\w.]+)`(?!`)", link, part)
        for part in parts
    )


def code_of(symbol) -> str:  # Markdown
    "The code of a definition, as text of the lesson: open where it is short, folded where not."
    code = f"```python\n{symbol.source}\n```"
    if symbol.lines <= SHORT:
        return code
    return f"::::{{dropdown}} Code ({symbol.lines} lines)\n{code}\n::::"


def signature(cell, module, known) -> str:  # Markdown
    "What nbdev rendered of a definition, with a target to link to, its code and its source."
    text = cell.outputs[0]["data"]["text/markdown"].strip().removeprefix("---").strip()
    name = re.match(r"#+ (\S+)", text)[1]
    rest = text.partition("\n")[2].strip()
    symbol = known.get(f"ctsr.{module}.{name}")
    if symbol is None:
        return f"### `{name}`\n\n{rest}"
    if symbol.lines <= SHORT:  # its code begins with its signature
        rest = re.sub(r"^```python.*?```\s*", "", rest, flags=re.S)
    source = f"<a href='../../source/{module}.html#L-{symbol.line}'>source</a>"
    head = f"({target(module, name, known)})=\n### `{name}`"
    return f"{head}\n\n{rest} {source}\n\n{code_of(symbol)}"


def imports(module) -> list:  # of modules
    "Modules of the library that one of them imports from."
    file = (ROOT / "ctsr").joinpath(*module.split(".")).with_suffix(".py")
    if not file.exists():  # a lesson that exports nothing comes after the modules of its folder
        return [dotted(path, ROOT / "ctsr") for path in sorted(file.parent.glob("[!_]*.py"))]
    tree = ast.parse(file.read_text())
    relative = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    ]
    names = [
        importlib.util.resolve_name(
            "." * node.level + node.module, f"ctsr.{module.rpartition('.')[0]}"
        )
        for node in relative
    ]
    return [name.removeprefix("ctsr.") for name in names]


def in_order(names) -> list:  # none before one that it needs
    "Modules sorted by what they import, else as they were."
    order = []

    def add(module):
        if module in order:
            return
        for need in imports(module):
            if need in names:
                add(need)
        order.append(module)

    for module in names:
        add(module)
    return order


def contents(pages) -> str:  # Markdown
    "A hidden table of contents; pages are names of documents."
    names = "\n".join(page.partition(".")[0] for page in pages)
    return f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{names}\n```\n"


def listed(title, text, entries) -> str:  # Markdown
    "A page of links; entries are (document, its title, what it is about)."
    lines = "\n".join(f"- [{name}]({document}): {about}" for document, name, about in entries)
    return f"# {title}\n\n{text}\n\n{lines}\n\n{contents([e[0] for e in entries])}"


def library_index(lessons) -> str:  # Markdown; lessons are (document, its title, about), in order
    "The lessons by folder, in the order of their imports."
    parts = ["# The library", LIBRARY]
    for folder, title in FOLDERS.items():
        here = [entry for entry in lessons if entry[0].startswith(f"{folder}/")]
        lines = "\n".join(f"- [{name}]({document}): {about}" for document, name, about in here)
        parts += [f"## {title}", lines, contents([entry[0] for entry in here])]
    return "\n\n".join(parts)


def only_imports(source) -> bool:
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False  # a magic
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def save_picture(cell, name):
    "The picture that a cell drew, for other pages."
    data = next(
        output["data"]["image/png"]
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    )
    (SOURCE / "generated" / f"{name}.png").write_bytes(base64.b64decode(data))


def lesson(path, known, documented) -> tuple:  # name of its page, title, description
    "A notebook as nbdev left it, made into a page of the library."
    nb = nbformat.read(path, as_version=4)
    front = yaml.safe_load(nb.cells[0].source.strip().strip("-"))
    module = dotted(path, TREE / "_proc")
    cells = []
    title, description = (" ".join(front.get(key, "").split()) for key in ("title", "description"))
    head = f"# {title}\n\n*{description}*"
    if module in {dotted(file, ROOT / "ctsr") for file in modules()}:
        head += f"\n\n`ctsr.{module}` · [source](../../source/{module}.md)"
    for cell in [nbformat.v4.new_markdown_cell(head), *nb.cells[1:]]:
        if "AUTOGENERATED! DO NOT EDIT" in cell.source:
            continue
        if cell.cell_type == "code" and "show_doc(" in cell.source:
            if not cell.outputs:
                continue
            cell = nbformat.v4.new_markdown_cell(signature(cell, module, known))
        elif cell.cell_type == "markdown":
            cell.source = linked(cell.source, known, documented)
        elif cell.cell_type == "raw":
            continue
        elif only_imports(cell.source):
            cell.metadata.tags = ["hide-input"]
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("picture-"):
                save_picture(cell, tag)
        cells.append(cell)
    nb.cells = cells
    nb.metadata.pop("widgets", None)  # without a kernel they are only scripts to fetch
    page = SOURCE / "library" / path.relative_to(TREE / "_proc")
    page.parent.mkdir(exist_ok=True)
    nbformat.write(nb, page)
    return module, title, description


def made(text, files) -> str:  # Markdown
    "How a figure was made, with links to the notebook and to its record and tables."
    text = re.sub(r"`nbs/study/(\w+)\.ipynb`", r"[`\1.ipynb`](../source/study-\1.md)", text)

    def file(match):
        return (
            f"{{download}}`{match[1]} <{files.name}/{match[1]}>`"
            if (files / match[1]).exists()
            else match[0]
        )

    return ":::{div} made\n" + re.sub(r"`([\w.-]+\.(?:json|csv|csv\.gz))`", file, text) + "\n:::"


def shown(nb, files) -> list:  # of cells; files are those to download
    "An executed notebook without its code; printed Markdown is Markdown, so that headings count."
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cells.append(cell)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if text := data.get("text/markdown"):
                cells.append(
                    nbformat.v4.new_markdown_cell(
                        made(text, files) if text.startswith("Drawn by") else text
                    )
                )
            elif output.output_type != "stream":
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                cells.append(
                    nbformat.v4.new_code_cell(
                        "shown",
                        outputs=[output],
                        metadata={"tags": ["remove-input"], "mystnb": {"image": {"alt": alt}}},
                    )
                )
    return cells


def title_of(folder) -> str:
    "The title of a published study; the name of its folder if its preset lies elsewhere."
    preset = ROOT / "nbs" / "study" / "presets" / f"{folder.name}.yaml"
    return yaml.safe_load(preset.read_text())["title"] if preset.exists() else folder.name


def rank(folder) -> tuple:
    "Where a published study stands among the others."
    known = list(STUDIES)
    place = known.index(folder.name) if folder.name in known else len(known)
    return place, folder.name


def size_of(file) -> str:  # in words
    n = file.stat().st_size
    return f"{n} bytes" if n < 1024 else f"{n / 1024:,.0f} KiB"


def table_page(path, files, title) -> str:  # Markdown
    "A table that a reader can sort, with its file to download."
    table = pd.read_csv(path).round(4)
    html = table.to_html(index=False, border=0, na_rep="", classes="sortable")
    file = f"{{download}}`{path.name} <../{files.name}/{path.name}>` ({size_of(path)})"
    text = f"{file}. Click on a heading to sort."
    return f"# {title}\n\n{text}\n\n" + html_block(f'<div class="scroll">{html}</div>')


def verdict_page(title, about, table) -> str:  # Markdown
    return f"# {title}\n\n{about}\n\n{html_block(table.data)}"


def table_pages(folder, files) -> list:  # of (document, title), from the study's page
    "A page for each table of a study; the claims and the aims have theirs, with all reasons."
    pages = SOURCE / "study" / f"{folder.name}-tables"
    pages.mkdir()
    found = {}
    for name, title in TABLES.items():
        for path in sorted(folder.glob(f"{name}.csv")) + sorted(folder.glob(f"{name}-x*.csv")):
            rows = path.read_text(encoding="utf-8").count("\n")
            if rows <= MOST_ROWS:
                suffix = path.stem.removeprefix(name).replace("-", ", ")
                found[path.stem] = table_page(path, files, title + suffix)
    if (folder / "claims.csv").exists():
        claims = pd.read_csv(folder / "claims.csv", keep_default_na=False)
        about = "What the paper says, what comes out, the verdict, and why."
        found["claims"] = verdict_page("Claims of the paper", about, claims_html(claims))
    if (folder / "aims.csv").exists():
        about = "Bounds of our own, written down before the long trainings."
        html = aims_html(pd.read_csv(folder / "aims.csv"))
        found["aims"] = verdict_page("Our own aims", about, html)
    for name, page in found.items():
        (pages / f"{name}.md").write_text(page, encoding="utf-8")
    first_lines = {name: page.partition("\n")[0][2:] for name, page in found.items()}
    return [(f"{pages.name}/{name}", title) for name, title in first_lines.items()]


def report_of(folder) -> Path:
    "Where the report of a published study lies, before and after it is executed."
    return TREE / "reports" / f"{folder.name}.ipynb"


def write_report(folder):
    "Give the notebook of reports the parameters of a published study."
    nb = load_notebook_node(str(TREE / "nbs" / "study" / "report.ipynb"))
    figures = str(folder.relative_to(ROOT))
    parameters = dict(title=title_of(folder), preset=folder.name, figures=figures)
    report_of(folder).parent.mkdir(exist_ok=True)
    nb = parameterize_notebook(nb, parameters, kernel_name="python3", language="python")
    nbformat.write(nb, report_of(folder))


def study_page(folder):
    "The report of a published study; its further figures and its tables have pages of their own."
    name = folder.name
    nb = nbformat.read(report_of(folder), as_version=4)
    files = SOURCE / "study" / f"files-{name}"
    files.mkdir()
    for file in folder.iterdir():
        of_figure = file.suffix == ".json" and file.with_suffix(".png").exists()
        if file.suffix in (".csv", ".gz") or of_figure:
            shutil.copy2(file, files)
    pages = table_pages(folder, files)
    with_page = {document.rpartition("/")[2] for document, _ in pages}
    rest = "\n".join(
        f"- {{download}}`{f.name} <{files.name}/{f.name}>` ({size_of(f)})"
        for f in sorted(files.iterdir())
        if f.suffix != ".json" and f.stem not in with_page
    )
    links = "\n".join(f"- [{title}]({document}.md)" for document, title in pages)
    further = f"{name}-figures"
    tables = (
        f"## Tables\n\n{links}\n\nFiles:\n\n{rest}\n\n## More\n\n"
        f"[Further figures]({further}.ipynb) of this study.\n\n"
        f"{contents([further, *(document for document, _ in pages)])}"
    )
    cells = [c for c in shown(nb, files) if not c.source.startswith("# Report")]
    split = next(i for i, c in enumerate(cells) if c.source.startswith("## Further figures"))
    heading = nbformat.v4.new_markdown_cell(f"# Further figures: {title_of(folder)}")
    nb.cells = [heading, *cells[split + 1 :]]
    nbformat.write(nb, SOURCE / "study" / f"{further}.ipynb")
    nb.cells = [*cells[:split], nbformat.v4.new_markdown_cell(tables)]
    nbformat.write(nb, SOURCE / "study" / f"{name}.ipynb")


def results_page():
    "The account of the study, without its code, with its figures."
    nb = nbformat.read(TREE / "nbs" / "results.ipynb", as_version=4)
    nb.cells = shown(nb, SOURCE)
    for cell in nb.cells:
        for figure in re.findall(r"\]\(\.\./(figures/[\w/-]+\.png)\)", cell.source):
            (SOURCE / figure).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / figure, SOURCE / figure)
        cell.source = re.sub(r"\]\(\.\./figures/(\w+)\)", r"](study/\1.ipynb)", cell.source)
        table = r"\]\(\.\./figures/(\w+)/([\w-]+)\.csv\)"
        cell.source = re.sub(table, r"](study/\1-tables/\2.md)", cell.source)
        cell.source = cell.source.replace("](../figures/", "](figures/")
        cell.source = cell.source.replace("](site/pages/", "](")
    nbformat.write(nb, SOURCE / "results.ipynb")


def stretches(inked) -> list:  # of (first, end)
    "Where rows or columns hold something, between those that hold nothing."
    steps = np.flatnonzero(np.diff(np.pad(inked.astype(int), 1)))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist()))


def first_row(picture, columns) -> list:  # of images, one a column
    """Cut the pictures of the first row of Figure 2 out of it.

    A picture is known by its height, which is about the width of a column. The list is empty if
    the row cannot be cut into that many.
    """
    image = PIL.Image.open(picture).convert("RGB")
    inked = (np.asarray(image) < 250).any(2)
    bands = stretches(inked.any(1))
    tall = [band for band in bands if band[1] - band[0] > 0.7 * image.width / columns]
    if not tall:
        return []
    top, bottom = tall[0]
    across = stretches(inked[top:bottom].any(0))
    if len(across) != columns:
        return []
    return [image.crop((left, top, right, bottom)) for left, right in across]


def tiles(folder) -> str:  # Markdown
    "The pictures of the first row of Figure 2, each with its name."
    of = json.loads((folder / "fig2_examples.json").read_text())["parameters"]
    whole = folder / "fig2_examples.png"
    blocks = []
    names = ["Original", *(of["columns"] or list(of["bars"])[:3])]
    pieces = list(zip(names, first_row(whole, len(names))))
    if not pieces:
        pieces = [("Examples", PIL.Image.open(whole))]
    for n, (name, tile) in enumerate(pieces):
        tile.save(SOURCE / "generated" / f"example-{n}.png")
        alt = f":alt: {name}: a test image"
        blocks.append(f"```{{figure}} /generated/example-{n}.png\n{alt}\n\n{name}\n```\n")
    more = (
        "A test image, chosen without looking at any score.\n"
        f"[Details, errors and scores](study/{folder.name}.ipynb#figure-2-examples)"
    )
    return "\n".join(["::::{div} examples", ":::{div} tiles", *blocks, ":::", "", more, "::::", ""])


def chart(folder, scores) -> str:  # Markdown
    "Gains of a few networks in the sizes of the front page: one for a screen, one for a phone."
    of = json.loads((folder / "fig4_psnr.json").read_text())["parameters"]
    first, *others = of["columns"] or of["bars"]
    baseline = of["bars"][first]
    conditions = {label: [*of["bars"][label], of["task"]["name"]] for label in others}
    gains = seed_table(scores, conditions, ("psnr",), over=baseline)
    printed = (of.get("paper") or {}).get("psnr", {})
    printed = {label: printed[label] - printed[first] for label in others if label in printed}
    text = "Gain in PSNR over the input, on all and on leak-free test images, with 95 % intervals"
    blocks = []
    for name, size in CHART.items():
        figure = fig_scores(gains, printed=printed, size=size)
        save_figure(figure, SOURCE / "generated" / f"bars-{name}.png")
        blocks.append(
            f"```{{figure}} /generated/bars-{name}.png\n:alt: {text}\n:figclass: {name}\n```\n"
        )
    return "\n".join(["::::{div} bars", *blocks, "::::", ""])


def front(folder) -> str:  # Markdown
    "The study in one screen: examples, four claims and the gains; more claims on a click."
    of = json.loads((folder / "fig4_psnr.json").read_text())["parameters"]
    label, pair = [bar for bar in of["bars"].items() if bar[0].startswith("RUNet")][-1]
    scores = load_tables(folder / "per_image.csv.gz")
    gains = seed_table(scores, {label: [*pair, of["task"]["name"]]}, ("psnr",))
    gain = f"{label}: {gain_sentence(gains, label)}."
    if not (folder / "claims.csv").exists():
        return "\n".join(
            [gain, "", ":::::{div} front", tiles(folder), chart(folder, scores), ":::::", ""]
        )
    claims = pd.read_csv(folder / "claims.csv", keep_default_na=False)
    shown = front_claims(claims)
    first = (
        shown[shown.claim.isin(FIRST)] if set(FIRST) <= set(shown.claim) else shown.head(len(FIRST))
    )
    rest = shown.drop(first.index)
    judged = claims.list.ne("criticism").sum()
    counts = f"Of {judged} claims and contradictions of the paper: {verdict_counts(claims)}"

    def table(rows):
        return claims_html(rows, headings=False).data

    more = f"<details><summary>{len(rest)} more of them</summary>{table(rest)}</details>"
    return "\n".join(
        [
            gain,
            "",
            ":::::{div} front",
            tiles(folder),
            "::::{div} found",
            html_block(table(first)),
            html_block(more),
            "::::",
            "",
            chart(folder, scores),
            "::::{div} counts",
            f"{counts} ([all, with reasons](study/{folder.name}-tables/claims.md)).",
            "::::",
            ":::::",
            "",
        ]
    )


def html_block(text) -> str:
    return f"```{{raw}} html\n{text}\n```\n"


def study_index(folders) -> str:  # Markdown
    "The studies that are published, the one to read first on top."
    return listed(
        "The study",
        "Each page is the report of one study, with links to its tables and further figures.",
        [(f"{f.name}.ipynb", f.name, STUDIES.get(f.name) or title_of(f)) for f in folders],
    )


def source_page(file):
    "A module, with a target for each line."
    html = highlight(
        file.read_text(),
        PythonLexer(),
        HtmlFormatter(lineanchors="L", cssclass="highlight", linenos=False),
    )
    module = dotted(file, ROOT / "ctsr")
    notebook = f"../library/{module.replace('.', '/')}.ipynb"
    head = f"---\norphan: true\n---\n# ctsr.{module}\n\n[Notebook]({notebook})"
    (SOURCE / "source" / f"{module}.md").write_text(f"{head}\n\n{html_block(html)}")


def notebook_page(path):
    "A notebook of the study, which draws what other pages show."

    def fence(cell):
        return cell.source if cell.cell_type == "markdown" else f"````python\n{cell.source}\n````"

    cells = "\n\n".join(
        fence(cell) for cell in nbformat.read(path, as_version=4).cells if cell.cell_type != "raw"
    )
    (SOURCE / "source" / f"study-{path.stem}.md").write_text(f"---\norphan: true\n---\n{cells}\n")


def enlargeable(text, folder) -> str:  # HTML
    "Link every picture to its file; load it when it comes into view, in a place of its size."

    def picture(match):
        tag = match[0]
        src = match[1]
        if ' height="' in tag:
            return tag
        with PIL.Image.open(folder / src) as image:
            width, height = image.size
        shown = re.search(r'\bwidth="(\d+)"', tag)
        size = (
            f'height="{round(int(shown[1]) * height / width)}"'
            if shown
            else f'width="{width}" height="{height}"'
        )
        return tag.replace("<img", f'<img loading="lazy" {size}', 1)

    text = re.sub(r'<img\b[^>]*\bsrc="([^":]*_images/[^"]+\.png)"[^>]*>', picture, text)
    parts = re.split(r"(<a\b.*?</a>)", text, flags=re.S)
    return "".join(
        part
        if part.startswith("<a")
        else re.sub(
            r'(<img\b[^>]*\bsrc="([^":]*_images/[^"]+)"[^>]*>)', r'<a href="\2">\1</a>', part
        )
        for part in parts
    )


def named_cells(text, most=80) -> str:  # HTML
    """Name the column of each cell of a table, so that a narrow page shows a row as a list.

    Tables of more than `most` cells scroll instead.
    """

    def table(match):
        head, _, body = match[0].partition("</thead>")
        names = [name.replace('"', "&quot;") for name in re.findall(r"<th>(.*?)</th>", head)]
        if "<th" in body or not names or body.count("<td>") > most:
            return match[0]
        column = itertools.cycle(names)
        return (
            head.replace('class="dataframe"', 'class="dataframe stack"')
            + "</thead>"
            + re.sub("<td>", lambda _: f'<td data-is="{next(column)}">', body)
        )

    return re.sub(r'<table [^>]*class="dataframe">.*?</table>', table, text, flags=re.S)


def finish(page):
    "What Sphinx cannot be told about a page."
    page.write_text(
        named_cells(enlargeable(page.read_text(encoding="utf-8"), page.parent)), encoding="utf-8"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="notebooks executed side by side"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep notebooks that were executed before"
    )
    args = parser.parse_args()
    studies = sorted(
        (f for f in (ROOT / "figures").iterdir() if (f / "table_jobs.csv").exists()), key=rank
    )
    if not (args.keep and TREE.exists()):
        shutil.rmtree(WORK, ignore_errors=True)
        shutil.copytree(ROOT, TREE, ignore=LEFT_OUT)
        for folder in studies:
            write_report(folder)
        notebooks = [*library(TREE / "nbs"), TREE / "nbs" / "results.ipynb"]
        notebooks += map(report_of, studies)
        notebooks.sort(key=lambda path: (dotted(path, TREE) not in SLOW, path))
        print(f"executing {len(notebooks)} notebooks", flush=True)
        execute(notebooks, args.jobs)
        (TREE / "nbs" / "study" / ".notest").touch()
        run("-c", "from nbdev.serve import proc_nbs; proc_nbs(force=True, n_workers=0)")
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "nbs" / "site" / "pages", SOURCE)
    for folder in ("library", "source", "study", "generated"):
        (SOURCE / folder).mkdir(exist_ok=True)
    for file in (ROOT / "CITATION.cff", ROOT / "nbs" / "site" / "static" / "ctsr-math-LICENSE.txt"):
        shutil.copy2(file, SOURCE)
    known = symbols()
    rendered = library(TREE / "_proc")
    documented = {
        f"ctsr.{known[m].module}.{m}"
        for path in rendered
        for m in re.findall(r"show_doc\((\w+)\)", path.read_text())
        if m in known
    }
    lessons = {
        module: (f"{module.replace('.', '/')}.ipynb", title, about)
        for module, title, about in (lesson(path, known, documented) for path in rendered)
    }
    (SOURCE / "library" / "index.md").write_text(
        library_index([lessons[module] for module in in_order(list(lessons))])
    )
    for folder in studies:
        study_page(folder)
    results_page()
    (SOURCE / "study" / "index.md").write_text(study_index(studies))
    (SOURCE / "generated" / "front.md").write_text("---\norphan: true\n---\n" + front(studies[0]))
    for file in modules():
        source_page(file)
    for path in sorted((ROOT / "nbs" / "study").glob("*.ipynb")):
        notebook_page(path)
    settings = [
        "-c",
        str(ROOT / "nbs" / "site"),
        "-W",
        "--keep-going",
        "-q",
        "-j",
        "auto",
        "-b",
        "html",
    ]
    html = WORK / "html"
    shutil.rmtree(html, ignore_errors=True)
    if subprocess.run([sys.executable, "-m", "sphinx", *settings, SOURCE, html]).returncode:
        raise SystemExit("docs: Sphinx found the faults above")
    for page in html.rglob("*.html"):
        finish(page)
    shutil.rmtree(OUT, ignore_errors=True)
    html.rename(OUT)
    print(f"docs: {OUT.relative_to(ROOT)}/index.html")


if __name__ == "__main__":
    main()
