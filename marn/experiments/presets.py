"""Presets: the readings of MARN as a table, and three ways to combine them.

Papers, released code and sound practice disagree in some thirty places. Each is a row of
`presets.json`, with the question, the option that decides it, its value in each preset, and the
source. No code here branches on the name of a preset.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import pandas as pd

from marn.errors import MarnError
from marn.models import Coder
from marn.registry import available
from marn.train.config import TrainConfig

CALLS = ("model.", "training.", "evaluation.")
"""Prefixes of the options that `marn.build`, `marn.TrainConfig` and `marn.evaluate` take.

Options of `python -m data_prep` begin with `data.`, and choices about reporting with `report.`"""

NAMES = ("paper", "released", "sound")


@cache
def _rows() -> list[dict[str, Any]]:
    return json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Preset:
    """Values of options under one name, grouped by the call that takes them.

    Attributes:
        name: name of the preset.
        values: {path of the option: value}.
        base: name of the preset in the table that this one is, or was changed from.

    Example:
        >>> released = preset("released")
        >>> released.model["padding"], released.training["keep"]
        ('released', 'last')

        `marn.build("marn", corpus, **released.model)`, `TrainConfig.of(model, **released.training)`
        and `marn.evaluate(model, corpus, **released.evaluation)` take them as they are.
    """

    name: str
    values: Mapping[str, Any]
    base: str

    @property
    def model(self) -> dict[str, Any]:
        """Options of `marn.build` for MARN."""
        return self._group("model.")

    @property
    def training(self) -> dict[str, Any]:
        """Settings of `marn.TrainConfig`."""
        return self._group("training.")

    @property
    def evaluation(self) -> dict[str, Any]:
        """Arguments of `marn.evaluate`."""
        return self._group("evaluation.")

    @property
    def data(self) -> dict[str, Any]:
        """Options of `python -m data_prep`, with `_` for `-`."""
        return self._group("data.")

    def _group(self, prefix: str) -> dict[str, Any]:
        return {p.removeprefix(prefix): v for p, v in self.values.items() if p.startswith(prefix)}

    def table(self) -> pd.DataFrame:
        """Return the preset as a table.

        Returns:
            `row` (number in the project's list of readings, 1 to 30), `what`, `option`, `value`,
            `source` and `note`. Option and value are empty for a reading without a setting.
        """
        rows = [row | {"value": str(self.values.get(row["option"], ""))} for row in _rows()]
        columns = ["row", "what", "option", "value", "source", "note"]
        return pd.DataFrame(rows, columns=columns, dtype=object).fillna({"option": "", "note": ""})

    def irreproducible(self) -> pd.DataFrame:
        """Return the readings that no setting reproduces: `row`, `what`, `why`."""
        found = [
            (row["row"], row["what"], row["cannot"][self.base])
            for row in _rows()
            if self.base in row.get("cannot", {})
        ]
        return pd.DataFrame(found, columns=["row", "what", "why"])

    def changed(self, values: Mapping[str, Any], name: str | None = None) -> Self:
        """Return a new preset with some values changed.

        Args:
            values: {path: value}; besides the paths of the table, any option of `marn.build`,
                `marn.TrainConfig` or `marn.evaluate`, such as `model.embedding_size`. Those calls
                check it.
            name: name of the new preset.

        Raises:
            MarnError: a path is unknown.
        """
        for path in values:
            if path not in self.values and not path.startswith(CALLS):
                near = difflib.get_close_matches(path, self.values, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"use one of {list(self.values)}"
                raise MarnError(f"no option has the path {path!r}; {hint}")
        return replace(self, name=name or f"{self.name}, changed", values={**self.values, **values})


def preset(name: str = "sound") -> Preset:
    """Return a preset of the table.

    Args:
        name: `"paper"` (as printed), `"released"` (as in the authors' code, the only one that can
            have produced the published scores) or `"sound"` (current good practice; the default for
            new work).

    Raises:
        MarnError: there is no such preset.

    Example:
        >>> preset("paper").training["epochs"], preset("paper").model["hidden_size"]
        (50, 300)
    """
    if name not in NAMES:
        raise MarnError(f"no preset is named {name!r}; use one of {', '.join(NAMES)}")
    return Preset(name, {row["option"]: row[name] for row in _rows() if row["option"]}, name)


def compare(presets: Iterable[Preset | str]) -> pd.DataFrame:
    """Compare presets side by side.

    Args:
        presets: presets, or names of presets.

    Returns:
        `option` and a column per preset, one row per option on which they differ.

    Raises:
        MarnError: a name is unknown, or two presets have the same name.
    """
    given = [preset(one) if isinstance(one, str) else one for one in presets]
    names = [one.name for one in given]
    if len(set(names)) < len(names):
        raise MarnError(f"compared presets must have different names, but got {names}")
    paths = dict.fromkeys(path for one in given for path in one.values)
    rows = [(path, *(str(one.values.get(path, "")) for one in given)) for path in paths]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return pd.DataFrame(differing, columns=["option", *names])


def recipes() -> pd.DataFrame:
    """Return how the source of each system trains it.

    Returns:
        One row per system: settings of the optimiser and of the training loop, the score that the
        source stops by (`TrainConfig` stops by mean average precision by default), what the source
        does with length, dropout and word vectors, and the source. A cell is empty where the
        source does not say.
    """
    columns = ["loss", "learning_rate", "weight_decay", "schedule", "warmup", "batch_size"]
    columns += ["clip_norm", "epochs", "patience"]
    rows = []
    for name in available():
        config = TrainConfig(**Coder.registry[name].training_defaults)
        rows.append({"system": name, **{key: getattr(config, key) for key in columns}})
    path = Path(__file__).with_name("recipes.csv")
    stated = pd.read_csv(path, index_col="system", dtype={"max_length": "Int64"})
    return pd.DataFrame(rows).join(stated, on="system")
