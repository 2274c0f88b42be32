"""The book's tools: which chapters are executed again, what makes the data, figures in pages."""

import importlib
import json
import pkgutil
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from sphinx.ext.napoleon import GoogleDocstring

import chapters
import make_book
import marn
from book_pages import (
    PLOTLY_MIME,
    _prepare_docstring,
    figure_html,
    plot_html,
    read_notebook,
    readable,
)
from chapters import BOOK

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Title

```{code-cell} ipython3
:tags: [parameters]

number: int = 20
```

```{code-cell} ipython3
import os

print(os.path.basename(os.getcwd()), number + 1)
```
"""

WORKS = """
@article{one, author = {Doe, Ann}, title = {One}, journal = {A}, year = {2001}, url = {https://a.org/1}}
@article{two, author = {Doe, Ann and {van Roe}, Bo}, title = {Two}, journal = {A}, year = {2002},
  url = {https://a.org/2}}
@article{three, author = {Poe, Al and Doe, Ann and Roe, Bo}, title = {Three}, journal = {A},
  year = {2003}, url = {https://a.org/3}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one chapter, one module and one card."""
    for name, content in {
        "book/01_one.md": CHAPTER,
        "book/intro.md": "# Intro\n",
        "book/results/figures.json": "{}",
        "book/references.bib": WORKS,
        "marn/module.py": "one = 1\n",
        "book/_ext/static/book.css": "",
        "data_prep/module.py": "",
        "data/teaching/card.json": "{}",
        "requirements.lock": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    monkeypatch.setattr(chapters, "CARD", tmp_path / "data" / "teaching" / "card.json")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content", "changes"),
    [
        ("book/01_one.md", CHAPTER + "\nMore.\n", True),
        ("marn/module.py", "one = 2\n", True),
        ("marn/added.py", "", True),
        ("data_prep/module.py", "two = 2\n", True),
        ("data/teaching/card.json", '{"a": 1}', True),
        ("book/results/figures.json", "[]", True),
        ("requirements.lock", "torch==1\n", True),
        ("book/02_two.md", CHAPTER, False),  # another chapter
        ("book/_ext/static/book.css", "a {}", False),  # how pages look
        ("marn/__pycache__/module.pyc", "x", False),
        ("marn/module.py", "one = 1\n", False),  # the same content at another date
    ],
)
def test_key_changes_with_chapter_library_and_data(
    project: Path, name: str, content: str, changes: bool
) -> None:
    text = project / "book" / "01_one.md"
    before = chapters.key(text)
    path = project / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    assert (chapters.key(text) != before) is changes


def test_execution_is_where_the_book_is_and_only_when_due(project: Path) -> None:
    folder = project / "_build"
    assert list(chapters.execute(chapters.texts(), folder)) == ["01_one"]
    made = folder / "01_one.ipynb"
    executed = nbformat.read(made, as_version=4)
    assert executed.cells[-1].outputs[0].text == "book 21\n"
    assert "execution" not in executed.cells[-1].metadata  # no times: the same on every machine
    assert chapters.execute(chapters.texts(), folder) == {}

    first = made.read_bytes()
    (folder / "01_one.key").unlink()
    assert list(chapters.execute(chapters.texts(), folder)) == ["01_one"]
    assert made.read_bytes() == first


def test_a_chapter_that_fails_leaves_what_was_there(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = project / "_build"
    folder.mkdir()
    (folder / "01_one.ipynb").write_text("former")
    text = project / "book" / "01_one.md"
    text.write_text(CHAPTER.replace("number + 1", "number / 0"))
    assert chapters.execute([text], folder) == {"01_one": None}
    assert "ZeroDivisionError" in caplog.text
    assert (folder / "01_one.ipynb").read_text() == "former"
    assert not (folder / "01_one.key").exists()


def test_mirror_follows_the_book(project: Path) -> None:
    folder = project / "_build"
    folder.mkdir()
    for name in ("01_one.ipynb", "01_one.key", "09_gone.ipynb", "gone.md"):
        (folder / name).write_text(name)
    chapters.mirror(folder)
    intro = folder / "intro.md"
    dated = intro.stat().st_mtime_ns
    chapters.mirror(folder)
    assert intro.stat().st_mtime_ns == dated
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == {
        *("01_one.ipynb", "01_one.key", "intro.md"),
        *("references.bib", "results/figures.json"),
    }


def test_chapters_are_named_or_numbered(project: Path) -> None:
    text = project / "book" / "01_one.md"
    assert chapters.texts(["01"]) == chapters.texts(["01_one"]) == chapters.texts() == [text]
    with pytest.raises(FileNotFoundError, match="no chapter '02'"):
        chapters.texts(["02"])


def test_cell_ids_follow_content_and_are_unique(project: Path) -> None:
    text = project / "book" / "01_one.md"
    before = [cell.id for cell in chapters.notebook(text).cells]
    text.write_text(CHAPTER + CHAPTER[CHAPTER.index("```{code-cell} ipython3\nimport") :])
    after = [cell.id for cell in chapters.notebook(text).cells]
    assert after[: len(before)] == before
    assert len(set(after)) == len(before) + 1


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("data_prep/sources/teaching.py", True),
        ("data_prep/hospital/lexicon.txt", True),
        ("marn/corpus/text.py", True),  # a module of a package
        ("marn/errors.py", True),
        ("marn/models/marn.py", False),
        ("book/01_one.md", False),
    ],
)
def test_data_are_made_again_when_their_makers_change(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, again: bool
) -> None:
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(make_book, "ROOT", project)
    monkeypatch.setattr(make_book, "CARD", chapters.CARD)
    monkeypatch.setattr(make_book, "DATA_STAMP", project / "data" / "teaching.key")
    monkeypatch.setattr(make_book, "_run", lambda *command: commands.append(command))
    for file in ("marn/corpus/text.py", "marn/errors.py"):
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text("")
    assert make_book.data()
    assert not make_book.data()
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed = True\n")
    assert make_book.data() is again
    assert len(commands) == 1 + again


class Elements(HTMLParser):
    """Lists a text's elements and the data within each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.script += data


def test_figure_keeps_its_data_and_leaves_its_template() -> None:
    layout = {
        "template": {"layout": {"font": {"color": "red"}}},
        "height": 300,
        "title": {"text": 'F1 <b>by</b> "code"'},
    }
    figure = {"data": [{"y": [1, 2]}], "layout": layout, "frames": []}
    page = Elements(plot_html(figure, {}))
    host = page.found[0][1]
    assert host["style"] == "min-height:300px"
    assert host["aria-label"] == 'F1  by  "code"'
    assert Elements(plot_html(figure, {"alt": 'a "b"'})).found[0][1]["aria-label"] == 'a "b"'
    kept = {"height": 300, "title": layout["title"]}
    assert json.loads(page.script) == {"data": [{"y": [1, 2]}], "layout": kept}
    assert "template" in layout  # the notebook is left as it is


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "<br>", "\u2028"])
def test_no_text_of_a_figure_ends_or_swallows_the_page(text: str) -> None:
    figure = {"data": [{"name": text}], "layout": {"title": {"text": text}}}
    page = Elements(plot_html(figure, {}) + "<p>after</p>")
    assert [tag for tag, _ in page.found] == ["div", "script", "noscript", "p"]
    assert "<" not in page.script  # "<!--<script>" is worse in browsers than in this parser
    assert json.loads(page.script)["data"][0]["name"] == text


def notebook_with(data: dict[str, object], **metadata: object) -> str:
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell("1", outputs=[output], metadata=metadata)
    return nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))


def test_reader_turns_figures_into_html_and_leaves_other_outputs() -> None:
    figure = {"data": [{"y": [3]}], "layout": {}}
    read = read_notebook(notebook_with({PLOTLY_MIME: figure, "text/plain": "Figure(...)"}))
    assert read.cells[0].outputs[0].data == {"text/html": plot_html(figure, {})}
    read = read_notebook(notebook_with({"text/plain": "1"}))
    assert read.cells[0].outputs[0].data == {"text/plain": "1"}


FIGURES = (
    CHAPTER.replace("# Title\n", "# Title\n\nSee [](#fig-b) and [elsewhere](#title).\n")
    + """
```{code-cell} ipython3
---
figure: {label: fig-a, caption: One & `two`., alt: Bars.}
---
a
```

```{code-cell} ipython3
---
figure: {label: fig-b, caption: Three.}
tags: [hide-input]
---
b
```
"""
)


def test_figures_are_numbered_within_their_chapter(project: Path) -> None:
    text = project / "book" / "01_one.md"
    text.write_text(FIGURES)
    cells = chapters.notebook(text).cells
    (second,) = (cell.id for cell in cells if cell.source == "b")  # where JupyterLab scrolls to
    link = f"[Figure 1.2](01_one.ipynb#cell-id={second})"
    assert f"See {link} and [elsewhere](#title)." in cells[0].source
    captions = [cell.source for cell in cells if "caption" in cell.metadata.get("tags", [])]
    assert captions == ["**Figure 1.1.** One & `two`.", "**Figure 1.2.** Three."]
    text.write_text(FIGURES.replace("#fig-b", "#fig-c"))
    with pytest.raises(KeyError, match="fig-c"):
        chapters.notebook(text)


def test_code_that_pages_fold_is_folded_in_jupyterlab(project: Path) -> None:
    text = project / "book" / "01_one.md"
    text.write_text(FIGURES)
    folded = {cell.source: cell.metadata.get("jupyter") for cell in chapters.notebook(text).cells}
    assert (folded["a"], folded["b"]) == (None, {"source_hidden": True})


def test_a_figure_in_a_page_has_its_caption_and_can_be_linked_to(project: Path) -> None:
    text = project / "book" / "01_one.md"
    text.write_text(FIGURES)
    book = chapters.notebook(text)
    drawn = [cell for cell in book.cells if "figure" in cell.metadata]
    for cell in drawn:
        cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": "<svg></svg>"})]
    read = read_notebook(nbformat.writes(book))
    assert '<a href="#fig-b">Figure 1.2</a> and [elsewhere](#title)' in read.cells[0].source
    assert len(read.cells) == len(book.cells) - 2  # captions are in the figures
    assert read.cells[-2].outputs[0].data["text/html"] == (
        '<figure id="fig-a"><svg></svg>'
        "<figcaption><b>Figure 1.1.</b> One &amp; <code>two</code>.</figcaption></figure>"
    )
    assert "<i>" not in figure_html("", "fig", "<i>")


def sources(project: Path, added: str) -> list[str]:
    text = project / "book" / "01_one.md"
    text.write_text(CHAPTER + added)
    return [cell.source for cell in chapters.notebook(text).cells[3:]]


def test_citations_are_links_and_what_is_cited_is_listed(project: Path) -> None:
    cited = "By {cite:t}`three` {cite:p}`two`.\n\n```{bibliography}\n:filter: docname\n```\n"
    (found,) = sources(project, cited)
    text, heading, second, first = re.split("\n+", found)
    assert text == (
        "By [Poe et al. (2003)](https://a.org/3) ([Doe and van Roe, 2002](https://a.org/2))."
    )
    assert heading == "## References"
    assert second.startswith("- Al Poe, Ann Doe, and Bo Roe")
    assert first.startswith("- Ann Doe and Bo van Roe")
    with pytest.raises(KeyError, match="four"):
        sources(project, "{cite:t}`four`")


def test_equations_have_no_number_but_the_paper_s(project: Path) -> None:
    (found,) = sources(project, "Let $a$:\n\n$$\na \\tag{7}\n$$\n\nand\n\n$$\nb\n$$\n")
    assert found.split("\n\n") == [
        "Let $a$:",
        "\\begin{equation*}\na \\tag{7}\n\\end{equation*}",
        "and",
        "\\begin{equation*}\nb\n\\end{equation*}",
    ]


SOLVED = """
Why?

:::{solution-start} why
:class: dropdown
:::

So.

```{code-cell} ipython3
42
```

:::{solution-end}
:::

Next.
"""


def test_solutions_are_folded_in_jupyterlab_and_in_pages(project: Path) -> None:
    text = project / "book" / "01_one.md"
    text.write_text(CHAPTER + SOLVED)
    book = chapters.notebook(text)
    folded = ["Why?", "###### Solution", "So.", "42", "###### End of the solution", "Next."]
    assert [cell.source for cell in book.cells[3:]] == folded
    collapsed = [cell.metadata.get("jp-MarkdownHeadingCollapsed", False) for cell in book.cells[3:]]
    assert collapsed == [False, True, False, False, False, False]
    page = [cell.source for cell in read_notebook(nbformat.writes(book)).cells[3:]]
    assert page[1] == ":::{solution-start} why\n:class: dropdown\n:::"
    assert page[4] == ":::{solution-end}\n:::"


def test_what_a_screen_reader_stumbles_over_is_mended() -> None:
    table = '<tr><th></th><th class="x"><p></p></th><th>F1</th></tr>'
    assert readable(table) == '<tr><td></td><td class="x"></td><th>F1</th></tr>'


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("<th></th><th>F1</th></tr>", "<th>system</th><th></th></tr>"),
        ("<th></th><th></th><th>F1</th></tr>", "<th>a</th><th>b</th><th></th></tr>"),
    ],
)
def test_names_of_an_index_stand_beside_the_titles_of_columns(row: str, names: str) -> None:
    joined = names.replace("<th></th></tr>", "<th>F1</th></tr>")
    assert readable(f"<tr>{row}\n<tr>{names}") == f"<tr>{joined}"
    other = "<tr><td></td><th>F1</th></tr><tr><th>a</th><th>b</th><td></td></tr>"
    assert readable(other) == other


def test_what_belongs_together_stays_on_one_line() -> None:
    assert readable("0.1 ± 0.2, -0.1 to +0.2, 1 to one") == (
        "0.1\u00a0±\u00a00.2, -0.1\u00a0to\u00a0+0.2, 1 to one"
    )
    equation = '<span class="math notranslate">\\(k = 1\\)</span>,'
    assert readable(f"{equation} so") == f'<span class="text-nowrap">{equation}</span> so'


def test_a_colon_in_a_result_makes_no_type() -> None:
    lines = ["Score.", "", "Returns:", "    {task: a number}, or none.", ""]
    _prepare_docstring(None, "function", "score", lines)
    shown = str(GoogleDocstring(lines, what="function"))
    assert ":returns: {task: a number}, or none." in shown
    assert ":rtype:" not in shown


def test_reference_has_every_module_of_the_library() -> None:
    listed = {
        name
        for names in re.findall(r"\.\. modules::((?:\s+[a-z_.]+)+)", (BOOK / "api.md").read_text())
        for name in names.split()
    }
    public = {f"marn.{found.name}" for found in pkgutil.iter_modules(marn.__path__)}
    command_lines = {"marn.__main__", "marn.cli", "marn.command_line"}  # --help says it
    assert public - listed <= command_lines
    for name in listed:
        importlib.import_module(name)
