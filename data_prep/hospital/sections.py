"""The sections of a discharge summary."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache

from data_prep.hospital.codes import Code
from data_prep.hospital.data_files import settings
from data_prep.hospital.grammar import Parts
from data_prep.hospital.lexicon import Lab, entry_of, labs
from data_prep.hospital.story import Prescription, Story

BY_MOUTH = ("daily", "bid", "tid", "qid", "hs", "prn")
"""Times for which there is a rule of instructions; all others share one."""


@cache
def _panels() -> list[tuple[str, ...]]:
    usual = {name: lab for name, lab in labs().items() if lab.digits is not None}
    names = dict.fromkeys(lab.panel for lab in usual.values())
    return [tuple(test for test, lab in usual.items() if lab.panel == name) for name in names]


def _stamp(day: date) -> str:
    return f"[**{day.year}-{day.month}-{day.day}**]"


class Sections(Story):
    """A note that can write each section of a discharge summary."""

    @contextmanager
    def section(self, name: str, omit: float = 0.03) -> Iterator[None]:
        """Write a header, then the content of the context, then an empty line.

        Args:
            name: usual name of the section.
            omit: probability that the header is left out.
        """
        self.note.section = name
        self.today = 0
        if not self.rng.chance(omit):
            end = ":  " if self.author.upper_headers else ":\n"
            self.note.raw(self.author.header(name) + end)
        yield
        self.note.raw("\n\n")

    def fill(self, rule: str, words: float, each: float) -> None:
        """Write sentences of a rule.

        Args:
            rule: name of the rule; none of its sentences comes twice before all have come.
            words: approximate number of words in all, with the usual amount of boilerplate.
            each: average number of words of a sentence.
        """
        count = max(1, int(self.boilerplate * words / each + self.rng.random()))
        alternatives = self.author.rule(rule)
        for parts in self.rng.sample(alternatives, count):
            self.note.sentence(parts)
        if rule not in settings()["notes"]["once"]:
            for _ in range(count - len(alternatives)):
                self.note.say(rule)

    def items(self, codes: list[Code], filler: str = "", extra: int = 0) -> None:
        """Write a list of codes in random order.

        Args:
            codes: the codes to list.
            filler: rule of further items. If given, some codes are written in phrases of a
                history list.
            extra: number of further items.
        """
        note, rng, style = self.note, self.rng, self.author.bullet
        items: list[Code | None] = [*codes, *[None] * extra]
        for place, code in enumerate(rng.sample(items, len(items))):
            if place:
                note.raw(", " if style == "commas" else "\n")
            if style == "numbers":
                note.raw(f"{place + 1}. ")
            elif style == "dashes":
                note.raw("- ")
            first = len(note.pieces)
            if code is None:
                note.slot(filler)
            else:
                phrases = entry_of(code).pmh if filler else ()
                if phrases and rng.chance(0.35):
                    note.about(code.key, "evidence")
                    note.write(rng.pick(phrases))
                    note.about(None, "")
                else:
                    self.name(code)
            if style != "commas" and rng.chance(0.6):
                note.capitalize(first)

    # -- the sections, in their order

    def top(self) -> None:
        """Write the dates, the sex and the service."""
        note = self.note
        note.section = "Admission"
        note.raw(f"Admission Date:  {_stamp(self.came)}")
        note.raw(f"  Discharge Date: {_stamp(self.left)}\n\n")
        if self.rng.chance(0.9):
            shown = _stamp(self.person.born) if self.stay.age <= 89 else "[**Age over 90 **]"
            note.raw(f"Date of Birth:  {shown}             Sex:   {self.person.sex}\n\n")
        service = self.stay.service
        name = settings()["services"][service]["name"].upper()
        note.raw(f"Service: {service if self.author.dictates else name}\n\n")

    def allergies(self) -> None:
        """Write the allergies, and the attending physician."""
        if not self.rng.chance(0.8):
            return
        with self.section("Allergies", 0):
            if self.newborn:
                self.note.raw("No Known Allergies / Adverse Drug Reactions")
            else:
                self.note.slot("allergy")
        one, two = self.rng.integer(1, 9), self.rng.integer(10, 9999)
        self.note.raw(f"Attending:[**First Name{one} (LF) {two}**]\n\n")

    def chief_complaint(self) -> None:
        """Write why the patient came."""
        if not self.newborn and not self.delivers and self.rng.chance(0.8):
            with self.section("Chief Complaint"):
                if self.rng.chance(0.85):
                    self.complaint()
                else:
                    self.note.slot("chief_fill")

    def procedures(self) -> None:
        """Write the list of procedures."""
        if self.sites["procedures"]:
            with self.section("Major Surgical or Invasive Procedure"):
                self.items(self.sites["procedures"], "procedure_fill")
        elif self.rng.chance(0.4):
            with self.section("Major Surgical or Invasive Procedure"):
                self.note.slot("procedure_fill")

    def present_illness(self) -> None:
        """Write what happened before the stay."""
        with self.section("History of Present Illness"):
            if self.newborn:
                self.fill("newborn", 0.45 * self.length, 13)
                for code in self.sites["past"]:
                    self.assert_code(code)
                return
            note, rng = self.note, self.rng
            note.say("obs_open" if self.delivers else "hpi_open")
            if self.sites["past"] and not self.past_told:
                note.say("past_also")
            for code in self.present:
                cues = entry_of(code).cues
                if "sx" in cues and rng.chance(0.25 * min(1.0, self.detail)):
                    phrase = rng.pick(cues["sx"])
                    if str(phrase[0]) not in self.said:
                        self.said.add(str(phrase[0]))
                        self.say(code, "cue", "cue_sx", phrase)
            operated = 0.03 * self.length if self.surgical and rng.chance(0.6) else 0.0
            if operated:
                self.fill("hpi_surg", operated, 14)
            if any(word in str(self.reason[1][0]) for word in settings()["notes"]["painful"]):
                self.fill("hpi_pain", 0.02 * self.length, 12)
            rule = "obs_fill" if self.delivers else "hpi_fill"
            self.fill(rule, 0.17 * self.length - operated, 16)
            self.deny(0.5 * self.detail)

    def past_history(self) -> None:
        """Write what the patient had before."""
        extra = int(2 * self.rng.random() * min(2.0, self.detail) + 0.3)
        extra = 0 if self.newborn else extra
        if self.sites["pmh"] or extra:
            with self.section("Past Medical History"):
                self.items(self.sites["pmh"], "pmh_fill", extra)
                if self.rng.chance(0.35 * min(1.5, self.detail)) and not self.newborn:
                    self.note.raw("\n")
                    self.recall()

    def social_history(self) -> None:
        """Write how the patient lives."""
        told = self.sites["social"]
        if told or (self.rng.chance(0.5 * min(1.6, self.detail)) and not self.newborn):
            with self.section("Social History"):
                for code in told:
                    self.note.about(code.key, "evidence")
                    self.note.sentence(self.rng.pick(entry_of(code).social), ".")
                    self.note.about(None, "")
                self.note.say("social")

    def family_history(self) -> None:
        """Write what relatives have."""
        if not self.newborn and self.rng.chance(0.4 * min(1.8, self.detail)):
            with self.section("Family History"):
                if self.rng.chance(0.6):
                    pool = self.material.listed("hereditary")
                    for code in self.rng.sample(pool, self.rng.integer(1, 2)):
                        self.say(code, "family", "family")
                else:
                    self.note.slot("family_fill")

    def exam(self) -> None:
        """Write the physical exam; findings of a condition are its cues."""
        if not self.rng.chance(0.3 + 0.6 * min(1.0, self.detail)):
            return
        with self.section("Physical Exam"):
            if self.newborn:
                self.note.slot("exam_new")
                return
            found: dict[str, tuple[Code, Parts]] = {}
            unsaid: set[str] = set()  # neither a finding nor that all is well is written
            for code in self.present:
                for name, phrases in entry_of(code).cues.items():
                    if name.startswith("exam ") and name[5:] not in found:
                        if self.rng.chance(0.6):
                            found[name[5:]] = (code, self.rng.pick(phrases))
                        else:
                            unsaid.add(name[5:])
            self._vital_signs(found, "vitals" in unsaid)
            for name, label in settings()["exam"].items():
                if name in found:
                    label = label if self.author.number % 2 else label.capitalize()
                    self.note.raw(label + ": ")
                    self.mark(found[name][0], "cue", found[name][1])
                elif name not in unsaid and self.rng.chance(self._usual(name)):
                    self.note.slot("exam_" + name)
                else:
                    continue
                stop = self.author.dictates and not self.note.pieces[-1].endswith(".")
                self.note.raw(("." if stop else "") + (" " if self.author.dictates else "\n"))

    def _usual(self, system: str) -> float:
        """Return the probability that a system without a finding is mentioned."""
        rare = system in ("chest", "ecg", "skin")
        return 0.25 * self.detail if rare else 0.35 + 0.5 * min(1.0, self.detail)

    def _vital_signs(self, found: dict[str, tuple[Code, Parts]], unsaid: bool) -> None:
        """Write vital signs: what a condition changed, and the ordinary values of the rest."""
        note, rng = self.note, self.rng
        note.raw(f"VS: T {96.5 + 2.6 * rng.random():.1f}")
        changed = ""
        if "vitals" in found:
            code, phrase = found["vitals"]
            changed = str(phrase[0])
            note.raw(" ")
            self.mark(code, "cue", phrase)
        elif unsaid:
            note.raw("\n")
            return
        if not changed.startswith(("BP", "SBP", "MAP")):
            note.raw(f" BP {rng.integer(98, 146)}/{rng.integer(52, 88)}")
        note.raw(f" HR {rng.integer(56, 104)}")
        if not changed.startswith("RR"):
            note.raw(f" RR {rng.integer(12, 22)}")
        if not changed.startswith("O2"):
            note.raw(f" O2 {rng.integer(93, 100)}% {rng.pick(('RA', 'on RA', '2L NC', '3L'))}")
        note.raw("\n")

    def results(self) -> None:
        """Write laboratory values, imaging, studies and cultures."""
        note, rng = self.note, self.rng
        if self.newborn or not rng.chance(0.25 + 0.65 * min(1.0, self.detail)):
            return
        with self.section("Pertinent Results"):
            self._lab_tables()
            for code in self.present:
                cues = entry_of(code).cues
                if "img" in cues and rng.chance(0.3 * min(1.0, self.detail)):
                    self.say(code, "cue", "cue_img", rng.pick(cues["img"]))
            note.verbatim = True  # written by other departments, in their own words
            self.today = 0
            words = (0.02 if self.delivers else 0.13) * self.length
            for parts in rng.sample(self.author.rule("study"), int(words / 28 + rng.random())):
                note.raw("\n")
                note.sentence(parts)
            for _ in range(int(self.detail * 1.2 * rng.random())):
                note.raw("\n")
                note.slot("micro")
            note.verbatim = False

    def _lab_tables(self) -> None:
        """Write tables of values; those that a condition moves are its cues."""
        rng = self.rng
        moved: dict[str, tuple[Code, float, float]] = {}
        for code in self.present:
            for name, low, high in entry_of(code).labs:
                moved.setdefault(name, (code, low, high))
        panels = _panels()[: 2 + int(3 * min(1.0, self.detail) * rng.random() + 0.5)]
        rest = [name for name in moved if not any(name in panel for panel in panels)]
        urine = [name for name in rest if name in labs() and labs()[name].panel == "urine"]
        blood = [name for name in rest if name not in urine]
        first = [("BLOOD", panel) for panel in panels] + [("BLOOD", blood), ("URINE", urine)]
        rounds = [first] + [first[: len(panels)]] * int(self.detail - 0.7)
        for number, tables in enumerate(rounds):
            for source, names in tables:
                if names:
                    self.today = max(self.today, self.days * number // len(rounds))
                    time = f"{rng.integer(1, 12):02d}:{rng.integer(0, 59):02d}"
                    self.note.raw(f"{self.date()} {time}{rng.pick(('AM', 'PM'))} {source} ")
                    for name in names:
                        self._lab_value(name, moved.get(name))
                        self.note.raw(" ")
                    self.note.raw("\n")

    def _lab_value(self, name: str, moved: tuple[Code, float, float] | None) -> None:
        lab, rng = labs().get(name, Lab(name, "", 0, 0, None)), self.rng
        if moved is not None:
            code, low, high = moved
            digits = lab.digits if lab.digits is not None else 0 if high > 50 else 1
            self.mark(code, "cue", (f"{lab.printed}-{rng.uniform(low, high):.{digits}f}*",))
            return
        value = rng.uniform(lab.low, lab.high)
        if rng.chance(0.06):
            value *= rng.pick((0.8, 0.88, 1.15, 1.3))
        self.note.raw(f"{lab.printed}-{value:.{lab.digits}f}")

    def course(self) -> None:
        """Write what happened in hospital: the problems, then how the stay went on and ended."""
        with self.section("Brief Hospital Course"):
            note, told, detail = self.note, self.sites["course"], self.detail
            if self.rng.chance(0.5 * min(1.0, detail)) and not self.newborn:
                note.say("course_open")
            for code in self.rng.sample(told, len(told)):
                self._problem(code)
            hidden = [code for code in self.present if code not in told]
            for code in self.rng.sample(hidden, int(detail * 1.5)):
                self.hint(code, 1)
            if self.author.problem_list:
                note.raw("\n")
            if self.newborn:
                self.fill("course_new", 0.2 * self.length, 11)
                return
            self.today = 0
            self.fill("course_once", 0.03 * self.length, 11)
            if self.surgical:
                self.fill("course_surg", 0.05 * self.length, 14)
            self.fill("course_fill", (0.07 if self.surgical else 0.11) * self.length, 15)
            self.deny(0.8 * detail)
            if self.stay.died:
                note.say("died")
            else:
                self.fill("course_leave", 0.09 * self.length, 15)

    def _problem(self, code: Code) -> None:
        """Write the assessment and treatment of a code."""
        note, rng = self.note, self.rng
        self.today = 0
        listed = self.author.problem_list
        if listed:
            note.raw(("" if note.pieces[-1].endswith("\n") else "\n") + self.author.mark)
        if listed and rng.chance(0.5):
            first = len(note.pieces)
            self.name(code)
            note.capitalize(first)
            note.raw(rng.pick((": ", " - ", ". ")))
            if rng.chance(0.35):
                self.assert_code(code)
            else:
                note.say("terse")
        else:
            self.assert_code(code)
        if rng.chance(0.55 * min(1.3, self.detail)):
            self.hint(code, 1 + rng.chance(0.3))
        if rng.chance(0.3 * min(1.5, self.detail)) and not self.newborn:
            note.say("course_fill")
        if rng.chance(0.12):
            self.deny(1)
        if not listed and rng.chance(0.2):
            note.raw("\n")

    def medicines_on_admission(self) -> None:
        """Write the drugs that were taken before the stay."""
        if not self.newborn and self.rng.chance(0.7 * min(1.2, self.detail)):
            with self.section("Medications on Admission"):
                self._medicines([row for row in self.regimen if row.before])

    def medicines_at_discharge(self) -> None:
        """Write the drugs to be taken after the stay."""
        share = 0.25 + 0.6 * min(1.0, self.detail)
        if not self.stay.died and not self.newborn and self.rng.chance(share):
            with self.section("Discharge Medications"):
                self._medicines([row for row in self.regimen if self.rng.chance(0.92)])

    def _medicines(self, listed: list[Prescription]) -> None:
        """Write a numbered or running list of drugs; those of a condition are its cues."""
        note, rng = self.note, self.rng
        if not listed:
            note.raw("None.")
            return
        running = self.author.dictates or self.author.number % 3 == 0
        for place, row in enumerate(rng.sample(listed, len(listed)), 1):
            if not running:
                note.raw(f"{place}. ")
            word = self.drug_word(row.drug)
            word = word[0].upper() + word[1:] if rng.chance(0.5) else word
            if row.code is None:
                note.put(word)
            else:
                self.mark(row.code, "cue", (word,))
            unit, *form = row.drug.unit.split()
            shown = unit if running else row.drug.unit
            note.raw(f" {row.dose}{'' if self.author.glues else ' '}{shown} ")
            if running:
                note.raw(row.when)
                note.raw(", " if place < len(listed) else ".")
                continue
            self.form = form[0] if form else unit
            note.slot("sig_" + (row.when if row.when in BY_MOUTH else "other"))
            if rng.chance(0.2):
                last = form[-1] if form else unit
                note.raw(f" Disp:*{rng.integer(1, 9) * 10} {last}(s)*")
            note.raw("\n")

    def disposition(self) -> None:
        """Write where the patient goes."""
        with self.section("Discharge Disposition"):
            if self.stay.died or self.newborn or self.delivers:
                self.note.raw("Expired" if self.stay.died else "Home")
            else:
                self.note.slot("disposition")

    def diagnosis(self) -> None:
        """Write the list of diagnoses."""
        if self.sites["list"]:
            with self.section("Discharge Diagnosis"):
                self.items(self.sites["list"])
        elif self.rng.chance(0.5):
            with self.section("Discharge Diagnosis"):
                self.note.slot("symptom")

    def condition(self) -> None:
        """Write how the patient is."""
        with self.section("Discharge Condition"):
            if self.stay.died:
                self.note.raw("Expired")
            else:
                self.note.slot("condition_new" if self.newborn else "condition")

    def instructions(self) -> None:
        """Write what the patient is told, and the appointments."""
        if self.stay.died or self.newborn or not self.rng.chance(0.3 + 0.5 * self.detail):
            return
        with self.section("Discharge Instructions"):
            self.note.verbatim = True  # patients are spared the abbreviations
            self.note.say("instr_open")
            self.fill("instr_fill", 0.09 * self.length, 16)
            self.note.verbatim = False
        with self.section("Followup Instructions"):
            self.fill("followup", 0.05 * self.length, 14)

    def foot(self) -> None:
        """Write who signed or dictated the note."""
        note, rng = self.note, self.rng
        if self.author.dictates:

            def doctor() -> str:
                return f"[**Last Name (NamePattern4) {rng.integer(10, 9999)}**]"

            def moment() -> str:
                return f"{self.date(self.left)}  {self.clock()}"

            note.raw(
                f"{'':29}[**First Name11 (Name Pattern1) **] {doctor()}, M.D.\n\n"
                f"Dictated By:{doctor()}\nMEDQUIST36\n\nD:  {moment()}\nT:  {moment()}\n"
                f"JOB#:  [**Job Number {rng.integer(1000, 99999)}**]\n"
            )
        elif rng.chance(0.5):
            number = f"[**MD Number(2) {rng.integer(10, 999)}**]"
            note.raw(f"{'':29}[**Name6 (MD) **] [**Name8 (MD) **] MD {number}\n")
