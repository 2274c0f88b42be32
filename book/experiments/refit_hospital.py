"""Refit how often the fifty most common codes of the hospital occur.

    python book/experiments/refit_hospital.py

This rewrites the column `base` of `data_prep/hospital/head.csv` so that the codes are as frequent
as published. It is needed after a change of the hospital's rules. Only these shares are fitted,
never the score of a system.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from math import log

from data_prep.hospital import PRESETS
from data_prep.hospital.code_catalogue import code_catalogue
from data_prep.hospital.codes import Key, head_and_tail
from data_prep.hospital.data_files import FOLDER
from data_prep.hospital.patients import patient
from data_prep.tables import shipped

HEAD = FOLDER / "head.csv"


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 0.97)
    return log(share / (1 - share))


def simulated_shares(patients: int, seed: int) -> dict[Key, float]:
    """Return the share of admissions that have each code, among simulated patients.

    Args:
        patients: number of patients.
        seed: seed of the patients.
    """
    catalogue = code_catalogue(PRESETS["teaching"])
    people = (patient(seed, index, catalogue) for index in range(patients))
    stays = [stay.coded() for person in people for stay in person.admissions]
    counts = Counter(key for keys in stays for key in keys)
    return {key: count / len(stays) for key, count in counts.items()}


def corrected(
    head: list[dict[str, str]], shares: dict[Key, float]
) -> tuple[list[dict[str, str]], float]:
    """Move every base by 0.6 of the difference of the log-odds.

    Args:
        head: rows of `head.csv`.
        shares: simulated, by kind and code.

    Returns:
        The rows with new bases, and the largest difference from the published shares.
    """
    moved, worst = [], 0.0
    for row in head:
        goal, share = float(row["rate"]) / 100, shares.get((row["kind"], row["code"]), 0.0)
        worst = max(worst, abs(share - goal))
        base = float(row["base"]) + 0.6 * (_logit(goal) - _logit(share))
        moved.append({**row, "base": f"{base:.2f}"})
    return moved, worst


def refit(rounds: int = 8, patients: int = 5000, seed: int = 77) -> float:
    """Refit `head.csv` in place.

    Args:
        rounds: rounds of simulation and correction.
        patients: patients that are simulated in each round.
        seed: seed of these patients, different from those of the hospitals.

    Returns:
        The largest difference between a simulated and the published share, before the correction
        of the last round.
    """
    for _ in range(rounds):
        shipped.cache_clear()
        head_and_tail.cache_clear()
        code_catalogue.cache_clear()
        head, worst = corrected(shipped("hospital/head.csv"), simulated_shares(patients, seed))
        with HEAD.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(head[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(head)
    return worst


if __name__ == "__main__":
    sys.stdout.write(f"largest difference {refit():.4f}\n")
