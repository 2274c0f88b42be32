"""Writes the hospital as a stream: some patients at a time, in order, whoever made them."""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path

from data_prep.hospital.code_catalogue import titles, world
from data_prep.hospital.notes import Writer
from data_prep.hospital.patients import FIRST_ADMISSION, Admission, Patient, patient
from data_prep.hospital.portable_random import Dice
from data_prep.hospital.presets import PRESETS, Preset
from data_prep.hospital.tables import COLUMNS, Table, aside, tables
from marn.errors import MarnError

Progress = Callable[[int, int], None]


@dataclass
class HospitalReport:
    """What was written.

    Attributes:
        preset: name of the size.
        seed: of the hospital.
        patients: persons.
        admissions: stays.
        summaries: admissions with a discharge summary.
        notes: rows of NOTEEVENTS, addenda and other categories included.
        diagnoses: rows of DIAGNOSES_ICD.
        procedures: rows of PROCEDURES_ICD.
        evidence: rows of EVIDENCE.
        noise: rows of CODING_NOISE.
    """

    preset: str
    seed: int
    patients: int = 0
    admissions: int = 0
    summaries: int = 0
    notes: int = 0
    diagnoses: int = 0
    procedures: int = 0
    evidence: int = 0
    noise: int = 0


README = """SYNTHETIC. Nobody in these tables ever lived.

A teaching hospital in the shape of the MIMIC-III v1.4 tables, written by
python -m data_prep (preset {preset}, seed {seed}). HADM_ID begin at 900000 and SUBJECT_ID at
800000, beyond those of MIMIC-III. EVIDENCE.csv says where each code is mentioned in NOTEEVENTS
(character offsets into TEXT) and CODING_NOISE.csv where the coder left the truth. Signs, drugs
and diseases go together by rough rules for teaching machines: this is no source of medical facts.

{counts}
"""


SPARE = 12
"""Admissions beyond the lists: the last patient of each list may have up to 4 too many."""

CHUNK = 40
"""Patients that a worker makes at a time."""

PER_PATIENT = ("PATIENTS", "ADMISSIONS", "DIAGNOSES_ICD", "PROCEDURES_ICD", "NOTEEVENTS",
               "EVIDENCE", "CODING_NOISE")  # fmt: skip


@dataclass
class _Sheaf:
    """All rows of one patient.

    Attributes:
        texts: table → its rows as they stand in the file.
        rows: table → how many.
        subject_id: of the patient.
        admissions: stays.
        summaries: HADM_IDs with a discharge summary.
        listed: those of them that a list may hold.
    """

    texts: dict[str, str]
    rows: dict[str, int]
    subject_id: int
    admissions: int
    summaries: list[int] = field(default_factory=list)
    listed: list[int] = field(default_factory=list)


@lru_cache(maxsize=1)
def _writer(seed: int, preset: str) -> Writer:
    return Writer(seed, world(PRESETS[preset]), PRESETS[preset])


def _sheaf(preset: str, seed: int, index: int) -> _Sheaf:
    writer = _writer(seed, preset)
    size = writer.preset
    person = patient(seed, index, writer.world)
    files = {name: Table(name, io.StringIO(), header=False) for name in PER_PATIENT}
    sheaf = _Sheaf({}, {}, person.subject_id, len(person.admissions))
    _write_patient(files, person)
    for stay in person.admissions:
        _write_stay(files, person, stay, seed)
        _write_codes(files, person, stay)
        _write_notes(files, writer, person, stay)
        if stay.has_summary:
            sheaf.summaries.append(stay.hadm_id)
            keys = stay.coded()
            if keys and (size.lists != "50" or any(writer.world.codes[k].rank < 50 for k in keys)):
                sheaf.listed.append(stay.hadm_id)
    sheaf.texts = {name: table.text() for name, table in files.items()}
    sheaf.rows = {name: table.rows for name, table in files.items()}
    return sheaf


def _chunk(preset: str, seed: int, first: int) -> list[_Sheaf]:
    return [_sheaf(preset, seed, index) for index in range(first, first + CHUNK)]


def _stream(preset: str, seed: int, workers: int) -> Iterator[_Sheaf]:
    """All patients in the order of their index, without end."""
    if workers == 1:
        for index in count():
            yield _sheaf(preset, seed, index)
    with ProcessPoolExecutor(workers) as pool:
        firsts = count(0, CHUNK)
        waiting: deque[Future[list[_Sheaf]]] = deque()
        try:
            while True:
                while len(waiting) < 3 * workers:  # enough to keep them busy, and no more
                    waiting.append(pool.submit(_chunk, preset, seed, next(firsts)))
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def write(
    out: Path,
    preset: str = "teaching",
    seed: int = 0,
    progress: Progress | None = None,
    *,
    workers: int = 1,
    zipped: bool = False,
) -> HospitalReport:
    """Writes the raw tables of a teaching hospital.

    Args:
        out: folder that takes the tables; one that exists is replaced.
        preset: a row of `PRESETS`.
        seed: the same seed gives the same bytes.
        progress: called with (summaries so far, summaries in all) after every patient.
        workers: processes that write notes; the bytes do not depend on it.
        zipped: write `.csv.gz` instead of `.csv`.

    Returns:
        The counts.

    Raises:
        MarnError: for an unknown preset, no worker, or a folder that holds other things.
    """
    if preset not in PRESETS:
        raise MarnError(f"no hospital of size {preset!r}: take one of {', '.join(PRESETS)}")
    if workers < 1:
        raise MarnError(f"{workers} workers write nothing: give 1 or more")
    out = Path(out)
    if out.exists() and not any(out.glob("CODING_NOISE.csv*")) and any(out.iterdir()):
        raise MarnError(f"{out} holds something else: name a new or empty folder")
    size = PRESETS[preset]
    report = HospitalReport(preset, seed)
    listed: list[tuple[int, list[int]]] = []
    on_lists = 0
    wanted = sum(size.sizes) + (SPARE if size.lists else 0)
    with aside(out) as folder:
        with tables(folder, list(COLUMNS), zipped) as files:
            for kind, name in (("dx", "D_ICD_DIAGNOSES"), ("pr", "D_ICD_PROCEDURES")):
                for number, (raw, (short, long)) in enumerate(titles(kind).items(), 1):
                    files[name].add(number, raw, short, long)
            stream = _stream(preset, seed, workers)
            while report.summaries < size.notes or on_lists < wanted:
                sheaf = next(stream)
                for name, text in sheaf.texts.items():
                    files[name].paste(text, sheaf.rows[name])
                report.patients += 1
                report.admissions += sheaf.admissions
                report.summaries += len(sheaf.summaries)
                if size.lists:
                    listed.append((sheaf.subject_id, sheaf.listed))
                    on_lists += len(sheaf.listed)
                if progress is not None:
                    progress(report.summaries, size.notes)
            stream.close()  # type: ignore[attr-defined]
            report.notes = files["NOTEEVENTS"].rows
            report.diagnoses = files["DIAGNOSES_ICD"].rows
            report.procedures = files["PROCEDURES_ICD"].rows
            report.evidence = files["EVIDENCE"].rows
            report.noise = files["CODING_NOISE"].rows
        if size.lists:
            _write_lists(folder, size, listed, seed)
        counts = "\n".join(f"{name}: {value}" for name, value in asdict(report).items())
        text = README.format(preset=preset, seed=seed, counts=counts)
        (folder / "README.txt").write_text(text, "utf-8")
    return report


def _write_lists(
    folder: Path, size: Preset, listed: list[tuple[int, list[int]]], seed: int
) -> None:
    """Deals admissions to lists of exactly the preset's sizes, never a patient to two lists.

    As in CAML's lists, a few admissions may stand in none.
    """
    dice = Dice(seed, "lists")
    names = ("train", "dev", "test")
    left = dict(zip(names, size.sizes, strict=True))
    chosen: dict[str, list[int]] = {name: [] for name in names}
    for _, admissions in dice.sample(listed, len(listed)):
        point = dice.random() * sum(left.values())
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


NOTES_PER_STAY, CODES_PER_STAY = 4, 100
"""Room for the ROW_IDs of an admission. They follow from its place and have gaps, as MIMIC's do,
so that neither the size nor the number of workers changes the rows of a patient."""


def _place(stay: Admission) -> int:
    return stay.hadm_id - FIRST_ADMISSION


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _day(day: date | None) -> str | None:
    return None if day is None else f"{day:%Y-%m-%d} 00:00:00"


def _write_patient(files: dict[str, Table], person: Patient) -> None:
    last = person.admissions[-1]
    dead = last.discharged.date() if last.died else None
    born = person.born
    if person.admissions[0].age > 89:  # as MIMIC hides the very old
        born = born.replace(year=born.year - 210, day=min(born.day, 28))
    files["PATIENTS"].add(
        person.index + 1,
        person.subject_id,
        person.sex,
        _day(born),
        _day(dead),
        _day(dead),
        None,
        int(last.died),
    )


INSURANCES = ("Medicare", "Medicare", "Medicare", "Private", "Private", "Medicaid", "Government")
RELIGIONS = (
    "CATHOLIC", "CATHOLIC", "NOT SPECIFIED", "UNOBTAINABLE", "PROTESTANT QUAKER", "JEWISH",
    "OTHER", "EPISCOPALIAN", "GREEK ORTHODOX", "BUDDHIST",
)  # fmt: skip
ETHNICITIES = (
    "WHITE", "WHITE", "WHITE", "WHITE", "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC OR LATINO",
    "ASIAN", "UNKNOWN/NOT SPECIFIED", "OTHER", "WHITE - RUSSIAN",
)  # fmt: skip
HOMES = ("HOME", "HOME HEALTH CARE", "SNF", "REHAB/DISTINCT PART HOSP", "LONG TERM CARE HOSPITAL")


def _write_stay(files: dict[str, Table], person: Patient, stay: Admission, seed: int) -> None:
    dice = Dice(seed, "stay", person.index, stay.number)
    lasting = Dice(seed, "person", person.index)
    newborn = stay.service == "NB"
    elective = stay.service in ("CSURG", "ORTHO", "SURG", "NSURG") and dice.chance(0.4)
    kind = "NEWBORN" if newborn else "ELECTIVE" if elective else "EMERGENCY"
    place = (
        "PHYS REFERRAL/NORMAL DELI"
        if newborn or elective
        else dice.pick(
            ("EMERGENCY ROOM ADMIT", "EMERGENCY ROOM ADMIT", "TRANSFER FROM HOSP/EXTRAM",
             "CLINIC REFERRAL/PREMATURE")
        )
    )  # fmt: skip
    diagnoses = [fact.code.raw for fact in stay.facts if fact.code.kind == "dx"]
    title = titles("dx")[diagnoses[0]][0] if diagnoses else ""
    files["ADMISSIONS"].add(
        _place(stay) + 1,
        person.subject_id,
        stay.hadm_id,
        _time(stay.admitted),
        _time(stay.discharged),
        _time(stay.discharged) if stay.died else None,
        kind,
        place,
        "DEAD/EXPIRED" if stay.died else "HOME" if newborn else dice.pick(HOMES),
        "Private" if newborn else lasting.pick(INSURANCES),
        None if lasting.chance(0.4) else lasting.pick(("ENGL", "ENGL", "ENGL", "SPAN", "RUSS")),
        lasting.pick(RELIGIONS),
        None if newborn else lasting.pick(("MARRIED", "MARRIED", "SINGLE", "WIDOWED", "DIVORCED")),
        lasting.pick(ETHNICITIES),
        _time(stay.admitted) if place == "EMERGENCY ROOM ADMIT" else None,
        _time(stay.admitted) if place == "EMERGENCY ROOM ADMIT" else None,
        "NEWBORN" if newborn else title.upper() or None,
        int(stay.died),
        1,
    )


def _write_codes(files: dict[str, Table], person: Patient, stay: Admission) -> None:
    for kind, name in (("dx", "DIAGNOSES_ICD"), ("pr", "PROCEDURES_ICD")):
        keys = [key for key in stay.coded() if key[0] == kind]
        for place, (_, code) in enumerate(keys, 1):
            row = CODES_PER_STAY * _place(stay) + place
            files[name].add(row, person.subject_id, stay.hadm_id, place, code.replace(".", ""))
        if not keys and kind == "dx":  # the real table has such a row for a stay without codes
            row = CODES_PER_STAY * _place(stay) + 1
            files[name].add(row, person.subject_id, stay.hadm_id, None, None)
    for (kind, code), what in stay.noise():
        files["CODING_NOISE"].add(stay.hadm_id, kind, code.replace(".", ""), what)


def _write_notes(files: dict[str, Table], writer: Writer, person: Patient, stay: Admission) -> None:
    for number, note in enumerate(writer.notes(person, stay), 1):
        row = NOTES_PER_STAY * _place(stay) + number
        files["NOTEEVENTS"].add(
            row,
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
        for span in note.spans:
            raw = span.code.replace(".", "")
            files["EVIDENCE"].add(
                row, stay.hadm_id, span.kind, raw, span.begin, span.end, span.role, span.section
            )
