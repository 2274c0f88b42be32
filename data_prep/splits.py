"""Assign admissions to training, development and test.

The papers' own lists are public (CAML's `{train,dev,test}_{50,full}_hadm_ids.csv`), and so are the
tables of the critical review (Edin et al. 2023, columns _id and split, Feather, in `files/data` of
JoakimEdin/medical-coding-reproducibility). Without either, a hash assigns the patients.
"""

import hashlib
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_prep import column_names, tables
from data_prep.config import PrepareConfig
from data_prep.fetch import fetch
from marn.corpus import SPLITS
from marn.corpus.card import sha256
from marn.corpus.columns import ID_NAMES, alias, plain_id
from marn.corpus.loose_tables import open_table
from marn.errors import MarnError
from marn.progress import counted

PROPORTIONS = {"train": 8066, "dev": 1573, "test": 1729}
"""Notes in the splits of CAML's top 50, which most of the papers' tables use."""

LISTS_URL = "https://raw.githubusercontent.com/jamesmullenbach/caml-mimic/master/mimicdata/mimic3/"
"""URL of the lists of CAML's authors."""

_NAME = "{name}_{which}_hadm_ids.csv"

Splitter = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Maps {admission: subject} to {admission: split}, for the admissions that it places."""


def chosen(
    given: Path | None, which: str, seed: int, dropped: Counter[str]
) -> tuple[Splitter, dict[str, Any]]:
    """Return the splitter that a user chose, and what the card says about it.

    Args:
        given: folder of lists of admissions, table of admissions and their splits, or shares of
            the patients, such as "0.8,0.1,0.1"; None splits by patient in CAML's proportions.
        which: part of the names of the lists: "50" or "full" for CAML's.
        seed: seed of the split by patient.
        dropped: see `listed`.

    Raises:
        MarnError: `given` does not exist or is not three shares; or see `listed` and `in_table`.
    """
    if given is None:
        return by_patient(seed), {"split": "by patient, 8066:1573:1729"}
    if shares := _shares(str(given)):
        return by_patient(seed, shares), {"split": f"by patient, {given}"}
    if not given.exists():
        raise MarnError(
            f"{given} does not exist; give --splits the folder of the lists, a table of ids "
            "and splits, or three shares such as 0.8,0.1,0.1"
        )
    if given.is_file():
        return in_table(given, dropped), {"split": "table", "table_sha256": sha256(given)}
    sums = {name: sha256(path) for name, path in _paths(given, which).items()}
    return listed(given, which, dropped), {"split": "lists", "lists_sha256": sums}


def whole(given: Path | None, config: PrepareConfig) -> Splitter | None:
    """Return the splitter whose training notes give the vocabulary.

    Args:
        given: as `chosen` takes it.
        config: what the user chose.

    Returns:
        The splitter, or None if these are the corpus's own training notes.
    """
    if config.vocabulary == "corpus":
        return None
    return chosen(given, "full", config.seed, Counter())[0]


def _shares(text: str) -> tuple[int, ...]:
    """Return the shares that a text gives, in millionths; an empty tuple if it is not of shares."""
    if not re.fullmatch(r"[\d.]+([,:][\d.]+)+", text):
        return ()
    try:
        shares = tuple(round(float(part) * 1_000_000) for part in re.split("[,:]", text))
    except ValueError:
        shares = ()
    if len(shares) != len(SPLITS) or not shares[0]:
        raise MarnError(
            f"splits must be three shares, of which train's is above 0, but got {text}; give for "
            "example 0.8,0.1,0.1"
        )
    return shares


def by_patient(seed: int, shares: Sequence[int] = tuple(PROPORTIONS.values())) -> Splitter:
    """Assign patients by a hash, in the proportions 8,066 : 1,573 : 1,729 or others.

    The split of a patient depends only on the seed and the SUBJECT_ID, not on the other patients,
    so the proportions hold on average. All admissions of a patient stay together.

    Args:
        seed: part of what is hashed.
        shares: of train, dev and test, >= 0, in any unit.

    Returns:
        The splitter. It raises a `MarnError` if a split with a share would stay empty.

    References:
        The proportions are those of the papers' top-50 split; the rule is ours.
    """
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share]
    bounds = list(accumulate(shares))

    def place(subject: str) -> str:
        digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
        point = int.from_bytes(digest[:8]) * bounds[-1] >> 64  # uniform below the total
        return SPLITS[bisect(bounds, point)]

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        placed = {admission: place(subject) for admission, subject in admissions.items()}
        for name in wanted:
            if name not in placed.values():
                raise MarnError(
                    f"none of {counted(len(placed), 'admission')} falls into split "
                    f"{name}; give more notes, another --seed, or the splits yourself"
                )
        return placed

    return split


def listed(folder: Path, which: str, dropped: Counter[str]) -> Splitter:
    """Place admissions by lists, and leave out those that the lists do not name.

    Args:
        folder: holds `train_50_hadm_ids.csv` and so on, one id per line.
        which: part of the names of the files: "50" or "full" for CAML's.
        dropped: gets the number of ids listed twice, of listed ids that the tables lack, and of
            admissions that the lists lack.

    Returns:
        The splitter. It raises a `MarnError` if the tables have no listed admission.

    Raises:
        MarnError: if a list is missing, is not a list of ids, or two lists share an id.
    """
    places: dict[str, str] = {}
    for name, path in _paths(folder, which).items():
        for number, line in enumerate(tables.read_text(path).split("\n")):
            written = line.strip().strip('"')
            if number == 0 and written.upper() == "HADM_ID":
                continue  # a header, which CAML's lists lack
            admission = tables.identifier(path, number, written)
            if admission is None:
                continue
            if admission in places:
                dropped["ids that a list names twice"] += 1
            if places.setdefault(admission, name) != name:
                raise MarnError(
                    f"{path}, line {number + 1}: admission {admission} is also in the list of "
                    f"{places[admission]}; get fresh copies of the lists"
                )
    return _of_places(folder, places, dropped)


def in_table(path: Path, dropped: Counter[str]) -> Splitter:
    """Place admissions by a table of ids and splits, and leave out those that it does not name.

    Args:
        path: CSV, Parquet, Feather or another form that `marn.corpus.loose_tables` reads.
        dropped: as for `listed`.

    Raises:
        MarnError: naming file and row, if it cannot be read, or an id is in two splits.
    """
    places: dict[str, str] = {}
    wanted = {"id": ID_NAMES, "split": column_names.SPLIT}
    table = open_table(path, wanted, {})
    for place, _, row in table.rows():
        id_ = plain_id(row["id"])
        if not id_ or not row["split"].strip():
            dropped["rows of the table of splits without an id or a split"] += 1
            continue
        name = column_names.split_name(row["split"])
        if name is None:
            raise table.fault(place, column_names.WRONG_SPLIT)
        dropped["ids that a list names twice"] += id_ in places
        if places.setdefault(id_, name) != name:
            raise table.fault(place, "its id is also in another split; keep one of them")
    return _of_places(path, places, dropped)


def _of_places(given: Path, places: Mapping[str, str], dropped: Counter[str]) -> Splitter:
    """Return the splitter of lists of admissions, whose ids may be in another spelling."""

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        placed = {admission: places[admission] for admission in admissions if admission in places}
        if not placed:
            spelled = Counter(map(alias, places)) + Counter(map(alias, admissions))
            named = {alias(id_): name for id_, name in places.items()}
            placed = {id_: named[alias(id_)] for id_ in admissions if alias(id_) in named}
            # a spelling that two ids of one side share identifies neither
            placed = {id_: name for id_, name in placed.items() if spelled[alias(id_)] == 2}
        if not placed:
            raise MarnError(
                f"none of the {counted(len(places), 'admission')} listed in {given} is in "
                "the tables: they are of other tables (CAML's are of MIMIC-III); leave --splits out"
            )
        dropped["listed admissions without a note and a kept code"] += len(places) - len(placed)
        dropped["admissions that the lists do not name"] += len(admissions) - len(placed)
        return placed

    return split


def fetch_lists(which: str, sums: Sequence[str] = ()) -> Path:
    """Fetch CAML's lists once and return their folder.

    Args:
        which: "50" or "full".
        sums: SHA-256 sums, one of which each list must have; if empty, no sum is checked.

    Raises:
        MarnError: if a list cannot be fetched, or has another sum.
    """
    folder = Path()
    for name in SPLITS:
        file = _NAME.format(name=name, which=which)
        remedy = f"download the three lists from {LISTS_URL} yourself and pass their folder"
        path, _ = fetch(LISTS_URL + file, file, f"{remedy} with --splits", sums)
        folder = path.parent
    return folder


def _paths(folder: Path, which: str) -> dict[str, Path]:
    paths = {name: folder / _NAME.format(name=name, which=which) for name in SPLITS}
    for path in paths.values():
        if not path.is_file():
            raise MarnError(
                f"{path} does not exist; give --splits the folder of the lists "
                f"(train_{which}_hadm_ids.csv, dev_..., test_...), or leave --splits out"
            )
    return paths
