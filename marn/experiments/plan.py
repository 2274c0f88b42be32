"""Read an experiment from its YAML file, and list its runs, each checked and given a key."""

import ast
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

import marn
from marn.errors import MarnError
from marn.settings import Location, Seed, settings, unknown

DONE = "done.json"
"""File in the folder of a finished run: labels, parameters, key and seconds."""
_MATTERS = (
    *("baselines", "corpus", "models", "nn", "readers", "reconstructions", "train"),
    *("transformers", "evaluation", "losses", "metrics", "parallel", "registry"),
    "experiments/recording",
)
"""Modules of marn that decide what a run finds; those that draw, print or explain do not."""
_MOST = 10_000  # runs of an experiment, at most
_LARGEST = 1_000_000  # values in the YAML file of an experiment, at most
_FLOAT = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)  # YAML reads 1e-3 as text


@settings
class Experiment:
    """Settings of an experiment, as its YAML file has them. Paths are relative to that file."""

    notebook: Location
    """The notebook of every run, with a cell tagged `parameters`."""
    parameters: Mapping[str, Any] = Field({})
    """Parameters of every run. `train_args.loss` is the key `loss` of the dictionary
    `train_args`."""
    grid: Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]] = Field({})
    """The axes; every combination is run. An axis is the name of a parameter with a list of its
    values, or any name with a dictionary from labels to the parameters that each label sets."""
    seeds: Sequence[Seed] = (0,)
    """Values of the parameter `seed`; every combination is run with each."""
    overrides: Mapping[str, Any] = Field({})
    """Parameters of every run that have priority over those of the grid."""


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    labels: Mapping[str, Any]
    """Its label on each axis of the grid, and its seed: columns of the table of results."""
    parameters: Mapping[str, Any]
    """Parameters of the notebook."""
    about: Mapping[str, Any]
    """What `key` is the hash of: parameters, hash of the corpus, versions of code and recipe."""
    folder: Path
    """Folder of the run."""

    @property
    def name(self) -> str:
        """The labels in one line."""
        return ", ".join(f"{key} {value}" for key, value in self.labels.items())

    @property
    def key(self) -> str:
        """Hash that identifies the run."""
        return _digest(self.about)

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / DONE).exists()


def read(path: Path, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment.

    Args:
        path: the YAML file.
        changes: values that replace those of the file: of `seeds`, of an axis of the grid (or some
            of its labels), or of a parameter of every run.

    Raises:
        MarnError: the file is missing or is not YAML, has an unknown setting or a key twice, has
            no seeds or an empty axis, or asks for too many runs.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # which would take the last of two equal keys
        def compose_mapping_node(self, anchor: Any) -> Any:
            node, seen = super().compose_mapping_node(anchor), set[str]()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen:
                    place = f"{path}, line {key.start_mark.line + 1}"
                    raise MarnError(f"{place}: a second {name!r:.80}; keep one of them")
                seen.add(name)
            return node

    try:
        said = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if _size(said, {}) > _LARGEST:  # aliases of aliases unfold to more than any memory
            raise MarnError(f"{path} expands to more than {_LARGEST:,} values; remove its aliases")
        json.dumps(said)
    except OSError as error:
        raise MarnError(f"{path} cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:
        line = " ".join(str(error).split())
        raise MarnError(f"{path} is not YAML ({line:.120}); correct it") from None
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise MarnError(f"{path} must hold settings such as `notebook: training.ipynb`")
    grid = said["grid"] if isinstance(said.get("grid"), dict) else {}
    for key, value in (changes or {}).items():
        several = value if isinstance(value, list | dict) else [value]
        if key == "seeds":
            said["seeds"] = several
        elif key in grid:
            known = grid[key] if isinstance(grid[key], dict) else {}
            is_label = [isinstance(one, str) and one in known for one in several]
            grid[key] = {one: known[one] for one in several} if all(is_label) else several
        else:
            said["overrides"] = {**said.get("overrides", {}), key: value}
    experiment = Experiment(**_floats(said))
    if not experiment.seeds:
        raise MarnError("seeds must hold at least one, but got []; the default is [0]")
    for axis, values in experiment.grid.items():
        if not values:
            raise MarnError(f"axis {axis!r} of the grid is empty; give it values or leave it out")
    if (runs := math.prod(map(len, [experiment.seeds, *experiment.grid.values()]))) > _MOST:
        raise MarnError(f"{path} asks for {runs:,} runs, and at most {_MOST:,} are made; split it")
    return experiment


def _size(value: Any, known: dict[int, int]) -> int:
    """Count the values inside a value; an aliased part counts each time it is used."""
    if id(value) not in known:
        inside = value.values() if isinstance(value, dict) else value
        inside = inside if isinstance(value, dict | list) else ()
        known[id(value)] = 1 + sum(_size(each, known) for each in inside)
    return known[id(value)]


def _floats(value: Any) -> Any:
    """Turn text such as 1e-3 into a number, at any depth."""
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def combinations(experiment: Experiment) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """List the labels and the parameters of every run; the seed varies fastest.

    Example:
        >>> one = Experiment(notebook="a.ipynb", grid={"a.b": [1, 2]}, seeds=[7])
        >>> combinations(one)[1]
        ({'b': 2, 'seed': 7}, {'a': {'b': 2}, 'seed': 7})
    """
    axes = [
        [(axis.rpartition(".")[2], label, changes) for label, changes in _values(axis, values)]
        for axis, values in experiment.grid.items()
    ]
    found = []
    for chosen in itertools.product(*axes):
        for seed in experiment.seeds:
            parameters: dict[str, Any] = {}
            settings = [experiment.parameters, *(one[2] for one in chosen), {"seed": seed}]
            for changes in (*settings, experiment.overrides):
                for key, value in changes.items():
                    _set(parameters, key, value)
            labels = {axis: label for axis, label, _ in chosen} | {"seed": seed}
            found.append((labels, parameters))
    return found


def _values(axis: str, values: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """List the labels of an axis with the parameters that each sets."""
    if isinstance(values, Mapping):
        return list(values.items())
    return [
        (json.dumps(v) if isinstance(v, dict | list) else "None" if v is None else v, {axis: v})
        for v in values
    ]


def _set(parameters: dict[str, Any], key: str, value: Any) -> None:
    """Set a parameter; a dictionary is merged into the one that is there, key by key."""
    first, _, rest = key.partition(".")
    if rest:
        value = {rest: value}
    if isinstance(value, Mapping):
        inner = dict(parameters[first]) if isinstance(parameters.get(first), dict) else {}
        for name, item in value.items():
            _set(inner, name, item)
        value = inner
    parameters[first] = value


def plan(path: Path, out: Path, changes: Mapping[str, Any] | None = None) -> list[Planned]:
    """List the runs of an experiment, each checked before any is begun.

    Args:
        path: the experiment's YAML file.
        out: folder for the runs.
        changes: see `read`.

    Raises:
        MarnError: see `read`; or the file names a notebook, parameter, corpus or option that does
            not exist, two runs are the same, or papermill or Dask is not installed.
    """
    try:
        import distributed  # noqa: F401
        import papermill
    except ModuleNotFoundError as error:
        raise MarnError(
            f"a sweep needs {error.name}; install it with: pip install 'marn[sweep]'"
        ) from None
    experiment = read(path, changes)
    notebook = path.parent / experiment.notebook
    if not notebook.is_file():
        raise MarnError(f"{path} names the notebook {notebook}, which is not there")
    known = papermill.inspect_notebook(str(notebook))
    defaults = {name: ast.literal_eval(found["default"]) for name, found in known.items()}
    code, corpora = code_version(notebook), {}
    found: dict[str, Planned] = {}
    for labels, parameters in combinations(experiment):
        for name in parameters:
            if name not in known or name == "run_dir":
                raise unknown(f"{notebook.name} has no parameter", name, {*known} - {"run_dir"})
        about = {"parameters": parameters, "code": code}
        if place := (defaults | parameters).get("corpus"):
            if place not in corpora:
                corpora[place] = marn.Corpus.load(notebook.parent / place)
            about["corpus"] = corpora[place].hash
            about["recipe"] = _check(defaults | parameters, corpora[place])
        slug = re.sub(r"\W+", "_", "-".join(map(str, labels.values())))[:60]
        run = Planned(labels, parameters, about, out / f"{slug}_{_digest(about)[:10]}")
        if run.key in found:
            raise MarnError(f"{found[run.key].name} and {run.name} are the same run; drop one")
        found[run.key] = run
    return list(found.values())


def _check(parameters: Mapping[str, Any], corpus: marn.Corpus) -> Any:
    """Check a run's system, model options and training settings.

    Returns:
        The [model options, training settings] of its recipe or preset; None without one.
    """
    from marn.experiments.presets import Preset, preset
    from marn.registry import check_options, system
    from marn.train.config import TrainConfig
    from marn.train.recipes import RECIPES, Recipe

    name = parameters.get("model")
    if name is None:
        return None
    kind = system(name)
    recipe: Recipe | Preset | None = None
    if parameters.get("preset"):
        recipe = preset(parameters["preset"])
    elif parameters.get("recipe") in RECIPES:
        notes = len(corpus.head(train=parameters.get("train_notes") or None)["train"])
        budget = {"steps": parameters["steps"]} if parameters.get("steps") else {}
        recipe = RECIPES[parameters["recipe"]](name, notes, **budget)
    options = {**(recipe.model if recipe else {}), **parameters.get("model_args", {})}
    training = {**(recipe.training if recipe else {}), **parameters.get("train_args", {})}
    TrainConfig.of(kind, **training)
    check_options(name, {key: value for key, value in options.items() if key != "seed"})
    return [dict(recipe.model), dict(recipe.training)] if recipe else None


def code_version(notebook: Path) -> str:
    """Hash the code that decides what a run finds: the notebook's cells and `_MATTERS`.

    Comments, docstrings and layout are left out, so that a better wording makes no new run.
    """
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    package = Path(marn.__file__).parent
    for module in _MATTERS:
        place = package / module
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        sources += [file.read_text(encoding="utf-8") for file in files]
    return _digest([_bare(source) for source in sources])


def _bare(source: str) -> str:
    """Return code as text without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            texts = [
                part
                for part in body
                if isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            ]
            node.body = [part for part in body if part not in texts]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
