"""Read, execute and store chapters.

The source of a chapter is `book/NN_name.md` (MyST). `book/NN_name.ipynb` is made from it by
execution, committed with its outputs and never edited; the pages, nbval and papermill read it.
Kernels run in `book/`, so a chapter's paths do not depend on where its executed copy is written.
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
import pybtex.database
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from pybtex.plugin import find_plugin

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CELL_SECONDS = 600  # a cell that takes longer has hung
PARALLEL = 2  # chapters executed at the same time
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # removed from tracebacks, which may go to a file
CARD = ROOT / "data" / "teaching" / "card.json"
EQUATION = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
CITATION = re.compile(r"\{cite(?P<form>:t|:p|)\}`(?P<key>[^`]+)`")
BIBLIOGRAPHY = re.compile(r"^```\{bibliography\}.*?^```", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"\(#(fig-[\w-]+)\)")
SOLUTION = re.compile(r"^(:{3,}\{solution-(?:start|end)\}.*?^:{3,})$", re.DOTALL | re.MULTILINE)


def texts(names: Iterable[str] = ()) -> list[Path]:
    """List the chapters' sources in order.

    Args:
        names: chapter names such as "03_marn", or numbers such as "03"; empty means all.

    Returns:
        Paths of the `.md` files.

    Raises:
        FileNotFoundError: if a name matches no chapter.
    """
    found = sorted(BOOK.glob("[0-9][0-9]_*.md"))
    if not (wanted := list(names)):
        return found
    chosen = []
    for name in wanted:
        matching = [text for text in found if name in (text.stem, text.stem[:2])]
        if not matching:
            known = ", ".join(text.stem for text in found)
            raise FileNotFoundError(f"no chapter {name!r}; choose from {known}")
        chosen += matching
    return chosen


def notebook(text: Path) -> NotebookNode:
    """Read a chapter's source as a notebook without outputs.

    Cell ids are hashes of the cells' sources and the metadata is the same on every machine, so the
    stored notebook changes in git only where the chapter or its outputs do.
    """
    book = jupytext.read(text, fmt="md:myst")
    number_figures(book, int(text.stem[:2]))
    cite(book)
    fold_solutions(book)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            # JupyterLab would number an equation between dollars itself
            cell.source = EQUATION.sub(r"\\begin{equation*}\n\1\n\\end{equation*}", cell.source)
        elif {"remove-cell", "hide-input"} & {*cell.metadata.get("tags", [])}:
            cell.metadata["jupyter"] = {"source_hidden": True}  # JupyterLab shows three dots
    seen: dict[str, int] = {}
    for cell in book.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    figures = {c.metadata["figure"]["label"]: c.id for c in book.cells if "figure" in c.metadata}
    for cell in book.cells:
        if cell.cell_type == "markdown":  # JupyterLab scrolls to a cell by its id
            cell.source = FIGURE.sub(
                lambda m: f"({text.stem}.ipynb#cell-id={figures[m[1]]})", cell.source
            )
    book.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def number_figures(book: NotebookNode, chapter: int) -> None:
    """Number the figures, add each caption below its cell, and resolve references, in place.

    A cell with the metadata `figure: {label, caption, alt}` draws a figure, and `[](#label)` in the
    text of its chapter refers to it.
    """
    cells: list[NotebookNode] = []
    names: dict[str, str] = {}
    for cell in book.cells:
        cells.append(cell)
        if figure := cell.metadata.get("figure"):
            names[figure["label"]] = name = f"Figure {chapter}.{len(names) + 1}"
            caption = f"**{name}.** {figure['caption']}"
            cells.append(nbformat.v4.new_markdown_cell(caption, metadata={"tags": ["caption"]}))
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"\[\]\(#(fig-[\w-]+)\)", lambda m: f"[{names[m[1]]}](#{m[1]})", cell.source
            )
    book.cells = cells


def cite(book: NotebookNode) -> None:
    """Write citations as links and list the works cited, in place.

    JupyterLab does not read BibTeX.
    """
    works = pybtex.database.parse_file(BOOK / "references.bib").entries
    style = find_plugin("pybtex.style.formatting", "plain")()
    cited = set()

    def link(found: re.Match[str]) -> str:
        work = works[found["key"]]
        cited.add(found["key"])
        names = [" ".join(map(str, person.rich_last_names)) for person in work.persons["author"]]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        year, url = work.fields["year"], work.fields["url"]
        return f"[{who} ({year})]({url})" if found["form"] == ":t" else f"([{who}, {year}]({url}))"

    def entries(found: re.Match[str]) -> str:
        texts = [style.format_entry("", works[key]).text for key in sorted(cited)]
        return "## References\n\n" + "\n".join(
            f"- {' '.join(text.render_as('markdown').split())}" for text in texts
        )

    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = BIBLIOGRAPHY.sub(entries, CITATION.sub(link, cell.source))


def fold_solutions(book: NotebookNode) -> None:
    """Put solutions under headings that JupyterLab shows collapsed, in place.

    JupyterLab does not know the directive `solution-start`; rendered pages have it, from the
    metadata, instead of the heading.
    """
    cells: list[NotebookNode] = []
    for cell in book.cells:
        parts = SOLUTION.split(cell.source) if cell.cell_type == "markdown" else [""]
        for number, part in enumerate(parts):
            if number % 2:  # the directive
                starts = "{solution-start}" in part
                heading = "###### Solution" if starts else "###### End of the solution"
                metadata = {"page": part} | (
                    {"jp-MarkdownHeadingCollapsed": True} if starts else {}
                )
                cells.append(nbformat.v4.new_markdown_cell(heading, metadata=metadata))
            elif part.strip():
                cells.append(NotebookNode(cell, source=part.strip()))
        if cell.cell_type != "markdown":
            cells.append(cell)
    book.cells = cells


def sources(book: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """List type, source and tags of each cell: what a chapter shares with its stored notebook."""
    return [(c.cell_type, c.source, sorted(c.metadata.get("tags", []))) for c in book.cells]


def digest(files: Iterable[Path]) -> str:
    """Hash the names and contents of files of the project."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.relative_to(ROOT)}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def files_below(*folders: str) -> Iterator[Path]:
    """Walk through the files in folders of the project, without caches."""
    caches = {"__pycache__", ".ipynb_checkpoints"}
    for folder in folders:
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and not caches & set(file.parts):
                yield file


def key(text: Path) -> str:
    """Hash everything that a chapter's outputs depend on: source, library, data and environment.

    Contents are hashed, not dates, which change with a clone or a switch of branches.
    """
    cells = hashlib.sha256(nbformat.writes(notebook(text)).encode()).hexdigest()
    beside = [f for f in files_below("book") if f.suffix in {".csv", ".json", ".yaml", ".svg"}]
    library = files_below("marn", "data_prep")
    return f"{cells} {digest([*library, *beside, CARD, ROOT / 'requirements.lock'])}"


async def _execute(text: Path, folder: Path, turn: asyncio.Semaphore) -> float | None:
    async with turn:
        began = time.perf_counter()
        for run in ROOT.glob(f"runs/{text.stem}*"):
            # fit would resume the run of an earlier version instead of training again
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
            log.error("%s failed:\n%s", text.name, ANSI_COLOUR.sub("", str(error)))
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
    """Write a notebook in one step, so that an interruption leaves the old file."""
    nbformat.validate(book)
    partial = path.with_suffix(".partial")
    partial.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
    partial.replace(path)


def execute(chapters: Iterable[Path], folder: Path) -> dict[str, float | None]:
    """Execute the chapters whose key has changed since they were last executed into `folder`.

    Args:
        chapters: sources, from `texts`.
        folder: folder of the executed notebooks and their keys.

    Returns:
        Name of each executed chapter to its seconds, or to None if it failed (the error is logged).
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
    """Copy the book's other sources into `folder`, next to the executed notebooks.

    Unchanged files keep their dates, so that Sphinx reads only what changed. Files that the book no
    longer has are deleted from the copy.
    """
    names = {text.stem for text in texts()}
    wanted = {
        file.relative_to(BOOK)
        for file in files_below("book")
        if not re.match(r"\d\d_.*\.(md|ipynb)$", file.name)
        and Path(__file__).parent.name not in file.parts
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
