"""Chapters: the text that people edit, and its executed twin that everything else reads.

`book/NN_name.md` (MyST) is the source. `book/NN_name.ipynb` is made from it, committed with its
outputs, and never edited. Kernels run in `book/`, so that paths in a chapter mean the same
wherever its executed copy is written.
"""

import asyncio
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CELL_SECONDS = 600  # a cell that takes longer has hung
PARALLEL = 2  # chapters executed at once
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # of tracebacks, which also go to files
LIBRARY = ("marn", "data_prep")
CARD = ROOT / "data" / "teaching" / "card.json"


def texts(names: Iterable[str] = ()) -> list[Path]:
    """List the chapters' texts in order.

    Args:
        names: chapter names such as "03_label_attention", or their numbers; empty means all.

    Raises:
        FileNotFoundError: if a name fits no chapter.
    """
    found = sorted(BOOK.glob("[0-9][0-9]_*.md"))
    if not (wanted := list(names)):
        return found
    chosen = []
    for name in wanted:
        fitting = [text for text in found if name in (text.stem, text.stem[:2])]
        if not fitting:
            raise FileNotFoundError(f"no chapter {name!r} in {BOOK}")
        chosen += fitting
    return chosen


def notebook(text: Path) -> NotebookNode:
    """Read a chapter's text as a notebook without outputs.

    Cell ids are drawn from the cells' sources and the metadata is the same on every machine, so
    that a twin changes in git only where the chapter or its outputs do.
    """
    book = jupytext.read(text, fmt="md:myst")
    seen: dict[str, int] = {}
    for cell in book.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    book.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def sources(book: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """Give what a chapter and its twin must share: kind, source and tags of each cell."""
    return [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in book.cells]


def digest(files: Iterable[Path]) -> str:
    """Hash files of the project: their names and contents."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(ROOT)}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def files_below(*folders: str, without: str = "__pycache__") -> Iterator[Path]:
    """Walk the files of some folders of the project, caches left out."""
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and without not in file.parts:
                yield file


def key(text: Path) -> str:
    """Hash all that a chapter's outputs depend on: its text, library, data and environment.

    By content, not by date: a clone has fresh dates, and a branch switched back has old ones.
    """
    beside = [f for f in files_below("book") if f.suffix in {".csv", ".json", ".yaml", ".svg"}]
    library = files_below(*LIBRARY, without="site")
    return digest([text, *library, *beside, CARD, ROOT / "requirements.lock"])


async def _execute(text: Path, folder: Path, turn: asyncio.Semaphore) -> float | None:
    async with turn:
        began = time.perf_counter()
        for run in ROOT.glob(f"runs/{text.stem}*"):
            # The run of an earlier version would be taken up instead of trained anew.
            shutil.rmtree(run, ignore_errors=True)
        book = notebook(text)
        client = NotebookClient(
            book,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(BOOK)}},
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            await client.async_execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            log.error("%s failed:\n%s", text.name, COLOUR.sub("", str(error)))
            return None
        book.metadata.language_info = NotebookNode(name="python")
        for cell in book.cells:
            cell.metadata.pop("execution", None)
        write(book, folder / f"{text.stem}.ipynb")
        (folder / f"{text.stem}.key").write_text(key(text))
        seconds = time.perf_counter() - began
        log.info("  %-32s %6.1f s", text.stem, seconds)
        return seconds


def write(book: NotebookNode, path: Path) -> None:
    """Write a notebook, replacing the file in one step: an interruption leaves the old one."""
    nbformat.validate(book)
    partial = path.with_suffix(".partial")
    partial.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    partial.replace(path)


def execute(chapters: Iterable[Path], folder: Path) -> dict[str, float | None]:
    """Execute the chapters whose key has changed since they were last executed into `folder`.

    Args:
        chapters: texts, from `texts`.
        folder: where executed notebooks and their keys lie.

    Returns:
        Seconds by name of the executed chapters; None for one that failed (its error is logged).
    """
    folder.mkdir(parents=True, exist_ok=True)
    due = []
    for text in chapters:
        stamp = folder / f"{text.stem}.key"
        made = folder / f"{text.stem}.ipynb"
        if not (made.exists() and stamp.exists() and stamp.read_text() == key(text)):
            due.append(text)

    async def run() -> list[float | None]:
        turn = asyncio.Semaphore(PARALLEL)
        return await asyncio.gather(*(_execute(text, folder, turn) for text in due))

    return dict(zip((text.stem for text in due), asyncio.run(run()), strict=True))


def mirror(folder: Path) -> None:
    """Bring the book's other sources into `folder`, beside the executed notebooks.

    Unchanged files keep their dates, so that Sphinx reads only what changed; what is gone from the
    book goes from the copy.
    """
    names = {text.stem for text in texts()}
    wanted = {
        file.relative_to(BOOK)
        for file in files_below("book")
        if not re.match(r"\d\d_.*\.(md|ipynb)$", file.name)
        and ".ipynb_checkpoints" not in file.parts
    }
    for relative in wanted:
        source, target = BOOK / relative, folder / relative
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    for file in folder.rglob("*"):
        executed = (
            file.parent == folder and file.suffix in {".ipynb", ".key"} and file.stem in names
        )
        if file.is_file() and not executed and file.relative_to(folder) not in wanted:
            file.unlink()
