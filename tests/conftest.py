"""What several test files need: small raw tables, and a small corpus made once a session."""

import csv
import gc
import gzip
import io
import os
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.hospital.tables import COLUMNS


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Let the garbage collector look at nothing that was imported and collected: it takes seconds.

    One pass over it takes a third of a second, and benchmarks make many.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class RawTables:
    """Writes raw tables as MIMIC-III has them: integers bare, text quoted, NULL empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, table: str, rows: list, *, zipped: bool = False) -> Path:
        """Write one table; a row holds numbers, text and "" for NULL."""
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(COLUMNS[table].split())
        writer.writerows(rows)
        path = self.folder / f"{table}.csv{'.gz' if zipped else ''}"
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if zipped else data)
        return path

    def notes(self, rows: list, *, zipped: bool = False) -> Path:
        """Write NOTEEVENTS from rows (row, subject, admission, text[, category[, date]])."""
        full = []
        for row, subject, admission, text, *more in rows:
            category, date = [*more, *["Discharge summary", "2151-08-04"][len(more) :]]
            full.append((row, subject, admission, date, "", "", category, "Report", "", "", text))
        return self.write("NOTEEVENTS", full, zipped=zipped)

    def codes(self, diagnoses: dict, procedures: dict, *, zipped: bool = False) -> None:
        """Write both code tables from {admission: [undotted codes]}."""
        for table, assigned in (("DIAGNOSES_ICD", diagnoses), ("PROCEDURES_ICD", procedures)):
            pairs = [(admission, code) for admission, codes in assigned.items() for code in codes]
            rows = [(row, 1, *pair[:1], row, pair[1]) for row, pair in enumerate(pairs, start=1)]
            self.write(table, rows, zipped=zipped)


@pytest.fixture
def raw_tables(tmp_path):
    """Return a writer of raw tables into a fresh folder."""
    return RawTables(tmp_path / "raw")


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """Return the folder of the tiny teaching corpus, word vectors included."""
    out = tmp_path_factory.mktemp("corpora") / "tiny"
    assert main(["teaching", "--preset", "tiny", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def tiny_raw(tiny_corpus):
    """Return the folder of the tiny teaching hospital's raw tables."""
    return tiny_corpus / "raw"


@pytest.fixture(scope="session")
def shared_data():
    """Return the folder of open data that lies beside the checkout, or skip the test."""
    folder = Path(os.environ.get("MARN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"open data not found at {folder}; set MARN_SHARED_DATA to its folder")
    return folder
