"""Which admission goes to training, development and test.

The papers' own lists are public (CAML's `{train,dev,test}_{50,full}_hadm_ids.csv`); without them
patients are dealt out by a hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from marn.corpus import SPLITS
from marn.errors import MarnError

PROPORTIONS = {"train": 8066, "dev": 1573, "test": 1729}
"""Notes in the splits of CAML's top 50, the split that most of the papers' tables stand on."""

Splitter = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Takes {admission: subject}, gives {admission: split} for those it places."""


def by_patient(seed: int) -> Splitter:
    """Deal patients out by a hash, in the proportions 8,066 : 1,573 : 1,729.

    Where a patient goes depends on the seed and the SUBJECT_ID alone, not on who else is there;
    so the proportions hold on average. All admissions of a patient go together.

    Args:
        seed: another seed deals another split.

    Returns:
        The splitter. It raises a `MarnError` if a split would stay empty.

    References:
        The proportions are those of the papers' top-50 split (data.md 1); the rule is ours.
    """
    total = sum(PROPORTIONS.values())

    def place(subject: str) -> str:
        digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
        point = int.from_bytes(digest[:8]) * total >> 64  # uniform in [0, total)
        for name, share in PROPORTIONS.items():
            if point < share:
                return name
            point -= share
        raise AssertionError("a point beyond the total")

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        placed = {admission: place(subject) for admission, subject in admissions.items()}
        for name in PROPORTIONS:
            if name not in placed.values():
                raise MarnError(
                    f"No admission of {len(placed)} falls into split {name}. Give more notes or "
                    "another --seed."
                )
        return placed

    return split


def listed(folder: Path, which: str, dropped: Counter[str]) -> Splitter:
    """Place admissions as CAML's lists do, and leave out those that they do not name.

    Args:
        folder: holds `train_50_hadm_ids.csv` and so on, one id a line.
        which: "50" or "full".
        dropped: gets the number of listed ids that the tables lack, and of admissions that the
            lists lack.

    Returns:
        The splitter. It raises a `MarnError` if no listed admission is there.

    Raises:
        MarnError: if a list is missing, is not a list of ids, or two lists share an id.
    """
    places: dict[str, str] = {}
    for name in SPLITS:
        path = folder / f"{name}_{which}_hadm_ids.csv"
        if not path.is_file():
            raise MarnError(
                f"No {path}. Give with --splits the folder of CAML's lists "
                f"(train_{which}_hadm_ids.csv, dev_..., test_...), or leave --splits out."
            )
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
            admission = line.strip().strip('"')
            if not admission:
                continue
            if not admission.isdecimal():
                if number == 1:
                    continue  # a header, which CAML's lists lack
                raise MarnError(f"{path}, line {number}: {admission!r} is no HADM_ID.")
            if places.setdefault(admission, name) != name:
                raise MarnError(
                    f"{path}, line {number}: admission {admission} is also in the list of "
                    f"{places[admission]}. Get fresh copies of the lists."
                )

    def split(admissions: Mapping[str, str]) -> Mapping[str, str]:
        placed = {admission: places[admission] for admission in admissions if admission in places}
        if not placed:
            raise MarnError(
                f"None of the {len(places):,} admissions listed in {folder} is in the tables. "
                "The lists are for MIMIC-III; leave --splits out for other data."
            )
        dropped["listed admissions without a note and a kept code"] += len(places) - len(placed)
        dropped["admissions that the lists do not name"] += len(admissions) - len(placed)
        return placed

    return split
