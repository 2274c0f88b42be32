"""Check that a result made from credentialed text has aggregates only, and no small cells.

`data_prep.commit_check` applies this to every JSON file that names a credentialed corpus.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from data_prep.note_signs import placeholder
from marn.privacy import MINIMUM_CELL

PUBLISHABLE: Final[Mapping[str, str]] = {
    "how it was made": "command seed seeds created provenance marn commit python torch numpy "
    "sklearn scipy machine processor cores cpu_capability threads gpu device seconds minutes "
    "memory_mb settings method baseline",
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
"""Keys of aggregates, which a result made from credentialed text may have. A star matches anything.

Everything else is refused: words (a vocabulary, top words), text, ids, dates, weights, anything
about a single note. Below a key of "people", keys are free (they are reasons, splits, groups), but
no number may be from 1 to `MINIMUM_CELL - 1`."""

_PEOPLE: Final = frozenset(PUBLISHABLE["people"].split())
_NO_PEOPLE: Final = frozenset({"codes", "categories", "splits"})  # units of a finding
_PATTERNS: Final = tuple(pattern for group in PUBLISHABLE.values() for pattern in group.split())
_NUMBERS: Final = (
    "words", "tokens", "types", "parameters", "vocabulary_size", "epochs", "best_epoch", "micro_*",
    "macro_*", "precision*", "recall*", "f1", "f1_*", "auc", "auc_*", "*average_precision*",
    "loss_*", "mean", "sd", "median", "low", "high", "min", "max", "share", "p_value*", "quantiles",
)  # fmt: skip
_LONGEST: Final = 400  # characters of one text in a result
_LONGEST_KEY: Final = 80


def withheld(result: Any) -> list[str]:
    """List what keeps a result made from credentialed text from being published.

    Args:
        result: parsed JSON.

    Returns:
        One line per place, which shows nothing of a note; empty if all of it may be published.

    Example:
        >>> withheld({"scores": {"micro_f1": 0.6}, "notes": 3, "vocabulary": ["fever"]})
        ['notes is 3, a cell below 11', 'vocabulary is not on the list of what may be published']
    """
    return list(_withheld(result, "", people=False, number=False))


def _withheld(value: Any, place: str, *, people: bool, number: bool) -> Iterator[str]:
    """Yield what must be withheld in a part of a result.

    Args:
        value: the part.
        place: its path.
        people: whether a key above says that the part counts people or notes.
        number: whether a key above says that the part holds numbers.
    """
    if isinstance(value, Mapping):
        counts_people = value.get("unit") not in _NO_PEOPLE
        for key, inner in value.items():
            named = bool(re.fullmatch(r"[\w@-]{1,30}", key))  # any other key may be text of a note
            where = f"{place}.{key if named else '…'}".lstrip(".")
            if len(key) > _LONGEST_KEY or placeholder(key):
                yield f"{where} is a text as a key"
            elif not people and not _is_any(key, _PATTERNS):
                yield f"{where} is not on the list of what may be published"
            else:
                counted = key in _PEOPLE and (counts_people or key not in ("count", "of", "n"))
                below = people or counted
                numeric = number or below or _is_any(key, _NUMBERS)
                yield from _withheld(inner, where, people=below, number=numeric)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            # records are judged by their keys: "rows" may be the scores of systems
            promised = not isinstance(inner, Mapping)
            yield from _withheld(
                inner, f"{place}[{index}]", people=people and promised, number=number and promised
            )
    elif isinstance(value, str):
        if len(value) > _LONGEST or "\n" in value:
            yield f"{place} is a text of {len(value)} characters"
        elif found := placeholder(value):
            yield f"{place} holds {found}"
        elif number and not re.fullmatch(r"\d+ (?:to|or) \d+", value):
            yield f"{place} is a text instead of a number"
    elif people and isinstance(value, int | float) and 0 < value < MINIMUM_CELL:
        yield f"{place} is {value}, a cell below {MINIMUM_CELL}"


def _is_any(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
