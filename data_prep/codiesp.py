"""CodiEsp: 1,000 real clinical cases with ICD-10-CM diagnoses, open, in Spanish and in English.

Reads the folder that ``codiesp.zip`` of Zenodo record 3837305 (version 4) unpacks to::

    train/trainD.tsv           case, diagnosis code
    train/trainX.tsv           case, table of origin, code, the words marked, their offsets
    train/text_files/*.txt     the cases in Spanish
    train/text_files_en/*.txt  the same by machine translation

and ``dev`` and ``test`` alike. The splits are the official ones; ``test`` may be absent. Task "icd"
holds the diagnoses, task "ccs" their CCSR categories. The offsets belong to the Spanish text, so
only a Spanish corpus has evidence. The ICD-10-PCS procedures (``trainP.tsv``) are left out.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from data_prep import icd10
from data_prep.ccs import Ccsr
from data_prep.prepare import Choices, Coding, Note, Origin, Passage, Progress, prepare
from marn.corpus import SPLITS, replacing
from marn.errors import MarnError

COMMAND: Final = "codiesp"
TEXTS: Final = {"en": "text_files_en", "es": "text_files"}
"""Folder of the texts in each language."""
CITATION: Final = (
    "Miranda-Escalada, Gonzalez-Agirre, Armengol-Estapé and Krallinger (2020), Overview of "
    "Automatic Clinical Coding: Annotations, Guidelines, and Solutions for non-English Clinical "
    "Cases at CodiEsp Track of CLEF eHealth 2020, CLEF Working Notes; "
    "https://doi.org/10.5281/zenodo.3837305"
)

# The codes are lower-case in the files. A placeholder X may end one: t81.4xx.
_CODE: Final = re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?", re.ASCII)
_DIAGNOSIS: Final = "DIAGNOSTICO"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``python -m data_prep codiesp``."""
    parser.add_argument(
        "--raw", type=Path, required=True, help="folder that holds CodiEsp's train and dev"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus to write")
    parser.add_argument(
        "--language",
        choices=sorted(TEXTS),
        default="en",
        help="en: machine translation, no evidence; es: the original, with evidence (default: en)",
    )
    parser.add_argument(
        "--min-train",
        type=int,
        default=1,
        help="keep the codes of at least so many training cases; 0 keeps all (default: 1)",
    )
    Choices.add_arguments(parser)
    parser.set_defaults(codes="full")


def run(args: argparse.Namespace, progress: Progress) -> Path:
    """Make the corpus that ``add_arguments`` describes.

    Args:
        args: The parsed options.
        progress: Takes lines about how far the work is.

    Returns:
        The folder of the corpus.

    Raises:
        MarnError: If the raw folder is not CodiEsp's, one of its files cannot be read, or no code
            is left.
    """
    if args.min_train < 0:
        raise MarnError(f"Expected --min-train to be >= 0, but got {args.min_train}.")
    if args.out.resolve() in [args.raw.resolve(), *args.raw.resolve().parents]:
        raise MarnError(f"{args.out} holds the raw files: choose another folder for --out.")
    choices = Choices.of(args)
    texts = _texts(args.raw, args.language)
    splits = sorted(set(texts.values()), key=SPLITS.index)
    missing = [split for split in SPLITS if split not in splits]
    if missing:
        progress(f"no {missing[0]} cases among the raw files: the corpus will have none")
    dropped: Counter[str] = Counter()
    codings = list(dict.fromkeys(_codings(args.raw, texts, dropped)))
    training = Counter(coding.code for coding in codings if texts[coding.admission] == "train")
    rare = {coding.code for coding in codings if training[coding.code] < args.min_train}
    kept = [coding for coding in codings if coding.code not in rare]
    dropped[f"codes of fewer than {args.min_train} training cases"] += len(rare)
    dropped["codings with such a code"] += len(codings) - len(kept)

    ccsr = Ccsr.load()
    codes = sorted({coding.code for coding in kept})
    categories = icd10.ccsr_entries({code: training[code] for code in codes})
    rolled_up = [code for code in codes if code in categories and not ccsr.has(code)]
    progress(f"CCSR: {len(rolled_up)} of {len(codes)} codes rolled up")
    with replacing(args.out) as folder:
        prepare(
            folder,
            notes=_notes(args.raw, args.language, texts),
            codings=kept,
            split=lambda cases: {case: texts[case] for case in cases},
            title=lambda kind, code: ccsr.title(code),
            category=lambda kind, code: categories.get(code),
            origin=Origin(
                name=args.out.resolve().name,
                source="CodiEsp v4, diagnoses (ICD-10-CM); "
                + ("the Spanish cases" if args.language == "es" else "machine-translated cases"),
                text="open",
                command=f"python -m data_prep {COMMAND} --raw RAW --out {args.out.name} "
                f"--language {args.language} --min-train {args.min_train} {choices.options()}",
                language=args.language,
                ccs_key="ccsr",
            ),
            choices=choices,
            passages=_passages(args.raw, texts, dropped) if args.language == "es" else None,
            dropped=dropped,
            settings={
                "licence": "CC BY 4.0",
                "citation": CITATION,
                "splits": "official" + "".join(f", {split} not given" for split in missing),
                "min_train": args.min_train,
                "rolled_up": rolled_up,
                "without_category": [code for code in codes if code not in categories],
            },
            progress=progress,
        )
    return args.out


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
                    f"case {path.stem} lies in {texts[path.stem]} and in {split}: unpack the "
                    "archive anew"
                )
            texts[path.stem] = split
    return texts


def _notes(raw: Path, language: str, texts: Mapping[str, str]) -> Iterator[Note]:
    for case, split in texts.items():
        text = _read(raw / split / TEXTS[language] / f"{case}.txt")
        yield Note(admission=case, subject=case, text=text, key=case)


def _codings(raw: Path, texts: Mapping[str, str], dropped: Counter[str]) -> Iterator[Coding]:
    """The diagnoses of the cases that have a text."""
    for split in dict.fromkeys(texts.values()):
        for case, written in _rows(raw / split / f"{split}D.tsv", 2):
            code = written.strip().upper()
            if texts.get(case) != split:
                dropped["codings of a case without a text"] += 1
            elif not _CODE.fullmatch(code):
                dropped["codings with what is no ICD-10-CM code"] += 1
            else:
                yield Coding(case, "dx", code)


def _passages(raw: Path, texts: Mapping[str, str], dropped: Counter[str]) -> Iterator[Passage]:
    """The marked passages of the diagnoses; one in several pieces gives a passage for each."""
    written: dict[str, str] = {}
    for split in dict.fromkeys(texts.values()):
        path = raw / split / f"{split}X.tsv"
        if not path.is_file():
            raise MarnError(f"{path} is missing: it holds the evidence; unpack the archive anew")
        for case, table, code, marked, offsets in _rows(path, 5):
            if table != _DIAGNOSIS:
                continue
            if texts.get(case) != split:
                dropped["passages of a case without a text"] += 1
                continue
            if case not in written:
                written[case] = _read(raw / split / TEXTS["es"] / f"{case}.txt")
            pieces = _pieces(offsets, path)
            found = " ".join(written[case][begin:end] for begin, end in pieces)
            # Seven of the 13,658 passages of train and dev differ in a mark at their ends.
            if re.findall(r"\w+", found) != re.findall(r"\w+", marked):
                dropped["passages that do not lie where they should"] += 1
                continue
            for begin, end in pieces:
                yield Passage(case, "dx", code.strip().upper(), begin, end, "evidence")


def _pieces(offsets: str, path: Path) -> list[tuple[int, int]]:
    """Read "2787 2801;2810 2823": characters of the text, the end exclusive; empty ones go."""
    try:
        pairs = [tuple(map(int, piece.split())) for piece in offsets.split(";")]
        return [(begin, end) for begin, end in pairs if begin != end]
    except ValueError:
        raise MarnError(f"{path}: cannot read the offsets {offsets!r}") from None


def _rows(path: Path, width: int) -> Iterator[list[str]]:
    """The rows of a file of tab-separated columns without a header; blank lines are none."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != width:
            raise MarnError(
                f"{path}, line {number}: {len(cells)} columns instead of {width}: unpack the "
                "archive anew"
            )
        yield cells


def _read(path: Path) -> str:
    """Read a file to the character: line ends stay, since offsets count them."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise MarnError(f"{path} is not UTF-8: unpack the archive anew") from None
