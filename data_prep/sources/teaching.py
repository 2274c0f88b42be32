"""The teaching hospital: synthetic notes and codes in MIMIC-III's dialect, open to everyone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from data_prep import hospital
from data_prep.corpus_writer import replacing
from data_prep.prepare import Choices, Progress
from data_prep.sources import mimic3

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
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that write notes; the result is the same (default: %(default)s)",
    )
    mimic3.add_ccs_arguments(parser)
    Choices.add_arguments(parser)


def run(args: argparse.Namespace, progress: Progress) -> Path:
    """Write the hospital's tables to `args.out`/raw and prepare them as MIMIC-III's are.

    A preset with lists of admissions is split by them where `--codes` is theirs, else by patient.
    """
    name = args.out.resolve().name
    with replacing(args.out) as partial:
        raw = partial / "raw"
        hospital.write(
            raw,
            args.preset,
            args.seed,
            _every_thousand(progress),
            workers=args.workers,
            zipped=args.gzip,
        )
        choices = Choices.of(args)
        mimic3.build(
            raw,
            partial,
            name=name,
            command=f"python -m data_prep teaching --preset {args.preset} --out data/{name}",
            choices=choices,
            lists=raw if choices.codes == hospital.PRESETS[args.preset].lists else None,
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
