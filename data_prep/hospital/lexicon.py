"""The words for each code: names, sentences and cues, drugs and laboratory tests.

The files (`lexicon.txt`, `tail.csv`, `drugs.csv`, `labs.csv`) were written for this project and
are dedicated to the public domain (CC0).
"""

import re
from dataclasses import dataclass, field
from functools import cache

from data_prep.code_systems.ccs import titles
from data_prep.hospital.codes import HEAD, Code
from data_prep.hospital.data_files import blocks
from data_prep.hospital.grammar import Parts, parse
from data_prep.hospital.portable_random import PortableRandom
from data_prep.hospital.rare import RAREST, clean
from data_prep.tables import shipped


@dataclass
class Entry:
    """What notes write about a code or category."""

    names: tuple[Parts, ...] = ()  # noun phrases
    say: tuple[Parts, ...] = ()  # sentences with the mention in brackets
    pmh: tuple[Parts, ...] = ()  # items of a history list with the mention in brackets
    social: tuple[Parts, ...] = ()  # the same for the social history
    # type ("drug", "img", "sx", "tx", "dev", "con", "exam lungs", …) → phrases
    cues: dict[str, tuple[Parts, ...]] = field(default_factory=dict)
    # (name, low, high) of values out of the ordinary
    labs: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Drug:
    """A medicine as lists and sentences name it."""

    generic: str
    brand: str
    doses: tuple[str, ...]  # usual ones
    unit: str  # unit and form, such as "mg Tablet"
    times: tuple[str, ...]  # how often it is taken, such as "daily"
    group: str  # a patient takes at most one drug of a group

    @property
    def at_home(self) -> bool:
        """Whether it is taken at home."""
        return not any(word in self.unit for word in ("infusion", "once", "Recon"))


@cache
def drugs() -> dict[str, Drug]:
    """Return every drug by its generic name."""
    return {
        row["generic"]: Drug(
            row["generic"],
            row["brand"],
            tuple(row["doses"].split()),
            row["unit"],
            tuple(row["times"].split()),
            row["class"] or row["generic"],
        )
        for row in shipped("hospital/drugs.csv")
    }


@dataclass(frozen=True)
class Lab:
    """A test of the laboratory."""

    printed: str
    panel: str  # name of the tests that it is ordered with; "" for none
    low: float  # lower end of the ordinary range
    high: float
    # digits after the point; None for a test that is only printed when out of the ordinary
    digits: int | None


@cache
def labs() -> dict[str, Lab]:
    """Return the tests by their names in the lexicon."""
    return {
        row["name"]: Lab(
            row["printed"],
            row["panel"],
            float(row["low"] or 0),
            float(row["high"] or 0),
            int(row["digits"]) if row["digits"] else None,
        )
        for row in shipped("hospital/labs.csv")
    }


@cache
def _entries() -> dict[str, Entry]:
    found = {}
    for header, lines in blocks("lexicon.txt"):
        entry = found[header] = Entry()
        for line in lines:
            label, _, rest = line.partition(": ")
            phrases = [phrase.strip() for phrase in rest.split(";")]
            if label == "lab":
                triples = (phrase.split() for phrase in phrases)
                entry.labs = tuple((name, float(low), float(high)) for name, low, high in triples)
                continue
            parsed = tuple(map(parse, phrases))
            if label in ("name", "say", "pmh", "social"):
                setattr(entry, "names" if label == "name" else label, parsed)
            else:
                entry.cues[label] = parsed
    return found


@cache
def entry_of(code: Code) -> Entry:
    """Return the words of a code: its own where the lexicon has them, else of its category."""
    entries = _entries()
    own = entries.get(f"{code.kind} {code.code}")
    if own is not None:
        return own
    shared = entries.get(f"ccs {code.kind} {code.ccs}", Entry())
    return Entry(names=tuple(map(parse, code.names)), cues=shared.cues, labs=shared.labs)


_ADMINISTRATIVE = re.compile(
    r",\s*(unspecified|not elsewhere classified|not otherwise specified|so stated|"
    r"without mention of|not stated as|type II or unspecified type)\b.*|^(other|unspecified) ",
    re.IGNORECASE,
)


@cache
def title_of(code: Code) -> str:
    """Return the official title without its administrative words."""
    return clean(_ADMINISTRATIVE.sub("", titles(code.kind)[code.code]))


def name_of(code: Code, rng: PortableRandom, author: int) -> Parts:
    """Draw a name of a code, with its qualifiers if it has any.

    Args:
        code: the code.
        rng: decides between names.
        author: number of the author, who prefers one of the names.
    """
    names = entry_of(code).names
    luck, habit = rng.random(), author * 7 + code.rank * 13
    if code.rank >= HEAD and luck > 0.95 and len(title_of(code)) < 60:
        return (title_of(code),)
    if luck < 0.3:
        name = names[habit % len(names)]
    else:  # people write the shorter of two names that come to mind
        name = min(rng.pick(names), rng.pick(names), key=lambda parts: len(str(parts[0])))
    if not code.pre and not code.post:
        return name
    noun = str(name[0]).lower()
    pre = [words for words in code.pre if words.split()[0].lower() not in noun]
    before = bool(pre) and (not code.post or rng.chance(0.6))
    after = bool(code.post) and (not before or rng.chance(0.2))
    if code.rank >= RAREST and after:  # titles are longer than what people say
        after = rng.chance(0.4)
    parts: Parts = name
    if before:
        parts = (rng.pick(pre) + " ", *parts)
    if after:
        parts = (*parts, " " + rng.pick(code.post))
    return parts
