"""The dialect of MIMIC-III v1.4, and files that appear whole or not at all."""

import gzip
import io
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

COLUMNS = {
    "NOTEEVENTS": "ROW_ID SUBJECT_ID HADM_ID CHARTDATE CHARTTIME STORETIME CATEGORY DESCRIPTION"
    " CGID ISERROR TEXT",
    "DIAGNOSES_ICD": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "PROCEDURES_ICD": "ROW_ID SUBJECT_ID HADM_ID SEQ_NUM ICD9_CODE",
    "ADMISSIONS": "ROW_ID SUBJECT_ID HADM_ID ADMITTIME DISCHTIME DEATHTIME ADMISSION_TYPE"
    " ADMISSION_LOCATION DISCHARGE_LOCATION INSURANCE LANGUAGE RELIGION MARITAL_STATUS ETHNICITY"
    " EDREGTIME EDOUTTIME DIAGNOSIS HOSPITAL_EXPIRE_FLAG HAS_CHARTEVENTS_DATA",
    "PATIENTS": "ROW_ID SUBJECT_ID GENDER DOB DOD DOD_HOSP DOD_SSN EXPIRE_FLAG",
    "D_ICD_DIAGNOSES": "ROW_ID ICD9_CODE SHORT_TITLE LONG_TITLE",
    "D_ICD_PROCEDURES": "ROW_ID ICD9_CODE SHORT_TITLE LONG_TITLE",
    "EVIDENCE": "ROW_ID HADM_ID KIND ICD9_CODE BEGIN END ROLE SECTION",
    "CODING_NOISE": "HADM_ID KIND ICD9_CODE WHAT",
}
"""Columns of every table, in file order; the last two tables are ours."""

BARE = {
    "ROW_ID", "SUBJECT_ID", "HADM_ID", "SEQ_NUM", "CGID", "EXPIRE_FLAG", "HOSPITAL_EXPIRE_FLAG",
    "HAS_CHARTEVENTS_DATA", "CHARTDATE", "CHARTTIME", "STORETIME", "ADMITTIME", "DISCHTIME",
    "DEATHTIME", "EDREGTIME", "EDOUTTIME", "DOB", "DOD", "DOD_HOSP", "DOD_SSN", "BEGIN", "END",
}  # fmt: skip
"""Columns of numbers and times: written without quotes. Everything else is text."""

Cell = str | int | None


class Table:
    """One CSV file that is being written.

    Args:
        name: a key of `COLUMNS`.
        file: where the rows go.
        header: whether to begin with the names of the columns.
    """

    def __init__(self, name: str, file: TextIO, header: bool = True) -> None:
        columns = COLUMNS[name].split()
        self._file = file
        self._bare = [column in BARE for column in columns]
        self.rows = 0
        if header:
            file.write(",".join(f'"{column}"' for column in columns) + "\n")

    def add(self, *cells: Cell) -> None:
        """Writes a row; None is an empty cell, a quote inside a text is doubled."""
        self.rows += 1
        written = []
        for cell, bare in zip(cells, self._bare, strict=True):
            if cell is None:
                written.append("")
            elif bare:
                written.append(str(cell))
            else:
                written.append('"' + str(cell).replace('"', '""') + '"')
        self._file.write(",".join(written) + "\n")

    def text(self) -> str:
        """What was written, of a table that is kept in memory."""
        self._file.seek(0)
        return self._file.read()

    def paste(self, text: str, rows: int) -> None:
        """Writes so many rows that another table of this name has made."""
        self.rows += rows
        self._file.write(text)


@contextmanager
def tables(folder: Path, names: Sequence[str], zipped: bool = False) -> Iterator[dict[str, Table]]:
    """Opens tables in a folder for as long as the block lasts.

    Args:
        folder: that exists.
        names: of the tables.
        zipped: write `.csv.gz`, with neither name nor date inside: same tables, same bytes.
    """
    with ExitStack() as stack:

        def opened(name: str) -> TextIO:
            if not zipped:
                return stack.enter_context(
                    (folder / f"{name}.csv").open("w", encoding="utf-8", newline="")
                )
            raw = stack.enter_context((folder / f"{name}.csv.gz").open("wb"))
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
            return stack.enter_context(
                io.TextIOWrapper(stack.enter_context(packed), encoding="utf-8", newline="")
            )

        yield {name: Table(name, opened(name)) for name in names}


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `folder` at the end, and vanishes on failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
