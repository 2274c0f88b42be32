"""Make the book: `python book/_ext/make_book.py data | model | chapters | book | site`.

The Makefile calls it.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chapters
from chapters import BOOK, CARD, ROOT

log = logging.getLogger("make_book")

BUILD = ROOT / "_build"
EXECUTED = BUILD / "book"
INDEX = BUILD / "html" / "index.html"
MODEL = Path("runs") / "model"
"""Folder of the run that chapters load: the MARN of the quickstart, chosen on all dev notes."""
DATA_STAMP = CARD.parents[1] / "teaching.key"
# The parts of marn that data_prep may import.
DATA_PREP_IMPORTS = (
    *("command_line", "corpus", "errors", "lifeline", "privacy", "progress", "settings"),
)


class PartError(Exception):
    """Raised if a part of the book could not be made; the message says which."""


def _run(*command: str | Path, quietly: bool = False) -> None:
    result = subprocess.run(
        [str(part) for part in command], cwd=ROOT, text=True, capture_output=quietly, check=False
    )
    if result.returncode:
        log.error("%s", (result.stdout or "") + (result.stderr or ""))
        raise PartError(
            f"exit status {result.returncode}: {' '.join(str(part) for part in command)}"
        )


def data() -> bool:
    """Make the teaching hospital and its corpus, unless the code that makes them is unchanged.

    Returns:
        True if there was something to do.
    """
    rooms = [f"marn/{name}" for name in DATA_PREP_IMPORTS]
    modules = [path for room in rooms if (path := ROOT / f"{room}.py").exists()]
    key = chapters.digest([*chapters.files_below("data_prep", *rooms), *modules])
    if CARD.exists() and DATA_STAMP.exists() and DATA_STAMP.read_text() == key:
        return False
    _run(sys.executable, "-m", "data_prep", "teaching", "--out", CARD.parent.relative_to(ROOT))
    DATA_STAMP.write_text(key)
    shutil.rmtree(ROOT / MODEL, ignore_errors=True)  # it was trained on another corpus
    return True


def model() -> bool:
    """Train the model that chapters load.

    Returns:
        True if there was something to do.
    """
    if (ROOT / MODEL / "scores.json").exists():
        return False
    options = {
        "hidden_size": 32,
        "max_length": 1000,
        "ram_start": "identity",
        "bias_start": "prior",
    }
    settings = {"epochs": 2, "learning-rate": 8e-3, "schedule": "linear", "warmup": 0.05}
    line = [part for key, value in options.items() for part in ("--model", f"{key}={value}")]
    line += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    folders = (CARD.parent.relative_to(ROOT), MODEL)
    _run(sys.executable, "-m", "marn", "train", "marn", *folders, *line)
    return True


def execute(names: list[str]) -> bool:
    """Execute the chapters that changed into `_build/book`.

    Args:
        names: see `chapters.texts`.

    Returns:
        True if there was something to do.

    Raises:
        PartError: a chapter failed.
    """
    done = chapters.execute(chapters.texts(names), EXECUTED)
    if failed := [name for name, seconds in done.items() if seconds is None]:
        raise PartError(f"failed: {', '.join(failed)}")
    return bool(done)


def twins(names: list[str]) -> None:
    """Execute the chapters that changed and copy them into `book/`, to be committed."""
    execute(names)
    for text in chapters.texts(names):
        executed = EXECUTED / f"{text.stem}.ipynb"
        twin = text.with_suffix(".ipynb")
        if not twin.exists() or twin.read_bytes() != executed.read_bytes():
            shutil.copyfile(executed, twin)
            log.info("updated %s", twin.relative_to(ROOT))


def render(source: Path, out: Path = ROOT) -> bool:
    """Render a folder of pages and executed notebooks; any warning is an error."""
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    strict = ("-W", "-n", "--keep-going")
    where = ("--config", ROOT / "_config.yml", "--path-output", out)
    _run(jupyter_book, "build", source, *where, *strict, quietly=True)
    return True


def book(environment: float) -> None:
    """Make data, chapters and pages on this machine, and log how long each part took.

    Args:
        environment: seconds that the virtual environment took.
    """
    parts: list[tuple[str, float, bool]] = [("environment", environment, environment > 2)]

    def part(name: str, action: Callable[[], bool]) -> None:
        log.info("%s ...", name)
        began = time.perf_counter()
        done = action()
        parts.append((name, time.perf_counter() - began, done))

    def rendered() -> bool:
        chapters.mirror(EXECUTED)
        return render(EXECUTED)

    part("teaching hospital and corpus", data)
    part("the model that chapters load", model)
    part("chapters, including training", lambda: execute([]))
    part("rendering", rendered)
    log.info("")
    for name, seconds, done in parts:
        log.info("%-38s %6.0f s%s", name, seconds, "" if done else "   (nothing changed)")
    log.info("%-38s %6.0f s", "total", sum(seconds for _, seconds, _ in parts))
    log.info("\nOpen %s", INDEX.as_uri())


def main() -> int:
    """Run the command line; return its exit status."""
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    for logger in (log, chapters.log):
        logger.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("data", help="make data/teaching, if the code that makes it changed")
    commands.add_parser("model", help="train the model that chapters load, in runs/model")
    one = commands.add_parser(
        "chapters", help="execute changed chapters and update their notebooks"
    )
    one.add_argument("names", nargs="*", help="names or numbers of chapters; default: all")
    whole = commands.add_parser("book", help="make data, execute chapters here, render the pages")
    whole.add_argument("--environment", type=float, default=0.0, help="seconds it took to set up")
    commands.add_parser("site", help="render the pages from the stored outputs")
    options = parser.parse_args()

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # chapters run in parallel
    os.environ.setdefault("TQDM_DISABLE", "1")  # stored outputs hold lines, not progress bars
    try:
        if options.command in ("data", "model", "chapters"):
            data()
        if options.command in ("model", "chapters"):
            model()
        if options.command == "chapters":
            twins(options.names)
        elif options.command == "book":
            book(options.environment)
        elif options.command == "site":
            render(BOOK)
            log.info("Open %s", INDEX.as_uri())
    except (PartError, FileNotFoundError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
