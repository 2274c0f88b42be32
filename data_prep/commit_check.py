"""Refuse to commit what was made from credentialed text: `python -m data_prep.commit_check FILES`.

Notebooks, runs, models, tables and logs are refused if they carry the mark that loading a
credentialed corpus leaves (`marn.privacy.announce`), belong to a credentialed run or corpus, or
look like MIMIC's own. A JSON result that names a credentialed corpus may hold aggregates only
(`data_prep.publishable`).

The check catches accidents, not intent: a picture passes, and so does a sentence that somebody
copies into a chapter.
"""

from __future__ import annotations

import csv
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from data_prep.publishable import NOTE_SIGNS, first_sign, withheld

__all__ = ["examine", "main"]

_UNREADABLE: Final = {
    ".npy", ".npz", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".pickle", ".joblib",
    ".parquet", ".feather", ".h5", ".hdf5", ".db", ".sqlite", ".gz", ".zip", ".tar", ".xz", ".bz2",
    ".zst", ".7z", ".xlsx",
}  # fmt: skip
# Placeholders are taught in what people write, so only marks and hashes are looked for there.
_HANDWRITTEN: Final = {
    ".py", ".md", ".toml", ".cfg", ".ini", ".yml", ".yaml", ".js", ".css", ".bib", ".sh", ".cff",
    ".lock",
}  # fmt: skip
_HOSPITAL: Final = "data_prep/hospital/"  # the teaching hospital's language has placeholders
_OPEN_NAMES: Final = ("teaching", "tiny")  # corpora that the project's own commands write
_CARDS: Final = ("model.json", "run.json", "card.json")

# Every pattern takes time linear in the text: what a repetition matches cannot begin a match.
_MARK: Final = re.compile(
    r"\[credentialed corpus [0-9a-f]{12}|Corpus\('[^'\n]*'[^'\n]*; text credentialed\)"
)
_ID_SIGNS: Final = {
    "a note_id of MIMIC-IV-Note": re.compile(r"\b1\d{7}-(?:DS|RR)-\d{1,3}\b"),
    "a list of admissions of MIMIC-III": re.compile(
        r"""(?:(['"])1\d{5}\1,?\s*){10}|\A(?:"?1\d{5}"?\r?\n){10}"""
    ),
}
# MIMIC-III's ids, then MIMIC-IV's; the teaching hospital's begin at 900,000 and 800,000.
_REAL: Final = {
    "HADM_ID": (range(100_000, 200_000), range(20_000_000, 30_000_000)),
    "SUBJECT_ID": (range(1, 100_000), range(10_000_000, 20_000_000)),
}
_CLEAR: Final = "clear its outputs, or keep it below runs/"
_AGGREGATE: Final = "publish aggregates, see data_prep.publishable"
_KEEP: Final = "keep it below data/ or runs/, which git ignores"


def examine(path: Path, root: Path | None = None, content: bytes | None = None) -> list[str]:
    """Say why a file must not be committed: made from credentialed text, or similar to it.

    Args:
        path: the file; it need not exist if `content` is given.
        root: root of the checkout, whose `data/*/card.json` say which corpora are credentialed;
            by default the work tree around the file.
        content: what would be committed; by default what the work tree has.

    Returns:
        Reasons, each one line with its remedy; empty if the file may be committed.
    """
    path = path.absolute()
    root = (_work_tree(path) if root is None else root).absolute()
    shown = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    content = path.read_bytes() if content is None else content
    try:
        reasons = list(_reasons(path, shown, content, root))
    except RecursionError:
        reasons = [f"is nested too deeply to be examined; {_KEEP}"]
    return [f"{shown}: {reason}" for reason in dict.fromkeys(reasons)]


def _reasons(path: Path, shown: str, data: bytes, root: Path) -> Iterator[str]:
    cards = _cards_around(path)
    credentialed = next((card.name for card, text in cards if text == "credentialed"), None)
    suffix = path.suffix.lower()
    if suffix in _UNREADABLE:
        if credentialed:
            yield f"was made from credentialed text ({credentialed}); {_KEEP}"
        elif not cards:
            yield f"cannot be examined ({suffix}); {_KEEP}"
        return
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError:
        return  # a picture
    known = _local(root)
    if suffix == ".ipynb":
        yield from _of_notebook(content, path, root, known)
        return
    value = _json(content) if suffix == ".json" else None
    if _says_credentialed(value) or (value is not None and known & _hashes(content)):
        for place in withheld(value)[:3]:
            yield f"was made from credentialed text: {place}; {_AGGREGATE}"
        return
    if credentialed and path.name not in _CARDS:
        yield f"is beside {credentialed} of a credentialed corpus; {_KEEP}"
        return
    if found := _marked(content, known):
        yield f"{found}; {_KEEP}"
    if suffix in _HANDWRITTEN or path.name == "Makefile":
        return
    if not shown.startswith(_HOSPITAL) and (found := first_sign(content, NOTE_SIGNS)):
        yield f"holds {found}; {_KEEP}"
    if found := first_sign(content, _ID_SIGNS) or _real_ids(_rows_of_table(content)):
        yield f"holds {found}; {_KEEP}"


def _of_notebook(content: str, path: Path, root: Path, known: set[str]) -> Iterator[str]:
    try:
        notebook = _json(content)
        metadata = notebook.get("metadata", {})
        code = [cell for cell in notebook["cells"] if cell.get("cell_type") == "code"]
        shown = [cell.get("outputs", []) for cell in code] + [metadata.get("widgets", {})]
        given = metadata.get("papermill", {}).get("parameters", {}).get("corpus")
        corpora = [given] if isinstance(given, str) else _assigned(code)
    except (AttributeError, KeyError, TypeError):
        yield f"is not a notebook that can be read; {_KEEP}"
        return
    outputs = [text for text in _strings(shown) if text]
    texts = {_text_of_corpus(name, path, root) for name in corpora}
    if outputs and "credentialed" in texts:
        yield f"its outputs come from a credentialed corpus ({corpora[-1]}); {_CLEAR}"
        return
    for text in outputs:
        if found := _marked(text, known):
            yield f"an output {found}; {_CLEAR}"
        if texts != {"open"} and (found := first_sign(text, NOTE_SIGNS)):
            yield f"an output holds {found}, and its corpus is not known to be open; {_CLEAR}"
        if found := first_sign(text, _ID_SIGNS) or _real_ids(_rows_of_output(text)):
            yield f"an output holds {found}; {_CLEAR}"


def _assigned(code: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the last `corpus = "…"` of the parameter cells; papermill's cell follows ours."""
    found = []
    for cell in code:
        if {"parameters", "injected-parameters"} & set(cell.get("metadata", {}).get("tags", [])):
            source = "".join(cell.get("source", ""))
            found += re.findall(r"""^corpus\b[^=\n]*=\s*['"]([^'"]+)['"]""", source, re.M)
    return found[-1:]


def _text_of_corpus(name: str, notebook: Path, root: Path) -> str | None:
    """Return "open" or "credentialed", None where nothing says which a corpus is."""
    for folder in (notebook.parent / name, root / "book" / name):  # where kernels run
        if (text := _text_of_card(folder / "card.json")) is not None:
            return text
    return "open" if Path(name).name in _OPEN_NAMES else None


def _cards_around(path: Path) -> list[tuple[Path, str]]:
    """Return the cards of the run or corpus that holds the file, with "open" or "credentialed"."""
    files = [path.parent / name for name in _CARDS] + [path.parent.parent / "card.json"]
    return [(file, text) for file in files if (text := _text_of_card(file)) is not None]


def _text_of_card(path: Path) -> str | None:
    card = _json(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if not isinstance(card, dict):
        return None
    if _says_credentialed(card):
        return "credentialed"
    says = [part for part in (card, card.get("corpus")) if isinstance(part, dict)]
    return "open" if any(s.get("text") == "open" or s.get("open") is True for s in says) else None


def _says_credentialed(value: Any) -> bool:
    """Tell whether a card, or a result, names a corpus that is not open."""
    if isinstance(value, Mapping):
        closed = value.get("open") is False and ("hash" in value or "name" in value)
        inside = any(_says_credentialed(inner) for inner in value.values())
        return closed or value.get("text") == "credentialed" or inside
    return isinstance(value, list) and any(_says_credentialed(inner) for inner in value)


def _local(root: Path) -> set[str]:
    """Return the hashes of the credentialed corpora in data/ of this checkout."""
    cards = [
        path for path in root.glob("data/*/card.json") if _text_of_card(path) == "credentialed"
    ]
    return {_json(path.read_text(encoding="utf-8")).get("hash", "") for path in cards} - {""}


def _hashes(text: str) -> set[str]:
    return set(re.findall(r"\b[0-9a-f]{64}\b", text))


def _marked(text: str, known: set[str]) -> str | None:
    if _MARK.search(text):
        return "carries the mark of a credentialed corpus"
    return "carries the hash of a credentialed corpus" if known & _hashes(text) else None


def _real_ids(rows: Iterable[Sequence[str]]) -> str | None:
    """Find an id of MIMIC in a table: rows of cells, column names before their values."""
    columns: dict[int, str] = {}
    for row in rows:
        names = {place: cell.strip().upper() for place, cell in enumerate(row)}
        columns = {place: name for place, name in names.items() if name in _REAL} or columns
        for place, name in columns.items():
            value = names.get(place, "").removesuffix(".0")
            if len(value) < 9 and value.isdecimal() and any(int(value) in r for r in _REAL[name]):
                return f"a {name} of MIMIC"
    return None


def _rows_of_table(content: str) -> Iterator[list[str]]:
    header = content[: content.find("\n")].upper()
    if "HADM_ID" not in header and "SUBJECT_ID" not in header:
        return
    try:
        yield from csv.reader(content.splitlines(), delimiter="\t" if "\t" in header else ",")
    except csv.Error:
        return  # a truncated table: the rows before have been seen


def _rows_of_output(text: str) -> Iterator[list[str]]:
    """Yield the rows of a table that pandas wrote, as HTML or in right-aligned columns."""
    if not re.search(r"HADM_ID|SUBJECT_ID", text, re.I):
        return
    if "<t" in text:
        text = re.sub(r"<(?!/?t[rdh]\b)[^<>]*>", "", text, flags=re.I)
        for row in re.split(r"<tr\b", text, flags=re.I)[1:]:
            yield [html.unescape(c) for c in re.findall(r"<t[dh]\b[^<>]*>([^<]*)", row, re.I)]
        return
    ends: list[int] = []
    for line in text.splitlines():
        cells = {found.end(): found[0] for found in re.finditer(r"\S+", line)}
        if any(cell.upper() in _REAL for cell in cells.values()):
            ends = list(cells)
        if ends:
            yield [cells.get(end, "") for end in ends]


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a piece of a notebook; lines given as a list are joined."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # not JSON, or a number of thousands of digits
        return None


def _work_tree(path: Path) -> Path:
    return next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)


def _staged(name: str) -> bytes | None:
    """Return what git would commit under a name, None if the name is not in the index."""
    asked = subprocess.run(["git", "show", f":./{os.path.relpath(name)}"], capture_output=True)
    return asked.stdout if asked.returncode == 0 else None


def main(files: Sequence[str] | None = None) -> int:
    """Examine files as they are staged, and return 1 if one must not be committed.

    Args:
        files: their names; None takes the command line. Without names, all tracked files.
    """
    names = list(sys.argv[1:] if files is None else files)
    if not names:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True)
        if listed.returncode:
            sys.stderr.write("python -m data_prep.commit_check: not a git checkout; name files\n")
            return 2
        names = listed.stdout.split("\0")[:-1]
    status = 0
    for path in map(Path, names):
        content = _staged(str(path))
        if content is None and path.is_file():
            content = path.read_bytes()
        for reason in examine(path, content=content) if content is not None else ():
            sys.stderr.write(f"{reason}\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
