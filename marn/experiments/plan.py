"""Read an experiment from its YAML file, and list its runs, each checked and given a key."""

import ast
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

import marn
from marn.errors import MarnError
from marn.settings import Location, Seed, check, settings, unknown

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


_KINDS = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict}
"""Annotations of a notebook's parameters that are checked."""


@settings
class Experiment:
    """Settings of an experiment, as its YAML file has them.

    With `extends: OTHER.yaml` it is another experiment, except for the settings, axes and
    parameters that the file gives. An axis may take some labels of the other's, by a list of them.
    """

    notebook: Location
    """The notebook of every run, relative to the YAML file. Its cell tagged `parameters` has a
    `seed`. Paths among the parameters are relative to the notebook."""
    parameters: Mapping[str, Any] = Field({})
    """Parameters of every run. `train_args.loss` is the key `loss` of the dictionary
    `train_args`."""
    grid: Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]] = Field({})
    """The axes; every combination is run. An axis is the name of a parameter with a list of its
    values, or any name with a dictionary from labels to the parameters that each label sets."""
    seeds: Sequence[Seed] = (0,)
    """Values of the parameter `seed`; every combination is run with each."""
    overrides: Mapping[str, Any] = Field({})
    """Parameters that have priority over those of the grid. Not of the file, but of `--set`."""


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
    notebook: Path
    """The notebook that it executes."""

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
            no seeds or an empty axis, sets the seed as a parameter, or asks for too many runs.
    """
    said = _load(path)
    if "extends" in said:
        said = _extended(path.parent / str(said["extends"]), said)
    if "overrides" in said:
        raise MarnError(f"{path} has 'overrides', which is what --set sets; use parameters")
    for key, value in (changes or {}).items():
        if key == "seeds":
            said["seeds"] = value if isinstance(value, list) else [value]
        elif key in said["grid"]:
            said["grid"][key] = _axis(key, said["grid"][key], value)
        else:
            said["overrides"] = said.get("overrides", {}) | {key: value}
    experiment = Experiment(**_floats(said))
    if not experiment.seeds:
        raise MarnError("seeds must hold at least one, but got []; the default is [0]")
    parts = [experiment.parameters, experiment.overrides, experiment.grid]
    for axis, values in experiment.grid.items():
        if not values:
            raise MarnError(f"axis {axis!r} of the grid is empty; give it values or leave it out")
        parts += values.values() if isinstance(values, Mapping) else []
    if any("seed" in part for part in parts):
        raise MarnError(f"{path} sets the seed as a parameter; give seeds: [3] instead")
    if (runs := math.prod(map(len, [experiment.seeds, *experiment.grid.values()]))) > _MOST:
        raise MarnError(f"{path} asks for {runs:,} runs, and at most {_MOST:,} are made; split it")
    return experiment


def _extended(path: Path, own: dict[str, Any]) -> dict[str, Any]:
    """Return the experiment of a file, with the settings that another file gives."""
    said = _load(path)
    if "extends" in said:
        raise MarnError(f"{path} extends an experiment itself; extend that one")
    if "notebook" in said:
        said["notebook"] = str((path.parent / str(said["notebook"])).resolve())
    grid = said["grid"] | {
        axis: _axis(axis, said["grid"].get(axis), values) for axis, values in own["grid"].items()
    }
    parameters = said["parameters"] | own["parameters"]
    del own["extends"]
    return said | own | {"grid": grid, "parameters": parameters}


def _axis(axis: str, known: Any, value: Any) -> Any:
    """Return the values of an axis; a list may name some labels of those that it had."""
    several = value if isinstance(value, list | dict) else [value]
    if not isinstance(known, dict) or isinstance(several, dict):
        return several
    for label in several:
        if label not in known:
            raise unknown(f"axis {axis!r} has no label", str(label), known)
    return {label: known[label] for label in several}


def _load(path: Path) -> dict[str, Any]:
    """Read the YAML of an experiment; its grid and parameters are dictionaries."""
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
    for key in ("grid", "parameters"):
        if not isinstance(said.setdefault(key, {}), dict):
            raise MarnError(f"{path}: {key} must be a dictionary; write one, or leave {key} out")
    for axis, values in said["grid"].items():
        if not isinstance(values, list | dict):
            raise MarnError(f"{path}: axis {axis!r} must be a list; write {axis}: [{values}]")
        labels = values if isinstance(values, dict) else {}
        if nothing := [label for label, sets in labels.items() if sets is None]:
            raise MarnError(
                f"{path}: label {nothing[0]!r} of axis {axis!r} has no parameters; write "
                f"{nothing[0]}: {{}}"
            )
    return said


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
            not exist, or a value of the wrong type; two runs are the same; or papermill or Dask is
            not installed.
    """
    try:
        import distributed  # noqa: F401
        import papermill  # noqa: F401
    except ModuleNotFoundError as error:
        raise MarnError(
            f"a sweep needs {error.name}; install it with: pip install 'marn[sweep]'"
        ) from None
    experiment = read(path, changes)
    notebook = path.parent / experiment.notebook
    if not notebook.is_file():
        raise MarnError(f"no notebook at {notebook}; its path counts from the YAML file")
    kinds, defaults = _parameters(notebook)
    code, corpora = code_version(notebook), {}
    found: dict[str, Planned] = {}
    for labels, parameters in combinations(experiment):
        for name, value in parameters.items():
            if name not in defaults or name == "run_dir":
                raise unknown(f"{notebook.name} has no parameter", name, {*defaults} - {"run_dir"})
            check(name, kinds[name], value, defaults[name])
        about = {"parameters": parameters, "code": code}
        if place := (defaults | parameters).get("corpus"):
            if place not in corpora:
                corpora[place] = _corpus(notebook, place)
            about["corpus"] = corpora[place].hash
            about["recipe"] = _check(defaults | parameters, corpora[place])
        slug = re.sub(r"\W+", "_", "-".join(map(str, labels.values())))[:60]
        folder = out / f"{slug}_{_digest(about)[:10]}"
        run = Planned(labels, parameters, about, folder, notebook.resolve())
        if run.key in found:
            raise MarnError(f"{found[run.key].name} and {run.name} are the same run; drop one")
        found[run.key] = run
    return list(found.values())


def _parameters(notebook: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the kind and the default of each parameter of a notebook."""
    import papermill

    try:
        known = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # of nbformat, jsonschema or papermill
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MarnError(
            f"{notebook} is not a notebook ({reason:.100}); save it again in Jupyter"
        ) from None
    defaults = {}
    for name, found in known.items():
        try:
            defaults[name] = ast.literal_eval(found["default"])
        except (ValueError, SyntaxError):
            raise MarnError(
                f"{notebook.name}: the default of {name} must be a plain value such as 3 or [], "
                f"but is {found['default']}"
            ) from None
    if "seed" not in defaults:
        raise MarnError(f"{notebook} has no seed; add `seed: int = 0` to its cell `parameters`")
    return {
        name: _KINDS.get(found["inferred_type_name"], Any) for name, found in known.items()
    }, defaults


def _corpus(notebook: Path, place: str) -> marn.Corpus:
    """Load the corpus of a run."""
    if not (notebook.parent / place).is_dir() and Path(place).is_dir():
        there = os.path.relpath(place, notebook.parent)
        raise MarnError(
            f"no corpus at {notebook.parent / place}: the path counts from the folder of "
            f"{notebook.name}; give {there}"
        )
    return marn.Corpus.load(notebook.parent / place)


def _check(parameters: Mapping[str, Any], corpus: marn.Corpus) -> Any:
    """Check a run's system, recipe, tasks, model options and training settings.

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
    for count in ("steps", "train_notes"):
        check(count, NonNegativeInt, parameters.get(count, 0), 0)
    corpus = corpus.head(train=parameters.get("train_notes") or None)
    corpus = corpus.only(*tasks) if (tasks := parameters.get("tasks")) else corpus
    recipe: Recipe | Preset | None = None
    steps, chosen = parameters.get("steps"), parameters.get("recipe", "paper")
    if parameters.get("preset"):
        if name != "marn":
            raise MarnError(f"a preset is of MARN, but the model is {name}; leave the preset out")
        recipe = preset(parameters["preset"])
    elif chosen in RECIPES:
        recipe = RECIPES[chosen](name, len(corpus["train"]), **({"steps": steps} if steps else {}))
    elif chosen != "paper":
        raise unknown("no recipe is named", chosen, [*RECIPES, "paper"])
    elif steps:
        raise MarnError("the recipe 'paper' has no steps; leave steps out, or take 'laptop'")
    options = {**(recipe.model if recipe else {}), **parameters.get("model_args", {})}
    training = {**(recipe.training if recipe else {}), **parameters.get("train_args", {})}
    TrainConfig.of(kind, **training)
    check_options(name, {key: value for key, value in options.items() if key != "seed"})
    return [dict(recipe.model), dict(recipe.training)] if recipe else None


def code_version(notebook: Path) -> str:
    """Hash the code that decides what a run finds: the notebook's cells and `_MATTERS`.

    Comments, docstrings and layout are left out, so that a better wording makes no new run. A cell
    with lines that only Jupyter reads, such as `%matplotlib inline`, is taken as it is.
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
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
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
