"""Prepare CANTEMIST: 1,301 Spanish tumour cases, ICD-O-3.

The cases are open. Reads the folder that ``cantemist.zip`` of Zenodo record 3978041 unpacks to::

    train-set/cantemist-norm/NAME.txt                the cases
    train-set/cantemist-norm/NAME.ann                the words marked, their offsets and codes
    train-set/cantemist-coding/train-coding.tsv      case, code

and ``dev-set1`` and ``dev-set2``, which together are dev, and ``test-set`` alike. The splits are
the official ones. ICD-O has neither CCS nor CCSR categories, so the corpus has the one task "icd",
whose codes are written as in the tables (8140/31, and 8140/3/H for a suspicion). They get titles
from ``--titles``, a table with a code and a title in each row, such as that of eCIE-O-3.1.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Strict

from data_prep import column_names, splits, tables
from data_prep.code_systems.systems import CodeSystem
from data_prep.code_systems.title_lists import read_titles
from data_prep.config import CasesConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.prepare import Annotation, Coding, Note, Origin, Progress, Records, prepare
from data_prep.sources.codiesp import pieces_of
from marn.corpus import SPLITS
from marn.corpus.columns import ID_NAMES
from marn.corpus.loose_tables import open_table
from marn.errors import MarnError
from marn.settings import Location, settings

CITATION: Final = (
    "Miranda-Escalada, Farré and Krallinger (2020), Named Entity Recognition, Concept "
    "Normalization and Clinical Coding: Overview of the Cantemist Track for Cancer Text Mining in "
    "Spanish, IberLEF; https://doi.org/10.5281/zenodo.3978041"
)
_MARKED: Final = re.compile(r"^T(\d+)\tMORFOLOGIA_NEOPLASIA ([\d ;]+)\t(.*)$", re.MULTILINE)
_CODE: Final = re.compile(r"^#\d+\tAnnotatorNotes T(\d+)\t(\S+)", re.MULTILINE)


@settings
class Config(CasesConfig):
    """Set the options of `python -m data_prep cantemist`."""

    raw: Location
    """Folder that holds CANTEMIST's train-set, dev-set1, dev-set2 and test-set."""
    titles: Annotated[tuple[Location, ...], Strict(False)] = ()
    """Table of code titles; repeat the option for several."""
    codes: str = "full"
    """How many of the most frequent codes to keep, or "full" for all."""


def run(config: Config, progress: Progress) -> Path:
    """Make the corpus that the settings describe.

    Raises:
        MarnError: a raw file is missing or cannot be read, or no code is left.
    """
    check_out(config.out, config.raw, *config.titles)
    dropped: Counter[str] = Counter()
    system = CodeSystem()
    read_titles(config.titles, system, dropped)
    cases = _cases(config.raw)
    places = {path.stem: split for path, split in cases.items()}

    def official(admissions: Mapping[str, str]) -> Mapping[str, str]:
        return {case: places[case] for case in admissions}

    split, recorded = splits.chosen(config.splits, config.codes, config.seed, dropped)
    if config.splits is None:
        split, recorded = official, {"split": "official"}
    with replacing(config.out) as folder:
        prepare(
            folder,
            Records(
                notes=(Note(p.stem, p.stem, tables.read_text(p), key=p.stem) for p in cases),
                codings=_codings(config.raw),
                annotations=_passages(cases, dropped),
                title=system.title,
                category=None,
                split=split,
                whole=split if config.vocabulary == "full" else None,
            ),
            origin=Origin(
                source="CANTEMIST, Spanish cases with ICD-O-3 morphology codes",
                text="open",
                command="python -m data_prep cantemist --raw RAW "
                + "--titles TITLES " * len(config.titles)
                + f"--out data/{config.name} {config.options()}",
                language="es",
            ),
            choices=config,
            dropped=dropped,
            settings=recorded | {"licence": "CC BY 4.0", "citation": CITATION},
            progress=progress,
        )
    return config.out


def _cases(raw: Path) -> dict[Path, str]:
    """Return the split of the text of every case."""
    cases: dict[Path, str] = {}
    for split in SPLITS:
        found = sorted(raw.glob(f"{split}-set*/cantemist-norm/*.txt"))
        if not found and split != "test":
            raise MarnError(
                f"{raw} is not CANTEMIST: {split}-set*/cantemist-norm/NAME.txt is missing; give "
                "the folder that cantemist.zip of https://doi.org/10.5281/zenodo.3978041 unpacks to"
            )
        cases |= dict.fromkeys(found, split)
    (case, count), *_ = Counter(path.stem for path in cases).most_common(1)
    if count > 1:
        raise MarnError(f"case {case} is {count} times in {raw}; unpack the archive again")
    return cases


def _codings(raw: Path) -> Iterator[Coding]:
    wanted = {"id": ID_NAMES, "code": column_names.CODES}
    for path in sorted(raw.glob("*-set*/cantemist-coding/*-coding.tsv")):
        for _, _, row in open_table(path, wanted, {}).rows():
            yield Coding(row["id"].strip(), "dx", row["code"].strip())


def _passages(texts: Iterable[Path], dropped: Counter[str]) -> Iterator[Annotation]:
    """Yield the marked passages; one in several pieces gives a passage for each."""
    for path in texts:
        beside = path.with_suffix(".ann")
        text, written = tables.read_text(path), tables.read_text(beside)
        codes = dict(_CODE.findall(written))
        for number, offsets, marked in _MARKED.findall(written):
            for begin, end in pieces_of(text, offsets, marked, beside, dropped):
                yield Annotation(path.stem, "dx", codes.get(number, ""), begin, end, "evidence")
