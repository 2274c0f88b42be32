"""Prepare MIMIC-IV 2.x or 3.x with the notes of MIMIC-IV-Note.

Reads these tables from PhysioNet, with or without ``.gz``; columns may be in any order::

    hosp/diagnoses_icd.csv, hosp/procedures_icd.csv        hadm_id, icd_code, icd_version
    hosp/d_icd_diagnoses.csv, hosp/d_icd_procedures.csv    titles (optional)
    note/discharge.csv                                     note_id, subject_id, hadm_id, text, ...

An admission is coded in either ICD-9 or ICD-10, so a corpus contains one of them (``--version``);
rows of the other are counted. ICD-9 is grouped by CCS as in MIMIC-III, ICD-10 by
`data_prep.code_systems.icd10`.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from data_prep import splits, tables
from data_prep.code_systems.systems import CodeSystem, Icd9, Icd10
from data_prep.code_systems.title_lists import read_titles
from data_prep.config import CcsConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.prepare import Coding, Note, Origin, Progress, Records, prepare
from marn.errors import MarnError
from marn.settings import Location, settings

CODE_TABLES: Final = {"dx": "diagnoses_icd", "pr": "procedures_icd"}
TITLE_TABLES: Final = ("d_icd_diagnoses", "d_icd_procedures")
NOTES_TABLE: Final = "discharge"


@settings
class Config(CcsConfig):
    """Set the options of `python -m data_prep mimic4`."""

    raw: Location | None = None
    """Folder with all tables, or with the folders hosp and note."""
    hosp: Location | None = None
    """Folder of MIMIC-IV's module hosp, if it is not in RAW."""
    note: Location | None = None
    """Folder of MIMIC-IV-Note's tables, if they are not in RAW."""
    version: Literal[10, 9] = 10
    """Version of ICD; admissions coded in it are kept."""


def run(config: Config, progress: Progress) -> Path:
    """Prepare the tables that the settings name.

    Raises:
        MarnError: if a table is missing or damaged, or nothing is left.
    """
    hosp = _folder(config.raw, config.hosp, "hosp")
    note = _folder(config.raw, config.note, "note")
    check_out(config.out, hosp, note)
    for table in CODE_TABLES.values():
        tables.require(hosp, table)  # rather than after an hour of reading notes
    dropped: Counter[str] = Counter()
    options = f"--version {config.version}"
    system: CodeSystem = Icd10()
    if config.version == 9:
        system = Icd9(config)
        options += f" --ccs-key {config.ccs_key}"
        options += "" if config.ccs_procedures is None else " --ccs-procedures PRREF"
    read_titles(filter(None, (tables.find(hosp, name) for name in TITLE_TABLES)), system, dropped)
    split, settings = splits.chosen(config.splits, config.codes, config.seed, dropped)
    with replacing(config.out) as folder:
        prepare(
            folder,
            Records(
                notes=read_notes(note, dropped),
                codings=read_codings(hosp, system, dropped),
                title=system.title,
                category=system.category,
                split=split,
                whole=splits.whole(config.splits, config),
            ),
            origin=Origin(
                source="MIMIC-IV with MIMIC-IV-Note, discharge summaries with "
                f"{system.name} codes (PhysioNet)",
                text="credentialed",
                command="python -m data_prep mimic4 --hosp HOSP --note NOTE "
                f"--out data/{config.name} {options} {config.options()}",
                ccs_key=system.key,
            ),
            choices=config,
            dropped=dropped,
            settings={"version": config.version, "ccs_procedures": system.procedures, **settings},
            progress=progress,
        )
    return config.out


def read_notes(note: Path, dropped: Counter[str]) -> Iterator[Note]:
    """Yield the discharge summaries and their addenda; count in `dropped` what is left out.

    Raises:
        MarnError: naming file and line, if a row cannot be read.
    """
    path = tables.require(note, NOTES_TABLE)
    columns = ("note_id", "subject_id", "hadm_id", "note_seq", "charttime", "text")
    seen: set[str] = set()
    for place, (note_id, subject, admission, order, date, text) in tables.read(path, columns):
        key = note_id.strip()
        hadm_id = tables.identifier(path, place, admission)
        if key and key in seen:
            dropped["notes with a note_id seen before"] += 1
            continue
        seen.add(key)
        subject_id = tables.identifier(path, place, subject)
        sequence = tables.identifier(path, place, order)
        if hadm_id is None:
            dropped["notes without hadm_id"] += 1
        elif subject_id is None:
            raise tables.fault(
                path, place, "no subject_id, by which notes are split; get a fresh copy"
            )
        elif not text.strip():
            dropped["notes that are empty"] += 1
        else:
            yield Note(hadm_id, subject_id, text, (date.strip(), int(sequence or 0)), key)


def read_codings(hosp: Path, system: CodeSystem, dropped: Counter[str]) -> Iterator[Coding]:
    """Yield the codes of both tables that are of the system's version of ICD.

    Count in `dropped` what is left out, and in `system.uses` the rows of each code.

    Raises:
        MarnError: naming file and line, if a row cannot be read.
    """
    for kind, name in CODE_TABLES.items():
        path = tables.require(hosp, name)
        columns = ("hadm_id", "icd_code", "icd_version")
        for place, (admission, code, edition) in tables.read(path, columns):
            hadm_id = tables.identifier(path, place, admission)
            written = code.strip()
            if hadm_id is None:
                dropped[f"{name} rows without hadm_id"] += 1
            elif not written:
                dropped[f"{name} rows without a code"] += 1
            elif (found := tables.identifier(path, place, edition)) != system.version:
                if found not in ("9", "10"):
                    what = f"icd_version must be 9 or 10, but got {tables.shown(edition)}"
                    raise tables.fault(path, place, f"{what}; get a fresh copy")
                dropped[f"{name} rows of ICD-{found}"] += 1
            elif (whole := system.dotted(kind, written)) is None:
                dropped[f"{name} rows whose code has no form of {system.name}"] += 1
            else:
                system.uses[kind, whole] += 1
                yield Coding(hadm_id, kind, whole)


def _folder(raw: Path | None, given: Path | None, module: str) -> Path:
    """Return the folder of a module: the one given, that within the folder of all, or that."""
    if given is not None:
        return tables.folder(given, f"--{module}")
    if raw is None:
        raise MarnError(f"--raw or --{module} is missing; give the folder of the tables")
    within = tables.folder(raw) / module
    return within if within.is_dir() else raw
