"""Audit real rows: the open demo of MIMIC-III, with 100 patients and no notes.

    python book/experiments/audit_mimic3_demo.py --raw DEMO --ccs-procedures PRREF

`DEMO` holds the tables of PhysioNet's mimiciii-demo 1.4 (Open Database License 1.0), `PRREF` is
HCUP's `$prref 2015.csv`. The result has counts and codes, but no rows, ids or dates. It names rare
codes, since the demo is open.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep import tables
from data_prep.audit import audit_raw, to_json
from data_prep.sources import mimic3
from marn.errors import MarnError
from marn.saving import provenance, write_json

OUT = Path(__file__).parents[1] / "results" / "audit_mimic3_demo.json"


def main(line: Sequence[str] | None = None) -> int:
    """Audit the demo and write the result; report a wrong path in one line."""
    parser = argparse.ArgumentParser(description="The audit on the demo of MIMIC-III.")
    parser.add_argument("--raw", type=Path, required=True, help="folder of the demo's tables")
    parser.add_argument("--ccs-procedures", type=Path, required=True, help="HCUP's prref 2015 file")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file to write")
    args = parser.parse_args(line)
    try:
        found = audit_raw(args.raw, args.ccs_procedures, is_open=True)
        files = [tables.require(args.raw, name) for name in mimic3.CODE_TABLES.values()]
        result = {
            "command": "python book/experiments/audit_mimic3_demo.py --raw DEMO "
            "--ccs-procedures PRREF",
            "source": {
                "name": "MIMIC-III Clinical Database Demo 1.4 (PhysioNet)",
                "licence": "Open Database License 1.0",
                "sha256": {
                    path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files
                },
            },
            "findings": to_json(found, is_open=True),
            "provenance": provenance(),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, result)
    except MarnError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{args.out.name} written: {len(found)} findings\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
