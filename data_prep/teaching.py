"""The teaching hospital: synthetic notes and codes in MIMIC-III's dialect, open to everyone."""

from __future__ import annotations

import argparse
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

from data_prep import hospital, mimic3
from data_prep.prepare import Choices, Progress
from marn.corpus import replacing

COMMAND = "teaching"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Offer the options of this source."""
    parser.add_argument(
        "--out", type=Path, default=Path("data/teaching"), help="folder to write (%(default)s)"
    )
    parser.add_argument(
        "--preset",
        choices=list(hospital.PRESETS),
        default="teaching",
        help="size of the hospital (default: %(default)s)",
    )
    parser.add_argument("--gzip", action="store_true", help="gzip the raw tables")
    mimic3.add_ccs_arguments(parser)
    Choices.add_arguments(parser)


def run(args: argparse.Namespace, progress: Progress) -> Path:
    """Write the hospital's tables to `args.out`/raw and prepare them as MIMIC-III's are."""
    name = args.out.resolve().name
    with replacing(args.out) as partial:
        raw = partial / "raw"
        hospital.write(raw, args.preset, args.seed, _every_thousand(progress))
        if args.gzip:
            _zip(raw)
        mimic3.build(
            raw,
            partial,
            name=name,
            command=f"python -m data_prep teaching --preset {args.preset} --out data/{name}",
            choices=Choices.of(args),
            ccs_procedures=args.ccs_procedures,
            ccs_key=args.ccs_key,
            progress=progress,
        )
    return args.out


def _every_thousand(progress: Progress) -> Callable[[int, int], None]:
    said = 0

    def report(done: int, total: int) -> None:
        nonlocal said
        if done // 1000 > said:
            said = done // 1000
            progress(f"hospital: {min(done, total):,} of {total:,} notes")

    return report


def _zip(raw: Path) -> None:
    """Gzip the tables in place, with no date inside: the same tables give the same bytes."""
    for path in sorted(raw.glob("*.csv")):
        with (
            path.open("rb") as plain,
            gzip.GzipFile(f"{path}.gz", "wb", compresslevel=6, mtime=0) as zipped,
        ):
            shutil.copyfileobj(plain, zipped)
        path.unlink()
