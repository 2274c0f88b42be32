"""Prepare CodiEsp: 1,000 clinical cases with ICD-10-CM codes.

The cases are open, in Spanish, and in English by machine translation. Reads the folder that
``codiesp.zip`` of Zenodo record 3837305 (version 4) unpacks to::

    train/trainD.tsv           case, diagnosis code
    train/trainX.tsv           case, table of origin, code, the words marked, their offsets
    train/text_files/*.txt     the cases in Spanish
    train/text_files_en/*.txt  the same by machine translation

and ``dev`` and ``test`` alike. The splits are the official ones; ``test`` may be absent. Task "icd"
holds the diagnoses, task "ccs" their CCSR categories. The offsets belong to the Spanish text, so
only a Spanish corpus has evidence. The ICD-10-PCS procedures (``trainP.tsv``) are left out.

A Spanish corpus may take the 176,294 coded abstracts of Zenodo record 3606662 besides, all of them
as training notes (``--additional``). Their codes were not given by people: they follow from the
MeSH terms of the abstracts. They are ``{"articles": [{"title", "pmid", "abstractText", "Mesh":
[{"Code", "Word", "CIE": [code, ...]}]}]}`` in one JSON file.
"""

import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import NonNegativeInt, Strict

from data_prep import coded_abstracts, splits, tables
from data_prep.code_systems import icd10
from data_prep.code_systems.ccs import Ccsr
from data_prep.code_systems.systems import Icd10
from data_prep.config import CasesConfig, check_out
from data_prep.corpus_writer import replacing
from data_prep.fetch import fetch
from data_prep.prepare import Annotation, Coding, Note, Origin, Progress, Records, prepare
from marn.corpus import SPLITS
from marn.corpus.loose_tables import readable
from marn.errors import MarnError
from marn.settings import Location, settings

TEXTS: Final = {"en": "text_files_en", "es": "text_files"}
"""Folder of the texts in each language."""
CITATION: Final = (
    "Miranda-Escalada, Gonzalez-Agirre, Armengol-Estapé and Krallinger (2020), Overview of "
    "Automatic Clinical Coding: Annotations, Guidelines, and Solutions for non-English Clinical "
    "Cases at CodiEsp Track of CLEF eHealth 2020, CLEF Working Notes; "
    "https://doi.org/10.5281/zenodo.3837305"
)
_STATED: Final = {"licence": "CC BY 4.0", "citation": CITATION}

ARCHIVE_URL: Final = "https://zenodo.org/records/3837305/files/codiesp.zip"

_DIAGNOSIS: Final = "DIAGNOSTICO"


@settings
class Config(CasesConfig):
    """Set the options of `python -m data_prep codiesp`."""

    raw: Location
    """Folder that holds CodiEsp's train and dev, or "fetch" to download the archive once."""
    additional: Location | None = None
    """With --language es: the coded abstracts (JSON, or the zip that holds it), or "fetch" to
    download them once. They become training notes."""
    sha256: Annotated[tuple[str, ...], Strict(False)] = ()
    """A SHA-256 sum that a downloaded file may have; repeat the option for several. Without it any
    file is taken, and its sum is recorded in the card."""
    language: Literal["en", "es"] = "en"
    """"en": machine translation, without evidence; "es": the original, with evidence."""
    min_train: NonNegativeInt = 1
    """Training cases that a code must have to be kept; 0 keeps all codes."""
    codes: str = "full"
    """How many of the most frequent codes to keep, or "full" for all."""
    halve_dev: bool = False
    """Deal the coded dev cases in turn, by name, into dev and test, and leave out the official
    test cases: one half of dev chooses, the other is scored."""


def run(config: Config, progress: Progress) -> Path:
    """Make the corpus that the settings describe.

    Raises:
        MarnError: a raw file is missing or cannot be read, or no code is left.
    """
    _check(config)
    recorded: dict[str, Any] = {**_STATED, "min_train": config.min_train}
    raw = config.raw
    if str(raw) == "fetch":
        raw, recorded["archive_sha256"] = fetch_cases(config.sha256)
    texts = _texts(raw, config.language)
    if config.halve_dev:
        texts = {case: split for case, split in texts.items() if split != "test"}
    missing = [split for split in SPLITS if split not in texts.values()]
    if missing and not config.halve_dev:
        progress(f"no {missing[0]} cases among the raw files: the corpus will have none")
    dropped: Counter[str] = Counter()
    codings = list(dict.fromkeys(_codings(raw, texts, dropped)))
    notes = _notes(raw, config.language, texts)
    places: Mapping[str, str] = texts
    if config.splits is not None:
        split, other = splits.chosen(config.splits, config.codes, config.seed, dropped)
        places = split({case: case for case in texts})
        codings = [coding for coding in codings if coding.admission in places]
        recorded |= other
    if config.additional is not None:
        path = coded_abstracts.file_of(config.additional, config.sha256, recorded)
        found = coded_abstracts.read_codings(path, dropped)
        codings += found
        places = {**places} | {coding.admission: "train" for coding in found}
        notes = chain(notes, coded_abstracts.read_notes(path, places))
        recorded["additional_notes"] = len(places) - len(texts)
        progress(f"additional abstracts: {len(places) - len(texts):,} with a code")
    training = Counter(coding.code for coding in codings if places[coding.admission] == "train")
    kept = _without_rare(codings, training, config.min_train, dropped)
    system = Icd10()
    system.uses.update({("dx", code): training[code] for code in sorted({c.code for c in kept})})
    recorded |= {"splits": _named_splits(config, missing), **_categories(system, progress)}
    placed = partial(_placed, places, config.halve_dev)
    with replacing(config.out) as folder:
        prepare(
            folder,
            Records(
                notes=notes,
                codings=kept,
                annotations=_passages(raw, texts, dropped) if config.language == "es" else None,
                title=system.title,
                category=system.category,
                split=placed,
                whole=placed if config.vocabulary == "full" else None,
            ),
            origin=_origin(config),
            choices=config,
            dropped=dropped,
            settings=recorded,
            progress=progress,
        )
    return config.out


def _named_splits(config: Config, missing: Iterable[str]) -> str:
    if config.splits is not None:
        return "other"
    if config.halve_dev:
        return "official, half of dev as test"
    return "official" + "".join(f", {name} not given" for name in missing)


def _placed(places: Mapping[str, str], halve_dev: bool, cases: Iterable[str]) -> dict[str, str]:
    """Return the split of each case; if dev is halved, every second of its cases is for testing."""
    found = {case: places[case] for case in cases if case in places}
    if halve_dev:
        found |= dict.fromkeys(sorted(c for c in found if found[c] == "dev")[1::2], "test")
    return found


def _check(config: Config) -> None:
    """Refuse settings that do not go together."""
    if config.additional is not None and config.language != "es":
        raise MarnError("--additional needs --language es; the abstracts are Spanish")
    if config.halve_dev and config.splits is not None:
        raise MarnError("--halve-dev halves the official dev cases; leave out --splits")
    check_out(config.out, config.raw)
    if config.sha256 and "fetch" not in (str(config.raw), str(config.additional)):
        raise MarnError("--sha256 checks downloaded files; give fetch for one, or leave it out")


def _origin(config: Config) -> Origin:
    """Return what the card says about the source."""
    cases = "the Spanish cases" if config.language == "es" else "machine-translated cases"
    additional = config.additional is not None
    return Origin(
        source=f"CodiEsp v4, diagnoses (ICD-10-CM); {cases}"
        + ", with the additional abstracts" * additional,
        text="open",
        command=f"python -m data_prep codiesp --raw RAW --out {config.out.name} "
        f"--language {config.language}{' --additional ADDITIONAL' * additional} "
        f"--min-train {config.min_train}{' --halve-dev' * config.halve_dev} {config.options()}",
        language=config.language,
        ccs_key="ccsr",
    )


def _without_rare(
    codings: Sequence[Coding], training: Counter[str], least: int, dropped: Counter[str]
) -> list[Coding]:
    """Leave out the codes of fewer training cases than `least`."""
    rare = {coding.code for coding in codings if training[coding.code] < least}
    kept = [coding for coding in codings if coding.code not in rare]
    dropped[f"codes of fewer than {least} training cases"] += len(rare)
    dropped["codings with such a code"] += len(codings) - len(kept)
    return kept


def _categories(system: Icd10, progress: Progress) -> dict[str, list[str]]:
    """Return what the card says of the categories of the codes in use."""
    codes = [code for _, code in system.uses]
    without = [code for code in codes if system.category("dx", code) is None]
    rolled_up = [code for code in codes if code not in without and not Ccsr.load().has(code)]
    progress(f"CCSR: {len(rolled_up)} of {len(codes)} codes rolled up")
    return {"rolled_up": rolled_up, "without_category": without}


def fetch_cases(sums: Sequence[str] = ()) -> tuple[Path, str]:
    """Fetch CodiEsp's archive once, unpack it, and return its folder and its SHA-256.

    Args:
        sums: SHA-256 sums of which the archive must have one; none compares nothing.

    Raises:
        MarnError: if it cannot be fetched or unpacked, has another sum, or holds no CodiEsp.
    """
    remedy = "download it yourself, unpack it and pass its folder with --raw"
    path, found = fetch(ARCHIVE_URL, "codiesp.zip", remedy, sums)
    unpacked = path.with_suffix("")
    if not unpacked.is_dir():
        with (
            tempfile.TemporaryDirectory(dir=path.parent) as aside,
            readable(path),
            zipfile.ZipFile(path) as archive,
        ):
            archive.extractall(Path(aside, "codiesp"))
            Path(aside, "codiesp").rename(unpacked)
    homes = [home.parent.parent for home in unpacked.glob("**/train/trainD.tsv")]
    if len(homes) != 1:
        raise MarnError(f"{path} does not contain exactly one CodiEsp; remove it to fetch it again")
    return homes[0], found


def _texts(raw: Path, language: str) -> dict[str, str]:
    """The split of every case that has a text, in the order of the splits and of the names."""
    remedy = (
        "give the folder that holds train and dev (unpack codiesp.zip of "
        "https://doi.org/10.5281/zenodo.3837305)"
    )
    texts: dict[str, str] = {}
    for split in SPLITS:
        if split == "test" and not (raw / split).is_dir():
            continue
        for needed in (f"{split}/{split}D.tsv", f"{split}/{TEXTS[language]}"):
            if not (raw / needed).exists():
                raise MarnError(f"{raw} is not CodiEsp: {needed} is missing; {remedy}")
        for path in sorted((raw / split / TEXTS[language]).glob("*.txt")):
            if path.stem in texts:
                raise MarnError(
                    f"case {path.stem} is both in {texts[path.stem]} and in {split}; unpack the "
                    "archive again"
                )
            texts[path.stem] = split
    return texts


def _notes(raw: Path, language: str, texts: Mapping[str, str]) -> Iterator[Note]:
    for case, split in texts.items():
        text = tables.read_text(raw / split / TEXTS[language] / f"{case}.txt")
        yield Note(admission=case, subject=case, text=text, key=case)


def _codings(raw: Path, texts: Mapping[str, str], dropped: Counter[str]) -> Iterator[Coding]:
    """The diagnoses of the cases that have a text."""
    for split in dict.fromkeys(texts.values()):
        for case, written in _rows(raw / split / f"{split}D.tsv", 2):
            code = icd10.dotted("dx", written)  # in lower case in the files
            if texts.get(case) != split:
                dropped["codings of a case without a text"] += 1
            elif code is None:
                dropped["codings whose code is not ICD-10-CM"] += 1
            else:
                yield Coding(case, "dx", code)


def _passages(raw: Path, texts: Mapping[str, str], dropped: Counter[str]) -> Iterator[Annotation]:
    """The marked passages of the diagnoses; one in several pieces gives a passage for each."""
    written: dict[str, str] = {}
    for split in dict.fromkeys(texts.values()):
        path = raw / split / f"{split}X.tsv"
        if not path.is_file():
            raise MarnError(f"{path} is missing: it holds the evidence; unpack the archive again")
        for case, table, code, marked, offsets in _rows(path, 5):
            if table != _DIAGNOSIS:
                continue
            if texts.get(case) != split:
                dropped["passages of a case without a text"] += 1
                continue
            if case not in written:
                written[case] = tables.read_text(raw / split / TEXTS["es"] / f"{case}.txt")
            whole = icd10.dotted("dx", code) or ""
            for begin, end in pieces_of(written[case], offsets, marked, path, dropped):
                yield Annotation(case, "dx", whole, begin, end, "evidence")


def pieces_of(
    text: str, offsets: str, marked: str, path: Path, dropped: Counter[str]
) -> list[tuple[int, int]]:
    """Read where the pieces of a passage are, "2787 2801;2810 2823", the end exclusive.

    Args:
        text: of the note.
        offsets: characters of the text; empty pieces go.
        marked: the words of the passage. If they are not there, the passage has no pieces.
        path: of the file, for the error.
        dropped: gets the number of such passages.

    Raises:
        MarnError: the offsets are not numbers.
    """
    try:
        pairs = [tuple(map(int, piece.split())) for piece in offsets.split(";")]
        pieces = [(begin, end) for begin, end in pairs if begin != end]
    except ValueError:
        raise MarnError(f"{path}: cannot read the offsets {offsets!r}") from None
    found = " ".join(text[begin:end] for begin, end in pieces)
    # Seven of the 13,658 passages of CodiEsp's train and dev differ in a mark at their ends.
    if re.findall(r"\w+", found) != re.findall(r"\w+", marked):
        dropped["passages that do not lie where they should"] += 1
        return []
    return pieces


def _rows(path: Path, width: int) -> Iterator[list[str]]:
    """The rows of a file of tab-separated columns without a header; blank lines are none."""
    for number, line in enumerate(tables.read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != width:
            raise MarnError(
                f"{path}, line {number}: {len(cells)} columns instead of {width}; unpack the "
                "archive again"
            )
        yield cells
