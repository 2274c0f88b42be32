"""Prepare MIMIC-III v1.4 from PhysioNet, or tables in its format.

Three choices differ from CAML's scripts, and the audit counts the cases that they affect. A code
counts once per admission; CAML's lists repeat it, which affects its mean codes per note but not its
scores. Admissions without a code are left out (--keep-uncoded keeps them); CAML keeps four in
training under an empty label. The notes of an admission are joined in the order of CHARTDATE, then
ROW_ID; CAML joins them in file order.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Strict

from data_prep import splits, tables
from data_prep.caml_labels import CamlLabels, CodeRow
from data_prep.code_systems.systems import Icd9, dotted_icd9
from data_prep.code_systems.title_lists import read_titles
from data_prep.config import CcsConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.mdace import CITATION, Mdace
from data_prep.prepare import Annotation, Coding, Note, Origin, Progress, Records, prepare
from marn.errors import MarnError
from marn.settings import Location, settings

CODE_TABLES = {"dx": "DIAGNOSES_ICD", "pr": "PROCEDURES_ICD"}
TITLE_TABLES = ("D_ICD_DIAGNOSES", "D_ICD_PROCEDURES")

_DISCHARGE = "discharge summary"
_MARKER = "SYNTHETIC"
_FIRST_SYNTHETIC = 900_000  # admissions of MIMIC-III run from 100,000 to 199,999


@settings
class Config(CcsConfig):
    """Set the options of `python -m data_prep mimic3`."""

    raw: Location
    """Folder of the tables (.csv or .csv.gz)."""
    splits: Location | None = None
    """Folder of CAML's {train,dev,test}_{50,full}_hadm_ids.csv, or "fetch" to download them once; a
    table of ids and splits (CSV, Parquet or Feather, such as mimiciii_clean_splits.feather of Edin
    et al. 2023); or shares of the patients, such as 0.8,0.1,0.1. By default patients are split by
    a hash."""
    sha256: Annotated[tuple[str, ...], Strict(False)] = ()
    """A SHA-256 sum that a downloaded list may have; repeat the option for several. Without it any
    list is taken, and its sum is recorded in the card."""
    labels: Literal["icd", "caml"] = "icd"
    """How codes are named: "icd", as they are; "caml", as in CAML's published predictions: its
    scripts read the codes of procedures as numbers, and so lose zeros."""
    mdace: Location | None = None
    """Folder of MDACE's annotations (Cheng et al. 2023, github.com/3mcloud/MDACE), or one within
    it, such as data/Inpatient: the passages that coders marked become evidence."""


def run(config: Config, progress: Progress) -> Path:
    """Prepare the tables in `config.raw`."""
    raw, lists = tables.folder(config.raw), config.splits
    check_out(config.out, raw, config.mdace)
    if config.sha256 and str(lists) != "fetch":
        raise MarnError("--sha256 checks downloaded lists; add --splits fetch, or leave it out")
    is_folder = lists is not None and (str(lists) == "fetch" or lists.is_dir())
    if is_folder and config.codes not in ("50", "full"):
        raise MarnError(
            f"--codes must be 50 or full with CAML's lists, but got {config.codes}; leave out "
            "--splits"
        )
    if str(lists) == "fetch":
        for which in {config.codes, "full" if config.vocabulary == "full" else config.codes}:
            lists = splits.fetch_lists(which, config.sha256)
    command = f"python -m data_prep mimic3 --raw RAW --out data/{config.name}"
    with replacing(config.out) as partial:
        given = (config.labels, config.mdace)
        build(raw, partial, config, command, lists, *given, progress=progress)
    return config.out


def build(
    raw: Path,
    folder: Path,
    config: CcsConfig,
    command: str,
    lists: Path | None,
    labels: str = "icd",
    mdace: Path | None = None,
    *,
    progress: Progress,
) -> None:
    """Write the corpus of a folder of MIMIC-III tables.

    Args:
        raw: NOTEEVENTS, DIAGNOSES_ICD, PROCEDURES_ICD, and for titles D_ICD_DIAGNOSES and
            D_ICD_PROCEDURES. Only what the teaching hospital wrote is open text (`is_synthetic`).
        folder: a fresh folder, as `data_prep.corpus_writer.replacing` yields it.
        config: what the user chose.
        command: the command line for the card, to which the choices are added.
        lists: what `splits.chosen` takes; None splits by patient.
        labels: "icd", or "caml" (`data_prep.caml_labels`).
        mdace: folder of MDACE's annotations, instead of the hospital's own evidence.
        progress: takes lines.

    Raises:
        MarnError: if a table is missing or damaged, or nothing is left.
    """
    for table in ("NOTEEVENTS", *CODE_TABLES.values()):
        tables.require(raw, table)  # rather than after an hour of reading notes
    dropped: Counter[str] = Counter()
    noted: dict[str, str] = {}
    synthetic, system = is_synthetic(raw), Icd9(config)
    read_titles(filter(None, (tables.find(raw, name) for name in TITLE_TABLES)), system, dropped)
    is_known = _knows(system, complete={"dx": True, "pr": config.ccs_procedures is not None})
    split, settings = splits.chosen(lists, config.codes, config.seed, dropped)
    settings["ccs_procedures"] = system.procedures
    codings: Iterator[Coding] = read_codings(raw, dropped, is_known)
    notes: Iterator[Note] = read_notes(raw, dropped, synthetic=synthetic, noted=noted)
    passages = _read_annotations(tables.require(raw, "EVIDENCE")) if synthetic else None
    if mdace is not None:
        annotated = Mdace(mdace)
        notes, passages = annotated.watch(notes), annotated.passages(dropped, progress)
        settings["mdace"] = CITATION
        command += " --mdace MDACE"
    names: Icd9 | CamlLabels = system
    if labels == "caml":
        names = CamlLabels(system.title, system.category, system.is_lost, noted)
        codings = names.codings(_code_rows(raw, dropped, is_known))
        passages = None if passages is None else map(names.passage, passages)
        settings["labels"] = labels
        command += f" --labels {labels}"
    prepare(
        folder,
        Records(
            notes=notes,
            codings=codings,
            annotations=passages,
            title=names.title,
            category=names.category,
            split=split,
            whole=splits.whole(lists, config),
        ),
        origin=_origin(command, config, synthetic=synthetic),
        choices=config,
        dropped=dropped,
        settings=settings,
        progress=progress,
    )


def _origin(command: str, config: CcsConfig, *, synthetic: bool) -> Origin:
    hospital = "The teaching hospital: synthetic notes and codes, no real patient"
    mimic = "MIMIC-III v1.4, discharge summaries with ICD-9-CM codes (PhysioNet)"
    command += "" if config.ccs_procedures is None else " --ccs-procedures PRREF"
    return Origin(
        source=hospital if synthetic else mimic,
        text="open" if synthetic else "credentialed",
        command=f"{command} --ccs-key {config.ccs_key} {config.options()}",
        ccs_key=config.ccs_key,
    )


def _knows(system: Icd9, *, complete: Mapping[str, bool]) -> Callable[[str, str], bool]:
    """Return what tells whether a list has a code, or no list is complete enough to tell.

    Each alone has gaps: D_ICD lacks codes retired before 2014, which MIMIC-III uses.
    """
    listed = {kind for kind, _ in system.titles}

    def is_known(kind: str, code: str) -> bool:
        return (
            not (kind in listed and complete[kind])
            or (kind, code) in system.titles
            or system.ccs.number(kind, code) is not None
        )

    return is_known


def is_synthetic(raw: Path) -> bool:
    """Return whether the teaching hospital wrote these tables, by the files only it writes.

    In doubt they are taken for real. `read_notes` refuses marked tables that hold an admission
    the hospital cannot have.
    """
    readme = raw / "README.txt"
    return (
        readme.is_file()
        and _MARKER in readme.read_text(encoding="utf-8", errors="replace")
        and tables.find(raw, "EVIDENCE") is not None
    )


def read_notes(
    raw: Path,
    dropped: Counter[str],
    *,
    synthetic: bool = False,
    noted: dict[str, str] | None = None,
) -> Iterator[Note]:
    """Yield the discharge summaries and their addenda; count in `dropped` what is left out.

    Enter into `noted` the admission of each, by its ROW_ID.

    Raises:
        MarnError: naming file and line, if a row cannot be read, there is no discharge summary,
            or tables that are marked synthetic hold an admission of MIMIC-III.
    """
    path = tables.require(raw, "NOTEEVENTS")
    columns = ("ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "TEXT")
    seen: set[str] = set()
    found = 0
    for place, (row, subject, admission, date, kind, text) in tables.read(path, columns):
        if kind.strip().casefold() != _DISCHARGE:
            dropped["notes of other categories"] += 1
            continue
        found += 1
        row_id = tables.identifier(path, place, row)
        if row_id is not None and row_id in seen:
            dropped["notes with a ROW_ID seen before"] += 1
            continue
        hadm_id = tables.identifier(path, place, admission)
        if hadm_id is None:
            dropped["notes without HADM_ID"] += 1
            continue
        subject_id = tables.identifier(path, place, subject)
        if subject_id is None:
            raise tables.fault(
                path, place, "no SUBJECT_ID, by which notes are split; get a fresh copy"
            )
        if synthetic and int(hadm_id) < _FIRST_SYNTHETIC:
            raise tables.fault(
                path,
                place,
                f"admission {hadm_id} is not the teaching hospital's, though {raw} bears its "
                "mark; keep real tables in a folder of their own",
            )
        if row_id is not None:
            seen.add(row_id)
        if noted is not None:
            noted[row_id or f"line {place}"] = hadm_id
        if not text.strip():
            dropped["notes that are empty"] += 1
            continue
        yield Note(hadm_id, subject_id, text, (date.strip(), int(row_id or 0)), row_id or "")
    if not found:
        raise MarnError(
            f"{path} has no note of category Discharge summary; give the table of all notes"
        )


def read_codings(
    raw: Path, dropped: Counter[str], is_known: Callable[[str, str], bool] = lambda *_: True
) -> Iterator[Coding]:
    """Yield the codes of both tables, dotted, leading zeros kept.

    Count in `dropped` what is left out, such as a code that `is_known` finds in no table of codes.

    Raises:
        MarnError: naming file and line, if a row cannot be read.
    """
    for row in _code_rows(raw, dropped, is_known):
        if row.code is not None:
            yield Coding(row.admission, row.kind, row.code)


def _code_rows(
    raw: Path, dropped: Counter[str], is_known: Callable[[str, str], bool]
) -> Iterator[CodeRow]:
    """Yield the rows of both tables that have an admission, also those whose code is left out."""
    for kind, name in CODE_TABLES.items():
        path = tables.require(raw, name)
        seen: set[str] = set()
        for place, (row, admission, code) in tables.read(path, ("ROW_ID", "HADM_ID", "ICD9_CODE")):
            row_id = tables.identifier(path, place, row)
            hadm_id = tables.identifier(path, place, admission)
            if row_id is not None and row_id in seen:
                dropped[f"{name} rows with a ROW_ID seen before"] += 1
                continue
            if row_id is not None:
                seen.add(row_id)
            if hadm_id is None:
                dropped[f"{name} rows without HADM_ID"] += 1
                continue
            written = code.strip()
            found = dotted_icd9(kind, written)
            if not written:
                dropped[f"{name} rows without a code"] += 1
            elif found is None:
                dropped[f"{name} rows whose code has no form of ICD-9-CM"] += 1
            elif not is_known(kind, found):
                dropped[f"{name} rows with an unknown code"] += 1
                found = None
            yield CodeRow(hadm_id, kind, written, found)


def _read_annotations(path: Path) -> Iterator[Annotation]:
    columns = ("ROW_ID", "KIND", "ICD9_CODE", "BEGIN", "END", "ROLE")
    for place, (row, kind, written, begin, end, role) in tables.read(path, columns):
        code = dotted_icd9(kind, written) if kind in CODE_TABLES else None
        if code is None or not all(map(str.isdecimal, (row, begin, end))):
            raise tables.fault(path, place, "not a passage of a note; write the hospital again")
        yield Annotation(row, kind, code, int(begin), int(end), role)
