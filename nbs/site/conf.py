"Settings of the documentation site; `nbs/site/build.py` makes its pages."

import re
import unicodedata
from configparser import ConfigParser
from pathlib import Path

from latex2mathml.converter import convert

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).parents[2] / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project = settings["title"]
author = settings["author"]
release = settings["version"]
copyright = settings["copyright"]
extensions = ["myst_nb", "sphinx_design"]
nb_execution_mode = "off"
nb_merge_streams = True
highlight_language = "none"  # of what names none: commands
suppress_warnings = [
    "myst.header"
]  # a lesson may begin with a definition, which is a heading of the third level
exclude_patterns = ["generated/*"]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "pydata_sphinx_theme"
html_title = settings["title"]
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["ctsr.css"]
html_js_files = [("sort.js", {"defer": "defer"})]
html_sidebars = {"index": [], "results": [], "study/*": [], "study/*/*": []}  # room for wide tables
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
html_context = dict(default_mode="auto")
html_theme_options = dict(
    navbar_align="left",
    show_toc_level=2,
    navigation_with_keys=False,
    secondary_sidebar_items=["page-toc"],
    footer_end=[],
    pygments_light_style="tango",
    pygments_dark_style="monokai",
)
if settings["user"] != settings["repo"]:  # else git_url is nobody's
    html_theme_options["icon_links"] = [
        dict(name="Source", url=settings["git_url"], icon="fa-solid fa-code")
    ]


def styled(match):  # of a capital with `mathvariant`, which browsers heed no longer
    "The letter of Unicode that has that style."
    name = f"{match[1].upper()} CAPITAL {match[2]}"
    try:
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
    except KeyError:
        return f"<mi>{unicodedata.lookup(name)}</mi>"  # older than its alphabet


def equation(text, display) -> str:  # MathML
    "An equation, without what the converter leaves to be desired."
    html = convert(re.sub(r"(?<!\\)\\\|", r"\\Vert ", text), display=display).replace(
        r"\Vert", "&#x02016;"
    )
    html = re.sub(r'<mi mathvariant="(bold|script|double-struck)">([A-Z])</mi>', styled, html)
    html = html.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # "is distributed as"
    html = re.sub(
        r"<mo [^>]*>&#x02016;", '<mo stretchy="false">&#x02016;', html
    )  # which would not grow with an index on it
    html = re.sub(r"<mi>([;:])</mi>", r"<mo>\1</mo>", html)
    html = re.sub(
        r'<mover>(<mi>[^<]*</mi>)<mo stretchy="true">&#x000AF;',
        r'<mover accent="true">\1<mo stretchy="false">&#x000AF;',
        html,
    )
    return re.sub(
        r"(<mo[^>]*>(?:\(|&#x00028;|\[|&#x0002C;|&#x0003D;)</mo>)<mo>&#x02212;",
        r'\1<mo form="prefix">&#x02212;',
        html,
    )  # a sign


def mathml(self, node, display):
    "Equations as MathML, which browsers render themselves."
    from docutils import nodes

    html = equation(node.astext(), display)
    self.body.append(f'<div class="equation">{html}</div>' if display == "block" else html)
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: mathml(self, node, "inline"), None),
        (lambda self, node: mathml(self, node, "block"), None),
    )
