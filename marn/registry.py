"""The systems by name: `available` lists them, `build` makes one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from marn import baselines, models, reconstructions, transformers
from marn.errors import MarnError
from marn.models.base import Coder, CorpusLike, SharedOptions

for _package in (models, baselines, transformers, reconstructions):
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"{_package.__name__}.{_module.name}")

__all__ = ["available", "build"]


def available() -> list[str]:
    """Names of the systems that `build` knows, in alphabetical order."""
    return sorted(Coder.registry)


def build(
    name: str,
    corpus: CorpusLike | None = None,
    *,
    vocabulary_size: int | None = None,
    tasks: Mapping[str, int] | None = None,
    seed: int = 0,
    **options: Any,
) -> Coder:
    """Build a system by name, for a corpus or for sizes given as numbers.

    Args:
        name: one of `available()`.
        corpus: gives vocabulary, tasks and, where it has them, word vectors.
        vocabulary_size: embedding rows (words + 2); instead of a corpus.
        tasks: number of codes of each task; instead of a corpus, or some of its tasks.
        seed: of the initial weights; the caller's random state is left as it was.
        **options: hyper-parameters of the system and of `Coder`; the defaults are the papers'.

    Returns:
        The system, on the CPU, in training mode. `name` and `options` stay readable on it.

    Raises:
        MarnError: the name or an option is unknown or out of range, or the sizes are missing.
    """
    if name not in Coder.registry:
        near = difflib.get_close_matches(name, available(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; available are {available()}"
        raise MarnError(f"no system is named {name!r}{hint}")
    system = Coder.registry[name]
    own = [
        key
        for cls in system.__mro__
        if issubclass(cls, Coder) and cls is not Coder and "__init__" in cls.__dict__
        for key, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    known = sorted({*own, *SharedOptions.__annotations__} - {"vocabulary_size", "tasks"})
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {known}"
            raise MarnError(f"{name} has no option {option!r}{hint}")
    arguments = dict(options)
    if corpus is not None:
        vocabulary_size = vocabulary_size or len(corpus.vocabulary)
        tasks = tasks or corpus.tasks
        if corpus.vectors is not None and not {"vectors", "embedding_size"} & set(options):
            arguments["vectors"] = torch.from_numpy(np.array(corpus.vectors, np.float32))
        arguments = system.options_from_corpus(corpus) | arguments
    if vocabulary_size is None or tasks is None:
        raise MarnError("build needs a corpus, or both vocabulary_size and tasks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = system(vocabulary_size=vocabulary_size, tasks=tasks, **arguments)
    asked = {key: value for key, value in arguments.items() if key != "vectors"}
    model.options = model.saved_options(asked | {"seed": seed})
    return model
