"""What the rendered page needs: a Sphinx extension; tied to nothing else in the library.

Figures are stored as plotly JSON and drawn by the plotly.js of the installed plotly package, copied
next to the pages: nothing is fetched from elsewhere, and figure and script never disagree.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import plotly
from docutils import nodes

MIME = "application/vnd.plotly.v1+json"
STATIC = Path(__file__).parent / "static"
DEFAULT_HEIGHT = 450  # pixels; plotly's own


class PlotlyMime:
    """Renderer of plotly outputs for MyST-NB (entry point `myst_nb.mime_renderers`)."""

    mime_priority_overrides: ClassVar[Sequence[tuple[str, str, int | None]]] = [("html", MIME, 1)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Turn one figure into a host element that `marn-fig.js` draws when it comes near.

        Args:
            renderer: MyST-NB's element renderer (unused).
            data: MyST-NB's `MimeData`; `content` is the figure as a dict.
            inline: True for an output inside a line of text, which no figure is.

        Returns:
            One raw HTML node, or None for another kind of output.
        """
        if inline or data.mime_type != MIME:
            return None
        figure = {
            key: data.content[key]
            for key in ("data", "layout", "frames", "config")
            if data.content.get(key)
        }
        layout = figure.setdefault("layout", {})
        layout.pop("template", None)  # the page supplies it: light or dark
        height = int(layout.get("height") or DEFAULT_HEIGHT)
        body = json.dumps(figure, separators=(",", ":")).replace("</", "<\\/")
        html = (
            f'<div class="marn-fig" style="min-height:{height}px">'
            f'<script type="application/json">{body}</script>'
            "<noscript>This figure needs JavaScript.</noscript></div>"
        )
        return [nodes.raw(text=html, format="html")]


def _add_static(app: Any) -> None:
    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    app.config.html_static_path += [str(STATIC), str(script)]
    app.add_css_file("marn.css")


def _finish_page(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    # sphinx-thebe registers its constants twice; the second `const` is a SyntaxError on every page
    bodies: set[str] = set()
    kept = []
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body") or ""
        if "THEBE_JS_URL" in body and body in bodies:
            continue
        bodies.add(body)
        kept.append(script)
    context["script_files"][:] = kept
    if tree is not None and any(
        'class="marn-fig"' in raw.astext() for raw in tree.findall(nodes.raw)
    ):
        app.add_js_file("marn-fig.js", loading_method="defer")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _add_static)
    app.connect("html-page-context", _finish_page)
    # Sphinx copies scripts only with pages that it writes, so a change here makes it write them all
    own = hashlib.sha256(plotly.__version__.encode())
    for file in sorted([Path(__file__), *STATIC.iterdir()]):
        own.update(file.read_bytes())
    return {
        "version": "1",
        "env_version": int(own.hexdigest()[:8], 16),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
