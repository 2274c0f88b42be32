"""Three readings of MARN: the presets paper, released and sound on the same notes, with one seed.

    python book/experiments/presets.py

The readings of the data (`data.…`) need a corpus each and are not varied: the corpus has the sound
ones. What is cut to fit a laptop is cut alike in all three (`CUT`): width, words that are read,
epochs, notes in a batch; the learning rate is raised, since there are some hundreds of steps and
not 25,000. Every other option is the preset's own.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from trainings import Experiment, Plan

import marn

NAMES: Final = ("paper", "released", "sound")
CUT: Final[dict[str, Any]] = {
    "model.hidden_size": 48,
    "training.batch_size": 8,
    "training.learning_rate": 5e-3,
}


def plans(args: argparse.Namespace) -> list[Plan]:
    """List the presets."""
    cut = CUT | {"model.max_length": args.length, "training.epochs": args.epochs}
    return [
        Plan(
            name,
            "marn",
            (preset := marn.preset(name).changed(cut)).model,
            preset.training,
            notes={
                "preset": name,
                "own_threshold": preset.evaluation["threshold"],
                "macro_f1": preset.report["macro_f1"],
            },
        )
        for name in NAMES
    ]


EXPERIMENT: Final = Experiment(
    "presets",
    "Three presets of MARN.",
    plans,
    {"train": 1000, "dev": 150, "test": 300, "length": 200, "epochs": 6},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
