"""Read lists of the titles of codes.

A list may be a table with a header: MIMIC's D_ICD_DIAGNOSES (``ICD9_CODE, SHORT_TITLE,
LONG_TITLE``) or d_icd_diagnoses (``icd_code, icd_version, long_title``), or a table of your own
(``code, title`` and perhaps ``kind, category, category_title``). Or it is a text file of CMS
without a header: a code, blanks and a title in each line, or the columns of fixed width of an
order file (``icd10cm_order_2024.txt``).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from data_prep import column_names
from data_prep.code_systems.systems import CodeSystem
from marn.corpus import CodeEntry
from marn.corpus.loose_tables import open_table, read_text
from marn.errors import MarnError

TITLES: Final = (
    *("long_title", "title", "long_description", "description", "desc", "long_desc", "name"),
    *("short_title", "short_description", "descriptor_completo", "descripcion", "descripción"),
)

_CODES: Final = (*column_names.CODES, *column_names.DIAGNOSES, *column_names.PROCEDURES)
_COLUMNS: Final = {
    "kind": column_names.KINDS,
    "version": ("icd_version", "version"),
    "category": ("category", "ccs", "ccsr"),
    "category_title": ("category_title", "category_name"),
}
# Order number, code, flag of billable codes, short title of 60 characters, long title.
_ORDERED: Final = re.compile(r"\d{5} (\w{3,7}) +[01] .{60} (.+)")
_LISTED: Final = re.compile(r"\s*([A-Za-z]?\d[\w.]{1,7})\s+(\S.*)")


class _Row(NamedTuple):
    code: str
    title: str
    kind: str = ""
    version: str = ""
    category: str = ""
    category_title: str = ""


def read_titles(paths: Iterable[Path], system: CodeSystem, dropped: Counter[str]) -> None:
    """Add the titles of lists, and categories if they have some, to a code system.

    If a code has two titles, the last one counts.

    Args:
        paths: the lists.
        system: the system that the codes belong to; changed in place.
        dropped: gets the number of rows left out, by reason.

    Raises:
        MarnError: if a list cannot be read, or has no title of a code of the system.
    """
    for path in paths:
        rows = found = 0
        of_file = _kind_in(path.name)
        for row in _rows(path):
            rows += 1
            if row.version.strip() not in ("", system.version):
                continue  # d_icd_diagnoses has both
            kinds = [row.kind or of_file] if row.kind or of_file else system.kinds(row.code)
            code = system.dotted(kinds[0], row.code) if kinds else None
            if code is None:
                dropped["titles of codes that have no form of the system"] += 1
            elif not row.title.strip():
                dropped["titles that are empty"] += 1
            else:
                found += 1
                pair = kinds[0], code
                dropped["titles of a code that has one already"] += pair in system.titles
                system.titles[pair] = row.title.strip()
                if category := row.category.strip():
                    entry = CodeEntry(category, pair[0], row.category_title.strip())
                    system.categories[pair] = entry
                    system.key = system.key or "own"
        if not found:
            raise MarnError(
                f"{path} has no title of a code of {system.name} ({rows:,} rows); give a list of "
                "codes and titles of that system, or leave it out"
            )


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix.lower() in (".txt", ""):
        lines = read_text(path)[0].splitlines()
        form = next((form for form in (_ORDERED, _LISTED) if lines and form.match(lines[0])), None)
        if form is not None:
            for number, line in enumerate(lines, start=1):
                if match := form.match(line):
                    yield _Row(match[1], match[2])
                elif line.strip():
                    raise MarnError(f"{path}, line {number}: not a code and a title; correct it")
            return
    table = open_table(path, {"code": _CODES, "title": TITLES}, _COLUMNS)
    of_column = _kind_in(table.columns["code"][0])
    for place, _, row in table.rows():
        kind = column_names.kind_name(row.pop("kind"))
        if kind is None:
            raise table.fault(place, column_names.WRONG_KIND)
        yield _Row(kind=kind or of_column, **row)


def _kind_in(name: str) -> str:
    """Return the kind that the name of a file or column suggests, "" for none."""
    name = name.casefold()
    is_procedure = any(word in name for word in ("proc", "pcs", "_sg", "_pr."))
    is_diagnosis = any(word in name for word in ("diag", "_dx", "10cm"))
    return "pr" if is_procedure else "dx" if is_diagnosis else ""
