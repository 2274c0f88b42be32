"""The command line: `python -m data_prep SOURCE ...` makes a corpus.

Every module of this package that has a `COMMAND` is a source (see `data_prep.prepare`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from data_prep.sources import __path__ as PATH
from data_prep.stale_cleanup import swept
from marn.corpus import Corpus
from marn.errors import MarnError


def sources(wanted: str = "") -> dict[str, ModuleType]:
    """Return the sources of this package by their names on the command line.

    Args:
        wanted: name of a module; if it is a source of that name, only this one is imported.
    """
    names = {found.name: f"data_prep.sources.{found.name}" for found in iter_modules(PATH)}
    names["audit"] = "data_prep.audit"
    for chosen in ({wanted} & set(names), names):
        modules = [import_module(names[name]) for name in sorted(chosen)]
        found = {module.COMMAND: module for module in modules if hasattr(module, "COMMAND")}
        if wanted in found:
            break
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for bad input, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m data_prep", description="Make a corpus that marn can read."
    )
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    found = sources(*arguments[:1])
    for name, module in sorted(found.items()):
        summary = (module.__doc__ or "").partition("\n")[0]
        module.add_arguments(
            commands.add_parser(
                name,
                help=summary,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    args = parser.parse_args(arguments)
    begin = time.perf_counter()
    try:
        with (
            swept(args.out, _report)
            if isinstance(getattr(args, "out", None), Path)
            else nullcontext()
        ):
            made = found[args.source].run(args, _report)
        # A source gives the folder of its corpus, the audit what it has to say.
        said = made if isinstance(made, str) else None
        print(said or summary_of(Corpus.load(made), time.perf_counter() - begin))
    except MarnError as error:
        print(f"{parser.prog} {args.source}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # what no source has foreseen, such as a folder that is not ours
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"{parser.prog} {args.source}: {said}. Nothing was kept.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; nothing was kept.", file=sys.stderr)
        return 130
    return 0


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def summary_of(corpus: Corpus, seconds: float) -> str:
    """Say what a command has made.

    Args:
        corpus: the corpus.
        seconds: how long it took.
    """
    card = corpus.card
    tasks = ", ".join(f"{count} {task} codes" for task, count in corpus.tasks.items())
    lines = [f"{corpus.path}: {card['source']}; text {card['text']}; {tasks}"]
    for name, counts in card["splits"].items():
        codes = ", ".join(f"{corpus[name].frequency(task).sum():,} {task}" for task in corpus.tasks)
        lines.append(
            f"  {name:<5} {counts['notes']:>7,} notes of {counts['subjects']:,} patients, "
            f"{counts['tokens']:,} words, codes: {codes}"
        )
    lines.append(f"  vocabulary: {len(corpus.vocabulary.words):,} words")
    lines += [f"  left out: {count:,} {reason}" for reason, count in card["dropped"].items()]
    lines.append(f"  hash {corpus.hash[:12]}, {seconds:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
