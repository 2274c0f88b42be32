"""A git work tree with an open and a credentialed corpus, for the tests of what may leave it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import nbformat
from toys import toy_corpus

ROOT = Path(__file__).resolve().parents[1]
NOTE = "Admission Date:  [**2151-7-16**]  Service: MEDICINE"


def make_checkout(root: Path) -> Path:
    """Make a git work tree with a book, and two corpora in its data: toy and secret."""
    (root / "book").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (root / ".gitignore").write_text("data/\nruns/\n")
    toy_corpus(root / "data" / "toy")
    toy_corpus(root / "data" / "secret", seed=1)
    _close(root / "data" / "secret")
    return root


def _close(corpus: Path) -> None:
    card = json.loads((corpus / "card.json").read_text())
    (corpus / "card.json").write_text(json.dumps(card | {"text": "credentialed", "name": "secret"}))


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def notebook(path: Path, *outputs: dict[str, str], corpus: str = "", **metadata: Any) -> Path:
    """Write a notebook with a cell of parameters and one cell with these outputs, by type."""
    parameters = nbformat.v4.new_code_cell(f'corpus: str = "{corpus}"' if corpus else "x = 1")
    parameters.metadata.tags = ["parameters"]
    cell = nbformat.v4.new_code_cell("show()")
    for data in outputs:
        if "stderr" in data:
            cell.outputs.append(
                nbformat.v4.new_output("stream", name="stderr", text=data["stderr"])
            )
        else:
            cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
    book = nbformat.v4.new_notebook(cells=[parameters, cell], metadata=metadata)
    return written(path, nbformat.writes(book))
