"""Find systems by name: `available` lists them, `build` builds one."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from marn import baselines, models, readers, reconstructions, transformers
from marn.corpus import Corpus, as_corpus
from marn.corpus.vectors import read_vectors
from marn.errors import MarnError
from marn.models.base import Coder
from marn.readers.base import TextSystem
from marn.settings import Seed, check, kinds, unknown

for _package in (models, baselines, transformers, reconstructions, readers):
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"{_package.__name__}.{_module.name}")

_NOT_OPTIONS = ("feature_size", "head", "vocabulary_size", "tasks", "seed")  # set otherwise
_Size = Annotated[int, Field(ge=1, le=1 << 16)]
_CHECKED = (bool, int, float, str, Path, NoneType)
_MAY_BE_ZERO = ("rounds", "tree_steps")
_LONG = ("max_length", "piece_count", "tree_steps")  # memory grows slowly with these, or not


def available(*, text: bool = False) -> list[str]:
    """Return the names of the systems that `build` knows, in alphabetical order.

    Args:
        text: list the systems that read text (`marn.readers`) instead of the networks.
    """
    return sorted(TextSystem.registry if text else Coder.registry)


def system(name: str) -> type[Coder]:
    """Return the class of a system; one that reads text has what training needs of `Coder`.

    Raises:
        MarnError: there is no such system.
    """
    if name in TextSystem.registry:
        return cast(type[Coder], TextSystem.registry[name])
    if name not in Coder.registry:
        raise unknown("no system is named", name, [*available(), *available(text=True)])
    return Coder.registry[name]


def build(
    name: str,
    corpus: Corpus | str | Path | None = None,
    *,
    vocabulary_size: int | None = None,
    tasks: Mapping[str, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Coder:
    """Build a system by name, for a corpus or for sizes given as numbers.

    Args:
        name: one of `available()` or `available(text=True)`.
        corpus: provides the vocabulary, tasks and, if it has them, word vectors; or its folder.
        vocabulary_size: embedding rows (words + 2), instead of a corpus.
        tasks: number of codes of each task, instead of a corpus; or some of its tasks.
        seed: seed of the initial weights; the caller's random state does not change.
        **options: hyper-parameters of the system and of `Coder`; the defaults are the papers'.
            `vectors` accepts whatever `marn.corpus.vectors.read_vectors` does, such as a GloVe
            file; the number of words that have a vector is then printed.

    Returns:
        The system, on the CPU, in training mode, with attributes `name` and `options`.

    Raises:
        MarnError: the name or an option is unknown or out of range, or the sizes are missing.

    Example:
        >>> model = build("caml", vocabulary_size=100, tasks={"icd": 50}, filters=20)
        >>> model.name, model.tasks
        ('caml', {'icd': 50})
    """
    cls, arguments = system(name), check_options(name, options)
    seed = check("seed", Seed, seed)
    if corpus is not None:
        corpus = as_corpus(corpus)
        vocabulary_size = vocabulary_size or len(corpus.vocabulary)
        tasks = tasks or corpus.tasks
        arguments = cls.options_from_corpus(corpus) | arguments
    if issubclass(cls, TextSystem):
        if tasks is None:
            raise MarnError("build needs a corpus, or tasks")
        reader = cls(tasks=tasks, seed=seed, **arguments)
        reader.options = arguments | {"seed": seed}
        return cast(Coder, reader)
    given = {"vectors", "embedding_size"} & set(options)
    if corpus is not None and corpus.vectors is not None and not given:
        arguments["vectors"] = torch.from_numpy(np.array(corpus.vectors, np.float32))
    if vocabulary_size is None or tasks is None:
        raise MarnError("build needs a corpus, or both vocabulary_size and tasks")
    if not isinstance(arguments.get("vectors"), Tensor | NoneType):
        arguments["vectors"] = _vectors(arguments["vectors"], corpus, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(vocabulary_size=vocabulary_size, tasks=tasks, **arguments)
    _start(model, corpus)
    asked = {key: value for key, value in arguments.items() if key != "vectors"}
    model.options = model.saved_options(asked | {"seed": seed})
    return model


def _vectors(given: Any, corpus: Corpus | None, seed: int) -> Tensor:
    """Return word vectors as a tensor; a file or a lookup by word needs a corpus."""
    if isinstance(given, np.ndarray):
        return torch.tensor(given, dtype=torch.float32)
    if corpus is None:
        raise MarnError("vectors that are looked up by word need a corpus; give one to build")
    table, known = read_vectors(given, corpus.vocabulary, seed)
    words = len(corpus.vocabulary.words)
    sys.stderr.write(f"vectors: {known:,} of {words:,} words ({known / words:.1%})\n")
    return table


def _start(model: Coder, corpus: Corpus | None) -> None:
    """Initialise biases, queries and classifiers from a corpus, if the options ask for it."""
    if model.bias_start == "prior":
        if corpus is None:
            raise MarnError("bias_start='prior' needs a corpus, whose notes give the codes' shares")
        model.start_at_shares(corpus)
    if model.code_start == "titles":
        if corpus is None:
            raise MarnError("code_start='titles' needs a corpus, whose codes have titles")
        model.start_at_titles(corpus)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of a system without building it, and return them as `build` uses them.

    Raises:
        MarnError: the name or an option is unknown, or has the wrong type or range.
    """
    known = _options(system(name))
    for key in options:
        if key not in known:
            raise unknown(f"{name} has no option", key, known)
    return {key: _checked(key, *known[key], value) for key, value in options.items()}


def _options(cls: type[Coder]) -> dict[str, tuple[Any, Any]]:
    """Return the type and default of every option, whether shared or of this system."""
    found: dict[str, tuple[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Coder | TextSystem) or "__init__" not in vars(base):
            continue
        try:
            signature = inspect.signature(base.__init__, eval_str=True)
        except NameError:  # a user's class may name types that only a type checker sees
            signature = inspect.signature(base.__init__)
        for key, parameter in signature.parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and key not in _NOT_OPTIONS:
                kind = parameter.annotation
                found[key] = Any if isinstance(kind, str) else kind, parameter.default
    return found


def _checked(key: str, annotation: Any, default: Any, value: Any) -> Any:
    """Check an option that is a number, a string or a choice; systems check the others."""
    wanted = kinds(annotation)
    if annotation in (Sequence[int], tuple[int, int]):
        annotation = Sequence[_Size]
    elif not all(kind in _CHECKED or type(kind) is str for kind in wanted):
        return value
    elif int in wanted:
        least, most = key not in _MAY_BE_ZERO, 1 << 24 if key in _LONG else 1 << 16
        annotation = Annotated[annotation, Field(ge=least, le=most)]
    elif float in wanted:
        annotation = Annotated[annotation, Field(ge=0, lt=1 if key.endswith("dropout") else None)]
    return check(key, annotation, value, default)
