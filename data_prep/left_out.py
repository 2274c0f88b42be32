"""Count what a corpus leaves out of its source, and warn if that is much."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

Item = TypeVar("Item")

LEAST: Final = 10
"""Fewest training notes, or fewest notes or rows of a source, for which a share gives a warning."""
LOUD: Final = 0.1
"""Share of the notes or rows of a source that, if left out, gives a warning."""
_LATER: Final = {  # dropped after the source has yielded its notes
    "notes without a word",
    "notes repeated within an admission",
    "notes without a split",
}
_CHOSEN: Final = ("notes of other categories", "rows of ICD-")


def counting(items: Iterable[Item], given: Counter[str], unit: str) -> Iterator[Item]:
    """Yield what a source yields, and count it.

    Args:
        items: notes or rows.
        given: counter to add to.
        unit: its key, "notes" or "rows".
    """
    for item in items:
        given[unit] += 1
        yield item


def unit_of(reason: str) -> str:
    """Return the unit that is counted for a reason of dropping: "notes", "rows", or "" for others.

    What was not asked for, such as notes of other categories, has no unit.
    """
    if any(chosen in reason for chosen in _CHOSEN):
        return ""
    if reason.startswith(("notes", "admissions with a note", "admissions without a kept")):
        return "notes"
    return "rows" if "rows" in reason.split() else ""


def add_dropped(given: Counter[str], dropped: Mapping[str, int]) -> None:
    """Add what a source left out to the counts of what it yielded."""
    for reason, count in dropped.items():
        if unit_of(reason) and reason not in _LATER and not reason.startswith("admissions"):
            given[unit_of(reason)] += count


def losses(given: Mapping[str, int], dropped: Mapping[str, int]) -> Iterator[str]:
    """Yield a warning if a tenth of the notes or rows was lost other than by the user's choice.

    Args:
        given: number of "notes" and "rows" of the source, with those left out.
        dropped: number left out, by reason.
    """
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
