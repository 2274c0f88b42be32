"""An admission as a note tells it: the values of slots, and where each code is mentioned."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

from data_prep.hospital.authors import Author
from data_prep.hospital.code_catalogue import CodeCatalogue
from data_prep.hospital.codes import HEAD, NEWBORN, Code
from data_prep.hospital.data_files import settings
from data_prep.hospital.grammar import Parts, rules
from data_prep.hospital.lexicon import Drug, drugs, entry_of, name_of
from data_prep.hospital.note_builder import NoteBuilder, Value
from data_prep.hospital.patients import Admission, Patient
from data_prep.hospital.portable_random import PortableRandom
from data_prep.hospital.presets import Preset

COMMON_DRUGS = 151
"""Number of drugs at the end of `drugs.csv` that say little about a patient's conditions."""

WORDS_IN_FULL = 600
"""Intended length, in words, of a note with most details: `detail` is 1."""


class Material:
    """What all notes of a hospital are written from: its codes and drugs."""

    def __init__(self, catalogue: CodeCatalogue, preset: Preset) -> None:
        self.catalogue = catalogue
        self.preset = preset
        every = [catalogue.codes[key] for key in sorted(catalogue.known)]
        named = [code for code in every if code.code[0] not in "VE" and code.ages != NEWBORN]
        self.head = [code for code in named if code.rank < HEAD]
        self.tail = [code for code in named if code.rank >= HEAD and code.kind == "dx"]
        self.by_code = {code.code: code for code in every}
        self.home_drugs = [drug for drug in drugs().values() if drug.at_home]
        self.common_drugs = self.home_drugs[-COMMON_DRUGS:]

    def listed(self, name: str) -> list[Code]:
        """Return the codes of a list in `hospital.toml` that exist in this hospital."""
        return [self.by_code[code] for code in settings()["codes"][name] if code in self.by_code]


class Prescription(NamedTuple):
    """A drug of the stay."""

    code: Code | None
    """What it is for, if this is known."""
    drug: Drug
    dose: str
    when: str
    before: bool
    """Whether it was taken before the stay."""


def kind_of(code: Code) -> str:
    """Return how a note speaks of a code: "pr", "event", "status", "chronic" or "acute"."""
    if code.kind == "pr":
        return "pr"
    if code.code[0] == "E":
        return "event"
    if code.code in settings()["codes"]["chronic"]:
        return "chronic"
    if code.code.startswith(("V27", "V29", "V3", "V05")):
        return "acute"
    if code.code[0] == "V":
        return "status"
    if code.lasting:
        return "chronic"
    if code.rank >= HEAD and code.given and not any(name[0].isdigit() for name, _ in code.given):
        arising = any(name in ("NB", "OBS", "gibleed") for name, _ in code.given)
        return "acute" if arising else "chronic"
    return "acute"


def can_have(relative: str, age: int, sex: str) -> bool:
    """Return whether a patient of this age and sex can have such a relative."""
    youngest, oldest, of = settings()["relatives"].get(relative, (0, 200, ""))
    return youngest <= age <= oldest and of in ("", sex)


class Story:
    """One note of one admission while it is written."""

    def __init__(
        self,
        material: Material,
        person: Patient,
        stay: Admission,
        rng: PortableRandom,
        author: Author,
    ) -> None:
        self.material, self.person, self.stay = material, person, stay
        self.rng, self.author = rng, author
        self.newborn, self.delivers = stay.service == "NB", stay.service == "OBS"
        self.surgical = settings()["services"][stay.service].get("surgical", False)
        self.came, self.left = stay.admitted.date(), stay.discharged.date()
        self.days = max(1, (self.left - self.came).days)
        self.length = rng.lognormal(material.preset.words, material.preset.sigma)
        self.detail = self.length / WORDS_IN_FULL
        self.boilerplate = material.preset.boilerplate
        self.present = [fact.code for fact in stay.facts]
        self.written = [fact.code for fact in stay.facts if fact.written]
        self.taken = {(code.kind, code.ccs) for code in self.present}
        self.note = NoteBuilder(rng, self._values(), author)
        self.sites = self._plan()
        self.past_told = False
        self.form = "Tablet"
        self.said: set[str] = set()
        self.kin = ""
        self.today = 0
        self.regimen = self._regimen()
        self.reason = self._reason()

    # -- what the slots hold

    def _values(self) -> dict[str, Value]:
        rng, stay, male = self.rng, self.stay, self.person.sex == "M"
        words = settings()["notes"]
        name = f"[**Known lastname {rng.integer(1, 9999)}**]"
        title = "Mr. " if male else rng.pick(("Ms. ", "Mrs. "))
        he = "he" if male else "she"
        if self.newborn:
            title = "Baby boy " if male else "Baby girl "
        self.called, self.he = title + name, he

        def raw(text: Callable[[], object]) -> Callable[[NoteBuilder], None]:
            return lambda note: note.raw(str(text()))

        def shifted(day: date, sign: int, least: int) -> str:
            return self.date(day + sign * timedelta(days=rng.integer(least, 60)))

        work = "work_old" if stay.age > 63 else "work_young"
        return {
            "He": lambda note: self._patient(),
            "he": he,
            "him": "him" if male else "her",
            "his": "his" if male else "her",
            "His": "His" if male else "Her",
            "man": "man" if male else "woman",
            "gender": self.person.sex,
            "sexword": "male" if male else "female",
            "Mr": raw(lambda: self.called),
            "age": "[**Age over 90 **]" if stay.age > 89 else str(stay.age),
            "service": settings()["services"][stay.service]["name"],
            "date": raw(self.date),
            "date_raw": raw(lambda: self.date()[3:-3]),
            "date_before": raw(lambda: shifted(self.came, -1, 1)),
            "date_after": raw(lambda: shifted(self.left, 1, 2)),
            "date_end": raw(lambda: self.date(self.left)),
            "year": raw(lambda: stay.admitted.year - rng.integer(1, 20)),
            "month": raw(lambda: rng.pick(words["months"])),
            "hhmm": raw(self.clock),
            "doctor": raw(lambda: rng.pick(words["doctors"]) % rng.integer(1, 9999)),
            "weeks": raw(lambda: rng.integer(*self._born("weeks", (33, 36), (38, 40)))),
            "grams": raw(lambda: rng.integer(*self._born("grams", (1700, 2600), (2700, 3900)))),
            "hct": raw(lambda: rng.integer(*self._hematocrit())),
            "pod": raw(lambda: rng.integer(1, min(5, self.days))),
            "hd": raw(lambda: rng.integer(min(2, self.days), self.days)),
            "form": raw(lambda: self.form),
            "drugname": lambda note: note.put(self._any_drug()),
            "plain": lambda note: note.slot("plain_" + stay.service),
            "work": lambda note: note.slot(work),
            "complaint": lambda note: self.complaint(),
            "symptom": lambda note: self._symptom(),
            "relative": lambda note: self._relative(),
            "pasthx": lambda note: self._past(),
        }

    def _patient(self) -> None:
        """Write a word for the patient."""
        luck, dictated = self.rng.random(), self.author.dictates
        if luck < 0.55:
            self.note.put(self.he)
        elif luck < 0.75:
            self.note.put("the patient" if dictated or luck < 0.65 else "pt")
        elif luck < 0.9:
            self.note.raw(self.called)
        else:
            self.note.put("the patient" if dictated else "patient")

    def date(self, day: date | None = None) -> str:
        """Return a date as it is written; without a day, the next one in the section's account."""
        if day is None:
            if self.rng.chance(0.4):
                self.today = min(self.days, self.today + self.rng.integer(1, 1 + self.days // 6))
            day = self.came + timedelta(days=self.today)
        if self.rng.chance(0.3):
            return f"[**{day.month}-{day.day}**]"
        return f"[**{day.year}-{day.month}-{day.day}**]"

    def clock(self) -> str:
        """Return a time of the day."""
        return f"{self.rng.integer(0, 23):02d}:{self.rng.integer(0, 59):02d}"

    def drug_word(self, drug: Drug) -> str:
        """Return the generic name of a drug or its brand."""
        branded = self.rng.chance(0.4 if self.author.dictates else 0.25)
        return drug.brand if branded else drug.generic

    def _any_drug(self) -> str:
        common = self.rng.chance(0.7)
        pool = self.material.common_drugs if common else self.material.home_drugs
        return self.drug_word(self.rng.pick(pool))

    def _reason(self) -> tuple[Code | None, Parts]:
        """Return why the patient came: a symptom with its code, or any symptom without one."""
        for code in self.present:
            phrases = entry_of(code).cues.get("sx")
            if phrases and self.rng.chance(0.5 if kind_of(code) == "acute" else 0.06):
                return code, self.rng.pick(phrases)
        return None, self.rng.pick(self.author.rule("symptom"))

    def complaint(self) -> None:
        """Write why the patient came."""
        code, phrase = self.reason
        self.said.add(str(phrase[0]))
        if code is None:
            self.note.write(phrase)
        else:
            self.mark(code, "cue", phrase)

    def _relative(self) -> None:
        """Write a relative that the patient can have, mostly the same one through a note."""
        if self.kin and self.rng.chance(0.75):
            self.note.put(self.kin)
            return
        age, sex = self.stay.age, self.person.sex
        usual = self.author.rule("relative")
        if not any(can_have(str(parts[0]), age, sex) for parts in usual):
            usual = rules()["relative"]  # the patient can have none of those that the author uses
        kin = str(self.rng.pick(usual)[0])
        while not can_have(kin, age, sex):
            kin = str(self.rng.pick(usual)[0])
        self.kin = self.kin or kin
        self.note.put(kin)

    def _born(self, what: str, preterm: tuple[int, int], term: tuple[int, int]) -> tuple[int, int]:
        """Return bounds of the weeks or grams at birth, which the admission's codes may set."""
        known = settings()["codes"][what]
        for code in self.present:
            if code.code in known:
                return known[code.code]
        early = any(code.code.startswith(("765", "769", "774.2", "776.6")) for code in self.present)
        return preterm if early else term

    def _hematocrit(self) -> tuple[int, int]:
        low = any(name == "Hct" for code in self.present for name, *_ in entry_of(code).labs)
        return (24, 31) if low else (34, 41)

    def _symptom(self) -> None:
        """Write a symptom that the note has neither reported nor denied so far."""
        alternatives = self.author.rule("symptom")
        for _ in range(6):
            parts = self.rng.pick(alternatives)
            if parts[0] not in self.said:
                break
        self.said.add(str(parts[0]))
        self.note.write(parts)

    def _past(self) -> None:
        """Write what the first sentence of a history says of the past."""
        note, chosen = self.note, self.sites["past"]
        self.past_told = True
        if not chosen:
            histories = ("no significant history", "a complex history", "multiple medical problems")
            note.put("with " + self.rng.pick(histories))
            return
        note.slot("history_of")
        note.raw(" ")
        for place, code in enumerate(chosen):
            if place:
                last = place == len(chosen) - 1
                note.raw(self.rng.pick((" and ", ", and ", ", ")) if last else ", ")
            self.name(code)

    def _plan(self) -> dict[str, list[Code]]:
        """Decide where each written code is mentioned: in at least one place."""
        sites: dict[str, list[Code]] = {
            name: [] for name in ("past", "pmh", "social", "course", "list", "procedures")
        }
        for code in self.written:
            kind = "social" if entry_of(code).social else kind_of(code)
            shares = settings()["sites"][kind]
            chosen = [site for site, share in shares.items() if self.rng.chance(share)]
            for site in chosen or list(shares)[:1]:
                sites[site].append(code)
        return sites

    def _regimen(self) -> list[Prescription]:
        """Draw the drugs of the stay, at most one of each group."""
        rng = self.rng
        regimen: dict[str, Prescription] = {}

        def add(code: Code | None, drug: Drug, before: bool) -> None:
            if drug.at_home and drug.group not in regimen:
                dose, when = rng.pick(drug.doses), rng.pick(drug.times)
                regimen[drug.group] = Prescription(code, drug, dose, when, before)

        share = min(0.8, 0.35 + 0.45 * self.detail)
        for code in self.present:
            names = [str(parts[0]) for parts in entry_of(code).cues.get("drug", ())]
            before = kind_of(code) in ("chronic", "status")
            for name in rng.sample(names, 2):
                if rng.chance(share):
                    add(code, drugs()[name], before)
        extra = int((1.0 + 3.0 * rng.random()) * min(2.0, self.detail) + 0.5)
        for drug in rng.sample(self.material.common_drugs, extra):
            add(None, drug, rng.chance(0.5))
        if rng.chance(0.3):  # a drug unrelated to the codes
            add(None, rng.pick(self.material.home_drugs), True)
        return list(regimen.values())

    # -- mentions of codes

    def mark(self, code: Code, role: str, parts: Parts) -> None:
        """Write words as a mention of a code."""
        note = self.note
        before = note.code, note.role, note.mention
        note.about(code.key, role)
        note.mark(parts)
        note.about(*before)

    def name(self, code: Code) -> None:
        """Write a name of a code."""
        self.mark(code, "evidence", name_of(code, self.rng, self.author.number))

    def say(self, code: Code, role: str, rule: str, mention: Parts | None = None) -> None:
        """Write a sentence of a rule about a code, with its name or the words given."""
        if mention is None:
            mention = name_of(code, self.rng, self.author.number)
        self.note.about(code.key, role, mention)
        self.note.say(rule)
        self.note.about(None, "")

    def assert_code(self, code: Code) -> None:
        """Write one or two sentences that assert a code."""
        rng = self.rng
        if rng.chance(0.3) and (code.pre or code.post):
            self.say(code, "parent", "parent", rng.pick(entry_of(code).names))
            if code.pre and (not code.post or rng.chance(0.6)):
                self.say(code, "evidence", "spread", (rng.pick(code.pre),))
            else:
                self.say(code, "evidence", "spread_post", (rng.pick(code.post),))
            return
        say = entry_of(code).say
        if say and rng.chance(0.6):
            self.note.about(code.key, "evidence")
            self.note.sentence(rng.pick(say))
            self.note.about(None, "")
        else:
            self.say(code, "evidence", "about_" + kind_of(code))

    def hint(self, code: Code, count: int) -> None:
        """Write sentences about findings, drugs and consultants of a code."""
        cues = entry_of(code).cues
        types = [name for name in ("drug", "img", "sx", "tx", "dev", "con", "find") if name in cues]
        for name in self.rng.sample(types, count):
            phrase = self.rng.pick(cues[name])
            rule = "cue_" + name
            if name == "drug":
                drug = drugs()[str(phrase[0])]
                phrase = (self.drug_word(drug),)
                if drug.at_home and not self.stay.died and self.rng.chance(0.5):
                    rule = "cue_drug_home"
            self.say(code, "cue", rule, phrase)

    def _absent(self, pool: list[Code]) -> Code | None:
        """Draw a code of the pool that this patient could have but does not, or None."""
        for _ in range(4):
            code = self.rng.pick(pool)
            if (code.kind, code.ccs) not in self.taken and code.suits(
                self.person.sex, self.stay.age
            ):
                return code
        return None

    def deny(self, count: float) -> None:
        """Write sentences about what the patient does not have, or what was ruled out."""
        rng = self.rng
        for _ in range(int(self.boilerplate * count + rng.random())):
            code = self._absent(self.material.head if rng.chance(0.6) else self.material.tail)
            if code is None or code.code in ("305.1", "V15.82"):  # the social history has these
                continue
            if code.kind == "pr":
                if code.code not in ("39.61", "36.15"):  # part of larger operations
                    self.say(code, "negated", "negative_pr")
            elif kind_of(code) == "chronic":
                self.say(code, "negated", "negative_chronic")
            elif rng.chance(0.6):
                self.say(code, "negated", "negative")
            else:
                self.say(code, "ruled_out", "ruled_out")

    def recall(self) -> None:
        """Write a sentence about something that is over."""
        past = self.material.listed("past_procedures" if self.rng.chance(0.4) else "past")
        code = self._absent(past)
        if code is not None:
            rule = "historical_pr" if code.kind == "pr" else "historical"
            self.say(code, "historical", rule)
