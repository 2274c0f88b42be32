"""A small probabilistic grammar whose output knows where every mention lies.

Notation of a template, as in `language.txt` and `lexicon.txt`:

* ``<a|b|c>`` one of the alternatives, ``{rule}`` one alternative of a rule or a value of the story,
* ``{5-20}`` a whole number, ``{3.2-5.0}`` a decimal, ``{10,20,40}`` one of a list,
* ``[words]`` the words that mention the code at hand, ``{M}`` a mention chosen by the caller,
* ``[**Hospital1 18**]`` is text, as in the records themselves.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

from data_prep.hospital.portable_random import Dice


class Span(NamedTuple):
    """A mention: code index (kind, code), character offsets, its role and its section."""

    kind: str
    code: str
    begin: int
    end: int
    role: str
    section: str


Part = str | tuple
"""A literal, or ("one", alternatives), ("slot", name), ("int", low, high), ("float", low, high,
digits) or ("mention", parts)."""


@cache
def parse(template: str) -> tuple[Part, ...]:
    """Parts of a template."""
    parts, end = _parse(template, 0, "")
    if end != len(template):
        raise ValueError(f"unbalanced template: {template!r}")
    return parts


def _parse(text: str, at: int, stop: str) -> tuple[tuple[Part, ...], int]:
    parts: list[Part] = []
    literal = ""
    while at < len(text) and text[at] not in stop:
        char = text[at]
        if text.startswith("[**", at):
            end = text.index("**]", at) + 3
            inner = text[at:end]
            if "{" not in inner:
                literal += inner
                at = end
                continue
            head, rest = inner[:3], inner[3:-3]
            sub, _ = _parse(rest, 0, "")
            parts += [literal + head, *sub]
            literal = "**]"
            at = end
        elif char in "<[{":
            if literal:
                parts.append(literal)
                literal = ""
            if char == "<":
                options = []
                at += 1
                while True:
                    option, at = _parse(text, at, "|>")
                    options.append(option)
                    at += 1
                    if text[at - 1] == ">":
                        break
                parts.append(("one", tuple(options)))
            elif char == "[":
                inside, at = _parse(text, at + 1, "]")
                parts.append(("mention", inside))
                at += 1
            else:
                end = text.index("}", at)
                parts.append(_slot(text[at + 1 : end]))
                at = end + 1
        else:
            literal += "\n" if char == "~" else char
            at += 1
    if literal:
        parts.append(literal)
    return tuple(parts), at


def _slot(name: str) -> Part:
    number = re.fullmatch(r"(\d+)(?:\.(\d+))?-(\d+)(?:\.(\d+))?", name)
    if number:
        digits = len(number[2] or "")
        if digits:
            low, high = name.split("-")
            return ("float", float(low), float(high), digits)
        return ("int", int(number[1]), int(number[3]))
    if "," in name:
        return ("one", tuple((option.strip(),) for option in name.split(",")))
    return ("slot", name)


def blocks(name: str) -> Iterator[tuple[str, list[str]]]:
    """Blocks of a packaged text: a header ``= name``, then its lines, without comments."""
    header = ""
    lines: list[str] = []
    for line in files("data_prep.hospital").joinpath(name).read_text("utf-8").splitlines():
        if line.startswith("= "):
            if header:
                yield header, lines
            header, lines = line[2:].strip(), []
        elif line.strip() and not line.startswith(("##", "%")):
            lines.append(line)
    if header:
        yield header, lines


@lru_cache(maxsize=1)
def rules() -> dict[str, tuple[tuple[Part, ...], ...]]:
    """Alternatives of every rule of `language.txt`; a line ``3* text`` counts three times."""
    read = {}
    for header, lines in blocks("language.txt"):
        alternatives = []
        for line in lines:
            many = re.match(r"(\d+)\* ", line)
            alternative = parse(line[many.end() :] if many else line)
            alternatives += [alternative] * (int(many[1]) if many else 1)
        read[header] = tuple(alternatives)
    return read


@lru_cache(maxsize=1)
def _habits() -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    """Usual words, what some authors write for them, and whether that is an abbreviation."""
    found = []
    for header, lines in blocks("habits.txt"):
        for line in lines:
            usual, _, own = line.partition(": ")
            found.append((usual, tuple(own.split("; ")), header == "short"))
    return tuple(found)


Value = str | Callable[["Sheet"], None]
"""What a slot stands for: plain words, or a function that writes."""


class Sheet:
    """A text under construction: pieces, the running length, and the mentions so far."""

    def __init__(self, dice: Dice, values: Mapping[str, Value], author: "Author") -> None:
        self.dice = dice
        self.values = values
        self.author = author
        self.pieces: list[str] = []
        self.length = 0
        self.spans: list[Span] = []
        self.section = ""
        self.code: tuple[str, str] | None = None
        self.role = "evidence"
        self.mention: tuple[Part, ...] = ()
        self.verbatim = False
        self.until_slip = author.next_slip(dice)

    def text(self) -> str:
        """All that was written."""
        return "".join(self.pieces)

    def put(self, text: str) -> None:
        """Writes plain text, with the author's slips of the pen."""
        size = len(text)
        self.until_slip -= size
        if self.until_slip < 0:
            text = self.author.slip(text, self.dice)
            self.until_slip = self.author.next_slip(self.dice)
            size = len(text)
        self.pieces.append(text)
        self.length += size

    def raw(self, text: str) -> None:
        """Writes text that nobody types by hand: headers, tables, placeholders."""
        self.pieces.append(text)
        self.length += len(text)

    def write(self, parts: tuple[Part, ...]) -> None:
        """Writes an expansion of the parts."""
        for part in parts:
            if part.__class__ is str:
                self.put(part)
                continue
            kind = part[0]
            if kind == "one":
                self.write(self.dice.pick(part[1]))  # type: ignore[arg-type]
            elif kind == "slot":
                self.slot(part[1])
            elif kind == "int":
                self.raw(str(self.dice.integer(part[1], part[2])))  # type: ignore[arg-type]
            elif kind == "float":
                low, high = part[1], part[2]
                number = low + (high - low) * self.dice.random()  # type: ignore[operator]
                self.raw(f"{number:.{part[3]}f}")
            else:
                self.mark(part[1])  # type: ignore[arg-type]

    def slot(self, name: str) -> None:
        """Writes a value of the story or one alternative of a rule."""
        if name == "M":
            self.mark(self.mention)
            return
        value = self.values.get(name)
        if value is None:
            parts = self.dice.pick(self.author.rule(name))
            self.write(parts if self.verbatim else self.author.words(parts))
        elif value.__class__ is str:
            self.put(value)
        else:
            value(self)  # type: ignore[operator]

    def mark(self, parts: tuple[Part, ...]) -> None:
        """Writes parts and notes them as a mention of the code at hand."""
        begin = self.length
        self.write(parts)
        if self.code is not None and self.length > begin:
            kind, code = self.code
            self.spans.append(Span(kind, code, begin, self.length, self.role, self.section))

    def sentence(self, parts: tuple[Part, ...], end: str = "") -> None:
        """Writes parts of a rule or the lexicon beginning with a capital, then a space."""
        first = len(self.pieces)
        self.write(parts if self.verbatim else self.author.words(parts))
        for place in range(first, len(self.pieces)):
            piece = self.pieces[place]
            if piece:
                self.pieces[place] = piece[0].upper() + piece[1:]
                break
        self.raw(end)
        self.raw("  " if self.author.two_spaces else " ")

    def say(self, rule: str) -> None:
        """Writes a sentence of a rule."""
        self.sentence(self.dice.pick(self.author.rule(rule)))

    def about(
        self, code: tuple[str, str] | None, role: str, mention: tuple[Part, ...] = ()
    ) -> None:
        """Sets whom the mentions of what follows are of."""
        self.code, self.role, self.mention = code, role, mention


_TYPED = re.compile(r"(?<![\w(*])[a-z]{5,}")
"""A word that somebody typed; not part of a capitalised one nor of a placeholder."""

HEADERS = {
    "History of Present Illness": ("HPI", "History of the Present Illness", "Present Illness",
                                   "HPI/ED course", "Reason for admission and HPI"),
    "Past Medical History": ("PMH", "PMHx", "Past Medical/Surgical History", "Medical History",
                             "PMH/PSH", "Past History"),
    "Social History": ("SH", "SHx", "Soc Hx", "Social/occupational"),
    "Family History": ("FH", "FHx", "Fam Hx"),
    "Physical Exam": ("PE", "Physical Examination", "Admission exam", "EXAM", "Exam on arrival",
                      "PHYSICAL EXAM UPON ADMISSION"),
    "Pertinent Results": ("Labs and studies", "Laboratory data", "DATA", "Results",
                          "LABS/STUDIES", "Pertinent labs"),
    "Brief Hospital Course": ("HOSPITAL COURSE", "Hospital Course by Problem", "Course",
                              "Hospital course by system", "Summary of Hospital Course"),
    "Medications on Admission": ("Home Medications", "MEDS ON ADMISSION", "Meds at home",
                                 "Outpatient medications", "Admission meds"),
    "Discharge Medications": ("MEDS ON DISCHARGE", "Medications at discharge", "D/C meds"),
    "Discharge Disposition": ("DISPOSITION", "Dispo"),
    "Discharge Diagnosis": ("FINAL DIAGNOSES", "Discharge Diagnoses", "Diagnoses at discharge",
                            "PRIMARY AND SECONDARY DIAGNOSES"),
    "Discharge Condition": ("CONDITION ON DISCHARGE", "Condition at discharge", "Condition"),
    "Discharge Instructions": ("Instructions", "Patient instructions", "INSTRUCTIONS TO PATIENT"),
    "Followup Instructions": ("FOLLOW-UP", "Follow up plans", "Appointments", "Follow-up"),
    "Chief Complaint": ("CC", "Reason for admission", "Presenting complaint"),
    "Major Surgical or Invasive Procedure": ("PROCEDURES", "Operations and procedures",
                                             "Procedures performed", "OPERATIONS"),
}  # fmt: skip
"""Other headers of a section."""

NEAR = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj",
    "i": "uo", "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "r": "et",
    "s": "ad", "t": "ry", "u": "yi", "v": "cb", "w": "qe", "y": "tu",
}  # fmt: skip
"""Neighbours on a keyboard."""


class Author:
    """One who writes notes: a style, an own part of the phrases, and slips of the pen.

    Args:
        seed: of the hospital.
        number: of the author.
    """

    def __init__(self, seed: int, number: int) -> None:
        dice = Dice(seed, "author", number)
        self.number = number
        self.dictates = dice.chance(0.4)
        self.two_spaces = dice.chance(0.5)
        self.abbreviates = dice.random()
        self.upper_headers = self.dictates and dice.chance(0.6)
        self.problem_list = not self.dictates and dice.chance(0.7)
        self.mark = dice.pick(("# ", "#", "## ", "* ", "-", "")) if self.problem_list else ""
        self.bullet = dice.pick(("numbers", "dashes", "lines", "commas"))
        self.slips_per_letter = dice.lognormal(0.0004, 0.8)
        self.glues = dice.chance(0.3)
        self.width = dice.integer(68, 78)
        habits = Dice(seed, "habits", number)
        shortens = 0.0 if self.dictates else max(0.0, self.abbreviates - 0.25)
        self.habits = {}
        for usual, own, is_short in _habits():
            if habits.chance(shortens if is_short else 0.04):
                self.habits[usual] = habits.pick(own)
        words = sorted(self.habits, key=len, reverse=True)
        self._habit = re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")
        self._headers: dict[str, str] = {}
        self._rewritten: dict[int, tuple[tuple[Part, ...], tuple[Part, ...]]] = {}
        self._own: dict[str, tuple[tuple[Part, ...], ...]] = {}

    def rule(self, name: str) -> tuple[tuple[Part, ...], ...]:
        """The alternatives of a rule that this author uses: all of a few, some of many."""
        own = self._own.get(name)
        if own is None:
            every = rules()[name]
            own = every
            if len(every) > 7:
                dice = Dice(self.number, name)
                own = tuple(option for option in every if dice.chance(0.65)) or every
            self._own[name] = own
        return own

    def words(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The parts with the words that this author writes in a way of their own."""
        if not self.habits:
            return parts
        known = self._rewritten.get(id(parts))
        if known is None:  # the parts are kept, so that their id stays theirs
            known = self._rewritten[id(parts)] = parts, self._in_own_words(parts)
        return known[1]

    def _in_own_words(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
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
        """What this author writes above a section."""
        own = self._headers.get(name)
        if own is None:
            dice = Dice(self.number, "header", name)
            own = dice.pick(HEADERS[name]) if name in HEADERS and dice.chance(0.4) else name
            own = self._headers[name] = own.upper() if self.upper_headers else own
        return own

    def next_slip(self, dice: Dice) -> float:
        """Letters until the next misspelling."""
        return dice.lognormal(1 / self.slips_per_letter, 0.7)

    def slip(self, text: str, dice: Dice) -> str:
        """The text with one word misspelt: a swap, a lost, doubled or neighbouring letter."""
        words = list(_TYPED.finditer(text.partition("[**")[0]))
        if not words:
            return text
        word = dice.pick(words)
        at = word.start() + 1 + int(dice.random() * (word.end() - word.start() - 2))
        way = dice.random()
        if way < 0.35:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        if way < 0.65:
            return text[:at] + text[at + 1 :]
        if way < 0.8:
            return text[:at] + text[at] + text[at:]
        return text[:at] + dice.pick(NEAR.get(text[at], text[at])) + text[at + 1 :]
