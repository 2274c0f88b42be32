"""Patients: traits that last, admissions, and what is true, written and coded of each."""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from math import exp

from data_prep.hospital.code_catalogue import SERVICES, Code, Key, World
from data_prep.hospital.portable_random import Dice, running_sums

SILENT, UNCODED, MISCODED = 0.10, 0.09, 0.03
"""Shares of facts that are coded but not written, written but not coded, coded as a sibling."""

FIRST_ADMISSION, FIRST_SUBJECT = 900_000, 800_000
"""Ids begin beyond those of MIMIC-III, whose admissions run from 100,000 to 199,999."""

NO_SUMMARY = 0.106
"""Share of admissions without a discharge summary: 1 − 52,726 / 58,976 (data.md 2.1)."""

OLDEST = 110
"""Years; nobody comes back past it. The gap between two stays has no upper end of its own."""

NEWBORN_HEAD = {"96.04", "96.71", "96.72", "99.15", "38.93", "38.91", "99.04"}
"""Codes of the head that a newborn can have."""

PRIMARY_FIRST = (
    "410.71", "39.61", "038.9", "995.92", "518.81", "431", "430", "434.91", "486", "507.0",
)  # fmt: skip


@dataclass
class Fact:
    """A condition or procedure of an admission.

    Attributes:
        code: what it is.
        written: whether the notes say so.
        coded: the key that the coder gave, or None.
    """

    code: Code
    written: bool
    coded: Key | None


@dataclass
class Admission:
    """One stay in hospital."""

    number: int
    hadm_id: int
    service: str
    admitted: datetime
    discharged: datetime
    age: int
    died: bool
    gibleed: bool
    facts: list[Fact] = field(default_factory=list)
    has_summary: bool = True
    has_codes: bool = True

    def noise(self) -> list[tuple[Key, str]]:
        """What the coder did wrong: key and "silent", "uncoded" or "miscoded"."""
        found = []
        for fact in self.facts:
            key = fact.code.key
            if fact.coded is None:
                found.append((key, "uncoded"))
            elif fact.coded != key:
                found += [(key, "uncoded"), (fact.coded, "miscoded")]
            elif not fact.written:
                found.append((key, "silent"))
        return found if self.has_codes else []

    def coded(self) -> list[Key]:
        """The codes of the tables, in order, each once."""
        keys = [fact.coded for fact in self.facts if fact.coded is not None]
        return list(dict.fromkeys(keys)) if self.has_codes else []


@dataclass
class Patient:
    """A person.

    Attributes:
        index: of the patient in the hospital.
        sex: "M" or "F".
        traits: what lasts over the admissions ("htn", "dm", "smoker", …).
        admissions: in order of time.
        born: date of birth, shifted like all dates.
    """

    index: int
    subject_id: int
    sex: str
    born: date
    traits: set[str]
    admissions: list[Admission] = field(default_factory=list)


def _s(x: float) -> float:
    return 1 / (1 + exp(-x))


def traits_of(dice: Dice, age: int, sex: str) -> set[str]:
    """Draws the lasting traits of an adult."""
    a, female = float(age), sex == "F"
    has: set[str] = set()

    def draw(name: str, probability: float) -> None:
        if dice.random() < probability:
            has.add(name)

    def i(*names: str) -> float:
        return float(any(name in has for name in names))

    draw("smoker", 0.2 if 18 <= a < 72 else 0.05)
    draw("exsmoker", 0.0 if "smoker" in has else min(0.38, max(0.0, (a - 25) / 100)))
    draw("alcohol", 0.1 * (1 - 0.5 * female))
    draw("ivdu", 0.05 if a < 60 else 0.005)
    draw("obese", 0.16)
    draw("htn", 0.78 * _s((a - 50) / 10) + 0.05)
    draw("dm", 0.32 * _s((a - 46) / 9) + 0.08 * i("obese"))
    draw("cad", 0.52 * _s((a - 60) / 9) * (0.75 if female else 1.15) + 0.06 * i("dm"))
    draw("lipid", 0.12 * _s((a - 40) / 8) + 0.35 * i("cad") + 0.1 * i("dm"))
    draw("purelipid", 0.4 * i("lipid"))
    draw("ckd", 0.04 * _s((a - 50) / 10) + 0.1 * i("htn") + 0.12 * i("dm"))
    draw("esrd", 0.2 * i("ckd"))
    draw("chf", 0.03 + 0.2 * i("cad") + 0.1 * i("ckd") + 0.1 * _s((a - 78) / 5))
    draw("valve", 0.02 + 0.05 * _s((a - 70) / 8) + 0.05 * i("chf"))
    draw("af", 0.28 * _s((a - 72) / 7) + 0.12 * i("chf") + 0.06 * i("valve"))
    draw("stroke", 0.02 + 0.07 * _s((a - 68) / 8) + 0.04 * i("af"))
    draw("oldmi", 0.18 * i("cad"))
    draw("cabg", 0.2 * i("cad"))
    draw("copd", (0.2 * i("smoker") + 0.16 * i("exsmoker")) * _s((a - 48) / 7))
    draw("asthma", 0.06 * (1 - i("copd")))
    draw("thyroid", (0.14 if female else 0.04) * (0.4 + _s((a - 55) / 10)))
    draw("depressed", 0.1 if female else 0.07)
    draw("gerd", 0.2)
    draw("cancer", 0.2 * _s((a - 58) / 10))
    draw("oldclot", 0.04 + 0.04 * i("cancer"))
    draw("liver", 0.015 + 0.25 * i("alcohol") + 0.1 * i("ivdu"))
    draw("dementia", 0.2 * _s((a - 82) / 4))
    draw("osteoporosis", (0.12 if female else 0.02) * _s((a - 68) / 6))
    draw("gout", 0.05 * _s((a - 55) / 8))
    draw("bph", 0.0 if female else 0.2 * _s((a - 66) / 6))
    draw("seizure", 0.03)
    draw("hiv", 0.1 * i("ivdu") + 0.008 * (a < 65))
    draw("transplant", 0.08 * i("esrd", "liver"))
    return has


def _service(dice: Dice, age: int, sex: str, traits: set[str]) -> str:
    weights = dict(SERVICES)
    if age == 0:
        return "NB"
    weights["NB"] = 0.0
    weights["OBS"] *= 12.0 if sex == "F" and 18 <= age <= 42 else 0.0
    weights["CSURG"] *= 3.2 if {"cad", "valve"} & traits else 0.15
    weights["CMED"] *= 2.0 if {"cad", "chf", "af", "valve"} & traits else 0.4
    weights["OMED"] *= 4.0 if "cancer" in traits else 0.1
    weights["TRAUM"] *= 2.5 if age < 45 else 0.7
    weights["ORTHO"] *= 1.5 if age > 60 else 0.5
    return dice.weighted(list(weights), running_sums(list(weights.values())))


def _features(patient: Patient, admission: Admission) -> dict[str, float]:
    features = dict.fromkeys(sorted(patient.traits), 1.0)
    features[admission.service] = 1.0
    features["old"] = (admission.age - 60) / 10
    features["female"] = float(patient.sex == "F")
    if admission.gibleed:
        features["gibleed"] = 1.0
    return features


def true_codes(dice: Dice, world: World, patient: Patient, admission: Admission) -> list[Code]:
    """Draws what an admission truly has: the head, what follows from it, and a lottery."""
    features = _features(patient, admission)
    sex, age, service = patient.sex, admission.age, admission.service
    found: dict[str, Code] = {}
    for code in world.head:
        luck = dice.random()
        if service == "NB" and code.code not in NEWBORN_HEAD:
            continue
        if (code.code == "39.61" and service != "CSURG") or (
            code.code == "36.15" and "39.61" not in found
        ):
            continue
        logit = code.base
        for name, weight in code.odds:
            logit += weight * features.get(name, 0.0)
        if service in ("OBS", "NB"):
            logit -= 1.5
        if luck < 1 / (1 + exp(-logit)) and not code.without & found.keys():
            found[code.code] = code
            features[code.code] = 1.0
    for code in world.tail:
        luck = dice.random()
        share = 0.0
        for name, probability in code.given:
            if name in features:
                share = max(share, probability)
        if luck < share and code.suits(sex, age) and not code.without & found.keys():
            if age == 0 and service != "NB":
                continue
            found[code.code] = code
            features[code.code] = 1.0
    codes, weights = world.lottery[service]
    draws = min(9, int(dice.lognormal(1.4, 0.8))) if codes else 0
    for _ in range(draws):
        code = dice.weighted(codes, weights)
        if (
            code.code not in found
            and code.suits(sex, age)
            and not code.without & found.keys()
            and not any(code.code in other.without for other in found.values())
        ):
            found[code.code] = code
    return list(found.values())


def _ordered(codes: list[Code]) -> list[Code]:
    first = {code: place for place, code in enumerate(PRIMARY_FIRST)}

    def order(code: Code) -> tuple[int, float]:
        chronic = code.rank < 50 and code.code in CHRONIC
        return (first.get(code.code, 60 if chronic else 30), -code.rank if not chronic else 0)

    return sorted(codes, key=order)


CHRONIC = frozenset(
    (
        "401.9", "403.90", "585.9", "250.00", "272.0", "272.4", "244.9", "311", "530.81", "496",
        "305.1", "V15.82", "414.01", "412", "V45.81", "424.0", "V58.61",
    )
)  # fmt: skip
"""Codes of the head that a patient brings along."""


def _miscode(dice: Dice, world: World, code: Code, patient: Patient, age: int) -> Key:
    others = [key for key in world.siblings[code.key] if world.codes[key].suits(patient.sex, age)]
    return dice.pick(others) if others else code.key


RARE = (8.5, 0.7)
"""Median and spread of the number of rare codes of an admission."""


def _rare_facts(seed: int, world: World, person: Patient, stay: Admission) -> list[Fact]:
    """What only large hospitals see, drawn apart so that all else stays as it is."""
    dice = Dice(seed, "rare", person.index, stay.number)
    codes, weights = world.rare[stay.service]
    groups = {code.code.split(".")[0] for code in (fact.code for fact in stay.facts)}
    found = []
    for _ in range(min(30, int(dice.lognormal(*RARE) + dice.random()))):
        code = dice.weighted(codes, weights)
        group = code.code.split(".")[0]
        if group in groups or not code.suits(person.sex, stay.age):
            continue
        if code.code[0] == "E" and any(other[0] == "E" for other in groups):
            continue
        groups.add(group)
        fact = Fact(code, written=True, coded=code.key)
        luck = dice.random()
        if luck < SILENT:
            fact.written = False
        elif luck < SILENT + UNCODED:
            fact.coded = None
        elif luck < SILENT + UNCODED + MISCODED:
            fact.coded = _miscode(dice, world, code, person, stay.age)
        found.append(fact)
    return found


def patient(seed: int, index: int, world: World) -> Patient:
    """Makes one patient.

    The draws depend on (seed, index) alone; the preset only decides which tail codes exist.

    Args:
        seed: of the hospital.
        index: of the patient, from 0.
        world: codes of the preset.
    """
    dice = Dice(seed, "patient", index)
    newborn = dice.chance(0.03)
    sex = "F" if dice.chance(0.44) else "M"
    age = 0 if newborn else int(max(18, min(95, 66 + 16 * dice.normal())))
    start = date(2101, 1, 1) + timedelta(days=dice.integer(0, 36000))
    traits = set() if newborn else traits_of(dice, age, sex)
    born = start - timedelta(days=0 if newborn else age * 365 + age // 4 + dice.integer(1, 364))
    person = Patient(index, FIRST_SUBJECT + index, sex, born, traits)
    luck = dice.random()
    count = 1 if newborn or luck < 0.815 else 2 if luck < 0.93 else 3 if luck < 0.975 else 5
    day = start
    for number in range(count):
        years = age + (day - start).days // 365
        service = _service(dice, years, sex, traits)
        stay = max(1, int(dice.lognormal(6.5, 0.7)))
        came = datetime(day.year, day.month, day.day, dice.integer(0, 23), dice.integer(0, 59))
        left = datetime(day.year, day.month, day.day, dice.integer(10, 18), dice.integer(0, 59))
        admission = Admission(
            number=number,
            hadm_id=FIRST_ADMISSION + 8 * index + number,
            service=service,
            admitted=came,
            discharged=left + timedelta(days=stay),
            age=years,
            died=False,
            gibleed=service in ("MED", "SURG") and dice.chance(0.11),
        )
        inner = Dice(seed, "codes", index, number)
        truth = true_codes(inner, world, person, admission)
        for code in _ordered(truth):
            luck, which = inner.random(), inner.random()
            if code.key not in world.known or (code.rank >= 50 and which >= world.kept):
                continue
            fact = Fact(code, written=True, coded=code.key)
            if luck < SILENT:
                fact.written = False
            elif luck < SILENT + UNCODED:
                fact.coded = None
            elif luck < SILENT + UNCODED + MISCODED:
                aside = Dice(seed, "sibling", index, number, code.code)
                fact.coded = _miscode(aside, world, code, person, years)
            admission.facts.append(fact)
        if world.rare:
            admission.facts += _rare_facts(seed, world, person, admission)
        ill = {code.code for code in truth}
        risk = 0.015 + 0.02 * max(0, years - 50) / 30
        risk += 0.13 * len(ill & {"995.92", "518.81", "785.52", "427.5", "431"})
        admission.died = dice.random() < (0.01 if newborn else risk)
        admission.has_summary = not dice.chance(NO_SUMMARY)
        admission.has_codes = not dice.chance(0.006)
        person.admissions.append(admission)
        if admission.died:
            break
        if "36.15" in ill:
            traits.add("cabg")
        if "410.71" in ill:
            traits.add("oldmi")
        if "434.91" in ill:
            traits.add("stroke")
        day = admission.discharged.date() + timedelta(days=int(dice.lognormal(150, 1.2)) + 3)
        if age + (day - start).days // 365 > OLDEST:
            break
    return person
