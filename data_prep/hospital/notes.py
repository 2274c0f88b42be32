"""Writes the notes of an admission, section by section, with every mention in its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from data_prep.hospital.code_catalogue import Code, World
from data_prep.hospital.grammar import Author, Sheet, Span, Value, rules
from data_prep.hospital.lexicon import Drug, Parts, drugs, entry_of, name_of
from data_prep.hospital.patients import CHRONIC, Admission, Patient
from data_prep.hospital.portable_random import Dice
from data_prep.hospital.presets import Preset

AUTHORS = 100

LABS = {
    "WBC": (4.5, 10.8, 1), "RBC": (3.9, 5.1, 2), "Hgb": (11.8, 15.5, 1), "Hct": (34.5, 45.0, 1),
    "MCV": (82, 97, 0), "MCH": (27.2, 32.8, 1), "RDW": (12.6, 15.2, 1), "Plt": (152, 390, 0),
    "INR": (0.9, 1.3, 1), "PTT": (23.8, 36.0, 1), "Glucose": (80, 128, 0), "BUN": (8, 24, 0),
    "Creat": (0.6, 1.2, 1), "Na": (135, 144, 0), "K": (3.6, 4.8, 1), "Cl": (97, 108, 0),
    "HCO3": (22, 29, 0), "Calcium": (8.3, 9.9, 1), "Phos": (2.6, 4.4, 1), "Mg": (1.7, 2.4, 1),
    "ALT": (9, 44, 0), "AST": (11, 42, 0), "AlkPhos": (42, 118, 0), "TotBili": (0.2, 1.1, 1),
    "Albumin": (3.4, 4.6, 1), "Lipase": (12, 60, 0),
}  # fmt: skip
"""Ordinary range and digits of the tests of a usual table."""

PANELS = (
    ("WBC", "RBC", "Hgb", "Hct", "MCV", "MCH", "RDW", "Plt"),
    ("Glucose", "BUN", "Creat", "Na", "K", "Cl", "HCO3"),
    ("INR", "PTT"),
    ("Calcium", "Phos", "Mg"),
    ("ALT", "AST", "AlkPhos", "TotBili", "Albumin", "Lipase"),
)
PRINTED = {
    "Plt": "Plt Ct", "BUN": "UreaN", "INR": "INR(PT)", "BNP": "proBNP", "TropT": "cTropnT",
    "HbA1c": "%HbA1c", "UA-WBC": "WBC",
}  # fmt: skip
URINE = ("UA-WBC",)
SYSTEMS = ("gen", "heent", "neck", "heart", "lungs", "chest", "abd", "ext", "neuro", "skin")
SPOKEN = {
    "gen": "GEN", "heent": "HEENT", "neck": "NECK", "heart": "CV", "lungs": "LUNGS",
    "chest": "CHEST", "abd": "ABD", "ext": "EXT", "neuro": "NEURO", "skin": "SKIN", "ecg": "ECG",
    "vitals": "VS",
}  # fmt: skip
HEREDITARY = (
    "401.9", "250.00", "414.01", "272.4", "244.9", "311", "427.31", "410.71", "428.0", "496",
    "434.91", "153.9", "174.9", "162.9", "185", "331.0", "733.00", "585.9",
)  # fmt: skip
PAST = (
    "486", "584.9", "599.0", "518.81", "038.9", "507.0", "285.1", "287.5", "276.1", "511.9",
    "453.40", "415.19", "578.9", "577.0", "682.6", "008.45", "540.0", "560.81",
)  # fmt: skip
PAST_PROCEDURES = ("96.04", "45.13", "37.22", "88.56", "99.04", "33.24", "88.72", "45.23", "38.93")
COMMON_DRUGS = 151
"""So many at the end of `drugs.csv` say little of what somebody has."""
BY_MOUTH = ("daily", "bid", "tid", "qid", "hs", "prn")
DAY = timedelta(days=1)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


@dataclass
class Note:
    """A row of NOTEEVENTS and the mentions in its text."""

    category: str
    description: str
    day: date
    text: str
    spans: list[Span]
    time: datetime | None = None
    caregiver: int | None = None
    linked: bool = True


def kind_of(code: Code) -> str:
    """How a note speaks of a code: "pr", "event", "status", "chronic" or "acute"."""
    if code.kind == "pr":
        return "pr"
    if code.code[0] == "E":
        return "event"
    if code.code in CHRONIC:
        return "chronic"
    if code.code.startswith(("V27", "V29", "V3", "V05")):
        return "acute"
    if code.code[0] == "V":
        return "status"
    if code.lasting:
        return "chronic"
    if code.rank >= 50 and code.given and not any(name[0].isdigit() for name, _ in code.given):
        arising = any(name in ("NB", "OBS", "gibleed") for name, _ in code.given)
        return "acute" if arising else "chronic"
    return "acute"


def wrap(text: str, width: int) -> str:
    """Breaks long lines at blanks; no character is added or lost, so offsets stay."""
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


class Writer:
    """Writes the notes of a hospital.

    Args:
        seed: of the hospital.
        world: its codes.
        preset: its size.
    """

    def __init__(self, seed: int, world: World, preset: Preset) -> None:
        self.seed = seed
        self.world = world
        self.preset = preset
        self.authors = [Author(seed, number) for number in range(AUTHORS)]
        every = [world.codes[key] for key in sorted(world.known)]
        named = [code for code in every if code.code[0] not in "VE" and code.ages != (0, 0)]
        self.head = [code for code in named if code.rank < 50]
        self.tail = [code for code in named if code.rank >= 50 and code.kind == "dx"]
        self.by_code = {code.code: code for code in every}
        self.pharmacy = list(drugs().values())
        self.home = [drug for drug in self.pharmacy if drug.at_home]
        self.plain = self.home[-COMMON_DRUGS:]

    def notes(self, person: Patient, stay: Admission) -> Iterator[Note]:
        """The notes of one admission: the summary, addenda, and some of other categories."""
        dice = Dice(self.seed, "notes", person.index, stay.number)
        if stay.has_summary:
            author = self.authors[int(dice.random() * AUTHORS)]
            yield _Summary(self, person, stay, dice, author).report()
            if dice.chance(0.05):
                yield _Summary(self, person, stay, dice, author).addendum()
        if dice.chance(0.1):
            author = self.authors[int(dice.random() * AUTHORS)]
            yield _Summary(self, person, stay, dice, author).other()


class _Summary:
    """One note of one admission while it is written."""

    def __init__(
        self, writer: Writer, person: Patient, stay: Admission, dice: Dice, author: Author
    ) -> None:
        self.writer, self.person, self.stay = writer, person, stay
        self.dice, self.author = dice, author
        self.length = dice.lognormal(writer.preset.words, writer.preset.sigma)
        self.detail = self.length / 600
        self.present = [fact.code for fact in stay.facts]
        self.codes = [fact.code for fact in stay.facts if fact.written]
        self.taken = {(code.kind, code.ccs) for code in self.present}
        self.days = max(1, (stay.discharged.date() - stay.admitted.date()).days)
        self.sheet = Sheet(dice, self._values(), author)
        self.sites = self._plan()
        self.past_told = False
        self.form = "Tablet"
        self.said: set[str] = set()
        self.kin = ""
        self.today = 0
        self.regimen = self._regimen()
        self.reason = self._reason()

    # -- the story behind the slots

    def _values(self) -> dict[str, Value]:
        dice, author, stay = self.dice, self.author, self.stay
        male = self.person.sex == "M"
        name = f"[**Known lastname {dice.integer(1, 9999)}**]"
        title = "Mr. " if male else dice.pick(("Ms. ", "Mrs. "))
        he = "he" if male else "she"
        if stay.service == "NB":
            title = "Baby boy " if male else "Baby girl "
        dictated = author.dictates
        came, left = stay.admitted.date(), stay.discharged.date()

        def patient(sheet: Sheet) -> None:
            luck = dice.random()
            if luck < 0.55:
                sheet.put(he)
            elif luck < 0.75:
                sheet.put("the patient" if dictated or luck < 0.65 else "pt")
            elif luck < 0.9:
                sheet.raw(title + name)
            else:
                sheet.put("patient" if not dictated else "the patient")

        def day(sheet: Sheet) -> None:
            sheet.raw(self._date())

        return {
            "He": patient,
            "he": he,
            "him": "him" if male else "her",
            "his": "his" if male else "her",
            "His": "His" if male else "Her",
            "man": "man" if male else "woman",
            "gender": "M" if male else "F",
            "Mr": lambda sheet: sheet.raw(title + name),
            "age": "[**Age over 90 **]" if stay.age > 89 else str(stay.age),
            "service": SERVICE_NAMES[stay.service],
            "date": day,
            "date_before": lambda sheet: sheet.raw(self._date(came - dice.integer(1, 60) * DAY)),
            "date_after": lambda sheet: sheet.raw(self._date(left + dice.integer(2, 60) * DAY)),
            "date_end": lambda sheet: sheet.raw(self._date(left)),
            "plain": lambda sheet: sheet.slot("plain_" + stay.service),
            "sexword": "male" if male else "female",
            "date_raw": lambda sheet: sheet.raw(self._date()[3:-3]),
            "year": lambda sheet: sheet.raw(str(stay.admitted.year - dice.integer(1, 20))),
            "month": lambda sheet: sheet.raw(dice.pick(MONTHS)),
            "hhmm": lambda sheet: sheet.raw(f"{dice.integer(0, 23):02d}:{dice.integer(0, 59):02d}"),
            "doctor": lambda sheet: sheet.raw(
                dice.pick(("[**Last Name (STitle) %d**]", "[**First Name (STitle) %d**]",
                           "[**Last Name (un) %d**]", "[**Name (NI) %d**]"))
                % dice.integer(1, 9999)
            ),
            "drugname": lambda sheet: sheet.put(self._any_drug()),
            "complaint": self._complaint,
            "weeks": lambda sheet: sheet.raw(str(dice.integer(*self._born(WEEKS, (38, 40))))),
            "grams": lambda sheet: sheet.raw(str(dice.integer(*self._born(GRAMS, (2700, 3900))))),
            "symptom": self._symptom,
            "relative": self._relative,
            "hct": lambda sheet: sheet.raw(str(dice.integer(*self._hematocrit()))),
            "pod": lambda sheet: sheet.raw(str(dice.integer(1, min(5, self.days)))),
            "hd": lambda sheet: sheet.raw(str(dice.integer(min(2, self.days), self.days))),
            "work": lambda sheet: sheet.slot("work_old" if stay.age > 63 else "work_young"),
            "pasthx": self._past,
            "form": lambda sheet: sheet.raw(self.form),
        }  # fmt: skip

    def _date(self, day: date | None = None) -> str:
        if day is None:  # a section tells its days in order
            if self.dice.chance(0.4):
                self.today = min(self.days, self.today + self.dice.integer(1, 1 + self.days // 6))
            day = self.stay.admitted.date() + timedelta(days=self.today)
        if self.dice.chance(0.3):
            return f"[**{day.month}-{day.day}**]"
        return f"[**{day.year}-{day.month}-{day.day}**]"

    def _drug_word(self, drug: Drug) -> str:
        branded = self.dice.chance(0.4 if self.author.dictates else 0.25)
        return drug.brand if branded else drug.generic

    def _any_drug(self) -> str:
        pool = self.writer.plain if self.dice.chance(0.7) else self.writer.home
        return self._drug_word(self.dice.pick(pool))

    def _reason(self) -> tuple[Code | None, Parts]:
        """Why the patient came: a symptom of what they have, or any."""
        for code in self.present:
            phrases = entry_of(code).cues.get("sx")
            if phrases and self.dice.chance(0.5 if kind_of(code) == "acute" else 0.06):
                return code, self.dice.pick(phrases)
        return None, self.dice.pick(self.author.rule("symptom"))

    def _complaint(self, sheet: Sheet) -> None:
        code, phrase = self.reason
        self.said.add(str(phrase[0]))
        if code is None:
            sheet.write(phrase)
        else:
            self._mark(code, "cue", phrase)

    def _relative(self, sheet: Sheet) -> None:
        """Mostly the same person through a note, and one that the patient can have."""
        if self.kin and self.dice.chance(0.75):
            sheet.put(self.kin)
            return
        age, sex = self.stay.age, self.person.sex
        usual = self.author.rule("relative")
        if not any(can_have(str(parts[0]), age, sex) for parts in usual):
            usual = rules()["relative"]  # of those that the author uses, this patient has none
        kin = str(self.dice.pick(usual)[0])
        while not can_have(kin, age, sex):
            kin = str(self.dice.pick(usual)[0])
        self.kin = self.kin or kin
        sheet.put(kin)

    def _born(self, known: dict[str, tuple[int, int]], usual: tuple[int, int]) -> tuple[int, int]:
        """Bounds that the codes of prematurity set for weeks or grams at birth."""
        preterm = (33, 36) if usual[1] < 100 else (1700, 2600)
        early = any(code.code.startswith(("765", "769", "774.2", "776.6")) for code in self.present)
        exact = [known[code.code] for code in self.present if code.code in known]
        return exact[0] if exact else preterm if early else usual

    def _hematocrit(self) -> tuple[int, int]:
        low = any(name == "Hct" for code in self.present for name, *_ in entry_of(code).labs)
        return (24, 31) if low else (34, 41)

    def _symptom(self, sheet: Sheet) -> None:
        """A symptom that the note has neither reported nor denied so far."""
        alternatives = self.author.rule("symptom")
        for _ in range(6):
            parts = self.dice.pick(alternatives)
            if parts[0] not in self.said:
                break
        self.said.add(str(parts[0]))
        sheet.write(parts)

    def _past(self, sheet: Sheet) -> None:
        chosen = self.sites["past"]
        self.past_told = True
        if not chosen:
            sheet.put("with " + self.dice.pick(("no significant history", "a complex history",
                                                "multiple medical problems")))  # fmt: skip
            return
        sheet.slot("history_of")
        sheet.raw(" ")
        for place, code in enumerate(chosen):
            if place:
                last = place == len(chosen) - 1
                sheet.raw(self.dice.pick((" and ", ", and ", ", ")) if last else ", ")
            self._name(code)

    # -- mentions

    def _mark(self, code: Code, role: str, parts: Parts) -> None:
        """Writes words as a mention of a code."""
        sheet = self.sheet
        before = sheet.code, sheet.role, sheet.mention
        sheet.about(code.key, role)
        sheet.mark(parts)
        sheet.about(*before)

    def _name(self, code: Code, role: str = "evidence") -> None:
        self._mark(code, role, name_of(code, self.dice, self.author.number))

    def _say(self, code: Code, role: str, rule: str, mention: Parts | None = None) -> None:
        if mention is None:
            mention = name_of(code, self.dice, self.author.number)
        self.sheet.about(code.key, role, mention)
        self.sheet.say(rule)
        self.sheet.about(None, "")

    def _plan(self) -> dict[str, list[Code]]:
        """Decides where each written code is mentioned: at one place at least."""
        sites: dict[str, list[Code]] = {
            name: [] for name in ("past", "pmh", "social", "course", "list", "procedures")
        }
        dice = self.dice
        for code in self.codes:
            kind = kind_of(code)
            ways = WAYS[kind]
            if entry_of(code).social:
                ways = (("social", 0.6), ("course", 0.1), ("pmh", 0.25))
            before = sum(map(len, sites.values()))
            for site, share in ways:
                if dice.chance(share):
                    sites[site].append(code)
            if sum(map(len, sites.values())) == before:
                sites[ways[0][0]].append(code)
        return sites

    # -- pieces of sections

    def _header(self, name: str, omit: float = 0.03) -> None:
        sheet = self.sheet
        sheet.section = name
        self.today = 0
        if self.dice.chance(omit):
            return
        text = self.author.header(name)
        sheet.raw(text + ":" + ("  " if self.author.upper_headers else "\n"))

    def _end(self) -> None:
        self.sheet.raw("\n\n")

    def _items(self, codes: list[Code], fill: str, extra: int, stated: str = "pmh") -> None:
        """A list of codes, some with an own phrase, among other things."""
        sheet, dice, style = self.sheet, self.dice, self.author.bullet
        items: list[Code | None] = [*codes, *[None] * extra]
        order = dice.sample(items, len(items))
        for place, code in enumerate(order):
            if style == "numbers":
                sheet.raw(f"{place + 1}. ")
            elif style == "dashes":
                sheet.raw("- ")
            first = len(sheet.pieces)
            if code is None:
                sheet.slot(fill)
            else:
                phrases = entry_of(code).pmh if stated == "pmh" else ()
                if phrases and dice.chance(0.35):
                    sheet.about(code.key, "evidence")
                    sheet.write(dice.pick(phrases))
                    sheet.about(None, "")
                else:
                    self._name(code)
            if style != "commas" and dice.chance(0.6):
                piece = sheet.pieces[first]
                sheet.pieces[first] = piece[:1].upper() + piece[1:]
            last = place == len(order) - 1
            sheet.raw("" if last else ", " if style == "commas" else "\n")

    def _fill(self, rule: str, words: float, each: float) -> None:
        """Sentences of a rule that make up about so many words."""
        count = max(1, int(words / each + self.dice.random()))
        alternatives = self.author.rule(rule)
        for parts in self.dice.sample(alternatives, count):
            self.sheet.sentence(parts)
        if rule not in ONCE:
            for _ in range(count - len(alternatives)):
                self.sheet.say(rule)

    def _cues(self, code: Code, count: int) -> None:
        """Sentences about findings, drugs and consultants of a code."""
        cues = entry_of(code).cues
        types = [name for name in CUE_RULES if name in cues]
        for name in self.dice.sample(types, count):
            phrase = self.dice.pick(cues[name])
            rule = CUE_RULES[name]
            if name == "drug":
                drug = drugs()[str(phrase[0])]
                phrase = (self._drug_word(drug),)
                if drug.at_home and not self.stay.died and self.dice.chance(0.5):
                    rule = "cue_drug_home"
            self._say(code, "cue", rule, phrase)

    def _about(self, code: Code) -> None:
        """One or two sentences that assert a code."""
        dice, sheet = self.dice, self.sheet
        if dice.chance(0.3) and (code.pre or code.post):
            names = entry_of(code).names
            self._say(code, "parent", "parent", dice.pick(names))
            if code.pre and (not code.post or dice.chance(0.6)):
                self._say(code, "evidence", "spread", (dice.pick(code.pre),))
            else:
                self._say(code, "evidence", "spread_post", (dice.pick(code.post),))
            return
        say = entry_of(code).say
        if say and dice.chance(0.6):
            sheet.about(code.key, "evidence")
            sheet.sentence(dice.pick(say))
            sheet.about(None, "")
        else:
            self._say(code, "evidence", "about_" + kind_of(code))

    def _absent(self, pool: list[Code]) -> Code | None:
        """A code of the pool that this patient could have but has not."""
        for _ in range(4):
            code = self.dice.pick(pool)
            if (code.kind, code.ccs) not in self.taken and code.suits(
                self.person.sex, self.stay.age
            ):
                return code
        return None

    def _elsewhere(self, count: float) -> None:
        """Mentions of what is denied or was ruled out."""
        writer, dice = self.writer, self.dice
        for _ in range(int(count + dice.random())):
            code = self._absent(writer.head if dice.chance(0.6) else writer.tail)
            if code is None or (code.kind == "dx" and code.code in ("305.1", "V15.82")):
                continue
            if code.kind == "pr":
                if code.code not in ("39.61", "36.15"):
                    self._say(code, "negated", "negative_pr")
            elif kind_of(code) == "chronic":
                self._say(code, "negated", "negative_chronic")
            elif dice.chance(0.6):
                self._say(code, "negated", "negative")
            else:
                self._say(code, "ruled_out", "ruled_out")

    def _formerly(self) -> None:
        """A mention of something that is over."""
        dice, by_code = self.dice, self.writer.by_code
        names = PAST_PROCEDURES if dice.chance(0.4) else PAST
        pool = [by_code[code] for code in names if code in by_code]
        code = self._absent(pool)
        if code is not None:
            rule = "historical_pr" if code.kind == "pr" else "historical"
            self._say(code, "historical", rule)

    # -- sections

    def _top(self) -> None:
        sheet, stay, author = self.sheet, self.stay, self.author
        came, left = stay.admitted.date(), stay.discharged.date()
        sheet.section = "Admission"

        def stamp(day: date) -> str:
            return f"[**{day.year}-{day.month}-{day.day}**]"

        sheet.raw(f"Admission Date:  {stamp(came)}")
        sheet.raw(f"  Discharge Date: {stamp(left)}\n\n")
        if self.dice.chance(0.9):
            born = self.person.born
            shown = stamp(born) if stay.age <= 89 else "[**Age over 90 **]"
            sheet.raw(f"Date of Birth:  {shown}             Sex:   {self.person.sex}\n\n")
        name = SERVICE_NAMES[stay.service].upper()
        sheet.raw(f"Service: {stay.service if author.dictates else name}\n\n")

    def _labs(self) -> None:
        """Tables of values; those that a condition moved are its cues."""
        sheet, dice = self.sheet, self.dice
        moved: dict[str, tuple[Code, float, float]] = {}
        for code in self.present:
            for name, low, high in entry_of(code).labs:
                moved.setdefault(name, (code, low, high))
        panels: list[tuple[str, ...]] = [
            *PANELS[: 2 + int(3 * min(1.0, self.detail) * dice.random() + 0.5)]
        ]
        rest = tuple(name for name in moved if not any(name in panel for panel in panels))
        urine = tuple(name for name in rest if name in URINE)
        blood = tuple(name for name in rest if name not in URINE)
        rounds = [[*panels, blood, urine]] + [panels] * int(self.detail - 0.7)
        order = [(number, panel) for number, group in enumerate(rounds) for panel in group if panel]
        for number, panel in order:
            self.today = max(self.today, self.days * number // len(rounds))
            hour = f"{dice.integer(1, 12):02d}:{dice.integer(0, 59):02d}"
            source = "URINE" if panel is urine else "BLOOD"
            sheet.raw(f"{self._date()} {hour}{dice.pick(('AM', 'PM'))} {source} ")
            for name in panel:
                printed = PRINTED.get(name, name)
                if name in moved:
                    code, low, high = moved[name]
                    value = low + (high - low) * dice.random()
                    digits = LABS[name][2] if name in LABS else 0 if high > 50 else 1
                    text = f"{printed}-{value:.{digits}f}*"
                    self._mark(code, "cue", (text,))
                else:
                    low, high, digits = LABS[name]
                    value = low + (high - low) * dice.random()
                    if dice.chance(0.06):
                        value *= dice.pick((0.8, 0.88, 1.15, 1.3))
                    sheet.raw(f"{printed}-{value:.{digits}f}")
                sheet.raw(" ")
            sheet.raw("\n")

    def _exam(self) -> None:
        sheet, dice = self.sheet, self.dice
        if self.stay.service == "NB":
            sheet.slot("exam_new")
            return
        found: dict[str, tuple[Code, Parts]] = {}
        unsaid: set[str] = set()  # neither the finding nor that all is well
        for code in self.present:
            for name, phrases in entry_of(code).cues.items():
                if name.startswith("exam ") and name[5:] not in found:
                    if dice.chance(0.6):
                        found[name[5:]] = (code, dice.pick(phrases))
                    else:
                        unsaid.add(name[5:])
        temperature = 96.5 + 2.6 * dice.random()
        sheet.raw(f"VS: T {temperature:.1f}")
        moved = str(found["vitals"][1][0]) if "vitals" in found else ""
        if moved:
            sheet.raw(" ")
            self._mark(found["vitals"][0], "cue", found["vitals"][1])
        if "vitals" in unsaid and not moved:
            sheet.raw("\n")
            moved = "BP RR O2"
        if not moved.startswith(("BP", "SBP", "MAP")):
            sheet.raw(f" BP {dice.integer(98, 146)}/{dice.integer(52, 88)}")
        if moved != "BP RR O2":
            sheet.raw(f" HR {dice.integer(56, 104)}")
        if not moved.startswith(("RR", "BP RR")):
            sheet.raw(f" RR {dice.integer(12, 22)}")
        if not moved.startswith(("O2", "BP RR")):
            sheet.raw(f" O2 {dice.integer(93, 100)}% {dice.pick(('RA', 'on RA', '2L NC', '3L'))}")
        if moved != "BP RR O2":
            sheet.raw("\n")
        separator = " " if self.author.dictates else "\n"
        for name in (*SYSTEMS, "ecg"):
            if name in found:
                code, phrase = found[name]
                label = SPOKEN[name]
                sheet.raw((label if self.author.number % 2 else label.capitalize()) + ": ")
                self._mark(code, "cue", phrase)
            elif name in unsaid:
                continue
            elif name in ("chest", "ecg", "skin"):
                if not dice.chance(0.25 * self.detail):
                    continue
                sheet.slot("exam_" + name)
            elif dice.chance(0.35 + 0.5 * min(1.0, self.detail)):
                sheet.slot("exam_" + name)
            else:
                continue
            stop = self.author.dictates and not sheet.pieces[-1].endswith(".")
            sheet.raw("." + separator if stop else separator)

    def _regimen(self) -> list[tuple[Code | None, Drug, str, str, bool]]:
        """Drugs of the stay: whose, which, how much, how often, and whether taken before it."""
        dice = self.dice
        groups: set[str] = set()
        regimen: list[tuple[Code | None, Drug, str, str, bool]] = []
        share = min(0.8, 0.35 + 0.45 * self.detail)

        def add(code: Code | None, drug: Drug, before: bool) -> None:
            if drug.at_home and drug.group not in groups:
                groups.add(drug.group)
                dose, when = dice.pick(drug.doses), dice.pick(drug.times)
                regimen.append((code, drug, dose, when, before))

        for code in self.present:
            names = [str(parts[0]) for parts in entry_of(code).cues.get("drug", ())]
            before = kind_of(code) in ("chronic", "status")
            for name in dice.sample(names, 2):
                if dice.chance(share):
                    add(code, drugs()[name], before)
        extra = int((1.0 + 3.0 * dice.random()) * min(2.0, self.detail) + 0.5)
        for drug in dice.sample(self.writer.plain, extra):
            add(None, drug, dice.chance(0.5))
        if dice.chance(0.3):  # a drug of some other use
            add(None, dice.pick(self.writer.home), True)
        return regimen

    def _medicines(self, home: bool) -> None:
        """A numbered or running list of drugs; those of a condition are its cues."""
        sheet, dice = self.sheet, self.dice
        listed = [row for row in self.regimen if (row[4] if home else dice.chance(0.92))]
        if not listed:
            sheet.raw("None.")
            return
        short = self.author.dictates or self.author.number % 3 == 0
        for place, (code, drug, dose, when, _) in enumerate(dice.sample(listed, len(listed)), 1):
            if not short:
                sheet.raw(f"{place}. ")
            word = self._drug_word(drug)
            word = word[0].upper() + word[1:] if dice.chance(0.5) else word
            if code is None:
                sheet.put(word)
            else:
                self._mark(code, "cue", (word,))
            words = drug.unit.split()
            unit = words[0] if short else drug.unit
            sheet.raw(f" {dose}{'' if self.author.glues else ' '}{unit} ")
            if short:
                sheet.raw(when)
                sheet.raw(", " if place < len(listed) else ".")
            else:
                self.form = words[1 % len(words)]
                sheet.slot("sig_" + (when if when in BY_MOUTH else "other"))
                if dice.chance(0.2):
                    sheet.raw(f" Disp:*{dice.integer(1, 9) * 10} {words[-1]}(s)*")
                sheet.raw("\n")

    def _course(self) -> None:
        sheet, dice = self.sheet, self.dice
        told = self.sites["course"]
        newborn = self.stay.service == "NB"
        if dice.chance(0.5 * min(1.0, self.detail)) and not newborn:
            sheet.say("course_open")
        problems = self.author.problem_list
        for code in dice.sample(told, len(told)):
            self.today = 0
            if problems:
                sheet.raw(("\n" if sheet.pieces[-1][-1:] != "\n" else "") + self.author.mark)
                if dice.chance(0.5):
                    first = len(sheet.pieces)
                    self._name(code)
                    piece = sheet.pieces[first]
                    sheet.pieces[first] = piece[:1].upper() + piece[1:]
                    sheet.raw(dice.pick((": ", " - ", ". ")))
                    if dice.chance(0.35):
                        self._about(code)
                    else:
                        sheet.say("terse")
                else:
                    self._about(code)
            else:
                self._about(code)
            if dice.chance(0.55 * min(1.3, self.detail)):
                self._cues(code, 1 + dice.chance(0.3))
            if dice.chance(0.3 * min(1.5, self.detail)) and not newborn:
                sheet.say("course_fill")
            if dice.chance(0.12):
                self._elsewhere(1)
            if not problems and dice.chance(0.2):
                sheet.raw("\n")
        hidden = [code for code in self.present if code not in told]
        for code in dice.sample(hidden, int(self.detail * 1.5)):
            self._cues(code, 1)
        if problems:
            sheet.raw("\n")
        if newborn:
            self._fill("course_new", 0.2 * self.length, 11)
            return
        self.today = 0
        surgical = self.stay.service in SURGICAL
        self._fill("course_once", 0.03 * self.length, 11)
        if surgical:
            self._fill("course_surg", 0.05 * self.length, 14)
        self._fill("course_fill", (0.07 if surgical else 0.11) * self.length, 15)
        self._elsewhere(0.8 * self.detail)
        if self.stay.died:
            sheet.say("died")
        else:
            self._fill("course_leave", 0.09 * self.length, 15)

    # -- whole notes

    def report(self) -> Note:
        """The discharge summary."""
        sheet, dice, stay = self.sheet, self.dice, self.stay
        detail, newborn = self.detail, stay.service == "NB"
        self._top()
        if dice.chance(0.8):
            self._header("Allergies", 0)
            if newborn:
                sheet.raw("No Known Allergies / Adverse Drug Reactions")
            else:
                sheet.slot("allergy")
            self._end()
            one, two = dice.integer(1, 9), dice.integer(10, 9999)
            sheet.raw(f"Attending:[**First Name{one} (LF) {two}**]\n\n")
        if not newborn and stay.service != "OBS" and dice.chance(0.8):
            self._header("Chief Complaint")
            if dice.chance(0.85):
                self._complaint(sheet)
            else:
                sheet.slot("chief_fill")
            self._end()
        if self.sites["procedures"] or dice.chance(0.4):
            self._header("Major Surgical or Invasive Procedure")
            if self.sites["procedures"]:
                self._items(self.sites["procedures"], "procedure_fill", 0)
            else:
                sheet.slot("procedure_fill")
            self._end()
        self._header("History of Present Illness")
        if newborn:
            self._fill("newborn", 0.45 * self.length, 13)
            for code in self.sites["past"]:
                self._about(code)
        else:
            delivers = stay.service == "OBS"
            sheet.say("obs_open" if delivers else "hpi_open")
            if self.sites["past"] and not self.past_told:
                sheet.say("past_also")
            for code in self.present:
                if "sx" in entry_of(code).cues and dice.chance(0.25 * min(1.0, detail)):
                    phrase = dice.pick(entry_of(code).cues["sx"])
                    if str(phrase[0]) in self.said:
                        continue
                    self.said.add(str(phrase[0]))
                    self._say(code, "cue", "cue_sx", phrase)
            surgical = 0.03 * self.length if stay.service in SURGICAL and dice.chance(0.6) else 0.0
            if surgical:
                self._fill("hpi_surg", surgical, 14)
            if any(word in str(self.reason[1][0]) for word in PAINFUL):
                self._fill("hpi_pain", 0.02 * self.length, 12)
            rule = "obs_fill" if delivers else "hpi_fill"
            self._fill(rule, 0.17 * self.length - surgical, 16)
            self._elsewhere(0.5 * detail)
        self._end()
        extra = int(2 * dice.random() * min(2.0, detail) + 0.3)
        if self.sites["pmh"] or (extra and not newborn):
            self._header("Past Medical History")
            self._items(self.sites["pmh"], "pmh_fill", 0 if newborn else extra)
            if dice.chance(0.35 * min(1.5, detail)) and not newborn:
                sheet.raw("\n")
                self._formerly()
            self._end()
        if self.sites["social"] or (dice.chance(0.5 * min(1.6, detail)) and not newborn):
            self._header("Social History")
            for code in self.sites["social"]:
                phrases = entry_of(code).social
                sheet.about(code.key, "evidence")
                sheet.sentence(dice.pick(phrases), ".")
                sheet.about(None, "")
            sheet.say("social")
            self._end()
        if not newborn and dice.chance(0.4 * min(1.8, detail)):
            self._header("Family History")
            if dice.chance(0.6):
                by_code = self.writer.by_code
                pool = [by_code[code] for code in HEREDITARY if code in by_code]
                for code in dice.sample(pool, dice.integer(1, 2)):
                    self._say(code, "family", "family")
            else:
                sheet.slot("family_fill")
            self._end()
        if dice.chance(0.3 + 0.6 * min(1.0, detail)):
            self._header("Physical Exam")
            self._exam()
            self._end()
        if not newborn and dice.chance(0.25 + 0.65 * min(1.0, detail)):
            self._header("Pertinent Results")
            self._labs()
            for code in self.present:
                if "img" in entry_of(code).cues and dice.chance(0.3 * min(1.0, detail)):
                    self._say(code, "cue", "cue_img", dice.pick(entry_of(code).cues["img"]))
            sheet.verbatim = True  # others write these
            self.today = 0
            share = 0.02 if stay.service == "OBS" else 0.13
            count = int(share * self.length / 28 + dice.random())
            for parts in dice.sample(self.author.rule("study"), count):
                sheet.raw("\n")
                sheet.sentence(parts)
            for _ in range(int(detail * 1.2 * dice.random())):
                sheet.raw("\n")
                sheet.slot("micro")
            sheet.verbatim = False
            self._end()
        self._header("Brief Hospital Course")
        self._course()
        self._end()
        if not newborn and dice.chance(0.7 * min(1.2, detail)):
            self._header("Medications on Admission")
            self._medicines(home=True)
            self._end()
        if not stay.died and not newborn and dice.chance(0.25 + 0.6 * min(1.0, detail)):
            self._header("Discharge Medications")
            self._medicines(home=False)
            self._end()
        self._header("Discharge Disposition")
        if stay.died or newborn or stay.service == "OBS":
            sheet.raw("Expired" if stay.died else "Home")
        else:
            sheet.slot("disposition")
        self._end()
        if self.sites["list"] or dice.chance(0.5):
            self._header("Discharge Diagnosis")
            if self.sites["list"]:
                self._items(self.sites["list"], "pmh_fill", 0, stated="list")
            else:
                sheet.slot("symptom")
            self._end()
        self._header("Discharge Condition")
        if stay.died:
            sheet.raw("Expired")
        else:
            sheet.slot("condition_new" if newborn else "condition")
        self._end()
        if not stay.died and not newborn and dice.chance(0.3 + 0.5 * detail):
            self._header("Discharge Instructions")
            sheet.verbatim = True  # patients are spared the abbreviations
            sheet.say("instr_open")
            self._fill("instr_fill", 0.09 * self.length, 16)
            sheet.verbatim = False
            self._end()
            self._header("Followup Instructions")
            self._fill("followup", 0.05 * self.length, 14)
            self._end()
        self._foot()
        return self._note("Discharge summary", "Report", stay.discharged.date())

    def _foot(self) -> None:
        sheet, dice, author = self.sheet, self.dice, self.author
        left = self.stay.discharged.date()
        if author.dictates:
            sheet.raw("                             [**First Name11 (Name Pattern1) **] "
                      f"[**Last Name (NamePattern4) {dice.integer(10, 9999)}**], M.D.\n\n"
                      f"Dictated By:[**Last Name (NamePattern4) {dice.integer(10, 9999)}**]\n"
                      f"MEDQUIST36\n\nD:  {self._date(left)}  "
                      f"{dice.integer(0, 23):02d}:{dice.integer(0, 59):02d}\n"
                      f"T:  {self._date(left)}  {dice.integer(0, 23):02d}:"
                      f"{dice.integer(0, 59):02d}\nJOB#:  [**Job Number {dice.integer(1000, 99999)}"
                      "**]\n")  # fmt: skip
        elif dice.chance(0.5):
            sheet.raw(f"                             [**Name6 (MD) **] [**Name8 (MD) **] MD "
                      f"[**MD Number(2) {dice.integer(10, 999)}**]\n")  # fmt: skip

    def addendum(self) -> Note:
        """A later addition to the summary."""
        sheet, dice = self.sheet, self.dice
        self._top()
        sheet.section = "Addendum"
        sheet.raw("Addendum:\n")
        sheet.say("addendum_open")
        if self.codes and dice.chance(0.6):
            self._about(dice.pick(self.codes))
        newborn = self.stay.service == "NB"
        self._fill("course_new" if newborn else "course_fill", min(80.0, 0.15 * self.length), 15)
        self._end()
        self._foot()
        return self._note("Discharge summary", "Addendum", self.stay.discharged.date())

    def other(self) -> Note:
        """A note of another category, which a reader of discharge summaries must leave out."""
        sheet, dice = self.sheet, self.dice
        category, description, rule = dice.pick(OTHERS)
        sheet.section = category
        sheet.slot(rule)
        day = self.stay.admitted + timedelta(hours=dice.integer(2, 24 * self.days))
        note = self._note(category, description, day.date())
        note.linked = dice.chance(0.75)
        if category not in ("Radiology", "ECG"):
            note.time = day
            note.caregiver = dice.integer(14000, 21000)
        return note

    def _note(self, category: str, description: str, day: date) -> Note:
        text = wrap(self.sheet.text(), self.author.width)
        return Note(category, description, day, text, self.sheet.spans)


WAYS: dict[str, tuple[tuple[str, float], ...]] = {
    "chronic": (("pmh", 0.62), ("past", 0.22), ("course", 0.15), ("list", 0.12)),
    "acute": (("course", 0.62), ("list", 0.28), ("past", 0.04)),
    "status": (("pmh", 0.5), ("list", 0.2), ("past", 0.15), ("course", 0.1)),
    "event": (("course", 0.5), ("list", 0.2)),
    "pr": (("course", 0.6), ("procedures", 0.38)),
}
"""Sites of each kind of code with their probabilities; the first one when none is drawn."""

ONCE = frozenset(("newborn", "course_new", "obs_fill", "course_once", "hpi_surg", "hpi_pain",
                  "course_surg", "course_leave"))  # fmt: skip
"""Rules whose sentences a note says once at most."""

WEEKS = {"765.27": (33, 34), "765.28": (35, 36)}
GRAMS = {"765.17": (1750, 1999), "765.18": (2000, 2499)}
"""What codes say of gestation and weight."""

KIN = {
    "wife": "18-200-M", "husband": "18-200-F", "ex-wife": "25-200-M", "mother": "0-62-",
    "father": "0-60-", "aunt": "0-60-", "uncle": "0-60-", "granddaughter": "58-200-",
    "daughter": "40-200-", "son": "40-200-", "fiance": "18-50-", "stepdaughter": "45-200-",
    "niece": "40-200-", "nephew": "40-200-", "roommate": "18-60-", "caregiver": "60-200-",
    "home health aide": "60-200-", "visiting nurse": "55-200-", "group home staff": "18-80-",
}  # fmt: skip
"""Whom a patient can have: lowest age, highest age, sex."""


def can_have(kin: str, age: int, sex: str) -> bool:
    """Whether a patient of this age and sex can have such a relative."""
    first, oldest, of = KIN.get(kin, "0-200-").split("-")
    return int(first) <= age <= int(oldest) and of in ("", sex)


PAINFUL = ("pain", "ache", "discomfort", "tightness", "pressure", "cramping")

SURGICAL = frozenset(("CSURG", "SURG", "NSURG", "TRAUM", "ORTHO"))

CUE_RULES = {
    "drug": "cue_drug", "img": "cue_img", "sx": "cue_sx", "tx": "cue_tx", "dev": "cue_dev",
    "con": "cue_con", "find": "cue_find",
}  # fmt: skip

OTHERS = (
    ("Nursing/other", "Report", "nursing"),
    ("Nursing", "Nursing Progress Note", "nursing"),
    ("Radiology", "CHEST (PORTABLE AP)", "radiology_chest"),
    ("Radiology", "CT HEAD W/O CONTRAST", "radiology_head"),
    ("ECG", "Report", "ecg_note"),
    ("Physician ", "Physician Resident Progress Note", "physician"),
    ("Nutrition", "Clinical Nutrition Note", "nutrition"),
    ("Respiratory ", "Respiratory Care Shift Note", "respiratory"),
)

SERVICE_NAMES = {
    "MED": "medicine", "CMED": "cardiology", "CSURG": "cardiothoracic surgery",
    "SURG": "surgery", "NSURG": "neurosurgery", "NMED": "neurology", "TRAUM": "trauma",
    "OMED": "oncology", "NB": "neonatology", "OBS": "obstetrics", "ORTHO": "orthopaedics",
}  # fmt: skip
