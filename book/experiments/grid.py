"""Building blocks: each of three encoders with RAM, the second task and the focal loss.

    python book/experiments/grid.py

The rows of MT-RAM's Table 3 and of MARN's Fig. 8 (base, +RAM, +MTL, +MTL+RAM, +MTL+RAM+FL), and
RAM by addition as in MT-RAM's Table 4, for CAML, MultiResCNN and the BiGRU with label attention. A
row is a list of arguments; the encoders, narrowed to fit a laptop, know nothing of the blocks. All
rows share notes, epochs, batches of 8, a learning rate of 5e-3, clipping at 1 and the seed.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from trainings import Experiment, Plan

ENCODERS: Final[dict[str, dict[str, Any]]] = {
    "caml": {},
    "multirescnn": {"kernel_sizes": (3, 9), "widths": (40, 24)},
    "bigru_la": {"hidden_size": 48},
}
ONE, TWO = ("icd",), ("icd", "ccs")
BLOCKS: Final[dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]]] = {
    # tasks, options of the model, settings of the training
    "": (ONE, {}, {"loss": "bce"}),
    "ram": (ONE, {"recalibrate": "multiply"}, {"loss": "bce"}),
    "mtl": (TWO, {}, {"loss": "bce"}),
    "mtl+ram": (TWO, {"recalibrate": "multiply"}, {"loss": "bce"}),
    "mtl+ram+fl": (TWO, {"recalibrate": "multiply"}, {"loss": "focal", "reading": "released"}),
    "mtl+ram (add)": (TWO, {"recalibrate": "add"}, {"loss": "bce"}),
}


def plans(args: argparse.Namespace) -> list[Plan]:
    """List every encoder with every set of blocks."""
    shared = {
        "epochs": args.epochs,
        "patience": args.epochs,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "clip_norm": 1.0,
    }
    return [
        Plan(
            f"{encoder} {blocks}".strip(),
            encoder,
            {"max_length": args.length} | sizes | options,
            shared | training,
            tasks,
            {"blocks": blocks},
        )
        for encoder, sizes in ENCODERS.items()
        for blocks, (tasks, options, training) in BLOCKS.items()
    ]


EXPERIMENT: Final = Experiment(
    "grid",
    "Every block on every encoder.",
    plans,
    {"train": 600, "dev": 150, "test": 300, "length": 200, "epochs": 4},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
