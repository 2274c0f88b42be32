"""What is wrong, or merely odd, with a corpus or with raw tables, in counts.

`audit` reads a prepared corpus, `audit_raw` the raw code tables of MIMIC-III with notes or none
beside them. Both return findings: a count, of how many, what it means and what to do. The texts of
all findings are in `findings.csv`.

A finding names codes, and never text, ids or dates, whosever the data are. Of credentialed data, a
code is an example only if at least `marn.privacy.MINIMUM_CELL` notes or rows have it, and in JSON a
count of 1 to 10 notes, patients, admissions or rows is written "1 to 10".
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Final

from data_prep import tables
from data_prep.audit.corpus import audit
from data_prep.audit.findings import Finding, caml_top50, codes_hash, report, to_json
from data_prep.audit.raw import audit_raw
from data_prep.audit.repeats import jaccard, repeats, shingles
from data_prep.prepare import Progress
from data_prep.sources import mimic3
from marn.corpus import Corpus
from marn.errors import MarnError

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

COMMAND: Final = "audit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m data_prep audit`."""
    parser.add_argument("corpus", type=Path, nargs="?", help="folder of a prepared corpus")
    parser.add_argument("--raw", type=Path, help="folder of raw MIMIC-III tables, notes or none")
    parser.add_argument(
        "--split-ids", type=Path, help="folder of CAML's {train,dev,test}_{50,full}_hadm_ids.csv"
    )
    parser.add_argument(
        "--ccs-procedures",
        type=Path,
        help="HCUP's prref 2015 file, or hcup to fetch it (default: of the raw tables, only "
        "diagnoses are asked for their category)",
    )
    parser.add_argument("--json", type=Path, help="file to write the findings to as well")


def run(args: argparse.Namespace, progress: Progress) -> str:
    """Audit what the command line names, and return the report."""
    if args.corpus is None and args.raw is None:
        raise MarnError("Nothing to audit. Give the folder of a corpus, or raw tables with --raw.")
    if args.split_ids is not None and args.corpus is None:
        raise MarnError("--split-ids are compared with a corpus. Give its folder as well.")
    parts: list[str] = []
    result: dict[str, Any] = {}
    if args.corpus is not None:
        corpus = Corpus.load(args.corpus)
        found = audit(corpus, args.split_ids)
        tasks = ", ".join(f"{count:,} {task} codes" for task, count in corpus.tasks.items())
        notes = sum(len(corpus[split]) for split in corpus.splits)
        head = f"{args.corpus}: {notes:,} notes, {tasks}; text {corpus.card['text']}"
        parts += [f"{head}; hash {corpus.hash[:12]}", report(found)]
        described = {"name": corpus.name, "hash": corpus.hash, "text": corpus.card["text"]}
        result["corpus"] = described | {"findings": to_json(found, is_open=corpus.is_open)}
    if args.raw is not None:
        is_open = mimic3.is_synthetic(tables.folder(args.raw))
        found = audit_raw(args.raw, args.ccs_procedures, progress)
        text = "open" if is_open else "credentialed"
        parts += [f"{args.raw}: raw tables; text {text}", report(found)]
        described = {"name": "raw tables", "text": text}
        result["source"] = described | {"findings": to_json(found, is_open=is_open)}
    if args.json is not None:
        _write(args.json, result)
    return "\n\n".join(parts)


def _write(path: Path, value: Any) -> None:
    """Write JSON aside and rename it."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise MarnError(f"Cannot write {path} ({error.strerror}). Choose another file.") from None
