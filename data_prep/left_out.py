"""Tell what share of a source a corpus leaves out, and when that deserves a warning."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

Item = TypeVar("Item")

LEAST: Final = 10
"""Training notes, or notes or rows given, from which on a share is worth a warning."""
LOUD: Final = 0.1
"""Share of the notes or rows that a corpus may lose without a warning."""
_LATER: Final = {  # counted after a source has handed its notes over
    "notes without a word",
    "notes repeated within an admission",
    "notes without a split",
}
_CHOSEN: Final = ("notes of other categories", "rows of ICD-")


def counting(items: Iterable[Item], given: Counter[str], unit: str) -> Iterator[Item]:
    """Yield what a source hands over, and count it."""
    for item in items:
        given[unit] += 1
        yield item


def unit_of(reason: str) -> str:
    """Return what a reason to drop something counts: "notes", "rows", or "" for others.

    What was not asked for, such as notes of other categories, is none of the notes.
    """
    if any(chosen in reason for chosen in _CHOSEN):
        return ""
    if reason.startswith(("notes", "admissions with a note", "admissions without a kept")):
        return "notes"
    return "rows" if "rows" in reason.split() else ""


def add_dropped(given: Counter[str], dropped: Mapping[str, int]) -> None:
    """Count what a source left out together with what it handed over."""
    for reason, count in dropped.items():
        if unit_of(reason) and reason not in _LATER and not reason.startswith("admissions"):
            given[unit_of(reason)] += count


def losses(given: Mapping[str, int], dropped: Mapping[str, int]) -> Iterator[str]:
    """Say so where a tenth of the notes or rows is lost, and not because the user chose it."""
    versions = any("rows of ICD-" in reason and count for reason, count in dropped.items())
    for unit in ("notes", "rows"):
        lost = {
            reason: count
            for reason, count in dropped.items()
            if unit_of(reason) == unit
            and count
            and not reason.startswith("admissions without a kept")
            and not (versions and reason.startswith("admissions"))
        }
        if given[unit] >= LEAST and sum(lost.values()) >= LOUD * given[unit]:
            reasons = sorted(lost, key=lambda reason: -lost[reason])
            said = ", ".join(f"{lost[reason]:,} {reason}" for reason in reasons[:3])
            yield (
                f"{sum(lost.values()) / given[unit]:.0%} of the {unit} were left out "
                f"({sum(lost.values()):,} of {given[unit]:,}): {said}; look into the tables"
            )
