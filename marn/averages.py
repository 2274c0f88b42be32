"""Average trained runs into one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marn.errors import MarnError
from marn.readers.average import Average, Pool, Weight
from marn.saving import load_model
from marn.settings import check


def average(
    runs: Sequence[str | Path], weights: Sequence[float] | None = None, pool: Pool = "probabilities"
) -> Average:
    """Combine trained models into one that averages their probabilities or logits.

    Args:
        runs: at least two run directories of models with the same words and codes.
        weights: weight of each run, above 0; only their ratio matters. By default they are equal.
            Choose them on dev notes.
        pool: `"probabilities"` or `"logits"`, see `marn.readers.average.Average`.

    Raises:
        MarnError: there are fewer than two runs, one contains no model, their words or codes
            differ, the weights are not one number above 0 per run, or `pool` is unknown.

    Example:
        >>> model = average(["runs/network", "runs/stack"], [0.7, 0.3])  # doctest: +SKIP
        >>> marn.evaluate(model, corpus, threshold="dev")  # doctest: +SKIP
    """
    if len(runs) < 2:
        raise MarnError(f"an average needs at least two runs, but got {len(runs)}")
    shares = check("weights", Sequence[Weight], weights or [1.0] * len(runs))
    if len(shares) != len(runs):
        raise MarnError(f"weights must be one for each of {len(runs)} runs, but got {len(shares)}")
    check("pool", Pool, pool)
    saved = [load_model(run) for run in runs]
    first = saved[0]
    for run, other in zip(runs, saved, strict=True):
        if other.model.fingerprint != first.model.fingerprint:
            raise MarnError(
                f"{run} has other words or codes than {runs[0]}; average runs of one corpus"
            )
    options: dict[str, Any] = {
        "members": [one.model.name for one in saved],
        "weights": [*shares],
        "pool": pool,
    }
    whole = Average(tasks=first.model.tasks, **options)
    whole.options = options | {"seed": 0}
    whole.fingerprint = first.model.fingerprint
    return whole.hold([one.model for one in saved], first.vocabulary)
