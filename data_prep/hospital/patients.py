"""Patients: lasting traits, admissions, and which facts of each are true, written and coded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from math import exp

from data_prep.hospital.code_catalogue import CodeCatalogue
from data_prep.hospital.codes import HEAD, Code, Key
from data_prep.hospital.data_files import settings
from data_prep.hospital.portable_random import PortableRandom, running_sums

SILENT, UNCODED, MISCODED = 0.10, 0.09, 0.03
"""Shares of facts that are coded but not written, written but not coded, and coded as a sibling."""

FIRST_ADMISSION, FIRST_SUBJECT = 900_000, 800_000
"""Ids begin beyond those of MIMIC-III, whose admissions run from 100,000 to 199,999."""

MOST_ADMISSIONS = 8
"""Ids that are reserved for the admissions of each patient, who has at most 5."""

NO_SUMMARY = 0.106
"""Share of admissions without a discharge summary: 1 − 52,726 / 58,976 (MIMIC-III)."""

OLDEST = 110
"""Age in years after which nobody is admitted again. The gap between two stays is unbounded."""

RARE = (8.5, 0.7)
"""Median and sigma of the log-normal number of rare codes drawn for an admission."""


@dataclass
class Fact:
    """A condition or procedure of an admission."""

    code: Code
    written: bool  # whether the notes say so
    coded: Key | None  # the key that the coder gave, or None


@dataclass
class Admission:
    """One stay in hospital."""

    number: int
    hadm_id: int
    service: str  # a key of `services` in `hospital.toml`
    admitted: datetime
    discharged: datetime  # date and time, of death too
    age: int  # in years
    died: bool  # whether the patient died in hospital
    gibleed: bool  # whether the patient came with gastrointestinal bleeding
    # conditions and procedures, in the order of the bill
    facts: list[Fact] = field(default_factory=list)
    has_summary: bool = True  # whether a discharge summary was written
    has_codes: bool = True  # whether the stay was coded at all

    def noise(self) -> list[tuple[Key, str]]:
        """Return what the coder did wrong: keys, each "silent", "uncoded" or "miscoded"."""
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
        """Return the codes that the tables give the admission, in order, each once."""
        keys = [fact.coded for fact in self.facts if fact.coded is not None]
        return list(dict.fromkeys(keys)) if self.has_codes else []


@dataclass
class Patient:
    """A patient with all admissions."""

    index: int  # of the patient in the hospital, from 0
    subject_id: int
    sex: str  # "M" or "F"
    born: date  # date of birth, shifted like all dates
    traits: set[str]  # what lasts over the admissions ("htn", "dm", "smoker", …)
    admissions: list[Admission] = field(default_factory=list)  # in order of time


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def draw_traits(rng: PortableRandom, age: int, sex: str) -> set[str]:
    """Draw the lasting traits of an adult."""
    a, female = float(age), sex == "F"
    has: set[str] = set()

    def draw(name: str, probability: float) -> None:
        if rng.random() < probability:
            has.add(name)

    def i(*names: str) -> float:  # the indicator of any of these traits
        return float(any(name in has for name in names))

    s = _sigmoid
    draw("smoker", 0.2 if 18 <= a < 72 else 0.05)
    draw("exsmoker", 0.0 if "smoker" in has else min(0.38, max(0.0, (a - 25) / 100)))
    draw("alcohol", 0.1 * (1 - 0.5 * female))
    draw("ivdu", 0.05 if a < 60 else 0.005)
    draw("obese", 0.16)
    draw("htn", 0.78 * s((a - 50) / 10) + 0.05)
    draw("dm", 0.32 * s((a - 46) / 9) + 0.08 * i("obese"))
    draw("cad", 0.52 * s((a - 60) / 9) * (0.75 if female else 1.15) + 0.06 * i("dm"))
    draw("lipid", 0.12 * s((a - 40) / 8) + 0.35 * i("cad") + 0.1 * i("dm"))
    draw("purelipid", 0.4 * i("lipid"))
    draw("ckd", 0.04 * s((a - 50) / 10) + 0.1 * i("htn") + 0.12 * i("dm"))
    draw("esrd", 0.2 * i("ckd"))
    draw("chf", 0.03 + 0.2 * i("cad") + 0.1 * i("ckd") + 0.1 * s((a - 78) / 5))
    draw("valve", 0.02 + 0.05 * s((a - 70) / 8) + 0.05 * i("chf"))
    draw("af", 0.28 * s((a - 72) / 7) + 0.12 * i("chf") + 0.06 * i("valve"))
    draw("stroke", 0.02 + 0.07 * s((a - 68) / 8) + 0.04 * i("af"))
    draw("oldmi", 0.18 * i("cad"))
    draw("cabg", 0.2 * i("cad"))
    draw("copd", (0.2 * i("smoker") + 0.16 * i("exsmoker")) * s((a - 48) / 7))
    draw("asthma", 0.06 * (1 - i("copd")))
    draw("thyroid", (0.14 if female else 0.04) * (0.4 + s((a - 55) / 10)))
    draw("depressed", 0.1 if female else 0.07)
    draw("gerd", 0.2)
    draw("cancer", 0.2 * s((a - 58) / 10))
    draw("oldclot", 0.04 + 0.04 * i("cancer"))
    draw("liver", 0.015 + 0.25 * i("alcohol") + 0.1 * i("ivdu"))
    draw("dementia", 0.2 * s((a - 82) / 4))
    draw("osteoporosis", (0.12 if female else 0.02) * s((a - 68) / 6))
    draw("gout", 0.05 * s((a - 55) / 8))
    draw("bph", 0.0 if female else 0.2 * s((a - 66) / 6))
    draw("seizure", 0.03)
    draw("hiv", 0.1 * i("ivdu") + 0.008 * (a < 65))
    draw("transplant", 0.08 * i("esrd", "liver"))
    return has


def _service(rng: PortableRandom, age: int, sex: str, traits: set[str]) -> str:
    if age == 0:
        return "NB"
    weights = {name: service["share"] for name, service in settings()["services"].items()}
    weights["NB"] = 0.0
    weights["OBS"] *= 12.0 if sex == "F" and 18 <= age <= 42 else 0.0
    weights["CSURG"] *= 3.2 if {"cad", "valve"} & traits else 0.15
    weights["CMED"] *= 2.0 if {"cad", "chf", "af", "valve"} & traits else 0.4
    weights["OMED"] *= 4.0 if "cancer" in traits else 0.1
    weights["TRAUM"] *= 2.5 if age < 45 else 0.7
    weights["ORTHO"] *= 1.5 if age > 60 else 0.5
    return rng.weighted(list(weights), running_sums(list(weights.values())))


def _features(patient: Patient, admission: Admission) -> dict[str, float]:
    features = dict.fromkeys(sorted(patient.traits), 1.0)
    features[admission.service] = 1.0
    features["old"] = (admission.age - 60) / 10
    features["female"] = float(patient.sex == "F")
    if admission.gibleed:
        features["gibleed"] = 1.0
    return features


def true_codes(
    rng: PortableRandom, catalogue: CodeCatalogue, patient: Patient, admission: Admission
) -> list[Code]:
    """Draw the codes that are true of an admission: the head, what features bring, and a lottery.

    For each code of the head and the brought tail a number is drawn, whether the patient can have
    it or not, so that no code changes the numbers of the next.
    """
    features = _features(patient, admission)
    sex, age, service = patient.sex, admission.age, admission.service
    found: dict[str, Code] = {}

    def add(code: Code) -> None:
        found[code.code] = code
        features[code.code] = 1.0

    for code in catalogue.head:
        luck = rng.random()
        if service == "NB" and code.code not in settings()["codes"]["newborn"]:
            continue
        if code.code == "39.61" and service != "CSURG":  # a heart-lung machine
            continue
        if code.code == "36.15" and "39.61" not in found:  # a bypass needs the machine
            continue
        logit = code.base
        for name, weight in code.odds:
            logit += weight * features.get(name, 0.0)
        if service in ("OBS", "NB"):
            logit -= 1.5
        if luck < _sigmoid(logit) and not code.without & found.keys():
            add(code)
    for code in catalogue.tail:
        luck = rng.random()
        share = 0.0
        for name, probability in code.given:
            if name in features:
                share = max(share, probability)
        if luck >= share or not code.suits(sex, age) or code.without & found.keys():
            continue
        if age > 0 or service == "NB":
            add(code)
    codes, weights = catalogue.lottery[service]
    for _ in range(min(9, int(rng.lognormal(1.4, 0.8))) if codes else 0):
        code = rng.weighted(codes, weights)
        if (
            code.code not in found
            and code.suits(sex, age)
            and not code.without & found.keys()
            and not any(code.code in other.without for other in found.values())
        ):
            found[code.code] = code
    return list(found.values())


def _ordered(codes: list[Code]) -> list[Code]:
    """Return the codes in the order of a bill: reasons for the stay first, lasting ones last."""
    first = {code: place for place, code in enumerate(settings()["codes"]["primary"])}

    def order(code: Code) -> tuple[int, float]:
        chronic = code.rank < HEAD and code.code in settings()["codes"]["chronic"]
        return (first.get(code.code, 60 if chronic else 30), -code.rank if not chronic else 0)

    return sorted(codes, key=order)


def _fact(code: Code, luck: float, miscoded: Callable[[], Key]) -> Fact:
    """Decide whether a code is written and coded.

    Args:
        code: the code.
        luck: number drawn uniformly from [0, 1).
        miscoded: returns the key that a coder confuses with the code.
    """
    if luck < SILENT:
        return Fact(code, written=False, coded=code.key)
    if luck < SILENT + UNCODED:
        return Fact(code, written=True, coded=None)
    wrong = luck < SILENT + UNCODED + MISCODED
    return Fact(code, written=True, coded=miscoded() if wrong else code.key)


def _sibling(rng: PortableRandom, catalogue: CodeCatalogue, code: Code, sex: str, age: int) -> Key:
    """Return a code of the same category that the patient can have, or the code itself."""
    siblings = catalogue.siblings[code.key]
    others = [key for key in siblings if catalogue.codes[key].suits(sex, age)]
    return rng.pick(others) if others else code.key


def _facts(
    rng: PortableRandom,
    seed: int,
    catalogue: CodeCatalogue,
    person: Patient,
    stay: Admission,
    truth: list[Code],
) -> Iterator[Fact]:
    """Yield the facts of the head and the tail that exist in this preset."""
    for code in _ordered(truth):
        luck, which = rng.random(), rng.random()
        if code.key not in catalogue.known or (code.rank >= HEAD and which >= catalogue.kept):
            continue

        def miscoded(code: Code = code) -> Key:
            apart = PortableRandom(seed, "sibling", person.index, stay.number, code.code)
            return _sibling(apart, catalogue, code, person.sex, stay.age)

        yield _fact(code, luck, miscoded)


def _rare_facts(
    seed: int, catalogue: CodeCatalogue, person: Patient, stay: Admission
) -> Iterator[Fact]:
    """Yield rare facts, drawn from a separate generator so that all else stays the same."""
    rng = PortableRandom(seed, "rare", person.index, stay.number)
    codes, weights = catalogue.rare[stay.service]
    groups = {fact.code.code.split(".")[0] for fact in stay.facts}
    for _ in range(min(30, int(rng.lognormal(*RARE) + rng.random()))):
        code = rng.weighted(codes, weights)
        group = code.code.split(".")[0]
        if group in groups or not code.suits(person.sex, stay.age):
            continue
        if group[0] == "E" and any(other[0] == "E" for other in groups):
            continue  # one accident is enough
        groups.add(group)
        wrong = partial(_sibling, rng, catalogue, code, person.sex, stay.age)
        yield _fact(code, rng.random(), wrong)


ACQUIRED = {"36.15": "cabg", "410.71": "oldmi", "434.91": "stroke"}
"""Codes that leave a trait behind for the next admission."""

DEADLY = {"995.92", "518.81", "785.52", "427.5", "431"}


def patient(seed: int, index: int, catalogue: CodeCatalogue) -> Patient:
    """Make one patient.

    The draws depend on (seed, index) alone; the preset only decides which tail codes exist.

    Args:
        seed: seed of the hospital.
        index: number of the patient, from 0.
        catalogue: the codes that exist.
    """
    rng = PortableRandom(seed, "patient", index)
    newborn = rng.chance(0.03)
    sex = "F" if rng.chance(0.44) else "M"
    age = 0 if newborn else int(max(18, min(95, 66 + 16 * rng.normal())))
    start = date(2101, 1, 1) + timedelta(days=rng.integer(0, 36000))
    traits = set() if newborn else draw_traits(rng, age, sex)
    born = start - timedelta(days=0 if newborn else age * 365 + age // 4 + rng.integer(1, 364))
    person = Patient(index, FIRST_SUBJECT + index, sex, born, traits)
    luck = rng.random()
    count = 1 if newborn or luck < 0.815 else 2 if luck < 0.93 else 3 if luck < 0.975 else 5
    day = start
    for number in range(count):
        stay = _admission(rng, person, number, day, age + (day - start).days // 365)
        codes = PortableRandom(seed, "codes", index, number)
        truth = true_codes(codes, catalogue, person, stay)
        stay.facts = list(_facts(codes, seed, catalogue, person, stay, truth))
        if catalogue.rare:
            stay.facts += _rare_facts(seed, catalogue, person, stay)
        ill = {code.code for code in truth}
        risk = 0.015 + 0.02 * max(0, stay.age - 50) / 30
        risk += 0.13 * len(ill & DEADLY)
        stay.died = rng.random() < (0.01 if newborn else risk)
        stay.has_summary = not rng.chance(NO_SUMMARY)
        stay.has_codes = not rng.chance(0.006)
        person.admissions.append(stay)
        if stay.died:
            break
        traits |= {trait for code, trait in ACQUIRED.items() if code in ill}
        day = stay.discharged.date() + timedelta(days=int(rng.lognormal(150, 1.2)) + 3)
        if age + (day - start).days // 365 > OLDEST:
            break
    return person


def _admission(rng: PortableRandom, person: Patient, number: int, day: date, age: int) -> Admission:
    """Draw the service and the dates of an admission, before anything else is known of it."""
    service = _service(rng, age, person.sex, person.traits)
    days = max(1, int(rng.lognormal(6.5, 0.7)))
    came = datetime(day.year, day.month, day.day, rng.integer(0, 23), rng.integer(0, 59))
    left = datetime(day.year, day.month, day.day, rng.integer(10, 18), rng.integer(0, 59))
    return Admission(
        number=number,
        hadm_id=FIRST_ADMISSION + MOST_ADMISSIONS * person.index + number,
        service=service,
        admitted=came,
        discharged=left + timedelta(days=days),
        age=age,
        died=False,
        gibleed=service in ("MED", "SURG") and rng.chance(0.11),
    )
