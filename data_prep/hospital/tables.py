"""Write tables in the format of MIMIC-III v1.4."""

import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

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
"""{table: columns in file order, separated by blanks}; MIMIC-III lacks the last two tables."""

_UNQUOTED = {
    "ROW_ID", "SUBJECT_ID", "HADM_ID", "SEQ_NUM", "CGID", "EXPIRE_FLAG", "HOSPITAL_EXPIRE_FLAG",
    "HAS_CHARTEVENTS_DATA", "CHARTDATE", "CHARTTIME", "STORETIME", "ADMITTIME", "DISCHTIME",
    "DEATHTIME", "EDREGTIME", "EDOUTTIME", "DOB", "DOD", "DOD_HOSP", "DOD_SSN", "BEGIN", "END",
}  # fmt: skip
"""Columns of numbers and times. Everything else is text, in quotes."""

_IS_UNQUOTED = {
    name: tuple(column in _UNQUOTED for column in columns.split())
    for name, columns in COLUMNS.items()
}


def header(table: str) -> str:
    """Return the first line of a table."""
    return ",".join(f'"{column}"' for column in COLUMNS[table].split()) + "\n"


def row(table: str, *cells: str | int | None) -> str:
    """Return a line of a table; None is an empty cell, and a quote inside a text is doubled."""
    written = []
    for cell, unquoted in zip(cells, _IS_UNQUOTED[table], strict=True):
        if cell is None:
            written.append("")
        elif unquoted:
            written.append(str(cell))
        else:
            written.append('"' + str(cell).replace('"', '""') + '"')
    return ",".join(written) + "\n"


@contextmanager
def opened(folder: Path, tables: Sequence[str], zipped: bool) -> Iterator[dict[str, TextIO]]:
    """Open tables of a folder for writing, with their headers written.

    Args:
        folder: the folder.
        tables: names of the tables.
        zipped: write `.csv.gz`, without name and date inside, so that equal tables have equal
            bytes.
    """
    with ExitStack() as stack:
        files: dict[str, TextIO] = {}
        for name in tables:
            path = folder / (f"{name}.csv.gz" if zipped else f"{name}.csv")
            raw: BinaryIO = stack.enter_context(path.open("wb"))
            if zipped:
                packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
                raw = cast(BinaryIO, stack.enter_context(packed))
            files[name] = stack.enter_context(io.TextIOWrapper(raw, "utf-8", newline=""))
            files[name].write(header(name))
        yield files
