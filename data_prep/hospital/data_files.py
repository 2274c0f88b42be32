"""Read the data files of this package: settings, and texts in blocks."""

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def settings(name: str = "hospital.toml") -> dict[str, Any]:
    """Return the content of a TOML file."""
    return tomllib.loads((FOLDER / name).read_text("utf-8"))


def blocks(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the blocks of a text file: the name in the line ``= name``, and the lines below it.

    Empty lines and comments, which begin with ``##`` or ``%``, are left out.

    Args:
        name: name of the file.
    """
    header = ""
    lines: list[str] = []
    for line in (FOLDER / name).read_text("utf-8").splitlines():
        if line.startswith("= "):
            if header:
                yield header, lines
            header, lines = line[2:].strip(), []
        elif line.strip() and not line.startswith(("##", "%")):
            lines.append(line)
    yield header, lines
