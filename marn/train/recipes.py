"""Recipes: how a system is trained where neither the notes nor the hours of its paper are there."""

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
    """How a system is built and trained."""

    model: Mapping[str, Any]
    """Options of `marn.build`."""
    training: Mapping[str, Any]
    """Settings of `marn.TrainConfig`."""
    source: str
    """Where the rate comes from."""


LAPTOP_STEPS = 768
"""Steps of a laptop recipe: three epochs of the teaching corpus in batches of 16."""


def laptop(name: str, notes: int, *, steps: int = LAPTOP_STEPS) -> Recipe:
    """Return the recipe that trains a system on one processor core in some minutes.

    The size and the rate of each system are a row of `laptop.json`, and all share the rest: notes
    of up to 1,000 words, output biases that begin at the codes' shares (with 378 steps 16 of 17
    systems score higher so, see book/results/systems.json), batches of 16, and
    `marn.train.config.of_steps`. A recipe counts in steps, because a system that gets too few
    learns nothing; they are rounded up to whole epochs. That of a reader of text, which learns at
    once, is empty.

    Raises:
        MarnError: the system has no such recipe.

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
    """Return the recipe that trains a system on some hundred notes, such as your own.

    It is that of `laptop`, and besides: a word path, queries and classifiers that begin at the
    codes' titles; cross-entropy; batches of 8, and 7 epochs or 420 steps, whichever is more. These
    four settings and the start of the biases were chosen together, out of eleven tries with one
    seed, on half of CodiEsp's dev notes; the page on real text has what each is worth. The system
    must have label attention, or read text.

    Raises:
        MarnError: the system has no such recipe.

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
"""Training notes up to which `few_notes` was measured (CodiEsp's 487, 1,000 of the hospital)."""


def suits(name: str, notes: int) -> bool:
    """Tell whether `few_notes` suits this system and this number of training notes.

    Not for systems whose encoder is pre-trained: their recipe has a small one that is not.
    """
    if notes > FEW or name not in _rows():
        return False
    known = system(name)
    return known.takes_words and known.training_defaults["learning_rate"] >= 1e-4


RECIPES = {"laptop": laptop, "few_notes": few_notes}
"""What `marn train --recipe` knows besides the settings of the papers."""
