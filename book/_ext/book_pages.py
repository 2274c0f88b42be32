"""Extend Sphinx for the pages of this book, and of no other book.

Notebooks store a figure as plotly JSON. `read_notebook` turns it into an element that `book.js`
draws with the plotly.js of the installed plotly package, copied next to the pages: nothing is
fetched from elsewhere, and figure and script always agree.
"""

import hashlib
import html
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import nbformat
import plotly
from docutils import nodes
from nbformat import NotebookNode
from sphinx.util.docutils import SphinxDirective

PLOTLY_MIME = "application/vnd.plotly.v1+json"
STATIC = Path(__file__).parent / "static"
DEFAULT_HEIGHT = 450  # pixels; plotly's own
TAG = re.compile(r"<[^>]*>")
# pandas writes a row of column titles, and below it a row of the names of the index
TITLES = re.compile(
    r"((?:<td></td>\s*)+)((?:<th[^>]*>[^<]*</th>\s*)+)</tr>\s*"
    r"<tr>\s*((?:<th>[^<]+</th>\s*)+)(?:<td></td>\s*)+</tr>"
)
EQUATION = re.compile(r'<span class="math[^>]*>[^<]*</span>[,.;:)]')  # with its punctuation
FIGURE_LINK = re.compile(r"\[([^\]]+)\]\([\w.]+#cell-id=([\w-]+)\)")


def read_notebook(text: str) -> NotebookNode:
    """Read a notebook whose outputs MyST-NB can render (`nb_custom_formats` in `_config.yml`).

    Args:
        text: content of an `.ipynb` file.

    Returns:
        The notebook, with each figure as an HTML element that has the caption of the cell below it.
    """
    notebook = nbformat.reads(text, as_version=4)
    figures = [cell for cell in notebook.cells if "figure" in cell.metadata]
    labels = {cell.id: cell.metadata["figure"]["label"] for cell in figures}
    cells = []
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], NotebookNode()], strict=True):
        if cell.cell_type == "markdown":
            if "caption" in cell.metadata.get("tags", []):
                continue
            cell.source = cell.metadata.get("page", cell.source)
            # the target is an id in raw HTML, which MyST cannot resolve
            cell.source = FIGURE_LINK.sub(
                lambda m: f'<a href="#{labels[m[2]]}">{m[1]}</a>', cell.source
            )
        figure = cell.metadata.get("figure", {})
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY_MIME in data:
                output.data = NotebookNode({"text/html": plot_html(data[PLOTLY_MIME], figure)})
        if figure and cell.outputs:
            data = cell.outputs[-1].data
            data["text/html"] = figure_html(data["text/html"], figure["label"], below.source)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def figure_html(content: str, label: str, caption: str) -> str:
    """Return the HTML of a figure with its caption.

    Args:
        content: HTML of the figure.
        label: its `id`, for links.
        caption: plain text with Markdown's `**` and backticks.
    """
    text = html.escape(caption, quote=False)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text))
    return f'<figure id="{label}">{content}<figcaption>{text}</figcaption></figure>'


def plot_html(plot: dict[str, Any], figure: dict[str, str]) -> str:
    """Return one plotly figure as the element that `book.js` draws.

    Args:
        plot: plotly JSON with "data", "layout" and perhaps "frames" and "config".
        figure: metadata of the cell; "alt" is the text for screen readers, by default the title.

    Returns:
        HTML with the figure's JSON in it.
    """
    parts = ("data", "layout", "frames", "config")
    kept = {part: plot[part] for part in parts if plot.get(part)}
    layout = dict(kept.get("layout", {}))
    layout.pop("template", None)  # the page supplies it: light or dark
    kept["layout"] = layout
    height = int(layout.get("height") or DEFAULT_HEIGHT)
    title = html.unescape(TAG.sub(" ", (layout.get("title") or {}).get("text") or "Figure"))
    label = html.escape(figure.get("alt", title), quote=True)
    # No "<" at all: "<!--<script>" in a title would swallow the rest of the page
    body = json.dumps(kept, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="marn-fig" role="group" aria-label="{label}" style="min-height:{height}px">'
        f'<script type="application/json">{body}</script>'
        "<noscript>This figure needs JavaScript.</noscript></div>"
    )


def readable(body: str) -> str:
    """Correct HTML of Sphinx and pandas that hinders readers or screen readers.

    Empty header cells become data cells, the two header rows of an indexed table become one,
    intervals and punctuated equations stay on one line, and long names may break at underscores.

    Example:
        >>> readable('<th class="head"></th>')
        '<td class="head"></td>'
    """
    body = re.sub(r"<th([^>]*)>\s*(<p></p>)?\s*</th>", r"<td\1></td>", body)
    body = TITLES.sub(
        lambda m: f"{m[3]}{m[2]}</tr>" if m[1].count("<td>") == m[3].count("<th>") else m[0], body
    )
    # on one line: intervals, and an equation with the punctuation after it
    body = re.sub(r"(?<=\d) (±|to) (?=[-+]?\d)", "\u00a0\\1\u00a0", body)
    body = EQUATION.sub(r'<span class="text-nowrap">\g<0></span>', body)
    return re.sub(r"(?<=<th>)\w+(?=</th>)", lambda name: name[0].replace("_", "_<wbr>"), body)


class Modules(SphinxDirective):
    """Document modules, and packages with each of their modules: `.. modules:: NAME ...`."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Write one `automodule` for each module; what a package re-exports is documented once."""
        lines = []
        for name in self.arguments[0].split():
            path = getattr(importlib.import_module(name), "__path__", ())
            inner = sorted(module.name for module in pkgutil.iter_modules(path, f"{name}."))
            for module in (name, *inner):
                lines += [f".. rubric:: {module}", "", f".. automodule:: {module}"]
                lines += ["   :no-members:"] * (module == name and bool(inner))
                lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


class PublicNames(SphinxDirective):
    """Link to the classes and functions in a package's `__all__`: `.. public-names:: PACKAGE`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write an `autosummary` of them, by the modules that define them."""
        package = importlib.import_module(self.arguments[0])
        members = dict.fromkeys(getattr(package, name) for name in package.__all__)
        lines = [".. autosummary::", "   :nosignatures:", ""]
        lines += [
            f"   ~{member.__module__}.{member.__qualname__}"
            for member in members
            if not inspect.ismodule(member)
        ]
        return self.parse_text_to_nodes("\n".join(lines) + "\n")


def _prepare_docstring(app: Any, what: str, name: str, *parts: Any) -> None:
    lines: list[str] = parts[-1]
    # an indented block after a colon and an empty line is code
    for i, (line, gap, block) in enumerate(zip(lines, lines[1:], lines[2:], strict=False)):
        indent = len(line) - len(line.lstrip())
        code = block.startswith(" " * (indent + 4)) and not block.lstrip().startswith(">>>")
        if line.endswith(":") and not line.endswith("::") and not gap and code:
            lines[i] += ":"
        if line.strip() in {"Returns:", "Yields:"}:
            lines[i + 1] = gap[: len(gap) - len(gap.lstrip())] + ": " + gap.lstrip()
    # Napoleon would take the first words of a result or an attribute for its type if a colon
    # follows them; before a result it skips an empty type
    if what in {"attribute", "data", "property"}:
        lines.insert(0, "\\ ")  # Napoleon would skip an empty line


def _skip_field(app: Any, what: str, name: str, member: Any, *rest: Any) -> bool | None:
    # skip fields of named tuples without a docstring of their own
    return True if (inspect.getdoc(member) or "").startswith("Alias for field") else None


def _add_static(app: Any) -> None:
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    app.config.html_static_path += [str(STATIC), str(script)]
    app.add_css_file("book.css")
    app.add_js_file("book.js", loading_method="defer", priority=801)


def _finish_page(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    context["body"] = body = readable(context.get("body", ""))
    if 'class="marn-fig"' in body:
        app.add_js_file("plotly.min.js", loading_method="defer", priority=800)
    # sphinx-thebe registers its constants twice; the second `const` is a SyntaxError on every page
    seen: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        code = getattr(script, "attributes", {}).get("body") or ""
        if "THEBE_JS_URL" in code and code in seen:
            continue
        seen.add(code)
        kept.append(script)
    context["script_files"][:] = kept


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("modules", Modules)
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-skip-member", _skip_field)
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=400)  # before napoleon
    app.connect("builder-inited", _add_static)
    app.connect("html-page-context", _finish_page)
    # Sphinx copies scripts only with pages that it writes, so a change of this file or of a script
    # changes the version, which makes it write all pages
    own = hashlib.sha256(plotly.__version__.encode())
    for file in sorted([Path(__file__), *STATIC.iterdir()]):
        own.update(file.read_bytes())
    return {
        "version": "1",
        "env_version": int(own.hexdigest()[:8], 16),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
