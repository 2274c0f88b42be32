"""The command line: `python -m benchmarks [NAME …] [--quick] [--json FILE]`."""

import argparse
import os
import sys
import time

for _threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_threads] = "1"  # before anything starts its threads

from pathlib import Path  # noqa: E402

import benchmarks as bench  # noqa: E402
from marn.errors import MarnError  # noqa: E402
from marn.saving import provenance  # noqa: E402


def main() -> int:
    """Run the command line and return its exit status: 0, 1 for a bar not met, 2 for bad input."""
    found = bench.available()
    summaries = [f"  {name:12} {(m.__doc__ or '').partition('.')[0]}" for name, m in found.items()]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmarks against a straightforward reference.",
        epilog="\n".join(["benchmarks:", *summaries]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--scale",
        choices=["full", "quick"],
        default="full",
        help="quick: tiny sizes, to see that it works; its bars mean nothing (default: full)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="file to write the figures to; one that is there keeps those of other benchmarks",
    )
    args = parser.parse_args()
    try:
        return _run(args, found)
    except MarnError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2


def _run(args: argparse.Namespace, found: dict) -> int:
    unknown = sorted(set(args.names) - set(found))
    if unknown:
        raise MarnError(f"no benchmark is named {unknown[0]!r}; there are {', '.join(found)}")
    if args.json and not args.json.parent.is_dir():
        raise MarnError(f"there is no folder {args.json.parent} to write {args.json.name} into")
    kept, all_met = {}, True
    for name in args.names or found:
        began = time.perf_counter()
        figures = found[name].measure(quick=args.scale == "quick")
        rows = bench.table(name, found[name], figures)
        for row in rows:
            all_met &= row["met"]
            said = "met" if row["met"] else "NOT MET"
            sys.stdout.write(
                f"{name:12} {row['work']:58} {row['bar']:>12}  {row['measured']:10.4g}  {said}\n"
            )
        shown = {row.figure for row in found[name].BARS}
        more = "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if k not in shown)
        sys.stdout.write(f"{'':12} {more}  ({time.perf_counter() - began:.0f} s)\n")
        sys.stdout.flush()
        made_with = provenance() | {"peak_pace": bench.peak_pace()}
        kept[name] = {"figures": figures, "provenance": made_with}
        if args.json:
            bench.keep(args.json, args.scale, kept)
    return 0 if all_met or args.scale == "quick" else 1


if __name__ == "__main__":
    sys.exit(main())
