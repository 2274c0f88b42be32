"""Score files of predictions of any system, with bootstrap intervals and paired tests.

Rows are matched to the corpus by note and code. A file of assigned codes has no ranking, so AUC,
mean average precision and precision at k are not computed. Notes of the split that a file lacks
count as notes without codes. Whatever does not match the corpus is counted and reported.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from marn.corpus import Corpus
from marn.corpus.columns import ID_NAMES, SEPARATOR_LINE, alias, encoding_of, plain_id, shown
from marn.corpus.loose_tables import check_unfolds, find_column, header_of
from marn.errors import MarnError
from marn.resampling import Estimate, Floats, Measure, difference, holm, interval
from marn.settings import read_json

CODE_NAMES: Final = ("code", "icd_code", "icd9_code", "icd10_code", "label")
PROBABILITY_NAMES: Final = ("probability", "prob", "score", "p")
KINDS: Final = (".csv", ".tsv", ".parquet", ".jsonl", ".psv")
KS: Final = (5, 8, 15)
_ROWS = 256  # notes ranked at once
_DECISIONS = 1 << 20  # pairs of note and code looked up at once


@dataclass(frozen=True)
class FilePredictions:
    """The predictions in a file for the N notes and C codes of a split."""

    name: str
    """Name of the file."""
    targets: NDArray[np.bool_]
    """(N, C): the codes that each note has in the corpus."""
    assigned: NDArray[np.bool_]
    """(N, C): the codes that the file assigns."""
    probabilities: Floats | None
    """(N, C) float32 in [0, 1]; None unless the file ranks all codes of all notes."""
    remarks: list[str]
    """Sentences about what does not match the corpus."""


def read_predictions(
    path: Path, corpus: Corpus, split: str = "test", task: str = "icd", threshold: float = 0.5
) -> FilePredictions:
    """Read predictions for a split of a corpus.

    Args:
        path: `.csv`, `.tsv` or `.parquet`, long (note, code, perhaps probability and assigned) or
            wide (note, and a column per code); `.jsonl` of `marn predict`; or CAML's `.psv`.
        corpus: the corpus with these notes and codes.
        split: split of the corpus.
        task: task whose codes are predicted.
        threshold: probability above which a code is assigned, unless the file says which are.

    Raises:
        MarnError: the file is of an unknown kind or damaged, a probability is not in [0, 1], or
            none of its notes or codes belongs to the split.
    """
    if not path.is_file():
        raise MarnError(f"{path} does not exist; give a file of predictions")
    targets, width = corpus[split].targets(task), corpus.tasks[task]
    ids = {str(note): place for place, note in enumerate(corpus[split].ids)}
    matcher = _Matcher(path, ids, [entry.code for entry in corpus.codes[task]])
    values = np.full((len(ids), width), np.nan, np.float32)
    chosen = np.zeros((len(ids), width), dtype=bool)
    frame = _read(path)
    if "code" in frame.columns:
        decided = _fill_long(frame, matcher, values, chosen)
    else:
        decided = _fill_wide(frame, matcher, values)
    if not matcher.notes:
        raise MarnError(
            f"{path} has no note of split {split!r} of {corpus.name!r}; check ids and split"
        )
    given = ~np.isnan(values)
    if given.any() and (values[given].min() < 0 or values[given].max() > 1):
        raise MarnError(f"{path} has a probability outside [0, 1]; apply a sigmoid to logits")
    if not decided:
        chosen = given & (values > threshold)
    remarks = matcher.remarks(len(ids))
    ranks = bool(given.all()) and not np.isin(values, (0, 1)).all()
    if not ranks:
        what = "says 0 or 1" if given.all() else "does not rank all codes of all notes"
        remarks.append(f"the file {what}, so AUC, MAP and precision at k are left out")
    return FilePredictions(path.name, targets, chosen, values if ranks else None, remarks)


class _Matcher:
    """Match the notes and codes that a file names to the corpus, and collect unknown ones."""

    def __init__(self, path: Path, ids: Mapping[str, int], codes: list[str]) -> None:
        self.path, self._ids = path, ids
        spelled = Counter(map(alias, ids))
        self._aliases = {alias(i): p for i, p in ids.items() if spelled[alias(i)] == 1}
        self._codes = {code: place for place, code in enumerate(codes)}
        plain = [code.replace(".", "") for code in codes]
        several = Counter(plain)
        # a code may be written without its dot, unless two codes are then the same
        self._codes |= {c: i for i, c in enumerate(plain) if several[c] == 1}
        self.notes: set[int] = set()
        # {canonical spelling: spelling in the file}
        self._unknown: dict[str, dict[str, str]] = {"notes": {}, "codes": {}}
        self.twice = 0  # rows that repeat a note and code

    def note(self, written: str) -> int:
        """Return the index of a note in the split, or -1."""
        whole = plain_id(re.sub(r"\.0+$", "", written))
        place = self._ids.get(written, self._ids.get(whole, self._aliases.get(alias(whole), -1)))
        if place < 0:
            self._unknown["notes"].setdefault(alias(whole), written)
        self.notes |= {place} - {-1}
        return place

    def code(self, written: str) -> int:
        """Return the column of a code, or -1."""
        code = shown(written)
        place = self._codes.get(code, self._codes.get(code.upper(), -1))
        if place < 0:
            self._unknown["codes"].setdefault(code.upper().replace(".", ""), code)
        return place

    def remarks(self, size: int) -> list[str]:
        """List what does not match, in sentences, for a split of `size` notes."""
        found = []
        if missing := size - len(self.notes):
            found.append(f"{missing:,} of {size:,} notes are missing; they count as without codes")
        for what, unknown in self._unknown.items():
            if unknown:
                # a column that has slipped may hold a text, which is not shown
                shown = [text for text in unknown.values() if re.fullmatch(r"[\w.:-]{1,20}", text)][
                    :3
                ]
                more = ["…"] if len(unknown) > len(shown) else []
                examples = f" ({', '.join([*shown, *more])})" if shown else ""
                where = "the split" if what == "notes" else "the corpus"
                noun = what if len(unknown) != 1 else what.removesuffix("s")
                found.append(f"not in {where}, and left out: {len(unknown):,} {noun}{examples}")
        if self.twice:
            found.append(f"rows that repeat a note and code: {self.twice:,}; the largest counts")
        return found


def _read(path: Path) -> pl.DataFrame:
    """Return the rows, with ids in column `note_id`; a long table has a column `code`."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise MarnError(f"{path} cannot be read; give {', '.join(KINDS)}")
    if not path.stat().st_size:
        raise MarnError(f"{path} is empty; give a table with rows below its header")
    encoding = encoding_of(path) if kind != ".parquet" else ""
    try:
        if kind in (".psv", ".jsonl"):
            rows = (_psv if kind == ".psv" else _jsonl)(path, encoding)
            schema = ("note_id", "code", "probability", "assigned")
            return pl.DataFrame(list(rows), schema=schema, orient="row")
        if kind in (".csv", ".tsv"):
            with path.open(encoding=encoding, newline="") as lines:
                first = lines.readline()
                above = 1 if SEPARATOR_LINE.fullmatch(first) else 0
                first = lines.readline() if above else first
                second = lines.readline()
            mark, header = header_of(first, {})
            is_long = find_column(header, CODE_NAMES) is not None
            place = find_column(header, ID_NAMES) or (header or [""])[0]
            kinds = {c: pl.String if is_long or c == place else pl.Float32 for c in header}
            is_utf8 = encoding == "utf-8-sig"  # polars reads nothing else
            source = path if is_utf8 else path.read_text(encoding=encoding).encode()
            by_comma = mark != "," and re.search(r"\d,\d", second) is not None
            try:
                frame = pl.read_csv(
                    source,
                    separator=mark,
                    skip_rows=above,
                    schema_overrides=kinds,
                    decimal_comma=by_comma,
                )
            except pl.exceptions.ComputeError:
                _check_numbers(path, source, mark, place, above)
                raise
        else:
            check_unfolds(path)
            frame = pl.read_parquet(path)
    except MarnError:
        raise
    except (pl.exceptions.PolarsError, OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__  # the error's text may quote a cell
        raise MarnError(f"{path} cannot be read ({reason}); check the table") from None
    if frame.is_empty():
        raise MarnError(f"{path} holds no prediction; give a table with rows below its header")
    columns = frame.columns
    names = {find_column(columns, ID_NAMES) or columns[0]: "note_id"}
    if code := find_column(columns, CODE_NAMES):
        names[code] = "code"
        if probability := find_column(columns, PROBABILITY_NAMES):
            names[probability] = "probability"
    return frame.rename(names)


def _check_numbers(path: Path, source: Path | bytes, mark: str, ids: str, above: int) -> None:
    """Name the first column of a wide table that does not hold numbers."""
    frame = pl.read_csv(source, separator=mark, skip_rows=above, infer_schema=False, n_rows=1000)
    for name in frame.columns:
        numbers = frame[name].cast(pl.Float32, strict=False)
        if name != ids and numbers.null_count() > frame[name].null_count():
            shown = name if re.fullmatch(r"[\w.-]{1,40}", name) else "(a text)"
            raise MarnError(
                f"{path} has a column {shown} without probabilities; give note_id, code and "
                "probability, or note_id and a column of probabilities for each code"
            )


def _psv(path: Path, encoding: str) -> Iterator[tuple[str, str, float, int]]:
    """Yield the rows of CAML's format: lines `hadm_id|code|code`, or `hadm_id|` without codes."""
    for line in path.read_text(encoding=encoding).splitlines():
        note, *codes = line.split("|")
        for code in codes if any(codes) else [""]:
            yield note, code, 1.0, 1


def _jsonl(path: Path, encoding: str) -> Iterator[tuple[str, str, float, int]]:
    """Yield the rows of a JSONL file that `marn predict` wrote."""
    none: list[Any] = [{"code": "", "probability": 0, "assigned": False}]
    with path.open(encoding=encoding) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = read_json(line)
                yield from [
                    (row["note_id"], code["code"], code["probability"], int(code["assigned"]))
                    for code in row["codes"] or none
                ]
            except (KeyError, TypeError, ValueError):
                raise MarnError(
                    f"{path}, line {number} must be an object as marn predict writes it, with "
                    "note_id, and codes with code, probability and assigned; correct it"
                ) from None


def _fill_long(
    frame: pl.DataFrame, matcher: _Matcher, values: Floats, chosen: NDArray[np.bool_]
) -> bool:
    """Fill in a long table of note, code and probability.

    Args:
        frame: its rows.
        matcher: finds notes and codes.
        values: (N, C) probabilities, changed in place.
        chosen: (N, C) assigned codes, changed in place.

    Returns:
        Whether the table says which codes are assigned.
    """
    texts = frame.select(pl.col("note_id", "code").cast(pl.String).fill_null("").str.strip_chars())
    notes = _places(texts["note_id"], matcher.note)
    codes = _places(texts["code"], matcher.code)
    numbers = {}
    for name in ("probability", "assigned"):
        if name in frame.columns:
            given = frame[name]
            if given.dtype == pl.String:
                given = given.str.replace(",", ".", literal=True)
            column = given.cast(pl.Float64, strict=False).to_numpy()
            numbers[name] = np.where(codes < 0, 0.0, column)
            if np.isnan(numbers[name]).any():
                raise MarnError(f"{matcher.path} has a {name} that is not a number; correct it")
    known = (notes >= 0) & (codes >= 0)
    places = notes[known], codes[known]
    matcher.twice = len(places[0]) - len(np.unique(places[0] * values.shape[1] + places[1]))
    column = numbers.get("probability", np.ones(len(notes)))[known].astype(np.float32)
    np.fmax.at(values, places, column)
    if "probability" in numbers and "assigned" not in numbers:
        return False
    np.logical_or.at(chosen, places, numbers.get("assigned", np.ones(len(notes)))[known] > 0)
    return True


def _places(column: pl.Series, find: Callable[[str], int]) -> NDArray[np.intp]:
    """Return the index for each row of a column, (R,), -1 if unknown or empty.

    Each distinct text is looked up once.
    """
    distinct = column.unique(maintain_order=True).to_list()
    found = {text: find(text) if text else -1 for text in distinct}
    return column.replace_strict(found, return_dtype=pl.Int64).to_numpy()


def _fill_wide(frame: pl.DataFrame, matcher: _Matcher, values: Floats) -> bool:
    """Fill in a table with a column per code; return False, as it does not say what is assigned.

    The arguments are those of `_fill_long`.
    """
    names = [name for name in frame.columns if name != "note_id"]
    codes = np.array([matcher.code(name.strip()) for name in names], dtype=np.intp)
    if not (codes >= 0).any():
        raise MarnError(
            f"{matcher.path} has neither a column code nor a column named as a code of the corpus; "
            "check its header"
        )
    known = [name for name, place in zip(names, codes, strict=True) if place >= 0]
    ids = frame["note_id"].cast(pl.String).fill_null("").str.strip_chars().to_list()
    notes = np.array([matcher.note(note) for note in ids], dtype=np.intp)
    matcher.twice = int((notes >= 0).sum()) - len(matcher.notes)
    try:
        table = frame.select(known).cast(pl.Float32).to_numpy()
    except pl.exceptions.PolarsError:
        raise MarnError(f"{matcher.path} has a cell that is not a number; correct it") from None
    np.fmax.at(values, np.ix_(notes[notes >= 0], codes[codes >= 0]), table[notes >= 0])
    return False


# -- scores, intervals and tests -------------------------------------------------------------------


def report(given: FilePredictions, resamples: int = 1000, seed: int = 0) -> Iterator[str]:
    """Describe the scores of a file in lines, with 95 % bootstrap intervals over notes.

    Args:
        given: from `read_predictions`.
        resamples: number of bootstrap samples.
        seed: seed of the samples.
    """
    size, width = given.targets.shape
    yield f"{given.name}: {size:,} notes, {width:,} codes, {int(given.assigned.sum()):,} assigned"
    yield from (f"  note: {remark}" for remark in given.remarks)
    ranking = _ranking(given)
    found = interval([_table(given, ranking)], _measure(width, [*ranking]), resamples, seed)
    for name, figure in found.items():
        bounds = f"{figure.low:.3f} to {figure.high:.3f}"
        if not figure.low <= figure.value <= figure.high:
            bounds += "; too low: codes of few notes drop out of resamples"
        yield f"  {name:24s} {figure.value:6.3f}   {bounds}"


def compare(
    files: Sequence[FilePredictions], resamples: int = 1000, seed: int = 0
) -> Iterator[str]:
    """Describe in lines how the files differ, for each pair of files.

    Each score that both files have is given with the difference, its 95 % bootstrap interval over
    notes, and the p-value of a permutation test that swaps the two predictions of randomly chosen
    notes. With more than two files, p is also corrected for the number of pairs, separately for
    each score.

    Args:
        files: from `read_predictions`, for the same split and task.
        resamples: number of bootstrap samples, and of permutations.
        seed: seed of both.

    Raises:
        MarnError: the files differ in the number of notes or codes.
    """
    rankings = [_ranking(file) for file in files]
    pairs: dict[tuple[int, int], dict[str, Estimate]] = {}
    for one, other in combinations(range(len(files)), 2):
        names = [name for name in rankings[one] if name in rankings[other]]
        ours, theirs = (
            _table(files[i], {name: rankings[i][name] for name in names}) for i in (one, other)
        )
        measure = _measure(files[one].targets.shape[1], names)
        pairs[one, other] = difference([ours], [theirs], measure, resamples, seed)
    for (one, other), found in pairs.items():
        yield (
            f"{files[one].name} minus {files[other].name}, p by {resamples:,} permutations of notes"
            + (f", and corrected for {len(pairs)} pairs (Holm)" if len(pairs) > 1 else "")
        )
        for name, gap in found.items():
            family = {pair: of[name].p for pair, of in pairs.items() if name in of}
            corrected = dict(zip(family, holm([*family.values()]), strict=True))[one, other]
            more = f"   corrected {corrected:.3f}" if len(pairs) > 1 else ""
            bounds = f"{gap.low:+.3f} to {gap.high:+.3f}   p = {gap.p:.3f}"
            yield f"  {name:24s} {gap.value:+.3f}   {bounds}{more}"


def _table(given: FilePredictions, ranking: Mapping[str, Floats]) -> sparse.csr_array:
    """Return each note's contribution to the sums, (N, 3 C + 2 R), for C codes and R rankings."""
    tables = (given.assigned & given.targets, given.assigned, given.targets)
    parts = [sparse.csr_array(table.astype(float)) for table in tables]
    parts += [sparse.csr_array(values.T) for values in ranking.values()]
    return sparse.hstack(parts, format="csr")


def _measure(width: int, ranking: Sequence[str]) -> Measure:
    """Return the function that computes scores from sums of `_table`, as `marn.metrics.score` does.

    Args:
        width: C, the number of codes.
        ranking: names of the R scores that are means over notes.
    """

    def figures(sums: Floats) -> dict[str, Floats]:
        each = np.split(sums[:, : 3 * width], 3, axis=1)  # (B, C) hits, claims, present
        hits, claims, present = (counts.sum(axis=1) for counts in each)
        f1, some = _ratio(2 * each[0], each[1] + each[2]), each[2] > 0
        precision = _ratio(each[0], each[1]).mean(axis=1)
        recall = _ratio(each[0], each[2]).mean(axis=1)
        means = sums[:, 3 * width :]
        return {
            "micro_f1": _ratio(2 * hits, claims + present),
            "micro_precision": _ratio(hits, claims),
            "micro_recall": _ratio(hits, present),
            "macro_f1_caml": _ratio(2 * precision * recall, precision + recall),
            "macro_f1_all": f1.mean(axis=1),
            "macro_f1_present": _ratio((f1 * some).sum(axis=1), some.sum(axis=1)),
            **{
                # an area is a mean over notes only to first order, so a sample's may exceed 1
                name: np.clip(_ratio(means[:, 2 * place], means[:, 2 * place + 1]), 0, 1)
                for place, name in enumerate(ranking)
            },
        }

    return figures


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) > 0)


def _ranking(given: FilePredictions) -> dict[str, Floats]:
    """Return {score: (2, N)}: its value for each note, and 1 if the note counts, else 0."""
    scores, targets = given.probabilities, given.targets
    if scores is None:
        return {}
    size, width = targets.shape
    precision, average = np.zeros((len(KS), size)), np.zeros(size)
    has_code = targets.any(axis=1).astype(float)
    for start in range(0, size, _ROWS):
        rows = slice(start, start + _ROWS)
        order = np.argsort(-scores[rows], axis=1, kind="stable")  # of ties, the lower column first
        truth = np.take_along_axis(targets[rows], order, axis=1)
        hits = truth.cumsum(axis=1)
        for place, k in enumerate(KS):
            precision[place, rows] = hits[:, min(k, width) - 1] / min(k, width)
        average[rows] = _ratio((hits * truth / np.arange(1, width + 1)).sum(1), hits[:, -1])
    found = {"mean_average_precision": average}
    found |= {f"precision_at_{k}": precision[place] for place, k in enumerate(KS) if k < width}
    counts = {"mean_average_precision": has_code}
    return {
        name: np.stack([values, counts.get(name, np.ones(size))])
        for name, values in (found | _areas(scores, targets)).items()
    }


def _areas(scores: Floats, targets: NDArray[np.bool_]) -> dict[str, Floats]:
    """Return {score: (N,)} whose means are the micro- and macro-averaged area under the ROC curve.

    An area is not a mean over notes. To first order, it is the mean of the area plus each note's
    influence, and the same mean over a resample approximates the area of that resample.

    References:
        DeLong et al. 1988, the variance of one area; Obuchowski 1997, several decisions per unit
        (here: all codes of a note).
    """
    found = {}
    if targets.any() and not targets.all():
        found["micro_auc"] = _area_values(scores, targets)
    usable = np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0))
    if len(usable):
        total = np.zeros(len(scores))
        for code in usable:
            total += _area_values(scores[:, [code]], targets[:, [code]])
        found["macro_auc"] = total / len(usable)
    return found


def _area_values(scores: Floats, targets: NDArray[np.bool_]) -> Floats:
    """Return (N,) whose mean is the area of all (N, C) decisions: the area plus N influences."""
    ascending, present = np.sort(scores, axis=None), np.sort(scores[targets])
    others = len(ascending) - len(present)
    won = _below(ascending, scores[targets]) - _below(present, scores[targets])
    area = float(won.mean() / others)
    values = np.empty(len(scores))
    for rows in np.array_split(np.arange(len(scores)), -(-scores.size // _DECISIONS)):
        some, truth = scores[rows], targets[rows]
        placed = _below(present, some)
        # a negative's is the share of positives above it, a positive's that of negatives below it
        influence = (1 - placed / len(present) - area) / others
        won = (_below(ascending, some[truth]) - placed[truth]) / others
        influence[truth] = (won - area) / len(present)
        values[rows] = influence.sum(axis=1)
    return area + len(scores) * values


def _below(ascending: Floats, wanted: Floats) -> Floats:
    """Return the number of scores below each wanted one, (W,), plus half of the number of ties."""
    return (ascending.searchsorted(wanted) + ascending.searchsorted(wanted, "right")) / 2
