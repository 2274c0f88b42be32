"""A text under construction that knows where every mention of a code is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from data_prep.hospital.authors import Author
from data_prep.hospital.codes import Key
from data_prep.hospital.grammar import Parts
from data_prep.hospital.portable_random import PortableRandom


class Annotation(NamedTuple):
    """A mention of a code: the code, its place in characters, its role and its section."""

    kind: str
    code: str
    begin: int
    end: int
    role: str
    section: str


Value = str | Callable[["NoteBuilder"], None]
"""What a slot of the story holds: plain words, or a function that writes."""


class NoteBuilder:
    """Expand templates into a text, and annotate the mentions of codes in it.

    Args:
        rng: decides between alternatives.
        values: values of the story, {slot: value}.
        author: its phrases, spellings and misspellings are written.

    Example:
        >>> from data_prep.hospital.grammar import parse
        >>> note = NoteBuilder(PortableRandom(0), {"He": "she"}, Author(0, 0))
        >>> note.about(("pr", "96.04"), "evidence")
        >>> note.write(parse("{He} was [intubated]"))
        >>> note.text(), note.annotations[0][:4]
        ('she was intubated', ('pr', '96.04', 8, 17))
    """

    def __init__(self, rng: PortableRandom, values: Mapping[str, Value], author: Author) -> None:
        self.rng = rng
        self.values = values
        self.author = author
        self.pieces: list[str] = []
        self.length = 0
        self.annotations: list[Annotation] = []
        self.section = ""
        self.code: Key | None = None
        self.role = ""
        self.mention: Parts = ()
        self.verbatim = False  # whether to write without the author's habits
        self.until_slip = author.next_slip(rng)

    def text(self) -> str:
        """Return all that was written."""
        return "".join(self.pieces)

    def put(self, text: str) -> None:
        """Write plain text, with the author's misspellings."""
        size = len(text)
        self.until_slip -= size
        if self.until_slip < 0:
            text = self.author.slip(text, self.rng)
            self.until_slip = self.author.next_slip(self.rng)
            size = len(text)
        self.pieces.append(text)
        self.length += size

    def raw(self, text: str) -> None:
        """Write text without misspellings: headers, tables, numbers, placeholders."""
        self.pieces.append(text)
        self.length += len(text)

    def write(self, parts: Parts) -> None:
        """Write an expansion of the parts."""
        for part in parts:
            if part.__class__ is str:
                self.put(part)
                continue
            kind = part[0]
            if kind == "one":
                self.write(self.rng.pick(part[1]))  # type: ignore[arg-type]
            elif kind == "slot":
                self.slot(part[1])
            elif kind == "int":
                self.raw(str(self.rng.integer(part[1], part[2])))  # type: ignore[arg-type]
            elif kind == "float":
                number = self.rng.uniform(part[1], part[2])  # type: ignore[arg-type]
                self.raw(f"{number:.{part[3]}f}")
            else:
                self.mark(part[1])  # type: ignore[arg-type]

    def slot(self, name: str) -> None:
        """Write a value of the story or one alternative of a rule."""
        if name == "M":
            self.mark(self.mention)
            return
        value = self.values.get(name)
        if value is None:
            parts = self.rng.pick(self.author.rule(name))
            self.write(parts if self.verbatim else self.author.words(parts))
        elif isinstance(value, str):
            self.put(value)
        else:
            value(self)

    def mark(self, parts: Parts) -> None:
        """Write parts and annotate them as a mention of the code at hand."""
        begin = self.length
        self.write(parts)
        if self.code is not None and self.length > begin:
            self.annotations.append(
                Annotation(*self.code, begin, self.length, self.role, self.section)
            )

    def sentence(self, parts: Parts, end: str = "") -> None:
        """Write parts as a sentence: a capital at the beginning, a space after it."""
        first = len(self.pieces)
        self.write(parts if self.verbatim else self.author.words(parts))
        while first < len(self.pieces) - 1 and not self.pieces[first]:
            first += 1
        if first < len(self.pieces):
            self.capitalize(first)
        self.raw(end)
        self.raw("  " if self.author.two_spaces else " ")

    def capitalize(self, place: int) -> None:
        """Give a piece that is already written a capital at the beginning."""
        piece = self.pieces[place]
        self.pieces[place] = piece[:1].upper() + piece[1:]

    def say(self, rule: str) -> None:
        """Write a sentence of a rule."""
        self.sentence(self.rng.pick(self.author.rule(rule)))

    def about(self, code: Key | None, role: str, mention: Parts = ()) -> None:
        """Set the code, the role and the words of the mentions that follow."""
        self.code, self.role, self.mention = code, role, mention
