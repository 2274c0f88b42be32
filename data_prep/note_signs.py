"""Find signs of MIMIC's notes and tables in a text, in time linear in its length."""

import base64
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

ARCHIVES: Final = (
    b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"%PDF",
    b"\xd0\xcf\x11\xe0", b"ARROW1", b"PAR1", b"\x93NUMPY", b"\x78\x9c", b"\x78\x01", b"\x78\xda",
    b"\x80\x03", b"\x80\x04\x95", b"\x80\x05\x95",
)  # fmt: skip
"""First bytes of archives, documents and tables, whose text is compressed or encoded."""

# Every pattern takes linear time: what a repetition matches cannot begin another match.
_ESCAPE: Final = re.compile(
    r"\\U0000([0-9a-f]{4})|\\u([0-9a-f]{4})|\\x([0-9a-f]{2})|%([0-9a-f]{2})"
    r"|\\([01][0-7]{2})|\\([nrtfv])|\\",
    re.I,
)
_INVISIBLE: Final = re.compile(  # also colours of a terminal
    "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]|\x1b\\[[0-9;]{0,20}m"
)
_APART: Final = re.compile(r"(?:(?<!\w)\w\W{1,9}){30,}")
_INLINE: Final = re.compile(r"</?(?:a|b|code|em|i|mark|small|span|strong|sub|sup|u)\b[^<>]*>", re.I)
_TAG: Final = re.compile(r"</?[a-z!][^<>]*>", re.I)
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,6}")
_CHARACTERS: Final = re.compile(r"(?:\b(?:chr\()?(?:0x)?[0-9a-f]{2,8}\b\W{1,6}){30,}", re.I)
_HYPHENATED: Final = re.compile(r"-[ \t]{0,9}\r?\n[ \t]{0,9}")
_COMPOUND: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LOOKALIKES: Final = str.maketrans("аеорсухіαειοκνρτυχ", "aeopcyxiaeiokvptux")  # Cyrillic, Greek

_TAUGHT: Final = frozenset({"Hospital1 18", "2151-7-16", "1999"})  # in docstrings and tests
# Blanks, quotes and commas are allowed inside, as where a text was split into words or lines.
_PLACEHOLDER: Final = re.compile(
    r"\[[\s\"',]{0,8}\*[\s\"',]{0,4}\*([^\[\]]{1,120}?)\*[\s\"',]{0,4}\*[\s\"',]{0,8}\](?![(\[])"
)
_BLANK: Final = re.compile(
    r"\b(?:Name|Unit No|Date|Birth|Attending|Dr|Mr|Mrs|Ms)[.:]{0,2}[\s\"',*]{1,40}___(?!_)"
    r"|(?<!_)___[ -](?:year|yo\b)"
)

_NOTE_ID: Final = re.compile(r"\b1\d{7}-(?:DS|RR)-\d{1,3}\b")
_LIST: Final = re.compile(r"""(?:(['"])1\d{5}\1,?\s*){10}|\A(?:"?1\d{5}"?\r?\n){10}""")
_COLUMN: Final = re.compile(r"(hadm|subject)[ _]?id", re.I)
_HEADER: Final = re.compile(r"(hadm|subject)[ _]?id\W*$", re.I)
_VALUE: Final = re.compile(
    r"(hadm|subject)[ _]?id[^\w\n]{1,12}(?:\d{1,3}: )?(\d{3,8})(?:\.0)?\b", re.I
)
_DELIMITERS: Final = ",;\t|"
_BARS: Final = str.maketrans("│┆", "||")
# MIMIC-III's ids, then MIMIC-IV's; the teaching hospital's begin at 900,000 and 800,000.
_REAL: Final = {
    "HADM": (range(100_000, 200_000), range(20_000_000, 30_000_000)),
    "SUBJECT": (range(100, 100_000), range(10_000_000, 20_000_000)),
}


class UnreadableError(Exception):
    """Raised if something cannot be examined; the message says why, and what to do."""


def legible(text: str) -> str:
    r"""Return a text as a person reads it: without escapes and entities, then without tags as well.

    Text that is hidden in numbers, base64 or spaced-out letters is added at the end.

    Raises:
        UnreadableError: the text hides an archive or a document.

    Example:
        >>> legible(r"fever &amp; \u0063hills")
        'fever & chills\n'
    """

    def unescaped(found: re.Match[str]) -> str:
        digits = found[1] or found[2] or found[3] or found[4]
        if found[5]:
            return chr(int(found[5], 8))
        return chr(int(digits, 16)) if digits else "\n" if found[6] else ""

    plain = html.unescape(_ESCAPE.sub(unescaped, text))
    views = [_INVISIBLE.sub("", unicodedata.normalize("NFKC", plain))]
    if "<" in plain:
        views.append(_TAG.sub(" ", _INLINE.sub("", views[0])))
    hidden = [_joined(found[0]) for view in views for found in _APART.finditer(view)]
    hidden += [_spelled(found[0]) for found in _CHARACTERS.finditer(views[0])]
    hidden += [_decoded(found[0]) for found in _ENCODED.finditer(views[0])]
    return "\n".join([*views, "".join(hidden)])


def respelled(text: str) -> str:
    r"""Normalise words: no accents or lookalikes, hyphenated ones joined, compound ones separated.

    >>> respelled("fe-\nver, chíllsAtNight")
    'fever, chills At Night'
    """
    letters = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in letters if not unicodedata.combining(c)).translate(_LOOKALIKES)
    return _COMPOUND.sub(" ", _HYPHENATED.sub("", bare))


def _joined(letters: str) -> str:
    """Join spaced-out letters into words; a gap other than the usual one ends a word."""
    found = re.findall(r"(\w)(\W+)", letters)
    usual = Counter(gap for _, gap in found).most_common(1)[0][0]
    return "".join(letter + " " * (gap != usual) for letter, gap in found) + "\n"


def _spelled(numbers: str) -> str:
    """Return the texts that numbers spell as character codes, binary, decimal or hexadecimal."""
    found = re.findall(r"\b(?:0x)?([0-9a-f]{2,8})\b", numbers, re.I)
    texts = []
    for base in (2, 10, 16):
        try:
            codes = [int(number, base) for number in found]
        except ValueError:
            continue
        if max(codes) < 256:
            texts.append("".join(map(chr, codes)))
    return "\n".join(texts)


def _decoded(run: str, depth: int = 3) -> str:
    """Decode the text in hexadecimal digits, base32 or base64; return "" for anything else."""
    data, alphabet = b"", b"-_" if {"-", "_"} & {*run} else b"+/"
    for decode in (bytes.fromhex, base64.b32decode, lambda run: base64.b64decode(run, alphabet)):
        with suppress(ValueError):
            data = data or decode(run)
    if data.startswith(ARCHIVES):
        raise UnreadableError("holds an archive or a document; do not commit it")
    try:
        text = data.decode("utf-16-le" if b"\0" in data[1:4:2] else "utf-8")
    except UnicodeDecodeError:
        return ""
    if not re.sub(r"\s", "", text).isprintable():
        return ""
    return _decoded(text, depth - 1) if depth and _ENCODED.fullmatch(text) else text


def placeholder(text: str) -> str | None:
    """Return which sign of MIMIC's de-identification a text has, None for none.

    Placeholders of a template, with `{…}` inside, and those that the book teaches do not count.

    Example:
        >>> placeholder("seen by Dr. [" + "**Last Name (un) 12**] in [**Hospital1 18**]")
        "a placeholder of MIMIC-III's de-identification"
        >>> placeholder("seen in [**Hospital1 18**], see [**the chapter**](04_focal_loss.md)")
    """
    for found in _PLACEHOLDER.finditer(text):
        inside = " ".join(found[1].split())
        if re.search(r"\w", inside) and inside not in _TAUGHT and "{" not in inside:
            return "a placeholder of MIMIC-III's de-identification"
    if len(_BLANK.findall(text)) > 1:
        return "blanks of MIMIC-IV's de-identification"
    return None


def mimic_id(text: str) -> str | None:
    """Return which id of MIMIC a text has, by its form or the name of its column, None for none.

    Example:
        >>> mimic_id("code;HADM_ID" + chr(10) + "4019;14" + "5834")
        'a HADM_ID of MIMIC'
    """
    if _NOTE_ID.search(text):
        return "a note_id of MIMIC-IV-Note"
    if _LIST.search(text):
        return "a list of admissions of MIMIC-III"
    for found in _VALUE.finditer(text):
        if _is_real(found[1].upper(), found[2]):
            return f"a {found[1].upper()}_ID of MIMIC"
    columns: dict[int, str] = {}
    width = 0
    for row in _rows(text):
        named = {place: _HEADER.search(cell) for place, cell in row.items()}
        header = {place: name[1].upper() for place, name in named.items() if name}
        if header or len(row) < width:  # a table ends at a shorter row
            columns, width = header, len(row)
        for place, name in columns.items():
            if _is_real(name, row.get(place, "").removesuffix(".0")):
                return f"a {name}_ID of MIMIC"
    return None


def _is_real(name: str, value: str) -> bool:
    known = len(value) < 9 and value.isdecimal()
    return known and any(int(value) in ids for ids in _REAL[name])


def _rows(text: str) -> Iterator[dict[int, str]]:
    """Yield the rows of tables in a text: cells by their number, or by where they end.

    Cells are also numbered from the last, -1, since text in a cell may hold the delimiter.
    """
    if not _COLUMN.search(text):
        return
    lines = text.translate(_BARS).splitlines()
    for row in re.split(r"<t(?:r|able)\b", text, flags=re.I)[1:]:
        lines.append("|".join(re.findall(r"<t[dh]\b[^<>]*>([^<]*)", row, re.I)))
    delimiter: str | None = None
    for line in lines:
        if _COLUMN.search(line):
            used = max(_DELIMITERS, key=line.count)
            delimiter = used if used in line else None
        if delimiter is None:  # in columns, aligned on the right
            yield {found.end(): found[0].strip("\"'`") for found in re.finditer(r"\S+", line)}
        else:
            cells = [cell.strip(" \"'`") for cell in line.split(delimiter)]
            yield dict(enumerate(cells)) | {i - len(cells): cell for i, cell in enumerate(cells)}
