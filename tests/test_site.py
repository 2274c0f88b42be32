"""Executing chapters, knowing which have to be, and the figures' place in the page."""

import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from marn.site import MIME, PlotlyMime, chapters

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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one chapter, one module and one card."""
    for name, content in {
        "book/01_one.md": CHAPTER,
        "book/intro.md": "# Intro\n",
        "book/results/figures.json": "{}",
        "marn/module.py": "one = 1\n",
        "marn/site/page.css": "",
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
        ("marn/site/page.css", "a {}", False),  # how pages look
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
    assert kept == {"01_one.ipynb", "01_one.key", "intro.md", "results/figures.json"}


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


def figure(**content: object) -> str | None:
    data = SimpleNamespace(mime_type=MIME, content=content)
    found = PlotlyMime.handle_mime(None, data, inline=False)
    return None if found is None else found[0].astext()


def test_figure_keeps_its_data_and_leaves_its_template() -> None:
    layout = {"template": {"layout": {"font": {"color": "red"}}}, "height": 300}
    html = figure(data=[{"y": [1, 2], "name": "</script>"}], layout=layout, frames=[])
    assert html is not None
    assert "min-height:300px" in html
    body = html.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(body) == {
        "data": [{"y": [1, 2], "name": "</script>"}],
        "layout": {"height": 300},
    }


def test_other_outputs_are_left_to_others() -> None:
    other = SimpleNamespace(mime_type="text/plain", content="1")
    assert PlotlyMime.handle_mime(None, other, inline=False) is None
    inline = SimpleNamespace(mime_type=MIME, content={})
    assert PlotlyMime.handle_mime(None, inline, inline=True) is None
