"""Read, as a stream, the JSON file of coded abstracts that CodiEsp's authors also published."""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

from data_prep.code_systems import icd10
from data_prep.fetch import fetch
from data_prep.prepare import Coding, Note
from marn.corpus.loose_tables import readable
from marn.errors import MarnError

ADDITIONAL_URL: Final = "https://zenodo.org/records/3606662/files/abstractsWithCIE10_v2.zip"
ADDITIONAL_CITATION: Final = (
    "The same authors, CodiEsp abstracts: Abstracts from Lilacs and Ibecs with ICD10 codes; "
    "https://doi.org/10.5281/zenodo.3606662"
)

_PIECE: Final = 1 << 20  # characters of the abstracts read at once
_LONGEST: Final = 1 << 24  # characters in one article at most
_BLANKS: Final = re.compile(r"\s*")
_COMMA: Final = re.compile(r"\s*(?:,|(?=\]))")


def file_of(path: Path, sums: Sequence[str], recorded: dict[str, Any]) -> Path:
    """Return the file of the abstracts, and record where it is from.

    Args:
        path: the file, or "fetch" to download it once.
        sums: see `data_prep.fetch.fetch`.
        recorded: gets the citation, and the SHA-256 of a downloaded file.

    Raises:
        MarnError: if the file cannot be fetched, or has another sum.
    """
    if str(path) == "fetch":
        remedy = "download it yourself and pass its path with --additional"
        name = ADDITIONAL_URL.rpartition("/")[2]
        path, recorded["additional_sha256"] = fetch(ADDITIONAL_URL, name, remedy, sums)
    recorded["additional_citation"] = ADDITIONAL_CITATION
    return path


def read_codings(path: Path, dropped: Counter[str]) -> list[Coding]:
    """Return the codes of the abstracts, each once per abstract.

    Args:
        path: the JSON file, perhaps zipped.
        dropped: gets the number of codes and abstracts left out, by reason.

    Raises:
        MarnError: if the file is not the one of the abstracts, or is damaged.
    """
    codings: dict[Coding, None] = {}
    names: dict[str, str] = {}  # one object for each code, not one for each use
    for note, article in _abstracts(path, dropped):
        any_code = False
        for term in _list(article.get("Mesh"), path):
            for written in _list(term.get("CIE") if isinstance(term, dict) else "", path):
                code = icd10.dotted("dx", str(written))
                if code is None:
                    dropped["codes of abstracts that are not ICD-10-CM"] += 1
                else:
                    codings[Coding(note, "dx", names.setdefault(code, code))] = None
                    any_code = True
        dropped["abstracts without a code"] += not any_code
    return list(codings)


def read_notes(path: Path, places: Mapping[str, str]) -> Iterator[Note]:
    """Yield the abstracts in `places` as notes: the title, a line break, the abstract."""
    for note, article in _abstracts(path, Counter()):
        if note in places:
            parts = [str(article.get(key) or "") for key in ("title", "abstractText")]
            # JSON can hold half of a surrogate pair, which UTF-8 cannot.
            text = "\n".join(parts).encode("utf-8", "replace").decode()
            yield Note(admission=note, subject=note, text=text, key=note)


def _abstracts(path: Path, dropped: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each abstract of the file once, with the name of its note."""
    seen: set[str] = set()
    for article in _articles(path):
        pmid = str(article.get("pmid") or "").strip()
        if not pmid:
            raise MarnError(f"{path}: an article without pmid; unpack the archive again")
        if pmid in seen:
            dropped["abstracts with a pmid seen before"] += 1
        else:
            seen.add(pmid)
            yield f"abstract-{pmid}", article


def _list(value: object, path: Path) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MarnError(f"{path}: the codes of an article are not a list; give the JSON file")
    return value


def _articles(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the articles of the JSON file, one in memory at a time; the file is one object."""
    decoder = json.JSONDecoder()
    text, is_last = "", False
    with readable(path), _json_file(path) as file:
        text = file.read(_PIECE)
        opening = re.match(r'\s*\{\s*"articles"\s*:\s*\[\s*', text)
        if opening is None:
            raise MarnError(f'{path} does not begin with {{"articles": [; give the JSON file')
        place = opening.end()
        while True:
            place = _BLANKS.match(text, place).end()  # type: ignore[union-attr]
            if text.startswith("]", place):
                return
            try:
                article, end = decoder.raw_decode(text, place)
                comma = _COMMA.match(text, end)
            except (ValueError, RecursionError):
                comma = None
            if comma is None:  # the piece ends within an article or right after it, or is damaged
                if is_last or len(text) - place > _LONGEST:
                    raise MarnError(f"{path} is cut off or damaged; get a fresh copy")
                more = file.read(_PIECE)
                text, place, is_last = text[place:] + more, 0, not more
                continue
            if not isinstance(article, dict):
                raise MarnError(
                    f"{path} contains something other than articles; give the JSON file"
                )
            yield article
            place = comma.end()


@contextmanager
def _json_file(path: Path) -> Iterator[IO[str]]:
    """Open the JSON file, or the one JSON file within a zip."""
    with ExitStack() as stack:
        binary: IO[bytes]
        if path.suffix.lower() == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.lower().endswith(".json")]
            names = [name for name in names if not name.startswith("__MACOSX")]
            if len(names) != 1:
                raise MarnError(f"{path} holds {len(names)} JSON files instead of one; unpack it")
            binary = stack.enter_context(archive.open(names[0]))
        else:
            binary = stack.enter_context(path.open("rb"))
        yield stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8-sig"))
