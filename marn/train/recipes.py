"""Provide recipes for training with fewer notes or less time than the systems' papers had."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from marn.registry import available, system
from marn.settings import unknown
from marn.train.config import of_steps


@cache
def _rows() -> dict[str, dict[str, Any]]:
    rows = json.loads(Path(__file__).with_name("laptop.json").read_text(encoding="utf-8"))
    return {row["system"]: row for row in rows}


@dataclass(frozen=True)
class Recipe:
    """The options and settings with which a system is built and trained."""

    model: Mapping[str, Any]
    """Options of `marn.build`."""
    training: Mapping[str, Any]
    """Settings of `marn.TrainConfig`."""
    source: str
    """Where the learning rate comes from."""


LAPTOP_STEPS = 768
"""Number of steps of a laptop recipe: three epochs of the teaching corpus in batches of 16."""


def laptop(name: str, notes: int, *, steps: int = LAPTOP_STEPS) -> Recipe:
    """Return the recipe for training a system on one processor core in a few minutes.

    The size and the learning rate of each system are in a row of `laptop.json`; the size is about a
    fifth of the papers', so that a training takes minutes on one core. All systems share the rest:
    notes of up to 1,000 words (the whole of nearly all teaching notes); output biases that start at
    the codes' log odds (with 378 steps this raises the scores of 16 of 17 systems, see
    book/results/systems.json and released.json); batches of 16, as in the paper; and
    `marn.train.config.of_steps`. A recipe counts steps, because a system that gets too few learns
    nothing: after 512, MARN has a micro-F1 of 0.88 (chapter 1); after 378 with cross-entropy no
    encoder has converged (chapter 13). The recipe of a system that reads text is empty, because it
    is fitted in one step.

    Args:
        name: one of `marn.available()` or `marn.available(text=True)`.
        notes: number of training notes, which decides how many epochs the steps take.
        steps: minimum number of optimiser steps; rounded up to whole epochs.

    Raises:
        MarnError: there is no such recipe for the system.

    Example:
        >>> recipe = laptop("marn", notes=1000)
        >>> recipe.training["epochs"], recipe.model["ram_start"]
        (13, 'identity')
    """
    if name in available(text=True):
        return Recipe({}, {}, "none; it learns at once, from whole notes")
    if name not in _rows():
        raise unknown("there is no laptop recipe for", name, _rows())
    row = _rows()[name]
    training = of_steps(steps, notes, 16, row["rate"])
    shared = {"max_length": 1000, "bias_start": "prior"}
    return Recipe(shared | row["model"], training, row["source"])


def few_notes(name: str, notes: int, *, steps: int = 420) -> Recipe:
    """Return the recipe for training a system on a few hundred notes, such as your own.

    It extends `laptop` with a word path; queries and classifiers that start at the codes' titles;
    cross-entropy; and batches of 8, for 7 epochs or 420 steps, whichever is more. These four
    settings and the initial biases were chosen together, from eleven trials with one seed, on half
    of CodiEsp's dev notes; chapter 7 shows what all but the batches and steps contribute.

    Args:
        name: a system with label attention, such as `"bigru_la"`; or one that reads text.
        notes: number of training notes.
        steps: minimum number of optimiser steps; rounded up to whole epochs.

    Raises:
        MarnError: there is no such recipe for the system.

    Example:
        >>> few_notes("bigru_la", notes=487).training["epochs"]
        7
    """
    small = laptop(name, notes)
    if not small.model:
        return small
    starts = {"word_path": True, "code_start": "titles"}
    training = of_steps(steps, notes, 8, small.training["learning_rate"], least=7)
    source = "half of CodiEsp's dev notes, for a BiGRU; see book/experiments/codiesp_en.yaml"
    return Recipe({**small.model, **starts}, training | {"loss": "bce"}, source)


FEW = 1000
"""Largest number of training notes that `few_notes` was measured on: CodiEsp has 487, the teaching
hospital 1,000."""


def suits(name: str, notes: int) -> bool:
    """Return whether `few_notes` suits this system and this number of training notes.

    It does not suit a system with a pre-trained encoder, which the recipe replaces by a small
    random one.

    Args:
        name: the name of any system.
        notes: number of training notes.
    """
    if notes > FEW or name not in _rows():
        return False
    known = system(name)
    return known.takes_words and known.training_defaults["learning_rate"] >= 1e-4


RECIPES = {"laptop": laptop, "few_notes": few_notes}
"""Recipes of `marn train --recipe`, besides the settings of the papers."""
