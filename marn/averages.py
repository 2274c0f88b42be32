"""Make an average of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marn.errors import MarnError
from marn.readers.average import Average
from marn.saving import load_model


def average(runs: Sequence[str | Path]) -> Average:
    """Average the probabilities of trained models: one model, made of all of them.

    Args:
        runs: run directories of models of the same words and codes, at least two.

    Returns:
        A system that `predict`, `evaluate`, `tune_thresholds` and `marn.saving.save_model` take.

    Raises:
        MarnError: there are fewer than two runs, one holds no model, or two of them do not know
            the same words and codes.

    Example:
        >>> model = average(["runs/network", "runs/stack"])  # doctest: +SKIP
        >>> marn.evaluate(model, corpus, threshold="dev")  # doctest: +SKIP
    """
    if len(runs) < 2:
        raise MarnError(f"an average needs at least two runs, but got {len(runs)}")
    saved = [load_model(run) for run in runs]
    first = saved[0]
    for run, other in zip(runs, saved, strict=True):
        if other.model.fingerprint != first.model.fingerprint:
            raise MarnError(
                f"{run} knows other words or codes than {runs[0]}; average runs of one corpus"
            )
    members: list[dict[str, Any]] = []
    for one in saved:
        size = one.card["embedding_size"]
        options = one.card["options"] | ({} if size is None else {"embedding_size": size})
        members.append({"name": one.card["name"], "options": options})
    whole = Average(tasks=first.model.tasks, members=members)
    whole.options = {"members": members, "seed": 0}
    whole.fingerprint = first.model.fingerprint
    return whole.hold([one.model for one in saved], first.vocabulary)
