"""Run the command line: `python -m data_prep SOURCE ...` makes a corpus.

Every module of `data_prep.sources` is a source (see `data_prep.prepare`); `audit` is a command too.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from data_prep.corpus_writer import swept
from data_prep.left_out import unit_of
from data_prep.sources import __path__ as PATH
from marn import command_line
from marn.corpus import Corpus
from marn.errors import MarnError
from marn.progress import counted


def sources(wanted: str = "") -> dict[str, ModuleType]:
    """Return the sources, and the audit, by their names on the command line.

    Args:
        wanted: a name; if it is one of them, only its module is imported.
    """
    homes = {found.name: f"data_prep.sources.{found.name}" for found in iter_modules(PATH)}
    homes["audit"] = "data_prep.audit"
    return {name: import_module(homes[name]) for name in sorted({wanted} & {*homes} or homes)}


def _command(name: str, module: Any) -> Callable[[dict[str, Any]], None]:
    """Make the function of a command, which takes a dictionary of settings."""

    def command(given: dict[str, Any]) -> None:
        began = time.perf_counter()
        config = module.Config(**given)
        with swept(config.out, _report) if hasattr(config, "out") else nullcontext():
            made = module.run(config, _report)
        # A source returns the folder of its corpus, the audit its report.
        is_report = isinstance(made, str)
        said = made if is_report else summary_of(Corpus.load(made), time.perf_counter() - began)
        try:
            print(said, flush=True)
        except OSError as error:
            if is_report:
                raise
            raise MarnError(
                f"{made} is complete, but its summary was not printed ({error.strerror}); "
                "look into its card.json"
            ) from None

    command.__name__ = name
    command.__doc__ = re.sub(
        r"\n\n(?=    )", "\n\n\b\n", module.__doc__
    )  # \b stops click from rewrapping a paragraph
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 2 for an error, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    app = command_line.new("Make a corpus that marn can read.")
    for name, module in sources(*arguments[:1]).items():
        command_line.add(app, _command(name, module), module.Config)
    return command_line.run(app, "python -m data_prep", arguments, kept="nothing was kept")


def _report(line: str) -> None:
    with suppress(OSError):  # a full disk may lose a line of progress; the work goes on
        print(line, file=sys.stderr, flush=True)


def summary_of(corpus: Corpus, seconds: float) -> str:
    """Summarise the corpus that a command made, in several lines.

    Args:
        corpus: the corpus.
        seconds: time that the command took.
    """
    card = corpus.card
    tasks = ", ".join(counted(count, f"{task} code") for task, count in corpus.tasks.items())
    lines = [f"{corpus.path}: {card['source']}; text {card['text']}; {tasks}"]
    for name, counts in card["splits"].items():
        codes = ", ".join(f"{corpus[name].frequency(task).sum():,} {task}" for task in corpus.tasks)
        lines.append(
            f"  {name:<5} {counted(counts['notes'], 'note'):>13} of "
            f"{counted(counts['subjects'], 'patient')}, "
            f"{counts['tokens']:,} words, codes: {codes}"
        )
    lines.append(f"  vocabulary: {len(corpus.vocabulary.words):,} words")
    for reason, count in card["dropped"].items():
        total = card.get("given", {}).get(unit_of(reason), 0)
        share = f" ({count / total:.1%} of {total:,})" if total >= count else ""
        lines.append(f"  left out: {count:,} {reason}{share}")
    lines.append(f"  hash {corpus.hash[:12]}, {seconds:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
