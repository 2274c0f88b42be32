"""Write HTML pages of coded notes and of tables."""

import html

TAIL = "</main></body></html>\n"

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; background: Canvas; color: CanvasText }}
.wide {{ overflow-x: auto; border: 1px solid rgba(139,148,158,0.5); border-radius: 4px }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: 0.2rem 0.6rem; min-width: 6rem }}
</style></head><body><main><h1>{title}</h1>
"""


def head(title: str) -> str:
    """Begin a page for any screen, with light and dark themes; `TAIL` ends it.

    Args:
        title: plain text.

    Example:
        >>> "<h1>a &amp; b</h1>" in head("a & b")
        True
    """
    return _HEAD.format(title=html.escape(title))


def wide(table: str, name: str) -> str:
    """Put the HTML of a table into a bordered box, which scrolls if the table is too wide.

    Args:
        table: HTML.
        name: label of the box, for screen readers; plain text.

    Example:
        >>> wide("<table></table>", "codes").endswith("<table></table></div>")
        True
    """
    label = html.escape(name, quote=True)
    return f'<div class="wide" role="region" aria-label="{label}" tabindex="0">{table}</div>'
