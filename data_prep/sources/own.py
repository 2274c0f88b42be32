"""Prepare your own notes and their codes.

Reads the following, of which only the first is required::

    --notes    a table with an id and a text for each note, and perhaps a patient and a split; or
               a folder of texts NAME.txt, whose names are their ids, at any depth, perhaps in
               folders train, dev and test
    --assigned a table with an id and a code, or several codes, in each row, and perhaps a kind (dx
               for a diagnosis, pr for a procedure); without it, the table of notes has the codes
    --titles   a table with a code and a title in each row, and perhaps kind, category and
               category_title: D_ICD_DIAGNOSES of MIMIC, a list of CMS, or your own

Tables are CSV (with commas, semicolons, tabs or bars), JSONL, JSON, Parquet or Feather; columns are
found by their common names (note_id, id, hadm_id; text, note, report; code, codes, icd, label).
Codes of ICD-9 and ICD-10 get their titles and categories from the packages that the other sources
use. Codes of any other system are taken as they are written, and get what --titles says; without
categories the corpus has the one task "icd". Notes count as credentialed unless you say otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Strict

from data_prep import column_names, splits
from data_prep.code_systems.systems import CodeSystem, Icd9, Icd10, pieces
from data_prep.code_systems.title_lists import read_titles
from data_prep.config import CcsConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.left_out import LEAST, LOUD
from data_prep.prepare import Coding, Note, Origin, Progress, Records, prepare
from marn.corpus.columns import ID_NAMES, TEXT_NAMES, alias, plain_id
from marn.corpus.loose_tables import Table, open_table, read_text
from marn.errors import MarnError
from marn.progress import counted
from marn.settings import Count, Encoding, Location, settings


@settings
class Config(CcsConfig):
    """Set the options of `python -m data_prep own`."""

    notes: Location
    """Table of the notes, or a folder of texts NAME.txt."""
    assigned: Location | None = None
    """Table with the codes of each note; by default they are in the table of notes."""
    titles: Annotated[tuple[Location, ...], Strict(False)] = ()
    """Table of code titles; repeat the option for several."""
    system: Literal["icd9", "icd10", "other"]
    """Code system."""
    text: Literal["credentialed", "open"] = "credentialed"
    """Whether the texts may be shown and shared ("open")."""
    encoding: Encoding | None = None
    """Encoding of the notes and their table of codes, such as cp850; by default UTF-8, UTF-16,
    UTF-32 or Windows-1252, whichever fits."""
    language: str = "en"
    """Language of the notes, recorded in the card."""
    codes: str = "full"
    """How many of the most frequent codes to keep, or "full" for all."""
    min_code_count: Count = 1
    """Minimum number of notes that must have a code for it to be kept."""
    splits: Location | None = None
    """Folder of {train,dev,test}_CODES_hadm_ids.csv, lists of note ids in CAML's form; a table of
    note ids and splits (CSV, Parquet or Feather); or shares of the patients, such as 0.8,0.1,0.1.
    By default the splits that the notes name; if they name none, patients are split by a hash."""
    vocabulary: Literal["corpus", "full"] = "corpus"
    """Notes for the vocabulary and word vectors: "corpus", the corpus's own training notes; "full",
    all training notes, also those without a kept code."""


def run(config: Config, progress: Progress) -> Path:
    """Prepare the notes and codes that the settings name.

    Raises:
        MarnError: naming file and row, if a file is missing or cannot be read, or nothing is left.
    """
    _check_paths(config)
    dropped: Counter[str] = Counter()
    system = CodeSystem()
    if config.system == "icd9":
        system = Icd9(config)
    elif config.system == "icd10":
        system = Icd10()
    codes = _code_table(config)
    read_titles(config.titles, system, dropped)
    notes = _Notes(config, dropped, progress)
    split, recorded = splits.chosen(config.splits, config.codes, config.seed, dropped)
    recorded["system"] = config.system
    if config.splits is None:
        split = notes.splitter(split, config.seed, recorded)

    with replacing(config.out) as folder:
        prepare(
            folder,
            Records(
                notes=notes.read(),
                codings=_Codings(codes, system, notes, dropped, progress).read(),
                title=system.title,
                category=system.category if system.key else None,
                split=split,
                whole=split if config.vocabulary == "full" else None,
            ),
            origin=Origin(
                source=f"Your own notes with {system.name} codes",
                text=config.text,
                command="python -m data_prep own --notes NOTES "
                + ("--assigned ASSIGNED " if config.assigned else "")
                + "--titles TITLES " * len(config.titles)
                + f"--system {config.system} --text {config.text} --language {config.language} "
                f"--out data/{config.name} {config.options()}",
                language=config.language,
                ccs_key=system.key or None,
            ),
            choices=config,
            dropped=dropped,
            settings=recorded,
            progress=progress,
        )
    return config.out


def _check_paths(config: Config) -> None:
    """Refuse a path that does not exist, before anything is read."""
    check_out(config.out, config.notes, config.assigned, *config.titles)
    for option in ("notes", "assigned", "titles"):
        given = getattr(config, option)
        for path in given if isinstance(given, tuple) else [given]:
            if path is not None and not path.exists():
                what = "a table, or of a folder of texts" if option == "notes" else "a table"
                raise MarnError(f"{path} does not exist; pass the path of {what} with --{option}")


def _code_table(config: Config) -> Table:
    """Open the table of codes, to check it before the notes are read."""
    if config.assigned is None and config.notes.is_dir():
        raise MarnError("assigned is missing; give the table of the codes with --assigned")
    path = config.assigned or config.notes
    id_ = {"id": ID_NAMES}
    wanted = {"code": (*column_names.CODES, *column_names.DIAGNOSES, *column_names.PROCEDURES)}
    optional = {"dx": column_names.DIAGNOSES, "pr": column_names.PROCEDURES}
    optional["kind"] = column_names.KINDS
    if config.assigned is None:
        text = {"text": TEXT_NAMES}  # so that its column is not taken for the ids
        return open_table(path, wanted, {**optional, **text, **id_}, config.encoding)
    return open_table(path, {**id_, **wanted}, optional, config.encoding)


@dataclass
class _Notes:
    """Read the notes given: their ids and, if named, their splits."""

    config: Config
    dropped: Counter[str]
    progress: Progress
    places: dict[str, str] = field(default_factory=dict)  # split of each note that names one
    ids: set[str] = field(default_factory=set)
    _aliases: dict[str, str] = field(default_factory=dict)  # "" where two notes share one

    def __post_init__(self) -> None:
        self.path = self.config.notes

    def read(self) -> Iterator[Note]:
        """Yield the notes of the folder or the table."""
        yield from self._read_folder() if self.path.is_dir() else self._read_table()

    def find(self, written: str) -> str | None:
        """Return the id of the note that a row names, perhaps in another spelling."""
        id_ = plain_id(written)
        return id_ if id_ in self.ids else self._aliases.get(alias(id_)) or None

    def splitter(
        self, by_patient: splits.Splitter, seed: int, recorded: dict[str, object]
    ) -> splits.Splitter:
        """Return the splitter for the splits that the notes name, or by patient if they name none.

        If no note names train, the notes without a split are training notes; if no note names dev,
        it is taken from them by patient.
        """

        def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
            if not self.places:
                return by_patient(admissions)
            recorded["split"] = "given with the notes"
            placed = {note: self.places[note] for note in admissions if note in self.places}
            rest = {note: admissions[note] for note in admissions if note not in self.places}
            named = set(self.places.values())
            if "train" in named or not rest:
                self.dropped["notes without a split"] += len(rest)
                return placed
            dev = 0 if "dev" in named else splits.PROPORTIONS["dev"]
            said = f"{' and '.join(sorted(named))} given with the notes, the rest is train"
            recorded["split"] = said + (" and dev, by patient" if dev else "")
            self.progress(f"splits: {recorded['split']}")
            return {
                **placed,
                **splits.by_patient(seed, (splits.PROPORTIONS["train"], dev, 0))(rest),
            }

        return split

    def _enter(self, id_: str, *others: str) -> None:
        self.ids.add(id_)
        for other in {alias(id_), *map(alias, others)}:
            if self._aliases.setdefault(other, id_) != id_:
                self._aliases[other] = ""

    def _read_table(self) -> Iterator[Note]:
        optional: dict[str, Sequence[str]] = {"subject": column_names.PATIENTS}
        optional["split"] = column_names.SPLIT
        columns: dict[str, Sequence[str]] = {"text": TEXT_NAMES} | (
            {"id": ID_NAMES} if self.config.assigned else {}
        )
        optional["id"] = ID_NAMES
        table = open_table(self.path, columns, optional, self.config.encoding)
        _say_encoding(self.path, table.encoding, self.progress)
        for place, _, row in table.rows():
            id_ = plain_id(row["id"]) if table.columns["id"] else f"row{place}"
            if len(id_) > 200:
                raise table.fault(place, "its note_id has more than 200 characters; name the ids")
            if not id_ or id_ in self.ids:
                why = "seen before" if id_ else "that is empty"
                self.dropped[f"notes with a note_id {why}"] += 1
                continue
            self._enter(id_)
            if row["split"].strip():
                split = column_names.split_name(row["split"])
                if split is None:
                    raise table.fault(place, column_names.WRONG_SPLIT)
                self.places[id_] = split
            yield Note(id_, plain_id(row["subject"]) or id_, row["text"])

    def _read_folder(self) -> Iterator[Note]:
        files = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        files = [file for file in files if not file.name.startswith(".")]
        texts = [file for file in files if file.suffix.lower() == ".txt"]
        self.dropped["files that are not NAME.txt"] += len(files) - len(texts)
        if not texts:
            raise MarnError(f"{self.path} holds no NAME.txt; give the folder of the texts")
        inner: dict[Path, tuple[str, ...]] = {}  # below the folder of the split
        for file in texts:
            parts = file.relative_to(self.path).with_suffix("").parts
            homes = [part for part in parts[:-1] if column_names.split_name(part)]
            inner[file] = tuple(part for part in parts if part not in homes[:1])
        stems = Counter(parts[-1] for parts in inner.values())
        whole = [plain_id("/".join(parts)) for parts in inner.values()]
        by_stem = max(stems.values()) == 1 or len(set(whole)) < len(whole)
        encodings: Counter[str] = Counter()
        for file, path in zip(texts, whole, strict=True):
            id_ = plain_id(inner[file][-1]) if by_stem else path
            if id_ in self.ids:
                raise MarnError(
                    f"{file} has the name of another text, and may be in two splits; keep one of "
                    "them, or rename it"
                )
            self._enter(id_, path)
            names = map(column_names.split_name, file.relative_to(self.path).parts[:-1])
            if split := next(filter(None, names), None):
                self.places[id_] = split
            text, encoding = read_text(file, self.config.encoding)
            encodings[encoding] += 1
            yield Note(id_, id_, text)
        if encodings["cp1252"]:
            count = counted(encodings["cp1252"], "text")
            _say_encoding(self.path, "cp1252", self.progress, f"{count} of ")


@dataclass
class _Codings:
    """Read the codes of the notes, and count what is unusual about their table."""

    table: Table
    system: CodeSystem
    notes: _Notes
    dropped: Counter[str]
    progress: Progress
    _count: Counter[str] = field(default_factory=Counter)

    def read(self) -> Iterator[Coding]:
        """Yield the codes of the table, and count them in `system.uses`.

        Raises:
            MarnError: as the table does, or if most codes are not of the system or most rows name
                no note.
        """
        for place, _, row in self.table.rows():
            written = row["id"] if self.table.columns["id"] else f"row{place}"
            kind = column_names.kind_name(row["kind"])
            if kind is None:
                raise self.table.fault(place, column_names.WRONG_KIND)
            cells = [(kind, row["code"])]
            if self.table.columns["code"] in (self.table.columns["dx"], self.table.columns["pr"]):
                cells = [("dx", row["dx"]), ("pr", row["pr"])]
            codes = [(kind, code) for kind, cell in cells for code in self._pieces(cell)]
            note = self.notes.find(written)
            if note is None:
                self.dropped["rows whose note_id is not among the notes"] += max(1, len(codes))
                self._count["homeless"] += 1
            elif not codes:  # in the table of notes, that is a note without a code
                self.dropped["rows without a code"] += self.table.name != str(self.notes.path)
            else:
                self._count["aliased"] += plain_id(written) != note
                yield from self._codings(place, note, codes)
            self._count["rows"] += 1
        self._judge()

    def _pieces(self, cell: str) -> list[str]:
        if decimal := self.system.decimal:
            self._count["commas"] += len(decimal.findall(cell))
        return pieces(cell, self.system.decimal)

    def _codings(self, place: int, note: str, codes: list[tuple[str, str]]) -> Iterator[Coding]:
        for kind, written in codes:
            self._count["codes"] += 1
            if self.system.is_number(written):
                what = "its code was read as a number and may have lost zeros; keep codes as text"
                raise self.table.fault(place, what)
            kinds = [kind] if kind else self.system.kinds(written)
            code = self.system.dotted(kinds[0], written) if kinds else None
            if code is None:
                self.dropped["rows whose code has no form of the system"] += 1
                self._count["foreign"] += 1
                self._count["of the other"] += self.system.is_other(written)
            else:
                self._count["either"] += len(kinds) > 1
                self.system.uses[kinds[0], code] += 1
                yield Coding(note, kinds[0], code)

    def _judge(self) -> None:
        """Refuse a table for other notes or of another system; report what was guessed."""
        count, path = self._count, self.table.name
        if count["rows"] and count["homeless"] == count["rows"]:
            raise MarnError(
                f"none of the {counted(count['rows'], 'row')} of {path} names a note of "
                f"{self.notes.path}; use the same ids in both"
            )
        if 2 * count["foreign"] > count["codes"]:
            other = 2 * count["of the other"] > count["foreign"]
            raise MarnError(
                f"{count['foreign']:,} of {counted(count['codes'], 'code')} of {path} have "
                f"no form of {self.system.name}; "
                + (self.system.other if other else "check the column, or give --system other")
            )
        if count["aliased"]:
            self.progress(f"ids: {count['aliased']:,} rows name their note in another spelling")
        if count["commas"]:
            self.progress(f"codes: {count['commas']:,} have a comma as decimal point")
        uses, system = self.system.uses, self.system
        unlisted = Counter({use: n for use, n in uses.items() if not system.title(*use)})
        if system.key and unlisted.total() >= max(LEAST, LOUD * uses.total()):
            examples = ", ".join(code for (_, code), _ in unlisted.most_common(3))
            self.progress(
                f"warning: {unlisted.total() / uses.total():.0%} of the codes are not in the lists "
                f"of {system.name} (such as {examples}); if a program took them for numbers, and "
                "dropped zeros, export them as text"
            )
        if count["either"]:
            self.progress(
                f"kinds: {count['either']:,} codes may be diagnosis or procedure, and count as "
                "diagnoses; give a column kind (dx or pr)"
            )


def _say_encoding(path: Path, encoding: str, progress: Progress, what: str = "") -> None:
    if encoding == "cp1252":
        progress(f"encoding: {what}{path}: not UTF-8, read as Windows-1252")
