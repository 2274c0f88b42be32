"""The notes of an admission, section by section, with every mention annotated."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from data_prep.hospital.authors import Author
from data_prep.hospital.code_catalogue import CodeCatalogue
from data_prep.hospital.data_files import settings
from data_prep.hospital.note_builder import Annotation
from data_prep.hospital.patients import Admission, Patient
from data_prep.hospital.portable_random import PortableRandom
from data_prep.hospital.presets import Preset
from data_prep.hospital.sections import Sections
from data_prep.hospital.story import Material

AUTHORS = 100


@dataclass
class Note:
    """A row of NOTEEVENTS and the mentions in its text."""

    category: str  # such as "Discharge summary"
    description: str  # such as "Report" or "Addendum"
    day: date
    text: str
    annotations: list[Annotation]  # mentions of codes in the text
    time: datetime | None = None  # of the note, where its category has one
    caregiver: int | None = None  # who wrote it, where its category says so
    linked: bool = True  # whether the row has the HADM_ID


def wrap(text: str, width: int) -> str:
    """Break long lines at blanks; no character is added or lost, so offsets stay valid."""
    lines = []
    for line in text.split("\n"):
        while len(line) > width:
            at = line.rfind(" ", 1, width + 1)
            if at < 1:
                at = line.find(" ", width)
                if at < 0:
                    break
            lines.append(line[:at])
            line = line[at + 1 :]
        lines.append(line)
    return "\n".join(lines)


class NoteWriter:
    """Write the notes of a hospital."""

    def __init__(self, seed: int, catalogue: CodeCatalogue, preset: Preset) -> None:
        self.seed = seed
        self.material = Material(catalogue, preset)
        self.authors = [Author(seed, number, preset.slips) for number in range(AUTHORS)]

    def notes(self, person: Patient, stay: Admission) -> Iterator[Note]:
        """Yield the notes of one admission: the summary, addenda, and some of other categories."""
        rng = PortableRandom(self.seed, "notes", person.index, stay.number)

        def begun(author: Author) -> "_Draft":
            return _Draft(self.material, person, stay, rng, author)

        if stay.has_summary:
            author = rng.pick(self.authors)
            yield begun(author).summary()
            if rng.chance(0.05):
                yield begun(author).addendum()
        if rng.chance(0.1):
            yield begun(rng.pick(self.authors)).other()


class _Draft(Sections):
    """One note of one admission while it is written."""

    def summary(self) -> Note:
        """Write the discharge summary."""
        self.top()
        self.allergies()
        self.chief_complaint()
        self.procedures()
        self.present_illness()
        self.past_history()
        self.social_history()
        self.family_history()
        self.exam()
        self.results()
        self.course()
        self.medicines_on_admission()
        self.medicines_at_discharge()
        self.disposition()
        self.diagnosis()
        self.condition()
        self.instructions()
        self.foot()
        return self._note("Discharge summary", "Report", self.left)

    def addendum(self) -> Note:
        """Write a later addition to the summary."""
        self.top()
        self.note.section = "Addendum"
        self.note.raw("Addendum:\n")
        self.note.say("addendum_open")
        if self.written and self.rng.chance(0.6):
            self.assert_code(self.rng.pick(self.written))
        rule = "course_new" if self.newborn else "course_fill"
        self.fill(rule, min(80.0, 0.15 * self.length), 15)
        self.note.raw("\n\n")
        self.foot()
        return self._note("Discharge summary", "Addendum", self.left)

    def other(self) -> Note:
        """Write a note of another category, which a reader of discharge summaries must skip."""
        category, description, rule = self.rng.pick(settings()["notes"]["others"])
        self.note.section = category
        self.note.slot(rule)
        time = self.stay.admitted + timedelta(hours=self.rng.integer(2, 24 * self.days))
        note = self._note(category, description, time.date())
        note.linked = self.rng.chance(0.75)
        if category not in ("Radiology", "ECG"):
            note.time = time
            note.caregiver = self.rng.integer(14000, 21000)
        return note

    def _note(self, category: str, description: str, day: date) -> Note:
        text = wrap(self.note.text(), self.author.width)
        return Note(category, description, day, text, self.note.annotations)
