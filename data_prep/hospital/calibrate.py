"""Fits the column `base` of `head.csv`: log-odds under which the head comes as often as published.

Run it with `python -m data_prep.hospital.calibrate` after a change of the rules; it rewrites the
file. Each round simulates patients and moves every base by the difference of the log-odds.
"""

import csv
import logging
from collections import Counter
from math import log
from pathlib import Path

from data_prep.hospital import world as worlds
from data_prep.hospital.patients import patient
from data_prep.hospital.presets import PRESETS

HEAD = Path(__file__).with_name("head.csv")
logger = logging.getLogger(__name__)


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 0.97)
    return log(share / (1 - share))


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
        codes = worlds.world(PRESETS["teaching"])
        count: Counter[worlds.Key] = Counter()
        stays = 0
        for index in range(patients):
            for stay in patient(seed, index, codes).admissions:
                stays += 1
                count.update(stay.coded())
        with HEAD.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        worst = 0.0
        for row in rows:
            goal, share = float(row["rate"]) / 100, count[row["kind"], row["code"]] / stays
            worst = max(worst, abs(share - goal))
            row["base"] = f"{float(row['base']) + 0.6 * (_logit(goal) - _logit(share)):.2f}"
        with HEAD.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        logger.info("largest difference %.4f", worst)
    return worst


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    calibrate()
