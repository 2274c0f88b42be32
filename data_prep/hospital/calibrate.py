"""Holds a hospital against published counts: measures its raw tables, and refits `head.csv`.

`python -m data_prep.hospital.calibrate` rewrites the column `base` of `head.csv` after a change of
the rules: log-odds under which the head comes as often as published. Only descriptive statistics
of MIMIC-III are aimed at, never the score of a system.
"""

import csv
import gzip
import io
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import log
from pathlib import Path

from data_prep.hospital import code_catalogue as worlds
from data_prep.hospital.patients import patient
from data_prep.hospital.presets import PRESETS
from marn.corpus.text import split_words

HEAD = Path(__file__).with_name("head.csv")
logger = logging.getLogger(__name__)


@dataclass
class Measures:
    """What the raw tables of a hospital hold.

    Attributes:
        lengths: words of each admission that has a discharge summary, its addenda included.
        codes: codes of each of these admissions that has one at least.
        frequency: (kind, code without a dot) → admissions with a summary that have it.
        patients: (kind, code without a dot) → patients, with a summary or not.
        growth: (words read, types met) after 1,000 notes, 2,000 notes, 4,000 notes … and all.
        types: different words that are not numbers.
        kept: types that stand in 3 notes or more.
        spans: length of an asserted mention in characters → how many.
        mentioned: pairs of admission and code with an asserted mention.
        roles: role → mentions.
    """

    lengths: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    frequency: Counter[worlds.Key] = field(default_factory=Counter)
    patients: Counter[worlds.Key] = field(default_factory=Counter)
    growth: list[tuple[int, int]] = field(default_factory=list)
    types: int = 0
    kept: int = 0
    spans: Counter[int] = field(default_factory=Counter)
    mentioned: int = 0
    roles: Counter[str] = field(default_factory=Counter)

    @property
    def median_span(self) -> int:
        """Median length of an asserted mention, in characters."""
        left = sum(self.spans.values()) / 2
        for length in sorted(self.spans):
            left -= self.spans[length]
            if left <= 0:
                return length
        return 0


def _rows(raw: Path, name: str) -> Iterator[dict[str, str]]:
    path = raw / f"{name}.csv"
    with (
        path.open(encoding="utf-8", newline="")
        if path.exists()
        else io.TextIOWrapper(gzip.open(f"{path}.gz"), encoding="utf-8", newline="")
    ) as file:
        yield from csv.DictReader(file)


def measure(raw: Path) -> Measures:
    """Reads the raw tables of a hospital once; memory does not grow with the notes.

    Args:
        raw: folder of the tables, `.csv` or `.csv.gz`.
    """
    found = Measures()
    words: dict[str, int] = {}
    lengths: dict[str, int] = {}
    total, stride = 0, 1000
    for number, row in enumerate(
        (row for row in _rows(raw, "NOTEEVENTS") if row["CATEGORY"] == "Discharge summary"), 1
    ):
        tokens = [word for word in split_words(row["TEXT"]) if not word.isnumeric()]
        total += len(tokens)
        lengths[row["HADM_ID"]] = lengths.get(row["HADM_ID"], 0) + len(tokens)
        for word in set(tokens):
            words[word] = words.get(word, 0) + 1
        if number == stride:
            found.growth.append((total, len(words)))
            stride *= 2
    found.growth.append((total, len(words)))
    found.types, found.kept = len(words), sum(notes >= 3 for notes in words.values())
    found.lengths = list(lengths.values())
    held: Counter[str] = Counter()
    for kind, name in (("dx", "DIAGNOSES_ICD"), ("pr", "PROCEDURES_ICD")):
        of_patient: set[str] = set()
        subject = ""
        for row in _rows(raw, name):
            if row["SUBJECT_ID"] != subject:  # the rows of a patient stand together
                subject, of_patient = row["SUBJECT_ID"], set()
            code = row["ICD9_CODE"]
            if not code:
                continue
            if code not in of_patient:
                of_patient.add(code)
                found.patients[kind, code] += 1
            if row["HADM_ID"] in lengths:
                found.frequency[kind, code] += 1
                held[row["HADM_ID"]] += 1
    found.codes = list(held.values())
    stay = ""
    mentioned: set[worlds.Key] = set()
    for row in _rows(raw, "EVIDENCE"):
        found.roles[row["ROLE"]] += 1
        if row["HADM_ID"] != stay:
            found.mentioned += len(mentioned)
            stay, mentioned = row["HADM_ID"], set()
        if row["ROLE"] == "evidence":
            found.spans[int(row["END"]) - int(row["BEGIN"])] += 1
            mentioned.add((row["KIND"], row["ICD9_CODE"]))
    found.mentioned += len(mentioned)
    return found


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 0.97)
    return log(share / (1 - share))


def simulated_shares(patients: int, seed: int) -> dict[worlds.Key, float]:
    """Share of admissions that have each code, among simulated patients.

    Args:
        patients: how many.
        seed: of the patients.
    """
    codes = worlds.world(PRESETS["teaching"])
    counts: Counter[worlds.Key] = Counter()
    stays = 0
    for index in range(patients):
        for stay in patient(seed, index, codes).admissions:
            stays += 1
            counts.update(stay.coded())
    return {key: count / stays for key, count in counts.items()}


def corrected(
    rows: list[dict[str, str]], shares: dict[worlds.Key, float]
) -> tuple[list[dict[str, str]], float]:
    """Moves every base by 0.6 of the difference of the log-odds.

    Args:
        rows: of `head.csv`.
        shares: simulated, by kind and code.

    Returns:
        The rows with new bases, and the largest difference to the published shares.
    """
    moved, worst = [], 0.0
    for row in rows:
        goal, share = float(row["rate"]) / 100, shares.get((row["kind"], row["code"]), 0.0)
        worst = max(worst, abs(share - goal))
        base = float(row["base"]) + 0.6 * (_logit(goal) - _logit(share))
        moved.append({**row, "base": f"{base:.2f}"})
    return moved, worst


def calibrate(rounds: int = 8, patients: int = 5000, seed: int = 77) -> float:
    """Refits `head.csv` in place.

    Args:
        rounds: of simulation and correction.
        patients: a round.
        seed: of the simulated patients, apart from those of the hospitals.

    Returns:
        The largest difference between a simulated and the published share, in the last round.
    """
    worst = 0.0
    for _ in range(rounds):
        worlds.every_code.cache_clear()
        worlds.build_world.cache_clear()
        with HEAD.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows, worst = corrected(rows, simulated_shares(patients, seed))
        with HEAD.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        logger.info("largest difference %.4f", worst)
    return worst


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    calibrate()
