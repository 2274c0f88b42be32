"""Define findings, their report, and the codes that they name."""

import hashlib
import textwrap
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from data_prep.code_systems.systems import dotted_icd9, known
from data_prep.prepare import Pair
from data_prep.tables import shipped
from marn.corpus.codes import KINDS, undotted
from marn.privacy import MINIMUM_CELL

EXAMPLES: Final = 8
"""Maximum number of codes named in a finding."""

_NO_PEOPLE: Final = ("codes", "categories")


@dataclass(frozen=True)
class Finding:
    """One count of the audit."""

    name: str  # such as "unmapped codes", different for every finding of an audit
    count: int
    of: int  # among how many
    unit: str  # what is counted: "codes", "categories", "notes", "patients", "admissions" or "rows"
    examples: tuple[str, ...]  # a few codes, the most frequent first; never text, never an id
    meaning: str  # why it matters
    remedy: str  # what to do about it


def finding(
    name: str, count: int, of: int, examples: Iterable[str] = (), **parts: object
) -> Finding:
    """Make a finding with the texts of `findings.csv`.

    Args:
        name: as in the table, with its placeholders ("codes absent from {split}").
        count: how many there are.
        of: among how many.
        examples: codes.
        **parts: values of the placeholders in name, meaning and remedy.
    """
    row = {row["name"]: row for row in shipped("audit/findings.csv")}[name]
    name, meaning, remedy = (row[key].format(**parts) for key in ("name", "meaning", "remedy"))
    return Finding(name, count, of, row["unit"], tuple(examples), meaning, remedy)


def report(findings: Sequence[Finding]) -> str:
    """Return findings as text: count and name, examples, what it means, and what to do."""
    lines = []
    for found in findings:
        counted = f"{found.count:,} of {found.of:,} {found.unit}"
        lines.append(f"{counted:>30}  {found.name}")
        below = [", ".join(found.examples)] if found.examples else []
        below.append(found.meaning + (f" {found.remedy}" if found.count else ""))
        lines += [f"{'':32}{line}" for text in below for line in textwrap.wrap(text, 70)]
    return "\n".join(lines)


def to_json(findings: Sequence[Finding], *, is_open: bool) -> list[dict[str, Any]]:
    """Return findings as JSON objects, with small counts of people blurred unless `is_open`."""
    written = []
    for found in findings:
        row = asdict(found) | {"examples": list(found.examples)}
        if found.unit not in _NO_PEOPLE:
            row |= {key: blurred(row[key], is_open=is_open) for key in ("count", "of")}
        written.append(row)
    return written


def blurred(count: int, *, is_open: bool) -> int | str:
    """Return a count, or "1 to 10" for a small count of credentialed data."""
    small = 0 < count < MINIMUM_CELL
    return f"1 to {MINIMUM_CELL - 1}" if small and not is_open else count


@dataclass(frozen=True)
class Codes:
    """The codes under audit."""

    # how many notes, or rows of raw tables, have each (kind, dotted code)
    frequency: Mapping[Pair, int]
    is_open: bool  # whether rare codes may be examples

    @property
    def is_icd9(self) -> bool:
        """Whether most codes look like ICD-9-CM, including stubs such as "45."."""
        forms = [dotted_icd9(kind, code.rstrip(".")) for kind, code in self.frequency]
        kinds = {kind for kind, _ in self.frequency}
        return kinds <= set(KINDS) and forms.count(None) <= len(forms) / 2

    def examples(
        self, pairs: Iterable[Pair], write: Callable[[Pair], str] = lambda pair: pair[1]
    ) -> tuple[str, ...]:
        """Return the names of some of these codes, most frequent first."""
        least = 0 if self.is_open else MINIMUM_CELL
        shown = [pair for pair in pairs if self.frequency[pair] >= least]
        shown.sort(key=lambda pair: (-self.frequency[pair], pair))
        return tuple(write(pair) for pair in shown[:EXAMPLES])

    def codings(self, pairs: Iterable[Pair]) -> str:
        """Return how often these codes occur in all."""
        count = blurred(sum(self.frequency[pair] for pair in pairs), is_open=self.is_open)
        return count if isinstance(count, str) else f"{count:,}"

    def finding(
        self,
        name: str,
        chosen: Collection[Pair],
        among: Collection[Pair] | None = None,
        write: Callable[[Pair], str] = lambda pair: pair[1],
        **parts: object,
    ) -> Finding:
        """Make a finding about the codes `chosen` from `among` (None: from all), with examples."""
        of = self.frequency if among is None else among
        return finding(name, len(chosen), len(of), self.examples(chosen, write), **parts)

    def both_kinds(self) -> Finding:
        """Count the codes that are written like one of the other kind."""
        both = [pair for pair in self.frequency if other_kind(pair)]
        return self.finding(
            "codes of both kinds", both, write=lambda pair: f"{pair[1]} ({other_kind(pair)})"
        )

    def unknown(self) -> Finding:
        """Count the codes that no table lists."""
        missing = [pair for pair in self.frequency if pair[1] not in known(pair[0])]
        return self.finding("codes in no table of codes", missing)

    def unmapped(self, pairs: Sequence[Pair], without: Sequence[Pair], asked: str = "") -> Finding:
        """Count the codes without a category; `asked` says if not all were looked up."""
        codings = self.codings(without)
        return self.finding("unmapped codes", without, pairs, codings=codings, asked=asked)

    def top50(self) -> Finding:
        """Compare the most frequent codes, chosen as preparation does, with CAML's list."""
        order = sorted(self.frequency, key=lambda pair: (-self.frequency[pair], pair[1]))
        mine, reference = order[:50], caml_top50()
        extra = [pair for pair in mine if pair not in reference]
        lacking = [code for kind, code in reference if (kind, code) not in mine]
        missing = f"it lacks {', '.join(lacking[:EXAMPLES])}" if lacking else "the same codes"
        if len(lacking) > EXAMPLES:
            missing += f" and {len(lacking) - EXAMPLES} more"
        hashes = [codes_hash(code for _, code in pairs)[:12] for pairs in (mine, reference)]
        name = "top 50 that are not CAML's"
        return self.finding(name, extra, mine, mine=hashes[0], reference=hashes[1], missing=missing)


def caml_top50() -> list[Pair]:
    """Return the 50 codes of CAML's preparation of MIMIC-III, most frequent first.

    References:
        Mullenbach et al., Explainable Prediction of Medical Codes from Clinical Text, 2018, and
        the list that their public preparation makes.
    """
    return [(row["kind"], row["code"]) for row in shipped("audit/caml_top50.csv")]


def codes_hash(codes: Iterable[str]) -> str:
    """Return the SHA-256 of a list of dotted codes, sorted, one per line."""
    return hashlib.sha256("".join(f"{code}\n" for code in sorted(codes)).encode()).hexdigest()


def other_kind(pair: Pair) -> str | None:
    """Return the known code of the other kind with the same digits, or None."""
    other = KINDS[1 - KINDS.index(pair[0])]
    found = dotted_icd9(other, undotted(pair[1]))
    return found if found in known(other) else None


def collisions(numbers: Mapping[str, Iterable[int]]) -> Finding:
    """Count the category numbers that both kinds use, given those in use for each kind."""
    used = Counter(number for kind in KINDS for number in set(numbers[kind]))
    merged = sorted(number for number, kinds in used.items() if kinds > 1)
    return finding(
        "CCS collisions under the merged key",
        len(merged),
        len(used),
        map(str, merged[:EXAMPLES]),
        apart=used.total(),
        union=len(used),
    )
