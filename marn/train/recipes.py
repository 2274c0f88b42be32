"""Provide recipes for training with fewer notes, or less time, than the systems' papers."""

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
    """Hold how to build and train a system."""

    model: Mapping[str, Any]
    """Options of `marn.build`."""
    training: Mapping[str, Any]
    """Settings of `marn.TrainConfig`."""
    source: str
    """Where the rate comes from."""


LAPTOP_STEPS = 768
"""Steps of a laptop recipe: three epochs of the teaching corpus in batches of 16."""


def laptop(name: str, notes: int, *, steps: int = LAPTOP_STEPS) -> Recipe:
    """Return the recipe for training a system on one processor core in a few minutes.

    The size and the rate of each system are a row of `laptop.json`, and all share the rest: notes
    of up to 1,000 words, output biases that start at the codes' shares (with 378 steps 16 of 17
    systems score higher so, see book/results/systems.json), batches of 16, and
    `marn.train.config.of_steps`. A recipe counts in steps, because a system that gets too few
    learns nothing. That of a reader of text, which learns at once, is empty.

    Args:
        name: one of `marn.available()`.
        notes: training notes, which decide how many epochs the steps are.
        steps: steps of the optimiser, at least; rounded up to whole epochs.

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
    settings and the start of the biases were chosen together, from eleven trials with one seed, on
    half of CodiEsp's dev notes; chapter 7 shows what each contributes.

    Args:
        name: a system with label attention, such as `"bigru_la"`; or one that reads text.
        notes: training notes.
        steps: steps of the optimiser, at least.

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
"""Most training notes that `few_notes` was measured on (487 of CodiEsp, 1,000 of the hospital)."""


def suits(name: str, notes: int) -> bool:
    """Return whether `few_notes` suits this system and this number of training notes.

    It does not suit a pre-trained encoder, which the recipe replaces by a small random one.
    """
    if notes > FEW or name not in _rows():
        return False
    known = system(name)
    return known.takes_words and known.training_defaults["learning_rate"] >= 1e-4


RECIPES = {"laptop": laptop, "few_notes": few_notes}
"""Recipes of `marn train --recipe`, besides the settings of the papers."""
