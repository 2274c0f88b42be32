"""Text under a data use agreement: who may see it, where it may be written, what may be published.

The card of a corpus says whether its text is open or credentialed. From there:

* a view of note text (`marn.explain.attention_html`, `marn.figures.attention_heatmap`,
  `marn.widgets.note_explorer`) refuses credentialed text unless it is told
  `show_credentialed_text=True` (`check_may_show`);
* loading a credentialed corpus leaves a mark, a line of the log that names it, in every notebook
  and log that it is loaded in; under papermill it is refused where the executed notebook would be
  written into a git work tree without being ignored there (`announce`);
* `python -m marn.privacy FILES` (in `make test`, and before a commit where the hook is installed)
  refuses files that bear the mark or look like MIMIC's (`examine`);
* a JSON result that says it comes from a credentialed corpus may hold what `PUBLISHABLE` lists and
  nothing else (`withheld`).

The last two are a net, not a wall: a picture, or a sentence copied by hand into a chapter, passes.
"""

from __future__ import annotations

import csv
import html.parser
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from marn.errors import MarnError

__all__ = [
    "MINIMUM_CELL",
    "PUBLISHABLE",
    "announce",
    "check_may_show",
    "examine",
    "main",
    "withheld",
]

log = logging.getLogger(__name__)

# -- showing and writing --------------------------------------------------------------------------

_MARK: Final = re.compile(r"\[credentialed corpus ([0-9a-f]{12})|Corpus\('.*; text credentialed\)")


def check_may_show(open_text: bool, show_credentialed_text: bool) -> None:
    """Refuse to show text under a data use agreement unless that was asked for by name.

    Args:
        open_text: whether anyone may read the text, `corpus.is_open`.
        show_credentialed_text: whether the caller insists.

    Raises:
        MarnError: if the text is not open and the caller does not insist.
    """
    if not (open_text or show_credentialed_text):
        raise MarnError(
            "This text is under a data use agreement and is not shown, since outputs get saved "
            "and shared. If only credentialed readers will see it: show_credentialed_text=True."
        )


def announce(name: str, digest: str) -> None:
    """Say that a corpus is credentialed, so that whatever is made from it bears the mark.

    The line goes to the log (standard error, unless the log is configured), and with it into the
    outputs of a notebook.

    Args:
        name: of the corpus.
        digest: its hash.

    Raises:
        MarnError: if papermill, started from a command line, executes the notebook and would write
            it into a git work tree that does not ignore the file.
    """
    target = _papermill_output()
    if target is not None and _could_be_committed(target):
        raise MarnError(
            f"The text of {name} is under a data use agreement, and {target.name} would be written "
            f"to {target.parent.name or target.parent}/, which git does not ignore. Let papermill "
            "write to runs/."
        )
    log.warning(
        "%s [credentialed corpus %s]: its text is under a data use agreement. What is shown or "
        "written from here on stays on this machine; only aggregates may leave it.",
        name,
        digest[:12],
    )


def _papermill_output() -> Path | None:
    """Return where papermill will write the notebook that this kernel executes, None without.

    Papermill does not tell the kernel, so its own command line is read. A call of
    `papermill.execute_notebook` from a script is not seen; its notebook still bears the mark.
    """
    if "ipykernel" not in sys.modules:
        return None
    psutil = import_module("psutil")  # ipykernel needs it too
    for parent in psutil.Process().parents():
        try:
            words, folder = parent.cmdline(), parent.cwd()
        except psutil.Error:
            return None
        # python …/bin/papermill IN OUT, or python -m papermill IN OUT
        place = next((i for i, word in enumerate(words[:3]) if Path(word).stem == "papermill"), -1)
        if place >= 0:
            command = import_module("papermill.cli").papermill
            context = command.make_context("papermill", words[place + 1 :], resilient_parsing=True)
            out = context.params["output_path"]
            return Path(folder, out) if out and out != "-" else None
    return None


def _could_be_committed(path: Path) -> bool:
    """Whether a file, which need not exist, lies in a git work tree and is not ignored there."""
    folder = next(parent for parent in path.parents if parent.is_dir())
    try:
        asked = subprocess.run(
            ["git", "check-ignore", "--quiet", "--", str(path)],
            cwd=folder,
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return False  # no git, no commit
    return asked.returncode == 1  # 0: ignored; 128: no work tree


# -- what may be published ------------------------------------------------------------------------

MINIMUM_CELL: Final = 11
"""The smallest number of notes, patients, admissions or rows, other than 0, that is published.

MIMIC's agreement names no number. This is that of the Cell Size Suppression Policy of CMS, the
agency behind the codes: no cell of 1 to 10 "admissions, discharges, patients, services" (ResDAC,
version of 26 January 2024). The policy also bars what lets such a cell be computed from others,
which no program can see: that remains with the author."""

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
"""What a result made from credentialed text may hold, by the names of its keys: aggregates.

Not listed, and so refused: words (a vocabulary, top words), text, ids, dates, weights, anything for
a single note. Keys below one of "people" are free (they are reasons, splits, groups), but their
numbers keep to `MINIMUM_CELL`. A star stands for any ending or beginning."""

_PEOPLE: Final = frozenset(PUBLISHABLE["people"].split())
_NO_PEOPLE: Final = frozenset({"codes", "categories", "splits"})  # units of a finding
_PATTERNS: Final = tuple(pattern for group in PUBLISHABLE.values() for pattern in group.split())
_LONGEST: Final = 400  # characters of one text in a result


def withheld(result: Any) -> list[str]:
    """Say what keeps a result made from credentialed text from being published.

    Args:
        result: what `json.load` gives.

    Returns:
        One line for each place; empty if all of it may be published.
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
        # A list of records is judged by their keys: "rows" may be scores of systems.
        for number, inner in enumerate(value):
            records = isinstance(inner, Mapping)
            yield from _withheld(inner, f"{place}[{number}]", people=people and not records)
    elif isinstance(value, str):
        if len(value) > _LONGEST or "\n" in value:
            yield f"{place} is a text of {len(value)} characters"
        elif found := _looks_like_a_note(value):
            yield f"{place} holds {found}"
    elif people and isinstance(value, int | float) and 0 < value < MINIMUM_CELL:
        yield f"{place} is {value}, a cell below {MINIMUM_CELL}"


# -- files ----------------------------------------------------------------------------------------

_UNREADABLE: Final = {
    ".npy", ".npz", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".pickle", ".joblib",
    ".parquet", ".feather", ".h5", ".hdf5", ".db", ".sqlite", ".gz", ".zip", ".tar", ".xz", ".bz2",
    ".zst", ".7z", ".xlsx",
}  # fmt: skip
_BY_HAND: Final = {
    ".py", ".md", ".toml", ".cfg", ".ini", ".yml", ".yaml", ".js", ".css", ".bib", ".sh", ".cff",
    ".lock",
}  # fmt: skip
"""What people write. Placeholders are taught there, so only marks and hashes are looked for."""
_OURS: Final = "data_prep/hospital/"  # its language has placeholders, as it must
_OPEN_NAMES: Final = ("teaching", "tiny")  # corpora that the project's own commands write
_CARDS: Final = ("model.json", "run.json", "card.json")

# MIMIC-III's ids, then MIMIC-IV's; the teaching hospital's begin at 900,000 and 800,000.
_REAL: Final = {
    "HADM_ID": (range(100_000, 200_000), range(20_000_000, 30_000_000)),
    "SUBJECT_ID": (range(1, 100_000), range(10_000_000, 20_000_000)),
}
_NOTE_SIGNS: Final = {
    "a placeholder of MIMIC-III's de-identification": re.compile(r"\[\*\*[^\[\]\n]{1,80}\*\*\]"),
    "a blank of MIMIC-IV's de-identification": re.compile(
        r"(?:Name|Unit No|Admission Date|Discharge Date|Date of Birth|Attending):\s+___"
    ),
}
_ID_SIGNS: Final = {
    "a note_id of MIMIC-IV-Note": re.compile(r"\b1\d{7}-(?:DS|RR)-\d{1,3}\b"),
    "a list of admissions of MIMIC-III": re.compile(
        r"""(?:(['"])1\d{5}\1,?\s*){10}|\A(?:"?1\d{5}"?\r?\n){10}"""
    ),
}
_CLEAR: Final = "Clear its outputs, or keep it below runs/"
_AGGREGATE: Final = "Publish aggregates, see marn.privacy.PUBLISHABLE"
_KEEP: Final = "Keep it below data/ or runs/, which git ignores"


def examine(path: Path, root: Path | None = None) -> list[str]:
    """Say why a file must not be committed: it was made from credentialed text, or looks so.

    Args:
        path: the file, as it lies in the work tree.
        root: of the checkout, whose `data/*/card.json` say which corpora are credentialed; by
            default the work tree around the file.

    Returns:
        Reasons, one line each, with the remedy; empty if the file may be committed.
    """
    path = path.absolute()
    root = (_work_tree(path) if root is None else root).absolute()
    reasons = dict.fromkeys(_reasons(path, root, _local(root)))
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return [f"{shown.as_posix()}: {reason}." for reason in reasons]


def _reasons(path: Path, root: Path, known: set[str]) -> Iterator[str]:
    """Why not to commit; `known` are the hashes of this machine's credentialed corpora."""
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    cards = _cards_around(path)
    credentialed = next((card.name for card, text in cards if text == "credentialed"), None)
    if path.suffix.lower() in _UNREADABLE:
        if credentialed or not cards:
            reason = "made from credentialed text" if credentialed else "cannot be looked into"
            yield f"{reason} ({credentialed or path.suffix}). {_KEEP}"
        return
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # a picture
    if path.suffix == ".ipynb":
        yield from _of_notebook(content, path, root, known)
        return
    value = _json(content) if path.suffix == ".json" else None
    if _says_credentialed(value) or (value is not None and known & _hashes(content)):
        for place in withheld(value)[:3]:
            yield f"made from credentialed text: {place}. {_AGGREGATE}"
        return
    if credentialed and path.name not in _CARDS:
        yield f"lies beside {credentialed} of a credentialed corpus. {_KEEP}"
        return
    if found := _marked(content, known):
        yield f"{found}. {_KEEP}"
    if path.suffix in _BY_HAND or path.name == "Makefile":
        return
    if not shown.startswith(_OURS) and (found := _looks_like_a_note(content)):
        yield f"holds {found}. {_KEEP}"
    if found := _looks_like_ids(content) or _real_ids(_rows_of_table(content)):
        yield f"holds {found}. {_KEEP}"


def _of_notebook(content: str, path: Path, root: Path, known: set[str]) -> Iterator[str]:
    notebook = _json(content)
    if not isinstance(notebook, dict):
        yield f"is no notebook that can be read. {_KEEP}"
        return
    code = [cell for cell in notebook.get("cells", []) if cell.get("cell_type") == "code"]
    outputs = [output for cell in code for output in cell.get("outputs", [])]
    if not outputs and "widgets" not in notebook.get("metadata", {}):
        return
    given = notebook.get("metadata", {}).get("papermill", {}).get("parameters", {}).get("corpus")
    corpora = [given] if isinstance(given, str) else _assigned(code)
    texts = {_text_of_corpus(name, path, root) for name in corpora}
    if "credentialed" in texts:
        yield f"its outputs come from a credentialed corpus ({corpora[-1]}). {_CLEAR}"
        return
    everything = [*_strings(outputs), *_strings(notebook.get("metadata", {}).get("widgets", {}))]
    for text in everything:
        if found := _marked(text, known):
            yield f"an output {found}. {_CLEAR}"
        if texts != {"open"} and (found := _looks_like_a_note(text)):
            yield f"an output holds {found}, and its corpus is not known to be open. {_CLEAR}"
        if found := _looks_like_ids(text) or _real_ids(_rows_of_output(text)):
            yield f"an output holds {found}. {_CLEAR}"


def _assigned(code: Iterable[Mapping[str, Any]]) -> list[str]:
    """The last `corpus = "…"` of the cells of parameters; papermill's comes behind ours."""
    found = []
    for cell in code:
        if {"parameters", "injected-parameters"} & set(cell.get("metadata", {}).get("tags", [])):
            source = "".join(cell.get("source", ""))
            found += re.findall(r"""^corpus\b[^=\n]*=\s*['"]([^'"]+)['"]""", source, re.M)
    return found[-1:]


def _text_of_corpus(name: str, notebook: Path, root: Path) -> str | None:
    """Whether a corpus is "open" or "credentialed", None where nothing says so."""
    for folder in (notebook.parent / name, root / "book" / name):  # where kernels run
        if (text := _text_of_card(folder / "card.json")) is not None:
            return text
    return "open" if Path(name).name in _OPEN_NAMES else None


def _cards_around(path: Path) -> list[tuple[Path, str]]:
    """The cards of a run or corpus that the file lies in, with "open" or "credentialed"."""
    files = [path.parent / name for name in _CARDS] + [path.parent.parent / "card.json"]
    return [(file, text) for file in files if (text := _text_of_card(file)) is not None]


def _text_of_card(path: Path) -> str | None:
    """What a card says of its corpus's text; None where there is none or it says nothing."""
    if not path.is_file():
        return None
    card = _json(path.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(card, dict):
        return None
    if _says_credentialed(card):
        return "credentialed"
    says = [card, card.get("corpus", {})]
    return "open" if any(s.get("text") == "open" or s.get("open") is True for s in says) else None


def _says_credentialed(value: Any) -> bool:
    """Whether a card, or a result, names a corpus that is not open."""
    if isinstance(value, Mapping):
        closed = value.get("open") is False and ("hash" in value or "name" in value)
        return (
            closed
            or value.get("text") == "credentialed"
            or any(_says_credentialed(inner) for inner in value.values())
        )
    return isinstance(value, list) and any(_says_credentialed(inner) for inner in value)


def _local(root: Path) -> set[str]:
    """Hashes of the credentialed corpora that lie in data/ of this checkout."""
    found: set[str] = set()
    for path in sorted(root.glob("data/*/card.json")):
        if _text_of_card(path) == "credentialed":
            found.add(_json(path.read_text(encoding="utf-8")).get("hash", ""))
    return found - {""}


def _hashes(text: str) -> set[str]:
    return set(re.findall(r"\b[0-9a-f]{64}\b", text))


def _marked(text: str, known: set[str]) -> str | None:
    if _MARK.search(text):
        return "bears the mark of a credentialed corpus"
    if known & _hashes(text):
        return "bears the hash of a credentialed corpus"
    return None


def _looks_like_a_note(text: str) -> str | None:
    return next((what for what, sign in _NOTE_SIGNS.items() if sign.search(text)), None)


def _looks_like_ids(text: str) -> str | None:
    return next((what for what, sign in _ID_SIGNS.items() if sign.search(text)), None)


def _real_ids(rows: Iterable[Sequence[str]]) -> str | None:
    """Find an id of MIMIC in a table: rows of cells, column names before their values."""
    columns: dict[int, str] = {}
    for row in rows:
        names = {place: cell.strip().upper() for place, cell in enumerate(row)}
        header = {place: name for place, name in names.items() if name in _REAL}
        columns = header or columns
        for place, name in columns.items():
            value = names.get(place, "").removesuffix(".0")
            if value.isdecimal() and any(int(value) in ids for ids in _REAL[name]):
                return f"a {name} of MIMIC"
    return None


def _rows_of_table(content: str) -> Iterator[list[str]]:
    header = content[: content.find("\n")].upper()
    if "HADM_ID" not in header and "SUBJECT_ID" not in header:
        return
    try:
        yield from csv.reader(content.splitlines(), delimiter="\t" if "\t" in header else ",")
    except csv.Error:
        return  # a cut table: the rows before have been seen


def _rows_of_output(text: str) -> Iterator[list[str]]:
    """The rows of a table that pandas wrote, as HTML or in columns set flush right."""
    if not re.search(r"HADM_ID|SUBJECT_ID", text, re.I):
        return
    if "<t" in text:
        tables = _Tables()
        tables.feed(text)
        yield from tables.rows
        return
    ends: list[int] = []
    for line in text.splitlines():
        cells = [(found.end(), found[0]) for found in re.finditer(r"\S+", line)]
        if any(cell.upper() in _REAL for _, cell in cells):
            ends = [end for end, _ in cells]
            yield [cell for _, cell in cells]
        elif ends:
            at = dict(cells)
            yield [at.get(end, "") for end in ends]


class _Tables(html.parser.HTMLParser):
    """Collects the cells of every table row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def _strings(value: Any) -> Iterator[str]:
    """All texts in a piece of a notebook; lines given as a list are joined."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and all(isinstance(line, str) for line in value):
            yield "".join(value)
        else:
            for inner in value:
                yield from _strings(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _work_tree(path: Path) -> Path:
    return next((folder for folder in path.parents if (folder / ".git").exists()), path.parent)


def main(files: Sequence[str] | None = None) -> int:
    """Examine files and return 1 if one must not be committed.

    Args:
        files: their names; None takes the command line, and none there all tracked files.
    """
    names = list(sys.argv[1:] if files is None else files)
    if not names:
        listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True)
        if listed.returncode:
            sys.stderr.write("python -m marn.privacy: not a git checkout. Name the files.\n")
            return 2
        names = listed.stdout.split("\0")
    reasons = [line for name in names if Path(name).is_file() for line in examine(Path(name))]
    for line in reasons:
        sys.stderr.write(f"{line}\n")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
