"""The authors of notes: their style, their selection of phrases, and their misspellings."""

import math
import re
from functools import cache

from data_prep.hospital.data_files import blocks, settings
from data_prep.hospital.grammar import Part, Parts, rules
from data_prep.hospital.portable_random import PortableRandom

_TYPED = re.compile(r"(?<![\w(*])[a-z]{5,}")
"""A typed word of at least five letters; no part of a capitalised word or of a placeholder."""


@cache
def _habits() -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Return words, what some authors write instead, and whether that is an abbreviation."""
    found = []
    for header, lines in blocks("habits.txt"):
        for line in lines:
            usual, _, own = line.partition(": ")
            found.append((usual, tuple(own.split("; ")), header == "short"))
    return tuple(found)


class Author:
    """An author: a style, a selection of the phrases, and a rate of misspellings.

    Args:
        seed: seed of the hospital.
        number: which of its authors.
        slips: multiplies the usual rate of misspellings; 0 for none.
    """

    def __init__(self, seed: int, number: int, slips: float = 1.0) -> None:
        rng = PortableRandom(seed, "author", number)
        self.number = number
        self.dictates = rng.chance(0.4)
        self.two_spaces = rng.chance(0.5)
        abbreviates = rng.random()
        self.upper_headers = self.dictates and rng.chance(0.6)
        self.problem_list = not self.dictates and rng.chance(0.7)
        self.mark = rng.pick(("# ", "#", "## ", "* ", "-", "")) if self.problem_list else ""
        self.bullet = rng.pick(("numbers", "dashes", "lines", "commas"))
        slips_per_letter = slips * rng.lognormal(0.0004, 0.8)
        self.letters_per_slip = 1 / slips_per_letter if slips else math.inf
        self.glues = rng.chance(0.3)
        self.width = rng.integer(68, 78)
        habits = PortableRandom(seed, "habits", number)
        shortens = 0.0 if self.dictates else max(0.0, abbreviates - 0.25)
        self.habits = {}
        for usual, own, is_short in _habits():
            if habits.chance(shortens if is_short else 0.04):
                self.habits[usual] = habits.pick(own)
        words = sorted(self.habits, key=len, reverse=True)
        self._habit = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")
        self._headers: dict[str, str] = {}
        self._rewritten: dict[int, tuple[Parts, Parts]] = {}
        self._own: dict[str, tuple[Parts, ...]] = {}

    def rule(self, name: str) -> tuple[Parts, ...]:
        """Return the alternatives of a rule that this author uses: some, if there are many."""
        own = self._own.get(name)
        if own is None:
            own = every = rules()[name]
            if len(every) > 7:
                rng = PortableRandom(self.number, name)
                own = tuple(option for option in every if rng.chance(0.65)) or every
            self._own[name] = own
        return own

    def words(self, parts: Parts) -> Parts:
        """Return the parts with this author's own spellings and abbreviations."""
        if not self.habits:
            return parts
        known = self._rewritten.get(id(parts))
        if known is None:  # the parts are kept, so that no other object gets their id
            known = self._rewritten[id(parts)] = parts, self._in_own_words(parts)
        return known[1]

    def _in_own_words(self, parts: Parts) -> Parts:
        changed: list[Part] = []
        for part in parts:
            if isinstance(part, str):
                changed.append(self._habit.sub(lambda found: self.habits[found[0]], part))
            elif part[0] == "one":
                changed.append(("one", tuple(map(self._in_own_words, part[1]))))
            else:
                changed.append(part)
        return tuple(changed)

    def header(self, name: str) -> str:
        """Return the header that this author writes above a section."""
        own = self._headers.get(name)
        if own is None:
            others = settings()["headers"].get(name)
            rng = PortableRandom(self.number, "header", name)
            own = rng.pick(others) if others and rng.chance(0.4) else name
            own = self._headers[name] = own.upper() if self.upper_headers else own
        return own

    def next_slip(self, rng: PortableRandom) -> float:
        """Draw the number of letters until the next misspelling."""
        return rng.lognormal(self.letters_per_slip, 0.7)

    def slip(self, text: str, rng: PortableRandom) -> str:
        """Misspell one word of a text: swap two letters, or drop, double or mistype one."""
        words = list(_TYPED.finditer(text.partition("[**")[0]))
        if not words:
            return text
        word = rng.pick(words)
        at = word.start() + 1 + int(rng.random() * (word.end() - word.start() - 2))
        way = rng.random()
        if way < 0.35:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        if way < 0.65:
            return text[:at] + text[at + 1 :]
        if way < 0.8:
            return text[:at] + text[at] + text[at:]
        return text[:at] + rng.pick(settings()["keyboard"].get(text[at], text[at])) + text[at + 1 :]
