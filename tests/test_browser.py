"""The rendered book as a reader sees it: every page in a real headless browser, with no network."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pandas as pd
import pytest
import yaml

from chapters import BOOK
from make_book import render
from marn.experiments.results import publish
from marn.explain import TopWord
from marn.prediction import CodedNote, PredictedCode, write_coded

sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
# No word to the browser's maker, whose hosts may not be reachable, and no imitated graphics card.
QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SHEET = 26.7 / 2.54 * 96  # pixels of A4 between margins of 1.5 cm
DRAW_SECONDS = 60
PAGE_SECONDS = 120  # on a machine with much else to do
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# what hinders readers with a screen reader, a keyboard or weak sight
BARRIERS = """async () => (await axe.run({preload: false, resultTypes: ["violations"]})).violations
    .filter(found => found.impact !== "minor")
    .map(found => `${found.id}: ${found.nodes[0].html.slice(0, 200)}`)"""
# Takes away what axe would look at a thousand times: entries of the API page, words of code and
# rows of tables of kinds that the page has already, and the insides of equations.
THIN = """() => {
    const seen = new Set();
    const thin = (selector, above) => document.querySelectorAll(selector).forEach(part => {
        const place = part.closest(above).parentElement.className;
        const kinds = [part, ...part.querySelectorAll("*")].map(inner =>
            [place, inner.tagName, inner.className, inner.getAttribute("style")].join());
        if (kinds.every(kind => seen.has(kind))) part.remove();
        kinds.forEach(kind => seen.add(kind));
    });
    document.querySelectorAll("mjx-math").forEach(equation => { equation.textContent = "x"; });
    ["methods", "classes"].forEach(_ => thin("dl.py:not(:has(dl.py))", "dl"));
    thin("nav li:not(:has(li))", "nav");
    thin("pre span:not(:has(*))", "pre");
    thin("tbody tr", "table");
}"""
# boxes that scroll sideways and do not show it
CUT = """() => [...document.querySelectorAll(".bd-article *")].filter(box =>
    box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX)
    && box.clientWidth > 100 && !box.closest(".more-right, .more-left"))
    .map(box => `cut at the right: ${box.outerHTML.slice(0, 200)}`)"""
# equations that begin to the left of their box, or end to the right of their paragraph: lost
LOST = """() => [...document.querySelectorAll(".math > mjx-container")].filter(set =>
    set.getBoundingClientRect().left < set.parentElement.getBoundingClientRect().left - 1)
    .map(set => `its beginning is lost: ${set.parentElement.outerHTML.slice(0, 200)}`)
    .concat([...document.querySelectorAll("p span.math")].filter(set =>
    set.getBoundingClientRect().right > set.closest("p").getBoundingClientRect().right + 1)
    .map(set => `its end is lost: ${set.textContent}`))"""
# words of a figure that end outside of it, and legends that lie on curves or points
FIGURES = """() => [...document.querySelectorAll(".marn-fig")].flatMap(figure => {
    const canvas = figure.querySelector(".main-svg").getBoundingClientRect();
    const words = [...figure.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < canvas.left - 1 || box.right > canvas.right + 1;
    });
    const legend = figure.querySelector(".legend .bg")?.getBoundingClientRect();
    const within = at => legend && at.x > legend.left && at.x < legend.right
        && at.y > legend.top && at.y < legend.bottom;
    const curves = legend ? [...figure.querySelectorAll(".cartesianlayer path.js-line")] : [];
    const points = [...figure.querySelectorAll(".cartesianlayer path.point")];
    const covered = points.some(point => within(point.getBoundingClientRect()))
        || curves.some(curve => {
            const [length, shift] = [curve.getTotalLength(), curve.getScreenCTM()];
            return [...Array(50).keys()].some(i =>
                within(curve.getPointAtLength(length * i / 49).matrixTransform(shift)));
        });
    const found = words.map(text => `words are cut: ${text.textContent}`);
    return covered ? [...found, "a legend covers a curve"] : found;
})"""
# heights of tables that are moved to the next sheet in one piece
WHOLE = """tables => tables.filter(table => {
    const [style, box] = [table, table.closest(".output") ?? table].map(e => getComputedStyle(e));
    return style.breakInside === "avoid" || box.overflowX !== "visible";
}).map(table => table.getBoundingClientRect().height)"""
MATHS = "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"

# until what waits for a frame (observers of sizes, of the medium) has run
FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

# what is folded fades in when it is opened, and would be judged while it is pale
STILL = "document.getAnimations().forEach(animation => animation.cancel())"


def pages() -> list[str]:
    """Names of the pages in the table of contents."""
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text())

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, list):
            for entry in node:
                yield from walk(entry)
        elif isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key, []))

    return list(walk(contents))


def executable(playwright: Any) -> str | None:
    """Find a browser: on the path, the Mac's, or the one that the set-up installed."""
    candidates = [os.environ.get("MARN_BROWSER"), *map(shutil.which, NAMES)]
    candidates += [str(MAC), playwright.chromium.executable_path]
    return next((path for path in candidates if path and Path(path).exists()), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        if (path := executable(playwright)) is None:
            pytest.skip("no Chromium or Chrome here: apt-get install chromium")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
        arguments = [*QUIET, *(["--no-sandbox"] if root else [])]
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    render(BOOK, out)
    return out / "_build" / "html"


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """Open a page off line and look at all of it; gives the page and what is wrong with it.

    Pages of one theme and size follow each other in one window, which keeps what it has compiled.
    """
    windows: dict[tuple[str, int], tuple[Any, list[str]]] = {}

    def window(theme: str, viewport: dict[str, int]) -> tuple[Any, list[str]]:
        context = browser.new_context(viewport=viewport, color_scheme=theme, offline=True)
        page = context.new_page()
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: message.type == "error" and wrong.append(f"console: {message.text}"),
        )
        page.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("about:", "file:", "data:", "blob:"))
                or wrong.append(f"asks elsewhere: {request.url}")
            ),
        )
        return page, wrong

    def look(path: Path, theme: str, viewport: dict[str, int]) -> tuple[Any, list[str]]:
        key = (theme, viewport["width"])
        if key not in windows:
            windows[key] = window(theme, viewport)
        page, wrong = windows[key]
        page.goto("about:blank")  # what the last page leaves undone is not this one's fault
        wrong.clear()
        page.goto(path.as_uri(), wait_until="load", timeout=1000 * PAGE_SECONDS)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for number, figure in enumerate(page.query_selector_all(".marn-fig"), 1):
            figure.evaluate("figure => figure.scrollIntoView()")
            try:
                # The canvas can be drawn on, and has the page's width at most.
                page.wait_for_function(
                    "figure => figure.dataset.state === 'drawn'"
                    " && figure.querySelector('svg.main-svg').getBoundingClientRect().width > 100",
                    arg=figure,
                    timeout=1000 * DRAW_SECONDS,
                )
            except sync_api.TimeoutError:
                wrong.append(f"figure {number} is not drawn")
        try:
            page.wait_for_function(MATHS, timeout=1000 * DRAW_SECONDS)
        except sync_api.TimeoutError:
            wrong.append("an equation is not set")
        page.evaluate(FRAMES)
        page.evaluate(STILL)
        if (width := page.evaluate("document.documentElement.scrollWidth")) > viewport["width"]:
            wrong.append(f"{width} pixels wide in a window of {viewport['width']}")
        return page, wrong

    yield look
    for page, _ in windows.values():
        page.context.close()


@pytest.mark.parametrize("name", [*pages(), "genindex", "prf-prf", "py-modindex", "search"])
@pytest.mark.parametrize(
    ("theme", "viewport"),
    [("light", DESKTOP), ("dark", PHONE)],
    ids=["light-desktop", "dark-phone"],
)
def test_page_is_whole(
    site: Path, visit: Callable[..., Any], name: str, theme: str, viewport: dict[str, int]
) -> None:
    page, wrong = visit(site / f"{name}.html", theme, viewport)
    wrong += page.evaluate(CUT) + page.evaluate(LOST) + page.evaluate(FIGURES)
    page.evaluate(THIN)
    page.add_script_tag(path=AXE)
    assert not wrong + page.evaluate(BARRIERS)
    assert page.evaluate("document.documentElement.dataset.theme") == theme


def test_figures_follow_the_theme(site: Path, visit: Callable[..., Any]) -> None:
    with_figure = (path for path in sorted(site.glob("*.html")) if "marn-fig" in path.read_text())
    page, _ = visit(next(with_figure), "light", DESKTOP)
    colour = "() => document.querySelector('.marn-fig .js-plotly-plot')._fullLayout.font.color"
    before = page.evaluate(colour)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(f"before => ({colour})() !== before", arg=before, timeout=10_000)
    luminance = sum(int(page.evaluate(colour)[i : i + 2], 16) for i in (1, 3, 5)) / 3
    assert luminance > 150  # light letters on the dark page


@pytest.fixture
def figures_page(site: Path, browser: Any) -> Iterator[Any]:
    """The page with the most figures, dark, with nothing scrolled into view."""
    path = max(site.glob("*.html"), key=lambda page: page.read_text().count("marn-fig"))
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark", offline=True)
    page = context.new_page()
    # and not a moment longer: it may be printed now
    page.goto(path.as_uri(), wait_until="load", timeout=1000 * PAGE_SECONDS)
    yield page
    context.close()


def test_every_figure_is_on_paper(figures_page: Any) -> None:
    state = """() => [...document.querySelectorAll('.marn-fig')].map(figure => [
        !!figure.querySelector('.main-svg'),
        figure.querySelector('.js-plotly-plot')?._fullLayout.width,
        figure.querySelector('.js-plotly-plot')?._fullLayout.font.color,
        document.documentElement.dataset.theme])"""
    figures_page.evaluate(f"addEventListener('beforeprint', () => window.paper = ({state})())")
    figures_page.pdf()
    paper = figures_page.evaluate("window.paper")
    assert len(paper) > 1
    assert {(drawn, width, theme) for drawn, width, _, theme in paper} == {(True, 640, "light")}
    screen = figures_page.evaluate(f"({state})()")
    assert {theme for *_, theme in screen} == {"dark"}
    assert not {colour for *_, colour, _ in paper} & {colour for *_, colour, _ in screen}


def test_what_is_on_paper_fits_a_sheet(figures_page: Any) -> None:
    figures_page.set_viewport_size({"width": 680, "height": 900})  # 21 cm without the margins
    cut = "[...document.querySelectorAll('pre')].filter(p => p.scrollWidth > p.clientWidth).length"
    assert figures_page.evaluate(cut)
    figures_page.emulate_media(media="print")
    figures_page.evaluate(FRAMES)  # figures hear of the medium a frame later
    assert not figures_page.evaluate(cut)
    found = figures_page.eval_on_selector_all(
        ".marn-fig",
        "all => all.map(f => [f.scrollWidth - f.clientWidth, f.getBoundingClientRect().height])",
    )
    assert max(over for over, _ in found) == 0
    assert max(height for _, height in found) < SHEET / 2  # two to a sheet


def test_a_head_is_on_one_sheet_and_a_long_table_on_several(site: Path, browser: Any) -> None:
    # 18 cm wide; without scripts, which this does not need
    context = browser.new_context(viewport={"width": 680, "height": 900}, java_script_enabled=False)
    page = context.new_page()
    page.emulate_media(media="print")
    for name in pages():
        page.goto((site / f"{name}.html").as_uri(), timeout=1000 * PAGE_SECONDS)
        head = page.locator(".admonition.tip").first
        if head.count():
            box = head.bounding_box()
            assert box["y"] + box["height"] < SHEET, name
        assert not page.locator("details:visible").count(), name  # folded code
        assert max(page.eval_on_selector_all("table", WHOLE), default=0) < SHEET / 2, name
    context.close()


def test_figures_offer_nothing_to_the_cloud(site: Path, visit: Callable[..., Any]) -> None:
    with_figure = (path for path in sorted(site.glob("*.html")) if "marn-fig" in path.read_text())
    page, _ = visit(next(with_figure), "light", DESKTOP)
    titles = page.eval_on_selector_all(".modebar-btn", "all => all.map(b => b.dataset.title)")
    assert titles
    assert not [title for title in titles if "Share" in (title or "")]
    context = (
        "all => all.map(plot => [plot._context.showSendToCloud, plot._context.plotlyServerURL])"
    )
    found = page.eval_on_selector_all(".js-plotly-plot", context)
    assert {tuple(settings) for settings in found} == {(False, "")}


def test_buttons_of_figures_can_be_read(site: Path, visit: Callable[..., Any]) -> None:
    with_button = (
        path for path in sorted(site.glob("*.html")) if "updatemenus" in path.read_text()
    )
    page, _ = visit(next(with_button), "dark", DESKTOP)
    colours = page.eval_on_selector_all(
        ".marn-fig .updatemenu-button",
        """buttons => buttons.map(button => ["rect", "text"].map(part =>
            getComputedStyle(button.querySelector(part)).fill.match(/[0-9.]+/g).map(Number)))""",
    )
    assert len({tuple(box) for box, _ in colours}) > 1  # the chosen one stands out
    for box, letters in colours:
        assert sum(letters[:3]) - sum(box[:3]) > 250


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_that_commands_write_fit_a_phone(
    tmp_path: Path, visit: Callable[..., Any], theme: str
) -> None:
    table = pd.DataFrame({f"column_{i}": ["x" * 300] for i in range(9)})
    publish(table, tmp_path / "table")
    text = "chest pain " * 40 + "y" * 300
    weights, top = np.array([1, 0.2], np.float32), [TopWord("y" * 300, 1, 0, 5)]
    code = PredictedCode(0, "I10", "Hypertension " * 9, 0.5, weights, top, True, "98", "Pressure")
    note = CodedNote("z" * 200, text, np.array([(0, 5), (6, 10)]), [code], "a remark")
    with (tmp_path / "notes.html").open("w", encoding="utf-8") as file:
        write_coded([note], file, ".html", "Codes")
    for name in ("table", "notes"):
        page, wrong = visit(tmp_path / f"{name}.html", theme, PHONE)
        page.add_script_tag(path=AXE)
        assert not wrong + page.evaluate(BARRIERS)


@pytest.mark.parametrize(
    ("body", "looks", "complaint"),
    [
        ("<img src='data:,'>", BARRIERS, "image-alt"),
        ("<p style='color: #ccc; background: #fff'>pale", BARRIERS, "color-contrast"),
        (
            "<div class='bd-article'><pre style='overflow: auto; width: 200px'>" + "a" * 99,
            CUT,
            "cut at the right",
        ),
        (
            "<div class=math style='width: 200px; display: flex; justify-content: center'>"
            "<mjx-container style='flex: 0 0 300px'>a",
            LOST,
            "beginning is lost",
        ),
        (
            "<p style='width: 20px'><span class=math style='padding: 9px'>abc",
            LOST,
            "end is lost",
        ),
    ],
)
def test_a_barrier_is_noticed(
    tmp_path: Path, browser: Any, body: str, looks: str, complaint: str
) -> None:
    page = browser.new_page()
    (tmp_path / "page.html").write_text(f"<!doctype html><html lang=en><title>a</title>{body}")
    page.goto((tmp_path / "page.html").as_uri())
    page.add_script_tag(path=AXE)
    assert complaint in " | ".join(page.evaluate(looks))
    page.close()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<script>console.error('a')</script>", "console: a"),
        ("<script>throw Error('b')</script>", "error: b"),
        ("<img src='gone.png'>", "not loaded"),
        ("<script src='http://127.0.0.1:9/c.js'></script>", "asks elsewhere"),
        ("<div style='width: 2000px'>d</div>", "2000 pixels wide"),
        ("<div class='marn-fig'>e</div>", "figure 1 is not drawn"),
        ("<span class='math'>f</span>", "an equation is not set"),
    ],
)
def test_a_broken_page_is_noticed(
    tmp_path: Path,
    visit: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    complaint: str,
) -> None:
    monkeypatch.setitem(globals(), "DRAW_SECONDS", 1)
    page = tmp_path / "broken.html"
    page.write_text(f"<!doctype html><body style='margin: 0'>{body}")
    assert complaint in " | ".join(visit(page, "light", DESKTOP)[1])
