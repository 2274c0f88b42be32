"""Audit a prepared corpus."""

from collections import Counter
from pathlib import Path

import numpy as np

from data_prep import tables
from data_prep.audit.findings import Codes, Finding, collisions, finding
from data_prep.audit.repeats import NEAR, SHINGLE, repeats
from data_prep.code_systems.ccs import KEY_STYLES
from data_prep.code_systems.systems import dotted_icd9, known
from marn.corpus import SPLITS, Corpus
from marn.corpus.codes import undotted
from marn.errors import MarnError
from marn.privacy import MINIMUM_CELL


def audit(corpus: Corpus, split_ids: Path | None = None) -> list[Finding]:
    """Audit a prepared corpus.

    Args:
        corpus: with task "icd". What depends on other tasks or on ICD-9-CM is left out for a
            corpus without them.
        split_ids: folder of CAML's lists of admissions, to compare the splits with.

    Raises:
        MarnError: if a list is missing.
    """
    total = np.sum([corpus[split].frequency("icd") for split in corpus.splits], axis=0)
    pairs = [(entry.kind, entry.code) for entry in corpus.codes["icd"]]
    codes = Codes(dict(zip(pairs, total.tolist(), strict=True)), corpus.is_open)
    found = [*_shapes(codes), codes.top50()] if codes.is_icd9 else []
    found += _categories(corpus, codes) if "ccs" in corpus.tasks else []
    found += [*_splits(corpus, codes), *_people(corpus), *_notes(corpus), *_one_off(corpus)]
    return found if split_ids is None else [*found, *_lists(corpus, split_ids)]


def _shapes(codes: Codes) -> list[Finding]:
    """Check how the codes are written."""
    pairs = list(codes.frequency)
    procedures = [pair for pair in pairs if pair[0] == "pr"]
    begin = [pair for pair in procedures if pair[1].startswith("0")]
    lost = [
        (kind, code)
        for kind, code in pairs
        if code not in known(kind)
        and any(dotted_icd9(kind, zeros + undotted(code)) in known(kind) for zeros in ("0", "00"))
    ]
    stubs = [pair for pair in pairs if not pair[1] or pair[1].endswith(".")]
    shortened = [
        (kind, code)
        for kind, code in pairs
        if "." in code and code.endswith("0") and (kind, code[:-1]) in codes.frequency
    ]
    written = Counter(undotted(code) for _, code in pairs)
    alike = [pair for pair in pairs if written[undotted(pair[1])] > 1]
    return [
        codes.finding("procedure codes that begin with 0", begin, procedures),
        codes.finding("lost leading zeros", lost),
        codes.finding("stub codes", stubs),
        codes.finding("codes that another of these is written like", alike),
        codes.finding("labels that differ only in a zero at the end", shortened),
        codes.both_kinds(),
        codes.unknown(),
    ]


def _categories(corpus: Corpus, codes: Codes) -> list[Finding]:
    pairs = list(codes.frequency)
    without = [pair for pair, above in zip(pairs, corpus.parent, strict=True) if above < 0]
    found = [codes.unmapped(pairs, without)]
    if corpus.card["ccs_key"] in KEY_STYLES:  # CCS numbers; CCSR has none
        numbers: dict[str, list[int]] = {"dx": [], "pr": []}
        for entry in corpus.codes["ccs"]:
            for kind in entry.kind.split("+"):
                numbers[kind].append(int(entry.code.split(":")[-1]))
        found.append(collisions(numbers))
    return found


def _splits(corpus: Corpus, codes: Codes) -> list[Finding]:
    pairs = list(codes.frequency)
    present = {
        split: Codes(
            dict(zip(pairs, corpus[split].frequency("icd").tolist(), strict=True)), codes.is_open
        )
        for split in corpus.splits
    }
    found = []
    for split, here in present.items():
        absent = [pair for pair, count in here.frequency.items() if count == 0]
        name = "codes absent from train" if split == "train" else "codes absent from {split}"
        found.append(codes.finding(name, absent, split=split))
    learned = present.pop("train").frequency
    for split, here in present.items():
        used = [pair for pair, count in here.frequency.items() if count]
        new = [pair for pair in used if not learned[pair]]
        taught = {"codings": here.codings(new), "all": here.codings(pairs)}
        name = "codes of {split} unseen in train"
        found.append(finding(name, len(new), len(used), codes.examples(new), split=split, **taught))
    return found


def _people(corpus: Corpus) -> list[Finding]:
    patients = Counter(
        subject for split in corpus.splits for subject in set(corpus[split].subjects.tolist())
    )
    admissions = [id_ for split in corpus.splits for id_ in corpus[split].ids.tolist()]
    shared = sum(splits > 1 for splits in patients.values())
    twice = len(admissions) - len(set(admissions))
    return [
        finding("patients in several splits", shared, len(patients)),
        finding("duplicate admissions", twice, len(admissions)),
    ]


def _notes(corpus: Corpus) -> list[Finding]:
    parts = [corpus[split] for split in corpus.splits]
    notes = [part.note_tokens(note) for part in parts for note in range(len(part))]
    total, trained = len(notes), len(corpus["train"])  # train comes first
    copies, near = repeats(notes)
    learned = [(first[trained:] >= 0) & (first[trained:] < trained) for first in (copies, near)]
    coded = sum(len(p.code_indices("icd", note)) > 0 for p in parts for note in range(len(p)))
    uncoded = int(corpus.card["dropped"].get("admissions with a note and without a code", 0))
    others = total - trained
    rows = (
        ("empty notes", sum(len(note) == 0 for note in notes), total),
        ("notes that repeat an earlier one word for word", (copies >= 0).sum(), total),
        ("dev and test notes that repeat a training note word for word", learned[0].sum(), others),
        ("near duplicates of an earlier note", (near >= 0).sum(), total),
        ("dev and test notes that nearly repeat a training note", learned[1].sum(), others),
        ("notes without codes", total - coded, total),
        ("admissions left out because they have no code", uncoded, total + uncoded),
    )
    return [
        finding(name, int(count), of, near=f"{NEAR:.0%}", shingle=SHINGLE)
        for name, count, of in rows
    ]


def _one_off(corpus: Corpus) -> list[Finding]:
    """Report both conventions for counts whose published values differ by one."""
    sizes = {split: len(corpus[split]) for split in corpus.splits}
    total, codes = sum(sizes.values()), corpus.tasks["icd"]
    codings = sum(int(corpus[split].frequency("icd").sum()) for split in corpus.splits)
    repeated = int(corpus.card["dropped"].get("codes repeated within an admission", 0))
    least = 0 if corpus.is_open else MINIMUM_CELL
    shown = [f"{split} {n:,} or {n + 1:,}" for split, n in sizes.items() if n >= least]
    return [
        finding("notes, and lines of their lists with a header", total, total + len(sizes), shown),
        finding("codes, and labels with an empty one", codes, codes + 1),
        finding("codes repeated within an admission", repeated, codings + repeated),
    ]


def _lists(corpus: Corpus, folder: Path) -> list[Finding]:
    """Compare the splits with CAML's lists of admissions."""
    which = "50" if corpus.tasks["icd"] == 50 else "full"
    places: dict[str, str] = {}
    lines = twice = 0
    for split in SPLITS:
        path = folder / f"{split}_{which}_hadm_ids.csv"
        if not path.is_file():
            raise MarnError(f"cannot find {path}; pass the folder of CAML's lists with --split-ids")
        for line in tables.read_text(path).split("\n"):
            admission = line.strip().strip('"')
            lines += bool(admission)
            if admission.isdecimal():
                twice += admission in places
                places.setdefault(admission, split)
    mine = {id_: split for split in corpus.splits for id_ in corpus[split].ids.tolist()}
    listed = len(places) + twice
    moved = sum(places.get(id_, split) != split for id_, split in mine.items())
    return [
        finding("lines of the lists that are admissions", listed, lines),
        finding("admissions that are listed more than once", twice, listed),
        finding("listed admissions that the corpus lacks", len(places.keys() - mine), len(places)),
        finding("notes that the lists do not name", len(mine.keys() - places), len(mine)),
        finding("notes in another split than listed", moved, len(mine)),
    ]
