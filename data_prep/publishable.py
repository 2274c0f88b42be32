"""What a result made from credentialed text may hold: aggregates, and no small cells.

`data_prep.commit_check` applies this to every JSON file that names a credentialed corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from marn.privacy import MINIMUM_CELL

__all__ = ["NOTE_SIGNS", "PUBLISHABLE", "first_sign", "withheld"]

PUBLISHABLE: Final[Mapping[str, str]] = {
    "how it was made": "command seed seeds created provenance marn commit python torch numpy "
    "sklearn scipy machine cpu_capability threads gpu device seconds minutes memory_mb "
    "settings method baseline",
    "which corpus": "corpus name source text open language licence citation hash format ccs_key "
    "codes_hash split_rule",
    "people": "notes subjects patients admissions rows support positives dropped count of n",
    "counts": "codes tasks icd ccs tokens words types parameters splits train dev test epochs "
    "best_epoch vocabulary_size labels",
    "scores": "micro_* macro_* precision* recall* f1 f1_* auc auc_* *average_precision* loss_* "
    "loss ranking* score scores",
    "statistics": "mean sd median low high min max share difference minus differences summary "
    "results p_value p_values interval quantiles bins edges threshold thresholds resamples",
    "codes": "code kind title category parent examples",
    "systems": "system systems model options task rule figure reading variant alpha gamma "
    "learning_rate weight_decay batch_size patience monitor max_length hidden_size filters "
    "dropout clip_norm task_weights",
    "an audit": "findings unit meaning remedy",
}
"""Keys that a result made from credentialed text may have: aggregates. A star matches anything.

Everything else is refused: words (a vocabulary, top words), text, ids, dates, weights, anything
about a single note. Below a key of "people", keys are free (they are reasons, splits, groups), but
no number may be from 1 to `MINIMUM_CELL - 1`."""

_PEOPLE: Final = frozenset(PUBLISHABLE["people"].split())
_NO_PEOPLE: Final = frozenset({"codes", "categories", "splits"})  # units of a finding
_PATTERNS: Final = tuple(pattern for group in PUBLISHABLE.values() for pattern in group.split())
_LONGEST: Final = 400  # characters of one text in a result

NOTE_SIGNS: Final = {
    "a placeholder of MIMIC-III's de-identification": re.compile(r"\[\*\*[^\[\]\n]{1,80}\*\*\]"),
    "a blank of MIMIC-IV's de-identification": re.compile(
        r"(?:Name|Unit No|Admission Date|Discharge Date|Date of Birth|Attending):\s+___"
    ),
}
"""Patterns of note text, each taking time linear in the text, by what they are."""


def first_sign(text: str, signs: Mapping[str, re.Pattern[str]]) -> str | None:
    """Return what the first pattern that occurs in the text is a sign of."""
    return next((what for what, sign in signs.items() if sign.search(text)), None)


def withheld(result: Any) -> list[str]:
    """List what keeps a result made from credentialed text from being published.

    Args:
        result: parsed JSON.

    Returns:
        One line per place; empty if all of it may be published.

    Example:
        >>> withheld({"scores": {"micro_f1": 0.6}, "notes": 3, "vocabulary": ["fever"]})
        ['notes is 3, a cell below 11', 'vocabulary is not on the list of what may be published']
    """
    return list(_withheld(result, "", people=False))


def _withheld(value: Any, place: str, *, people: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        counts_people = value.get("unit") not in _NO_PEOPLE
        for key, inner in value.items():
            where = f"{place}.{key}".lstrip(".")
            if not people and not any(fnmatchcase(key, pattern) for pattern in _PATTERNS):
                yield f"{where} is not on the list of what may be published"
            else:
                below = people or (key in _PEOPLE and counts_people)
                yield from _withheld(inner, where, people=below)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            # records are judged by their keys: "rows" may be the scores of systems
            counts = people and not isinstance(inner, Mapping)
            yield from _withheld(inner, f"{place}[{number}]", people=counts)
    elif isinstance(value, str):
        if len(value) > _LONGEST or "\n" in value:
            yield f"{place} is a text of {len(value)} characters"
        elif found := first_sign(value, NOTE_SIGNS):
            yield f"{place} holds {found}"
    elif people and isinstance(value, int | float) and 0 < value < MINIMUM_CELL:
        yield f"{place} is {value}, a cell below {MINIMUM_CELL}"
