"""Count the problems and oddities of a corpus or of raw tables.

Reads a prepared corpus, or with --raw the raw code tables of MIMIC-III, with or without notes. Each
finding has a count, the total, what it means and what to do.

A finding names codes, and never text, ids or dates, whatever the data. For
credentialed data, a code is an example only if at least `marn.privacy.MINIMUM_CELL` notes or rows
have it, and in JSON a count of 1 to 10 notes, patients, admissions or rows is written "1 to 10".
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any

from data_prep import tables
from data_prep.audit.corpus import audit
from data_prep.audit.findings import Finding, caml_top50, codes_hash, report, to_json
from data_prep.audit.raw import audit_raw
from data_prep.audit.repeats import jaccard, repeats, shingles
from data_prep.prepare import Progress
from data_prep.sources import mimic3
from marn.command_line import ARGUMENT
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.settings import Location, settings

__all__ = [
    "Finding",
    "audit",
    "audit_raw",
    "caml_top50",
    "codes_hash",
    "jaccard",
    "repeats",
    "report",
    "shingles",
    "to_json",
]


LABELS = {"icd": "as in the tables", "caml": "as in CAML's published predictions"}
"""Names of the label spaces, by the `labels` of a corpus's card."""


@settings
class Config:
    """Set the options of `python -m data_prep audit`."""

    corpus: Annotated[Location | None, ARGUMENT] = None
    """Folder of a prepared corpus."""
    raw: Location | None = None
    """Folder of raw MIMIC-III tables, with or without notes."""
    split_ids: Location | None = None
    """Folder of CAML's {train,dev,test}_{50,full}_hadm_ids.csv."""
    ccs_procedures: Location | None = None
    """HCUP's prref 2015 file, or "hcup" to download it. By default only the diagnoses of raw tables
    are checked for a category."""
    json: Location | None = None
    """File to write the findings to, as JSON."""


def run(config: Config, progress: Progress) -> str:
    """Audit what the settings name, and return the report; a corpus must be as it was written."""
    if config.corpus is None and config.raw is None:
        raise MarnError("nothing to audit; give the folder of a corpus, or --raw")
    if config.split_ids is not None and config.corpus is None:
        raise MarnError("--split-ids needs a corpus to compare with; give its folder")
    parts: list[str] = []
    result: dict[str, Any] = {}
    if config.corpus is not None:
        corpus = Corpus.load(config.corpus)
        corpus.verify()
        found = audit(corpus, config.split_ids)
        tasks = ", ".join(f"{count:,} {task} codes" for task, count in corpus.tasks.items())
        notes = sum(len(corpus[split]) for split in corpus.splits)
        head = f"{config.corpus}: {notes:,} notes, {tasks}; text {corpus.card['text']}"
        labels = LABELS[corpus.card["settings"].get("labels", "icd")]
        parts += [f"{head}; hash {corpus.hash[:12]}; labels {labels}", report(found)]
        described = {"name": corpus.name, "hash": corpus.hash, "text": corpus.card["text"]}
        described["labels"] = labels
        result["corpus"] = described | {"findings": to_json(found, is_open=corpus.is_open)}
    if config.raw is not None:
        is_open = mimic3.is_synthetic(tables.folder(config.raw))
        found = audit_raw(config.raw, config.ccs_procedures, progress)
        text = "open" if is_open else "credentialed"
        parts += [f"{config.raw}: raw tables; text {text}", report(found)]
        described = {"name": "raw tables", "text": text}
        result["source"] = described | {"findings": to_json(found, is_open=is_open)}
    if config.json is not None:
        _write(config.json, result)
    return "\n\n".join(parts)


def _write(path: Path, value: Any) -> None:
    """Write JSON to another name and rename it; a symbolic link is kept."""
    target = Path(os.path.realpath(path))
    aside = target.with_name(f".{target.name}.partial")
    try:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise MarnError(
            f"--json {path} cannot be written ({error.strerror}); choose another file"
        ) from None
