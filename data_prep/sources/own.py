"""Notes of your own: a table or a folder of texts, and a table of their codes.

Needs two things, and takes a third::

    --notes    a CSV with the columns note_id, text and perhaps subject_id and split; or a folder
               of texts NAME.txt, whose names are their ids, beside one another or in folders
               train, dev and test
    --assigned a CSV with the columns note_id, kind, code; kind is dx for a diagnosis, pr for a
               procedure
    --titles   a CSV with the columns kind, code, title and perhaps category, category_title

Codes of ICD-9 and ICD-10 get their titles and categories from the packages that the other sources
use. Codes of any other system are taken as they are written, and get what --titles says; without
categories the corpus has the one task "icd". Notes count as credentialed unless you say otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from data_prep import splits, tables
from data_prep.code_systems.systems import CodeSystem, Icd9, Icd10
from data_prep.config import CcsConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.prepare import Coding, Note, Origin, Pair, Progress, prepare
from marn.corpus import SPLITS, CodeEntry
from marn.errors import MarnError
from marn.settings import Location, settings

_KINDS: Final = ("dx", "pr")
_CODE: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,40}")


@settings
class Config(CcsConfig):
    """What `python -m data_prep own` takes."""

    notes: Location
    """CSV with the columns note_id and text, or a folder of texts NAME.txt."""
    assigned: Location
    """CSV of the codes, with the columns note_id, kind and code."""
    titles: Location | None = None
    """CSV with the columns kind, code, title and perhaps category and category_title."""
    out: Location
    """Folder of the corpus to write."""
    system: Literal["icd9", "icd10", "other"]
    """The system that the codes belong to."""
    text: Literal["credentialed", "open"] = "credentialed"
    """Whether the texts may be shown and shared ("open")."""
    language: str = "en"
    """Language of the notes, for the card."""
    codes: str = "full"
    """How many of the most frequent codes to keep, or "full" for all."""


def run(config: Config, progress: Progress) -> Path:
    """Prepare the notes and codes that the settings name.

    Raises:
        MarnError: naming file and line, if a file is missing or cannot be read, or nothing is
            left.
    """
    check_out(config.out, config.notes, config.assigned, config.titles)
    for given in (config.notes, config.assigned):
        if not given.exists():
            raise MarnError(f"{given} does not exist; give the path of a CSV, or a folder of notes")
    out = config.out.resolve()
    dropped: Counter[str] = Counter()
    uses: Counter[Pair] = Counter()
    system: CodeSystem | None = None
    if config.system == "icd9":
        system = Icd9(config.ccs_procedures, config.ccs_key)
    elif config.system == "icd10":
        system = Icd10(uses)
    form = _any_code if system is None else system.dotted
    titles, above = _read_titles(config.titles, form, dropped) if config.titles else ({}, {})
    places: dict[str, str] = {}
    by_patient, recorded = splits.chosen(None, config.codes, config.seed, dropped)
    recorded["system"] = config.system
    notes = _read_folder if config.notes.is_dir() else _read_table

    def title(kind: str, code: str) -> str:
        return titles.get((kind, code)) or (system.title(kind, code) if system else "")

    def category(kind: str, code: str) -> CodeEntry | None:
        return above.get((kind, code)) or (system.category(kind, code) if system else None)

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        if not places:
            return by_patient(admissions)
        recorded["split"] = "given with the notes"
        dropped["notes without a split"] += sum(note not in places for note in admissions)
        return {note: places[note] for note in admissions if note in places}

    with replacing(config.out) as folder:
        prepare(
            folder,
            notes=notes(config.notes, places, dropped),
            codings=_read_codings(config.assigned, form, dropped, uses),
            split=split,
            title=title,
            category=category if system or above else None,
            origin=Origin(
                name=out.name,
                source="Your own notes with "
                + (f"{system.name} codes" if system else "codes of a system of their own"),
                text=config.text,
                command="python -m data_prep own --notes NOTES --assigned ASSIGNED "
                + ("--titles TITLES " if config.titles else "")
                + f"--system {config.system} --text {config.text} --language {config.language} "
                f"--out data/{out.name} {config.options()}",
                language=config.language,
                ccs_key=system.key if system else "own" if above else None,
            ),
            choices=config,
            dropped=dropped,
            settings=recorded,
            progress=progress,
        )
    return config.out


def _read_table(path: Path, places: dict[str, str], dropped: Counter[str]) -> Iterator[Note]:
    """Yield the notes of a table, and enter their splits into `places`."""
    seen: set[str] = set()
    optional = ("subject_id", "split")
    for place, (written, text, patient, name) in tables.read(path, ("note_id", "text"), optional):
        note = _note_id(path, place, written)
        if note in seen:
            dropped["notes with a note_id seen before"] += 1
            continue
        seen.add(note)
        if name.strip():
            places[note] = _split(path, place, name.strip())
        yield Note(note, patient.strip() or note, text)


def _read_folder(path: Path, places: dict[str, str], dropped: Counter[str]) -> Iterator[Note]:
    """Yield the texts of a folder, or of its folders train, dev and test."""
    homes = [(path / name, name) for name in SPLITS if (path / name).is_dir()] or [(path, "")]
    seen: set[str] = set()
    for folder, name in homes:
        for file in sorted(folder.glob("*.txt")):
            if file.stem in seen:
                raise MarnError(
                    f"note {file.stem} of {file} is also in another split; keep one of them"
                )
            seen.add(file.stem)
            if name:
                places[file.stem] = name
            yield Note(file.stem, file.stem, tables.read_text(file))
    if not seen:
        raise MarnError(f"{path} holds no NAME.txt; give the folder of the texts, or a CSV")


def _read_codings(
    path: Path, form: Callable[[str, str], str | None], dropped: Counter[str], uses: Counter[Pair]
) -> Iterator[Coding]:
    """Yield the codes of a table, and count them in `uses`."""
    for place, (written, kind, code) in tables.read(path, ("note_id", "kind", "code")):
        note = _note_id(path, place, written)
        pair = _kind(path, place, kind), form(kind.strip(), code)
        if not code.strip():
            dropped["rows without a code"] += 1
        elif pair[1] is None:
            dropped["rows whose code has no form of the system"] += 1
        else:
            uses[pair[0], pair[1]] += 1
            yield Coding(note, pair[0], pair[1])


def _read_titles(
    path: Path, form: Callable[[str, str], str | None], dropped: Counter[str]
) -> tuple[dict[Pair, str], dict[Pair, CodeEntry]]:
    """Return the title of every code of a table, and the category of those that have one."""
    titles: dict[Pair, str] = {}
    above: dict[Pair, CodeEntry] = {}
    columns, optional = ("kind", "code", "title"), ("category", "category_title")
    for place, (kind, written, title, category, name) in tables.read(path, columns, optional):
        code = form(_kind(path, place, kind), written)
        if code is None:
            dropped["titles of codes that have no form of the system"] += 1
            continue
        pair = kind.strip(), code
        titles[pair] = title.strip()
        if category.strip():
            above[pair] = CodeEntry(category.strip(), pair[0], name.strip())
    return titles, above


def _any_code(kind: str, written: str) -> str | None:
    """Return a code of a system of its own as it is written, without the blanks around it."""
    code = written.strip()
    return code if _CODE.fullmatch(code) else None


def _note_id(path: Path, place: int, written: str) -> str:
    note = written.strip()
    if not note or len(note) > 200:
        what = f"{tables.shown(note)} is not a valid note_id; give 1 to 200 characters"
        raise tables.fault(path, place, what)
    return note


def _kind(path: Path, place: int, written: str) -> str:
    if written.strip() not in _KINDS:
        what = f"kind must be dx or pr, but got {tables.shown(written.strip())}; correct the row"
        raise tables.fault(path, place, what)
    return written.strip()


def _split(path: Path, place: int, written: str) -> str:
    if written not in SPLITS:
        names = ", ".join(SPLITS)
        what = f"split must be one of {names}, but got {tables.shown(written)}; correct the row"
        raise tables.fault(path, place, what)
    return written
