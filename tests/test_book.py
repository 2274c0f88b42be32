"""The chapters: text and executed twin agree, and both keep the rules that the tools rely on."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

import chapters
from book_pages import PLOTLY_MIME
from chapters import BOOK, ROOT

TEXTS = chapters.texts()
TAGS = {
    "parameters",
    "nbval-ignore-output",
    "nbval-skip",
    "live",
    "skip-execution",
    "caption",  # made by chapters.number_figures
    *(f"{what}-{part}" for what in ("hide", "remove") for part in ("input", "output", "cell")),
}
LIVE = {"live", "skip-execution", "nbval-skip"}
MOST_BYTES = 300_000

each_chapter = pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)


def twin(text: Path) -> Any:
    path = text.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is not there; run: make chapters CHAPTER={text.stem}"
    return nbformat.read(path, as_version=4)


def code_cells(text: Path) -> list[Any]:
    return [cell for cell in twin(text).cells if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def test_there_are_chapters() -> None:
    assert TEXTS


def test_contents_list_every_chapter_once_and_nothing_that_is_not_there() -> None:
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text())
    listed = re.findall(r"'(?:file|root)': '([^']+)'", str(contents))
    assert len(listed) == len(set(listed))
    assert {text.stem for text in TEXTS} <= set(listed)
    assert [page for page in listed if not (BOOK / f"{page}.md").exists()] == []


def test_no_notebook_without_a_text() -> None:
    assert {path.stem for path in BOOK.glob("*.ipynb")} == {text.stem for text in TEXTS}


@each_chapter
def test_twin_agrees_with_text(text: Path) -> None:
    fresh, stored = chapters.notebook(text), twin(text)
    assert chapters.sources(stored) == chapters.sources(fresh), "run: make chapters"
    assert [cell.id for cell in stored.cells] == [cell.id for cell in fresh.cells]
    assert stored.metadata == fresh.metadata


@each_chapter
def test_twin_was_executed_from_top_to_bottom(text: Path) -> None:
    executed = [cell for cell in code_cells(text) if "skip-execution" not in tags(cell)]
    assert [cell.execution_count for cell in executed] == list(range(1, len(executed) + 1))


@each_chapter
def test_parameters_for_papermill(text: Path) -> None:
    cells = [cell for cell in code_cells(text) if "parameters" in tags(cell)]
    assert len(cells) == 1
    assert not any("injected-parameters" in tags(cell) for cell in code_cells(text))
    for line in cells[0].source.splitlines():
        assert re.match(r"\w+: \w+[\w\[\], |]* = |#|$", line), f"not `name: type = value`: {line}"


@each_chapter
def test_tags_are_known(text: Path) -> None:
    for cell in twin(text).cells:
        assert tags(cell) <= TAGS
        assert "live" not in tags(cell) or tags(cell) >= LIVE
        assert not tags(cell) & (LIVE - {"live"}) or "live" in tags(cell)


@each_chapter
def test_paths_count_from_the_book_wherever_papermill_is_called(text: Path) -> None:
    given = [cell for cell in code_cells(text) if "parameters" in tags(cell)]
    if re.search("^(corpus|results):", given[0].source, re.MULTILINE):
        below = code_cells(text)[code_cells(text).index(given[0]) + 1]
        assert 'os.chdir("book")' in below.source
        assert "remove-cell" in tags(below)


@each_chapter
def test_what_nbval_does_not_compare_is_asserted(text: Path) -> None:
    cells = code_cells(text)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "nbval-ignore-output" in tags(cell):
            assert following is not None, cell.source
            assert "assert " in following.source, f"no assertion after:\n{cell.source}"
            assert "nbval-ignore-output" not in tags(following)


def only_checks(body: list[ast.stmt]) -> bool:
    return all(
        isinstance(line, ast.Assert | ast.Assign)
        or (isinstance(line, ast.If | ast.For) and only_checks(line.body))
        for line in body
    )


@each_chapter
def test_what_only_checks_is_not_shown(text: Path) -> None:
    for cell in code_cells(text):
        checks = re.search(r"^\s*assert ", cell.source, re.MULTILINE)
        if checks and only_checks(ast.parse(cell.source).body):
            assert "remove-cell" in tags(cell), f"tag it remove-cell:\n{cell.source}"
        if "remove-cell" in tags(cell):  # and in JupyterLab three dots are there instead of it
            assert cell.metadata["jupyter"]["source_hidden"] is True


@each_chapter
def test_every_figure_has_a_caption_and_says_what_it_shows(text: Path) -> None:
    for cell in code_cells(text):
        drawn = [output for output in cell.outputs if PLOTLY_MIME in output.get("data", {})]
        figure = cell.metadata.get("figure")
        if drawn:
            assert (figure or {}).get("alt"), (
                f"no `figure: {{label, caption, alt}}`:\n{cell.source}"
            )
        if figure:
            assert cell.outputs, f"nothing is drawn by:\n{cell.source}"
            assert figure["label"].startswith("fig-")
            assert figure["caption"].endswith((".", "?"))
            assert f"[](#{figure['label']})" in text.read_text(), "not referred to"


@each_chapter
def test_tables_have_rows_and_say_what_is_missing(text: Path) -> None:
    for cell in code_cells(text):
        for output in cell.outputs:
            table = output.get("data", {}).get("text/html", "")
            assert "<table" not in table or "<td>" in table, f"an empty table:\n{cell.source}"
            odd = re.findall(r"<td>(NaN|nan|&lt;NA&gt;|\d{4,}\.0+)</td>", table)
            assert not odd, f"{odd} in the table of:\n{cell.source}"


@each_chapter
def test_no_cell_ends_in_a_semicolon(text: Path) -> None:
    # nbval executes without history, where IPython does not see the semicolon that silences a value
    assert [cell.source for cell in code_cells(text) if cell.source.rstrip().endswith(";")] == []


@each_chapter
def test_outputs_are_fit_for_print(text: Path) -> None:
    assert text.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    home = str(Path.home())
    for cell in code_cells(text):
        for output in cell.outputs:
            assert output.output_type != "error"  # papermill stops there, whatever the tags
            assert output.get("name") != "stderr", output.text
            assert str(ROOT) not in str(output)
            assert f"{home}/" not in str(output)


@each_chapter
def test_text_begins_with_its_title(text: Path) -> None:
    first = chapters.notebook(text).cells[0]
    assert first.cell_type == "markdown"
    titles = [line for line in first.source.splitlines() if line.startswith("# ")]
    assert len(titles) == 1


@each_chapter
def test_links_to_chapters_have_words(text: Path) -> None:
    assert "[](" not in re.sub(r"\[\]\(#", "", text.read_text())  # JupyterLab shows a file name
