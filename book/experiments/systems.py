"""Every system once: one training each on the same notes, at the size of a laptop.

    python book/experiments/systems.py

Systems are found by being in `marn.available()`; one that is added is trained when the experiment
is started again. All of them read the first words of the same notes, with both tasks, for the same
number of epochs, with batches of 8, dev mean average precision to choose the epoch, and the loss
and clipping of their own papers. Three things are not the papers':

* widths, which `SIZES` cuts so that a training takes less than a minute on one core;
* the learning rate and the batch. The papers' rates, down to 1e-4, are for 25,000 steps and more;
  here there are some hundreds. All systems take 5e-3, except those over a transformer, which take
  1e-3;
* pretrained weights: the transformers start from random ones, far narrower than BERT.

So the scores say that every system runs and learns, and roughly what it can do with an hour's
worth of notes; they do not rank the systems as their papers do.

Parameters are counted three times: as trained here, and at the papers' sizes with 50 and 8,921
codes, 51,919 words and what the released code declares without using it, which is what published
counts count. A system that takes descriptions of codes gets one unknown word for each there, and
JointLAAT, whose coarse codes only a corpus has, is counted without them.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import sys
from typing import Any, Final

from trainings import Experiment, Plan

import marn
from marn.experiments import published
from marn.models import Coder

TRANSFORMER: Final = {
    "configuration": {
        "num_hidden_layers": 2,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }
}
SIZES: Final[dict[str, dict[str, Any]]] = {
    "attentive_lstm": {"hidden_size": 32, "letter_size": 8},
    "bigru": {"hidden_size": 48},
    "bigru_la": {"hidden_size": 48},
    "clinicalbert": TRANSFORMER,
    "cnn": {"filters": 200},
    "dcan": {"filters": 100, "projected": 50},
    "dlac": {"hidden_size": 48},
    "fusion": {"kernel_sizes": (3, 9, 15), "widths": (40, 20), "hidden_size": 120},
    "gatedcnn_nci": {"hidden_size": 48, "levels": 4},
    "joint_laat": {"hidden_size": 48, "attention_size": 48},
    "laat": {"hidden_size": 48, "attention_size": 48},
    "marn": {"hidden_size": 48},
    "mdbert": TRANSFORMER,
    "mt_ram": {"hidden_size": 48},
    "multirescnn": {"kernel_sizes": (3, 9, 15), "widths": (40, 20)},
    "plm_icd": TRANSFORMER,
}
"""Options that make a system small; one that is not here has its paper's size."""

RATE: Final = 5e-3
TRANSFORMER_RATE: Final = 1e-3

_ROWS = 51_919
_BERT_ROWS = 28_994  # of BERT's 28,996 pieces, without [CLS] and [SEP], which the systems add
_CODES: Final = {"50": {"icd": 50, "ccs": 38}, "full": {"icd": 8921, "ccs": 295}}
_FOR_50: Final = {"laat": {"hidden_size": 256, "attention_size": 256}}
"""Sizes that a paper has for 50 codes alone."""
_TWO_TASKS: Final = ("marn", "mt_ram")
"""Systems whose papers train both tasks at once; JointLAAT's coarse level is not CCS."""


def plans(args: argparse.Namespace) -> list[Plan]:
    """List a training for every system."""
    return [
        Plan(
            name,
            name,
            {"max_length": args.length} | SIZES.get(name, {}),
            {
                "epochs": args.epochs,
                "batch_size": 8,
                "patience": args.epochs,
                "learning_rate": TRANSFORMER_RATE if SIZES.get(name) is TRANSFORMER else RATE,
            },
        )
        for name in marn.available()
    ]


def counts() -> dict[str, dict[str, Any]]:
    """Count the parameters of every system at its paper's sizes, with 50 codes and with 8,921."""
    found: dict[str, dict[str, Any]] = {}
    cells = published.figures()
    printed = cells[cells["metric"] == "parameters_in_millions"].set_index("system")["value"]
    for name in marn.available():
        found[name] = {"published, in millions": printed.get(name)}
        rows = _BERT_ROWS if SIZES.get(name) is TRANSFORMER else _ROWS
        for size, codes in _CODES.items():
            tasks = codes if name in _TWO_TASKS else {"icd": codes["icd"]}
            known = {
                "descriptions": {task: [[rows - 1]] * count for task, count in tasks.items()},
                "edges": {task: [] for task in tasks},
                "tree": {
                    task: [[f"{task} {code}"] for code in range(count)]
                    for task, count in tasks.items()
                },
                "tree_steps": 1,
            }
            taken = inspect.signature(Coder.registry[name].__init__).parameters
            options = {key: value for key, value in known.items() if key in taken}
            if size == "50":
                options |= _FOR_50.get("laat" if name == "joint_laat" else name, {})
            model = marn.build(name, vocabulary_size=rows, tasks=tasks, **options)
            found[name][size] = model.count_parameters(unused=True)
            found[name][f"{size}, without embedding"] = model.count_parameters(
                embeddings=False, unused=True
            )
            del model
            gc.collect()  # BERT's weights take half a gigabyte
    return found


EXPERIMENT: Final = Experiment(
    "systems",
    "Every system once.",
    plans,
    {"train": 600, "dev": 150, "test": 300, "length": 200, "epochs": 4},
    lambda rows: {"counts": counts()},
)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
