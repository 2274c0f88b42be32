"""MDACE: passages of MIMIC-III's notes that professional coders marked as evidence for a code.

Reads the folder of https://github.com/3mcloud/MDACE (MIT licence), or one within it: at any depth
a JSON file for each admission, such as ``data/Inpatient/ICD-9/1.0/100197-ICD-9.json``::

    {"hadm_id": 100197, "notes": [{"note_id": 25762, "category": "Discharge summary",
     "annotations": [{"begin": 374, "end": 377, "code": "431", "code_system": "ICD-9-CM"}]}]}

``note_id`` is the ROW_ID of NOTEEVENTS, and ``begin`` and ``end`` count characters of its TEXT. A
``covered_text``, which MDACE's script adds, must have the words of that passage. Folders called
``predictions`` hold what a program marked, and are not read.

The coders coded these admissions again, in ICD-10, and ICD-9 was mapped from it. So a passage may
be evidence for a code that the admission does not have in MIMIC-III.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from data_prep import tables
from data_prep.code_systems.systems import dotted_icd9
from data_prep.prepare import Annotation, Note, Progress
from marn.corpus.text import split_words
from marn.errors import MarnError

CITATION: Final = (
    "Cheng, Jafari, Russell, Klopfer, Lu, Striner and Gormley (2023), MDACE: MIMIC Documents "
    "Annotated with Code Evidence, ACL; https://aclanthology.org/2023.acl-long.416"
)
_KINDS: Final = {"ICD-9-CM": "dx", "ICD-9-PCS": "pr"}
_SUMMARY: Final = "discharge summary"


class _Passage(BaseModel):
    begin: int
    end: int
    code: str
    code_system: str
    covered_text: str | None = None


class _Note(BaseModel):
    note_id: int
    category: str = _SUMMARY
    annotations: list[_Passage]


class _Chart(BaseModel):
    hadm_id: int
    notes: list[_Note]


class Mdace:
    """The passages of a folder of MDACE, to be located in the notes of MIMIC-III.

    Args:
        folder: the folder of MDACE, or one within it.

    Raises:
        MarnError: the folder has no files, or one of them cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        files = folder.rglob("*.json") if folder.is_dir() else ()
        paths = sorted(p for p in files if "predictions" not in p.relative_to(folder).parts)
        if not paths:
            raise MarnError(
                f"{folder} contains no annotations (NAME.json); pass the folder of MDACE"
            )
        self._given = [
            (str(chart.hadm_id), note, passage)
            for chart in map(_read, paths)
            for note in chart.notes
            for passage in note.annotations
        ]
        self._wanted = {str(note.note_id) for _, note, _ in self._given}
        self._found: dict[str, Note] = {}

    def watch(self, notes: Iterable[Note]) -> Iterator[Note]:
        """Pass notes on, and keep those that are annotated."""
        for note in notes:
            if note.key in self._wanted:
                self._found[note.key] = note
            yield note

    def passages(self, dropped: Counter[str], progress: Progress) -> Iterator[Annotation]:
        """Yield the passages of the notes that `watch` has passed on, each once.

        Args:
            dropped: gets the number of passages left out, by reason.
            progress: takes a line about how many were found.
        """
        seen: set[Annotation] = set()
        for given in self._given:
            one = self._in_note(*given)
            if isinstance(one, str):
                dropped[one] += 1
            elif one in seen:
                dropped["passages given twice"] += 1
            else:
                seen.add(one)
                yield one
        progress(
            "warning: " * (not seen)
            + f"MDACE: {len(seen):,} of {len(self._given):,} passages are in these summaries"
        )

    def _in_note(self, admission: str, note: _Note, passage: _Passage) -> Annotation | str:
        """Return a passage as an annotation of its note, or the reason why it is left out."""
        kind = _KINDS.get(passage.code_system, "")
        code = dotted_icd9(kind, passage.code) if kind else None
        found = self._found.get(str(note.note_id))
        if not kind:
            return "passages of codes of other systems than ICD-9-CM"
        if code is None:
            return "passages whose code has no form of ICD-9-CM"
        if found is None:
            is_summary = note.category.strip().casefold() == _SUMMARY
            which = "that the tables lack" if is_summary else "of other categories"
            return f"passages of notes {which}"
        if found.admission != admission:
            return "passages of notes that are another admission's"
        marked, text = passage.covered_text, found.text[passage.begin : passage.end]
        if marked is not None and split_words(marked) != split_words(text):
            return "passages that do not lie where they should"
        return Annotation(found.key, kind, code, passage.begin, passage.end, "evidence")


def _read(path: Path) -> _Chart:
    try:
        return _Chart.model_validate_json(tables.read_text(path))
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"])) or "its JSON"
        raise MarnError(
            f"{path} is not an MDACE file: {where} is missing or wrong; give --mdace the "
            "folder of MDACE, or get a fresh copy of the file"
        ) from None
