"""Write the tables of the hospital, patient by patient in order, with one process or several."""

import shutil
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TextIO

from data_prep.code_systems.ccs import titles
from data_prep.hospital.code_catalogue import code_catalogue
from data_prep.hospital.codes import HEAD
from data_prep.hospital.data_files import settings
from data_prep.hospital.notes import NoteWriter
from data_prep.hospital.patients import FIRST_ADMISSION, Admission, Patient, patient
from data_prep.hospital.portable_random import PortableRandom
from data_prep.hospital.presets import PRESETS, Preset
from data_prep.hospital.tables import COLUMNS, opened, row
from marn.corpus.codes import undotted
from marn.errors import MarnError
from marn.lifeline import end_with_parent

Progress = Callable[[int, int], None]

SPARE = 12
"""Admissions beyond the lists: the last patient of each list may have up to 4 too many."""

CHUNK = 40
"""Patients that a worker makes at a time."""

NOTES_PER_STAY, CODES_PER_STAY = 4, 100
"""ROW_IDs reserved for each admission. They follow from its number and have gaps, as MIMIC's do,
so that neither the size nor the number of workers changes the rows of a patient."""

TABLES = {"dx": "DIAGNOSES_ICD", "pr": "PROCEDURES_ICD"}
TITLES = {"dx": "D_ICD_DIAGNOSES", "pr": "D_ICD_PROCEDURES"}


COUNTED = {
    "patients": "PATIENTS",
    "admissions": "ADMISSIONS",
    "notes": "NOTEEVENTS",
    "diagnoses": "DIAGNOSES_ICD",
    "procedures": "PROCEDURES_ICD",
    "evidence": "EVIDENCE",
    "noise": "CODING_NOISE",
}
"""Tables whose rows are counted in the README."""

README = """SYNTHETIC. Nobody in these tables ever lived.

A teaching hospital in the shape of the MIMIC-III v1.4 tables, written by
python -m data_prep (preset {preset}, seed {seed}). HADM_ID begin at 900000 and SUBJECT_ID at
800000, beyond those of MIMIC-III. EVIDENCE.csv says where each code is mentioned in NOTEEVENTS
(character offsets into TEXT) and CODING_NOISE.csv where the coder left the truth. Signs, drugs
and diseases go together by rough rules for teaching machines: not a source of medical facts.

{counts}
"""


def write(
    out: Path,
    preset: str = "teaching",
    seed: int = 0,
    progress: Progress | None = None,
    *,
    workers: int = 1,
    zipped: bool = False,
    slips: float = 1.0,
    boilerplate: float = 1.0,
) -> dict[str, int]:
    """Write the raw tables of a teaching hospital into a folder that is new or empty.

    Args:
        out: the folder.
        preset: a key of `PRESETS`.
        seed: the same seed gives the same bytes.
        progress: called with (summaries so far, summaries in all) after every patient.
        workers: processes that write notes; the bytes do not depend on it.
        zipped: write `.csv.gz` instead of `.csv`.
        slips: multiplies the usual rate of misspellings.
        boilerplate: multiplies the sentences that belong to no code of the stay, and the denials.

    Returns:
        The numbers of patients, admissions, summaries (admissions with a discharge summary),
        notes (of all categories), diagnoses, procedures, mentions of codes ("evidence") and
        differences between notes and codes ("noise").

    Raises:
        MarnError: for an unknown preset, or a folder that is not empty.
    """
    if preset not in PRESETS:
        raise MarnError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    out, size = Path(out), replace(PRESETS[preset], slips=slips, boilerplate=boilerplate)
    if out.exists() and any(out.iterdir()):
        raise MarnError(f"{out} is not empty; name a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with opened(out, list(COLUMNS), zipped) as files:
            report, listed = _write_tables(files, size, seed, workers, progress)
        if size.lists:
            _write_lists(out, size, listed, seed)
        noise = {"slips": slips, "boilerplate": boilerplate}
        more = "".join(f", {name} {value:g}" for name, value in noise.items() if value != 1)
        counts = "\n".join(f"{name}: {value}" for name, value in report.items())
        text = README.format(preset=f"{preset}{more}", seed=seed, counts=counts)
        (out / "README.txt").write_text(text, "utf-8")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return report


def _write_tables(
    files: dict[str, TextIO], size: Preset, seed: int, workers: int, progress: Progress | None
) -> tuple[dict[str, int], list[list[int]]]:
    """Write all tables; return what was counted, and each patient's admissions for the lists."""
    for kind, name in TITLES.items():
        short = titles(kind, "short")
        for number, (code, title) in enumerate(titles(kind).items(), 1):
            files[name].write(row(name, number, undotted(code), short.get(code, ""), title))
    rows: Counter[str] = Counter()
    listed: list[list[int]] = []
    summaries = on_lists = 0
    wanted = sum(size.sizes) + (SPARE if size.lists else 0)
    with closing(_stream(size, seed, workers)) as stream:
        while summaries < size.notes or on_lists < wanted:
            made = next(stream)
            for name, text in made.texts.items():
                files[name].write(text)
            rows.update(made.rows)
            summaries += made.summaries
            listed.append(made.listed)
            on_lists += len(made.listed)
            if progress is not None:
                progress(summaries, size.notes)
    return {name: rows[table] for name, table in COUNTED.items()} | {"summaries": summaries}, listed


def _write_lists(folder: Path, size: Preset, listed: list[list[int]], seed: int) -> None:
    """Deal admissions to lists of exactly the preset's sizes, so that no patient is in two lists.

    As with CAML's lists, a few admissions may be in none.
    """
    rng = PortableRandom(seed, "lists")
    names = ("train", "dev", "test")
    left = dict(zip(names, size.sizes, strict=True))
    chosen: dict[str, list[int]] = {name: [] for name in names}
    for admissions in rng.sample(listed, len(listed)):
        point = rng.random() * sum(left.values())
        for name in names:
            if point < left[name]:
                taken = admissions[: left[name]]
                chosen[name] += taken
                left[name] -= len(taken)
                break
            point -= left[name]
    for name, admissions in chosen.items():
        text = "".join(f"{hadm_id}\n" for hadm_id in sorted(admissions))
        (folder / f"{name}_{size.lists}_hadm_ids.csv").write_text(text, "utf-8")


# -- the rows of each patient


@dataclass
class _PatientRows:
    """All rows of one patient."""

    texts: dict[str, str]  # table → its rows as they are in the file
    rows: dict[str, int]  # table → how many
    summaries: int = 0  # admissions with a discharge summary
    listed: list[int] = field(default_factory=list)  # HADM_IDs of those that a list may have


def _stream(size: Preset, seed: int, workers: int) -> Generator[_PatientRows, None, None]:
    """Yield all patients in the order of their index, without end."""
    if workers == 1:
        for index in count():
            yield _patient_rows(size, seed, index)
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        firsts = count(0, CHUNK)
        waiting: deque[Future[list[_PatientRows]]] = deque()
        try:
            while True:
                while len(waiting) < 3 * workers:  # keeps all busy with few results in memory
                    waiting.append(pool.submit(_chunk, size, seed, next(firsts)))
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise MarnError(
                "a process that writes notes was killed, perhaps for lack of memory; choose "
                "--workers 1"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunk(size: Preset, seed: int, first: int) -> list[_PatientRows]:
    return [_patient_rows(size, seed, index) for index in range(first, first + CHUNK)]


@lru_cache(maxsize=1)
def _writer(seed: int, size: Preset) -> NoteWriter:
    return NoteWriter(seed, code_catalogue(size), size)


def _patient_rows(size: Preset, seed: int, index: int) -> _PatientRows:
    writer = _writer(seed, size)
    catalogue = writer.material.catalogue
    person = patient(seed, index, catalogue)
    rows: dict[str, list[str]] = {name: [] for name in COLUMNS if name not in TITLES.values()}
    listed = []

    def add(table: str, *cells: str | int | None) -> None:
        rows[table].append(row(table, *cells))

    _add_patient(add, person)
    for stay in person.admissions:
        _add_stay(add, person, stay, seed)
        _add_codes(add, person, stay)
        _add_notes(add, writer, person, stay)
        keys = stay.coded()
        fits = size.lists != "50" or any(catalogue.codes[key].rank < HEAD for key in keys)
        if stay.has_summary and keys and fits:
            listed.append(stay.hadm_id)
    return _PatientRows(
        {name: "".join(lines) for name, lines in rows.items()},
        {name: len(lines) for name, lines in rows.items()},
        sum(stay.has_summary for stay in person.admissions),
        listed,
    )


Add = Callable[..., None]
"""Callback that takes the name of a table and the cells of a row."""


def _number(stay: Admission) -> int:
    return stay.hadm_id - FIRST_ADMISSION


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _day(day: date | None) -> str | None:
    return None if day is None else f"{day:%Y-%m-%d} 00:00:00"


def _add_patient(add: Add, person: Patient) -> None:
    last = person.admissions[-1]
    dead = _day(last.discharged.date() if last.died else None)
    born = person.born
    if person.admissions[0].age > 89:  # as MIMIC hides the very old
        born = born.replace(year=born.year - 210, day=min(born.day, 28))
    row_id = person.index + 1
    flag = int(last.died)
    add("PATIENTS", row_id, person.subject_id, person.sex, _day(born), dead, dead, None, flag)


def _add_stay(add: Add, person: Patient, stay: Admission, seed: int) -> None:
    rng = PortableRandom(seed, "stay", person.index, stay.number)
    lasting = PortableRandom(seed, "person", person.index)
    cells = settings()["admission"]
    newborn = stay.service == "NB"
    elective = stay.service in ("CSURG", "ORTHO", "SURG", "NSURG") and rng.chance(0.4)
    planned = newborn or elective
    place = "PHYS REFERRAL/NORMAL DELI" if planned else rng.pick(cells["place"])
    diagnoses = [fact.code.code for fact in stay.facts if fact.code.kind == "dx"]
    reason = titles("dx", "short").get(diagnoses[0], "").upper() if diagnoses else ""
    admitted, discharged = _time(stay.admitted), _time(stay.discharged)
    emergency = admitted if place == "EMERGENCY ROOM ADMIT" else None
    add(
        "ADMISSIONS",
        _number(stay) + 1,
        person.subject_id,
        stay.hadm_id,
        admitted,
        discharged,
        discharged if stay.died else None,
        "NEWBORN" if newborn else "ELECTIVE" if elective else "EMERGENCY",
        place,
        "DEAD/EXPIRED" if stay.died else "HOME" if newborn else rng.pick(cells["home"]),
        "Private" if newborn else lasting.pick(cells["insurance"]),
        None if lasting.chance(0.4) else lasting.pick(cells["language"]),
        lasting.pick(cells["religion"]),
        None if newborn else lasting.pick(cells["marital_status"]),
        lasting.pick(cells["ethnicity"]),
        emergency,
        emergency,
        "NEWBORN" if newborn else reason or None,
        int(stay.died),
        1,
    )


def _add_codes(add: Add, person: Patient, stay: Admission) -> None:
    first = CODES_PER_STAY * _number(stay)
    for kind, name in TABLES.items():
        codes = [code for of, code in stay.coded() if of == kind]
        for place, code in enumerate(codes, 1):
            add(name, first + place, person.subject_id, stay.hadm_id, place, undotted(code))
        if not codes and kind == "dx":  # the real table has such a row for a stay without codes
            add(name, first + 1, person.subject_id, stay.hadm_id, None, None)
    for (kind, code), what in stay.noise():
        add("CODING_NOISE", stay.hadm_id, kind, undotted(code), what)


def _add_notes(add: Add, writer: NoteWriter, person: Patient, stay: Admission) -> None:
    for number, note in enumerate(writer.notes(person, stay), 1):
        row_id = NOTES_PER_STAY * _number(stay) + number
        add(
            "NOTEEVENTS",
            row_id,
            person.subject_id,
            stay.hadm_id if note.linked else None,
            _day(note.day),
            _time(note.time),
            _time(note.time),
            note.category,
            note.description,
            note.caregiver,
            None,
            note.text,
        )
        for kind, code, begin, end, role, section in note.annotations:
            raw = undotted(code)
            add("EVIDENCE", row_id, stay.hadm_id, kind, raw, begin, end, role, section)
