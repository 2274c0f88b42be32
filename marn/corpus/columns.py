"""Recognise how tables of notes are written: column names, spellings of ids, encodings."""

import codecs
import gzip
import re
import unicodedata
from pathlib import Path
from typing import IO, cast

from marn.errors import MarnError

TEXT_NAMES = (
    *("text", "note_text", "report_text", "document_text", "full_text", "note", "report"),
    *("content", "body", "discharge_summary", "summary", "transcription", "document", "texto"),
)
"""Names of a column of texts, most likely first, compared by `bare`."""
ID_NAMES = (
    *("note_id", "hadm_id", "_id", "id", "admission_id", "doc_id", "document_id", "case_id"),
    *("report_id", "file_name", "filename", "file", "document", "doc", "note", "case", "name"),
    *("encounter_id", "visit_id", "row_id", "study_id", "uid", "key", "identifier"),
)
"""Names of a column of ids, most likely first, compared by `bare`."""
SEPARATOR_LINE = re.compile(r'\s*"?sep=.?"?[,;]*\s*', re.IGNORECASE)
"""The first line that Excel may write above the header of a CSV."""
_WHOLE_FLOAT = re.compile(r"(\d+)\.0+", re.ASCII)
_KEPT_AS_TEXT = re.compile(r"""="(.*?)"?|'(?=[\w\t=+@＝＋－＠-])(.*)""")  # ="007" and '007
_FORMULA = re.compile(r"[\t=@＝＋－＠]|[+-](?!\d+([.,]\d+)?$)")  # by OWASP, "CSV Injection"
_UNSEEN = re.compile("[\ufeff\u200b-\u200d\u2060]")
_NUMBER = re.compile(r"0*(\d+)", re.ASCII)
# Between two letters, these bytes are accented vowels of DOS or old Macs, not Windows-1252's signs
# (‚ † ¢).
_OTHER_PAGE = re.compile(rb"[a-z][\x82-\x84\x86-\x8c\x8e\x98\x9b\x9f\xa1-\xa5][a-z]")
_PIECE = 1 << 21  # bytes read at once
_BINARY = {
    b"PK\x03\x04": "a zip archive or an Excel file; save the table as CSV (UTF-8)",
    b"%PDF": "a PDF; give a table, or a folder of texts",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; save the table as CSV (UTF-8)",
}


def bare(name: str) -> str:
    """Return a column's name without case, blanks and punctuation: "Note ID" becomes "noteid"."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def shown(cell: str) -> str:
    """Return what a spreadsheet shows of a cell, without invisible characters or marks for text.

    >>> shown('="007"'), shown("'007"), shown(" 428.0\u200b")
    ('007', '007', '428.0')
    """
    seen = _UNSEEN.sub("", cell).strip()
    match = _KEPT_AS_TEXT.fullmatch(seen)
    return str(match[match.lastindex or 1]) if match else seen


def as_text(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; `shown` reverses it.

    >>> as_text("=1+1"), as_text("-7"), shown(as_text("@a"))
    ("'=1+1", '-7', '@a')
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def plain_id(written: str) -> str:
    """Return an id in its canonical form: as `shown`, Unicode-composed, and 123 for 123.0.

    >>> plain_id(" 123.0 "), plain_id("007"), plain_id("cafe\u0301") == "café"
    ('123', '007', True)
    """
    id_ = unicodedata.normalize("NFC", shown(written))
    match = _WHOLE_FLOAT.fullmatch(id_)
    return match[1] if match else id_


def alias(id_: str) -> str:
    """Return a key that is the same for all spellings of an id.

    Leading zeros, case, compatible characters and the ending .txt may differ between two tables.

    >>> alias("007"), alias("Note_A.TXT")
    ('7', 'note_a')
    """
    plain = unicodedata.normalize("NFKC", id_).casefold().removesuffix(".txt")
    match = _NUMBER.fullmatch(plain)
    return match[1] if match else plain


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, unpacked if its name ends in `.gz`."""
    if path.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return path.open("rb")


def encoding_of(path: Path, given: str | None = None) -> str:
    """Return the encoding of a file: UTF-8, UTF-16, UTF-32 or, if unambiguous, Windows-1252.

    Windows-1252 (which includes Latin-1) is unambiguous if no bytes above 127 form UTF-8, all of
    them are defined in Windows-1252, and none is a sign between two letters, where DOS and old
    Macs have an accented vowel.

    Args:
        path: the file, perhaps gzipped. A pipe, which can be read only once, is taken as UTF-8.
        given: the encoding, if known; the file is then read only to check it.

    Raises:
        MarnError: the file has none of these encodings, or not the given one, or is not text.
    """
    if not path.is_file() and path.exists():
        return given or "utf-8-sig"
    with open_bytes(path) as file:
        return _encoding_of(file, path, given)


def _encoding_of(file: IO[bytes], path: Path, given: str | None) -> str:
    if given:
        checker = codecs.getincrementaldecoder(given)()
        try:
            while piece := file.read(_PIECE):
                checker.decode(piece)
            checker.decode(b"", final=True)
        except UnicodeError:
            raise MarnError(f"{path} is not in {given}; correct --encoding") from None
        return given
    begin = file.read(4)
    for mark, what in _BINARY.items():
        if begin.startswith(mark):
            raise MarnError(f"{path} is {what}")
    if begin in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros in (("utf-16-le", begin[1::2]), ("utf-16-be", begin[::2])):
        if zeros == b"\0\0":
            return encoding
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    is_utf8 = is_other = is_odd = False
    piece = begin
    while piece or decoder.getstate()[0]:
        text = decoder.decode(piece, final=not piece)
        is_odd = is_odd or _OTHER_PAGE.search(piece) is not None
        piece = file.read(_PIECE)
        if "\0" in text:
            raise MarnError(
                f"{path} contains a NUL byte, so it is not text or is damaged; get a fresh copy"
            )
        if not text.isascii():
            marks = set(text) - set(map(chr, range(128)))
            is_other |= any("\udc80" <= mark <= "\udcff" for mark in marks)
            is_utf8 |= any(not "\udc80" <= mark <= "\udcff" for mark in marks)
            undefined = marks & {chr(0xDC00 + byte) for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
            if is_other and (is_utf8 or is_odd or undefined):
                raise MarnError(
                    f"{path} is neither UTF-8 nor Windows-1252; save it as UTF-8, or give "
                    "--encoding (own and predict), such as cp850 of DOS or mac-roman"
                )
    return "cp1252" if is_other else "utf-8-sig"
