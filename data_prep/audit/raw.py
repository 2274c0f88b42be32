"""Audit raw tables in the format of MIMIC-III, and the effect of reading codes as numbers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from data_prep import tables
from data_prep.audit.findings import Codes, Finding, collisions, finding
from data_prep.caml_labels import caml_label
from data_prep.code_systems.ccs import Ccs
from data_prep.code_systems.systems import dotted_icd9, known
from data_prep.prepare import Pair, Progress, quiet
from data_prep.sources import mimic3
from marn.corpus.codes import KINDS, dotted, undotted


@dataclass
class _Rows:
    """Count the rows of both code tables."""

    frequency: Counter[Pair] = field(default_factory=Counter)
    """Rows of each kind and dotted code."""
    written: dict[str, Counter[str]] = field(default_factory=lambda: {k: Counter() for k in KINDS})
    """For each kind, rows of each code as written, without its dot."""
    count: int = 0
    homeless: int = 0
    empty: int = 0
    shapeless: int = 0
    repeated: int = 0
    admissions: set[str] = field(default_factory=set)
    """Those with a code."""

    @classmethod
    def read(cls, raw: Path) -> Self:
        rows = cls()
        for kind, name in mimic3.CODE_TABLES.items():
            path = tables.require(raw, name)
            seen: set[tuple[str, str]] = set()
            for place, (admission, code) in tables.read(path, ("HADM_ID", "ICD9_CODE")):
                rows.count += 1
                id_, code = tables.identifier(path, place, admission), code.strip().upper()
                if id_ is None:
                    rows.homeless += 1
                elif not code:
                    rows.empty += 1
                elif (found := dotted_icd9(kind, code)) is None:
                    rows.shapeless += 1
                else:
                    rows.repeated += (id_, code) in seen
                    seen.add((id_, code))
                    rows.admissions.add(id_)
                    rows.written[kind][code] += 1
                    rows.frequency[kind, found] += 1
        return rows


def audit_raw(
    raw: Path,
    ccs_procedures: Path | None = None,
    progress: Progress = quiet,
    *,
    is_open: bool | None = None,
) -> list[Finding]:
    """Audit raw tables.

    Args:
        raw: folder with DIAGNOSES_ICD and PROCEDURES_ICD, and ADMISSIONS and NOTEEVENTS if there
            are any (the demo of MIMIC-III has no notes).
        ccs_procedures: HCUP's file of procedure categories, or "hcup"; without it, only the
            categories of diagnoses are looked up.
        progress: takes lines.
        is_open: whether rare codes may be named; by default only those of the teaching hospital.

    Raises:
        MarnError: naming file and line, if a table is missing or a row cannot be read.
    """
    rows = _Rows.read(tables.folder(raw))
    progress(f"codes: {rows.count:,} rows")
    codes = Codes(rows.frequency, mimic3.is_synthetic(raw) if is_open is None else is_open)
    found = [*_faults(rows), *_numbers(rows, codes), *_kinds(rows, codes)]
    found += _categories(codes, ccs_procedures)
    found += _admissions(raw, rows)
    if tables.find(raw, "NOTEEVENTS") is not None:
        found += _notes(raw, rows, progress)
    return found


def _faults(rows: _Rows) -> list[Finding]:
    return [
        finding("rows without HADM_ID", rows.homeless, rows.count),
        finding("rows without a code", rows.empty, rows.count),
        finding("rows whose code has no form of ICD-9-CM", rows.shapeless, rows.count),
        finding("codes repeated within an admission", rows.repeated, rows.count),
        finding(
            "codes, and labels with an empty one",
            len(rows.frequency),
            len(rows.frequency) + bool(rows.empty),
        ),
    ]


def _numbers(rows: _Rows, codes: Codes) -> list[Finding]:
    """Count the effects of reading the codes of these rows as numbers."""
    read = {pair: caml_label(*pair) for pair in codes.frequency if pair[0] == "pr"}
    changed = [pair for pair, label in read.items() if undotted(pair[1]) != undotted(label)]
    stubs = [pair for pair in changed if read[pair].endswith(".")]
    disguised = [pair for pair in changed if read[pair] in known("pr")]
    holders = Counter(undotted(label) for label in read.values())
    merged = [pair for pair, label in read.items() if holders[undotted(label)] > 1]
    # 93.90 is 93.9 as a decimal number, 428.0 is 428
    short = {
        pair: pair[1].rstrip("0").rstrip(".")
        for pair in codes.frequency
        if "." in pair[1] and pair[1].endswith("0")
    }
    swallowed = [pair for pair, label in short.items() if (pair[0], label) in codes.frequency]
    diagnoses = [("dx", dotted("dx", raw)) for raw in rows.written["dx"] if raw.startswith("0")]

    def arrow(pair: Pair) -> str:
        return f"{pair[1]} -> {read[pair]}"

    def shortened(pair: Pair) -> str:
        return f"{pair[1]} -> {short[pair]}"

    def of_rows(
        name: str, kind: str, pairs: list[Pair], write: Callable[[Pair], str] = lambda pair: pair[1]
    ) -> Finding:
        count = sum(codes.frequency[pair] for pair in pairs)
        return finding(name, count, rows.written[kind].total(), codes.examples(pairs, write))

    return [
        of_rows("procedure rows that change when codes are read as numbers", "pr", changed, arrow),
        finding(
            "procedure codes that change when codes are read as numbers",
            len(changed),
            len(read),
            before=f"{len(read):,}",
            after=f"{len(holders):,}",
        ),
        codes.finding("of these, turned into another valid code", disguised, changed, arrow),
        codes.finding("of these, turned into stub codes", stubs, changed, arrow),
        codes.finding(
            "procedure codes that share a label when read as numbers", merged, read, arrow
        ),
        codes.finding(
            "codes that lose a zero at the end when a dotted list is read as numbers",
            short,
            write=shortened,
        ),
        codes.finding(
            "of these, shortened to another code of the tables", swallowed, short, shortened
        ),
        of_rows("diagnosis rows that begin with 0", "dx", diagnoses),
    ]


def _kinds(rows: _Rows, codes: Codes) -> list[Finding]:
    shared = rows.written["dx"].keys() & rows.written["pr"].keys()
    shown = codes.examples(
        [("pr", dotted("pr", raw)) for raw in shared],
        lambda pair: f"{pair[1]} and {dotted('dx', undotted(pair[1]))}",
    )
    count = sum(rows.written[kind][raw] for kind in KINDS for raw in shared)
    return [
        finding(
            "rows whose string occurs in both tables", count, sum(codes.frequency.values()), shown
        ),
        codes.both_kinds(),
        codes.unknown(),
        codes.top50(),
    ]


def _categories(codes: Codes, ccs_procedures: Path | None) -> list[Finding]:
    ccs = Ccs.load(ccs_procedures)
    whole = ccs_procedures is not None
    pairs = [pair for pair in codes.frequency if whole or pair[0] == "dx"]
    without = [pair for pair in pairs if ccs.number(*pair) is None]
    found = [codes.unmapped(pairs, without, "" if whole else "; only diagnoses were asked")]
    if whole:
        numbers = {kind: [ccs.number(*pair) for pair in pairs if pair[0] == kind] for kind in KINDS}
        found.append(collisions({k: [n for n in ns if n is not None] for k, ns in numbers.items()}))
    return found


def _admissions(raw: Path, rows: _Rows) -> list[Finding]:
    path = tables.find(raw, "ADMISSIONS")
    if path is None:
        return []
    stays: dict[str, str] = {}
    for place, (subject, admission) in tables.read(path, ("SUBJECT_ID", "HADM_ID")):
        who, stay = (tables.identifier(path, place, value) for value in (subject, admission))
        if who is not None and stay is not None:
            stays[stay] = who
    patients = Counter(stays.values())
    coded = rows.admissions
    several = sum(count > 1 for count in patients.values())
    return [
        finding("admissions without codes", len(stays.keys() - coded), len(stays)),
        finding("admissions with codes that ADMISSIONS lacks", len(coded - set(stays)), len(coded)),
        finding("patients with several admissions", several, len(patients)),
    ]


def _notes(raw: Path, rows: _Rows, progress: Progress) -> list[Finding]:
    path = tables.require(raw, "NOTEEVENTS")
    pieces: Counter[str] = Counter()
    last: dict[str, tuple[str, int]] = {}
    unordered: set[str] = set()
    count = summaries = empty = homeless = 0
    columns = ("HADM_ID", "CATEGORY", "TEXT", "CHARTDATE", "ROW_ID")
    for place, (admission, kind, text, date, row) in tables.read(path, columns):
        count += 1
        if count % 500_000 == 0:
            progress(f"notes: {count:,} rows")
        if kind.strip().casefold() != "discharge summary":
            continue
        summaries += 1
        if (id_ := tables.identifier(path, place, admission)) is None:
            homeless += 1
        elif not text.strip():
            empty += 1
        else:
            pieces[id_] += 1
            order = date.strip(), int(tables.identifier(path, place, row) or 0)
            if order < last.setdefault(id_, order):
                unordered.add(id_)
            last[id_] = max(order, last[id_])
    coded, noted = rows.admissions, pieces.keys()
    several = sum(parts > 1 for parts in pieces.values())
    return [
        finding("notes that are discharge summaries or addenda", summaries, count),
        finding("discharge summaries without HADM_ID", homeless, summaries),
        finding("discharge summaries that are empty", empty, summaries),
        finding("admissions with several summaries", several, len(noted)),
        finding(
            "admissions whose summaries are not in the order of their dates",
            len(unordered),
            several,
        ),
        finding("admissions with a summary and without a code", len(noted - coded), len(noted)),
        finding("admissions with codes and without a summary", len(coded - noted), len(coded)),
    ]
