"""Read notes to code, one at a time, from a text, folder, table, corpus or standard input.

The id of a note is the name of its file, a column of the table, or the number of its row.
"""

import io
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from marn.corpus import Corpus
from marn.corpus.card import read_card
from marn.corpus.columns import ID_NAMES, SEPARATOR_LINE, TEXT_NAMES, plain_id
from marn.corpus.loose_tables import (
    FRAMES,
    JSON_LINES,
    ROW_LIMIT,
    Names,
    Table,
    find_column,
    header_of,
    open_table,
    read_text,
    suffix_of,
    table_of,
)
from marn.errors import MarnError

Note = tuple[str, str]
"""Id and text."""

TEXTS = (".txt", ".text", ".md", "")
TABLES = (".csv", ".tsv", ".json", *JSON_LINES, *FRAMES)
_REMEDY = "name the column of the text with --text-column"


def read_notes(
    source: str | Path,
    *,
    text_column: str | None = None,
    id_column: str | None = None,
    split: str | None = None,
    encoding: str | None = None,
) -> Iterator[Note]:
    """Yield the notes of a source in their order.

    Args:
        source: a text file; a folder of texts NAME.txt at any depth; a CSV with a header (or
            semicolons or tabs), JSONL, JSON, Parquet or Feather; `"-"` for standard input: a CSV,
            JSONL, JSON or a single text; or the folder of a corpus.
        text_column: column of the text; by default one of `TEXT_NAMES`.
        id_column: column of the id; by default one of `ID_NAMES`. Without one, rows are numbered.
        split: split of a corpus; by default all.
        encoding: encoding of texts and text tables; by default it is detected (for standard input,
            UTF-8).

    Raises:
        MarnError: the source is missing, of an unknown kind, damaged or empty. Messages never show
            a cell of a table.
    """
    wanted: dict[str, Sequence[str]] = {"text": [text_column] if text_column else TEXT_NAMES}
    wanted |= {"id": [id_column]} if id_column else {}
    columns: tuple[Names, Names] = (wanted, {} if id_column else {"id": ID_NAMES})
    if str(source) == "-":
        return _checked("standard input", _standard_input(columns, encoding))
    path = Path(source)
    if not path.exists():
        raise MarnError(f"{path} does not exist; give a file or a folder of notes")
    if split and not is_corpus(path):
        raise MarnError(f"{path} is not a corpus, so it has no split {split!r}; leave out --split")
    if path.is_dir():
        found = _corpus(path, split) if is_corpus(path) else _folder(path, encoding)
        return _checked(str(path), found)
    kind = suffix_of(path)
    if kind in TEXTS:
        return iter([(path.name.partition(".")[0], read_text(path, encoding)[0])])
    if kind in TABLES:
        return _checked(str(path), _rows(open_table(path, *columns, encoding, _REMEDY)))
    raise MarnError(
        f"{path} cannot be read as notes; give a text file, CSV, JSONL, JSON, Parquet or Feather, "
        "or a folder of texts"
    )


def is_corpus(path: Path) -> bool:
    """Return whether a folder is a prepared corpus."""
    return (path / "card.json").is_file() and (path / "codes.json").is_file()


def is_open(source: str | Path) -> bool:
    """Return whether notes may be shown: not those in the folder of a credentialed corpus."""
    path = Path(source).resolve()
    folders = [folder for folder in (path, *path.parents) if is_corpus(folder)]
    return str(source) == "-" or all(read_card(folder).get("text") == "open" for folder in folders)


def _checked(name: str, notes: Iterable[Note]) -> Iterator[Note]:
    """Yield notes; raise an error if there are none."""
    empty = True
    for note in notes:
        empty = False
        yield note
    if empty:
        raise MarnError(f"{name} contains no notes; give a text, a folder of texts or a table")


def _corpus(path: Path, split: str | None) -> Iterator[Note]:
    corpus = Corpus.load(path)
    for name in [split] if split else corpus.splits:
        part = corpus[name]
        for note in range(len(part)):
            yield str(part.ids[note]), part.text(note)


def _folder(path: Path, encoding: str | None) -> Iterator[Note]:
    """Yield the texts of a folder and its subfolders, by name."""
    for folder, inner, names in os.walk(path):
        inner.sort()
        for name in sorted(names):
            if name.lower().endswith(".txt"):
                file = Path(folder, name)
                note = file.relative_to(path).with_suffix("").as_posix()
                yield note, read_text(file, encoding)[0]


def _rows(table: Table) -> Iterator[Note]:
    """Yield the notes of a table; without a column of ids, rows are numbered."""
    for _, number, row in table.rows():
        yield plain_id(row["id"]) if table.columns["id"] else str(number), row["text"]


def _standard_input(columns: tuple[Names, Names], encoding: str | None) -> Iterator[Note]:
    """Yield the notes of standard input: JSON or CSV if its first line is, otherwise one text."""
    name = "standard input"
    file = io.TextIOWrapper(sys.stdin.buffer, encoding or "utf-8-sig", newline="")
    try:
        lines = iter(lambda: file.readline(ROW_LIMIT + 1), "")
        first = next(lines, "")
        form = None
        if first.lstrip().startswith("{"):
            form = "jsonl"
        elif re.match(r"\s*\[\s*(\{|$)", first):
            form = "json"
        elif SEPARATOR_LINE.fullmatch(first) or (
            len(first) < 1000 and find_column(header_of(first, {})[1], columns[0]["text"])
        ):
            form = "csv"
        if form:
            lines = itertools.chain([first], lines)
            yield from _rows(table_of(name, form, lines, *columns, _REMEDY))
            return
        text = first + file.read(ROW_LIMIT + 1)
        if len(text) > ROW_LIMIT:
            raise MarnError(f"{name} has more than {ROW_LIMIT:,} characters; split it into notes")
        if text.strip():
            yield "stdin", text
    except UnicodeDecodeError:
        raise MarnError(
            f"{name} is not in the encoding expected, UTF-8 by default; give --encoding, such as "
            "cp1252"
        ) from None
    finally:
        file.detach()
