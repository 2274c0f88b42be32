"""Thousands of rare codes, which have no phrases but those that rules make of CMS's titles.

The frequency of a code is the weight of its chapter times a random factor that is fixed for the
code, times factors for its title. The weights and the rules for titles are in `rare.toml`. They
were set for this project, and not fitted to counts of patients.
"""

import re
from functools import cache
from math import exp

from data_prep.code_systems.ccs import titles
from data_prep.hospital.codes import MOTHER, NEWBORN, Code, category, head_and_tail
from data_prep.hospital.data_files import settings
from data_prep.hospital.portable_random import PortableRandom, running_sums

RAREST = 1000
"""Rank of the first rare code."""

CODES = 9_150
"""Number of rare codes. About 8,920 codes then occur in 52,726 notes, as in MIMIC-III."""

SPREAD = 2.5
"""Standard deviation of the logarithm of the random factor; half of the codes then occur fewer than
10 times."""

LEVEL = 120
"""Place of the rare code whose weight caps those before it, so that none overtakes the head."""

OWN_SERVICE, OTHER_SERVICE = 2.5, 0.35
"""Factors of the weight in the services that see a chapter most, and in all others."""

INJURY_ELSEWHERE, NOT_OF_BIRTH = 0.1, 0.02
"""Further factors: for injuries in services that do not treat them, and for codes other than those
of birth in obstetrics, whose patients are young and mostly healthy."""

_PART = re.compile(r",? (?=(?:with|without|due to|by|complicated by|as cause of|affecting) )|, ")
_OTHER = re.compile(r"^(?:other(?: and unspecified)?|unspecified) ", re.IGNORECASE)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(settings("rare.toml")["title"][name], re.IGNORECASE)


def clean(title: str) -> str:
    """Return a title without the signs of the grammar, beginning in lower case.

    An abbreviation at the beginning keeps its capitals.
    """
    title = re.sub(r"[\[\]<>{}|~;]", "", title).strip(" ,")
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def plain(title: str) -> str:
    """Return a long title of CMS in plain words, without administrative ones."""
    return clean(_pattern("administrative").sub("", _OTHER.sub("", title)))


def spoken(title: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Derive from a long title of CMS the names of a code, and what may follow a name."""
    rules = settings("rare.toml")
    noun, *rest = _PART.split(plain(title) or title.lower(), maxsplit=1)
    names = [noun]
    for pattern, *forms in rules["turns"]:
        if found := re.match(pattern, noun):
            names += [form.format(*found.groups()) for form in forms]
            break
    names += [
        _long_words().sub(lambda found: rules["short"][found[0]], name)
        for name in (names[0], names[-1])
    ]
    short = re.split(r" (?:of|for|in|by|or|and|to|on|from) ", names[-1])[0]
    if len(short) >= 8 and " " in short:
        names.append(short)
    names = [name for name in names if len(name) <= 32] or [min(names, key=len)]
    post = tuple(part.strip(" ,") for part in rest if part.strip(" ,"))
    return tuple(dict.fromkeys(names)), post


@cache
def _long_words() -> re.Pattern[str]:
    words = sorted(settings("rare.toml")["short"], key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(words) + r")\b")


def _who(kind: str, code: str, title: str) -> tuple[str, tuple[int, int]] | None:
    """Return the sex and ages that can have a code; None for codes that nobody here can have."""

    def says(name: str) -> bool:
        return _pattern(name).search(title) is not None

    of_diagnosis, of_procedure = (code[:3], "") if kind == "dx" else ("", code[:2])
    if "630" <= of_diagnosis <= "679" or "72" <= of_procedure <= "75" or says("births"):
        return "F", MOTHER
    if "760" <= of_diagnosis <= "779" or "V29" <= of_diagnosis <= "V39" or says("newborns"):
        return "", NEWBORN
    sex = "F" if says("women") else "M" if says("men") else ""
    if "60" <= of_procedure <= "64":
        sex = "M"
    elif "65" <= of_procedure <= "71":
        sex = "F"
    if says("children") and not "740" <= of_diagnosis <= "759":
        return None
    return sex, (60 if says("old") else 1, 120)


@cache
def _weighted() -> tuple[tuple[Code, float, list[str]], ...]:
    """Return the rare codes with weight and services, the most frequent first."""
    taken = {code.key for codes in head_and_tail() for code in codes}
    found = []
    for kind in ("dx", "pr"):
        for code, title in titles(kind).items():
            who, chapter = _who(kind, code, title), _chapter(kind, code)
            if (kind, code) in taken or who is None or chapter is None:
                continue
            weight, services = chapter
            weight *= PortableRandom("rare", kind, code).lognormal(1.0, SPREAD)
            # Codes with vague titles are used more, with long ones less, with `seldom` ones rarely.
            weight *= (3.0 if _pattern("vague").search(title) else 1.0) * exp(-len(title) / 60)
            weight *= 0.02 if _pattern("seldom").search(title) else 1.0
            found.append((weight, kind, code, title, who, services))
    found.sort(key=lambda entry: (-entry[0], entry[2]))
    lasting = settings("rare.toml")["lasting"]
    level = found[LEVEL][0]
    codes = []
    for place, (weight, kind, code, title, (sex, ages), services) in enumerate(found[:CODES]):
        names, post = spoken(title)
        made = Code(
            kind=kind,
            code=code,
            ccs=category(kind, code),
            rank=RAREST + place,
            sex=sex,
            ages=ages,
            names=names,
            post=post,
            lasting=kind == "dx" and any(low <= code[:3] <= high for low, high in lasting),
        )
        codes.append((made, min(weight, level), services))
    return tuple(codes)


def _chapter(kind: str, code: str) -> tuple[float, list[str]] | None:
    """Return the weight and the services of the chapter of a code."""
    place = code[: 2 if kind == "pr" else 3]
    for of, first, last, weight, services in settings("rare.toml")["chapters"]:
        if of == kind and first <= place <= last:
            return weight, services.split()
    return None


@cache
def rare_codes() -> tuple[Code, ...]:
    """Return all rare codes, the most frequent first."""
    return tuple(code for code, *_ in _weighted())


@cache
def rare_lottery() -> dict[str, tuple[tuple[Code, ...], list[float]]]:
    """Return, for each service, its codes and the running sums of their weights."""
    lottery = {}
    for service in settings()["services"]:
        codes, weights = [], []
        for code, weight, services in _weighted():
            newborn, birth = code.ages == NEWBORN, code.ages == MOTHER
            if newborn != (service == "NB") or (birth and service != "OBS"):
                continue
            if not birth and not newborn:
                weight *= OWN_SERVICE if service in services else OTHER_SERVICE
                if services[0] == "TRAUM" and service not in services:
                    weight *= INJURY_ELSEWHERE
                if service == "OBS":
                    weight *= NOT_OF_BIRTH
            codes.append(code)
            weights.append(weight)
        lottery[service] = (tuple(codes), running_sums(weights))
    return lottery
