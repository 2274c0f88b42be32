"""Measure the raw tables of a hospital, to compare it with published counts (chapter 8)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low

import polars as pl

from data_prep import tables
from data_prep.hospital.codes import Key
from marn.corpus.text import tokenize


@dataclass
class Measures:
    """Counts of what is in the raw tables of a hospital."""

    # words of each admission that has a discharge summary, its addenda included
    lengths: list[int] = field(default_factory=list)
    # codes of each of these admissions that has at least one
    codes: list[int] = field(default_factory=list)
    # (kind, code without a dot) → admissions with a summary that have it
    frequency: Counter[Key] = field(default_factory=Counter)
    # (kind, code without a dot) → patients, with a summary or not
    patients: Counter[Key] = field(default_factory=Counter)
    # (words read, types met) after 1,000 notes, 2,000 notes, 4,000 notes … and all
    growth: list[tuple[int, int]] = field(default_factory=list)
    types: int = 0  # different words that are not numbers
    kept: int = 0  # types that occur in at least 3 notes
    # length of an asserted mention in characters → how many
    spans: Counter[int] = field(default_factory=Counter)
    mentioned: int = 0  # pairs of admission and code with an asserted mention
    roles: Counter[str] = field(default_factory=Counter)  # role → mentions

    @property
    def median_span(self) -> int:
        """Median length of an asserted mention, in characters."""
        return median_low(self.spans.elements()) if self.spans else 0


def _table(raw: Path, name: str, columns: str) -> pl.DataFrame:
    return pl.read_csv(tables.require(raw, name), columns=columns.split(), infer_schema=False)


def _summaries(raw: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the admission and the words of each discharge summary, one at a time."""
    columns = ("HADM_ID", "CATEGORY", "TEXT")
    for _, (admission, category, text) in tables.read(tables.require(raw, "NOTEEVENTS"), columns):
        if category == "Discharge summary":
            yield admission, tokenize(text)


def measure(raw: Path) -> Measures:
    """Measure the raw tables of a hospital, with one note in memory at a time."""
    found = Measures()
    notes_with: Counter[str] = Counter()
    lengths: Counter[str] = Counter()
    stride = 1000
    for number, (admission, words) in enumerate(_summaries(raw), 1):
        lengths[admission] += len(words)
        notes_with.update(set(words))
        if number == stride:
            found.growth.append((lengths.total(), len(notes_with)))
            stride *= 2
    found.growth.append((lengths.total(), len(notes_with)))
    found.types = len(notes_with)
    found.kept = sum(notes >= 3 for notes in notes_with.values())
    found.lengths = list(lengths.values())

    key = ["KIND", "ICD9_CODE"]
    coded = pl.concat(
        _table(raw, name, "SUBJECT_ID HADM_ID ICD9_CODE").with_columns(KIND=pl.lit(kind))
        for kind, name in (("dx", "DIAGNOSES_ICD"), ("pr", "PROCEDURES_ICD"))
    ).drop_nulls("ICD9_CODE")
    noted = coded.filter(pl.col("HADM_ID").is_in(list(lengths)))
    found.codes = noted.group_by("HADM_ID").len()["len"].to_list()
    for counts, people in (
        (found.frequency, noted),
        (found.patients, coded.unique(["SUBJECT_ID", *key])),
    ):
        counts.update({(kind, code): n for kind, code, n in people.group_by(key).len().rows()})

    evidence = _table(raw, "EVIDENCE", "HADM_ID KIND ICD9_CODE BEGIN END ROLE")
    asserted = evidence.filter(pl.col("ROLE") == "evidence")
    found.roles.update(evidence["ROLE"].to_list())
    found.spans.update((asserted["END"].cast(int) - asserted["BEGIN"].cast(int)).to_list())
    found.mentioned = asserted.select("HADM_ID", *key).n_unique()
    return found
