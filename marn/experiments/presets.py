"""Presets: the readings of MARN as a table, and three ways to take them together.

Papers, released code and sound practice part ways in some thirty places. Each is a row of
`presets.json`: what it is about, the option that decides it, the value in each preset, the source.
Nothing here branches on the name of a preset.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from marn.errors import MarnError
from marn.models import Coder
from marn.train.config import TrainConfig

CALLS = ("model.", "training.", "evaluation.")
"""Beginnings of the paths of options that `marn.build`, `marn.TrainConfig`, `marn.evaluate` take.
Those of `python -m data_prep` begin with `data.`, what is printed with `report.`"""


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    path = Path(__file__).with_suffix(".json")
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def _names() -> list[str]:
    aside = {"row", "what", "option", "source", "note", "cannot"}
    return [key for key in _rows()[0] if key not in aside]


def readings() -> pd.DataFrame:
    """Give the whole table, one line a reading.

    Returns:
        `row` (number in the project's list of readings, 1 to 28), `what`, `option` (a path such as
        `model.padding`, or nothing where a program has nothing to set), a column for each preset,
        `source`, `note`, and `cannot` (what no setting reproduces, by preset).
    """
    columns = ["row", "what", "option", *_names(), "source", "note", "cannot"]
    table = pd.DataFrame(_rows(), columns=columns, dtype=object)
    cannot = ["; ".join(f"{k}: {v}" for k, v in row.get("cannot", {}).items()) for row in _rows()]
    return table.assign(cannot=cannot).fillna({"option": "", "note": ""})


@dataclass(frozen=True)
class Preset:
    """Values of options, taken together under a name.

    `model`, `training` and `evaluation` go into calls as they are:

        released = marn.preset("released")
        model = marn.build("marn", corpus, **released.model)
        run = marn.fit(model, corpus, marn.TrainConfig.of(model, **released.training))
        scores = marn.evaluate(model, corpus, **released.evaluation)
    """

    name: str
    values: Mapping[str, Any]
    """{path of the option: value}."""
    base: str
    """The preset of the table that this one is, or was made from."""

    @property
    def model(self) -> dict[str, Any]:
        """Options of `marn.build` for MARN."""
        return self._group("model")

    @property
    def training(self) -> dict[str, Any]:
        """Settings of `marn.TrainConfig`."""
        return self._group("training")

    @property
    def evaluation(self) -> dict[str, Any]:
        """Arguments of `marn.evaluate`."""
        return self._group("evaluation")

    @property
    def data(self) -> dict[str, Any]:
        """Options of `python -m data_prep`, with `_` for `-`."""
        return self._group("data")

    @property
    def report(self) -> dict[str, Any]:
        """What is printed: the figure called `macro_f1`, the number of `seeds` behind it."""
        return self._group("report")

    def _group(self, group: str) -> dict[str, Any]:
        parts = {path: path.partition(".") for path in self.values}
        return {key: self.values[p] for p, (first, _, key) in parts.items() if first == group}

    def table(self) -> pd.DataFrame:
        """Print the preset: `row`, `what`, `option`, `value`, `source`, `note`.

        A reading that no option decides has no value.
        """
        table = readings()
        table["value"] = [str(self.values[p]) if p else "" for p in table["option"]]
        return table[["row", "what", "option", "value", "source", "note"]]

    def irreproducible(self) -> pd.DataFrame:
        """List what no setting brings back: `row`, `what`, `why`."""
        found = [
            (row["row"], row["what"], row["cannot"][self.base])
            for row in _rows()
            if self.base in row.get("cannot", {})
        ]
        return pd.DataFrame(found, columns=["row", "what", "why"])

    def changed(self, values: Mapping[str, Any], name: str | None = None) -> Preset:
        """Make a preset of one's own from this one.

        Args:
            values: {path: value}; besides the paths of the table any option of `marn.build`,
                `marn.TrainConfig` or `marn.evaluate` is taken, as `model.embedding_size`. Those
                check it when it comes to them.
            name: of the new preset.

        Raises:
            MarnError: a path is unknown.
        """
        for path in values:
            if path not in self.values and not path.startswith(CALLS):
                near = difflib.get_close_matches(path, self.values, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {list(self.values)}"
                raise MarnError(f"no option has the path {path!r}; {hint}")
        return replace(self, name=name or f"{self.name}, changed", values={**self.values, **values})


def preset(name: str = "sound") -> Preset:
    """Give a preset of the table.

    Args:
        name: `"paper"` (as printed), `"released"` (as the authors' code does, the only one that can
            have produced the published figures) or `"sound"` (what one would do today; the default
            for new work).

    Raises:
        MarnError: there is no such preset.
    """
    if name not in _names():
        raise MarnError(f"no preset is named {name!r}; there are {_names()}")
    values = {row["option"]: row[name] for row in _rows() if row["option"]}
    return Preset(name, values, name)


def compare(presets: Iterable[Preset | str], *, all_rows: bool = False) -> pd.DataFrame:
    """Lay presets side by side.

    Args:
        presets: presets, or names of them.
        all_rows: whether options on which they agree are listed too.

    Returns:
        `option` and a column for each preset, one line an option, in the order of the table.

    Raises:
        MarnError: a name is unknown, or two presets have one name.
    """
    given = [preset(one) if isinstance(one, str) else one for one in presets]
    names = [one.name for one in given]
    if len(set(names)) < len(names):
        raise MarnError(f"presets that are compared need names of their own, but got {names}")
    paths = list(dict.fromkeys(path for one in given for path in one.values))
    lines = [[str(one.values.get(path, "")) for one in given] for path in paths]
    kept = [
        (path, *line)
        for path, line in zip(paths, lines, strict=True)
        if all_rows or len(set(line)) > 1
    ]
    return pd.DataFrame(kept, columns=["option", *names])


def recipes(names: Iterable[str] | None = None) -> pd.DataFrame:
    """Give what the sources say of training each system.

    Args:
        names: systems; by default all of `marn.available()`.

    Returns:
        A line a system: settings of the optimiser and of the loop, the score that the source stops
        by (`TrainConfig` stops by mean average precision unless told otherwise), what the source
        does with length, dropout and word vectors, and the source. Empty where it does not say.
    """
    lines = []
    for name in sorted(Coder.registry) if names is None else names:
        system = Coder.registry[name]
        config = TrainConfig(**system.training_defaults)
        kept = ("loss", "learning_rate", "weight_decay", "schedule", "warmup", "batch_size")
        line = {"system": name} | {key: getattr(config, key) for key in kept}
        line |= {key: getattr(config, key) for key in ("clip_norm", "epochs", "patience")}
        own = vars(system).get("paper_settings", {})  # not that of a system it extends
        lines.append(line | dict(own))
    table = pd.DataFrame(lines)
    return table.astype({"max_length": "Int64"}) if "max_length" in table else table
