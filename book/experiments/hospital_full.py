"""Write the large hospitals with two numbers of workers, prepare and measure them, delete them.

    python book/experiments/hospital_full.py --out book/results/hospital_full.json

Each step runs in its own process. Its peak memory is the largest sum of the resident memory of that
process and all its children, sampled five times a second (Linux, macOS); pages that processes
share count once for each. Times are wall-clock times; `load` tells whether the machine did other
work too. `--presets tiny` tries the script in seconds. A size that is already in the file is
replaced; others are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from data_prep.hospital import PRESETS
from data_prep.hospital.measures import Measures, measure
from marn.saving import provenance, write_json

WRITE = (
    "import sys; from pathlib import Path; from data_prep import hospital\n"
    "if __name__ == '__main__':\n"
    "    hospital.write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]),"
    " workers=int(sys.argv[4]), zipped=sys.argv[5] == '1')\n"
)


def watched(command: list[str]) -> dict[str, float]:
    """Run a command to its end.

    Args:
        command: program and arguments.

    Returns:
        Its wall-clock seconds, the seconds of all processors together, its peak memory in MB, and
        the load of the machine at its end.
    """

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    begin, before = time.perf_counter(), used()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        try:
            for part in (tree, *tree.children(recursive=True)):
                held += part.memory_info().rss
        except psutil.Error:
            pass
        peak = max(peak, held)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{shlex.join(command[:4])} ... ended with {process.returncode}.")
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(used() - before, 1),
        "peak_mb": round(peak / 1e6, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def summary(found: Measures) -> dict[str, Any]:
    """Return the measures as plain numbers.

    Args:
        found: measures of a hospital.
    """
    lengths, codes = np.array(found.lengths), np.array(found.codes)
    counts = np.array(sorted(found.frequency.values(), reverse=True))
    places = [int(10**step) for step in np.arange(0, np.log10(len(counts)), 0.25)]
    return {
        "admissions": len(lengths),
        "tokens": int(lengths.sum()),
        "tokens_mean": float(lengths.mean()),
        "tokens_quartiles": np.quantile(lengths, (0.25, 0.5, 0.75)).tolist(),
        "over_512": float((lengths > 512).mean()),
        "codes_mean": float(codes.mean()),
        "codes_quartiles": np.quantile(codes, (0.25, 0.5, 0.75)).tolist(),
        "codes_most": int(codes.max()),
        "distinct_codes": len(counts),
        "codes_below_10": float((counts < 10).mean()),
        "codes_once": int((counts == 1).sum()),
        "frequency_by_rank": {str(place): int(counts[place - 1]) for place in places},
        "frequency_head": {
            f"{kind} {code}": found.frequency[kind, code]
            for (kind, code), _ in found.frequency.most_common(60)
        },
        "patients_head": {
            f"{kind} {code}": found.patients[kind, code]
            for (kind, code), _ in found.frequency.most_common(60)
        },
        "growth": found.growth,
        "types": found.types,
        "types_in_3_notes": found.kept,
        "span_median": found.median_span,
        "spans": sum(found.spans.values()),
        "spans_per_code": sum(found.spans.values()) / found.mentioned,
        "roles": dict(sorted(found.roles.items())),
    }


def study(preset: str, seed: int, zipped: bool, work: Path) -> dict[str, Any]:
    """Write, compare, prepare and measure one hospital.

    Args:
        preset: its size.
        seed: seed of the hospital.
        zipped: gzip the tables.
        work: folder for tables and corpus, which are deleted in the end.
    """
    python, flag = sys.executable, "1" if zipped else "0"
    raw, again, corpus = work / "raw", work / "again", work / "corpus"
    kept = PRESETS[preset].lists or "50"
    made: dict[str, Any] = {"codes": kept, "write": {}}
    for workers, folder in ((2, raw), (1, again)):
        line = [python, "-c", WRITE, str(folder), preset, str(seed), str(workers), flag]
        made["write"][str(workers)] = watched(line)
    made["sha256"] = hashes(raw)
    made["same_for_1_and_2_workers"] = hashes(again) == made["sha256"]
    shutil.rmtree(again)
    made["mb"] = {path.name: round(path.stat().st_size / 1e6, 2) for path in sorted(raw.iterdir())}
    lists = ["--splits", str(raw)] if PRESETS[preset].lists else []
    line = [python, "-m", "data_prep", "mimic3", "--raw", str(raw), "--out", str(corpus)]
    made["prepare"] = watched([*line, *lists, "--codes", kept, "--vectors", "none"])
    made["corpus_mb"] = round(
        sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file()) / 1e6, 1
    )
    from marn.corpus import Corpus

    data = Corpus.load(corpus)
    made["splits"] = {name: len(data[name]) for name in data.splits}
    made["tasks"] = dict(data.tasks)
    made["vocabulary"] = len(data.vocabulary.words)
    shutil.rmtree(corpus)
    made["measures"] = summary(measure(raw))
    shutil.rmtree(raw)
    return made


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--presets", nargs="+", default=["mimic50", "full"], choices=list(PRESETS))
    parser.add_argument("--seed", type=int, default=0, help="of the hospital (%(default)s)")
    parser.add_argument("--gzip", action="store_true", help="write .csv.gz")
    args = parser.parse_args()
    result: dict[str, Any] = {"presets": {}}
    if args.out.exists():  # other sizes, made by another command
        result = json.loads(args.out.read_text())
    for preset in args.presets:
        options = f"--presets {preset} --seed {args.seed}" + (" --gzip" if args.gzip else "")
        about = {
            "command": f"python book/experiments/hospital_full.py {options}"
            f" --out book/results/{args.out.name}",
            "seed": args.seed,
            "processors": os.cpu_count(),
            "made_with": provenance(),
        }
        with tempfile.TemporaryDirectory() as work:
            made = study(preset, args.seed, args.gzip, Path(work))
        result["presets"][preset] = about | made
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, result)


if __name__ == "__main__":
    main()
