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

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from data_prep import splits, tables
from data_prep.code_systems.systems import CodeSystem, Icd9, Icd10
from data_prep.corpus_writer import replacing
from data_prep.prepare import Choices, Coding, Note, Origin, Pair, Progress, prepare
from data_prep.sources.mimic3 import add_ccs_arguments
from marn.corpus import SPLITS, CodeEntry
from marn.errors import MarnError

COMMAND: Final = "own"
SYSTEMS: Final = ("icd9", "icd10", "other")
_KINDS: Final = ("dx", "pr")
_CODE: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,40}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer the options of this source."""
    parser.add_argument(
        "--notes", type=Path, required=True, help="CSV of note_id, text, or a folder of NAME.txt"
    )
    parser.add_argument(
        "--assigned", type=Path, required=True, help="CSV of the codes: note_id, kind, code"
    )
    parser.add_argument(
        "--titles", type=Path, help="CSV of kind, code, title[, category, category_title]"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus to write")
    parser.add_argument(
        "--system", choices=SYSTEMS, required=True, help="the system that the codes belong to"
    )
    parser.add_argument(
        "--text",
        choices=("credentialed", "open"),
        default="credentialed",
        help="whether the texts may be shown and shared (default: %(default)s)",
    )
    parser.add_argument(
        "--language", default="en", help="of the notes, for the card (default: %(default)s)"
    )
    add_ccs_arguments(parser)
    Choices.add_arguments(parser)
    parser.set_defaults(codes="full")


def run(args: argparse.Namespace, progress: Progress) -> Path:
    """Prepare the notes and codes that the options name.

    Raises:
        MarnError: naming file and line, if a file is missing or cannot be read, or nothing is
            left.
    """
    out = args.out.resolve()
    for given in (args.notes, args.assigned, args.titles):
        if given is not None and out in [given.resolve(), *given.resolve().parents]:
            raise MarnError(f"{args.out} holds the raw files. Choose another folder for --out.")
    for given in (args.notes, args.assigned):
        if not given.exists():
            raise MarnError(f"No {given}. Give the path of a CSV, or for --notes of a folder.")
    choices = Choices.of(args)
    dropped: Counter[str] = Counter()
    uses: Counter[Pair] = Counter()
    system: CodeSystem | None = None
    if args.system == "icd9":
        system = Icd9(args.ccs_procedures, args.ccs_key)
    elif args.system == "icd10":
        system = Icd10(uses)
    form = _any_code if system is None else system.dotted
    titles, above = _read_titles(args.titles, form, dropped) if args.titles else ({}, {})
    places: dict[str, str] = {}
    settings = {"system": args.system, "split": "by patient, 8066:1573:1729"}
    notes = _read_folder if args.notes.is_dir() else _read_table

    def title(kind: str, code: str) -> str:
        return titles.get((kind, code)) or (system.title(kind, code) if system else "")

    def category(kind: str, code: str) -> CodeEntry | None:
        return above.get((kind, code)) or (system.category(kind, code) if system else None)

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        if not places:
            return splits.by_patient(choices.seed)(admissions)
        settings["split"] = "given with the notes"
        dropped["notes without a split"] += sum(note not in places for note in admissions)
        return {note: places[note] for note in admissions if note in places}

    with replacing(args.out) as folder:
        prepare(
            folder,
            notes=notes(args.notes, places, dropped),
            codings=_read_codings(args.assigned, form, dropped, uses),
            split=split,
            title=title,
            category=category if system or above else None,
            origin=Origin(
                name=out.name,
                source="Notes of one's own with "
                + (f"{system.name} codes" if system else "codes of a system of their own"),
                text=args.text,
                command=f"python -m data_prep {COMMAND} --notes NOTES --assigned ASSIGNED "
                + ("--titles TITLES " if args.titles else "")
                + f"--system {args.system} --text {args.text} --language {args.language} "
                f"--out data/{out.name} {choices.options()}",
                language=args.language,
                ccs_key=system.key if system else "own" if above else None,
            ),
            choices=choices,
            dropped=dropped,
            settings=settings,
            progress=progress,
        )
    return args.out


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
                raise MarnError(f"{file}: another split has a note {file.stem} too. Keep one.")
            seen.add(file.stem)
            if name:
                places[file.stem] = name
            yield Note(file.stem, file.stem, tables.read_text(file))
    if not seen:
        raise MarnError(f"{path} holds no NAME.txt. Give the folder of the texts, or a CSV.")


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
        raise tables.fault(path, place, f"{note[:40]!r} is no note_id. Give 1 to 200 characters.")
    return note


def _kind(path: Path, place: int, written: str) -> str:
    if written.strip() not in _KINDS:
        raise tables.fault(path, place, f"kind {written[:40]!r} is neither dx nor pr.")
    return written.strip()


def _split(path: Path, place: int, written: str) -> str:
    if written not in SPLITS:
        raise tables.fault(path, place, f"split {written[:40]!r} is none of {', '.join(SPLITS)}.")
    return written
