"""The words for each code: names, sentences and cues, from `lexicon.txt`, `tail.csv`, `drugs.csv`.

The lexicon was written for this project and is dedicated to the public domain (CC0).
"""

import csv
import re
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files

from data_prep.hospital.code_catalogue import RAREST, Code, titles
from data_prep.hospital.grammar import Part, blocks, parse
from data_prep.hospital.portable_random import Dice

Parts = tuple[Part, ...]


@dataclass
class Entry:
    """What is written of a code or category.

    Attributes:
        names: noun phrases.
        say: sentences with the mention in brackets.
        pmh: items of a history list with the mention in brackets.
        social: the same for the social history.
        cues: type ("drug", "img", "sx", "tx", "dev", "con", "exam lungs", …) → phrases.
        labs: (name, low, high) of values out of the ordinary.
    """

    names: tuple[Parts, ...] = ()
    say: tuple[Parts, ...] = ()
    pmh: tuple[Parts, ...] = ()
    social: tuple[Parts, ...] = ()
    cues: dict[str, tuple[Parts, ...]] = field(default_factory=dict)
    labs: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Drug:
    """A medicine as lists and sentences name it."""

    generic: str
    brand: str
    doses: tuple[str, ...]
    unit: str
    times: tuple[str, ...]
    group: str

    @property
    def at_home(self) -> bool:
        """Whether a patient takes it home."""
        return not any(word in self.unit for word in ("infusion", "once", "Recon"))


@lru_cache(maxsize=1)
def drugs() -> dict[str, Drug]:
    """Generic name → drug."""
    text = files("data_prep.hospital").joinpath("drugs.csv").read_text("utf-8")
    return {
        row["generic"]: Drug(
            row["generic"],
            row["brand"],
            tuple(row["doses"].split()),
            row["unit"],
            tuple(row["times"].split()),
            row["class"] or row["generic"],
        )
        for row in csv.DictReader(text.splitlines())
    }


@lru_cache(maxsize=1)
def _entries() -> dict[str, Entry]:
    found = {}
    for header, lines in blocks("lexicon.txt"):
        entry = Entry()
        for line in lines:
            label, _, rest = line.partition(": ")
            phrases = [phrase.strip() for phrase in rest.split(";")]
            if label == "lab":
                triples = (phrase.split() for phrase in phrases)
                entry.labs = tuple((name, float(low), float(high)) for name, low, high in triples)
            elif label == "name":
                entry.names = tuple(map(parse, phrases))
            elif label in ("say", "pmh", "social"):
                setattr(entry, label, tuple(map(parse, phrases)))
            else:
                entry.cues[label] = tuple(map(parse, phrases))
        found[header] = entry
    return found


_DROP = re.compile(
    r",\s*(unspecified|not elsewhere classified|not otherwise specified|so stated|"
    r"without mention of|not stated as|type II or unspecified type)\b.*|^(other|unspecified) ",
    re.IGNORECASE,
)


def _plain(title: str) -> str:
    plain = re.sub(r"[\[\]<>{}|~]", "", _DROP.sub("", title)).strip(" ,")
    if not plain[1:2].isupper():
        plain = plain[:1].lower() + plain[1:]
    return plain


@cache
def entry_of(code: Code) -> Entry:
    """The words of a code: its own where the lexicon has them, else those of its category."""
    entries = _entries()
    own = entries.get(f"{code.kind} {code.code}")
    if own is not None:
        return own
    shared = entries.get(f"ccs {code.kind} {code.ccs}", Entry())
    names = [parse(name) for name in code.names]
    return Entry(names=tuple(names), cues=shared.cues, labs=shared.labs)


@cache
def title_of(code: Code) -> str:
    """The official title without its administrative words."""
    return _plain(titles(code.kind)[code.raw][1])


def name_of(code: Code, dice: Dice, author: int) -> Parts:
    """A full name of a code: for a sibling, the head noun with its qualifiers."""
    names = entry_of(code).names
    luck, habit = dice.random(), author * 7 + code.rank * 13
    if code.rank >= 50 and luck > 0.95 and len(title_of(code)) < 60:
        return (title_of(code),)
    if luck < 0.3:
        name = names[habit % len(names)]
    else:  # people write the shorter of two names that come to mind
        name = min(dice.pick(names), dice.pick(names), key=lambda parts: len(str(parts[0])))
    if not code.pre and not code.post:
        return name
    noun = str(name[0]).lower()
    pre = [words for words in code.pre if words.split()[0].lower() not in noun]
    before = bool(pre) and (not code.post or dice.chance(0.6))
    after = bool(code.post) and (not before or dice.chance(0.2))
    if code.rank >= RAREST and after:  # titles are longer than what people say
        after = dice.chance(0.4)
    parts: Parts = name
    if before:
        parts = (dice.pick(pre) + " ", *parts)
    if after:
        parts = (*parts, " " + dice.pick(code.post))
    return parts
