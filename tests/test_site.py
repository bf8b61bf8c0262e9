"The documentation site: built from executed notebooks, and driven in a browser where there is one."

import functools
import html
import http.server
import json
import re
import resource
import subprocess
import sys
import threading
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

pytestmark = pytest.mark.slow
# A lesson imports these; building the site may take so many times their processor time.
IMPORTS = "import torch, pandas, seaborn, skimage.metrics, scipy.stats"
MOST = 200
CAPTURED = dict(capture_output=True, text=True)

# Pictures of a page that do not load.
BROKEN_PICTURES = """async () => {
    const all = [...document.querySelectorAll('article img')];
    all.forEach(image => image.loading = 'eager');
    const came = await Promise.allSettled(all.map(image => image.decode()));
    const failed = (image, n) => came[n].reason || !image.naturalWidth;
    return all.filter(failed).map(image => image.src);
}"""
# Width, lower edge and scale of each visible picture that a selector names.
PICTURE_BOXES = """selector => [...document.querySelectorAll(selector)]
    .map(image => [image, image.getBoundingClientRect()])
    .map(([image, box]) => [box.width, box.bottom, box.width / image.getAttribute('width')])
    .filter(([width]) => width)"""
# Lower edge of an element.
LOWER_EDGE = "selector => document.querySelector(selector).getBoundingClientRect().bottom"
# Pixels by which tables that should be lists are too wide for their parents.
LISTS_TOO_WIDE = """() => [...document.querySelectorAll('article :is(.claims, .stack)')]
    .map(table => table.scrollWidth - table.parentElement.clientWidth)"""
# Contrast of text and ground (WCAG 2.1), and the luminance of the ground, of each text element.
CONTRASTS = r"""() => {
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const ground = element => {
        if (!element) return [255, 255, 255];
        const colour = numbers(getComputedStyle(element).backgroundColor);
        const opaque = colour.length < 4 || colour[3] > .5;
        return opaque ? colour : ground(element.parentElement);
    };
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const luminance = colour => colour.slice(0, 3).map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const both = element => {
        const text = luminance(numbers(getComputedStyle(element).color));
        const below = luminance(ground(element));
        const contrast = (Math.max(text, below) + .05) / (Math.min(text, below) + .05);
        return [contrast, below];
    };
    const selector = 'article :is(p, h1, h2, td, th, dt, dd, pre, code)';
    const elements = [...document.querySelectorAll(selector)];
    return elements.filter(element => element.innerText.trim()).map(both);
}"""
EQUATION_HEIGHTS = """() => [...document.querySelectorAll('.equation math')]
    .map(equation => equation.getBoundingClientRect().height)"""
# Pixels by which subscripts lie below their bases.
SUBSCRIPTS = """() => [...document.querySelectorAll('.equation msub')]
    .map(pair => [...pair.children].map(part => part.getBoundingClientRect().bottom))
    .map(([base, subscript]) => subscript - base)"""


def processor_seconds():
    "Of the children of this process, and of theirs."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def site(root):
    "The site as `make docs` builds it: every notebook executed, warnings are errors."
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    imports = processor_seconds() - before
    done = subprocess.run([sys.executable, "nbs/site/build.py"], cwd=root, **CAPTURED)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    taken = processor_seconds() - before - imports
    print(f"site: {taken:.0f} s of processor time, imports {imports:.1f} s")
    print(done.stdout[-3000:])
    assert taken < MOST * imports, f"building took {taken / imports:.0f} times the imports"
    return root / "_docs"


class Links(HTMLParser):
    "What a page refers to, and what on it can be referred to."

    def __init__(self, text):
        super().__init__()
        self.to = []
        self.ids = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.to += [attrs[k] for k in ("href", "src") if attrs.get(k)]


def well_formed(link):  # of another host; nothing is fetched
    parts = urlsplit(link)
    return (
        parts.scheme == "https"
        and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
        and not re.search(r"[\s\\<>\"{}]|%(?![0-9A-Fa-f]{2})", link)
    )


def test_every_link_resolves_and_nothing_is_fetched_from_elsewhere(site):
    pages = {
        path: Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    assert len(pages) > 60
    broken = []
    foreign = []
    for page, links in pages.items():
        for link in links.to:
            if link.startswith(("data:", "mailto:", "javascript:")):
                continue
            if re.match(r"https?://|//", link):
                foreign.append((page.name, link))
                continue
            where, anchor = urldefrag(unquote(link).split("?")[0])
            target = (page.parent / where).resolve() if where else page
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                broken.append((page.name, link))
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.append((page.name, link))
    assert not broken, broken[:10]
    malformed = [(page, link) for page, link in foreign if not well_formed(link)]
    assert foreign and not malformed, malformed[:10]
    fetched = [f for f in foreign if re.search(r"\.(js|css|woff2?|png|svg)(\?|$)", f[1])]
    assert not fetched, fetched[:10]


def test_every_notebook_of_the_library_is_a_page(site, root):
    folders = [path.parent.name for path in (root / "ctsr").glob("*/__init__.py")]
    notebooks = [path for name in folders for path in (root / "nbs" / name).glob("*.ipynb")]
    names = {str(path.relative_to(root / "nbs").with_suffix("")) for path in notebooks}
    assert names == {
        str(p.relative_to(site / "library").with_suffix(""))
        for p in (site / "library").glob("*/*.html")
    }


@pytest.fixture(scope="module")
def served(site):
    "The site behind a web server, as plain files."
    quiet = type(
        "Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *_: None)
    )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


DESK = dict(width=1280, height=720)
PHONE = dict(width=390, height=844)


class Visit(NamedTuple):
    "What a browser found on a page."

    errors: list  # printed or raised
    broken: list  # pictures that do not load
    wide: int  # px that do not fit on a phone
    lists: list  # px by which tables that should be lists do not fit on a phone


def visit(page, address) -> Visit:
    "Load a page at a desk, then make it as narrow as a phone."
    errors = []

    def note(message):
        if message.type == "error":
            errors.append(message.text)

    def note_exception(error):
        errors.append(str(error))

    page.set_viewport_size(DESK)
    page.on("console", note)
    page.on("pageerror", note_exception)
    page.goto(address, wait_until="load")
    broken = page.evaluate(BROKEN_PICTURES)
    page.set_viewport_size(PHONE)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    lists = page.evaluate(LISTS_TOO_WIDE)
    page.remove_listener("console", note)
    page.remove_listener("pageerror", note_exception)
    return Visit(errors, broken, wide, lists)


@pytest.fixture(scope="module")
def visits(site, served, browser) -> dict:  # name -> Visit
    "All pages, and some of those of the source."
    page = browser.new_page()
    sources = [f"source/{p.name}" for p in sorted((site / "source").glob("*.html"))[::20]]
    found = {name: visit(page, f"{served}/{name}") for name in [*pages(site), *sources]}
    page.close()
    return found


@pytest.mark.browser
def test_pages_load_without_an_error_and_show_their_pictures(visits):
    faulty = {name: seen for name, seen in visits.items() if seen.errors or seen.broken}
    assert len(visits) > 60 and not faulty


def test_a_report_shows_its_tables_and_figures(site):
    text = (site / "study" / "quick.html").read_text(encoding="utf-8")
    assert text.count("<img") >= 5 and text.count("<table") >= 2 and "SR3, one sample" in text
    words = re.sub(r"<[^>]+>", " ", text[text.index("<article") : text.index("</article>")]).split()
    assert len(words) <= 3000


@pytest.mark.browser
def test_a_table_has_its_own_page_and_is_sorted_by_a_click(site, served, browser, root):
    names = {p.stem for p in (root / "figures" / "quick").glob("table_*.csv")}
    assert names - {"table_images"} <= {
        p.stem for p in (site / "study/quick-tables").glob("*.html")
    }
    page = browser.new_page()
    page.goto(f"{served}/study/quick-tables/table_cost.html", wait_until="load")
    column = (
        "() => [...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[3].innerText)"
    )
    for falls in (False, True):
        page.click(".sortable th:nth-child(4)")
        values = [float(text) for text in page.evaluate(column)]
        assert len(set(values)) > 1 and values == sorted(values, reverse=falls)
    page.close()


def test_every_figure_of_a_report_can_be_linked_and_says_how_it_was_made(site, root):
    sections = {
        "fig2_examples": "#figure-2-examples",
        "fig_scores": "#gain-over-the-input",
        "fig_tradeoff": "#psnr-against-lpips",
    }
    assert set(sections) <= {p.stem for p in (root / "figures" / "full").glob("*.png")}
    for study in ("full", "quick"):
        text = (site / "study" / f"{study}.html").read_text(encoding="utf-8")
        further = (site / "study" / f"{study}-figures.html").read_text(encoding="utf-8")
        drawn = {p.stem for p in (root / "figures" / study).glob("*.png")}
        contents = text[text.index('class="page-toc') :]
        made = re.findall(r'<div class="made.*?</div>', text + further, flags=re.S)
        assert len(made) >= 10
        for words in made:
            assert re.search(r'href="\.\./source/study-\w+\.html"', words), words
            assert re.search(r'<a [^>]*download[^>]*href="[^"]*\.json"', words), words
        found = [n for words in made for n in re.findall(r"([\w-]+)\.json</span>", words)]
        assert len(found) == len(made) and set(found) == drawn
        wanted = {sections[name] for name in drawn & set(sections)}
        assert wanted <= set(re.findall(r'href="(#[\w-]+)"', contents))


class Pictures(HTMLParser):
    "The pictures of a page: whether each links to its file, and its alternative text."

    def __init__(self, text):
        super().__init__()
        self.links = []
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.links.append(dict(attrs).get("href"))
        if tag == "img" and "_images/" in (src := dict(attrs).get("src", "")):
            self.found.append((src, self.links[-1:] == [src], dict(attrs).get("alt")))

    def handle_endtag(self, tag):
        if tag == "a" and self.links:
            self.links.pop()


def test_lessons_show_what_they_draw(site):
    for name in (
        "data/prepare",
        "data/degrade",
        "models/diffusion",
        "apps/compare",
        "metrics/fidelity",
        "data/phantom",
        "figures/conditions",
        "models/sr3",
        "apps/upscale",
    ):
        text = (site / "library" / f"{name}.html").read_text(encoding="utf-8")
        assert Pictures(text).found and "&lt;Figure size" not in text, name


def test_pictures_can_be_enlarged_and_those_of_a_report_are_described(site):
    for page in ("index", "study/quick", "library/figures/conditions"):
        found = Pictures((site / f"{page}.html").read_text(encoding="utf-8")).found
        assert found and all(leads for _, leads, _ in found), page
        if page != "library/figures/conditions":
            assert all(alt and "_images" not in alt for *_, alt in found), page


@pytest.mark.browser
def test_a_laptop_shows_the_first_table_of_a_report_whole(served, browser):
    page = browser.new_page(viewport=dict(width=1280, height=800))
    page.goto(f"{served}/study/quick.html", wait_until="load")
    width = "selector => document.querySelector(selector).getBoundingClientRect().width"
    table = page.evaluate(width, "article table")
    column = page.evaluate(width, "article")
    assert table <= column, f"{table:.0f} px in {column:.0f}"
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    "width, height, tile, chart",
    [(1280, 800, 130, 600), (1366, 768, 130, 600), (1000, 800, 130, 600), (390, 844, 150, 330)],
)
def test_the_front_page_is_readable_and_fits_the_screen_of_a_laptop(
    served, browser, root, width, height, tile, chart
):
    page = browser.new_page(viewport=dict(width=width, height=height))
    page.goto(f"{served}/index.html", wait_until="load")
    tiles = page.evaluate(PICTURE_BOXES, ".front .tiles img")
    charts = page.evaluate(PICTURE_BOXES, ".front .bars img")
    made = json.loads((root / "figures" / "full" / "fig2_examples.json").read_text())["parameters"]
    shown = 1 + len(made["columns"] or list(made["bars"])[:3])  # the original, and each method
    assert len(tiles) == shown and len(charts) == 1
    assert min(w for w, *_ in tiles) >= tile and charts[0][0] >= chart, (tiles, charts)
    # The smallest letters of the chart have 7 points at 200 dots an inch. Tiles have none.
    letters = 7 * 200 / 72 * charts[0][2]
    assert letters > 10, f"letters of {letters:.1f} px"
    if width > 1200:
        ends = [bottom for _, bottom, _ in [*tiles, *charts]]
        selectors = [".front .claims", ".front .examples > p"]
        if height >= 800:
            selectors.append(".front .counts")
        ends += [page.evaluate(LOWER_EDGE, selector) for selector in selectors]
        assert max(ends) <= height, ends
    page.close()


@pytest.mark.browser
def test_search_finds_what_is_there(served, browser):
    page = browser.new_page()
    page.goto(f"{served}/search.html?q=bootstrap", wait_until="load")
    page.wait_for_selector("#search-results li", timeout=20_000)
    found = page.inner_text("#search-results")
    assert "Statistics" in found
    page.close()


def pages(site):  # to read, without those of source and of Sphinx itself
    return [
        str(p.relative_to(site))
        for p in sorted(site.rglob("*.html"))
        if p.parent.name != "source" and "_static" not in p.parts
    ]


@pytest.mark.browser
def test_a_phone_shows_it_without_scrolling_sideways(site, visits):
    for name in pages(site):
        seen = visits[name]
        assert seen.wide <= 1, f"{name}: {seen.wide} px too wide"
        assert all(more <= 1 for more in seen.lists), (
            f"{name}: a table that should be a list needs {max(seen.lists)} px more"
        )
        if name in ("study/full.html", "study/quick.html"):
            assert seen.lists, name


@pytest.mark.browser
def test_it_is_dark_where_a_reader_wants_it_and_text_stands_out(served, browser):
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        for name in ("index", "study/quick", "library/evaluation/scores", "use/upscale"):
            page.goto(f"{served}/{name}.html", wait_until="load")
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found = page.evaluate(CONTRASTS)
            assert found and min(contrast for contrast, _ in found) > 3, (scheme, name)
            assert all((ground < 0.2) == (scheme == "dark") for _, ground in found), (scheme, name)
        page.close()


@pytest.mark.browser
def test_equations_are_drawn(served, browser):
    page = browser.new_page()
    page.goto(f"{served}/library/metrics/fidelity.html", wait_until="load")
    heights = page.evaluate(EQUATION_HEIGHTS)
    assert heights and min(heights) > 15
    page.goto(f"{served}/library/models/diffusion.html", wait_until="load")
    font = "document.fonts.ready.then(() => document.fonts.check('16px \"ctsr Math\"'))"
    assert page.evaluate(font)
    below = page.evaluate(SUBSCRIPTS)
    assert below and min(below) > 0.5 and max(below) > 4, "a subscript no lower than its base"
    page.close()


def test_the_font_has_what_equations_hold(site, root):
    from fontTools.ttLib import TTFont

    font = TTFont(root / "nbs" / "site" / "static" / "ctsr-math.woff")
    held = set()
    for page in site.rglob("*.html"):
        for text in re.findall(
            r"<m(?:i|n|o|text)\b[^>]*>([^<]+)<", page.read_text(encoding="utf-8")
        ):
            held |= set(html.unescape(text))
    assert (
        "MATH" in font
        and held
        and {c for c in held if not c.isspace()} <= {chr(c) for c in font.getBestCmap()}
    )
