"""Writes the hospital: patient by patient, never more than one in memory."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path

from data_prep.hospital.dice import Dice
from data_prep.hospital.notes import Writer
from data_prep.hospital.patients import Admission, Patient, patient
from data_prep.hospital.presets import PRESETS
from data_prep.hospital.tables import COLUMNS, Table, aside, tables
from data_prep.hospital.world import titles, world
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


def write(
    out: Path, preset: str = "teaching", seed: int = 0, progress: Progress | None = None
) -> HospitalReport:
    """Writes the raw tables of a teaching hospital.

    Args:
        out: folder that takes the tables; one that exists is replaced.
        preset: a row of `PRESETS`.
        seed: the same seed gives the same bytes.
        progress: called with (summaries so far, summaries in all) after every patient.

    Returns:
        The counts.

    Raises:
        MarnError: for an unknown preset, or a folder that holds other things.
    """
    if preset not in PRESETS:
        raise MarnError(f"no hospital of size {preset!r}: take one of {', '.join(PRESETS)}")
    out = Path(out)
    if out.exists() and not (out / "CODING_NOISE.csv").exists() and any(out.iterdir()):
        raise MarnError(f"{out} holds something else: name a new or empty folder")
    size = PRESETS[preset]
    codes = world(size)
    report = HospitalReport(preset, seed)
    writer = Writer(seed, codes, size)
    with aside(out) as folder:
        with tables(folder, list(COLUMNS)) as files:
            for kind, name in (("dx", "D_ICD_DIAGNOSES"), ("pr", "D_ICD_PROCEDURES")):
                for raw, (short, long) in titles(kind).items():
                    files[name].number(raw, short, long)
            while report.summaries < size.notes:
                person = patient(seed, report.patients, codes)
                _write_patient(files, person, seed)
                for admission in person.admissions:
                    _write_stay(files, person, admission, seed)
                    _write_codes(files, person, admission)
                    _write_notes(files, writer, person, admission)
                    report.admissions += 1
                    report.summaries += admission.has_summary
                report.patients += 1
                if progress is not None:
                    progress(report.summaries, size.notes)
            report.notes = files["NOTEEVENTS"].rows
            report.diagnoses = files["DIAGNOSES_ICD"].rows
            report.procedures = files["PROCEDURES_ICD"].rows
            report.evidence = files["EVIDENCE"].rows
            report.noise = files["CODING_NOISE"].rows
        counts = "\n".join(f"{name}: {value}" for name, value in asdict(report).items())
        text = README.format(preset=preset, seed=seed, counts=counts)
        (folder / "README.txt").write_text(text, "utf-8")
    return report


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _day(day: date | None) -> str | None:
    return None if day is None else f"{day:%Y-%m-%d} 00:00:00"


def _write_patient(files: dict[str, Table], person: Patient, seed: int) -> None:
    last = person.admissions[-1]
    dead = last.discharged.date() if last.died else None
    born = person.born
    if person.admissions[0].age > 89:  # as MIMIC hides the very old
        born = born.replace(year=born.year - 210, day=min(born.day, 28))
    files["PATIENTS"].number(
        person.subject_id, person.sex, _day(born), _day(dead), _day(dead), None, int(last.died)
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
    files["ADMISSIONS"].number(
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
            files[name].number(person.subject_id, stay.hadm_id, place, code.replace(".", ""))
        if not keys and kind == "dx":  # the real table has such a row for a stay without codes
            files[name].number(person.subject_id, stay.hadm_id, None, None)
    for (kind, code), what in stay.noise():
        files["CODING_NOISE"].add(stay.hadm_id, kind, code.replace(".", ""), what)


def _write_notes(files: dict[str, Table], writer: Writer, person: Patient, stay: Admission) -> None:
    for note in writer.notes(person, stay):
        row = files["NOTEEVENTS"].number(
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
